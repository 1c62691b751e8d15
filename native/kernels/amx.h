// Matrix tiles (Intel's AMX) for bf16: products of 16 rows with 16 outputs, 32 inputs at a time.
//
// Tiles 0 and 1 hold sums, 2 holds rows, 3 and 4 hold weights, for which the kernels' own order is that of
// the instruction. Compiled with DANLU_EMULATES_AMX plain code does what the instructions do, so that any
// processor can check what they are asked. Source: Intel's Software Developer's Manual: LDTILECFG,
// TILELOADD, TDPBF16PS, TILESTORED.
#pragma once

#include "../kernels.h"
#include "../simd.h"

#if defined(__AMX_BF16__) || defined(DANLU_EMULATES_AMX)
#define DANLU_HAS_TILES 1

namespace danlu::DANLU_ISA {

constexpr int64_t TILE_ROWS = 16, TILE_INPUTS = 32;

struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64};
    uint8_t rows[16] = {};

    explicit TileConfig(int64_t row_count) {
        rows[0] = rows[1] = rows[2] = uint8_t(row_count);
        rows[3] = rows[4] = 16;
    }
};

#if defined(DANLU_EMULATES_AMX)
struct EmulatedTiles {
    int64_t rows[5];
    alignas(64) unsigned char bytes[5][16][64];
};
inline EmulatedTiles& emulated() {
    static thread_local EmulatedTiles tiles;
    return tiles;
}
inline void load_config(const TileConfig& config) {
    emulated() = {};
    for (int tile = 0; tile < 5; tile++) emulated().rows[tile] = config.rows[tile];
}
inline void copy_in(int tile, const void* from, int64_t stride) {
    for (int64_t row = 0; row < emulated().rows[tile]; row++)
        std::memcpy(emulated().bytes[tile][row], static_cast<const char*>(from) + row * stride, 64);
}
inline void copy_out(int tile, void* to, int64_t stride) {
    for (int64_t row = 0; row < emulated().rows[tile]; row++)
        std::memcpy(static_cast<char*>(to) + row * stride, emulated().bytes[tile][row], 64);
}
inline void add_products(int sums, int weights) {
    for (int64_t row = 0; row < emulated().rows[sums]; row++)
        for (int pair = 0; pair < 16; pair++)
            for (int output = 0; output < 16; output++) {
                const auto a = load_as<uint32_t>(emulated().bytes[2][row] + 4 * pair);
                const auto b = load_as<uint32_t>(emulated().bytes[weights][pair] + 4 * output);
                unsigned char* at = emulated().bytes[sums][row] + 4 * output;
                float total = load_as<float>(at);
                total += cast<float>(a << 16) * cast<float>(b << 16);
                total += cast<float>(a & 0xffff0000u) * cast<float>(b & 0xffff0000u);
                std::memcpy(at, &total, 4);
            }
}
inline void clear_sums() { std::memset(emulated().bytes, 0, sizeof emulated().bytes[0] * 2); }
inline void release_tiles() {}
#define TILE_LOAD(tile, from, stride) copy_in(tile, from, stride)
#define TILE_STORE(tile, to, stride) copy_out(tile, to, stride)
#define TILE_PRODUCT(sums, weights) add_products(sums, weights)
#else
inline void load_config(const TileConfig& config) { _tile_loadconfig(&config); }
inline void clear_sums() {
    _tile_zero(0);
    _tile_zero(1);
}
inline void release_tiles() { _tile_release(); }
// The numbers of tiles become part of the instructions.
#define TILE_LOAD(tile, from, stride) _tile_loadd(tile, from, stride)
#define TILE_STORE(tile, to, stride) _tile_stored(tile, to, stride)
#define TILE_PRODUCT(sums, weights) _tile_dpbf16ps(sums, 2, weights)
#endif

// Products of rows, as many as are configured, with a packed tile of TILE outputs: [rows][TILE]. inputs: a
// multiple of TILE_INPUTS.
inline void multiply_tile(const bf16* x, const bf16* weights, int64_t inputs, float* sums) {
    constexpr int64_t HALF = TILE / 2, PAIR_BYTES = 2 * TILE * sizeof(bf16);
    clear_sums();
    for (int64_t k = 0; k < inputs; k += TILE_INPUTS) {
        const bf16* here = weights + k * TILE;
        TILE_LOAD(2, x + k, inputs * sizeof(bf16));
        TILE_LOAD(3, here, PAIR_BYTES);
        TILE_LOAD(4, here + 2 * HALF, PAIR_BYTES);
        TILE_PRODUCT(0, 3);
        TILE_PRODUCT(1, 4);
    }
    TILE_STORE(0, sums, TILE * sizeof(float));
    TILE_STORE(1, sums + HALF, TILE * sizeof(float));
}

}  // namespace danlu::DANLU_ISA

#endif
