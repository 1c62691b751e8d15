// Vectors of which only the first numbers are there: where a row ends.
#pragma once

#include "../simd.h"

namespace danlu::DANLU_ISA {

// The first `count` numbers, and `rest` in the lanes behind them. count: what is left of the row.
template <typename Number>
inline Floats load_some(const Number* from, int64_t count, Number rest = {}) {
    if (count >= LANES) return load(from);
    Number part[LANES];
    for (int64_t lane = 0; lane < LANES; lane++) part[lane] = lane < count ? from[lane] : rest;
    return load(part);
}

template <typename Number>
inline void store_some(Number* to, int64_t count, Floats numbers) {
    if (count >= LANES) return store(to, numbers);
    Number part[LANES];
    store(part, numbers);
    for (int64_t lane = 0; lane < count; lane++) to[lane] = part[lane];
}

}  // namespace danlu::DANLU_ISA
