// Products of rows with a weight matrix in the kernels' own order, with what stands before and behind.
//
// What precedes is made once for each row; then the threads take tiles of outputs, and each reads its
// weights from the first to the last.

#include "../threads.h"
#include "amx.h"
#include "bytes.h"
#include "gating.h"
#include "norm.h"
#include "room.h"
#include "table.h"

namespace danlu::DANLU_ISA {

namespace {

#if defined(DANLU_HAS_TILES)
constexpr bool HAS_TILES = true;
#else
constexpr bool HAS_TILES = false;
#endif

// Whether a product is made on matrix tiles: for any number of rows, so that a row's sum does not depend
// on it here either.
bool by_tiles(const Linear& call) {
    return HAS_TILES && call.form == BF16 && call.inputs % BLOCK_INPUTS == 0;
}

// The rows of a block: where one is enough, no more than there are.
int64_t height_of(const Linear& call) { return call.rows < BLOCK ? call.rows : BLOCK; }

// Memory for the things of `Prepared`.
struct RowsRoom {
    int64_t groups, step;
    bf16 *numbers, *blocks;
    int16_t* shorts;
    float *scales, *sums, *narrow;

    RowsRoom(Room& room, const Linear* call)
        : groups((call->inputs + GROUP - 1) / GROUP), step((call->inputs + 7) / 8 * 8) {
        const bool is_made = call->norm != nullptr || call->gated;
        const int64_t split_rows = call->form != BF16 ? call->rows : 0;
        numbers = room.take<bf16>(is_made ? call->rows * call->inputs : 0);
        blocks =
            room.take<bf16>(by_tiles(*call) ? (call->rows + BLOCK - 1) / BLOCK * BLOCK * call->inputs : 0);
        shorts = room.take<int16_t>(split_rows * step);
        scales = room.take<float>(split_rows * groups);
        sums = room.take<float>(split_rows * groups);
        narrow = room.take<float>(call->rows * call->rank);
    }
};

#if defined(DANLU_MULTIPLIES_BYTES)
template <int BITS>
using FewBits = BytesWeight<BITS>;
#else
template <int BITS>
using FewBits = FewBitsWeight<BITS>;
#endif

// A row's sums with a tile of outputs.
struct TileSums {
    Floats vectors[VECTORS];
};

int64_t place_of(const Linear& call, int64_t row) {
    int64_t place = 0;
    while (row >= call.ends[place]) place++;
    return place;
}

// t = x a[place], [rank], rounded to bf16: what an adapter's second matrix is multiplied with.
void narrow_product(const Linear& call, const bf16* x, int64_t row, float* t) {
    const bf16* a = static_cast<const bf16*>(call.a) + place_of(call, row) * call.inputs * call.rank;
    for (int64_t r = 0; r < call.rank; r++) t[r] = 0;
    for (int64_t k = 0; k < call.inputs; k++, a += call.rank) {
        const float number = widen(x[k]);
        for (int64_t r = 0; r < call.rank; r++) t[r] += number * widen(a[r]);
    }
    for (int64_t r = 0; r < call.rank; r++) t[r] = round_to_bf16(t[r]);
}

Prepared prepare(const Linear& call, int threads) {
    const RowsRoom room = in_scratch<RowsRoom>(&call);
    const bf16* x = static_cast<const bf16*>(call.x);
    const bool is_made = call.norm != nullptr || call.gated;
    const bf16* numbers = is_made ? room.numbers : x;
    const int64_t height = height_of(call);
    parallel_for(threads, call.rows, 1 + 8192 / call.inputs, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            bf16* made = room.numbers + row * call.inputs;
            const bf16* from = x + row * call.inputs;
            if (call.gated) swiglu_row(from + row * call.inputs, call.inputs, made);
            else if (call.norm != nullptr)
                norm_row(from, static_cast<const bf16*>(call.norm), inverse_rms(from, call.inputs, call.eps),
                         call.inputs, made);
            const bf16* here = numbers + row * call.inputs;
            int16_t* shorts = room.shorts + row * room.step;
            float *scales = room.scales + row * room.groups, *sums = room.sums + row * room.groups;
            if (call.is_float)
                split(static_cast<const float*>(call.x) + row * call.inputs, call.inputs, shorts, scales,
                      sums);
            else if (call.form != BF16) split(here, call.inputs, shorts, scales, sums);
#if defined(DANLU_MULTIPLIES_BYTES)
            if (call.form == INT8) into_bytes<8>(shorts, call.inputs);
            else if (call.form == INT4) into_bytes<4>(shorts, call.inputs);
#endif
            if (by_tiles(call)) copy_to_block(here, call.inputs, row, height, room.blocks);
            if (call.a != nullptr) narrow_product(call, here, row, room.narrow + row * call.rank);
        }
    });
    return {by_tiles(call) ? room.blocks : numbers,
            room.shorts,
            room.scales,
            room.sums,
            room.groups,
            room.step,
            room.narrow};
}

// Finish the sums of a row and a tile, and write what there is of them.
void finish(const Linear& call, const float* t, int64_t row, int64_t tile, const Floats (&totals)[VECTORS]) {
    const bf16 *b = static_cast<const bf16*>(call.b), *residual = static_cast<const bf16*>(call.residual);
    if (b != nullptr) b += place_of(call, row) * call.rank * call.outputs;
    for (int v = 0; v < VECTORS; v++) {
        const int64_t output = tile * TILE + v * LANES, left = call.outputs - output;
        if (left <= 0) return;
        const int64_t at = row * call.outputs + output;
        Floats sums = totals[v];
        if (b != nullptr)
            for (int64_t r = 0; r < call.rank; r++)
                sums += t[row * call.rank + r] * load_some(b + r * call.outputs + output, left);
        if (residual != nullptr) sums += load_some(residual + at, left);
        if (call.is_float) store_some(static_cast<float*>(call.y) + at, left, sums);
        else store_some(static_cast<bf16*>(call.y) + at, left, sums);
    }
}

