// The functions that the library has for others, and the choice of an instruction set.

#include <cstring>

#include "kernels.h"
#include "threads.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#ifndef HWCAP2_BF16  // headers of Linux before 5.6
#define HWCAP2_I8MM (1 << 13)
#define HWCAP2_BF16 (1 << 14)
#endif
#endif

namespace danlu {

#define DECLARE(isa)              \
    namespace isa {               \
    extern const Kernels KERNELS; \
    }

// native/build.py says which sets the compiler knows.
#if defined(DANLU_HAS_amx)
DECLARE(amx)
#endif
#if defined(DANLU_HAS_avx512_bf16)
DECLARE(avx512_bf16)
#endif
#if defined(DANLU_HAS_avx512)
DECLARE(avx512)
#endif
#if defined(DANLU_HAS_avx2)
DECLARE(avx2)
#endif
#if defined(DANLU_HAS_neon_bf16)
DECLARE(neon_bf16)
#endif
#if defined(DANLU_HAS_neon_dot)
DECLARE(neon_dot)
#endif
#if defined(DANLU_HAS_neon)
DECLARE(neon)
#endif

namespace {

struct Candidate {
    const Kernels* kernels;
    bool runs;
};

#if defined(DANLU_HAS_amx)
// Whether the processor has AMX for bf16, and Linux lets this process use it, which it has to be asked.
// Sources: Intel's manual, CPUID leaf 7; Linux, Documentation/arch/x86/xstate.rst.
bool may_use_tiles() {
#if defined(DANLU_EMULATES_AMX)
    return true;
#else
    constexpr unsigned AMX_BF16 = 1u << 22, AMX_TILE = 1u << 24;
    constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & AMX_BF16) == 0 || (d & AMX_TILE) == 0) return false;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#endif
}
#endif

// The best first; returns how many there are.
int candidates(Candidate (&found)[4]) {
    int count = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    [[maybe_unused]] const bool multiplies =
        avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
#endif
#if defined(DANLU_HAS_amx)
    found[count++] = {&amx::KERNELS, multiplies && may_use_tiles()};
#endif
#if defined(DANLU_HAS_avx512_bf16)
    found[count++] = {&avx512_bf16::KERNELS, multiplies};
#endif
#if defined(DANLU_HAS_avx512)
    found[count++] = {&avx512::KERNELS, avx512};
#endif
#if defined(DANLU_HAS_avx2)
    found[count++] = {&avx2::KERNELS, avx2};
#endif
#if defined(__aarch64__)
    const unsigned long wanted = HWCAP2_BF16 | HWCAP2_I8MM;
    [[maybe_unused]] const bool has_dot = getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
    [[maybe_unused]] const bool has_all = has_dot && (getauxval(AT_HWCAP2) & wanted) == wanted;
#endif
#if defined(DANLU_HAS_neon_bf16)
    found[count++] = {&neon_bf16::KERNELS, has_all};
#endif
#if defined(DANLU_HAS_neon_dot)
    found[count++] = {&neon_dot::KERNELS, has_dot};
#endif
#if defined(DANLU_HAS_neon)
    found[count++] = {&neon::KERNELS, true};
#endif
    return count;
}

// wanted: an instruction set by name; null takes the best.
const Kernels* choose(const char* wanted) {
    Candidate found[4];
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
