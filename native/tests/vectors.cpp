// simd.h against plain code: every bf16 number, roundings at their edges, exp over all that it knows.

#include "vectors.h"

#include <algorithm>
#include <vector>

#include "check.h"

using namespace danlu;

namespace danlu {

#define DECLARE(isa)              \
    namespace isa {               \
    extern const Vectors VECTORS; \
    }                             \
    static const Named the_##isa(#isa, &isa::VECTORS);

struct Named {
    Named(const char* name, const Vectors* vectors) : name(name), vectors(vectors), next(first) {
        first = this;
    }
    const char* name;
    const Vectors* vectors;
    const Named* next;
    static const Named* first;
};
const Named* Named::first = nullptr;

#if defined(DANLU_HAS_avx2)
DECLARE(avx2)
#endif
#if defined(DANLU_HAS_avx512)
DECLARE(avx512)
#endif
#if defined(DANLU_HAS_avx512_bf16)
DECLARE(avx512_bf16)
#endif
#if defined(DANLU_HAS_amx)
DECLARE(amx)
#endif
#if defined(DANLU_HAS_neon)
DECLARE(neon)
#endif
#if defined(DANLU_HAS_neon_dot)
DECLARE(neon_dot)
#endif
#if defined(DANLU_HAS_neon_bf16)
DECLARE(neon_bf16)
#endif

}  // namespace danlu

namespace {

constexpr int32_t SIMD = -1;

const Vectors& of(const Check& check) {
    const Named* one = Named::first;
    while (std::strcmp(one->name, check.isa)) one = one->next;
    return *one->vectors;
}

uint32_t bits_of(float number) {
    uint32_t bits;
    std::memcpy(&bits, &number, sizeof bits);
    return bits;
}

float from_bits(uint32_t bits) {
    float number;
    std::memcpy(&number, &bits, sizeof number);
    return number;
}

// x to the nearest bf16 number; where it lacks a full mantissa, zero of its sign will do.
bool is_narrowed(uint16_t got, float x) {
    const uint32_t bits = bits_of(x);
    const bool is_small = (bits & 0x7f800000) == 0;
    return got == narrowed(x) || (is_small && got == (bits >> 16 & 0x8000));
}

}  // namespace

CASE(SIMD, bf16) {
    const Vectors& vectors = of(check);
    constexpr int64_t ALL = 1 << 16;
    std::vector<uint16_t> all(ALL), got(ALL), got_one(ALL);
    std::vector<float> wide(ALL), wide_one(ALL), x(ALL), twice(ALL);
    for (int64_t i = 0; i < ALL; i++) all[i] = uint16_t(i);
    vectors.widen(all.data(), wide.data(), ALL);
    vectors.widen_one(all.data(), wide_one.data(), ALL);
    for (int64_t i = 0; i < ALL; i++) {
        check.equal(bits_of(wide[i]), i << 16, "widen %x", int(i));
        check.equal(bits_of(wide_one[i]), i << 16, "widen one %x", int(i));
    }
    for (const uint32_t rest : {0x0000, 0x0001, 0x7fff, 0x8000, 0x8001, 0xffff}) {
        for (int64_t i = 0; i < ALL; i++) x[i] = from_bits(uint32_t(i) << 16 | rest);
        vectors.narrow(x.data(), got.data(), ALL);
        vectors.narrow_one(x.data(), got_one.data(), ALL);
        vectors.round(x.data(), twice.data(), ALL);
        for (int64_t i = 0; i < ALL; i++) {
            if (std::isnan(x[i])) {
                check.is_true(std::isnan(widened(got[i])), "narrow NaN %x %x", int(i), rest);
                check.is_true(std::isnan(widened(got_one[i])), "narrow one NaN %x %x", int(i), rest);
                check.is_true(std::isnan(twice[i]), "round NaN %x %x", int(i), rest);
                continue;
            }
            check.is_true(is_narrowed(got[i], x[i]), "narrow %x %x: %x", int(i), rest, got[i]);
            check.equal(got_one[i], narrowed(x[i]), "narrow one %x %x", int(i), rest);
            check.equal(bits_of(twice[i]), uint32_t(got[i]) << 16, "round %x %x", int(i), rest);
        }
    }
}

