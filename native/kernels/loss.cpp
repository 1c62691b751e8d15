// Cross-entropy over logits as they are: read once forward, turned into their gradient in place.

#include "../kernels.h"
#include "../threads.h"
#include "table.h"
#include "tails.h"

namespace danlu::DANLU_ISA {

namespace {

constexpr bf16 LEAST = {0xff80};  // minus infinity
// Numbers whose maximum is found before they are added: they stay in the nearest cache.
constexpr int64_t BLOCK = 4096;

float largest_of(const bf16* numbers, int64_t count) {
    Floats found = splat(-INFINITY);
    for (int64_t i = 0; i < count; i += LANES)
        found = larger_of(load_some(numbers + i, count - i, LEAST), found);
    return greatest(found);
}

// The logarithm of the sum of the exponentials; with a running maximum (Milakov and Gimelshein 2018).
float log_sum_of(const bf16* logits, int64_t size) {
    float top = -INFINITY, total = 0;
    for (int64_t begin = 0; begin < size; begin += BLOCK) {
        const int64_t count = size - begin < BLOCK ? size - begin : BLOCK;
        const float now = std::fmax(top, largest_of(logits + begin, count));
        // Where all so far is -inf there is nothing to scale; -inf - -inf would be no number.
        const float base = now == -INFINITY ? 0 : now;
        Floats powers = splat(0);
        for (int64_t i = 0; i < count; i += LANES)
            powers += exp(load_some(logits + begin + i, count - i, LEAST) - base);
        total = total * std::exp(top - base) + sum(powers);
        top = now;
    }
    return top + std::log(total);
}

}  // namespace

void loss(const void* arguments, int threads) {
    const Loss& call = *static_cast<const Loss*>(arguments);
    parallel_for(threads, call.rows, 1, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const bf16* logits = static_cast<const bf16*>(call.logits) + row * call.size;
            call.log_sums[row] = log_sum_of(logits, call.size);
            // A target that is none makes the loss no number, and reads nothing.
            const int64_t target = call.targets[row];
            const bool is_there = target >= 0 && target < call.size;
            call.losses[row] = call.log_sums[row] - (is_there ? widen(logits[target]) : NAN);
        }
    });
}

void loss_backward(const void* arguments, int threads) {
    const Loss& call = *static_cast<const Loss*>(arguments);
    const float grad = *call.grad;
    parallel_for(threads, call.rows, 1, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            bf16* logits = static_cast<bf16*>(call.logits) + row * call.size;
            const float log_sum = call.log_sums[row];
            const int64_t target = call.targets[row];
            const bool is_there = target >= 0 && target < call.size;
            // Before it is rounded the target's 1 is taken away: behind that it would be lost.
            const float power = is_there ? std::exp(widen(logits[target]) - log_sum) : NAN;
            for (int64_t i = 0; i < call.size; i += LANES) {
                const int64_t count = call.size - i;
                store_some(logits + i, count, exp(load_some(logits + i, count) - log_sum) * grad);
            }
            if (is_there) logits[target] = narrow((power - 1) * grad);
        }
    });
}

}  // namespace danlu::DANLU_ISA
