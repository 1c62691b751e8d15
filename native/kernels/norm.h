// RMS norm of one row, and its gradient.
#pragma once

#include "../kernels.h"
#include "tails.h"

namespace danlu::DANLU_ISA {

// 1 / root mean square.
inline float inverse_rms(const bf16* x, int64_t size, float eps) {
    Floats squares = splat(0);
    for (int64_t i = 0; i < size; i += LANES) {
        const Floats numbers = load_some(x + i, size - i);
        squares += numbers * numbers;
    }
    return 1 / std::sqrt(sum(squares) / float(size) + eps);
}

// The normed numbers are rounded before they meet the weight, as torch's operations round.
inline Floats normed(Floats x, Floats weight, float inverse) {
    return round_to_bf16(round_to_bf16(x * inverse) * weight);
}

inline void norm_row(const bf16* x, const bf16* weight, float inverse, int64_t size, bf16* y) {
    for (int64_t i = 0; i < size; i += LANES) {
        const int64_t count = size - i;
        store_some(y + i, count, normed(load_some(x + i, count), load_some(weight + i, count), inverse));
    }
}

// The gradient of x. weighted: the output's gradient times the weight. With n = x * inverse it is
// inverse * (weighted - n * mean(weighted * n)).
inline void norm_gradient(const bf16* x, const float* weighted, float inverse, int64_t size, bf16* dx) {
    Floats products = splat(0);
    for (int64_t i = 0; i < size; i += LANES)
        products += load_some(x + i, size - i) * load_some(weighted + i, size - i);
    const float mean = sum(products) * inverse / float(size);
    for (int64_t i = 0; i < size; i += LANES) {
        const int64_t count = size - i;
        const Floats n = load_some(x + i, count) * inverse;
        store_some(dx + i, count, (load_some(weighted + i, count) - n * mean) * inverse);
    }
}

}  // namespace danlu::DANLU_ISA
