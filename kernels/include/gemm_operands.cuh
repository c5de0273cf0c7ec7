// Operands on their way: global memory to shared memory (a ring of stages) to registers.
//
// The trick is in B's rows. A lane's columns of an n-tile are 2t and 2t+1; n-tile j takes, of 64 rows of B, the rows
// 16 t + 2j and 16 t + 2j + 1 instead of 8 neighbours. ldmatrix reads rows from anywhere, so this is free, and over 8
// n-tiles each lane ends up with 16 neighbouring columns: a whole NVFP4 block, and 32 bytes of bf16. No epilogue goes
// through shared memory. B's block scales are stored in that order (`b_scales`).
//
// Chunks of 16 bytes are swizzled so that the 8 rows of an ldmatrix phase lie in different banks: rows r..r+7 for A,
// rows 16 t + {0, 1} for B.
#pragma once
#include "cp_async.cuh"
#include "gemm_shape.cuh"
#include "mma.cuh"

template <class Tile, bool scaled>
struct Operands {
  static constexpr int pass_rows = Tile::threads / 4;
  static constexpr int a_passes = Tile::rows / pass_rows, b_passes = kTileColumns / pass_rows;
  static constexpr int scale_chunks = scaled ? Tile::scale_groups * 32 : 0;
  static constexpr int scale_passes = (scale_chunks + Tile::threads - 1) / Tile::threads;
  static constexpr int stage_bytes = Tile::operand_bytes + scale_chunks * 16;
  static constexpr int shared_bytes = stage_bytes * Tile::stages;

  const uint8_t *a[a_passes], *b[b_passes], *scales[scale_passes ? scale_passes : 1];
  uint32_t to_a, to_b;    // this thread's first chunk in a stage
  uint32_t left;          // bytes of K from this thread's chunk to the end of the row, if positive

  // Rows of B that this thread copies: the same swizzle in every pass.
  static __device__ __forceinline__ uint32_t b_row(uint32_t q, int pass) {
    constexpr int low = pass_rows / 4, per_group = 64 / pass_rows;
    return (pass / per_group) * 64 + (q / low) * 16 + (pass % per_group) * low + q % low;
  }

  // The thread's sources for a tile, from K tile `k_first`. Rows past the end are read as the last row: their products
  // are never stored.
  __device__ __forceinline__ void aim(const Gemm &gemm, Place tile, uint32_t k_first) {
    const uint32_t q = threadIdx.x / 4, chunk = threadIdx.x % 4;
    const uint32_t k = k_first * kTileBytes + chunk * 16;
    left = gemm.k_bytes - k;
#pragma unroll
    for (int i = 0; i < a_passes; ++i) {
      const uint32_t row = min(tile.m * Tile::rows + i * pass_rows + q, gemm.m - 1);
      a[i] = gemm.a + size_t(row) * gemm.k_bytes + k;
    }
#pragma unroll
    for (int i = 0; i < b_passes; ++i) {
      const uint32_t row = min(tile.n * kTileColumns + b_row(q, i), gemm.n - 1);
      b[i] = gemm.b + size_t(row) * gemm.k_bytes + k;
    }
    to_a = q * kTileBytes + (chunk ^ (q >> 1 & 3)) * 16;
    to_b = Tile::rows * kTileBytes + b_row(q, 0) * kTileBytes + (chunk ^ (b_row(q, 0) >> 4 & 3)) * 16;
    if constexpr (scaled) {
      constexpr uint32_t a_groups = Tile::scale_groups - 2;
      const uint32_t k_tiles = (gemm.k_bytes + kTileBytes - 1) / kTileBytes;
#pragma unroll
      for (int i = 0; i < scale_passes; ++i) {
        const uint32_t at = threadIdx.x + i * Tile::threads, group = at / 32;
        const bool of_a = group < a_groups;
        const uint32_t first = of_a ? tile.m * Tile::rows / 64 + group : tile.n * 2 + group - a_groups;
        const uint32_t last = ((of_a ? gemm.m : gemm.n) - 1) / 64;
        scales[i] = (of_a ? gemm.a_scales : gemm.b_scales) +
                    (size_t(min(first, last)) * k_tiles + k_first) * 512 + at % 32 * 16;
      }
    }
  }

  // Starts the copies of the next K tile into the stage at `stage`.
  __device__ __forceinline__ void copy(uint32_t stage) {
    const uint32_t bytes = int32_t(left) > 0 ? 16 : 0;
#pragma unroll
    for (int i = 0; i < a_passes; ++i) {
      copy16(stage + to_a + i * pass_rows * kTileBytes, a[i], bytes);
      a[i] += kTileBytes;
    }
#pragma unroll
    for (int i = 0; i < b_passes; ++i) {
      copy16(stage + to_b + (b_row(0, i) - b_row(0, 0)) * kTileBytes, b[i], bytes);
      b[i] += kTileBytes;
    }
    left -= kTileBytes;
    if constexpr (scaled) {
#pragma unroll
      for (int i = 0; i < scale_passes; ++i) {
        const uint32_t at = threadIdx.x + i * Tile::threads;
        if ((i + 1) * Tile::threads <= scale_chunks || at < scale_chunks)
          copy16(stage + Tile::operand_bytes + at * 16, scales[i]);
        scales[i] += 512;
      }
    }
  }
};

// Where a lane reads in a stage.
template <class Tile>
struct Fragments {
  uint32_t a, b, a_scales, b_scales;
  // Whether a warp of 32 rows has the second half of the 64 rows whose scales are together.
  bool second;

  __device__ __forceinline__ Fragments() {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_m = warp / 2, warp_n = warp % 2;
    const uint32_t a_row = lane % 16;
    a = (warp_m * Tile::m_tiles * 16 + a_row) * kTileBytes + (lane / 16 ^ (a_row >> 1 & 3)) * 16;
    const uint32_t column = lane % 8, b_row = column / 2 * 16 + lane / 16 * 2 + column % 2;
    b = (Tile::rows + warp_n * 64 + b_row) * kTileBytes + ((lane >> 3 & 1) ^ column / 2) * 16;
    a_scales = Tile::operand_bytes + warp_m * Tile::m_tiles / 4 * 512 + lane * 16;
    b_scales = Tile::operand_bytes + (Tile::scale_groups - 2 + warp_n) * 512 + lane * 16;
    second = warp_m % 2;
  }

  __device__ __forceinline__ void aim(Place tile) {
    if constexpr (Tile::rows == 32) second = tile.m % 2;
  }
};
