// Weights in int8 and int4: what they hold, floats of them again, and products with them.

#include <algorithm>
#include <vector>

#include "check.h"

using namespace danlu;

namespace {

// A weight in few bits, and what it holds by the definition of its form.
struct Stored {
    Form form;
    int64_t outputs, inputs, words, groups;
    Room<uint32_t> values;
    Room<uint16_t> scales;

    Stored(Form form, int64_t outputs, int64_t inputs)
        : form(form),
          outputs(outputs),
          inputs(inputs),
          words((inputs + in_word() - 1) / in_word()),
          groups((inputs + GROUP - 1) / GROUP),
          values(tiles() * words * TILE),
          scales(tiles() * groups * TILE * (form == INT4 ? 2 : 1)) {}

    int64_t in_word() const { return form == INT4 ? 8 : 4; }
    int64_t tiles() const { return (outputs + TILE - 1) / TILE; }

    // Of a number: its level, from 0 on in int4.
    int level(int64_t output, int64_t input) const {
        const int64_t tile = output / TILE, lane = output % TILE, i = input % in_word();
        const uint32_t word = values[(tile * words + input / in_word()) * TILE + lane];
        const int bits = form == INT4 ? 4 : 8;
        const uint32_t level = word >> (bits * (i / 2) + 16 * (i % 2)) & ((1u << bits) - 1);
        return form == INT4 ? int(level) : int8_t(level);
    }

    double scale(int64_t output, int64_t input, int part = 0) const {
        const int64_t at = (output / TILE * groups + input / GROUP) * TILE + output % TILE;
        return widened(scales[form == INT4 ? 2 * at + part : at]);
    }

