// What the library computes: the calls, and the table of an instruction set's kernels.
//
// This is the ABI that src/danlu/ops/native/ calls by ctypes; change VERSION with it. Numbers are bf16
// unless something else is said; matrices lie row after row.
#pragma once

#include <cstdint>

namespace danlu {

constexpr int32_t VERSION = 1;

enum Kind : int32_t { PACK, LINEAR, LOOK_UP, APPEND, ATTEND, LARGEST, NUM_KINDS };

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

// out[row] = table[numbers[row]]
struct LookUp {
    const void* table;
    const int32_t* numbers;  // [rows]
    void* out;
    int64_t rows, row_bytes;
    int32_t is_packed;  // a bf16 matrix in the kernels' own order
};

// Write the keys and values of a step's tokens into their slots.
struct Append {
    const void* k;  // [rows, heads, size], rows `k_stride` numbers apart
    const void* v;
    void* keys;  // [heads, num_slots, size]
    void* values;
    const int32_t* slots;  // [rows]
    int64_t rows, heads, size, k_stride, v_stride, num_slots;
};

// Attend with one query of each row to the tokens of its request.
struct Attend {
    const void* q;  // [rows, heads, size], rows `q_stride` numbers apart
    const void* keys;
    const void* values;
    void* out;               // [rows, heads * size]
    const int32_t* table;    // [rows, table_stride]: its blocks
    const int32_t* lengths;  // [rows]: its tokens
    int64_t rows, heads, kv_heads, size, q_stride, num_slots, block_tokens, table_stride;
};

// The `count` largest numbers of each row, the largest first; NaN is the first, where there is one.
struct Largest {
    const void* numbers;  // [rows, width]
    float* values;        // [rows, count], count at most width
    int32_t* places;      // [rows, count]
    int64_t rows, width, count;
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
