// The functions of simd.h, one array to another: what vectors.cpp compares, for each instruction set.
#pragma once

#include <cstdint>

namespace danlu {

// count: a multiple of the set's LANES.
struct Vectors {
    int64_t lanes;
    void (*exp)(const float* x, float* y, int64_t count);
    void (*narrow)(const float* x, uint16_t* y, int64_t count);
    void (*narrow_one)(const float* x, uint16_t* y, int64_t count);
    void (*widen)(const uint16_t* x, float* y, int64_t count);
    void (*widen_one)(const uint16_t* x, float* y, int64_t count);
    void (*round)(const float* x, float* y, int64_t count);
    void (*larger_of)(const float* a, const float* b, float* y, int64_t count);
    // Of one vector.
    float (*sum)(const float* x);
    float (*greatest)(const float* x);
    // total + the products of the two of `pair` with the pairs of x, [2 * lanes].
    void (*dot)(const float* total, const uint16_t* x, const uint16_t* pair, float* y);
};

}  // namespace danlu
