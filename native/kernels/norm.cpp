// RMS norm for training: forward, and the gradients of input and weight, made in floats.

#include "norm.h"

#include "../threads.h"
#include "table.h"

namespace danlu::DANLU_ISA {

void rms_norm(const void* arguments, int threads) {
    const Norm& call = *static_cast<const Norm*>(arguments);
    parallel_for(threads, call.rows, ROWS_OF_A_SUM, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const bf16* x = static_cast<const bf16*>(call.x) + row * call.size;
            norm_row(x, static_cast<const bf16*>(call.weight), inverse_rms(x, call.size, call.eps), call.size,
                     static_cast<bf16*>(call.y) + row * call.size);
        }
    });
}

void rms_norm_backward(const void* arguments, int threads) {
    const Norm& call = *static_cast<const Norm*>(arguments);
    parallel_for(threads, call.rows, ROWS_OF_A_SUM, [&](int64_t begin, int64_t end) {
        const size_t bytes = call.size * sizeof(float);
        float* weighted = static_cast<float*>(scratch(bytes));
        for (int64_t row = begin; row < end; row++) {
            const bf16* grad = static_cast<const bf16*>(call.grad) + row * call.size;
            const bf16* weight = static_cast<const bf16*>(call.weight);
            const bf16* x = static_cast<const bf16*>(call.x) + row * call.size;
            float* sums = call.weight_grad;
            if (sums != nullptr) sums += row / ROWS_OF_A_SUM * call.size;
            const float inverse = inverse_rms(x, call.size, call.eps);
            for (int64_t i = 0; i < call.size; i += LANES) {
                const int64_t count = call.size - i;
                const Floats g = load_some(grad + i, count);
                store_some(weighted + i, count, g * load_some(weight + i, count));
                if (sums != nullptr)
                    store_some(sums + i, count,
                               load_some(sums + i, count) + g * (load_some(x + i, count) * inverse));
            }
            norm_gradient(x, weighted, inverse, call.size, static_cast<bf16*>(call.y) + row * call.size);
        }
    });
}

}  // namespace danlu::DANLU_ISA
