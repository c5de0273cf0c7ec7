// A block's life: tiles of the output one after the other, each a walk along K, then the epilogue.
//
// The ring: while stage s is multiplied, stages s+1.. are being filled. One barrier a K tile serves both ends: what was
// copied is visible to all, and the stage that is filled next was read by all. The first copies of the next output tile
// are under way while the epilogue of this one runs, which uses registers only.
#pragma once
#include "gemm_formats.cuh"

struct Work {
  uint32_t tiles_m, tiles_n, k_tiles, splits;

  template <class Tile>
  static __device__ __forceinline__ Work of(const Gemm &gemm, bool split) {
    return {(gemm.m + Tile::rows - 1) / Tile::rows, (gemm.n + kTileColumns - 1) / kTileColumns,
            (gemm.k_bytes + kTileBytes - 1) / kTileBytes, split ? gemm.splits : 1};
  }
  __device__ __forceinline__ uint32_t tiles() const { return tiles_m * tiles_n; }
  // First K tile of a split.
  __device__ __forceinline__ uint32_t k_first(uint32_t split) const { return k_tiles * split / splits; }
};

template <class Format, class Tile, class Epilogue>
__device__ __forceinline__ void gemm_kernel(const Gemm &gemm) {
  using Source = Operands<Tile, Format::scaled>;
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t base = shared_address(shared), end = base + Source::shared_bytes;
  const Work work = Work::of<Tile>(gemm, Epilogue::split);
  const uint32_t tiles = work.tiles(), items = tiles * work.splits;
  Fragments<Tile> at;
  Source source;
  uint32_t item = blockIdx.x;
  if (item >= items) return;

  uint32_t k_count;
  const auto begin = [&](uint32_t item) {
    const uint32_t split = item / tiles, k_first = work.k_first(split);
    k_count = work.k_first(split + 1) - k_first;
    const Place tile = place_of(item - split * tiles, work.tiles_m, work.tiles_n);
    source.aim(gemm, tile, k_first);
    at.aim(tile);
#pragma unroll
    for (int s = 0; s < Tile::stages - 1; ++s) {
      if (s < k_count) source.copy(base + s * Source::stage_bytes);
      commit_copies();
    }
  };
  begin(item);

  while (true) {
    Sums<Tile::m_tiles> sums;
#pragma unroll
    for (int i = 0; i < Tile::m_tiles; ++i)
#pragma unroll
      for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int c = 0; c < 4; ++c) sums[i][j][c] = 0;

    uint32_t stage = base, fill = end - Source::stage_bytes;
#pragma unroll 1
    for (uint32_t k = k_count; k > 0; --k) {
      wait_copies<Tile::stages - 2>();
      __syncthreads();
      if (k > Tile::stages - 1) source.copy(fill);
      commit_copies();
      fill = stage;
      Format::template multiply<Tile>(sums, at, stage);
      stage += Source::stage_bytes;
      if (stage == end) stage = base;
    }
    __syncthreads();
    const uint32_t done = item;
    item += gridDim.x;
    if (item < items) begin(item);
    Epilogue::template store<Tile>(gemm, sums, place_of(done % tiles, work.tiles_m, work.tiles_n), done);
    if (item >= items) return;
  }
}
