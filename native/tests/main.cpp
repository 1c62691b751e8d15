// Runs all cases; `check [INSTRUCTION SET ...]`, the usual: every one that this processor has.
//
// The last line says with which sets; the exit code is 1 where a number is wrong or a kind has no case.

#include <cstring>
#include <thread>
#include <vector>

#include "../threads.h"
#include "check.h"

extern "C" const char* danlu_prepare(const char* isa, danlu::OpenMP openmp);

namespace {

// Stands in for GOMP_parallel.
void team(void (*work)(void*), void* data, unsigned threads, unsigned) {
    std::vector<std::thread> others;
    for (unsigned number = 1; number < threads; number++) others.emplace_back(work, data);
    work(data);
    for (std::thread& other : others) other.join();
}

int64_t faults_of(const char* isa, int threads) {
    danlu_prepare(isa, team);
    int64_t faults = 0;
    for (const danlu::Case* one = danlu::Case::first; one != nullptr; one = one->next) {
        if (one->kind < 0 && threads > 1) continue;
        danlu::Check check(isa, threads);
        // Said before it runs: memory that must not be touched ends the program.
        std::printf("%s, %d threads: %s\n", isa, threads, one->name);
        one->run(check);
        check.is_true(check.comparisons > 0, "nothing was compared");
        faults += check.faults;
    }
    return faults;
}

int64_t kinds_without_a_case() {
    int64_t missing = 0;
    for (int32_t kind = 0; kind < danlu::NUM_KINDS; kind++) {
        bool has_one = false;
        for (const danlu::Case* one = danlu::Case::first; one != nullptr; one = one->next)
            has_one |= one->kind == kind;
        if (!has_one) std::printf("kind %d of kernels.h has no case\n", kind);
        missing += !has_one;
    }
    return missing;
}

}  // namespace

int main(int count, char** words) {
    std::setvbuf(stdout, nullptr, _IONBF, 0);
    std::vector<const char*> sets(words + 1, words + count);
    if (sets.empty()) sets = {"avx2", "avx512", "avx512_bf16", "amx", "neon", "neon_dot", "neon_bf16"};
    int64_t faults = kinds_without_a_case();
    std::vector<const char*> ran;
    for (const char* isa : sets) {
        if (danlu_prepare(isa, team) == nullptr) continue;
        for (int threads : {1, 3}) faults += faults_of(isa, threads);
        ran.push_back(isa);
    }
    std::printf("%s with:", faults ? "WRONG" : "right");
    for (const char* isa : ran) std::printf(" %s", isa);
    std::printf("\n");
    return faults || ran.empty() ? 1 : 0;
}
