#include "threads.h"

#include <cstdlib>

namespace danlu {

static OpenMP openmp = nullptr;

void use_openmp(OpenMP parallel) { openmp = parallel; }

void run_team(void (*work)(void*), void* data, int threads) {
    if (openmp != nullptr && threads > 1) openmp(work, data, unsigned(threads), 0);
    else work(data);
}

// Called when a thread ends, as destructors of thread_local objects are. C++ has them from libstdc++,
// which the library does not need otherwise. Source: glibc's cxa_thread_atexit_impl.c.
extern "C" int __cxa_thread_atexit_impl(void (*function)(void*), void* object, void* library);
extern "C" void* __dso_handle;

void* scratch(size_t bytes) {
    static thread_local void* memory = nullptr;
    static thread_local size_t room = 0;
    if (room < bytes) {
        if (memory == nullptr)
            __cxa_thread_atexit_impl([](void*) { std::free(memory); }, nullptr, &__dso_handle);
        std::free(memory);
        room = (bytes + 4095) / 4096 * 4096;
        memory = std::aligned_alloc(64, room);
        if (memory == nullptr) std::abort();
    }
    return memory;
}

}  // namespace danlu
