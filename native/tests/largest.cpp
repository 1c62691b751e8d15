// The largest numbers of rows, in their order; among equal ones the earlier.

#include <algorithm>
#include <numeric>
#include <vector>

#include "check.h"

using namespace danlu;

CASE(LARGEST, rows) {
    Numbers numbers;
    constexpr int64_t ROWS = 5;
    for (const int64_t width : {1, 7, 130, 1000})
        for (const int64_t count : {int64_t(1), std::min<int64_t>(width, 64)})
            for (const bool is_alike : {false, true}) {
                Room<uint16_t> x = numbers.bf16(ROWS * width, Fill::LARGE);
                for (int64_t i = 0; i < x.size(); i++)
                    if (is_alike) x[i] = i % 3 ? 0xff80 : 0x3f80;  // minus infinity and 1
                Room<float> values(ROWS * count);
                Room<int32_t> places(ROWS * count);
                check.call(LARGEST, Largest{x.data(), values.data(), places.data(), ROWS, width, count});
                for (int64_t row = 0; row < ROWS; row++) {
                    std::vector<int64_t> order(width);
                    std::iota(order.begin(), order.end(), row * width);
                    std::stable_sort(order.begin(), order.end(),
                                     [&](int64_t a, int64_t b) { return widened(x[a]) > widened(x[b]); });
                    for (int64_t n = 0; n < count; n++) {
                        const int64_t at = row * count + n;
                        check.equal(places[at], order[n] - row * width, "place %d of %d", int(n), int(width));
                        check.is_true(values[at] == widened(x[order[n]]), "value %d of %d", int(n),
                                      int(width));
                    }
                }
            }
}

CASE(LARGEST, nan) {
    for (const int64_t place : {0, 500, 999}) {
        Room<uint16_t> x = Numbers().bf16(1000);
        x[place] = 0x7fc0;
        Room<float> values(4);
        Room<int32_t> places(4);
        check.call(LARGEST, Largest{x.data(), values.data(), places.data(), 1, 1000, 4});
        check.is_true(std::isnan(values[0]), "NaN at %d", int(place));
    }
}
