// One K tile from shared memory into the sums, per format.
#pragma once
#include "gemm_operands.cuh"

struct E4m3 {
  static constexpr bool scaled = false;

  // Ada and Hopper keep 13 bits of mantissa of a sum of FP8 products and cut off the rest (SageAttention2, Zhang et al.,
  // 2024): over hundreds of K tiles what is cut adds up. There a tile's sums begin at zero and are added in f32.
  template <class Tile>
  static __device__ __forceinline__ void multiply(Sums<Tile::m_tiles> &sums, const Fragments<Tile> &at, uint32_t stage) {
#if __CUDA_ARCH__ >= 1200
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      uint32_t a[Tile::m_tiles][4], b[4][4];
#pragma unroll
      for (int i = 0; i < Tile::m_tiles; ++i) load_matrices(a[i], (stage + at.a ^ step * 32) + i * 16 * kTileBytes);
#pragma unroll
      for (int p = 0; p < 4; ++p) load_matrices(b[p], (stage + at.b ^ step * 32) + p * 4 * kTileBytes);
#pragma unroll
      for (int i = 0; i < Tile::m_tiles; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) mma_e4m3(sums[i][j], a[i], &b[j / 2][j % 2 * 2]);
    }
#else
    uint32_t b[2][4][4];
#pragma unroll
    for (int step = 0; step < 2; ++step)
#pragma unroll
      for (int p = 0; p < 4; ++p) load_matrices(b[step][p], (stage + at.b ^ step * 32) + p * 4 * kTileBytes);
#pragma unroll
    for (int i = 0; i < Tile::m_tiles; ++i) {
      uint32_t a[2][4];
#pragma unroll
      for (int step = 0; step < 2; ++step) load_matrices(a[step], (stage + at.a ^ step * 32) + i * 16 * kTileBytes);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        float of_tile[4] = {};
#pragma unroll
        for (int step = 0; step < 2; ++step) mma_e4m3(of_tile, a[step], &b[step][j / 2][j % 2 * 2]);
#pragma unroll
        for (int c = 0; c < 4; ++c) sums[i][j][c] += of_tile[c];
      }
    }
#endif
  }
};

struct Nvfp4 {
  static constexpr bool scaled = true;

  template <class Tile>
  static __device__ __forceinline__ void multiply(Sums<Tile::m_tiles> &sums, const Fragments<Tile> &at, uint32_t stage) {
    // Words: 2 step + half, a half being 32 rows.
    const uint4 of_a = load_shared16(stage + at.a_scales), of_b = load_shared16(stage + at.b_scales);
    const uint32_t a_words[4] = {of_a.x, of_a.y, of_a.z, of_a.w}, b_words[4] = {of_b.x, of_b.y, of_b.z, of_b.w};
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      uint32_t a[Tile::m_tiles][4], b[4][4];
#pragma unroll
      for (int i = 0; i < Tile::m_tiles; ++i) load_matrices(a[i], (stage + at.a ^ step * 32) + i * 16 * kTileBytes);
#pragma unroll
      for (int p = 0; p < 4; ++p) load_matrices(b[p], (stage + at.b ^ step * 32) + p * 4 * kTileBytes);
      if constexpr (Tile::m_tiles == 4) {
        rows32<0>(sums, a, b, a_words[2 * step], b_words + 2 * step);
        rows32<1>(sums, a, b, a_words[2 * step + 1], b_words + 2 * step);
      } else {
        rows32<0>(sums, a, b, at.second ? a_words[2 * step + 1] : a_words[2 * step], b_words + 2 * step);
      }
    }
  }

  template <int half, int m_tiles>
  static __device__ __forceinline__ void rows32(Sums<m_tiles> &sums, const uint32_t (&a)[m_tiles][4],
                                                const uint32_t (&b)[4][4], uint32_t a_scale, const uint32_t *b_scales) {
    columns<half * 2, 0>(sums[half * 2], a[half * 2], b, a_scale, b_scales);
    columns<half * 2 + 1, 1>(sums[half * 2 + 1], a[half * 2 + 1], b, a_scale, b_scales);
  }

  template <int i, int a_lanes>
  static __device__ __forceinline__ void columns(float (&sums)[8][4], const uint32_t (&a)[4], const uint32_t (&b)[4][4],
                                                 uint32_t a_scale, const uint32_t *b_scales) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      mma_nvfp4<a_lanes, 0>(sums[half * 4 + 0], a, &b[half * 2][0], a_scale, b_scales[half]);
      mma_nvfp4<a_lanes, 1>(sums[half * 4 + 1], a, &b[half * 2][2], a_scale, b_scales[half]);
      mma_nvfp4<a_lanes, 2>(sums[half * 4 + 2], a, &b[half * 2 + 1][0], a_scale, b_scales[half]);
      mma_nvfp4<a_lanes, 3>(sums[half * 4 + 3], a, &b[half * 2 + 1][2], a_scale, b_scales[half]);
    }
  }
};
