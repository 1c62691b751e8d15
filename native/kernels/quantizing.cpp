// Weights into few bits, and back. A lane is an output; a group is all that is looked at together.

#include "../threads.h"
#include "table.h"
#include "weights.h"

namespace danlu::DANLU_ISA {

namespace {

// Weights of one group of LANES outputs.
struct Group {
    Floats numbers[GROUP];
    int64_t count;
};

template <typename Number>
void read(const Quantize& call, int64_t output, int64_t input, Group& group) {
    const int64_t left = call.inputs - input;
    group.count = left < GROUP ? left : GROUP;
    float numbers[GROUP][LANES] = {};
    for (int lane = 0; lane < LANES && output + lane < call.outputs; lane++) {
        const Number* from = static_cast<const Number*>(call.weight) + (output + lane) * call.inputs + input;
        for (int64_t i = 0; i < group.count; i++) numbers[i][lane] = widen(from[i]);
    }
    for (int i = 0; i < GROUP; i++) group.numbers[i] = load(numbers[i]);
}

Floats inverse(Floats scale) { return scale == 0 ? splat(0) : 1 / scale; }

// The nearest of the whole numbers from `least` to `most`, as floats.
Floats rounded(Floats number, float least, float most) {
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    return larger_of(smaller_of(number, splat(most)), splat(least)) + magic - magic;
}

// q = w / scale; returns the scales.
Floats quantize_8(const Group& group, Floats (&q)[GROUP]) {
    Floats most = splat(0);
    for (const Floats number : group.numbers) most = larger_of(most, number < 0 ? -number : number);
    // Rounded first: q then makes up for it.
    const Floats scale = round_to_bf16(most / 127);
    for (int i = 0; i < GROUP; i++)
        q[i] = scale == 0 ? splat(0) : rounded(group.numbers[i] / scale, -127, 127);
    return scale;
}

struct Line {
    Floats scale, zero;
};

Floats level(Floats number, Line line) {
    return rounded((number - line.zero) * inverse(line.scale) + 8, 0, 15) - 8;
}

// q = (w - zero) / scale + 8, with the line of the least squared error that is found. From the whole range
// and from less of it: levels, then the best line for these levels, and again.
Line quantize_4(const Group& group, Floats (&q)[GROUP]) {
    constexpr float SHARES[] = {1, 0.92f, 0.84f};
    constexpr int ROUNDS = 3;
    Floats low = group.numbers[0], high = low;
    for (const Floats number : group.numbers) {
        low = smaller_of(low, number);
        high = larger_of(high, number);
    }
    // What is summed is small: weights from the middle of their range.
    const Floats middle = (low + high) / 2;
    Floats sum_w = splat(0), least = splat(INFINITY);
    for (const Floats number : group.numbers) sum_w += number - middle;
    Line best{splat(0), round_to_bf16(middle)};
    for (const float share : SHARES) {
        const Floats scale = round_to_bf16((high - low) * share / 15);
        Line line{scale, round_to_bf16(middle + scale / 2)};
        for (int round = 0; round < ROUNDS; round++) {
            Floats sum_q = splat(0), sum_qq = splat(0), sum_qw = splat(0), error = splat(0);
            for (const Floats number : group.numbers) {
                const Floats found = level(number, line), off = found * line.scale + line.zero - number;
                sum_q += found;
                sum_qq += found * found;
                sum_qw += found * (number - middle);
                error += off * off;
            }
            const auto is_better = error < least;
            least = is_better ? error : least;
            best.scale = is_better ? line.scale : best.scale;
            best.zero = is_better ? line.zero : best.zero;
            const Floats spread = GROUP * sum_qq - sum_q * sum_q;
            const Floats slope = (GROUP * sum_qw - sum_q * sum_w) / spread;
            line.scale = spread > 0 ? round_to_bf16(slope) : line.scale;
            line.zero = round_to_bf16(middle + (sum_w - line.scale * sum_q) / GROUP);
        }
    }
    for (int i = 0; i < GROUP; i++) q[i] = level(group.numbers[i], best) + 8;
    return best;
}

template <int BITS>
void quantize_tile(const Quantize& call, int64_t tile) {
    constexpr int IN_WORD = 32 / BITS;
    constexpr uint32_t MASK = (1u << BITS) - 1;
    const int64_t words = (call.inputs + IN_WORD - 1) / IN_WORD, groups = (call.inputs + GROUP - 1) / GROUP;
    uint32_t* values = static_cast<uint32_t*>(call.values) + tile * words * TILE;
    bf16* scales = static_cast<bf16*>(call.scales) + tile * groups * TILE * (BITS == 4 ? 2 : 1);
    for (int64_t number = 0; number < groups; number++)
        for (int lane = 0; lane < TILE; lane += LANES) {
            Group group;
            if (call.is_float) read<float>(call, tile * TILE + lane, number * GROUP, group);
            else read<bf16>(call, tile * TILE + lane, number * GROUP, group);
            Floats q[GROUP];
            if constexpr (BITS == 8) {
                store(scales + number * TILE + lane, quantize_8(group, q));
            } else {
                const Line line = quantize_4(group, q);
                const Words both = cast<Words>(line.scale) >> 16 | (cast<Words>(line.zero) & 0xffff0000u);
                std::memcpy(scales + 2 * (number * TILE + lane), &both, sizeof both);
            }
            for (int64_t first = 0; first < group.count; first += IN_WORD) {
                Words word = {};
                for (int i = 0; i < IN_WORD; i++)
                    word |= cast<Words>(__builtin_convertvector(q[first + i], Ints)) << place_of<BITS>(i) &
                            MASK << place_of<BITS>(i);
                std::memcpy(values + (number * GROUP + first) / IN_WORD * TILE + lane, &word, sizeof word);
            }
        }
}

// q at place i of words.
template <int BITS>
Floats number_of(Words words, int i) {
    if constexpr (BITS == 4) return to_floats(cast<Ints>(words >> place_of<BITS>(i) & 15));
    else return to_floats(cast<Ints>(words << (24 - place_of<BITS>(i))) >> 24);
}

template <int BITS, typename Number>
void dequantize_tile(const Dequantize& call, int64_t tile) {
    constexpr int IN_WORD = 32 / BITS, VECTORS = TILE / LANES;
    const int64_t words = (call.inputs + IN_WORD - 1) / IN_WORD, groups = (call.inputs + GROUP - 1) / GROUP;
    const uint32_t* values = static_cast<const uint32_t*>(call.values) + tile * words * TILE;
    const bf16* scales = static_cast<const bf16*>(call.scales) + tile * groups * TILE * (BITS == 4 ? 2 : 1);
    Number* to = static_cast<Number*>(call.weight) + tile * TILE;
    for (int64_t group = 0; group < groups; group++) {
        Floats scale[VECTORS], zero[VECTORS];
        for (int v = 0; v < VECTORS; v++) {
            const int64_t at = group * TILE + LANES * v;
            zero[v] = splat(0);
            if constexpr (BITS == 8) {
                scale[v] = load(scales + at);
            } else {
                const Words both = load_as<Words>(scales + 2 * at);
                scale[v] = cast<Floats>(both << 16);
                zero[v] = cast<Floats>(both & 0xffff0000u) - 8 * scale[v];
            }
        }
        const int64_t end = (group + 1) * GROUP < call.inputs ? (group + 1) * GROUP : call.inputs;
        for (int64_t input = group * GROUP; input < end; input += IN_WORD, values += TILE)
            for (int i = 0; i < IN_WORD && input + i < end; i++, to += call.outputs)
                for (int v = 0; v < VECTORS; v++)
                    store(to + LANES * v,
                          number_of<BITS>(load_as<Words>(values + LANES * v), i) * scale[v] + zero[v]);
    }
}

}  // namespace

void dequantize(const void* arguments, int threads) {
    const Dequantize& call = *static_cast<const Dequantize*>(arguments);
    parallel_for(threads, call.outputs / TILE, 1, [&](int64_t begin, int64_t end) {
        for (int64_t tile = begin; tile < end; tile++) {
            if (call.form == INT8 && call.is_float) dequantize_tile<8, float>(call, tile);
            else if (call.form == INT8) dequantize_tile<8, bf16>(call, tile);
            else if (call.is_float) dequantize_tile<4, float>(call, tile);
            else dequantize_tile<4, bf16>(call, tile);
        }
    });
}

void quantize(const void* arguments, int threads) {
    const Quantize& call = *static_cast<const Quantize*>(arguments);
    parallel_for(threads, (call.outputs + TILE - 1) / TILE, 1, [&](int64_t begin, int64_t end) {
        for (int64_t tile = begin; tile < end; tile++) {
            if (call.form == INT8) quantize_tile<8>(call, tile);
            else quantize_tile<4>(call, tile);
        }
    });
}

}  // namespace danlu::DANLU_ISA
