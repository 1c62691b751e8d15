#include "check.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace danlu {

const Case* Case::first = nullptr;

Case::Case(int32_t kind, const char* name, void (*run)(Check&))
    : kind(kind), name(name), run(run), next(first) {
    first = this;
}

#if defined(SANITIZED)
void* take_room(size_t bytes, void** numbers) { return *numbers = std::malloc(bytes); }
void give_back_room(void* start, size_t) { std::free(start); }
#else
// Behind the numbers stands a page that nobody may touch.
static size_t pages_for(size_t bytes) {
    const size_t page = sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page + page;
}

void* take_room(size_t bytes, void** numbers) {
    const size_t all = pages_for(bytes), page = sysconf(_SC_PAGESIZE);
    void* start = mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) std::abort();
    char* end = static_cast<char*>(start) + all - page;
    mprotect(end, page, PROT_NONE);
    *numbers = end - bytes;
    return start;
}

void give_back_room(void* start, size_t bytes) { munmap(start, pages_for(bytes)); }
#endif

float widened(uint16_t bits) {
    const uint32_t whole = uint32_t(bits) << 16;
    float number;
    std::memcpy(&number, &whole, sizeof number);
    return number;
}

uint16_t narrowed(float number) {
    uint32_t whole;
    std::memcpy(&whole, &number, sizeof whole);
    if (number != number) return 0x7fc0;
    const uint16_t below = uint16_t(whole >> 16), above = uint16_t(below + 1);
    const uint32_t rest = whole & 0xffff;
    if (rest == 0x8000) return below % 2 == 0 ? below : above;
    return rest < 0x8000 ? below : above;
}

uint32_t Numbers::bits() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return uint32_t(state_ >> 33);
}

float Numbers::next(Fill fill) {
    const float usual = float(bits() % 4096) / 1024 - 2;
    if (fill == Fill::TINY) return usual * 1e-38f;
    if (fill == Fill::LARGE) return usual * 1.6e38f;
    if (fill == Fill::USUAL || bits() % 16) return usual;
    const float wild[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1e-40f, -1e-39f, 3e38f};
    return wild[bits() % 8];
}

Room<float> Numbers::floats(int64_t count, Fill fill) {
    Room<float> made(count);
    for (int64_t i = 0; i < count; i++) made[i] = next(fill);
    return made;
}

Room<uint16_t> Numbers::bf16(int64_t count, Fill fill) {
    Room<uint16_t> made(count);
    for (int64_t i = 0; i < count; i++) made[i] = narrowed(next(fill));
    return made;
}

Room<int8_t> Numbers::int8(int64_t count) {
    Room<int8_t> made(count);
    for (int64_t i = 0; i < count; i++) made[i] = int8_t(bits());
    return made;
}

Room<uint16_t> Numbers::some_nan(int64_t count, int64_t every) {
    Room<uint16_t> made = bf16(count);
    for (int64_t i = below(every); i < count; i += every) made[i] = 0x7fc0;
    return made;
}

// Instructions for bf16 take numbers below this for zero.
constexpr double NORMAL = 0x1p-126;

Sum about(double value, double magnitude, double share) {
    return {value, magnitude * share + 4 * NORMAL, std::fabs(value)};
}

void Sum::add(double a, double b, double share) {
    const double product = a * b;
    value += product;
    if (!std::isfinite(product)) return;
    finite += std::fabs(product);
    slack += std::fabs(product) * (0x1p-18 + share) + NORMAL * (1 + std::fabs(a) + std::fabs(b));
}

void Check::near(uint16_t got, const Sum& sum, const char* what, ...) {
    va_list values;
    va_start(values, what);
    compare(widened(got), 0x1p-8, sum, what, values);
    va_end(values);
}

void Check::near(float got, const Sum& sum, const char* what, ...) {
    va_list values;
    va_start(values, what);
    compare(got, 0x1p-22, sum, what, values);
    va_end(values);
}

void Check::compare(double got, double share, const Sum& sum, const char* what, va_list values) {
    constexpr double MOST = 3.4028234e38 * (1 - 0x1p-8);
    comparisons++;
    const bool may_overflow = sum.finite > MOST;
    bool is_right;
    if (std::isnan(sum.value)) is_right = std::isnan(got);
    else if (may_overflow && !std::isfinite(got)) is_right = true;
    else if (std::isinf(sum.value)) is_right = got == sum.value;
    else is_right = std::fabs(got - sum.value) <= sum.slack + share * std::fabs(sum.value);
    if (!is_right) report(got, sum.value, what, values);
}

void Check::equal(int64_t got, int64_t expected, const char* what, ...) {
    comparisons++;
    if (got == expected) return;
    va_list values;
    va_start(values, what);
    report(double(got), double(expected), what, values);
    va_end(values);
}

void Check::is_true(bool fact, const char* what, ...) {
    comparisons++;
    if (fact) return;
    va_list values;
    va_start(values, what);
    report(0, 1, what, values);
    va_end(values);
}

void Check::report(double got, double expected, const char* what, va_list values) {
    if (faults++ >= 5) return;  // the first tell enough
    std::printf("    WRONG ");
    std::vprintf(what, values);
    std::printf(": %.9g, not %.9g\n", got, expected);
}

}  // namespace danlu