    double number(int64_t output, int64_t input) const {
        const double q = level(output, input), s = scale(output, input);
        return form == INT4 ? (q - 8) * s + scale(output, input, 1) : q * s;
    }
};

template <typename Number>
void fill(Check& check, Stored& stored, const Room<Number>& weight) {
    Quantize call{};
    call.weight = weight.data(), call.values = stored.values.data(), call.scales = stored.scales.data();
    call.outputs = stored.outputs, call.inputs = stored.inputs;
    call.form = stored.form, call.is_float = sizeof(Number) == sizeof(float);
    check.call(QUANTIZE, call);
}

// The squared error of a group with levels over the whole of its range.
double plain_error(const float* w, int64_t count) {
    const double low = *std::min_element(w, w + count), high = *std::max_element(w, w + count);
    double error = 0;
    const double step = (high - low) / 15;
    for (int64_t i = 0; step > 0 && i < count; i++) {
        const double off = std::remainder(w[i] - low, step);
        error += off * off;
    }
    return error;
}

void compare_weight(Check& check, Form form, int64_t outputs, int64_t inputs, float scale) {
    Numbers numbers(outputs + inputs);
    Room<float> weight = numbers.floats(outputs * inputs);
    for (int64_t i = 0; i < weight.size(); i++) weight[i] = rounded(weight[i] * scale);
    // One output's weights are all alike.
    for (int64_t i = 0; i < inputs; i++) weight[i] = 1.5f;
    Stored stored(form, outputs, inputs);
    fill(check, stored, weight);
    for (int64_t output = 0; output < outputs; output++)
        for (int64_t begin = 0; begin < inputs; begin += GROUP) {
            const int64_t count = inputs - begin < GROUP ? inputs - begin : GROUP;
            const float* w = weight.data() + output * inputs + begin;
            double most = 0, error = 0;
            std::vector<double> off;
            for (int64_t i = 0; i < count; i++) {
                off.push_back(std::fabs(stored.number(output, begin + i) - w[i]));
                if (std::fabs(w[i]) > most) most = std::fabs(w[i]);
            }
            for (const double one : off) error += one * one;
            // A scale is rounded to 8 bits: the largest may lie beyond the last level.
            const double step = std::fmax(most / 127, stored.scale(output, begin));
            for (int64_t i = 0; form == INT8 && i < count; i++)
                check.is_true(off[i] <= step * 0.51 + most / 256, "int8 %d x %d at %d, %d", int(outputs),
                              int(inputs), int(output), int(begin + i));
            // In bf16 scale and zero are off by 2^-9 of the largest number.
            const double slack = count * most * most * 0x1p-15;
            if (form == INT4)
                check.is_true(error <= 1.1 * plain_error(w, count) + slack, "int4 %d x %d at %d, %d",
                              int(outputs), int(inputs), int(output), int(begin));
        }
}

// Floats of a weight, transposed, against the definition of its form.
template <typename Number>
void compare_floats(Check& check, Form form, int64_t outputs, int64_t inputs) {
    constexpr bool IS_FLOAT = sizeof(Number) == sizeof(float);
    Numbers numbers(outputs + 7 * inputs);
    Stored stored(form, outputs, inputs);
    fill(check, stored, numbers.bf16(outputs * inputs));
    const int64_t width = stored.tiles() * TILE;
    Room<Number> weight(inputs * width);
    Dequantize call{};
    call.values = stored.values.data(), call.scales = stored.scales.data(), call.weight = weight.data();
    call.outputs = width, call.inputs = inputs, call.form = form, call.is_float = IS_FLOAT;
    check.call(DEQUANTIZE, call);
    for (int64_t output = 0; output < outputs; output++)
        for (int64_t input = 0; input < inputs; input++) {
            const Number found = weight[input * width + output];
            double number;
            if constexpr (IS_FLOAT) number = found;
            else number = widened(found);
            const double expected = stored.number(output, input);
            // In int4 what is added to q is up to 8 scales.
            const double parts = std::fabs(expected) + 16 * std::fabs(stored.scale(output, input));
            const double slack = (IS_FLOAT ? 0 : std::fabs(expected) * 0x1p-8) + parts * 0x1p-22;
            check.is_true(std::fabs(number - expected) <= slack, "%s %d x %d at %d, %d",
                          form == INT4 ? "int4" : "int8", int(outputs), int(inputs), int(output), int(input));
        }
}

template <typename Number>
void compare_product(Check& check, Form form, int64_t rows, int64_t outputs, int64_t inputs, Fill fill_of_x) {
    Numbers numbers(rows * 1000 + outputs);
    const Room<uint16_t> weight = numbers.bf16(outputs * inputs);
    Stored stored(form, outputs, inputs);
    fill(check, stored, weight);
    constexpr bool IS_FLOAT = sizeof(Number) == sizeof(float);
    Room<Number> x(rows * inputs), y(rows * outputs);
    std::vector<float> made(rows * inputs);
    for (int64_t i = 0; i < rows * inputs; i++) {
        made[i] = IS_FLOAT ? numbers.next(fill_of_x) : rounded(numbers.next(fill_of_x));
        if constexpr (IS_FLOAT) x[i] = made[i];
        else x[i] = narrowed(made[i]);
    }
    Linear call{};
    call.x = x.data(), call.weight = stored.values.data(), call.scales = stored.scales.data();
    call.y = y.data(), call.form = form, call.is_float = IS_FLOAT;
    call.rows = rows, call.inputs = inputs, call.outputs = outputs;
    check.call(LINEAR, call);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t output = 0; output < outputs; output++) {
            Sum sum;
            for (int64_t k = 0; k < inputs; k++) {
                const double w = stored.number(output, k);
                // A group with what is not finite has no numbers.
                const float number = made[row * inputs + k];
                sum.add(std::isfinite(number) ? number : NAN, w);
                // Rows are rounded to 2^-15 of a group's largest; in int4, w is q minus the zero's share.
                float most = 0;
                for (int64_t i = k / GROUP * GROUP; i < inputs && i < (k / GROUP + 1) * GROUP; i++)
                    most = std::fmax(most, std::fabs(made[row * inputs + i]));
                const double parts = std::fabs(w) + (form == INT4 ? 16 * stored.scale(output, k) : 0);
                sum.slack += most * (parts * 0x1p-15 + 0x1p-112);
                // Levels and zeros are summed apart: either may be more than a float holds.
                if (form == INT4 && std::isfinite(most)) sum.finite += 4 * most;
            }
            check.near(y[row * outputs + output], sum, "%s %dx%dx%d at %d, %d",
                       form == INT4 ? "int4" : "int8", int(rows), int(inputs), int(outputs), int(row),
                       int(output));
        }
}

