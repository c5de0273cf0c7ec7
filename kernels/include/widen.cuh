// FP8 and NVFP4 weights to bf16, exactly, with integer instructions and one product: for cards that convert neither.
//
// The trick: a small float's exponent and mantissa, moved to where bf16 has them, are that number times a power of two
// (also when it is subnormal, because bf16 has subnormals too). The product with the inverse power is exact.
// Source: the idea is that of Marlin's and FasterTransformer's dequantizers; the code is not theirs.
#pragma once
#include <cstdint>

// a * b of two pairs of bf16, with the sign of zero kept. sm_80 has no mul.bf16x2.
__device__ __forceinline__ uint32_t multiply_bf16x2(uint32_t a, uint32_t b) {
  uint32_t product;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(a), "r"(b), "r"(0x80008000u));
  return product;
}

// A pair of bf16 that are both the power of two `exponent`.
template <int exponent>
__device__ __forceinline__ constexpr uint32_t power_bf16x2() {
  static_assert(exponent > -127 && exponent < 128);
  return uint32_t(exponent + 127) * 0x00800080u;
}

// 16 E4M3 codes of one row to 8 pairs of bf16. NaN stays NaN.
__device__ __forceinline__ void widen_e4m3(uint32_t (&to)[8], const uint4 &codes) {
  const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
  uint32_t nan = 0;
#pragma unroll
  for (int p = 0; p < 8; ++p) {
    // Codes 2p and 2p+1 in the upper bytes of the two halves.
    const uint32_t upper = __byte_perm(words[p / 2], 0, p % 2 ? 0x3424 : 0x1404);
    // A sign, four bits of exponent, three of mantissa: 2^-120 times the number.
    to[p] = multiply_bf16x2((upper & 0x80008000u) | (upper >> 4 & 0x07f007f0u), power_bf16x2<120>());
    if (p % 2 == 0) nan |= (words[p / 2] & 0x7f7f7f7fu) + 0x01010101u;
  }
  // All ones without the sign is NaN, and would read as 480.
  if (nan & 0x80808080u) {
#pragma unroll
    for (int p = 0; p < 8; ++p) {
      const uint32_t upper = __byte_perm(words[p / 2], 0, p % 2 ? 0x3424 : 0x1404) & 0x7f007f00u;
      if (upper >> 16 == 0x7f00u) to[p] |= 0x7fc00000u;
      if ((upper & 0xffffu) == 0x7f00u) to[p] |= 0x7fc0u;
    }
  }
}

// Products of E2M1 codes and their block scale come out of `widen_nvfp4` smaller by this factor.
constexpr float kNvfp4Shrink = 1024;

// A block scale for `widen_nvfp4`: times 2^116, twice in a pair of bf16. NaN stays NaN.
__device__ __forceinline__ uint32_t widen_scale(uint32_t code) {
  // Where f32 has its fields an E4M3 is 2^-120 times itself.
  const float small = __uint_as_float((code & 0x80) << 24 | (code & 0x7f) << 20);
  float scale = small * 0x1p118f * 0x1p118f;
  if ((code & 0x7f) == 0x7f) scale = __uint_as_float(0x7fc00000u);
  const uint32_t upper = __float_as_uint(scale) >> 16;
  return upper << 16 | upper;
}

// The 16 codes of a block, of each byte the high nibble first, times the scale: 8 pairs of bf16. A code has 2 bits of
// significand and a scale 4, so that their product is exact.
__device__ __forceinline__ void widen_nvfp4(uint32_t (&to)[8], const uint2 &codes, uint32_t scale) {
  const uint32_t words[2] = {codes.x, codes.y};
#pragma unroll
  for (int p = 0; p < 8; ++p) {
    const uint32_t word = words[p / 4];
    // Byte p in the upper bytes of both halves, in the second moved up by a nibble.
    constexpr uint32_t select[4] = {0x4000, 0x5010, 0x6020, 0x7030};
    const uint32_t upper = __byte_perm(word, word << 4, select[p % 4]);
    // A sign, two bits of exponent, one of mantissa: 2^-126 times the number.
    to[p] = multiply_bf16x2((upper & 0x80008000u) | (upper >> 6 & 0x01c001c0u), scale);
  }
}
