// The gradients of causal attention inside the segments of a packed batch.
//
// Scores are computed again from the saved sums, a block of queries at a time (Dao et al. 2022):
// with weights p = exp(scale * q k - log_sum), dp = dout v and delta = sum(dout * out),
//     ds = scale * p * (dp - delta),  dq = ds k,  dk += ds^T q,  dv += p^T dout.
// One thread takes a segment and a head of keys and values; their gradients are added up in floats over
// the queries of all heads that share them.

#include "../threads.h"
#include "room.h"
#include "table.h"
#include "tiles.h"

namespace danlu::DANLU_ISA {

namespace {

// Queries whose weights are in memory at once: a multiple of ROWS.
constexpr int64_t BLOCK = 96;
static_assert(BLOCK % ROWS == 0);

// What a thread needs for a segment of `length` tokens.
struct Backward {
    int64_t width;                      // keys, filled up to whole tiles and to groups of ROWS
    int64_t wide;                       // dim, filled up to whole tiles
    bf16 *keys, *values;                // in tiles: sums over dim
    bf16* keys_of_keys;                 // in tiles: sums over keys
    bf16 *queries, *grads;              // [BLOCK, dim], zeros behind the last
    bf16 *queries_tiles, *grads_tiles;  // in tiles: sums over queries
    bf16 *weights, *scores;             // p and ds: [BLOCK / 2, width, 2]
    bf16* rows;                         // ds of ROWS queries: [ROWS, width]
    float *dk, *dv;                     // [width, wide]
    float *log_sums, *deltas;           // [BLOCK]

