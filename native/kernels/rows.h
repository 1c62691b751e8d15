// What precedes a product, for one row: RMS norm or swiglu, rounded as torch's operations round.
#pragma once

#include "../kernels.h"
#include "../simd.h"

namespace danlu::DANLU_ISA {

inline void rms_norm(const bf16* x, const bf16* weight, float eps, int64_t size, bf16* y) {
    Floats squares = splat(0);
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        const Floats numbers = load(x + i);
        squares += numbers * numbers;
    }
    float total = sum(squares);
    for (int64_t rest = i; rest < size; rest++) total += widen(x[rest]) * widen(x[rest]);
    const float scale = 1 / std::sqrt(total / float(size) + eps);
    for (i = 0; i + LANES <= size; i += LANES)
        store(y + i, round_to_bf16(load(x + i) * scale) * load(weight + i));
    for (; i < size; i++) y[i] = narrow(round_to_bf16(widen(x[i]) * scale) * widen(weight[i]));
}

inline void swiglu(const bf16* gate_up, int64_t size, bf16* y) {
    const bf16 *gate = gate_up, *up = gate_up + size;
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        const Floats g = load(gate + i);
        store(y + i, round_to_bf16(g / (1 + exp(-g))) * load(up + i));
    }
    for (; i < size; i++) {
        const float g = widen(gate[i]);
        y[i] = narrow(round_to_bf16(g / (1 + std::exp(-g))) * widen(up[i]));
    }
}

// Whole numbers of a row in groups: x = shorts * scale of the group, [inputs], and [groups] scales and
// sums of x. A scale is a power of two and the largest number has 15 bits, so bf16 numbers within 2^7 of
// it are exact. A group with a number that is not finite is not a number; one below 2^-112 is zeros.
template <typename Number>
void split(const Number* x, int64_t inputs, int16_t* shorts, float* scales, float* sums) {
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    for (int64_t begin = 0; begin < inputs; begin += GROUP, scales++, sums++) {
        const int64_t end = begin + GROUP < inputs ? begin + GROUP : inputs;
        int32_t most = 0;
        for (int64_t i = begin; i < end; i++) {
            // As whole numbers they are in the order of their sizes, what is not a number last.
            const int32_t size = cast<int32_t>(widen(x[i])) & 0x7fffffff;
            most = size > most ? size : most;
        }
        const int32_t exponent = most >> 23;
        const bool is_finite = exponent < 255, is_number = is_finite && exponent >= 15;
        const float inverse = is_number ? cast<float>((268 - exponent) << 23) : 0;
        int32_t total = 0;
        for (int64_t i = begin; i < end; i++) {
            const float number = is_finite ? widen(x[i]) : 0;
            int32_t whole = cast<int32_t>(number * inverse + magic) - cast<int32_t>(magic);
            whole = whole > 32767 ? 32767 : whole < -32767 ? -32767 : whole;
            shorts[i] = int16_t(whole);
            total += whole;
        }
        *scales = !is_finite ? NAN : is_number ? cast<float>((exponent - 14) << 23) : 0;
        *sums = *scales * float(total);
    }
}

// Rows as weights are multiplied with them.
struct Prepared {
    const bf16* numbers;         // [rows, inputs]
    const int16_t* shorts;       // the same as `split` makes them, for weights in groups
    const float *scales, *sums;  // [rows, groups]
    int64_t groups;
    const float* narrow;  // [rows, rank]: with the adapter's first matrix, rounded to bf16
};

}  // namespace danlu::DANLU_ISA
