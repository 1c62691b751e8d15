// Causal attention inside the segments of a packed batch.
//
// One thread takes a segment's keys and values of one head, brings them into the order of tiles and
// attends with the queries of all heads that share them, ROWS at a time. A row's scores are all there before
// they become weights, so no running maximum is needed. Weights are rounded to bf16 for the second product.

#include "../threads.h"
#include "room.h"
#include "table.h"
#include "tiles.h"

namespace danlu::DANLU_ISA {

namespace {

// What a thread needs for a segment of `length` tokens.
struct Forward {
    int64_t width;        // a whole number of tiles
    bf16 *keys, *values;  // in tiles
    bf16* queries;        // [ROWS, dim]
    float* scores;        // [ROWS, width]
    bf16* weights;        // [ROWS, width]

    Forward(Room& room, int64_t length, int64_t dim)
        : width(up_to_multiple(length, TILE)),
          keys(room.take<bf16>(width * dim)),
          values(room.take<bf16>(up_to_multiple(dim, TILE) * up_to_multiple(length, 2))),
          queries(room.take<bf16>(ROWS * dim)),
          scores(room.take<float>(ROWS * width)),
          weights(room.take<bf16>(ROWS * width)) {}
};

// Turn the scores of a row that sees `seen` keys into weights, zeros behind them up to `width`; return their
// sum, and set log_sum.
float weigh(const float* scores, int64_t seen, int64_t width, bf16* weights, float& log_sum) {
    Floats found = splat(-INFINITY);
    for (int64_t i = 0; i < seen; i += LANES)
        found = larger_of(load_some(scores + i, seen - i, -INFINITY), found);
    const float top = greatest(found);
    Floats total = splat(0);
    int64_t i = 0;
    for (; i < seen; i += LANES) {
        const Floats powers = exp(load_some(scores + i, seen - i, -INFINITY) - top);
        total += powers;
        store(weights + i, powers);
    }
    for (; i < width; i += LANES) store(weights + i, splat(0));
    log_sum = top + std::log(sum(total));
    return sum(total);
}

// Attend with the queries from `first` on, as many as there are, of one head.
void attend_rows(const Attention& call, const Forward& room, int64_t begin, int64_t length, int64_t first,
                 int64_t head) {
    const int64_t dim = call.dim, count = length - first < ROWS ? length - first : ROWS;
    for (int64_t row = 0; row < ROWS; row++) {
        bf16* to = room.queries + row * dim;
        const bf16* from = static_cast<const bf16*>(call.q) + (begin + first + row) * call.q_row + head * dim;
        if (row < count) std::memcpy(to, from, dim * sizeof(bf16));
        else std::memset(to, 0, dim * sizeof(bf16));
    }
    const int64_t seen = first + count, width = up_to_multiple(seen, TILE);
    for (int64_t key = 0; key < width; key += TILE) {
        Sums sums = {};
        multiply_tile(room.keys + key * dim, dim / 2, room.queries, dim, 2, sums);
        for (int row = 0; row < ROWS; row++)
            for (int v = 0; v < VECTORS; v++)
                store(room.scores + row * room.width + key + v * LANES, sums[row][v] * call.scale);
    }
    float totals[ROWS];
    for (int64_t row = 0; row < count; row++)
        totals[row] =
            weigh(room.scores + row * room.width, first + row + 1, width, room.weights + row * room.width,
                  call.log_sums[(begin + first + row) * call.heads + head]);
    const int64_t pairs = (seen + 1) / 2, all_pairs = (length + 1) / 2;
    for (int64_t column = 0; column < dim; column += TILE) {
        Sums sums = {};
        multiply_tile(room.values + 2 * column * all_pairs, pairs, room.weights, room.width, 2, sums);
        for (int64_t row = 0; row < count; row++) {
            bf16* out =
                static_cast<bf16*>(call.out) + ((begin + first + row) * call.heads + head) * dim + column;
            for (int v = 0; v < VECTORS && column + v * LANES < dim; v++)
                store_some(out + v * LANES, dim - column - v * LANES, sums[row][v] / totals[row]);
        }
    }
}

// Attend with the queries from `from` on of a segment, those of all heads that share a head of keys.
void attend_segment(const Attention& call, int64_t begin, int64_t length, int64_t kv_head, int64_t from) {
    const int64_t sharing = call.heads / call.kv_heads, offset = kv_head * call.dim;
    const Forward room = in_scratch<Forward>(length, call.dim);
    columns_of_rows(static_cast<const bf16*>(call.k) + begin * call.k_row + offset, call.k_row, length,
                    call.dim, room.keys);
    columns_of_columns(static_cast<const bf16*>(call.v) + begin * call.v_row + offset, call.v_row, length,
                       call.dim, room.values);
    for (int64_t head = kv_head * sharing; head < (kv_head + 1) * sharing; head++)
        for (int64_t first = from; first < length; first += ROWS)
            attend_rows(call, room, begin, length, first, head);
}

}  // namespace

void attend(const void* arguments, int threads) {
    const Attention& call = *static_cast<const Attention*>(arguments);
    parallel_for(threads, call.segments * call.kv_heads, 1, [&](int64_t from, int64_t to) {
        for (int64_t task = from; task < to; task++) {
            const int64_t segment = task / call.kv_heads, kv_head = task % call.kv_heads;
            const int64_t begin = call.offsets[segment], length = call.offsets[segment + 1] - begin;
            const bf16* v = static_cast<const bf16*>(call.v) + begin * call.v_row + kv_head * call.dim;
            // A value has the weight 0 for the rows of its block that do not see it, but 0 * NaN is NaN.
            const int64_t sound = finite_rows(v, call.v_row, length, call.dim);
            attend_segment(call, begin, sound, kv_head, 0);
            if (sound < length) attend_segment(call, begin, length, kv_head, sound);
        }
    });
}

}  // namespace danlu::DANLU_ISA
