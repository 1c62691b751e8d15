// Products of a few rows with tiles of TILE columns, and the orders that they are read in.
//
// A tile is [pairs][TILE][2]: what is summed over stands two by two, a column's pair in a lane. The rows
// are read pair by pair, each pair for all lanes: so it does not matter how far rows and pairs are apart.
#pragma once

#include "../kernels.h"
#include "tails.h"

namespace danlu::DANLU_ISA {

constexpr int VECTORS = TILE / LANES;
// Rows whose sums are in registers together: an even number.
constexpr int ROWS = LANES == 16 ? 12 : 2;

using Sums = Floats[ROWS][VECTORS];

inline int64_t up_to_multiple(int64_t number, int64_t of) { return (number + of - 1) / of * of; }

// Add the products to the sums. rows: the first row's first pair; row_step, pair_step: bf16 numbers between
// rows, and between the pairs of one.
inline void multiply_tile(const bf16* tile, int64_t pairs, const bf16* rows, int64_t row_step,
                          int64_t pair_step, Sums& sums) {
    Floats totals[ROWS][VECTORS];
#pragma GCC unroll 12
    for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++) totals[row][v] = sums[row][v];
    for (int64_t pair = 0; pair < pairs; pair++, tile += 2 * TILE, rows += pair_step) {
        Pairs columns[VECTORS];
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++) columns[v] = load_pairs(tile + 2 * LANES * v);
#pragma GCC unroll 12
        for (int row = 0; row < ROWS; row++) {
            const Pairs of_row = splat_pair(rows + row * row_step);
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; v++) totals[row][v] = dot(totals[row][v], columns[v], of_row);
        }
    }
#pragma GCC unroll 12
    for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++) sums[row][v] = totals[row][v];
}

typedef uint32_t Quad __attribute__((vector_size(16)));

// Four pairs of four rows, turned: [4][TILE] of the tile from `to` on.
inline void turn_quads(const bf16* from, int64_t row_step, bf16* to) {
    const Quad a = load_as<Quad>(from), b = load_as<Quad>(from + row_step);
    const Quad c = load_as<Quad>(from + 2 * row_step), d = load_as<Quad>(from + 3 * row_step);
    const Quad ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const Quad ba = __builtin_shufflevector(a, b, 2, 6, 3, 7), dc = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    const Quad turned[4] = {
        __builtin_shufflevector(ab, cd, 0, 1, 4, 5),
        __builtin_shufflevector(ab, cd, 2, 3, 6, 7),
        __builtin_shufflevector(ba, dc, 0, 1, 4, 5),
        __builtin_shufflevector(ba, dc, 2, 3, 6, 7),
    };
    for (int pair = 0; pair < 4; pair++) std::memcpy(to + 2 * pair * TILE, &turned[pair], sizeof(Quad));
}

// Tiles whose columns are the rows of a matrix [count, size], and what is summed over is a row's numbers:
// [ceil(count / TILE)][size / 2][TILE][2], filled up with zeros.
inline void columns_of_rows(const bf16* from, int64_t row_step, int64_t count, int64_t size, bf16* to) {
    const int64_t pairs = size / 2;
    for (int64_t first = 0; first < count; first += TILE, to += 2 * pairs * TILE) {
        for (int64_t lane = 0; lane < TILE; lane += 4) {
            const bf16* rows = from + (first + lane) * row_step;
            int64_t pair = 0;
            if (first + lane + 4 <= count)
                for (; pair + 4 <= pairs; pair += 4)
                    turn_quads(rows + 2 * pair, row_step, to + 2 * (pair * TILE + lane));
            for (; pair < pairs; pair++)
                for (int64_t row = 0; row < 4; row++) {
                    const bool is_there = first + lane + row < count;
                    const uint32_t both = is_there ? load_as<uint32_t>(rows + row * row_step + 2 * pair) : 0;
                    std::memcpy(to + 2 * (pair * TILE + lane + row), &both, sizeof both);
                }
        }
    }
}

// The rows before the first that holds what is not finite.
inline int64_t finite_rows(const bf16* from, int64_t row_step, int64_t count, int64_t size) {
    constexpr int64_t STEP = 2 * LANES;
    constexpr int16_t INFINITE = 0x7f80;
    Shorts most = {};
    const auto look = [&](const bf16* numbers) {
        const Shorts sizes = load_as<Shorts>(numbers) & 0x7fff;
        most = sizes > most ? sizes : most;
    };
    for (int64_t row = 0; row < count; row++) {
        const bf16* numbers = from + row * row_step;
        int64_t i = 0;
        for (; i + STEP <= size; i += STEP) look(numbers + i);
        bf16 rest[STEP] = {};
        for (int64_t number = i; number < size; number++) rest[number - i] = numbers[number];
        if (i < size) look(rest);
    }
    if (!has_any(cast<Ints>(most >= INFINITE))) return count;
    int64_t row = 0;
    const auto is_finite = [](bf16 number) { return (number.bits & 0x7fff) < INFINITE; };
    for (;; row++)
        for (int64_t i = 0; i < size; i++)
            if (!is_finite(from[row * row_step + i])) return row;
}

// The numbers of two rows as pairs: in each lane the first's, then the second's.
inline Words paired(Halves first, Halves second) {
    return __builtin_convertvector(first, Words) | __builtin_convertvector(second, Words) << 16;
}

// As many numbers as there are, up to LANES; zeros behind them.
inline Halves some_halves(const bf16* from, int64_t count) {
    if (count >= LANES) return load_as<Halves>(from);
    Halves part = {};
    for (int64_t lane = 0; lane < count; lane++) part[lane] = from[lane].bits;
    return part;
}

// Tiles whose columns are those of a matrix [count, size], and what is summed over are its rows:
// [ceil(size / TILE)][ceil(count / 2)][TILE][2], filled up with zeros.
inline void columns_of_columns(const bf16* from, int64_t row_step, int64_t count, int64_t size, bf16* to) {
    for (int64_t first = 0; first < size; first += TILE) {
        for (int64_t row = 0; row < count; row += 2, to += 2 * TILE) {
            const bf16* one = from + row * row_step + first;
            for (int64_t i = 0; i < TILE; i += LANES) {
                const int64_t left = size - first - i;
                const Halves upper = some_halves(one + i, left);
                const Halves lower = some_halves(one + row_step + i, row + 1 < count ? left : 0);
                const Words both = paired(upper, lower);
                std::memcpy(to + 2 * i, &both, sizeof both);
            }
        }
    }
}

}  // namespace danlu::DANLU_ISA
