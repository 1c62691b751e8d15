#include "threads.h"

#include <cstdlib>

namespace danlu {

static OpenMP openmp = nullptr;

void use_openmp(OpenMP parallel) { openmp = parallel; }

void run_team(void (*work)(void*), void* data, int threads) {
    if (openmp != nullptr && threads > 1)
        openmp(work, data, unsigned(threads), 0);
    else
        work(data);
}

namespace {
struct Scratch {
    void* memory = nullptr;
    size_t bytes = 0;
    ~Scratch() { std::free(memory); }
};
}  // namespace

void* scratch(size_t bytes) {
    static thread_local Scratch here;
    if (here.bytes < bytes) {
        std::free(here.memory);
        here.bytes = (bytes + 4095) / 4096 * 4096;
        here.memory = std::aligned_alloc(64, here.bytes);
        if (here.memory == nullptr) std::abort();
    }
    return here.memory;
}

}  // namespace danlu
