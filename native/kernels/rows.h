// Rows as the weights of a product are multiplied with them.
#pragma once

#include "../kernels.h"
#include "../simd.h"

namespace danlu::DANLU_ISA {

// Whole numbers of a row in groups: x = shorts * scale of the group, [inputs], and [groups] scales and
// sums of x. A scale is a power of two. The largest number lies from 16,320 to 32,639, so bf16 numbers within
// 2^6 of it are exact, and each is 256 * upper + lower, two bytes with a sign (bytes.h): 32,639 is 127 * 257.
// A group with a number that is not finite is not a number; one below 2^-112 is zeros.
template <typename Number>
void split(const Number* x, int64_t inputs, int16_t* shorts, float* scales, float* sums) {
    const float magic = 12582912.0f;                           // 1.5 * 2^23: adding it rounds to an integer
    constexpr int32_t INFINITE = 255 << 23, ABOVE = 257 << 8;  // 32,639.5 has this less than 32,768
    for (int64_t begin = 0; begin < inputs; begin += GROUP, scales++, sums++) {
        const int64_t end = begin + GROUP < inputs ? begin + GROUP : inputs;
        int32_t most = 0;
        for (int64_t i = begin; i < end; i++) {
            // As whole numbers they are in the order of their sizes, what is not a number last.
            const int32_t size = cast<int32_t>(widen(x[i])) & 0x7fffffff;
            most = size > most ? size : most;
        }
        const bool is_finite = most < INFINITE;
        const int32_t exponent = is_finite ? (most + ABOVE) >> 23 : 0;
        const bool is_number = exponent >= 15;
        const float inverse = is_number ? cast<float>((268 - exponent) << 23) : 0;
        int32_t total = 0;
        for (int64_t i = begin; i < end; i++) {
            const float number = is_finite ? widen(x[i]) : 0;
            const int32_t whole = cast<int32_t>(number * inverse + magic) - cast<int32_t>(magic);
            shorts[i] = int16_t(whole);
            total += whole;
        }
        *scales = !is_finite ? NAN : is_number ? cast<float>((exponent - 14) << 23) : 0;
        *sums = *scales * float(total);
    }
}

// Rows and inputs that matrix tiles read at once (amx.h).
constexpr int64_t BLOCK = 16, BLOCK_INPUTS = 32;

// Where a row has its numbers from input k on if rows lie as matrix tiles are read, in blocks of `height`
// rows: [blocks][inputs / BLOCK_INPUTS][height][BLOCK_INPUTS].
inline int64_t place_in_blocks(int64_t row, int64_t k, int64_t inputs, int64_t height) {
    return (row / height * inputs + k) * height + row % height * BLOCK_INPUTS;
}

inline void copy_to_block(const bf16* numbers, int64_t inputs, int64_t row, int64_t height, bf16* blocks) {
    bf16* to = blocks + place_in_blocks(row, 0, inputs, height);
    for (int64_t k = 0; k < inputs; k += BLOCK_INPUTS, to += height * BLOCK_INPUTS)
        std::memcpy(to, numbers + k, BLOCK_INPUTS * sizeof(bf16));
}

// Rows as weights are multiplied with them.
struct Prepared {
    const bf16* numbers;         // [rows, inputs], for matrix tiles in blocks
    const int16_t* shorts;       // the same as `split` makes them, for weights in groups; [rows, step]
    const float *scales, *sums;  // [rows, groups]
    int64_t groups, step;
    const float* narrow;  // [rows, rank]: with the adapter's first matrix, rounded to bf16
};

}  // namespace danlu::DANLU_ISA
