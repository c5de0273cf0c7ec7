// GELU, then what the consumer multiplies with: E4M3, or NVFP4 with its block scales in lane order.
//
// The consumer's scale is known before (`out_scale`, its input_scale), so nothing needs a maximum over more than a block
// of 16, and a lane holds whole blocks. What is encoded is the f32 value, never rounded to bf16: the bytes are those of
// the standalone quantizers for that f32 value.
#pragma once
#include "encode.cuh"
#include "epilogue.cuh"

// GELU in its tanh form: x (1 + tanh u) / 2 = x / (1 + e^(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3).
__device__ __forceinline__ float gelu(float x) {
  constexpr float log2_e = 1.4426950408889634f, slope = -2 * 0.7978845608028654f * log2_e;
  const float exponent = x * fmaf(slope * 0.044715f, x * x, slope);
  float power, reciprocal;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(exponent));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(1 + power));
  return x * reciprocal;
}

struct ToGeluE4m3 {
  static constexpr bool split = false;

  template <class Tile>
  static __device__ __forceinline__ void store(const Gemm &gemm, const Sums<Tile::m_tiles> &sums, Place tile, uint32_t) {
    const Spot spot = Spot::of<Tile>(tile);
    const float by = __frcp_rn(*gemm.out_scale);
    uint8_t *out = static_cast<uint8_t *>(gemm.out) + spot.column;
    uint32_t most = 0;
    each_row<Tile>(gemm, sums, spot, [&](int, uint32_t row, float(&numbers)[16]) {
#pragma unroll
      for (int c = 0; c < 16; ++c) numbers[c] = gelu(numbers[c]) * by;
      if (row < gemm.m && spot.column < gemm.n) {
        most = umax(most, magnitude16(numbers));
        *reinterpret_cast<uint4 *>(out + size_t(row) * gemm.n) =
            make_uint4(encode_e4m3x4(numbers), encode_e4m3x4(numbers + 4), encode_e4m3x4(numbers + 8),
                       encode_e4m3x4(numbers + 12));
      }
    });
    report_non_finite(gemm.non_finite, most);
  }
};

#if __CUDA_ARCH__ >= 1200 || !defined(__CUDA_ARCH__)
// n is a multiple of 64.
struct ToGeluNvfp4 {
  static constexpr bool split = false;

  template <class Tile>
  static __device__ __forceinline__ void store(const Gemm &gemm, const Sums<Tile::m_tiles> &sums, Place tile, uint32_t) {
    const Spot spot = Spot::of<Tile>(tile);
    const Divisor scale_2(*gemm.out_scale);
    uint8_t *out = static_cast<uint8_t *>(gemm.out) + spot.column / 2;
    // scales[h] byte u: this lane's block of row 32 h + 8 u + g.
    uint32_t scales[Tile::m_tiles / 2] = {}, most = 0;
    each_row<Tile>(gemm, sums, spot, [&](int index, uint32_t row, float(&numbers)[16]) {
#pragma unroll
      for (int c = 0; c < 16; ++c) numbers[c] = gelu(numbers[c]);
      const Nvfp4Block block = encode_nvfp4(numbers, scale_2);
      scales[index / 4] |= block.scale << index % 4 * 8;
      if (row < gemm.m && spot.column < gemm.n) {
        most = umax(most, block.most);
        *reinterpret_cast<uint2 *>(out + size_t(row) * (gemm.n / 2)) = block.codes;
      }
    });
    report_non_finite(gemm.non_finite, most);
    store_scales<Tile>(gemm, scales, spot);
  }

  // A quad's four lanes hold the four blocks of 64 columns of the rows g, 8 + g, 16 + g, 24 + g. Exchanged, lane t holds
  // those of row 8 t + g, which is the word that lane order wants in lane 4 g + t.
  template <class Tile>
  static __device__ __forceinline__ void store_scales(const Gemm &gemm, const uint32_t (&scales)[Tile::m_tiles / 2],
                                                      Spot spot) {
    const uint32_t lane = threadIdx.x % 32, t = lane % 4;
    const uint32_t k_tiles = (gemm.n + 127) / 128, column = spot.column & ~63u;
#pragma unroll
    for (int h = 0; h < Tile::m_tiles / 2; ++h) {
      uint32_t word = 0;
#pragma unroll
      for (int from = 0; from < 4; ++from) {
        const uint32_t theirs = __shfl_sync(0xffffffff, scales[h], (lane & ~3u) + from);
        word |= (theirs >> t * 8 & 0xff) << from * 8;
      }
      const uint32_t first = spot.row - lane / 4 + h * 32, row = first + t * 8 + lane / 4;
      uint8_t *to = gemm.out_scales + (size_t(first / 64) * k_tiles + column / 128) * 512 + lane * 16 +
                    (column / 64 % 2 * 2 + first / 32 % 2) * 4;
      // The consumer's last K tile may end behind the last column: zero scales there, since 0 * NaN is not 0.
      if (row < gemm.m) *reinterpret_cast<uint32_t *>(to) = column < gemm.n ? word : 0;
    }
  }
};
#endif
