// Epilogues for any number of columns: 16 bytes at a time where rows allow it, number by number where they do not.
#pragma once
#include "epilogue.cuh"

// `Aligned` serves columns that are multiples of 8; the bias is then a multiple of 16 bytes too.
template <class Aligned, bool gated>
struct Ragged {
  static constexpr bool split = false;

  template <class Tile>
  static __device__ __forceinline__ void store(const Gemm &gemm, const Sums<Tile::m_tiles> &sums, Place tile,
                                               uint32_t item) {
    if (gemm.n % 8 == 0) {
      Aligned::template store<Tile>(gemm, sums, tile, item);
      return;
    }
    const Spot spot = Spot::of<Tile>(tile);
    const float alpha = (gemm.a_scale ? *gemm.a_scale : 1.0f) * (gemm.b_scale ? *gemm.b_scale : 1.0f);
    __nv_bfloat16 *out = static_cast<__nv_bfloat16 *>(gemm.out);
#pragma unroll
    for (int c = 0; c < 16; ++c) {
      const uint32_t column = spot.column + c;
      if (column >= gemm.n) continue;
      const float bias = gemm.bias ? gemm.bias[column] : 0.0f;
      const float gate = gated ? __bfloat162float(gemm.gate[column]) : 0.0f;
#pragma unroll
      for (int i = 0; i < Tile::m_tiles; ++i)
#pragma unroll
        for (int below = 0; below < 2; ++below) {
          const uint32_t row = spot.row + i * 16 + below * 8;
          if (row >= gemm.m) continue;
          const size_t at = size_t(row) * gemm.n + column;
          float number = fmaf(alpha, sums[i][c / 2][below * 2 + c % 2], bias);
          if (gated) number = fmaf(gate, number, __bfloat162float(gemm.residual[at]));
          out[at] = __float2bfloat16_rn(number);
        }
    }
  }
};

using RaggedBf16 = Ragged<ToBf16, false>;
using RaggedGated = Ragged<ToGated, true>;
