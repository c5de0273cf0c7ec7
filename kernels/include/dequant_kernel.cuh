// Products of bf16 activations and packed weights: a K tile of the weights is widened in shared memory, then multiplied.
//
// A ring of stages holds what cp.async brings: rows of A, and B's codes (and scales) as they are in memory. Once a stage
// is there the block's threads widen its codes together, each 16 of them, so that a code is widened once a block and the
// warps read bf16 through ldmatrix. (Widening in the registers of each warp was tried: twice the conversions, and the
// operands never lay where mma wants them; 8 to 12 instructions a product instead of 3 to 4.) The columns of B
// interleave as in gemm_operands.cuh, so the epilogues are those.
#pragma once
#include "cp_async.cuh"
#include "mma.cuh"
#include "split_k.cuh"
#include "widen.cuh"

// A K tile: 64 numbers, rows of 128 bytes once they are bf16.
constexpr int kDeepTile = 64, kDeepBytes = 2 * kDeepTile;

__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t *b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void store_shared16(uint32_t address, const uint32_t *from) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(from[0]), "r"(from[1]), "r"(from[2]),
               "r"(from[3])
               : "memory");
}

// Weights of E4M3 codes.
struct E4m3Weights {
  static constexpr uint32_t row_bytes = 64, scale_bytes = 0;
  static constexpr float shrink = 1;

  // Codes 16 part .. 16 part + 15 of a row.
  static __device__ __forceinline__ void load(uint32_t (&to)[8], uint32_t stage, uint32_t row, uint32_t part, bool) {
    widen_e4m3(to, load_shared16(stage + row * row_bytes + part * 16));
  }
};

// Weights of E2M1 codes. A stage's block scales are one of the checkpoint's tiles of 128 rows by 4 scales: byte
// 16 (row % 32) + 4 (row / 32) + block.
struct Nvfp4Weights {
  static constexpr uint32_t row_bytes = 32, scale_bytes = 512;
  static constexpr float shrink = kNvfp4Shrink;

  // `exists`: whether the block is within K. The scales of others may be anything, NaN too.
  static __device__ __forceinline__ void load(uint32_t (&to)[8], uint32_t stage, uint32_t row, uint32_t part,
                                              bool exists) {
    uint2 codes;
    uint32_t scale;
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];"
                 : "=r"(codes.x), "=r"(codes.y)
                 : "r"(stage + row * row_bytes + part * 8));
    const uint32_t at = stage + kTileColumns * row_bytes + row % 32 * 16 + row / 32 * 4 + part;
    asm volatile("ld.shared.u8 %0, [%1];" : "=r"(scale) : "r"(at));
    widen_nvfp4(to, codes, widen_scale(exists ? scale : 0));
  }
};

// Shared memory: the ring, each stage A's rows, B's codes, the scales; behind it one K tile of B in bf16.
template <class Weights, class Tile>
struct Packed {
  static constexpr uint32_t a_bytes = Tile::rows * kDeepBytes;
  static constexpr uint32_t stage_bytes = a_bytes + kTileColumns * Weights::row_bytes + Weights::scale_bytes;
  static constexpr uint32_t ring_bytes = stage_bytes * Tile::stages;

  // 16-byte chunks are swizzled so that the 8 rows of an ldmatrix phase lie in different banks: rows r..r+7 of A, rows
  // 16 i + {0, 1} of B.
  static __device__ __forceinline__ uint32_t a_chunk(uint32_t row, uint32_t chunk) {
    return row * kDeepBytes + (chunk ^ row % 8) * 16;
  }
  static __device__ __forceinline__ uint32_t b_chunk(uint32_t row, uint32_t chunk) {
    return row * kDeepBytes + (chunk ^ (row % 2 + row / 16 % 4 * 2)) * 16;
  }

  // Starts the copies of K tile `k_tile`. Rows past the end are read as the last row: their products are never stored.
  static __device__ __forceinline__ void copy(const Gemm &gemm, Place tile, uint32_t k_tile, uint32_t stage) {
    const uint32_t deep = gemm.k_bytes / 2;
    rows<8, Tile::rows>(gemm.a, {tile.m * Tile::rows, gemm.m}, gemm.k_bytes, k_tile,
                        [=](uint32_t row, uint32_t chunk) { return stage + a_chunk(row, chunk); });
    rows<Weights::row_bytes / 16, kTileColumns>(
        gemm.b, {tile.n * kTileColumns, gemm.n}, deep * Weights::row_bytes / kDeepTile, k_tile,
        [=](uint32_t row, uint32_t chunk) { return stage + a_bytes + row * Weights::row_bytes + chunk * 16; });
    if constexpr (Weights::scale_bytes > 0) {
      const uint32_t k_tiles = (deep + kDeepTile - 1) / kDeepTile, to = stage + a_bytes + kTileColumns * Weights::row_bytes;
      const uint8_t *from = gemm.b_scales + (size_t(tile.n) * k_tiles + k_tile) * Weights::scale_bytes;
      if (threadIdx.x < 32) copy16(to + threadIdx.x * 16, from + threadIdx.x * 16);
    }
  }

