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

// Memory for the things of `Prepared`.
struct RowsRoom {
    int64_t groups, step;
    bf16* numbers;
    int16_t* shorts;
    float *scales, *sums, *narrow;

    RowsRoom(Room& room, const Linear* call)
        : groups((call->inputs + GROUP - 1) / GROUP), step((call->inputs + 7) / 8 * 8) {
        const bool is_made = call->norm != nullptr || call->gated;
        const int64_t split_rows = call->form != BF16 ? call->rows : 0;
        numbers = room.take<bf16>(is_made ? call->rows * call->inputs : 0);
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
            if (call.a != nullptr) narrow_product(call, here, row, room.narrow + row * call.rank);
        }
    });
    return {numbers, room.shorts, room.scales, room.sums, room.groups, room.step, room.narrow};
}

// Finish the sums of a row and a tile, and write what there is of them.
void finish(const Linear& call, const float* t, int64_t row, int64_t tile, const Floats (&totals)[VECTORS]) {
    const int64_t output = tile * TILE, at = row * call.outputs + output;
    const int64_t count = call.outputs - output < TILE ? call.outputs - output : TILE;
    float sums[TILE];
    for (int v = 0; v < VECTORS; v++) store(sums + LANES * v, totals[v]);
    if (call.b != nullptr) {
        const bf16* b = static_cast<const bf16*>(call.b) + output;
        b += place_of(call, row) * call.rank * call.outputs;
        for (int64_t r = 0; r < call.rank; r++)
            for (int64_t o = 0; o < count; o++)
                sums[o] += t[row * call.rank + r] * widen(b[r * call.outputs + o]);
    }
    const bf16* residual = static_cast<const bf16*>(call.residual);
    if (residual != nullptr)
        for (int64_t o = 0; o < count; o++) sums[o] += widen(residual[at + o]);
    if (call.is_float) {
        std::memcpy(static_cast<float*>(call.y) + at, sums, count * sizeof(float));
        return;
    }
    bf16* y = static_cast<bf16*>(call.y) + at;
    for (int64_t o = 0; o < count; o++) y[o] = narrow(sums[o]);
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
// On tiles, whatever the number of rows: so that a row's sum does not depend on it here either.
void multiply_by_tiles(const Linear& call, int threads) {
    const Prepared x = prepare(call, threads);
    const bf16* weight = static_cast<const bf16*>(call.weight);
    parallel_for(threads, (call.outputs + TILE - 1) / TILE, 4, [&](int64_t begin, int64_t end) {
        alignas(64) float sums[TILE_ROWS][TILE];
        for (int64_t row = 0; row < call.rows; row += TILE_ROWS) {
            const int64_t left = call.rows - row, count = left < TILE_ROWS ? left : TILE_ROWS;
            load_config(TileConfig(count));
            for (int64_t tile = begin; tile < end; tile++) {
                multiply_tile(x.numbers + row * call.inputs, weight + tile * call.inputs * TILE, call.inputs,
                              sums[0]);
                for (int64_t n = 0; n < count; n++)
                    finish(call, x.narrow, row + n, tile, load_as<TileSums>(sums[n]).vectors);
            }
        }
        release_tiles();
    });
}
#endif

}  // namespace

void linear(const void* arguments, int threads) {
    const Linear& call = *static_cast<const Linear*>(arguments);
    if (call.form == INT8) multiply<FewBits<8>>(call, threads);
    else if (call.form == INT4) multiply<FewBits<4>>(call, threads);
#if defined(DANLU_HAS_TILES)
    else if (call.inputs % TILE_INPUTS == 0) multiply_by_tiles(call, threads);
#endif
    else multiply<Bf16Weight>(call, threads);
}

}  // namespace danlu::DANLU_ISA
