// A thread's memory as several arrays.
#pragma once

#include <cstdint>

#include "../threads.h"

namespace danlu::DANLU_ISA {

// Hands out arrays one behind the other; without memory it only counts their bytes.
struct Room {
    char* memory;
    size_t bytes = 0;

    template <typename Number>
    Number* take(int64_t count) {
        char* at = memory == nullptr ? nullptr : memory + bytes;
        bytes += (count * sizeof(Number) + 63) / 64 * 64;
        return reinterpret_cast<Number*>(at);
    }
};

// Arrays(room, sizes...) takes its arrays from the room. They last until this thread asks again.
template <typename Arrays, typename... Sizes>
Arrays in_scratch(Sizes... sizes) {
    Room counting{nullptr};
    Arrays(counting, sizes...);
    Room room{static_cast<char*>(scratch(counting.bytes))};
    return Arrays(room, sizes...);
}

}  // namespace danlu::DANLU_ISA
