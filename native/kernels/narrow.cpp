// An adapter's narrow products: between the rows of a projection and the few numbers of its rank.
//
// The wide side is read or written once, whatever the rank; sums are floats and rounded once.

#include "../threads.h"
#include "room.h"
#include "table.h"
#include "tiles.h"

namespace danlu::DANLU_ISA {

namespace {

// Sums of a narrow product that are in registers together: of rows, and of each one's ranks.
constexpr int FEW = LANES == 16 ? 3 : 1;
constexpr int RANKS = 8;
// Numbers that are multiplied at once.
constexpr int64_t STEP = 2 * LANES;
// Tiles that one thread takes together.
constexpr int64_t PIECE = 8;

// The matrix turned, [ranks, width], filled up with zeros to whole groups and steps.
struct Transposed {
    int64_t width;
    bf16* numbers;

    Transposed(Room& room, const Narrow& call)
        : width(up_to_multiple(call.size, STEP)),
          numbers(room.take<bf16>(up_to_multiple(call.rank, RANKS) * width)) {}
};

void transpose(const Narrow& call, const Transposed& to) {
    const bf16* matrix = static_cast<const bf16*>(call.matrix);
    const size_t numbers = up_to_multiple(call.rank, RANKS) * to.width;
    if (to.width > call.size || call.rank % RANKS) std::memset(to.numbers, 0, numbers * sizeof(bf16));
    for (int64_t i = 0; i < call.size; i++)
        for (int64_t r = 0; r < call.rank; r++)
            to.numbers[r * to.width + i] = matrix[i * call.matrix_row + r];
}

// RANKS products of FEW rows; of rows that are not there, the last one's again.
void multiply_few(const Narrow& call, const Transposed& matrix, int64_t row, int64_t rank) {
    const bf16* x[FEW];
    for (int n = 0; n < FEW; n++) {
        const int64_t there = row + n < call.rows ? row + n : call.rows - 1;
        x[n] = static_cast<const bf16*>(call.x) + there * call.x_row;
    }
    const bf16* columns = matrix.numbers + rank * matrix.width;
    Floats totals[FEW][RANKS] = {};
    const auto add = [&](const bf16* const(&from)[FEW], int64_t i) {
        Pairs pairs[FEW];
        for (int n = 0; n < FEW; n++) pairs[n] = load_pairs(from[n]);
#pragma GCC unroll 8
        for (int r = 0; r < RANKS; r++) {
            const Pairs column = load_pairs(columns + r * matrix.width + i);
#pragma GCC unroll 3
            for (int n = 0; n < FEW; n++) totals[n][r] = dot(totals[n][r], pairs[n], column);
        }
    };
    int64_t i = 0;
    for (; i + STEP <= call.size; i += STEP) {
        const bf16* from[FEW];
        for (int n = 0; n < FEW; n++) from[n] = x[n] + i;
        add(from, i);
    }
    if (i < call.size) {
        bf16 rest[FEW][STEP] = {};
        const bf16* from[FEW];
        for (int n = 0; n < FEW; n++) {
            std::memcpy(rest[n], x[n] + i, (call.size - i) * sizeof(bf16));
            from[n] = rest[n];
        }
        add(from, i);
    }
    for (int n = 0; n < FEW && row + n < call.rows; n++)
        for (int r = 0; r < RANKS && rank + r < call.rank; r++)
            static_cast<bf16*>(call.t)[(row + n) * call.t_row + rank + r] =
                narrow(sum(totals[n][r]) * call.scale);
}

}  // namespace

void narrow_rows(const void* arguments, int threads) {
    const Narrow& call = *static_cast<const Narrow*>(arguments);
    // The threads read this one's scratch, and none asks for more.
    const Transposed matrix = in_scratch<Transposed>(call);
    transpose(call, matrix);
    parallel_for(threads, call.rows, 4 * FEW, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row += FEW)
            for (int64_t rank = 0; rank < call.rank; rank += RANKS) multiply_few(call, matrix, row, rank);
    });
}

