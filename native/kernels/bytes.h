// Products of few bits as bytes, on processors of Arm that multiply these.
//
// A row's whole number of 16 bits is 256 * upper + lower, both of them bytes with a sign (rows.h). So
// a product with a weight is two products of bytes, and a group's sum is the very number that products of 16
// bits have. Weights are multiplied as they lie: it is the row's bytes that are brought into their order.
#pragma once

#include "weights.h"

#if defined(DANLU_MULTIPLIES_BYTES)

namespace danlu::DANLU_ISA {

// Inputs that are multiplied at once: of a row 8 upper bytes, then the 8 lower ones.
constexpr int STEP = 8;

// The bytes of a row's whole numbers, in their own memory and in the order in which words hold weights.
// inputs: up to the next multiple of STEP there is memory.
template <int BITS>
void into_bytes(int16_t* shorts, int64_t inputs) {
    int8_t order[2 * STEP];
    for (int i = 0; i < STEP; i++) {
        // Words of four bits hold a byte's lower half in the first four of a step, its upper in the others.
        const int place = place_of<BITS>(i % (32 / BITS)) / BITS;
        const int byte = BITS == 8 ? place + i / 4 * 4 : place / 2 + place % 2 * 4;
        order[byte] = int8_t(i);
        order[byte + STEP] = int8_t(i + STEP);
    }
    const int8x16_t from = vld1q_s8(order);
    for (int64_t filler = inputs; filler % STEP; filler++) shorts[filler] = 0;
    for (int64_t i = 0; i < inputs; i += STEP) {
        const int16x8_t whole = vld1q_s16(shorts + i);
        const int8x8_t lower = vmovn_s16(whole), upper = vshrn_n_s16(vsubw_s8(whole, lower), 8);
        const int8x16_t bytes = vqtbl1q_s8(vcombine_s8(upper, lower), vreinterpretq_u8_s8(from));
        std::memcpy(shorts + i, &bytes, sizeof bytes);
    }
}

// A step's weights of four outputs, and one row's sums of them.
#if defined(__ARM_FEATURE_MATMUL_INT8)
// Each of two matrices holds all weights of two outputs; multiplied with the matrix of a row's upper and
// lower bytes it gives two sums of upper bytes, then two of lower ones.
struct StepWeights {
    int8x16_t first, second;

    StepWeights(int8x16_t a, int8x16_t b)
        : first(cast<int8x16_t>(vzip1q_s32(cast<int32x4_t>(a), cast<int32x4_t>(b)))),
          second(cast<int8x16_t>(vzip2q_s32(cast<int32x4_t>(a), cast<int32x4_t>(b)))) {}
};

struct StepSums {
    int32x4_t first, second;

    void add(const StepWeights& weights, int8x16_t row) {
        first = vmmlaq_s32(first, row, weights.first);
        second = vmmlaq_s32(second, row, weights.second);
    }

    Ints whole() const {
        const int64x2_t a = cast<int64x2_t>(first), b = cast<int64x2_t>(second);
        return (cast<Ints>(vzip1q_s64(a, b)) << 8) + cast<Ints>(vzip2q_s64(a, b));
    }
};
#else
struct StepWeights {
    int8x16_t first, second;
};

struct StepSums {
    int32x4_t upper, lower;

    void add(const StepWeights& weights, int8x16_t row) {
        upper = vdotq_laneq_s32(upper, weights.first, row, 0);
        lower = vdotq_laneq_s32(lower, weights.first, row, 2);
        upper = vdotq_laneq_s32(upper, weights.second, row, 1);
        lower = vdotq_laneq_s32(lower, weights.second, row, 3);
    }

    Ints whole() const { return (cast<Ints>(upper) << 8) + cast<Ints>(lower); }
};
#endif

// The weights of a step in words of four outputs. left: the inputs that are there.
template <int BITS>
StepWeights step_of(const uint32_t* words, int64_t left) {
    const int8x16_t first = load_as<int8x16_t>(words);
    if constexpr (BITS == 8) return {first, left > 4 ? load_as<int8x16_t>(words + TILE) : vdupq_n_s8(0)};
    const uint8x16_t both = vreinterpretq_u8_s8(first);
    return {vandq_s8(first, vdupq_n_s8(15)), vreinterpretq_s8_u8(vshrq_n_u8(both, 4))};
}

// As FewBitsWeight, in steps.
template <int BITS>
struct BytesWeight {
    // Sums that are in registers together: of so many rows, and vectors of outputs.
    static constexpr int ROWS = 4, WIDTH = 2;
    static constexpr int IN_WORD = 32 / BITS;
    const Linear& call;
    const Prepared& x;

    template <int N>
    void multiply(int64_t tile, int64_t first, Floats (&totals)[N][VECTORS]) const {
        const uint32_t* w = static_cast<const uint32_t*>(call.weight) + tile * call.inputs / IN_WORD * TILE;
        const bf16* scales = static_cast<const bf16*>(call.scales) + tile * x.groups * SCALES<BITS>;
        const int16_t* numbers = x.shorts + first * x.step;
        for (int row = 0; row < N; row++)
            for (int v = 0; v < VECTORS; v++) totals[row][v] = splat(0);
        for (int64_t group = 0; group < x.groups; group++, scales += SCALES<BITS>, numbers += GROUP) {
            const int64_t left = call.inputs - group * GROUP, size = left < GROUP ? left : GROUP;
            for (int64_t word = 0; word < size / IN_WORD; word++) prefetch(w + word * TILE);
            for (int v = 0; v < VECTORS; v += WIDTH) {
                const Sums<N> sums = sums_of<N>(w + v * LANES, numbers, size);
                for (int i = 0; i < WIDTH; i++)
                    add_group<BITS>(x, sums, scales, first * x.groups + group, v + i, totals);
            }
            w += size / IN_WORD * TILE;
        }
    }

private:
    template <int N>
    struct Sums {
        StepSums parts[N][WIDTH];

        Floats of(int row, int v) const { return to_floats(parts[row][v % WIDTH].whole()); }
    };

    // Of one group.
    template <int N>
    Sums<N> sums_of(const uint32_t* words, const int16_t* numbers, int64_t size) const {
        Sums<N> sums = {};
        for (int64_t k = 0; k < size; k += STEP, words += STEP / IN_WORD * TILE) {
            const StepWeights weights[] = {step_of<BITS>(words, size - k),
                                           step_of<BITS>(words + LANES, size - k)};
            static_assert(sizeof weights == WIDTH * sizeof(StepWeights));
#pragma GCC unroll 4
            for (int row = 0; row < N; row++) {
                const int8x16_t of_row = load_as<int8x16_t>(numbers + row * x.step + k);
                for (int i = 0; i < WIDTH; i++) sums.parts[row][i].add(weights[i], of_row);
            }
        }
        return sums;
    }
};

}  // namespace danlu::DANLU_ISA

#endif
