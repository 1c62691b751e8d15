// Swiglu and its gradients.

#include "check.h"

using namespace danlu;

namespace {

constexpr int64_t ROWS = 11;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

}  // namespace

CASE(SWIGLU, shapes) {
    Numbers numbers;
    for (const int64_t size : {1, 15, 16, 33, 100})
        for (const Fill fill : {Fill::USUAL, Fill::TINY, Fill::WILD}) {
            const Room<uint16_t> gate_up = numbers.bf16(2 * ROWS * size, fill);
            Room<uint16_t> y(ROWS * size);
            check.call(SWIGLU, Gating{gate_up.data(), nullptr, y.data(), ROWS, size});
            for (int64_t at = 0; at < y.size(); at++) {
                const int64_t from = at / size * 2 * size + at % size;
                const double gate = widened(gate_up[from]), up = widened(gate_up[from + size]);
                const double value = gate * sigmoid(gate) * up;
                Sum sum = about(value, std::fabs(value), 0x1p-7);
                if (std::isfinite(up)) sum.slack += 0x1p-126 * std::fabs(up);
                check.near(y[at], sum, "size %d at %d", int(size), int(at));
            }
        }
}

CASE(SWIGLU_BACKWARD, shapes) {
    Numbers numbers;
    for (const int64_t size : {1, 15, 16, 33, 100}) {
        const Room<uint16_t> gate_up = numbers.some_nan(2 * ROWS * size, 97),
                             grad = numbers.bf16(ROWS * size);
        Room<uint16_t> y(2 * ROWS * size);
        check.call(SWIGLU_BACKWARD, Gating{gate_up.data(), grad.data(), y.data(), ROWS, size});
        for (int64_t at = 0; at < grad.size(); at++) {
            const int64_t from = at / size * 2 * size + at % size;
            const double gate = widened(gate_up[from]), up = widened(gate_up[from + size]);
            const double dy = widened(grad[at]), s = sigmoid(gate);
            const double d_gate = dy * up * s * (1 + gate * (1 - s)), d_up = dy * gate * s;
            check.near(y[from], about(d_gate, std::fabs(dy * up), 0x1p-18), "gate, size %d at %d", int(size),
                       int(at));
            check.near(y[from + size], about(d_up, std::fabs(d_up), 0x1p-7), "up, size %d at %d", int(size),
                       int(at));
        }
    }
}
