// Losses of rows of logits, and the gradient in their place.

#include <vector>

#include "check.h"

using namespace danlu;

namespace {

constexpr int64_t ROWS = 4;

double log_sum_of(const Room<uint16_t>& logits, int64_t row, int64_t size) {
    double most = -INFINITY, total = 0;
    for (int64_t i = 0; i < size; i++) most = std::fmax(most, widened(logits[row * size + i]));
    for (int64_t i = 0; i < size; i++) total += std::exp(widened(logits[row * size + i]) - most);
    return most + std::log(total);
}

// Logits up to 16, among them some that are minus infinity; the first row's largest is its last,
// the last row has one of 90.
Room<uint16_t> some_logits(int64_t size) {
    Room<uint16_t> made = Numbers(size).bf16(ROWS * size);
    for (int64_t i = 0; i < made.size(); i++)
        made[i] = i % 37 == 36 ? 0xff80 : narrowed(widened(made[i]) * 8);
    made[size - 1] = narrowed(24);
    made[(ROWS - 1) * size] = narrowed(90);
    return made;
}

}  // namespace

CASE(LOSS, rows) {
    for (const int64_t size : {1, 15, 16, 33, 4096, 9001}) {
        Room<uint16_t> logits = some_logits(size);
        const int64_t targets[ROWS] = {0, size - 1, -1, size};
        Room<float> losses(ROWS), log_sums(ROWS);
        check.call(LOSS, Loss{logits.data(), targets, losses.data(), log_sums.data(), nullptr, ROWS, size});
        for (int64_t row = 0; row < ROWS; row++) {
            const double log_sum = log_sum_of(logits, row, size);
            const double target = row < 2 ? widened(logits[row * size + targets[row]]) : NAN;
            const double all = 1 + std::fabs(log_sum) + (row < 2 ? std::fabs(target) : 0);
            check.near(log_sums[row], about(log_sum, all, 0x1p-20), "log sum, size %d, row %d", int(size),
                       int(row));
            check.near(losses[row], about(log_sum - target, all, 0x1p-20), "loss, size %d, row %d", int(size),
                       int(row));
        }
    }
}

CASE(LOSS, extremes) {
    constexpr int64_t SIZE = 50;
    const int64_t targets[ROWS] = {3, 3, 3, 3};
    Room<uint16_t> logits = Numbers().bf16(ROWS * SIZE);
    for (int64_t i = 0; i < SIZE; i++) logits[i] = 0xff80;  // nothing is possible
    logits[SIZE + 7] = 0x7fc0;                              // no number
    logits[2 * SIZE + 7] = 0x7f80;                          // infinity
    logits[3 * SIZE + 7] = narrowed(3e38f);
    Room<float> losses(ROWS), log_sums(ROWS);
    check.call(LOSS, Loss{logits.data(), targets, losses.data(), log_sums.data(), nullptr, ROWS, SIZE});
    check.is_true(log_sums[0] == -INFINITY, "nothing is possible: %g", double(log_sums[0]));
    check.is_true(std::isnan(losses[1]), "a logit is no number: %g", double(losses[1]));
    check.is_true(!std::isfinite(losses[2]), "a logit is infinite: %g", double(losses[2]));
    check.near(losses[3], about(widened(narrowed(3e38f)), 1, 0), "a logit is large");
}

CASE(LOSS_BACKWARD, rows) {
    for (const int64_t size : {1, 15, 16, 33, 1001}) {
        const Room<uint16_t> before = some_logits(size);
        Room<uint16_t> logits = some_logits(size);
        const int64_t targets[ROWS] = {0, size - 1, size / 2, size};
        const float grad = 0.25f;
        Room<float> log_sums(ROWS);
        for (int64_t row = 0; row < ROWS; row++) log_sums[row] = float(log_sum_of(before, row, size));
        check.call(LOSS_BACKWARD, Loss{logits.data(), targets, nullptr, log_sums.data(), &grad, ROWS, size});
        for (int64_t at = 0; at < logits.size(); at++) {
            const int64_t row = at / size;
            const double power = std::exp(widened(before[at]) - double(log_sums[row]));
            const bool is_target = at % size == targets[row];
            check.near(logits[at], about((power - is_target) * grad, power * grad, 0x1p-18), "size %d at %d",
                       int(size), int(at));
        }
    }
}
