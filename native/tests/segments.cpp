// Causal attention inside segments of a packed batch, and its gradients.

#include <vector>

#include "check.h"

using namespace danlu;

namespace {

constexpr int64_t SEGMENTS = 5, HEADS = 4, KV_HEADS = 2, TOKENS = 173;
constexpr int32_t OFFSETS[SEGMENTS + 1] = {0, 1, 3, 16, 56, TOKENS};

// Rows of q, k and v lie apart, as in a merged projection.
struct Batch {
    int64_t dim, q_row, k_row;
    float scale;
    Room<uint16_t> q, k, v, grad;

    explicit Batch(int64_t dim, Numbers numbers = Numbers(3))
        : dim(dim),
          q_row(HEADS * dim + 4),
          k_row(KV_HEADS * dim + 6),
          scale(1 / std::sqrt(float(dim))),
          q(numbers.bf16((TOKENS - 1) * q_row + HEADS * dim)),
          k(numbers.bf16((TOKENS - 1) * k_row + KV_HEADS * dim)),
          v(numbers.bf16((TOKENS - 1) * k_row + KV_HEADS * dim)),
          grad(numbers.bf16(TOKENS * HEADS * dim)) {}

    double query(int64_t token, int64_t head, int64_t i) const {
        return widened(q[token * q_row + head * dim + i]);
    }
    double of_pair(const Room<uint16_t>& from, int64_t token, int64_t head, int64_t i) const {
        return widened(from[token * k_row + head / (HEADS / KV_HEADS) * dim + i]);
    }
    double output_grad(int64_t token, int64_t head, int64_t i) const {
        return widened(grad[(token * HEADS + head) * dim + i]);
    }
    Attention call() const {
        Attention made{};
        made.q = q.data(), made.k = k.data(), made.v = v.data(), made.grad = grad.data();
        made.offsets = OFFSETS, made.segments = SEGMENTS, made.heads = HEADS, made.kv_heads = KV_HEADS;
        made.q_row = q_row, made.k_row = made.v_row = k_row, made.dim = dim, made.scale = scale;
        return made;
    }
};

// What a query gives to the tokens from `begin` on, itself the last.
struct Weights {
    std::vector<double> shares;
    double log_sum = 0;

    Weights(const Batch& batch, int64_t begin, int64_t token, int64_t head) {
        double total = 0;
        for (int64_t key = begin; key <= token; key++) {
            double score = 0;
            for (int64_t i = 0; i < batch.dim; i++)
                score += batch.query(token, head, i) * batch.of_pair(batch.k, key, head, i);
            shares.push_back(std::exp(score * batch.scale));
            total += shares.back();
        }
        for (double& share : shares) share /= total;
        log_sum = std::log(total);
    }
};

template <typename Each>
void by_query(const Each& each) {
    for (int64_t segment = 0; segment < SEGMENTS; segment++)
        for (int64_t token = OFFSETS[segment]; token < OFFSETS[segment + 1]; token++)
            for (int64_t head = 0; head < HEADS; head++) each(OFFSETS[segment], token, head);
}

std::vector<Sum> outputs(const Batch& batch) {
    std::vector<Sum> made(TOKENS * HEADS * batch.dim);
    by_query([&](int64_t begin, int64_t token, int64_t head) {
        const Weights weights(batch, begin, token, head);
        for (int64_t key = begin; key <= token; key++)
            for (int64_t i = 0; i < batch.dim; i++)
                made[(token * HEADS + head) * batch.dim + i].add(
                    weights.shares[key - begin], batch.of_pair(batch.v, key, head, i), 0x1p-8);
    });
    return made;
}

// The gradients of q, k and v without gaps.
struct Gradients {
    std::vector<Sum> q, k, v;

    Gradients(const Batch& batch, const std::vector<Sum>& out)
        : q(TOKENS * HEADS * batch.dim), k(TOKENS * KV_HEADS * batch.dim), v(k.size()) {
        const int64_t dim = batch.dim;
        by_query([&](int64_t begin, int64_t token, int64_t head) {
            const Weights weights(batch, begin, token, head);
            const int64_t row = (token * HEADS + head) * dim;
            double delta = 0, magnitude = 0;
            for (int64_t i = 0; i < dim; i++) {
                delta += batch.output_grad(token, head, i) * out[row + i].value;
                magnitude += std::fabs(batch.output_grad(token, head, i) * out[row + i].value);
            }
            for (int64_t key = begin; key <= token; key++) {
                const double p = weights.shares[key - begin];
                const int64_t pair = (key * KV_HEADS + head / (HEADS / KV_HEADS)) * dim;
                double dp = 0;
                for (int64_t i = 0; i < dim; i++)
                    dp += batch.output_grad(token, head, i) * batch.of_pair(batch.v, key, head, i);
                const double ds = p * (dp - delta) * batch.scale;
                const double loose = p * (std::fabs(dp) + magnitude) * batch.scale * 0x1p-7;
                for (int64_t i = 0; i < dim; i++) {
                    v[pair + i].add(p, batch.output_grad(token, head, i), 0x1p-7);
                    q[row + i].add(ds, batch.of_pair(batch.k, key, head, i));
                    q[row + i].slack += loose * std::fabs(batch.of_pair(batch.k, key, head, i));
                    k[pair + i].add(ds, batch.query(token, head, i));
                    k[pair + i].slack += loose * std::fabs(batch.query(token, head, i));
                }
            }
        });
    }
};

}  // namespace

