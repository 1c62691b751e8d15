// Work on several threads.
//
// They are torch's own OpenMP threads, so nothing competes with torch for the processors, and how they
// wait is decided in one place (src/danlu/device/openmp.py). The library is not linked with OpenMP: it
// is given the function of the one that torch has loaded; without it, work is done by one thread.
#pragma once

#include <atomic>
#include <cstddef>

namespace danlu {

// Source: libgomp's GOMP_parallel(function, data, num_threads, flags).
using OpenMP = void (*)(void (*)(void*), void*, unsigned, unsigned);
void use_openmp(OpenMP parallel);

// Calls work(data) on so many threads at once.
void run_team(void (*work)(void*), void* data, int threads);

// Calls work(begin, end) for pieces of [0, count), each at most `piece` long; whichever thread is free
// takes the next one, so a thread that is held up by another program holds up nobody else.
template <typename Work>
void parallel_for(int threads, ptrdiff_t count, ptrdiff_t piece, const Work& work) {
    if (threads <= 1 || count <= piece) {
        if (count > 0) work(ptrdiff_t(0), count);
        return;
    }
    struct Shared {
        const Work& work;
        ptrdiff_t count, piece;
        std::atomic<ptrdiff_t> next{0};
    } shared{work, count, piece};
    const ptrdiff_t pieces = (count + piece - 1) / piece;
    run_team(
        [](void* data) {
            Shared& shared = *static_cast<Shared*>(data);
            for (;;) {
                const ptrdiff_t begin = shared.next.fetch_add(shared.piece);
                if (begin >= shared.count) return;
                const ptrdiff_t end = begin + shared.piece;
                shared.work(begin, end < shared.count ? end : shared.count);
            }
        },
        &shared, int(threads < pieces ? threads : pieces));
}

// Memory of this thread that lasts until it asks again: at least so many bytes, aligned to 64.
void* scratch(size_t bytes);

}  // namespace danlu
