// Vectors of one instruction set: the one that this file is compiled for.
//
// Kernels are written once, with these types and functions; native/build.py compiles them for each
// instruction set, and library.cpp takes the best that the processor has. A vector has LANES
// floats. `Pairs` holds 2 * LANES numbers as a product of bf16 numbers takes them: with instructions
// for bf16 as they are, elsewhere as floats. Functions here know no tails: kernels do.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define DANLU_LANES 16
#elif defined(__AVX2__)
#define DANLU_LANES 8
#else
#define DANLU_LANES 4
#endif

#if defined(__AVX512BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define DANLU_MULTIPLIES_BF16 1
#endif

#if defined(__ARM_FEATURE_DOTPROD)
#define DANLU_MULTIPLIES_BYTES 1
#endif

namespace danlu::DANLU_ISA {

constexpr int LANES = DANLU_LANES;

// The upper half of a float.
struct bf16 {
    uint16_t bits;
};

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef int16_t Shorts __attribute__((vector_size(4 * LANES)));

template <typename To, typename From>
inline To cast(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

template <typename Vector, typename Number>
inline Vector load_as(const Number* from) {
    Vector vector;
    std::memcpy(&vector, from, sizeof vector);
    return vector;
}

inline float widen(bf16 number) { return cast<float>(uint32_t(number.bits) << 16); }
inline float widen(float number) { return number; }

// Round to the nearest, ties to even; what is not a number stays one.
inline bf16 narrow(float number) {
    if (std::isnan(number)) return {0x7fc0};
    const uint32_t bits = cast<uint32_t>(number);
    return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline float round_to_bf16(float number) { return widen(narrow(number)); }

inline Floats splat(float number) { return Floats{} + number; }

inline Floats load(const float* from) { return load_as<Floats>(from); }
inline void store(float* to, Floats numbers) { std::memcpy(to, &numbers, sizeof numbers); }

inline Floats load(const bf16* from) {
    return cast<Floats>(__builtin_convertvector(load_as<Halves>(from), Words) << 16);
}

// Round each as `narrow` does; where instructions do it, what is below 2^-126 becomes zero.
inline Halves narrow(Floats numbers) {
#if defined(__AVX512BF16__)
    return cast<Halves>(_mm512_cvtneps_pbh(cast<__m512>(numbers)));
#else
    const Words bits = cast<Words>(numbers);
    const Words rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    const Words is_number = cast<Words>(numbers == numbers);
    return __builtin_convertvector((rounded & is_number) | (0x7fc0 & ~is_number), Halves);
#endif
}

inline void store(bf16* to, Floats numbers) {
    const Halves halves = narrow(numbers);
    std::memcpy(to, &halves, sizeof halves);
}

inline Floats round_to_bf16(Floats numbers) {
    return cast<Floats>(__builtin_convertvector(narrow(numbers), Words) << 16);
}

inline float sum(Floats numbers) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps(cast<__m512>(numbers));
#else
    float parts[LANES];
    store(parts, numbers);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int lane = 0; lane < width; lane++) parts[lane] += parts[lane + width];
    return parts[0];
#endif
}

inline float greatest(Floats numbers) {
    float parts[LANES], found = -INFINITY;
    store(parts, numbers);
    for (float part : parts) found = part > found ? part : found;
    return found;
}

// Whether a lane is not 0.
inline bool has_any(Ints lanes) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask(cast<__m512i>(lanes), cast<__m512i>(lanes)) != 0;
#elif defined(__AVX2__)
    return !_mm256_testz_si256(cast<__m256i>(lanes), cast<__m256i>(lanes));
#else
    int32_t found = 0;
    for (int lane = 0; lane < LANES; lane++) found |= lanes[lane];
    return found != 0;
#endif
}

inline Floats larger_of(Floats a, Floats b) { return a > b ? a : b; }
inline Floats smaller_of(Floats a, Floats b) { return a < b ? a : b; }

// e to the power of each. Error below 2 units in the last place; 0 below -87.3, infinity above 88.3.
// Cody and Waite's reduction to [-ln 2 / 2, ln 2 / 2], then the Taylor series to the 7th power.
inline Floats exp(Floats x) {
    const Floats magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const Floats shifted = x * 1.44269504088896341f + magic;
    const Floats n = shifted - magic;
    Floats r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    Floats p = splat(1.0f / 5040);
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const Floats power = cast<Floats>((cast<Ints>(shifted) - cast<Ints>(magic) + 127) << 23);
    Floats y = p * power;
    y = x < -87.3f ? splat(0.0f) : y;
    y = x > 88.3f ? splat(INFINITY) : y;
    return x == x ? y : x;
}

// 2 * LANES bf16 numbers.
#if defined(__AVX512BF16__)
struct Pairs {
    __m512bh numbers;
};
inline Pairs load_pairs(const bf16* from) { return {load_as<__m512bh>(from)}; }
// The same two numbers in all lanes.
inline Pairs splat_pair(const bf16* two) {
    return {cast<__m512bh>(_mm512_set1_epi32(load_as<int32_t>(two)))};
}
inline Floats dot(Floats total, Pairs a, Pairs b) {
    return cast<Floats>(_mm512_dpbf16_ps(cast<__m512>(total), a.numbers, b.numbers));
}
#elif defined(DANLU_MULTIPLIES_BF16)
struct Pairs {
    bfloat16x8_t numbers;
};
inline Pairs load_pairs(const bf16* from) { return {load_as<bfloat16x8_t>(from)}; }
inline Pairs splat_pair(const bf16* two) {
    return {vreinterpretq_bf16_u32(vdupq_n_u32(load_as<uint32_t>(two)))};
}
inline Floats dot(Floats total, Pairs a, Pairs b) {
    return cast<Floats>(vbfdotq_f32(cast<float32x4_t>(total), a.numbers, b.numbers));
}
#else
struct Pairs {
    Floats even, odd;
};
inline Pairs load_pairs(const bf16* from) {
    const Words words = load_as<Words>(from);
    return {cast<Floats>(words << 16), cast<Floats>(words & 0xffff0000u)};
}
inline Pairs splat_pair(const bf16* two) { return {splat(widen(two[0])), splat(widen(two[1]))}; }
inline Floats dot(Floats total, Pairs a, Pairs b) { return total + a.even * b.even + a.odd * b.odd; }
#endif

// Whole numbers, two for each lane: 2 * LANES of 16 bits.
inline Shorts splat_pair(const int16_t* two) { return cast<Shorts>(Words{} + load_as<uint32_t>(two)); }
inline Ints dot(Ints total, Shorts a, Shorts b) {
#if defined(__AVX512VNNI__)
    return cast<Ints>(_mm512_dpwssd_epi32(cast<__m512i>(total), cast<__m512i>(a), cast<__m512i>(b)));
#elif defined(__AVX512F__)
    return total + cast<Ints>(_mm512_madd_epi16(cast<__m512i>(a), cast<__m512i>(b)));
#elif defined(__AVX2__)
    return total + cast<Ints>(_mm256_madd_epi16(cast<__m256i>(a), cast<__m256i>(b)));
#elif defined(__aarch64__)
    const int16x8_t x = cast<int16x8_t>(a), y = cast<int16x8_t>(b);
    const int32x4_t first = vmull_s16(vget_low_s16(x), vget_low_s16(y));
    return total + cast<Ints>(vpaddq_s32(first, vmull_high_s16(x, y)));
#endif
}
inline Floats to_floats(Ints numbers) { return __builtin_convertvector(numbers, Floats); }

}  // namespace danlu::DANLU_ISA