CASE(ATTEND, segments) {
    for (const int64_t dim : {16, 48, 64}) {
        const Batch batch(dim);
        Room<uint16_t> out(TOKENS * HEADS * dim);
        Room<float> log_sums(TOKENS * HEADS);
        Attention call = batch.call();
        call.out = out.data(), call.log_sums = log_sums.data();
        check.call(ATTEND, call);
        const std::vector<Sum> expected = outputs(batch);
        for (int64_t i = 0; i < out.size(); i++)
            check.near(out[i], expected[i], "dim %d at %d", int(dim), int(i));
        by_query([&](int64_t begin, int64_t token, int64_t head) {
            const double log_sum = Weights(batch, begin, token, head).log_sum;
            check.near(log_sums[token * HEADS + head], about(log_sum, 1, 0x1p-16),
                       "log sum, dim %d, token %d", int(dim), int(token));
        });
    }
}

CASE(ATTEND_BACKWARD, segments) {
    for (const int64_t dim : {16, 48}) {
        const Batch batch(dim);
        const std::vector<Sum> outs = outputs(batch);
        Room<uint16_t> out(TOKENS * HEADS * dim), dq(out.size());
        Room<uint16_t> dk(TOKENS * KV_HEADS * dim), dv(TOKENS * KV_HEADS * dim);
        Room<float> log_sums(TOKENS * HEADS);
        for (int64_t i = 0; i < out.size(); i++) out[i] = narrowed(float(outs[i].value));
        by_query([&](int64_t begin, int64_t token, int64_t head) {
            log_sums[token * HEADS + head] = float(Weights(batch, begin, token, head).log_sum);
        });
        Attention call = batch.call();
        call.out = out.data(), call.log_sums = log_sums.data();
        call.dq = dq.data(), call.dk = dk.data(), call.dv = dv.data();
        check.call(ATTEND_BACKWARD, call);
        const Gradients expected(batch, outs);
        for (int64_t i = 0; i < dq.size(); i++)
            check.near(dq[i], expected.q[i], "dq, dim %d at %d", int(dim), int(i));
        for (int64_t i = 0; i < dk.size(); i++)
            check.near(dk[i], expected.k[i], "dk, dim %d at %d", int(dim), int(i));
        for (int64_t i = 0; i < dv.size(); i++)
            check.near(dv[i], expected.v[i], "dv, dim %d at %d", int(dim), int(i));
    }
}

// What is not a number, at a place in a block of queries: in keys or in values.
void compare_rows_before(Check& check, bool in_values, int64_t dim, int64_t place, uint16_t bits) {
    const int64_t token = OFFSETS[SEGMENTS - 1] + place, last = OFFSETS[SEGMENTS - 1];
    Room<uint16_t> outs[2] = {Room<uint16_t>(TOKENS * HEADS * dim), Room<uint16_t>(TOKENS * HEADS * dim)};
    Room<uint16_t> grads[2] = {Room<uint16_t>(TOKENS * HEADS * dim), Room<uint16_t>(TOKENS * HEADS * dim)};
    Room<uint16_t> dk(TOKENS * KV_HEADS * dim), dv(TOKENS * KV_HEADS * dim);
    Room<float> log_sums(TOKENS * HEADS);
    for (int is_broken = 0; is_broken < 2; is_broken++) {
        Batch batch(dim);
        // Of the first head of keys and values.
        if (is_broken) (in_values ? batch.v : batch.k)[token * batch.k_row + 3] = bits;
        Attention call = batch.call();
        call.out = outs[is_broken].data(), call.log_sums = log_sums.data();
        check.call(ATTEND, call);
        call.dq = grads[is_broken].data(), call.dk = dk.data(), call.dv = dv.data();
        check.call(ATTEND_BACKWARD, call);
    }
    for (int64_t row = 0; row < TOKENS; row++)
        for (int64_t i = 0; i < HEADS * dim; i++) {
            const int64_t at = row * HEADS * dim + i;
            const bool is_touched = row >= token && row >= last && i < HEADS / KV_HEADS * dim;
            if (is_touched) continue;
            check.equal(outs[1][at], outs[0][at], "row %d, %d before %d", int(row), int(i), int(token));
            check.equal(grads[1][at], grads[0][at], "dq %d, %d before %d", int(row), int(i), int(token));
        }
    check.is_true(std::isnan(widened(outs[1][token * HEADS * dim + 3])), "row %d is not a number",
                  int(token));
}

CASE(ATTEND, what_is_not_a_number) {
    for (const bool in_values : {true, false})
        for (const int64_t dim : {16, 48})
            for (const int64_t place : {0, 1, 11, 40, 97, 116})
                compare_rows_before(check, in_values, dim, place, 0x7fc0);
}