void widen_rows(const void* arguments, int threads) {
    const Narrow& call = *static_cast<const Narrow*>(arguments);
    const int64_t tiles = (call.size + TILE - 1) / TILE, numbers = call.rank * TILE;
    const bf16* matrix = static_cast<const bf16*>(call.matrix);
    parallel_for(threads, tiles, PIECE, [&](int64_t begin, int64_t end) {
        const int64_t first = begin * TILE, last = end * TILE < call.size ? end * TILE : call.size;
        bf16* columns =
            static_cast<bf16*>(scratch(((end - begin) * numbers + ROWS * call.rank) * sizeof(bf16)));
        columns_of_rows(matrix + first * call.matrix_row, call.matrix_row, last - first, call.rank, columns);
        // Rows behind the last are multiplied, too, and not read.
        bf16* t = columns + (end - begin) * numbers;
        std::memset(t, 0, ROWS * call.rank * sizeof(bf16));
        for (int64_t row = 0; row < call.rows; row += ROWS) {
            const int64_t count = call.rows - row < ROWS ? call.rows - row : ROWS;
            for (int64_t n = 0; n < count; n++)
                std::memcpy(t + n * call.rank, static_cast<const bf16*>(call.t) + (row + n) * call.t_row,
                            call.rank * sizeof(bf16));
            for (int64_t tile = begin; tile < end; tile++) {
                Sums sums = {};
                multiply_tile(columns + (tile - begin) * numbers, call.rank / 2, t, call.rank, 2, sums);
                bf16* x = static_cast<bf16*>(call.x) + row * call.x_row + tile * TILE;
                for (int64_t n = 0; n < count; n++, x += call.x_row)
                    for (int64_t i = 0; i < TILE && tile * TILE + i < call.size; i += LANES) {
                        const int64_t left = call.size - tile * TILE - i;
                        store_some(x + i, left, load_some(x + i, left) + sums[n][i / LANES] * call.scale);
                    }
            }
        }
    });
}

void outer_sums(const void* arguments, int threads) {
    const Narrow& call = *static_cast<const Narrow*>(arguments);
    const int64_t tiles = (call.size + TILE - 1) / TILE, pairs = (call.rows + 1) / 2;
    const int64_t ranks = up_to_multiple(call.rank, ROWS);
    parallel_for(threads, tiles, PIECE, [&](int64_t begin, int64_t end) {
        // t by pairs of rows, [pairs, ranks, 2], then a tile of x.
        bf16* t = static_cast<bf16*>(scratch(pairs * 2 * (ranks + TILE) * sizeof(bf16)));
        bf16* columns = t + pairs * 2 * ranks;
        std::memset(t, 0, pairs * 2 * ranks * sizeof(bf16));
        for (int64_t row = 0; row < call.rows; row++)
            for (int64_t r = 0; r < call.rank; r++)
                t[(row / 2 * ranks + r) * 2 + row % 2] =
                    static_cast<const bf16*>(call.t)[row * call.t_row + r];
        for (int64_t tile = begin; tile < end; tile++) {
            const int64_t first = tile * TILE, count = call.size - first < TILE ? call.size - first : TILE;
            columns_of_columns(static_cast<const bf16*>(call.x) + first, call.x_row, call.rows, count,
                               columns);
            for (int64_t rank = 0; rank < call.rank; rank += ROWS) {
                Sums sums = {};
                multiply_tile(columns, pairs, t + 2 * rank, 2, 2 * ranks, sums);
                for (int64_t n = 0; n < ROWS && rank + n < call.rank; n++) {
                    float row[TILE];
                    for (int v = 0; v < VECTORS; v++) store(row + v * LANES, sums[n][v] * call.scale);
                    for (int64_t i = 0; i < count; i++)
                        call.sums[(first + i) * call.rank + rank + n] = row[i];
                }
            }
        }
    });
}

}  // namespace danlu::DANLU_ISA
