// The largest numbers of each row, with their places: of a vocabulary most tokens need no more.

#include "../simd.h"
#include "../threads.h"
#include "table.h"

namespace danlu::DANLU_ISA {

namespace {

// The `size` largest so far, the largest first; of equal ones the earlier one.
struct Best {
    float* values;
    int32_t* places;
    int64_t size, count = 0;

    float least() const { return count < size ? -INFINITY : values[size - 1]; }

    void take(float value, int32_t place) {
        if (count == size && !(value > values[size - 1])) return;
        int64_t at = count < size ? count++ : size - 1;
        for (; at > 0 && value > values[at - 1]; at--) {
            values[at] = values[at - 1];
            places[at] = places[at - 1];
        }
        values[at] = value;
        places[at] = place;
    }
};

void largest_of(const bf16* row, int64_t width, Best best) {
    constexpr int PIECE = 8;  // vectors that are looked at together
    bool is_number = true;
    int64_t i = 0;
    for (; i + PIECE * LANES <= width; i += PIECE * LANES) {
        Floats most = load(row + i);
        Ints numbers = most == most;
        for (int v = 1; v < PIECE; v++) {
            const Floats next = load(row + i + LANES * v);
            numbers &= next == next;
            most = larger_of(most, next);
        }
        const Ints wanted = ~numbers | (most > best.least()) | (best.count < best.size);
        if (!has_any(wanted)) continue;
        for (int64_t at = i; at < i + PIECE * LANES; at++) {
            const float value = widen(row[at]);
            is_number &= value == value;
            best.take(value, int32_t(at));
        }
    }
    for (; i < width; i++) {
        const float value = widen(row[i]);
        is_number &= value == value;
        best.take(value, int32_t(i));
    }
    if (!is_number) best.values[0] = NAN;
}

}  // namespace

void largest(const void* arguments, int threads) {
    const Largest& call = *static_cast<const Largest*>(arguments);
    parallel_for(threads, call.rows, 1, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const Best best{call.values + row * call.count, call.places + row * call.count, call.count};
            largest_of(static_cast<const bf16*>(call.numbers) + row * call.width, call.width, best);
        }
    });
}

}  // namespace danlu::DANLU_ISA
