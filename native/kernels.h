// What the library computes: the calls, and the table of an instruction set's kernels.
//
// This is the ABI that src/danlu/ops/native/ calls by ctypes; change VERSION with it. Numbers are bf16
// unless something else is said; matrices lie row after row.
#pragma once

#include <cstdint>

namespace danlu {

constexpr int32_t VERSION = 4;

enum Kind : int32_t {
    PACK,
    LINEAR,
    QUANTIZE,
    LOOK_UP,
    APPEND,
    ATTEND_CACHED,
    LARGEST,
    RMS_NORM,
    RMS_NORM_BACKWARD,
    SWIGLU,
    SWIGLU_BACKWARD,
    ROTATE,
    ROTATE_BACKWARD,
    LOSS,
    LOSS_BACKWARD,
    ATTEND,
    ATTEND_BACKWARD,
    NARROW,
    WIDEN,
    OUTER,
    DEQUANTIZE,
    NUM_KINDS
};

// Outputs of a weight matrix that lie together: [tiles][inputs / 2][TILE][2].
constexpr int TILE = 32;

// How a weight's numbers lie; its filler is zeros. A group of inputs shares a scale; the last may have
// fewer inputs.
enum Form : int32_t {
    BF16,  // [tiles][inputs / 2][TILE][2]
    // [tiles][inputs / 4][TILE] words, four q of an output in each: the bits from 8 i on are input 2 i's,
    // from 16 + 8 i on input 2 i + 1's. w = q * scale, scales [tiles][groups][TILE].
    INT8,
    // [tiles][inputs / 8][TILE] words, eight q in each, from 4 i and 16 + 4 i on.
    // w = (q - 8) * scale + zero, scales [tiles][groups][TILE][scale, zero].
    INT4,
};
// Inputs that share a scale.
constexpr int GROUP = 32;

// weight [outputs, inputs] into the kernels' own order; inputs is even.
struct Pack {
    const void* weight;
    void* packed;
    int64_t outputs, inputs;
};

// weight [outputs, inputs], bf16 or float, into INT8 or INT4.
struct Quantize {
    const void* weight;
    void* values;
    void* scales;
    int64_t outputs, inputs;
    int32_t form, is_float;
};

// INT8 or INT4 into floats or bf16, transposed: weight [inputs, outputs]; outputs are whole tiles.
struct Dequantize {
    void* weight;
    const void* values;
    const void* scales;
    int64_t outputs, inputs;
    int32_t form, is_float;
};

// y = residual + before(x) weight^T + (before(x) a[place]) b[place]. inputs is even; with
// INT8 a multiple of 4, with INT4 of GROUP.
struct Linear {
    const void* x;         // [rows, inputs], or [rows, 2 * inputs] where gated
    const void* weight;    // packed
    const void* scales;    // of INT8 and INT4
    const void* norm;      // [inputs]: before is RMS norm; or null
    const void* residual;  // [rows, outputs], or null
    void* y;               // [rows, outputs]; the residual's own memory will do
    const void* a;         // [places, inputs, rank], or null
    const void* b;         // [places, rank, outputs]
    const int64_t* ends;   // [places]: where the rows of each place end
    int64_t rows, inputs, outputs, rank;
    float eps;
    int32_t gated;  // before is swiglu: silu(first half) * second half
    int32_t form;
    int32_t is_float;  // x and y are floats: of few bits, with nothing before or behind
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
struct CachedAttention {
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

// y = RMS norm of x; backward: y is the gradient of x from that of the output.
struct Norm {
    const void* x;       // [rows, size]
    const void* weight;  // [size]
    const void* grad;    // [rows, size], backward
    void* y;             // [rows, size]
    float* weight_grad;  // [ceil(rows / ROWS_OF_A_SUM), size], zeros, added to; or null
    int64_t rows, size;
    float eps;
};

// Rows whose gradients of a weight are added up by one thread, into a row of their own.
constexpr int64_t ROWS_OF_A_SUM = 16;

// y = silu(first half) * second half; backward: y [rows, 2 * size] is the gradient of gate_up.
struct Gating {
    const void* gate_up;  // [rows, 2 * size]
    const void* grad;     // [rows, size], backward
    void* y;              // [rows, size]
    int64_t rows, size;
};

// RMS norm and rotation of the heads of q and k, which stand before those of v in a merged projection.
struct Rotation {
    const void* qkv;     // [rows, (heads + 2 * kv_heads) * dim]
    const void* q_norm;  // [dim]
    const void* k_norm;  // [dim]
    const void* cos;     // [rows, dim / 2]
    const void* sin;     // [rows, dim / 2]
    void* q;             // [rows, heads, dim]; backward: the gradient of the rotated q
    void* k;             // [rows, kv_heads, dim]; likewise
    const void* v;       // [rows, kv_heads, dim], backward: its gradient, which is copied
    void* dqkv;          // as qkv, backward
    float* q_norm_grad;  // [ceil(rows / ROWS_OF_A_SUM), dim], zeros, added to; or null
    float* k_norm_grad;  // likewise
    int64_t rows, heads, kv_heads, dim;
    float eps;
};

// Negative log likelihoods of the targets; backward: the logits become their gradient where they are.
struct Loss {
    void* logits;            // [rows, size]
    const int64_t* targets;  // [rows]
    float* losses;           // [rows]
    float* log_sums;         // [rows]: written forward, read backward
    const float* grad;       // of the sum of the losses, backward
    int64_t rows, size;
};

// Causal attention inside each segment of a packed batch. Rows of q, k, v lie so many numbers apart.
struct Attention {
    const void *q, *k, *v;   // [tokens, heads, dim], twice [tokens, kv_heads, dim]
    void* out;               // [tokens, heads, dim]
    float* log_sums;         // [tokens, heads]: of the scores' exponentials; written forward
    const int32_t* offsets;  // [segments + 1]
    const void* grad;        // [tokens, heads, dim], backward
    void *dq, *dk, *dv;      // as q, k, v without gaps, backward
    int64_t q_row, k_row, v_row, segments, heads, kv_heads, dim;
    float scale;
};

// An adapter's products, between rows of `size` and of `rank` numbers; rank is even. Rows lie so many
// numbers apart.
//   NARROW  t = scale * x matrix
//   WIDEN   x += scale * t matrix^T
//   OUTER   sums = scale * x^T t
struct Narrow {
    void* x;             // [rows, size]
    void* t;             // [rows, rank]
    const void* matrix;  // [size, rank]
    float* sums;         // [size, rank]
    int64_t rows, size, rank, x_row, t_row, matrix_row;
    float scale;
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