    Backward(Room& room, int64_t length, int64_t dim)
        : width(up_to_multiple(length, TILE) + ROWS),
          wide(up_to_multiple(dim, TILE)),
          keys(room.take<bf16>(width * dim)),
          values(room.take<bf16>(width * dim)),
          keys_of_keys(room.take<bf16>(wide * up_to_multiple(length, 2))),
          queries(room.take<bf16>(BLOCK * dim)),
          grads(room.take<bf16>(BLOCK * dim)),
          queries_tiles(room.take<bf16>(BLOCK * wide)),
          grads_tiles(room.take<bf16>(BLOCK * wide)),
          weights(room.take<bf16>(BLOCK * width)),
          scores(room.take<bf16>(BLOCK * width)),
          rows(room.take<bf16>(ROWS * width)),
          dk(room.take<float>(width * wide)),
          dv(room.take<float>(width * wide)),
          log_sums(room.take<float>(BLOCK)),
          deltas(room.take<float>(BLOCK)) {}
};

// Where one thread is. begin: the segment's first token; first, count: the block's queries in it.
struct Place {
    int64_t begin, length, head, first, count;
};

float dot_of(const bf16* a, const bf16* b, int64_t size) {
    Floats total = splat(0);
    for (int64_t i = 0; i < size; i += LANES)
        total += load_some(a + i, size - i) * load_some(b + i, size - i);
    return sum(total);
}

// Bring a block's queries and the gradients of their outputs together, as rows and as tiles.
void take_queries(const Attention& call, const Backward& room, const Place& at) {
    const int64_t dim = call.dim;
    const int64_t filled = up_to_multiple(at.count, ROWS);
    for (int64_t row = 0; row < at.count; row++) {
        const int64_t token = at.begin + at.first + row, place = (token * call.heads + at.head) * dim;
        const bf16* grad = static_cast<const bf16*>(call.grad) + place;
        std::memcpy(room.queries + row * dim,
                    static_cast<const bf16*>(call.q) + token * call.q_row + at.head * dim,
                    dim * sizeof(bf16));
        std::memcpy(room.grads + row * dim, grad, dim * sizeof(bf16));
        room.log_sums[row] = call.log_sums[token * call.heads + at.head];
        room.deltas[row] = dot_of(grad, static_cast<const bf16*>(call.out) + place, dim);
    }
    for (int64_t row = at.count; row < filled; row++) {
        std::memset(room.queries + row * dim, 0, dim * sizeof(bf16));
        std::memset(room.grads + row * dim, 0, dim * sizeof(bf16));
        room.log_sums[row] = INFINITY;  // so that its weights are zeros
        room.deltas[row] = 0;
    }
    columns_of_columns(room.queries, dim, filled, dim, room.queries_tiles);
    columns_of_columns(room.grads, dim, filled, dim, room.grads_tiles);
}

// Weights and their gradients of ROWS queries, those from `row` of the block on, with a tile of keys.
void weigh_again(const Attention& call, const Backward& room, const Place& at, int64_t row, int64_t key) {
    const int64_t dim = call.dim;
    Sums p = {}, dp = {};
    multiply_tile(room.keys + key * dim, dim / 2, room.queries + row * dim, dim, 2, p);
    multiply_tile(room.values + key * dim, dim / 2, room.grads + row * dim, dim, 2, dp);
    Ints keys;
    for (int lane = 0; lane < LANES; lane++) keys[lane] = int32_t(key) + lane;
    for (int n = 0; n < ROWS; n++) {
        const float log_sum = room.log_sums[row + n], delta = room.deltas[row + n];
        const int32_t last = int32_t(at.first + row) + n;
        for (int v = 0; v < VECTORS; v++) {
            const Floats powers = exp(p[n][v] * call.scale - log_sum);
            p[n][v] = keys + v * LANES <= last ? powers : splat(0);
            dp[n][v] = p[n][v] * (dp[n][v] - delta) * call.scale;
            store(room.rows + n * room.width + key + v * LANES, dp[n][v]);
        }
    }
    for (int n = 0; n < ROWS; n += 2) {
        for (int v = 0; v < VECTORS; v++) {
            const int64_t place = (row + n) * room.width + 2 * (key + v * LANES);
            const Words weights = paired(narrow(p[n][v]), narrow(p[n + 1][v]));
            const Words scores = paired(narrow(dp[n][v]), narrow(dp[n + 1][v]));
            std::memcpy(room.weights + place, &weights, sizeof weights);
            std::memcpy(room.scores + place, &scores, sizeof scores);
        }
    }
}

// dq of ROWS queries.
void query_gradients(const Attention& call, const Backward& room, const Place& at, int64_t row,
                     int64_t seen) {
    const int64_t all_pairs = (at.length + 1) / 2;
    for (int64_t column = 0; column < call.dim; column += TILE) {
        Sums sums = {};
        multiply_tile(room.keys_of_keys + 2 * column * all_pairs, (seen + 1) / 2, room.rows, room.width, 2,
                      sums);
        for (int64_t n = 0; n < ROWS && row + n < at.count; n++) {
            const int64_t token = at.begin + at.first + row + n;
            bf16* to = static_cast<bf16*>(call.dq) + (token * call.heads + at.head) * call.dim + column;
            for (int v = 0; v < VECTORS && column + v * LANES < call.dim; v++)
                store_some(to + v * LANES, call.dim - column - v * LANES, sums[n][v]);
        }
    }
}

// Add what a block of queries gives to the gradients of ROWS keys, or of their values. pairs: of queries.
void add_products(const Backward& room, const bf16* pairs, const bf16* tiles, int64_t key, int64_t from,
                  int64_t count, float* totals) {
    for (int64_t column = 0; column < room.wide; column += TILE) {
        Sums sums;
        float* to = totals + key * room.wide + column;
        for (int n = 0; n < ROWS; n++)
            for (int v = 0; v < VECTORS; v++) sums[n][v] = load(to + n * room.wide + v * LANES);
        multiply_tile(tiles + column * count + from * 2 * TILE, count / 2 - from,
                      pairs + (from * room.width + key) * 2, 2, 2 * room.width, sums);
        for (int n = 0; n < ROWS; n++)
            for (int v = 0; v < VECTORS; v++) store(to + n * room.wide + v * LANES, sums[n][v]);
    }
}

void block_gradients(const Attention& call, const Backward& room, const Place& at) {
    take_queries(call, room, at);
    const int64_t filled = up_to_multiple(at.count, ROWS);
    for (int64_t row = 0; row < filled; row += ROWS) {
        const int64_t behind = at.first + row + ROWS, seen = behind < at.length ? behind : at.length;
        // Whole groups of keys, as `add_products` takes them.
        for (int64_t key = 0; key < behind; key += TILE)
            if (key < up_to_multiple(at.length, TILE)) weigh_again(call, room, at, row, key);
        query_gradients(call, room, at, row, seen);
    }
    for (int64_t key = 0; key < at.first + at.count; key += ROWS) {
        // Queries before a key do not see it.
        const int64_t from = key > at.first ? (key - at.first) / 2 : 0;
        add_products(room, room.weights, room.grads_tiles, key, from, filled, room.dv);
        add_products(room, room.scores, room.queries_tiles, key, from, filled, room.dk);
    }
}

void write_rows(const Backward& room, const float* totals, int64_t length, int64_t dim, int64_t row_step,
                bf16* to) {
    for (int64_t row = 0; row < length; row++)
        for (int64_t i = 0; i < dim; i += LANES)
            store_some(to + row * row_step + i, dim - i, load(totals + row * room.wide + i));
}

// The gradients of a segment; writes_keys: those of its keys and values, too.
void segment_gradients(const Attention& call, int64_t begin, int64_t length, int64_t kv_head,
                       bool writes_keys) {
    const int64_t sharing = call.heads / call.kv_heads, dim = call.dim;
    const Backward room = in_scratch<Backward>(length, dim);
    const bf16* k = static_cast<const bf16*>(call.k) + begin * call.k_row + kv_head * dim;
    const bf16* v = static_cast<const bf16*>(call.v) + begin * call.v_row + kv_head * dim;
    columns_of_rows(k, call.k_row, length, dim, room.keys);
    columns_of_rows(v, call.v_row, length, dim, room.values);
    columns_of_columns(k, call.k_row, length, dim, room.keys_of_keys);
    std::memset(room.dk, 0, room.width * room.wide * sizeof(float));
    std::memset(room.dv, 0, room.width * room.wide * sizeof(float));
    for (int64_t head = kv_head * sharing; head < (kv_head + 1) * sharing; head++)
        for (int64_t first = 0; first < length; first += BLOCK) {
            const int64_t count = length - first < BLOCK ? length - first : BLOCK;
            block_gradients(call, room, {begin, length, head, first, count});
        }
    if (!writes_keys) return;
    const int64_t place = (begin * call.kv_heads + kv_head) * dim, row_step = call.kv_heads * dim;
    write_rows(room, room.dk, length, dim, row_step, static_cast<bf16*>(call.dk) + place);
    write_rows(room, room.dv, length, dim, row_step, static_cast<bf16*>(call.dv) + place);
}

}  // namespace

void attend_backward(const void* arguments, int threads) {
    const Attention& call = *static_cast<const Attention*>(arguments);
    parallel_for(threads, call.segments * call.kv_heads, 1, [&](int64_t from, int64_t to) {
        for (int64_t task = from; task < to; task++) {
            const int64_t segment = task / call.kv_heads, kv_head = task % call.kv_heads;
            const int64_t begin = call.offsets[segment], length = call.offsets[segment + 1] - begin;
            segment_gradients(call, begin, length, kv_head, true);
            // Queries before what is not a number are as if it were not there: see `attend`.
            const bf16* k = static_cast<const bf16*>(call.k) + begin * call.k_row + kv_head * call.dim;
            const bf16* v = static_cast<const bf16*>(call.v) + begin * call.v_row + kv_head * call.dim;
            const int64_t sound =
                finite_rows(v, call.v_row, finite_rows(k, call.k_row, length, call.dim), call.dim);
            if (sound < length) segment_gradients(call, begin, sound, kv_head, false);
        }
    });
}

}  // namespace danlu::DANLU_ISA
