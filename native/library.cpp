// The functions that the library has for others, and the choice of an instruction set.

#include <cstring>

#include "kernels.h"
#include "threads.h"

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace danlu {

#define DECLARE(isa)                \
    namespace isa {                 \
    extern const Kernels KERNELS;   \
    }

#if defined(__x86_64__)
DECLARE(avx512_bf16)
DECLARE(avx512)
DECLARE(avx2)
#elif defined(__aarch64__)
DECLARE(neon_bf16)
DECLARE(neon)
#endif

namespace {

struct Candidate {
    const Kernels* kernels;
    bool runs;
};

// The best first.
int candidates(Candidate (&found)[3]) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    found[0] = {&avx512_bf16::KERNELS, avx512 && bool(__builtin_cpu_supports("avx512bf16"))};
    found[1] = {&avx512::KERNELS, avx512};
    found[2] = {&avx2::KERNELS, avx2};
    return 3;
#elif defined(__aarch64__)
    found[0] = {&neon_bf16::KERNELS, (getauxval(AT_HWCAP2) & HWCAP2_BF16) != 0};
    found[1] = {&neon::KERNELS, true};
    return 2;
#else
    return 0;
#endif
}

// wanted: an instruction set by name; null takes the best.
const Kernels* choose(const char* wanted) {
    Candidate found[3];
    const int count = candidates(found);
    for (int number = 0; number < count; number++)
        if (found[number].runs && (wanted == nullptr || !std::strcmp(wanted, found[number].kernels->name)))
            return found[number].kernels;
    return nullptr;
}

const Kernels* chosen = nullptr;

}  // namespace

}  // namespace danlu

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED int32_t danlu_version() { return danlu::VERSION; }

// Takes the kernels of an instruction set, the best where it is null; returns its name, null where the
// processor has none. openmp: GOMP_parallel, or null.
EXPORTED const char* danlu_prepare(const char* isa, danlu::OpenMP openmp) {
    danlu::use_openmp(openmp);
    danlu::chosen = danlu::choose(isa);
    return danlu::chosen == nullptr ? nullptr : danlu::chosen->name;
}

EXPORTED void danlu_run(const danlu::Call* calls, int64_t count, int32_t threads) {
    for (int64_t number = 0; number < count; number++)
        danlu::chosen->by_kind[calls[number].kind](calls[number].arguments, threads);
}
