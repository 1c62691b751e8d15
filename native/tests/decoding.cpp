// What a step of decoding does besides its products: looking up, the cache, attention to it.

#include <vector>

#include "check.h"

using namespace danlu;

CASE(LOOK_UP, rows) {
    Numbers numbers;
    const int32_t wanted[] = {0, 39, 31, 32, 7, 7};
    for (const int64_t width : {2, 34, 64}) {
        const Room<uint16_t> table = numbers.bf16(40 * width, Fill::WILD);
        Room<uint16_t> packed(2 * TILE * width), out(6 * width);
        check.call(PACK, Pack{table.data(), packed.data(), 40, width});
        for (const bool is_packed : {false, true}) {
            const void* from = is_packed ? packed.data() : table.data();
            check.call(LOOK_UP, LookUp{from, wanted, out.data(), 6, 2 * width, is_packed});
            for (int64_t i = 0; i < out.size(); i++)
                check.equal(out[i], table[wanted[i / width] * width + i % width], "%s, width %d, at %d",
                            is_packed ? "packed" : "plain", int(width), int(i));
        }
    }
}

CASE(APPEND, slots) {
    Numbers numbers;
    constexpr int64_t ROWS = 3, HEADS = 2, SLOTS = 9;
    const int32_t slots[ROWS] = {8, 0, 5};
    for (const int64_t size : {6, 64}) {
        const int64_t stride = HEADS * size + 5;
        const Room<uint16_t> k = numbers.bf16(ROWS * stride), v = numbers.bf16(ROWS * stride);
        Room<uint16_t> keys(HEADS * SLOTS * size), values(HEADS * SLOTS * size);
        const int64_t untouched = keys[0];
        check.call(APPEND, Append{k.data(), v.data(), keys.data(), values.data(), slots, ROWS, HEADS, size,
                                  stride, stride, SLOTS});
        for (int64_t at = 0; at < keys.size(); at++) {
            const int64_t head = at / (SLOTS * size), slot = at / size % SLOTS, i = at % size;
            int64_t key = untouched, value = untouched;
            for (int64_t row = 0; row < ROWS; row++)
                if (slots[row] == slot) {
                    key = k[row * stride + head * size + i];
                    value = v[row * stride + head * size + i];
                }
            check.equal(keys[at], key, "key, size %d, at %d", int(size), int(at));
            check.equal(values[at], value, "value, size %d, at %d", int(size), int(at));
        }
    }
}

namespace {

// Rows of several lengths, whose blocks lie in any order.
void attend(Check& check, int64_t size, int64_t heads, int64_t kv_heads, bool has_nan) {
    constexpr int64_t ROWS = 4, BLOCK = 16, BLOCKS = 5;
    const int32_t lengths[ROWS] = {1, 16, 17, 70};
    const int32_t table[ROWS * BLOCKS] = {3, 0, 0, 0, 0, 7, 0, 0, 0, 0, 1, 9, 0, 0, 0, 8, 2, 6, 0, 5};
    const int64_t num_slots = 10 * BLOCK, q_stride = heads * size + 3;
    Numbers numbers(size + heads);
    const Room<uint16_t> q = numbers.bf16(ROWS * q_stride);
    const int64_t cached = kv_heads * num_slots * size;
    const Room<uint16_t> keys = has_nan ? numbers.some_nan(cached, 9001) : numbers.bf16(cached);
    const Room<uint16_t> values = has_nan ? numbers.some_nan(cached, 7001) : numbers.bf16(cached);
    Room<uint16_t> out(ROWS * heads * size);
    check.call(ATTEND_CACHED,
               CachedAttention{q.data(), keys.data(), values.data(), out.data(), table, lengths, ROWS, heads,
                               kv_heads, size, q_stride, num_slots, BLOCK, BLOCKS});
    for (int64_t row = 0; row < ROWS; row++)
        for (int64_t head = 0; head < heads; head++) {
            const int64_t first = head / (heads / kv_heads) * num_slots;
            std::vector<double> weights;
            std::vector<int64_t> places;
            double total = 0;
            for (int64_t token = 0; token < lengths[row]; token++) {
                places.push_back((first + table[row * BLOCKS + token / BLOCK] * BLOCK + token % BLOCK) *
                                 size);
                double score = 0;
                for (int64_t i = 0; i < size; i++)
                    score += double(widened(q[row * q_stride + head * size + i])) *
                             widened(keys[places.back() + i]);
                weights.push_back(std::exp(score / std::sqrt(double(size))));
                total += weights.back();
            }
            for (int64_t i = 0; i < size; i++) {
                Sum sum;
                for (size_t token = 0; token < places.size(); token++)
                    sum.add(weights[token] / total, widened(values[places[token] + i]), 0x1p-13);
                check.near(out[(row * heads + head) * size + i], sum, "size %d, %d of %d heads, row %d at %d",
                           int(size), int(head), int(heads), int(row), int(i));
            }
        }
}

}  // namespace

CASE(ATTEND_CACHED, shapes) {
    for (const int64_t size : {16, 64, 144})
        for (const bool has_nan : {false, true}) {
            attend(check, size, 2, 2, has_nan);
            attend(check, size, 6, 2, has_nan);
        }
}
