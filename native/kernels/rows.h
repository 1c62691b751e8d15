// What precedes a product, for one row: RMS norm or swiglu, rounded as torch's operations round.
#pragma once

#include "../kernels.h"
#include "../simd.h"

namespace danlu::DANLU_ISA {

inline void rms_norm(const bf16* x, const bf16* weight, float eps, int64_t size, bf16* y) {
    Floats squares = splat(0);
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        const Floats numbers = load(x + i);
        squares += numbers * numbers;
    }
    float total = sum(squares);
    for (int64_t rest = i; rest < size; rest++) total += widen(x[rest]) * widen(x[rest]);
    const float scale = 1 / std::sqrt(total / float(size) + eps);
    for (i = 0; i + LANES <= size; i += LANES)
        store(y + i, round_to_bf16(load(x + i) * scale) * load(weight + i));
    for (; i < size; i++) y[i] = narrow(round_to_bf16(widen(x[i]) * scale) * widen(weight[i]));
}

inline void swiglu(const bf16* gate_up, int64_t size, bf16* y) {
    const bf16 *gate = gate_up, *up = gate_up + size;
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        const Floats g = load(gate + i);
        store(y + i, round_to_bf16(g / (1 + exp(-g))) * load(up + i));
    }
    for (; i < size; i++) {
        const float g = widen(gate[i]);
        y[i] = narrow(round_to_bf16(g / (1 + std::exp(-g))) * widen(up[i]));
    }
}

// What the weights are multiplied with: x itself, or made in `room`. [rows, inputs]
inline const bf16* before(const Linear& call, bf16* room) {
    const bf16* x = static_cast<const bf16*>(call.x);
    if (call.norm == nullptr && !call.gated) return x;
    for (int64_t row = 0; row < call.rows; row++) {
        bf16* y = room + row * call.inputs;
        if (call.gated) swiglu(x + 2 * row * call.inputs, call.inputs, y);
        else rms_norm(x + row * call.inputs, static_cast<const bf16*>(call.norm), call.eps, call.inputs, y);
    }
    return room;
}

}  // namespace danlu::DANLU_ISA
