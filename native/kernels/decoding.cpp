// What a step of decoding does besides its products: look up rows, write keys and values into the cache,
// attend to it. The cache of a layer: keys and values [kv_heads, num_slots, size]; a request's tokens lie
// in blocks, whose numbers stand in its row of the table.

#include "../simd.h"
#include "../threads.h"
#include "table.h"

namespace danlu::DANLU_ISA {

namespace {

// Weights of a block's tokens are computed together.
constexpr int STEP = 2 * LANES;

float product(const bf16* a, const bf16* b, int64_t size) {
    Floats total = splat(0);
    int64_t i = 0;
    for (; i + STEP <= size; i += STEP) total = dot(total, load_pairs(a + i), load_pairs(b + i));
    float found = sum(total);
    for (; i < size; i++) found += widen(a[i]) * widen(b[i]);
    return found;
}

// Where the tokens of one request lie.
struct Tokens {
    const int32_t* blocks;
    int64_t count, block_tokens;

    // Calls each(first slot, first token, count) for every block.
    template <typename Each>
    void by_block(const Each& each) const {
        for (int64_t token = 0; token < count; token += block_tokens) {
            const int64_t left = count - token;
            each(blocks[token / block_tokens] * block_tokens, token,
                 left < block_tokens ? left : block_tokens);
        }
    }
};

// weights = softmax(q keys^T / sqrt(size)), not divided by their sum, which is returned.
float weights_of(const bf16* q, const bf16* keys, const Tokens& tokens, int64_t size, float* weights) {
    const float scale = 1 / std::sqrt(float(size));
    tokens.by_block([&](int64_t slot, int64_t token, int64_t count) {
        for (int64_t n = 0; n < count; n++)
            weights[token + n] = product(q, keys + (slot + n) * size, size) * scale;
    });
    const int64_t whole = tokens.count / LANES * LANES;
    float most = -INFINITY;
    Floats most_of_lanes = splat(-INFINITY);
    for (int64_t i = 0; i < whole; i += LANES) most_of_lanes = larger_of(most_of_lanes, load(weights + i));
    if (whole > 0) most = greatest(most_of_lanes);
    for (int64_t i = whole; i < tokens.count; i++) most = weights[i] > most ? weights[i] : most;
    Floats totals = splat(0);
    for (int64_t i = 0; i < whole; i += LANES) {
        const Floats power = exp(load(weights + i) - most);
        store(weights + i, power);
        totals += power;
    }
    float total = sum(totals);
    for (int64_t i = whole; i < tokens.count; i++) total += weights[i] = std::exp(weights[i] - most);
    return total;
}

// V vectors of the weighted sum of values, from `at` on, for Q queries.
template <int Q, int V>
void weighted(const float* const (&weights)[Q], const float (&totals)[Q], const bf16* values,
              const Tokens& tokens, int64_t size, int64_t at, bf16* const (&out)[Q]) {
    Floats sums[Q][V] = {};
    tokens.by_block([&](int64_t slot, int64_t token, int64_t count) {
        for (int64_t n = 0; n < count; n++) {
            const bf16* from = values + (slot + n) * size + at;
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) {
                const Floats numbers = load(from + LANES * v);
#pragma GCC unroll 2
                for (int q = 0; q < Q; q++) sums[q][v] += numbers * weights[q][token + n];
            }
        }
    });
    for (int q = 0; q < Q; q++)
        for (int v = 0; v < V; v++) store(out[q] + at + LANES * v, sums[q][v] / totals[q]);
}

// Q queries that read the same keys and values.
template <int Q>
void attend_together(const CachedAttention& call, const bf16* q, const bf16* keys, const bf16* values,
                     const Tokens& tokens, bf16* out) {
    const int64_t size = call.size, room = (tokens.count + 15) / 16 * 16;
    float* all = static_cast<float*>(scratch(Q * room * sizeof(float)));
    const float* weights[Q];
    float totals[Q];
    bf16* outs[Q];
    for (int n = 0; n < Q; n++) {
        weights[n] = all + n * room;
        outs[n] = out + n * size;
        totals[n] = weights_of(q + n * size, keys, tokens, size, all + n * room);
    }
    int64_t at = 0;
    for (; at + 8 * LANES <= size; at += 8 * LANES)
        weighted<Q, 8>(weights, totals, values, tokens, size, at, outs);
    for (; at + LANES <= size; at += LANES) weighted<Q, 1>(weights, totals, values, tokens, size, at, outs);
}

}  // namespace

void look_up(const void* arguments, int threads) {
    const LookUp& call = *static_cast<const LookUp*>(arguments);
    parallel_for(threads, call.rows, 16, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const int64_t number = call.numbers[row];
            char* to = static_cast<char*>(call.out) + row * call.row_bytes;
            const char* table = static_cast<const char*>(call.table);
            if (!call.is_packed) {
                std::memcpy(to, table + number * call.row_bytes, call.row_bytes);
                continue;
            }
            const char* from = table + number / TILE * call.row_bytes * TILE + number % TILE * 4;
            for (int64_t at = 0; at < call.row_bytes; at += 4) std::memcpy(to + at, from + at * TILE, 4);
        }
    });
}

void append(const void* arguments, int) {
    const Append& call = *static_cast<const Append*>(arguments);
    const int64_t bytes = call.size * sizeof(bf16);
    for (int64_t row = 0; row < call.rows; row++)
        for (int64_t head = 0; head < call.heads; head++) {
            const int64_t to = (head * call.num_slots + call.slots[row]) * bytes, at = head * bytes;
            const char* k = static_cast<const char*>(call.k) + row * call.k_stride * sizeof(bf16);
            const char* v = static_cast<const char*>(call.v) + row * call.v_stride * sizeof(bf16);
            std::memcpy(static_cast<char*>(call.keys) + to, k + at, bytes);
            std::memcpy(static_cast<char*>(call.values) + to, v + at, bytes);
        }
}

void attend_cached(const void* arguments, int threads) {
    const CachedAttention& call = *static_cast<const CachedAttention*>(arguments);
    const int64_t group = call.heads / call.kv_heads;
    parallel_for(threads, call.rows * call.kv_heads, 1, [&](int64_t begin, int64_t end) {
        for (int64_t unit = begin; unit < end; unit++) {
            const int64_t row = unit / call.kv_heads, head = unit % call.kv_heads;
            const Tokens tokens{call.table + row * call.table_stride, call.lengths[row], call.block_tokens};
            const bf16* keys = static_cast<const bf16*>(call.keys) + head * call.num_slots * call.size;
            const bf16* values = static_cast<const bf16*>(call.values) + head * call.num_slots * call.size;
            const bf16* q = static_cast<const bf16*>(call.q) + row * call.q_stride;
            const int64_t first = head * group;
            int64_t n = 0;
            for (; n < group; n += n + 2 <= group ? 2 : 1) {
                const bf16* from = q + (first + n) * call.size;
                bf16* out = static_cast<bf16*>(call.out) + (row * call.heads + first + n) * call.size;
                if (n + 2 <= group) attend_together<2>(call, from, keys, values, tokens, out);
                else attend_together<1>(call, from, keys, values, tokens, out);
            }
        }
    });
}

}  // namespace danlu::DANLU_ISA