// Products whose sums a float holds: whole numbers times levels, with scales of 1. Whatever a set of
// instructions multiplies by, it finds the very same.
void compare_whole(Check& check, Form form, int64_t rows, int64_t outputs, int64_t inputs) {
    // Whole numbers of rows reach as far as two bytes with a sign do.
    constexpr float MOST = 127 * 256 + 127;
    constexpr float EXTREME[] = {MOST, -MOST, 32640, -32640, 32767, -32767, 16384,
                                 -128, 128,   127,   255,    -256,  0};
    Numbers numbers(rows * 1000 + inputs);
    Stored stored(form, outputs, inputs);
    for (int64_t i = 0; i < stored.values.size(); i++) {
        const uint32_t upper = numbers.bits() << 16;
        stored.values[i] = upper ^ numbers.bits();
    }
    for (int64_t i = 0; i < stored.scales.size(); i++)
        stored.scales[i] = form == INT8 || i % 2 == 0 ? narrowed(1) : 0;
    Room<float> x(rows * inputs), y(rows * outputs);
    for (int64_t i = 0; i < x.size(); i++)
        // The first of each group is so large that the scale is 1, or 2.
        x[i] = i % inputs % GROUP == 0 ? EXTREME[numbers.below(7)]
               : numbers.below(3) == 0 ? EXTREME[numbers.below(13)]
                                       : float(numbers.below(65535)) - 32767;
    Linear call{};
    call.x = x.data(), call.weight = stored.values.data(), call.scales = stored.scales.data();
    call.y = y.data(), call.form = form, call.is_float = 1;
    call.rows = rows, call.inputs = inputs, call.outputs = outputs;
    check.call(LINEAR, call);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t output = 0; output < outputs; output++) {
            float expected = 0;
            for (int64_t begin = 0; begin < inputs; begin += GROUP) {
                const float* group = x.data() + row * inputs + begin;
                const int64_t count = std::min<int64_t>(GROUP, inputs - begin);
                const auto is_over = [](float number) { return std::fabs(number) > MOST; };
                const float scale = std::any_of(group, group + count, is_over) ? 2 : 1;
                int64_t whole = 0, sum = 0;
                for (int64_t i = 0; i < count; i++) {
                    const int64_t number = std::lrint(group[i] / scale);
                    whole += number * stored.level(output, begin + i);
                    sum += number;
                }
                if (form == INT4) expected += -8 * float(sum) * scale;
                expected += float(whole) * scale;
            }
            const float got = y[row * outputs + output];
            check.is_true(got == expected, "%s %dx%dx%d at %d, %d: %.9g, not %.9g",
                          form == INT4 ? "int4" : "int8", int(rows), int(inputs), int(outputs), int(row),
                          int(output), double(got), double(expected));
        }
}

}  // namespace

CASE(QUANTIZE, weights) {
    for (const int64_t outputs : {1, 31, 33, 70})
        for (const float scale : {1.0f, 1e-6f, 1e6f}) {
            for (const int64_t inputs : {32, 96}) compare_weight(check, INT4, outputs, inputs, scale);
            for (const int64_t inputs : {2, 30, 36, 96}) compare_weight(check, INT8, outputs, inputs, scale);
        }
}

CASE(DEQUANTIZE, floats) {
    for (const int64_t outputs : {1, 33, 70}) {
        for (const int64_t inputs : {32, 96}) {
            compare_floats<uint16_t>(check, INT4, outputs, inputs);
            compare_floats<float>(check, INT4, outputs, inputs);
        }
        for (const int64_t inputs : {2, 30, 36, 96}) {
            compare_floats<uint16_t>(check, INT8, outputs, inputs);
            compare_floats<float>(check, INT8, outputs, inputs);
        }
    }
}

CASE(LINEAR, few_bits) {
    for (const Fill fill_of_x : {Fill::USUAL, Fill::TINY, Fill::WILD})
        for (const int64_t rows : {1, 2, 3, 5, 12, 13, 26})
            for (const int64_t outputs : {1, 33, 64}) {
                compare_product<uint16_t>(check, INT8, rows, outputs, 36, fill_of_x);
                compare_product<uint16_t>(check, INT8, rows, outputs, 96, fill_of_x);
                compare_product<uint16_t>(check, INT4, rows, outputs, 96, fill_of_x);
                compare_product<float>(check, INT8, rows, outputs, 96, fill_of_x);
                compare_product<float>(check, INT4, rows, outputs, 32, fill_of_x);
            }
}

CASE(LINEAR, whole_numbers) {
    for (const int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 11, 17})
        for (const int64_t outputs : {1, 33, 64}) {
            for (const int64_t inputs : {4, 8, 28, 32, 36, 60, 96})
                compare_whole(check, INT8, rows, outputs, inputs);
            for (const int64_t inputs : {32, 96}) compare_whole(check, INT4, rows, outputs, inputs);
        }
}
