// Matrix tiles (Intel's AMX) for bf16: products of 16 rows with 16 outputs, 32 inputs at a time.
//
// Two blocks of rows are multiplied with two tiles of weights at once, so that four sums are on their way
// and each tile that is read serves twice: 0 to 3 hold sums, 4 and 5 rows, 6 and 7 weights, for which the
// kernels' own order is that of the instruction. Compiled with DANLU_EMULATES_AMX plain code does what the
// instructions do, so that any processor can check what they are asked. Source: Intel's Software Developer's
// Manual: LDTILECFG, TILELOADD, TDPBF16PS, TILESTORED.
#pragma once

#include "rows.h"

#if defined(__AMX_BF16__) || defined(DANLU_EMULATES_AMX)
#define DANLU_HAS_TILES 1

namespace danlu::DANLU_ISA {

// height: the rows of a block.
struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {};

    explicit TileConfig(int64_t height) {
        for (int tile = 0; tile < 6; tile++) rows[tile] = uint8_t(height);
        rows[6] = rows[7] = 16;
    }
};

#if defined(DANLU_EMULATES_AMX)
struct EmulatedTiles {
    int64_t rows[8];
    alignas(64) unsigned char bytes[8][16][64];
};
inline EmulatedTiles& emulated() {
    static thread_local EmulatedTiles tiles;
    return tiles;
}
inline void load_config(const TileConfig& config) {
    emulated() = {};
    for (int tile = 0; tile < 8; tile++) emulated().rows[tile] = config.rows[tile];
}
inline void copy_in(int tile, const void* from, int64_t stride) {
    for (int64_t row = 0; row < emulated().rows[tile]; row++)
        std::memcpy(emulated().bytes[tile][row], static_cast<const char*>(from) + row * stride, 64);
}
inline void copy_out(int tile, void* to, int64_t stride) {
    for (int64_t row = 0; row < emulated().rows[tile]; row++)
        std::memcpy(static_cast<char*>(to) + row * stride, emulated().bytes[tile][row], 64);
}
inline void clear(int tile) { std::memset(emulated().bytes[tile], 0, sizeof emulated().bytes[tile]); }
inline void add_products(int sums, int rows, int weights) {
    for (int64_t row = 0; row < emulated().rows[sums]; row++)
        for (int pair = 0; pair < 16; pair++)
            for (int output = 0; output < 16; output++) {
                const auto a = load_as<uint32_t>(emulated().bytes[rows][row] + 4 * pair);
                const auto b = load_as<uint32_t>(emulated().bytes[weights][pair] + 4 * output);
                unsigned char* at = emulated().bytes[sums][row] + 4 * output;
                float total = load_as<float>(at);
                total += cast<float>(a << 16) * cast<float>(b << 16);
                total += cast<float>(a & 0xffff0000u) * cast<float>(b & 0xffff0000u);
                std::memcpy(at, &total, 4);
            }
}
inline void release_tiles() {}
#define TILE_LOAD(tile, from, stride) copy_in(tile, from, stride)
#define TILE_STORE(tile, to, stride) copy_out(tile, to, stride)
#define TILE_ZERO(tile) clear(tile)
#define TILE_PRODUCT(sums, rows, weights) add_products(sums, rows, weights)
#else
inline void load_config(const TileConfig& config) { _tile_loadconfig(&config); }
inline void release_tiles() { _tile_release(); }
// The numbers of tiles become part of the instructions.
#define TILE_LOAD(tile, from, stride) _tile_loadd(tile, from, stride)
#define TILE_STORE(tile, to, stride) _tile_stored(tile, to, stride)
#define TILE_ZERO(tile) _tile_zero(tile)
#define TILE_PRODUCT(sums, rows, weights) _tile_dpbf16ps(sums, rows, weights)
#endif

// Add the products of blocks of rows, one or two, to their sums with a tile of outputs: [rows][TILE], which
// begin here where is_first. x: as place_in_blocks says; inputs: some of all; step: from block to block.
template <int BLOCKS>
void multiply_blocks(const bf16* x, int64_t step, const bf16* weights, int64_t inputs, int64_t height,
                     bool is_first, float* sums) {
    constexpr int64_t HALF = TILE / 2, BYTES = TILE * sizeof(float);
    float* second = sums + height * TILE;
    if (is_first) {
        TILE_ZERO(0);
        TILE_ZERO(1);
        TILE_ZERO(2);
        TILE_ZERO(3);
    } else {
        TILE_LOAD(0, sums, BYTES);
        TILE_LOAD(1, sums + HALF, BYTES);
        if constexpr (BLOCKS == 2) {
            TILE_LOAD(2, second, BYTES);
            TILE_LOAD(3, second + HALF, BYTES);
        }
    }
    for (int64_t k = 0; k < inputs; k += BLOCK_INPUTS) {
        const bf16* here = weights + k * TILE;
        TILE_LOAD(6, here, 2 * TILE * sizeof(bf16));
        TILE_LOAD(4, x + k * height, BLOCK_INPUTS * sizeof(bf16));
        TILE_PRODUCT(0, 4, 6);
        TILE_LOAD(7, here + 2 * HALF, 2 * TILE * sizeof(bf16));
        TILE_PRODUCT(1, 4, 7);
        if constexpr (BLOCKS == 2) {
            TILE_LOAD(5, x + step + k * height, BLOCK_INPUTS * sizeof(bf16));
            TILE_PRODUCT(2, 5, 6);
            TILE_PRODUCT(3, 5, 7);
        }
    }
    TILE_STORE(0, sums, BYTES);
    TILE_STORE(1, sums + HALF, BYTES);
    if constexpr (BLOCKS == 2) {
        TILE_STORE(2, second, BYTES);
        TILE_STORE(3, second + HALF, BYTES);
    }
}

}  // namespace danlu::DANLU_ISA

#endif
