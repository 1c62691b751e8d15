// QK-norm and rotation of a merged projection, and its gradients.

#include <vector>

#include "check.h"

using namespace danlu;

namespace {

constexpr int64_t ROWS = 18, HEADS = 3, KV_HEADS = 1, ALL_HEADS = HEADS + 2 * KV_HEADS;
constexpr float EPS = 1e-6f;

double inverse_of(const Room<uint16_t>& x, int64_t first, int64_t dim) {
    double squares = 0;
    for (int64_t i = first; i < first + dim; i++) squares += double(widened(x[i])) * widened(x[i]);
    return 1 / std::sqrt(double(float(squares)) / double(dim) + EPS);
}

struct Inputs {
    Room<uint16_t> qkv, q_norm, k_norm, cos, sin;

    explicit Inputs(int64_t dim, Numbers numbers = Numbers())
        : qkv(numbers.some_nan(ROWS * ALL_HEADS * dim, 1301)),
          q_norm(numbers.bf16(dim)),
          k_norm(numbers.bf16(dim)),
          cos(numbers.bf16(ROWS * dim / 2)),
          sin(numbers.bf16(ROWS * dim / 2)) {}
};

Rotation call_with(const Inputs& in, int64_t dim) {
    Rotation call{};
    call.qkv = in.qkv.data(), call.q_norm = in.q_norm.data(), call.k_norm = in.k_norm.data();
    call.cos = in.cos.data(), call.sin = in.sin.data();
    call.rows = ROWS, call.heads = HEADS, call.kv_heads = KV_HEADS, call.dim = dim, call.eps = EPS;
    return call;
}

}  // namespace

CASE(ROTATE, heads) {
    for (const int64_t dim : {2, 30, 64, 128}) {
        const Inputs in(dim);
        Room<uint16_t> q(ROWS * HEADS * dim), k(ROWS * KV_HEADS * dim);
        Rotation call = call_with(in, dim);
        call.q = q.data(), call.k = k.data();
        check.call(ROTATE, call);
        const int64_t half = dim / 2;
        for (int64_t row = 0; row < ROWS; row++)
            for (int64_t head = 0; head < HEADS + KV_HEADS; head++) {
                const int64_t first = (row * ALL_HEADS + head) * dim;
                const bool is_q = head < HEADS;
                const Room<uint16_t>& weight = is_q ? in.q_norm : in.k_norm;
                const double inverse = inverse_of(in.qkv, first, dim);
                const Room<uint16_t>& got = is_q ? q : k;
                const int64_t to = is_q ? (row * HEADS + head) * dim : (row * KV_HEADS + head - HEADS) * dim;
                for (int64_t i = 0; i < half; i++) {
                    const double a = widened(in.qkv[first + i]) * inverse * widened(weight[i]);
                    const double b = widened(in.qkv[first + half + i]) * inverse * widened(weight[half + i]);
                    const double c = widened(in.cos[row * half + i]), s = widened(in.sin[row * half + i]);
                    check.near(got[to + i], about(a * c - b * s, std::fabs(a * c) + std::fabs(b * s), 0x1p-6),
                               "dim %d, row %d, head %d at %d", int(dim), int(row), int(head), int(i));
                    check.near(got[to + half + i],
                               about(b * c + a * s, std::fabs(b * c) + std::fabs(a * s), 0x1p-6),
                               "dim %d, row %d, head %d at %d", int(dim), int(row), int(head), int(half + i));
                }
            }
    }
}

CASE(ROTATE_BACKWARD, heads) {
    for (const int64_t dim : {2, 30, 64, 128}) {
        const Inputs in(dim);
        Numbers numbers(2);
        Room<uint16_t> dq = numbers.bf16(ROWS * HEADS * dim), dk = numbers.bf16(ROWS * KV_HEADS * dim);
        const Room<uint16_t> dv = numbers.bf16(ROWS * KV_HEADS * dim);
        Room<uint16_t> dqkv(ROWS * ALL_HEADS * dim);
        constexpr int64_t GROUPS = (ROWS + ROWS_OF_A_SUM - 1) / ROWS_OF_A_SUM;
        Room<float> q_sums(GROUPS * dim), k_sums(GROUPS * dim);
        for (int64_t i = 0; i < q_sums.size(); i++) q_sums[i] = k_sums[i] = 0;
        Rotation call = call_with(in, dim);
        call.q = dq.data(), call.k = dk.data(), call.v = dv.data(), call.dqkv = dqkv.data();
        call.q_norm_grad = q_sums.data(), call.k_norm_grad = k_sums.data();
        check.call(ROTATE_BACKWARD, call);
        const int64_t half = dim / 2;
        std::vector<Sum> expected_q(q_sums.size()), expected_k(k_sums.size());
        for (int64_t row = 0; row < ROWS; row++) {
            for (int64_t i = 0; i < KV_HEADS * dim; i++)
                check.equal(dqkv[(row * ALL_HEADS + HEADS + KV_HEADS) * dim + i],
                            dv[row * KV_HEADS * dim + i], "v, dim %d, row %d at %d", int(dim), int(row),
                            int(i));
            for (int64_t head = 0; head < HEADS + KV_HEADS; head++) {
                const int64_t first = (row * ALL_HEADS + head) * dim;
                const bool is_q = head < HEADS;
                const Room<uint16_t>& weight = is_q ? in.q_norm : in.k_norm;
                const Room<uint16_t>& grad = is_q ? dq : dk;
                const int64_t at = is_q ? (row * HEADS + head) * dim : (row * KV_HEADS + head - HEADS) * dim;
                const double inverse = inverse_of(in.qkv, first, dim);
                std::vector<double> turned(dim);
                double mean = 0, magnitude = 0, largest = 0;
                for (int64_t i = 0; i < dim; i++) {
                    const int64_t place = row * half + i % half, pair = i < half ? i + half : i - half;
                    const double c = widened(in.cos[place]),
                                 s = widened(in.sin[place]) * (i < half ? 1.0 : -1.0);
                    turned[i] = widened(grad[at + i]) * c + widened(grad[at + pair]) * s;
                    const double n = widened(in.qkv[first + i]) * inverse;
                    (is_q ? expected_q : expected_k)[row / ROWS_OF_A_SUM * dim + i].add(turned[i], n,
                                                                                        0x1p-16);
                    mean += turned[i] * widened(weight[i]) * n / double(dim);
                    magnitude += std::fabs(turned[i] * widened(weight[i]) * n) / double(dim);
                    largest = std::fmax(largest, std::fabs(turned[i]));
                }
                for (int64_t i = 0; i < dim; i++) {
                    const double n = widened(in.qkv[first + i]) * inverse,
                                 weighted = turned[i] * widened(weight[i]);
                    const double all = (2 * std::fabs(largest) + std::fabs(n) * magnitude) * inverse;
                    check.near(dqkv[first + i], about((weighted - n * mean) * inverse, all, 0x1p-14),
                               "dim %d, row %d, head %d at %d", int(dim), int(row), int(head), int(i));
                }
            }
        }
        for (int64_t i = 0; i < q_sums.size(); i++) {
            check.near(q_sums[i], expected_q[i], "weight of q, dim %d at %d", int(dim), int(i));
            check.near(k_sums[i], expected_k[i], "weight of k, dim %d at %d", int(dim), int(i));
        }
    }
}
