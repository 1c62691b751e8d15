// Swiglu for training: silu(gate) * up of a merged projection, and the gradient of both.

#include "gating.h"

#include "../kernels.h"
#include "../threads.h"
#include "table.h"

namespace danlu::DANLU_ISA {

namespace {

constexpr int64_t PIECE = 8;  // rows

}  // namespace

void swiglu(const void* arguments, int threads) {
    const Gating& call = *static_cast<const Gating*>(arguments);
    parallel_for(threads, call.rows, PIECE, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++)
            swiglu_row(static_cast<const bf16*>(call.gate_up) + 2 * row * call.size, call.size,
                       static_cast<bf16*>(call.y) + row * call.size);
    });
}

// silu'(g) = sigmoid(g) * (1 + g * (1 - sigmoid(g))).
void swiglu_backward(const void* arguments, int threads) {
    const Gating& call = *static_cast<const Gating*>(arguments);
    parallel_for(threads, call.rows, PIECE, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const bf16* gate = static_cast<const bf16*>(call.gate_up) + 2 * row * call.size;
            const bf16* grad = static_cast<const bf16*>(call.grad) + row * call.size;
            bf16* d_gate = static_cast<bf16*>(call.y) + 2 * row * call.size;
            for (int64_t i = 0; i < call.size; i += LANES) {
                const int64_t count = call.size - i;
                const Floats g = load_some(gate + i, count), up = load_some(gate + call.size + i, count);
                const Floats dy = load_some(grad + i, count), s = sigmoid(g);
                store_some(d_gate + i, count, dy * up * s * (1 + g * (1 - s)));
                store_some(d_gate + call.size + i, count, dy * round_to_bf16(g * s));
            }
        }
    });
}

}  // namespace danlu::DANLU_ISA
