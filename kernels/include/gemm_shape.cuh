// What the products are called with, their tiles, and the order in which tiles are taken.
#pragma once
#include <cuda_bf16.h>

#include <cstdint>

// D [m, n] = alpha A B^T, A [m, k] and B [n, k] with K contiguous. The launcher's `Arguments` is the same struct.
struct Gemm {
  const uint8_t *a, *b;                // packed codes, rows of k_bytes
  const uint8_t *a_scales, *b_scales;  // NVFP4: block scales in lane order
  const float *a_scale, *b_scale;      // alpha is their product; null is 1
  const float *bias;                   // [n] or null
  void *out;                           // [m, n] bf16, E4M3, or two E2M1 a byte
  uint8_t *out_scales;                 // NVFP4 output: block scales in lane order
  const float *out_scale;              // the consumer's input_scale
  const __nv_bfloat16 *residual, *gate;  // [m, n] and [n]
  uint32_t *non_finite;                // set by the GELU epilogues where a number is not finite; may be null
  float4 *partial;                     // split K: [split][tile][m-tile][n-tile][thread]
  uint32_t m, n, k_bytes, splits;
};

// bytes of K in a tile: two steps of the matrix instructions, four 16-byte chunks.
constexpr int kTileBytes = 64;
constexpr int kTileColumns = 128;

// A block's tile: warps_m x 2 warps, each with m_tiles of 16 rows by 64 columns. `blocks` of them share a multiprocessor.
template <int warps_m_, int m_tiles_, int stages_, int blocks_>
struct Tile {
  static constexpr int warps_m = warps_m_, m_tiles = m_tiles_, stages = stages_, blocks = blocks_;
  static constexpr int rows = warps_m * m_tiles * 16, threads = warps_m * 2 * 32;
  // Scales come for 64 rows at once.
  static constexpr int scale_groups = (rows + 63) / 64 + kTileColumns / 64;
  static constexpr int operand_bytes = (rows + kTileColumns) * kTileBytes;
};

struct Place {
  uint32_t m, n;
};

// Tiles go down columns of 8, so that those which run together share rows of A and of B in the second-level cache.
__device__ __forceinline__ Place place_of(uint32_t tile, uint32_t tiles_m, uint32_t tiles_n) {
  constexpr uint32_t height = 8;
  const uint32_t band = tile / (height * tiles_n), within = tile - band * height * tiles_n;
  const uint32_t rows = min(height, tiles_m - band * height);
  return {band * height + within % rows, within / rows};
}

// A warp's sums: sums[i][j] is the 16x8 product of m-tile i and n-tile j. The n-tiles interleave so that a lane holds 16
// neighbouring columns of a row: column 16 t + 2 j + e is element e of n-tile j (see Operands).
template <int m_tiles>
using Sums = float[m_tiles][8][4];
