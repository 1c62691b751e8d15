// RMS norm and its gradients; a row that holds NaN spoils no other.

#include <vector>

#include "check.h"

using namespace danlu;

namespace {

constexpr float EPS = 1e-6f;

double inverse_of(const Room<uint16_t>& x, int64_t row, int64_t size) {
    double squares = 0;
    for (int64_t i = row * size; i < (row + 1) * size; i++) squares += double(widened(x[i])) * widened(x[i]);
    return 1 / std::sqrt(double(float(squares)) / double(size) + EPS);
}

}  // namespace

CASE(RMS_NORM, shapes) {
    Numbers numbers;
    constexpr int64_t ROWS = 19;
    for (const int64_t size : {1, 15, 16, 33, 128, 200})
        for (const Fill fill : {Fill::USUAL, Fill::TINY, Fill::WILD}) {
            const Room<uint16_t> x = numbers.bf16(ROWS * size, fill), weight = numbers.bf16(size);
            Room<uint16_t> y(ROWS * size);
            check.call(RMS_NORM, Norm{x.data(), weight.data(), nullptr, y.data(), nullptr, ROWS, size, EPS});
            for (int64_t at = 0; at < y.size(); at++) {
                const double normed = widened(x[at]) * inverse_of(x, at / size, size);
                const double value = normed * widened(weight[at % size]);
                check.near(y[at], about(value, std::fabs(value), 0x1p-7), "size %d at %d", int(size),
                           int(at));
            }
        }
}

CASE(RMS_NORM_BACKWARD, shapes) {
    Numbers numbers;
    constexpr int64_t ROWS = 35, GROUPS = (ROWS + ROWS_OF_A_SUM - 1) / ROWS_OF_A_SUM;
    for (const int64_t size : {1, 15, 16, 33, 128})
        for (const bool wants_weight : {false, true}) {
            const Room<uint16_t> x = numbers.some_nan(ROWS * size, 211), weight = numbers.bf16(size);
            const Room<uint16_t> grad = numbers.bf16(ROWS * size);
            Room<uint16_t> dx(ROWS * size);
            Room<float> sums(GROUPS * size);
            for (int64_t i = 0; i < sums.size(); i++) sums[i] = 0;
            check.call(RMS_NORM_BACKWARD, Norm{x.data(), weight.data(), grad.data(), dx.data(),
                                               wants_weight ? sums.data() : nullptr, ROWS, size, EPS});
            std::vector<Sum> expected(sums.size());
            for (int64_t row = 0; row < ROWS; row++) {
                const double inverse = inverse_of(x, row, size);
                double mean = 0, magnitude = 0;
                for (int64_t i = 0; i < size; i++) {
                    const int64_t at = row * size + i;
                    const double n = widened(x[at]) * inverse, g = widened(grad[at]);
                    mean += g * widened(weight[i]) * n / double(size);
                    magnitude += std::fabs(g * widened(weight[i]) * n) / double(size);
                    expected[row / ROWS_OF_A_SUM * size + i].add(g, n);
                }
                for (int64_t i = 0; i < size; i++) {
                    const int64_t at = row * size + i;
                    const double n = widened(x[at]) * inverse,
                                 weighted = widened(grad[at]) * double(widened(weight[i]));
                    const double all = (std::fabs(weighted) + std::fabs(n) * magnitude) * inverse;
                    check.near(dx[at], about((weighted - n * mean) * inverse, all, 0x1p-14),
                               "dx, size %d at %d", int(size), int(at));
                }
            }
            for (int64_t i = 0; i < sums.size(); i++)
                check.near(sums[i], wants_weight ? expected[i] : Sum(), "dw, size %d at %d", int(size),
                           int(i));
        }
}
