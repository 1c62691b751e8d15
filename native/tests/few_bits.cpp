// Weights of eight and four bits: what they become, and products with them.

#include <algorithm>
#include <vector>

#include "check.h"

using namespace danlu;

namespace {

// A weight as a form keeps it.
struct Stored {
    int64_t inputs, groups, in_word, words;
    Form form;
    Room<uint32_t> values;
    Room<uint16_t> scales;

    Stored(Form form, int64_t outputs, int64_t inputs)
        : inputs(inputs),
          groups((inputs + GROUP - 1) / GROUP),
          in_word(form == INT8 ? 4 : 8),
          words((inputs + in_word - 1) / in_word),
          form(form),
          values(tiles_of(outputs) * words * TILE),
          scales(tiles_of(outputs) * groups * TILE * (form == INT8 ? 1 : 2)) {}

    static int64_t tiles_of(int64_t outputs) { return (outputs + TILE - 1) / TILE; }

    // By the forms' description in kernels.h.
    double weight(int64_t output, int64_t input) const {
        const int64_t tile = output / TILE, lane = output % TILE, bits = 32 / in_word;
        const uint32_t word = values[(tile * words + input / in_word) * TILE + lane];
        const int64_t i = input % in_word;
        const uint32_t q = word >> (bits * (i / 2) + 16 * (i % 2)) & ((1u << bits) - 1);
        const int64_t group = (tile * groups + input / GROUP) * TILE + lane;
        if (form == INT8) return double(int8_t(q)) * widened(scales[group]);
        return (double(q) - 8) * widened(scales[2 * group]) + widened(scales[2 * group + 1]);
    }
};

Stored quantized(const Check& check, Form form, const Room<uint16_t>& weight, int64_t outputs,
                 int64_t inputs) {
    Stored made(form, outputs, inputs);
    check.call(QUANTIZE,
               Quantize{weight.data(), made.values.data(), made.scales.data(), outputs, inputs, form, 0});
    return made;
}

// The error of a group is at most that of steps of equal size over its range, rounded to bf16.
void compare_groups(Check& check, Form form, int64_t outputs, int64_t inputs) {
    Room<uint16_t> weight = Numbers(inputs).bf16(outputs * inputs);
    for (int64_t i = 0; i < std::min<int64_t>(inputs, GROUP); i++) weight[i] = 0;  // a group of zeros
    const Stored made = quantized(check, form, weight, outputs, inputs);
    for (int64_t output = 0; output < outputs; output++)
        for (int64_t first = 0; first < inputs; first += GROUP) {
            double low = INFINITY, high = -INFINITY, error = 0;
            const int64_t end = std::min(first + GROUP, inputs);
            for (int64_t i = first; i < end; i++) {
                const double w = widened(weight[output * inputs + i]);
                low = std::fmin(low, w), high = std::fmax(high, w);
                error += (w - made.weight(output, i)) * (w - made.weight(output, i));
            }
            const double most = std::fmax(-low, high);
            const double step = form == INT8 ? most / 127 : (high - low) / 15;
            const double allowed = step / 2 + most * 0x1p-8;
            check.is_true(error <= double(end - first) * allowed * allowed,
                          "int%d, %d inputs, output %d, from %d on: off by %g, allowed %g",
                          form == INT8 ? 8 : 4, int(inputs), int(output), int(first),
                          std::sqrt(error / double(end - first)), allowed);
        }
}

struct Variant {
    Form form;
    int64_t rows, inputs, outputs;
    Fill fill;
    bool is_float, has_residual;
};

void compare_products(Check& check, const Variant& of) {
    Numbers numbers(of.rows + of.outputs);
    const Room<uint16_t> weight = numbers.bf16(of.outputs * of.inputs);
    const Room<float> x = numbers.floats(of.rows * of.inputs, of.fill);
    Room<uint16_t> halves(x.size()), y(of.rows * of.outputs);
    Room<float> wide(y.size());
    for (int64_t i = 0; i < x.size(); i++) halves[i] = narrowed(x[i]);
    const Room<uint16_t> residual = numbers.bf16(y.size());
    const Stored stored = quantized(check, of.form, weight, of.outputs, of.inputs);
    Linear call{};
    call.x = of.is_float ? static_cast<const void*>(x.data()) : halves.data();
    call.y = of.is_float ? static_cast<void*>(wide.data()) : y.data();
    call.weight = stored.values.data(), call.scales = stored.scales.data();
    call.residual = of.has_residual ? residual.data() : nullptr;
    call.rows = of.rows, call.inputs = of.inputs, call.outputs = of.outputs;
    call.form = of.form, call.is_float = of.is_float;
    check.call(LINEAR, call);
    for (int64_t row = 0; row < of.rows; row++)
        for (int64_t output = 0; output < of.outputs; output++) {
            Sum sum;
            for (int64_t first = 0; first < of.inputs; first += GROUP) {
                const int64_t end = std::min(first + GROUP, of.inputs);
                double most = 0;
                for (int64_t i = first; i < end; i++) {
                    const double number =
                        of.is_float ? x[row * of.inputs + i] : widened(halves[row * of.inputs + i]);
                    // A group with what is not finite has no numbers; small ones are zero.
                    sum.add(std::isfinite(number) ? number : NAN, stored.weight(output, i), 0x1p-16);
                    most = std::fmax(most, std::fabs(number));
                }
                // Levels and zeros are summed apart: either may be more than a float holds.
                if (of.form == INT4 && std::isfinite(most)) sum.finite += 4 * most * double(end - first);
                for (int64_t i = first; i < end; i++)
                    sum.slack += (most * 0x1p-14 + 0x1p-112) * std::fabs(stored.weight(output, i));
            }
            const int64_t at = row * of.outputs + output;
            if (of.has_residual) sum.add(widened(residual[at]));
            if (of.is_float)
                check.near(wide[at], sum, "floats, form %d, row %d, output %d", of.form, int(row),
                           int(output));
            else check.near(y[at], sum, "form %d, row %d, output %d", of.form, int(row), int(output));
        }
}

}  // namespace

CASE(QUANTIZE, forms) {
    for (const int64_t outputs : {1, 31, 33, 100}) {
        for (const int64_t inputs : {4, 28, 32, 36, 128}) compare_groups(check, INT8, outputs, inputs);
        for (const int64_t inputs : {32, 64, 160}) compare_groups(check, INT4, outputs, inputs);
    }
}

CASE(LINEAR, few_bits) {
    for (const Fill fill : {Fill::USUAL, Fill::TINY, Fill::LARGE, Fill::WILD})
        for (const int64_t rows : {1, 2, 3, 12, 14, 25})
            for (const bool is_float : {false, true}) {
                compare_products(check, {INT8, rows, 36, 33, fill, is_float, !is_float && rows > 2});
                compare_products(check, {INT8, rows, 128, 64, fill, is_float, false});
                compare_products(check, {INT4, rows, 32, 33, fill, is_float, !is_float && rows > 2});
                compare_products(check, {INT4, rows, 96, 64, fill, is_float, false});
            }
}
