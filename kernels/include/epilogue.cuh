// What becomes of the sums: alpha and bias, then bf16, with or without a gated residual.
//
// A lane holds 16 neighbouring columns of each of its rows, so everything is done in registers and stored 16 bytes at a
// time.
#pragma once
#include "gemm_shape.cuh"
#include "pack.cuh"

// Where a lane's sums belong: rows row, row + 8, row + 16, .. and columns column .. column + 15.
struct Spot {
  uint32_t row, column;

  template <class Tile>
  static __device__ __forceinline__ Spot of(Place tile) {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    return {tile.m * Tile::rows + warp / 2 * Tile::m_tiles * 16 + lane / 4,
            tile.n * kTileColumns + warp % 2 * 64 + lane % 4 * 16};
  }
};

// alpha * sum + bias.
struct Affine {
  float alpha, bias[16];

  __device__ __forceinline__ Affine(const Gemm &gemm, uint32_t column) {
    alpha = (gemm.a_scale ? *gemm.a_scale : 1.0f) * (gemm.b_scale ? *gemm.b_scale : 1.0f);
#pragma unroll
    for (int half = 0; half < 4; ++half) {
      float4 four = make_float4(0, 0, 0, 0);
      if (gemm.bias && column + half * 4 < gemm.n)
        four = *reinterpret_cast<const float4 *>(gemm.bias + column + half * 4);
      bias[half * 4] = four.x, bias[half * 4 + 1] = four.y, bias[half * 4 + 2] = four.z, bias[half * 4 + 3] = four.w;
    }
  }

  // The 16 numbers of a row: `below` is 0 for the upper 8 rows of the m-tile, 1 for the lower.
  __device__ __forceinline__ void row(float (&to)[16], const float (&sums)[8][4], int below) const {
#pragma unroll
    for (int c = 0; c < 16; ++c) to[c] = fmaf(alpha, sums[c / 2][below * 2 + c % 2], bias[c]);
  }
};

// Calls `finish(row, numbers)` for each of the lane's rows, also for those past the end.
template <class Tile, class Finish>
__device__ __forceinline__ void each_row(const Gemm &gemm, const Sums<Tile::m_tiles> &sums, Spot spot, Finish finish) {
  const Affine affine(gemm, spot.column);
#pragma unroll
  for (int i = 0; i < Tile::m_tiles; ++i)
#pragma unroll
    for (int below = 0; below < 2; ++below) {
      float numbers[16];
      affine.row(numbers, sums[i], below);
      finish(i * 2 + below, spot.row + i * 16 + below * 8, numbers);
    }
}

__device__ __forceinline__ Floats8 eight(const float *from) {
  Floats8 to;
#pragma unroll
  for (int c = 0; c < 8; ++c) to.at[c] = from[c];
  return to;
}

// bf16.
struct ToBf16 {
  static constexpr bool split = false;

  template <class Tile>
  static __device__ __forceinline__ void store(const Gemm &gemm, const Sums<Tile::m_tiles> &sums, Place tile, uint32_t) {
    const Spot spot = Spot::of<Tile>(tile);
    __nv_bfloat16 *out = static_cast<__nv_bfloat16 *>(gemm.out) + spot.column;
    each_row<Tile>(gemm, sums, spot, [&](int, uint32_t row, const float(&numbers)[16]) {
#pragma unroll
      for (int half = 0; half < 2; ++half)
        if (row < gemm.m && spot.column + half * 8 < gemm.n)
          store8(out + size_t(row) * gemm.n + half * 8, eight(numbers + half * 8));
    });
  }
};

// residual + gate * (alpha * sum + bias), rounded to bf16 once. out may be residual.
struct ToGated {
  static constexpr bool split = false;

  template <class Tile>
  static __device__ __forceinline__ void store(const Gemm &gemm, const Sums<Tile::m_tiles> &sums, Place tile, uint32_t) {
    const Spot spot = Spot::of<Tile>(tile);
    __nv_bfloat16 *out = static_cast<__nv_bfloat16 *>(gemm.out) + spot.column;
    const __nv_bfloat16 *residual = gemm.residual + spot.column;
    Floats8 gate[2] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (spot.column + half * 8 < gemm.n) gate[half] = load8(gemm.gate + spot.column + half * 8);
    each_row<Tile>(gemm, sums, spot, [&](int, uint32_t row, const float(&numbers)[16]) {
#pragma unroll
      for (int half = 0; half < 2; ++half)
        if (row < gemm.m && spot.column + half * 8 < gemm.n) {
          const size_t at = size_t(row) * gemm.n + half * 8;
          Floats8 sum = load8(residual + at);
#pragma unroll
          for (int c = 0; c < 8; ++c) sum.at[c] = fmaf(gate[half].at[c], numbers[half * 8 + c], sum.at[c]);
          store8(out + at, sum);
        }
    });
  }
};
