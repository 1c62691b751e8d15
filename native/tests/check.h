// What compares the library's kernels with plain code, on every instruction set that runs here.
//
// A kernel gets its case in a file of its own:
//
//     CASE(PACK, order) {
//         Numbers numbers;
//         const Room<uint16_t> weight = numbers.bf16(outputs * inputs);
//         Room<uint16_t> packed(tiles * inputs * TILE);
//         check.call(PACK, Pack{weight.data(), packed.data(), outputs, inputs});
//         for (...) check.equal(packed[i], expected, "shape");
//     }
//
// main.cpp runs all cases with each instruction set, by one thread and by several; a kind of call that
// has no case is an error. Cases compute in double, number by number; they must not look like kernels.
// The address sanitizer watches memory from malloc; elsewhere a Room ends where readable memory does.
#pragma once

#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "../kernels.h"

extern "C" void danlu_run(const danlu::Call* calls, int64_t count, int32_t threads);

namespace danlu {

// Memory whose end is that of what may be read; numbers: where `bytes` of it begin.
void* take_room(size_t bytes, void** numbers);
void give_back_room(void* start, size_t bytes);

// Memory for so many numbers, at an address that is only a multiple of their size.
template <typename Number>
class Room {
public:
    explicit Room(int64_t count) : count_(count), bytes_(count * sizeof(Number)) {
        start_ = take_room(bytes_, &numbers_);
        std::memset(numbers_, 0x5a, bytes_);
    }
    Room(Room&& other) noexcept
        : start_(other.start_), numbers_(other.numbers_), count_(other.count_), bytes_(other.bytes_) {
        other.start_ = nullptr;
    }
    Room(const Room&) = delete;
    Room& operator=(const Room&) = delete;
    ~Room() {
        if (start_ != nullptr) give_back_room(start_, bytes_);
    }

    Number* data() { return static_cast<Number*>(numbers_); }
    const Number* data() const { return static_cast<const Number*>(numbers_); }
    Number& operator[](int64_t i) { return data()[i]; }
    const Number& operator[](int64_t i) const { return data()[i]; }
    int64_t size() const { return count_; }

private:
    void* start_;
    void* numbers_ = nullptr;
    int64_t count_;
    size_t bytes_;
};

// bf16 as its bits, by its definition: the upper half of a float.
float widened(uint16_t bits);
uint16_t narrowed(float number);  // to the nearest, ties to even
inline float rounded(float number) { return widened(narrowed(number)); }

// What numbers are like. WILD: among usual ones NaN, infinities, zeros of both signs, and numbers that
// are too small for a full mantissa.
enum class Fill { USUAL, TINY, LARGE, WILD };

// Fixed numbers, the same on every machine.
class Numbers {
public:
    explicit Numbers(uint64_t seed = 1) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
    uint32_t bits();
    int64_t below(int64_t end) { return bits() % end; }
    float next(Fill fill = Fill::USUAL);
    Room<float> floats(int64_t count, Fill fill = Fill::USUAL);
    Room<uint16_t> bf16(int64_t count, Fill fill = Fill::USUAL);
    Room<int8_t> int8(int64_t count);
    // bf16 numbers, of which one in `every` is NaN.
    Room<uint16_t> some_nan(int64_t count, int64_t every);

private:
    uint64_t state_;
};

// A sum in double, and how far float sums in another order may be from it.
struct Sum {
    double value = 0;
    double slack = 0;
    double finite = 0;  // magnitudes of its finite terms: where they are too many for a float, it overflows

    // share: what of a product may be wrong, for factors that were rounded on the way.
    void add(double a, double b = 1, double share = 0);
};

// A number that was computed otherwise. share: what of `magnitude` may be wrong, beside the last rounding.
Sum about(double value, double magnitude, double share);

class Check {
public:
    Check(const char* isa, int threads) : isa(isa), threads(threads) {}

    template <typename Arguments>
    void call(Kind kind, const Arguments& arguments) const {
        const Call one{kind, &arguments};
        danlu_run(&one, 1, threads);
    }

    // Compare a number with its sum: NaN with NaN, an infinity with the same one. A bf16 number may be
    // the neighbour of the nearest one. what: printf's format and its values.
    __attribute__((format(printf, 4, 5))) void near(uint16_t got, const Sum& sum, const char* what, ...);
    __attribute__((format(printf, 4, 5))) void near(float got, const Sum& sum, const char* what, ...);
    __attribute__((format(printf, 4, 5))) void equal(int64_t got, int64_t expected, const char* what, ...);
    __attribute__((format(printf, 3, 4))) void is_true(bool fact, const char* what, ...);

    const char* const isa;
    const int threads;
    int64_t comparisons = 0, faults = 0;

private:
    void compare(double got, double share, const Sum& sum, const char* what, va_list values);
    void report(double got, double expected, const char* what, va_list values);
};

// A case, in the list of all by being declared.
struct Case {
    Case(int32_t kind, const char* name, void (*run)(Check&));
    const int32_t kind;
    const char* const name;
    void (*const run)(Check&);
    const Case* const next;
    static const Case* first;
};

#define CASE(kind, name)                                                                            \
    static void case_##kind##_##name(danlu::Check& check);                                          \
    static const danlu::Case the_case_##kind##_##name(kind, #kind " " #name, case_##kind##_##name); \
    static void case_##kind##_##name(danlu::Check& check)

}  // namespace danlu