CASE(SIMD, exp) {
    std::vector<float> x;
    for (int i = -3'600'000; i <= 3'600'000; i += 7) x.push_back(float(i) / 32768);  // to 109.8
    for (const float small : {0.0f, -0.0f, 1e-40f, -1e-40f, 1e-7f, -1e-7f, INFINITY, -INFINITY, NAN, -NAN,
                              3e38f, -3e38f, 88.7f, 88.3f, -87.3f, -87.31f, 1e9f, -1e9f})
        x.push_back(small);
    while (x.size() % 16) x.push_back(1);
    std::vector<float> y(x.size());
    of(check).exp(x.data(), y.data(), int64_t(x.size()));
    double worst = 0;
    for (size_t i = 0; i < x.size(); i++) {
        if (std::isnan(x[i])) check.is_true(std::isnan(y[i]), "exp of NaN");
        else if (x[i] < -87.3f) check.is_true(y[i] == 0, "exp %g: %g", double(x[i]), double(y[i]));
        else if (x[i] > 88.3f) check.is_true(y[i] == INFINITY, "exp %g: %g", double(x[i]), double(y[i]));
        else {
            const double expected = std::exp(double(x[i]));
            const double unit = std::ldexp(1.0, std::ilogb(expected) - 23);
            const double error = std::fabs(y[i] - expected) / unit;
            check.is_true(error < 2, "exp %.9g is off by %.2f units", double(x[i]), error);
            worst = std::max(worst, error);
        }
    }
    check.is_true(worst > 0.25, "nothing was computed");
}

CASE(SIMD, in_one_vector) {
    const Vectors& vectors = of(check);
    const int64_t lanes = vectors.lanes;
    Numbers numbers;
    for (const Fill fill : {Fill::USUAL, Fill::TINY, Fill::LARGE, Fill::WILD})
        for (int again = 0; again < 200; again++) {
            const Room<float> a = numbers.floats(lanes, fill), b = numbers.floats(lanes, fill);
            Room<float> y(lanes);
            Sum sum;
            float largest = -INFINITY;
            for (int64_t i = 0; i < lanes; i++) {
                sum.add(a[i]);
                if (a[i] > largest) largest = a[i];  // NaN is passed over
            }
            check.near(vectors.sum(a.data()), sum, "sum");
            check.equal(bits_of(vectors.greatest(a.data())), bits_of(largest), "largest");
            vectors.larger_of(a.data(), b.data(), y.data(), lanes);
            for (int64_t i = 0; i < lanes; i++)
                check.equal(bits_of(y[i]), bits_of(a[i] > b[i] ? a[i] : b[i]), "larger_of");
        }
}

CASE(SIMD, dot) {
    const Vectors& vectors = of(check);
    const int64_t lanes = vectors.lanes;
    Numbers numbers;
    for (const Fill fill : {Fill::USUAL, Fill::TINY, Fill::LARGE, Fill::WILD})
        for (int again = 0; again < 200; again++) {
            const Room<float> total = numbers.floats(lanes, fill);
            const Room<uint16_t> x = numbers.bf16(2 * lanes, fill), pair = numbers.bf16(2);
            Room<float> y(lanes);
            vectors.dot(total.data(), x.data(), pair.data(), y.data());
            for (int64_t i = 0; i < lanes; i++) {
                Sum sum;
                sum.add(total[i]);
                sum.add(widened(x[2 * i]), widened(pair[0]));
                sum.add(widened(x[2 * i + 1]), widened(pair[1]));
                check.near(y[i], sum, "dot, lane %d", int(i));
            }
        }
}
