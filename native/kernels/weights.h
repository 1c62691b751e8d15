// Weights in each form (kernels.h), and products of rows with a tile of them.
//
// In every form a lane is an output, and a row's sum is made of its own numbers in their order however
// many rows there are beside it: an answer does not depend on what else is computed. For few rows a
// product waits for the weights; for many, a tile is multiplied with all of them while it is in the
// nearest cache.
//
// Few bits are multiplied as whole numbers: the products of a group are exact, and rows are whole numbers
// of 16 bits then, with a scale for each group (rows.h).
#pragma once

#include "rows.h"

namespace danlu::DANLU_ISA {

constexpr int VECTORS = TILE / LANES;

// Bytes from where a tile is multiplied to where it is read: what does not wait for weights, as the
// products of several rows, would not ask for them early enough otherwise.
constexpr int AHEAD = 8192;

// Ask for the 128 bytes that a loop reads after others.
inline void prefetch(const void* from) {
    const char* there = static_cast<const char*>(from) + AHEAD;
    __builtin_prefetch(there);
    __builtin_prefetch(there + 64);
}

struct Bf16Weight {
    // Rows whose sums are in registers together.
    static constexpr int ROWS = LANES == 16 ? 12 : 3;
    const Linear& call;
    const Prepared& x;

    // Products of N rows with a tile: [N][TILE].
    template <int N>
    void multiply(int64_t tile, int64_t first, Floats (&totals)[N][VECTORS]) const {
        const bf16* w = static_cast<const bf16*>(call.weight) + tile * call.inputs * TILE;
        const bf16* numbers = x.numbers + first * call.inputs;
        for (int row = 0; row < N; row++)
            for (int v = 0; v < VECTORS; v++) totals[row][v] = splat(0);
        for (int64_t k = 0; k < call.inputs; k += 2, w += 2 * TILE) {
            prefetch(w);
            Pairs weights[VECTORS];
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; v++) weights[v] = load_pairs(w + 2 * LANES * v);
#pragma GCC unroll 12
            for (int row = 0; row < N; row++) {
                const Pairs of_row = splat_pair(numbers + row * call.inputs + k);
#pragma GCC unroll 8
                for (int v = 0; v < VECTORS; v++) totals[row][v] = dot(totals[row][v], weights[v], of_row);
            }
        }
    }
};

// Sums of one group. A sum waits for the one before it: where rows are few, each has several.
template <int N>
struct GroupSums {
    static constexpr int CHAINS = N == 1 ? 4 : N == 2 ? 2 : 1;
    Ints parts[CHAINS][N][VECTORS] = {};

    Floats of(int row, int v) const {
        Ints whole = parts[0][row][v];
#pragma GCC unroll 4
        for (int chain = 1; chain < CHAINS; chain++) whole += parts[chain][row][v];
        return to_floats(whole);
    }

    // Two inputs of all rows, the first row's at `pair`.
    template <int CHAIN>
    void add(const Shorts (&weights)[VECTORS], const int16_t* pair, int64_t step) {
#pragma GCC unroll 12
        for (int row = 0; row < N; row++) {
            const Shorts of_row = splat_pair(pair + row * step);
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; v++)
                parts[CHAIN][row][v] = dot(parts[CHAIN][row][v], weights[v], of_row);
        }
    }
};

// Where input i of a word has its bits (kernels.h).
template <int BITS>
int place_of(int i) {
    return BITS * (i / 2) + 16 * (i % 2);
}

// A pair of the q in each word.
template <int BITS, int PAIR>
Shorts pair_of(Words words) {
    if constexpr (BITS == 4) return cast<Shorts>(words >> 4 * PAIR & 0x000f000fu);
    else if constexpr (PAIR == 0) return cast<Shorts>(words) << 8 >> 8;
    else return cast<Shorts>(words) >> 8;
}

// What a group of inputs and a tile have: scales, in four bits with zeros.
template <int BITS>
constexpr int SCALES = BITS == 8 ? TILE : 2 * TILE;

// Add the sums of one group and of the outputs of vector v. at: the first row's place among the rows' scales.
template <int BITS, int N, typename Sums>
void add_group(const Prepared& x, const Sums& sums, const bf16* scales, int64_t at, int v,
               Floats (&totals)[N][VECTORS]) {
    Floats scale, zero;
    if constexpr (BITS == 8) {
        scale = load(scales + LANES * v);
    } else {
        const Words both = load_as<Words>(scales + 2 * LANES * v);
        scale = cast<Floats>(both << 16);
        zero = cast<Floats>(both & 0xffff0000u) - 8 * scale;
    }
#pragma GCC unroll 12
    for (int row = 0; row < N; row++) {
        if constexpr (BITS == 4) totals[row][v] += zero * x.sums[at + row * x.groups];
        totals[row][v] += sums.of(row, v) * scale * x.scales[at + row * x.groups];
    }
}

// q of eight or four bits, two of each word at a time.
template <int BITS>
struct FewBitsWeight {
    static constexpr int ROWS = Bf16Weight::ROWS;
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
        for (int64_t group = 0; group < x.groups; group++, scales += SCALES<BITS>) {
            GroupSums<N> sums;
            const int64_t left = call.inputs - group * GROUP, size = left < GROUP ? left : GROUP;
            for (const int16_t* end = numbers + size; numbers < end; numbers += IN_WORD, w += TILE) {
                prefetch(w);
                Words words[VECTORS];
#pragma GCC unroll 8
                for (int v = 0; v < VECTORS; v++) words[v] = load_as<Words>(w + LANES * v);
                add<0>(sums, words, numbers);
            }
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; v++)
                add_group<BITS>(x, sums, scales, first * x.groups + group, v, totals);
        }
    }

private:
    // The inputs that words hold, from a pair on.
    template <int PAIR, int N>
    void add(GroupSums<N>& sums, const Words (&words)[VECTORS], const int16_t* numbers) const {
        Shorts weights[VECTORS];
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++) weights[v] = pair_of<BITS, PAIR>(words[v]);
        sums.template add<PAIR % GroupSums<N>::CHAINS>(weights, numbers + 2 * PAIR, x.step);
        if constexpr (2 * PAIR + 2 < IN_WORD) add<PAIR + 1>(sums, words, numbers);
    }
};

}  // namespace danlu::DANLU_ISA
