// Products of rows with a weight matrix that lies in the kernels' own order, with what stands before
// and behind them.
//
// The order: tiles of TILE outputs, in each the inputs two by two, [tiles][inputs / 2][TILE][2]; the
// last tile is filled with zeros. So a vector of LANES outputs takes two inputs of a row at once, a
// row's sum is that of its own numbers in their order however many rows there are, and a thread reads
// its weights from the first to the last. For few rows a product waits for them; a tile is multiplied
// with all rows while it is in the nearest cache.

#include "../simd.h"
#include "../threads.h"
#include "rows.h"
#include "table.h"

namespace danlu::DANLU_ISA {

namespace {

constexpr int VECTORS = TILE / LANES;
// Rows whose sums are in registers together.
constexpr int ROWS = LANES == 16 ? 12 : 3;

struct Weight {
    const bf16* numbers;
    int64_t inputs;

    // Products of N rows of x with a tile: [N][TILE].
    template <int N>
    void multiply(int64_t tile, const bf16* x, Floats (&totals)[N][VECTORS]) const {
        const bf16* w = numbers + tile * inputs * TILE;
        for (int row = 0; row < N; row++)
            for (int v = 0; v < VECTORS; v++) totals[row][v] = splat(0);
        for (int64_t k = 0; k < inputs; k += 2, w += 2 * TILE) {
            Pairs weights[VECTORS];
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; v++) weights[v] = load_pairs(w + 2 * LANES * v);
#pragma GCC unroll 12
            for (int row = 0; row < N; row++) {
                const Pairs of_row = splat_pair(x + row * inputs + k);
#pragma GCC unroll 8
                for (int v = 0; v < VECTORS; v++) totals[row][v] = dot(totals[row][v], weights[v], of_row);
            }
        }
    }
};

// What an adapter adds: t = x a[place] in floats, rounded to bf16, [rows, rank].
void narrow_products(const Linear& call, const bf16* x, float* t) {
    const bf16* a = static_cast<const bf16*>(call.a);
    int64_t place = 0;
    for (int64_t row = 0; row < call.rows; row++) {
        while (row >= call.ends[place]) place++;
        float* to = t + row * call.rank;
        for (int64_t r = 0; r < call.rank; r++) to[r] = 0;
        for (int64_t k = 0; k < call.inputs; k++) {
            const float number = widen(x[row * call.inputs + k]);
            const bf16* from = a + (place * call.inputs + k) * call.rank;
            for (int64_t r = 0; r < call.rank; r++) to[r] += number * widen(from[r]);
        }
        for (int64_t r = 0; r < call.rank; r++) to[r] = round_to_bf16(to[r]);
    }
}

// Finish the sums of a row and a tile, and write what there is of them.
void finish(const Linear& call, const float* t, int64_t row, int64_t tile, const Floats (&totals)[VECTORS]) {
    const int64_t output = tile * TILE, at = row * call.outputs + output;
    const int64_t count = call.outputs - output < TILE ? call.outputs - output : TILE;
    float sums[TILE];
    for (int v = 0; v < VECTORS; v++) store(sums + LANES * v, totals[v]);
    if (call.b != nullptr) {
        int64_t place = 0;
        while (row >= call.ends[place]) place++;
        const bf16* b = static_cast<const bf16*>(call.b) + place * call.rank * call.outputs + output;
        for (int64_t r = 0; r < call.rank; r++)
            for (int64_t o = 0; o < count; o++)
                sums[o] += t[row * call.rank + r] * widen(b[r * call.outputs + o]);
    }
    const bf16* residual = static_cast<const bf16*>(call.residual);
    if (residual != nullptr)
        for (int64_t o = 0; o < count; o++) sums[o] += widen(residual[at + o]);
    bf16* y = static_cast<bf16*>(call.y) + at;
    for (int64_t o = 0; o < count; o++) y[o] = narrow(sums[o]);
}

template <int N>
void multiply_rows(const Linear& call, const Weight& weight, const bf16* x, const float* t, int64_t row,
                   int64_t tile) {
    Floats totals[N][VECTORS];
    weight.multiply<N>(tile, x + row * call.inputs, totals);
    for (int n = 0; n < N; n++) finish(call, t, row + n, tile, totals[n]);
}

// As many rows as are left, less than ROWS.
template <int N = ROWS - 1>
void multiply_rest(const Linear& call, const Weight& weight, const bf16* x, const float* t, int64_t row,
                   int64_t tile) {
    if (call.rows - row == N) multiply_rows<N>(call, weight, x, t, row, tile);
    else if constexpr (N > 1) multiply_rest<N - 1>(call, weight, x, t, row, tile);
}

}  // namespace

void linear(const void* arguments, int threads) {
    const Linear& call = *static_cast<const Linear*>(arguments);
    const Weight weight{static_cast<const bf16*>(call.weight), call.inputs};
    const int64_t tiles = (call.outputs + TILE - 1) / TILE;
    parallel_for(threads, tiles, 4, [&](int64_t begin, int64_t end) {
        const size_t made = (call.rows * call.inputs * sizeof(bf16) + 63) / 64 * 64;
        char* room = static_cast<char*>(scratch(made + call.rows * call.rank * sizeof(float)));
        float* t = reinterpret_cast<float*>(room + made);
        const bf16* x = before(call, reinterpret_cast<bf16*>(room));
        if (call.a != nullptr) narrow_products(call, x, t);
        for (int64_t tile = begin; tile < end; tile++) {
            int64_t row = 0;
            for (; row + ROWS <= call.rows; row += ROWS) multiply_rows<ROWS>(call, weight, x, t, row, tile);
            multiply_rest(call, weight, x, t, row, tile);
        }
    });
}

}  // namespace danlu::DANLU_ISA
