// Swiglu of one row.
#pragma once

#include "tails.h"

namespace danlu::DANLU_ISA {

inline Floats sigmoid(Floats x) { return 1 / (1 + exp(-x)); }

// y = silu(first half) * second half, [size]; silu is rounded first, as torch's operations round.
inline void swiglu_row(const bf16* gate_up, int64_t size, bf16* y) {
    for (int64_t i = 0; i < size; i += LANES) {
        const int64_t count = size - i;
        const Floats g = load_some(gate_up + i, count), up = load_some(gate_up + size + i, count);
        store_some(y + i, count, round_to_bf16(g * sigmoid(g)) * up);
    }
}

}  // namespace danlu::DANLU_ISA
