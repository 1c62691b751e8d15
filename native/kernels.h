// What the library computes: the calls, and the table of an instruction set's kernels.
//
// This is the ABI that src/danlu/ops/native/ calls by ctypes; change VERSION with it. Numbers are bf16
// unless something else is said; matrices lie row after row.
#pragma once

#include <cstdint>

namespace danlu {

constexpr int32_t VERSION = 1;

enum Kind : int32_t { PACK, LINEAR, NUM_KINDS };

// Outputs of a weight matrix that lie together: [tiles][inputs / 2][TILE][2].
constexpr int TILE = 32;

// weight [outputs, inputs] into the kernels' own order; inputs is even.
struct Pack {
    const void* weight;
    void* packed;
    int64_t outputs, inputs;
};

// y = residual + before(x) weight^T + (before(x) a[place]) b[place].
struct Linear {
    const void* x;         // [rows, inputs], or [rows, 2 * inputs] where gated
    const void* weight;    // packed
    const void* norm;      // [inputs]: before is RMS norm; or null
    const void* residual;  // [rows, outputs], or null
    void* y;               // [rows, outputs]; the residual's own memory will do
    const void* a;         // [places, inputs, rank], or null
    const void* b;         // [places, rank, outputs]
    const int64_t* ends;   // [places]: where the rows of each place end
    int64_t rows, inputs, outputs, rank;
    float eps;
    int32_t gated;  // before is swiglu: silu(first half) * second half
};

struct Call {
    int32_t kind;
    const void* arguments;
};

using Kernel = void (*)(const void* arguments, int threads);

// The kernels of one instruction set, by Kind.
struct Kernels {
    const char* name;
    Kernel by_kind[NUM_KINDS];
};

}  // namespace danlu
