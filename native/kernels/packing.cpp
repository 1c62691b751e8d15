// Weights in the kernels' own order, and back.

#include "../simd.h"
#include "../threads.h"
#include "table.h"

namespace danlu::DANLU_ISA {

void pack(const void* arguments, int threads) {
    const Pack& call = *static_cast<const Pack*>(arguments);
    const int64_t tiles = (call.outputs + TILE - 1) / TILE, pairs = call.inputs / 2;
    parallel_for(threads, tiles, 4, [&](int64_t begin, int64_t end) {
        for (int64_t tile = begin; tile < end; tile++) {
            uint32_t* to = static_cast<uint32_t*>(call.packed) + tile * pairs * TILE;
            for (int64_t lane = 0; lane < TILE; lane++) {
                const int64_t output = tile * TILE + lane;
                const bf16* from = static_cast<const bf16*>(call.weight) + output * call.inputs;
                for (int64_t pair = 0; pair < pairs; pair++)
                    to[pair * TILE + lane] = output < call.outputs ? load_as<uint32_t>(from + 2 * pair) : 0;
            }
        }
    });
}

}  // namespace danlu::DANLU_ISA
