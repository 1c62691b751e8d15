// The functions of simd.h of one instruction set.
//
// Nothing of C++'s library is used here: one copy of it, made for one of the sets, would serve all.

#include "../../simd.h"
#include "../vectors.h"

namespace danlu::DANLU_ISA {

namespace {

template <typename From, typename To, typename Work>
void by_vector(const From* x, To* y, int64_t count, const Work& work) {
    for (int64_t i = 0; i < count; i += LANES) work(x + i, y + i);
}

void exp_of(const float* x, float* y, int64_t count) {
    by_vector(x, y, count, [](const float* from, float* to) { store(to, exp(load(from))); });
}

void narrow_of(const float* x, uint16_t* y, int64_t count) {
    by_vector(x, y, count,
              [](const float* from, uint16_t* to) { store(reinterpret_cast<bf16*>(to), load(from)); });
}

void narrow_one(const float* x, uint16_t* y, int64_t count) {
    for (int64_t i = 0; i < count; i++) y[i] = narrow(x[i]).bits;
}

void widen_of(const uint16_t* x, float* y, int64_t count) {
    by_vector(x, y, count,
              [](const uint16_t* from, float* to) { store(to, load(reinterpret_cast<const bf16*>(from))); });
}

void widen_one(const uint16_t* x, float* y, int64_t count) {
    for (int64_t i = 0; i < count; i++) y[i] = widen(bf16{x[i]});
}

void round_of(const float* x, float* y, int64_t count) {
    by_vector(x, y, count, [](const float* from, float* to) { store(to, round_to_bf16(load(from))); });
}

void larger(const float* a, const float* b, float* y, int64_t count) {
    for (int64_t i = 0; i < count; i += LANES) store(y + i, larger_of(load(a + i), load(b + i)));
}

float sum_of(const float* x) { return sum(load(x)); }

float greatest_of(const float* x) { return greatest(load(x)); }

void dot_of(const float* total, const uint16_t* x, const uint16_t* pair, float* y) {
    const Pairs both = splat_pair(reinterpret_cast<const bf16*>(pair));
    store(y, dot(load(total), load_pairs(reinterpret_cast<const bf16*>(x)), both));
}

}  // namespace

extern const Vectors VECTORS;
const Vectors VECTORS = {LANES,    exp_of, narrow_of, narrow_one,  widen_of, widen_one,
                         round_of, larger, sum_of,    greatest_of, dot_of};

}  // namespace danlu::DANLU_ISA
