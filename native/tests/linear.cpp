// Products with what stands before and behind them: norm, swiglu, adapters of several places, residual.

#include <vector>

#include "check.h"

using namespace danlu;

namespace {

struct Shape {
    int64_t rows, inputs, outputs;
};

// Each row's numbers before the product, as torch's operations round them.
std::vector<float> before(const Linear& call, const Room<uint16_t>& x, const Room<uint16_t>& norm) {
    std::vector<float> made(call.rows * call.inputs);
    for (int64_t row = 0; row < call.rows; row++) {
        float* to = made.data() + row * call.inputs;
        double squares = 0;
        for (int64_t k = 0; k < call.inputs; k++) {
            if (call.gated) {
                const float gate = widened(x[2 * row * call.inputs + k]);
                const float up = widened(x[(2 * row + 1) * call.inputs + k]);
                to[k] = rounded(rounded(gate / (1 + std::exp(-gate))) * up);
            } else {
                to[k] = widened(x[row * call.inputs + k]);
                squares += double(to[k]) * to[k];
            }
        }
        if (call.norm == nullptr) continue;
        const float scale = 1 / std::sqrt(float(squares) / float(call.inputs) + call.eps);
        for (int64_t k = 0; k < call.inputs; k++) to[k] = rounded(rounded(to[k] * scale) * widened(norm[k]));
    }
    return made;
}

void compare(Check& check, Shape shape, Fill fill, bool has_norm, bool gated, bool adapted) {
    const auto [rows, inputs, outputs] = shape;
    const int64_t rank = adapted ? 5 : 0, places = 2;
    const int64_t ends[places] = {rows / 2, rows};
    Numbers numbers(rows * 1000 + outputs);
    const Room<uint16_t> x = numbers.bf16(rows * inputs * (gated ? 2 : 1), fill);
    const Room<uint16_t> weight = numbers.bf16(outputs * inputs);
    const Room<uint16_t> norm = numbers.bf16(inputs), residual = numbers.bf16(rows * outputs, fill);
    const Room<uint16_t> a = numbers.bf16(places * inputs * rank);
    const Room<uint16_t> b = numbers.bf16(places * rank * outputs);
    Room<uint16_t> packed((outputs + TILE - 1) / TILE * TILE * inputs), y(rows * outputs);
    check.call(PACK, Pack{weight.data(), packed.data(), outputs, inputs});

    Linear call{};
    call.x = x.data(), call.weight = packed.data(), call.y = y.data();
    call.norm = has_norm ? norm.data() : nullptr;
    call.residual = adapted ? residual.data() : nullptr;
    call.a = adapted ? a.data() : nullptr;
    call.b = b.data();
    call.ends = ends;
    call.rows = rows, call.inputs = inputs, call.outputs = outputs, call.rank = rank;
    call.eps = 1e-6f, call.gated = gated;
    check.call(LINEAR, call);

    const std::vector<float> made = before(call, x, norm);
    // What was rounded on the way may be a neighbour.
    const double share = has_norm || gated ? 0x1p-7 : 0;
    for (int64_t row = 0; row < rows; row++) {
        const float* mine = made.data() + row * inputs;
        const int64_t place = row >= ends[0];
        for (int64_t output = 0; output < outputs; output++) {
            Sum sum;
            for (int64_t k = 0; k < inputs; k++)
                sum.add(mine[k], widened(weight[output * inputs + k]), share);
            for (int64_t r = 0; r < rank; r++) {
                Sum t;
                for (int64_t k = 0; k < inputs; k++)
                    t.add(mine[k], widened(a[(place * inputs + k) * rank + r]), share);
                const double factor = widened(b[(place * rank + r) * outputs + output]);
                sum.add(rounded(float(t.value)), factor, 0x1p-7);
                sum.slack += t.slack * std::fabs(factor);
            }
            if (adapted) sum.add(widened(residual[row * outputs + output]));
            check.near(y[row * outputs + output], sum, "%dx%dx%d%s%s%s at %d, %d", int(rows), int(inputs),
                       int(outputs), has_norm ? " norm" : "", gated ? " gated" : "",
                       adapted ? " adapter" : "", int(row), int(output));
        }
    }
}

const Shape SHAPES[] = {{1, 2, 1},      {2, 6, 31},   {3, 34, 32},  {5, 64, 33},
                        {13, 130, 200}, {25, 66, 64}, {17, 96, 70}, {40, 32, 32}};

}  // namespace

CASE(LINEAR, shapes) {
    for (const Shape& shape : SHAPES)
        for (const bool adapted : {false, true}) {
            compare(check, shape, Fill::USUAL, false, false, adapted);
            compare(check, shape, Fill::USUAL, true, false, adapted);
            compare(check, shape, Fill::USUAL, false, true, adapted);
        }
}

// None, and more rows, inputs and outputs than matrix tiles multiply at once.
CASE(LINEAR, many_rows) {
    for (const Shape& shape : {Shape{0, 64, 40}, Shape{300, 32, 33}, Shape{19, 800, 150}})
        for (const bool adapted : {false, true}) compare(check, shape, Fill::USUAL, true, false, adapted);
}

CASE(LINEAR, extremes) {
    for (const Fill fill : {Fill::TINY, Fill::LARGE, Fill::WILD})
        for (const Shape& shape : SHAPES) compare(check, shape, fill, false, false, false);
    for (const Shape& shape : SHAPES) {
        compare(check, shape, Fill::WILD, true, false, false);
        compare(check, shape, Fill::WILD, false, true, false);
    }
}