  struct Range {
    uint32_t first, total;
  };

  // `count` rows of a matrix whose rows are `bytes` long, `chunks` 16-byte chunks of each.
  template <uint32_t chunks, uint32_t count, class At>
  static __device__ __forceinline__ void rows(const uint8_t *from, Range range, uint32_t bytes, uint32_t k_tile, At at) {
    constexpr uint32_t pass_rows = Tile::threads / chunks;
    const uint32_t chunk = threadIdx.x % chunks, column = (k_tile * chunks + chunk) * 16;
    const uint32_t take = column < bytes ? 16 : 0;
    // Chunks past the end of K are filled with zeros; their address must still be one.
    from += take ? column : 0;
#pragma unroll
    for (uint32_t pass = 0; pass < count; pass += pass_rows) {
      const uint32_t row = pass + threadIdx.x / chunks;
      copy16(at(row, chunk), from + size_t(min(range.first + row, range.total - 1)) * bytes, take);
    }
  }

  // Widens the codes of a stage. `left`: how deep K still is, from this tile on.
  static __device__ __forceinline__ void widen(uint32_t stage, uint32_t wide, uint32_t left) {
    const uint32_t part = threadIdx.x % 4;
#pragma unroll
    for (uint32_t pass = 0; pass < kTileColumns; pass += Tile::threads / 4) {
      const uint32_t row = pass + threadIdx.x / 4;
      uint32_t pairs[8];
      Weights::load(pairs, stage + a_bytes, row, part, part * 16 < left);
#pragma unroll
      for (uint32_t half = 0; half < 2; ++half)
        store_shared16(wide + b_chunk(row, part * 2 + half), pairs + half * 4);
    }
  }

  static __device__ __forceinline__ void multiply(Sums<Tile::m_tiles> &sums, uint32_t stage, uint32_t wide) {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = lane % 8;
    const uint32_t of_a = stage + a_chunk(warp / 2 * Tile::m_tiles * 16 + lane % 16, lane / 16);
    const uint32_t of_b = wide + b_chunk(warp % 2 * 64 + column / 2 * 16 + lane / 16 * 2 + column % 2, lane >> 3 & 1);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      uint32_t a[Tile::m_tiles][4], b[4][4];
#pragma unroll
      for (int i = 0; i < Tile::m_tiles; ++i) load_matrices(a[i], (of_a ^ step * 32) + i * 16 * kDeepBytes);
#pragma unroll
      for (int p = 0; p < 4; ++p) load_matrices(b[p], (of_b ^ step * 32) + p * 4 * kDeepBytes);
#pragma unroll
      for (int i = 0; i < Tile::m_tiles; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) mma_bf16(sums[i][j], a[i], &b[j / 2][j % 2 * 2]);
    }
  }
};

// A block: one tile of the output, or one part of K of it.
template <class Weights, class Tile, class Epilogue>
__device__ __forceinline__ void dequant_kernel(const Gemm &gemm) {
  using Source = Packed<Weights, Tile>;
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t base = shared_address(shared), wide = base + Source::ring_bytes;
  const uint32_t tiles_m = (gemm.m + Tile::rows - 1) / Tile::rows;
  const uint32_t tiles_n = (gemm.n + kTileColumns - 1) / kTileColumns;
  const uint32_t deep = gemm.k_bytes / 2, k_tiles = (deep + kDeepTile - 1) / kDeepTile;
  const uint32_t splits = Epilogue::split ? gemm.splits : 1, split = blockIdx.x / (tiles_m * tiles_n);
  const Place tile = place_of(blockIdx.x - split * tiles_m * tiles_n, tiles_m, tiles_n);
  const uint32_t k_first = k_tiles * split / splits, k_end = k_tiles * (split + 1) / splits;

#pragma unroll
  for (uint32_t s = 0; s < Tile::stages - 1; ++s) {
    if (k_first + s < k_end) Source::copy(gemm, tile, k_first + s, base + s * Source::stage_bytes);
    commit_copies();
  }
  Sums<Tile::m_tiles> sums = {};
  uint32_t stage = base, fill = wide - Source::stage_bytes;
#pragma unroll 1
  for (uint32_t k = k_first; k < k_end; ++k) {
    wait_copies<Tile::stages - 2>();
    // All warps are past the products of the tile before: `fill` and `wide` are free.
    __syncthreads();
    if (k + Tile::stages - 1 < k_end) Source::copy(gemm, tile, k + Tile::stages - 1, fill);
    commit_copies();
    fill = stage;
    Source::widen(stage, wide, deep - k * kDeepTile);
    __syncthreads();
    Source::multiply(sums, stage, wide);
    stage += Source::stage_bytes;
    if (stage == wide) stage = base;
  }
  if constexpr (Weights::shrink != 1) {
#pragma unroll
    for (int i = 0; i < Tile::m_tiles; ++i)
#pragma unroll
      for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int c = 0; c < 4; ++c) sums[i][j][c] *= Weights::shrink;
  }
  Epilogue::template store<Tile>(gemm, sums, tile, blockIdx.x);
}
