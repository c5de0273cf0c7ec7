// Split K: blocks write f32 sums of a part of K, and a second kernel adds the parts in order and runs the epilogue. No
// atomics, so a result never depends on who was first.
//
// The sums go to memory as the lanes hold them, a float4 per 16x8 product and thread, and come back to the same threads:
// every access is 512 neighbouring bytes of a warp, and the epilogues are those of the unsplit kernels.
#pragma once
#include "gemm_kernel.cuh"

template <class Tile>
__device__ __forceinline__ float4 *partial_of(const Gemm &gemm, size_t item) {
  return gemm.partial + item * (Tile::m_tiles * 8 * Tile::threads) + threadIdx.x;
}

struct ToPartial {
  static constexpr bool split = true;

  template <class Tile>
  static __device__ __forceinline__ void store(const Gemm &gemm, const Sums<Tile::m_tiles> &sums, Place, uint32_t item) {
    float4 *to = partial_of<Tile>(gemm, item);
#pragma unroll
    for (int i = 0; i < Tile::m_tiles; ++i)
#pragma unroll
      for (int j = 0; j < 8; ++j)
        to[(i * 8 + j) * Tile::threads] = make_float4(sums[i][j][0], sums[i][j][1], sums[i][j][2], sums[i][j][3]);
  }
};

// A thread's sums of one part.
template <class Tile>
struct Part {
  static constexpr int count = Tile::m_tiles * 8;
  float4 at[count];

  __device__ __forceinline__ void load(const Gemm &gemm, size_t item) {
    const float4 *from = partial_of<Tile>(gemm, item);
#pragma unroll
    for (int i = 0; i < count; ++i) at[i] = from[i * Tile::threads];
  }
};

// A block per tile. It waits for memory and does little else: the next part is under way while one is added.
template <class Tile, class Epilogue>
__device__ __forceinline__ void reduce_kernel(const Gemm &gemm) {
  const uint32_t tiles_m = (gemm.m + Tile::rows - 1) / Tile::rows;
  const uint32_t tiles_n = (gemm.n + kTileColumns - 1) / kTileColumns;
  const size_t tiles = size_t(tiles_m) * tiles_n;
  Sums<Tile::m_tiles> sums = {};
  Part<Tile> next;
  next.load(gemm, blockIdx.x);
#pragma unroll 1
  for (uint32_t split = 0; split < gemm.splits; ++split) {
    const Part<Tile> part = next;
    if (split + 1 < gemm.splits) next.load(gemm, (split + 1) * tiles + blockIdx.x);
#pragma unroll
    for (int i = 0; i < Part<Tile>::count; ++i) {
      float(&sum)[4] = sums[i / 8][i % 8];
      sum[0] += part.at[i].x, sum[1] += part.at[i].y, sum[2] += part.at[i].z, sum[3] += part.at[i].w;
    }
  }
  Epilogue::template store<Tile>(gemm, sums, place_of(blockIdx.x, tiles_m, tiles_n), 0);
}
