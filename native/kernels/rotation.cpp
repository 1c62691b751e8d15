// QK-norm and rotary position embedding of a merged projection, forward and backward.

#include "../threads.h"
#include "norm.h"
#include "table.h"

namespace danlu::DANLU_ISA {

namespace {

struct Angles {
    const bf16 *cos, *sin;

    Angles(const Rotation& call, int64_t row)
        : cos(static_cast<const bf16*>(call.cos) + row * (call.dim / 2)),
          sin(static_cast<const bf16*>(call.sin) + row * (call.dim / 2)) {}
};

// Norm a head and rotate the pairs (i, i + dim / 2); the first product is rounded, as torch's is.
void rotate_head(const bf16* x, const bf16* weight, const Angles& angles, int64_t dim, float eps, bf16* y) {
    const int64_t half = dim / 2;
    const float inverse = inverse_rms(x, dim, eps);
    for (int64_t i = 0; i < half; i += LANES) {
        const int64_t count = half - i;
        const Floats c = load_some(angles.cos + i, count), s = load_some(angles.sin + i, count);
        const Floats first = normed(load_some(x + i, count), load_some(weight + i, count), inverse);
        const Floats second =
            normed(load_some(x + half + i, count), load_some(weight + half + i, count), inverse);
        store_some(y + i, count, round_to_bf16(first * c) - second * s);
        store_some(y + half + i, count, round_to_bf16(second * c) + first * s);
    }
}

// The gradient of a head from that of its rotated one. room: [dim]. sums: of the weight's gradient.
void rotate_head_back(const bf16* grad, const bf16* x, const bf16* weight, const Angles& angles, int64_t dim,
                      float eps, float* room, float* sums, bf16* dx) {
    const int64_t half = dim / 2;
    const float inverse = inverse_rms(x, dim, eps);
    for (int64_t i = 0; i < half; i += LANES) {
        const int64_t count = half - i;
        const Floats c = load_some(angles.cos + i, count), s = load_some(angles.sin + i, count);
        const Floats first = load_some(grad + i, count), second = load_some(grad + half + i, count);
        const Floats turned[2] = {first * c + second * s, second * c - first * s};
        for (int part = 0; part < 2; part++) {
            const int64_t at = part * half + i;
            if (sums != nullptr)
                store_some(sums + at, count,
                           load_some(sums + at, count) + turned[part] * (load_some(x + at, count) * inverse));
            store_some(room + at, count, turned[part] * load_some(weight + at, count));
        }
    }
    norm_gradient(x, room, inverse, dim, dx);
}

}  // namespace

void rotate(const void* arguments, int threads) {
    const Rotation& call = *static_cast<const Rotation*>(arguments);
    const int64_t dim = call.dim;
    parallel_for(threads, call.rows, 8, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const bf16* x = static_cast<const bf16*>(call.qkv) + row * (call.heads + 2 * call.kv_heads) * dim;
            const Angles angles(call, row);
            bf16* q = static_cast<bf16*>(call.q) + row * call.heads * dim;
            for (int64_t head = 0; head < call.heads; head++, x += dim, q += dim)
                rotate_head(x, static_cast<const bf16*>(call.q_norm), angles, dim, call.eps, q);
            bf16* k = static_cast<bf16*>(call.k) + row * call.kv_heads * dim;
            for (int64_t head = 0; head < call.kv_heads; head++, x += dim, k += dim)
                rotate_head(x, static_cast<const bf16*>(call.k_norm), angles, dim, call.eps, k);
        }
    });
}

void rotate_backward(const void* arguments, int threads) {
    const Rotation& call = *static_cast<const Rotation*>(arguments);
    const int64_t dim = call.dim;
    parallel_for(threads, call.rows, ROWS_OF_A_SUM, [&](int64_t begin, int64_t end) {
        float* room = static_cast<float*>(scratch(dim * sizeof(float)));
        for (int64_t row = begin; row < end; row++) {
            const int64_t at = row * (call.heads + 2 * call.kv_heads) * dim;
            const bf16* x = static_cast<const bf16*>(call.qkv) + at;
            bf16* dx = static_cast<bf16*>(call.dqkv) + at;
            const Angles angles(call, row);
            const auto back = [&](const void* gradients, int64_t heads, const void* weight, float* sums) {
                const bf16* grad = static_cast<const bf16*>(gradients) + row * heads * dim;
                if (sums != nullptr) sums += row / ROWS_OF_A_SUM * dim;
                for (int64_t head = 0; head < heads; head++, x += dim, dx += dim, grad += dim)
                    rotate_head_back(grad, x, static_cast<const bf16*>(weight), angles, dim, call.eps, room,
                                     sums, dx);
            };
            back(call.q, call.heads, call.q_norm, call.q_norm_grad);
            back(call.k, call.kv_heads, call.k_norm, call.k_norm_grad);
            const int64_t width = call.kv_heads * dim;
            std::memcpy(dx, static_cast<const bf16*>(call.v) + row * width, width * sizeof(bf16));
        }
    });
}

}  // namespace danlu::DANLU_ISA