template <int N, typename Weight>
void multiply_rows(const Weight& weight, int64_t row, int64_t tile) {
    Floats totals[N][VECTORS];
    weight.template multiply<N>(tile, row, totals);
    for (int n = 0; n < N; n++) finish(weight.call, weight.x.narrow, row + n, tile, totals[n]);
}

// As many rows as are left, less than ROWS.
template <int N, typename Weight>
void multiply_rest(const Weight& weight, int64_t row, int64_t tile) {
    if (weight.call.rows - row == N) multiply_rows<N>(weight, row, tile);
    else if constexpr (N > 1) multiply_rest<N - 1>(weight, row, tile);
}

template <typename Weight>
void multiply(const Linear& call, int threads) {
    const Prepared x = prepare(call, threads);
    const Weight weight{call, x};
    parallel_for(threads, (call.outputs + TILE - 1) / TILE, 4, [&](int64_t begin, int64_t end) {
        for (int64_t tile = begin; tile < end; tile++) {
            int64_t row = 0;
            for (; row + Weight::ROWS <= call.rows; row += Weight::ROWS)
                multiply_rows<Weight::ROWS>(weight, row, tile);
            multiply_rest<Weight::ROWS - 1>(weight, row, tile);
        }
    });
}

#if defined(DANLU_HAS_TILES)
// Rows, tiles of outputs and inputs that are multiplied before others are read: so much of a tile stays in
// the nearest cache, and of the rows in the next one.
constexpr int64_t ROWS_AT_ONCE = 256, TILES_AT_ONCE = 4, INPUTS_AT_ONCE = 256;
// Numbers in a line of the caches.
constexpr int64_t LINE = 32;

// x: rows in blocks.
struct BlockProducts {
    const Linear& call;
    const bf16* x;
    const int64_t height = height_of(call);
    alignas(64) float sums[TILES_AT_ONCE][ROWS_AT_ONCE][TILE];

    BlockProducts(const Linear& call, const bf16* x) : call(call), x(x) {}

    // Make the sums of some rows with tiles from `begin` on.
    void multiply(int64_t row, int64_t count, int64_t begin, int64_t end) {
        const int64_t at_once = count > BLOCK ? INPUTS_AT_ONCE : call.inputs;
        for (int64_t k = 0; k < call.inputs; k += at_once)
            for (int64_t tile = begin; tile < end; tile++) {
                const int64_t left = call.inputs - k, inputs = left < at_once ? left : at_once;
                const bf16* weights = static_cast<const bf16*>(call.weight) + (tile * call.inputs + k) * TILE;
                // The next tile's weights are asked for meanwhile, a share of their lines with each product.
                // Of few rows a tile is read as it lies, which processors foresee.
                const bf16* next = weights + call.inputs * TILE;
                const int64_t products = (count + 2 * height - 1) / (2 * height);
                const bool asks = count > BLOCK && tile + 1 < end;
                const int64_t share = asks ? inputs * TILE / LINE / products : 0;
                for (int64_t n = 0; n < count; n += 2 * height) {
                    for (int64_t line = 0; line < share; line++, next += LINE) __builtin_prefetch(next, 0, 2);
                    const bf16* rows = x + place_in_blocks(row + n, k, call.inputs, height);
                    const auto add = n + height < count ? multiply_blocks<2> : multiply_blocks<1>;
                    add(rows, call.inputs * height, weights, inputs, height, k == 0, sums[tile - begin][n]);
                }
            }
    }
};

void multiply_by_tiles(const Linear& call, int threads) {
    const Prepared x = prepare(call, threads);
    parallel_for(threads, (call.outputs + TILE - 1) / TILE, TILES_AT_ONCE, [&](int64_t first, int64_t last) {
        BlockProducts products(call, x.numbers);
        load_config(TileConfig(products.height));
        for (int64_t begin = first; begin < last; begin += TILES_AT_ONCE) {
            const int64_t end = begin + TILES_AT_ONCE < last ? begin + TILES_AT_ONCE : last;
            for (int64_t row = 0; row < call.rows; row += ROWS_AT_ONCE) {
                const int64_t left = call.rows - row, count = left < ROWS_AT_ONCE ? left : ROWS_AT_ONCE;
                products.multiply(row, count, begin, end);
                for (int64_t n = 0; n < count; n++)
                    for (int64_t tile = begin; tile < end; tile++) {
                        const float* sums = products.sums[tile - begin][n];
                        finish(call, x.narrow, row + n, tile, load_as<TileSums>(sums).vectors);
                    }
            }
        }
        release_tiles();
    });
}
#endif

}  // namespace

void linear(const void* arguments, int threads) {
    const Linear& call = *static_cast<const Linear*>(arguments);
    if (call.rows == 0) return;
    if (call.form == INT8) multiply<FewBits<8>>(call, threads);
    else if (call.form == INT4) multiply<FewBits<4>>(call, threads);
#if defined(DANLU_HAS_TILES)
    else if (by_tiles(call)) multiply_by_tiles(call, threads);
#endif
    else multiply<Bf16Weight>(call, threads);
}

}  // namespace danlu::DANLU_ISA
