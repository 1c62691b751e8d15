// The order that weights are packed in.

#include "check.h"

using namespace danlu;

CASE(PACK, order) {
    Numbers numbers;
    for (const int64_t outputs : {1, 31, 32, 33, 200})
        for (const int64_t inputs : {2, 6, 64}) {
            const int64_t tiles = (outputs + TILE - 1) / TILE;
            const Room<uint16_t> weight = numbers.bf16(outputs * inputs, Fill::WILD);
            Room<uint16_t> packed(tiles * TILE * inputs);
            check.call(PACK, Pack{weight.data(), packed.data(), outputs, inputs});
            for (int64_t at = 0; at < packed.size(); at++) {
                const int64_t half = at % 2, lane = at / 2 % TILE, pair = at / 2 / TILE % (inputs / 2);
                const int64_t output = at / (TILE * inputs) * TILE + lane;
                const int64_t expected = output < outputs ? weight[output * inputs + 2 * pair + half] : 0;
                check.equal(packed[at], expected, "%d x %d at %d", int(outputs), int(inputs), int(at));
            }
        }
}
