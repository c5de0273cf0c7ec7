// Floats to E4M3 and to NVFP4 blocks: the bytes of src/numerics/{fp8,nvfp4}.rs.
#pragma once
#include <cstdint>

// 1 / d, correctly rounded, and quotients by d: exactly those of an IEEE division while nothing over- or underflows
// (|x / d| and |d| between 2^-100 and 2^100), in 5 instructions. The first correction leaves at most one unit in the last
// place, and from there Markstein's theorem makes the second exact.
struct Divisor {
  float d, reciprocal;

  explicit __device__ __forceinline__ Divisor(float d) : d(d), reciprocal(__frcp_rn(d)) {}

  __device__ __forceinline__ float divide(float x) const {
    // d q - x, not x - d q: so a quotient of -0 stays that.
    float q = x * reciprocal;
    q = fmaf(fmaf(d, q, -x), -reciprocal, q);
    return fmaf(fmaf(d, q, -x), -reciprocal, q);
  }
};

// The largest magnitude as bits: those are in order, infinity above all numbers and NaN above it.
__device__ __forceinline__ uint32_t magnitude16(const float (&x)[16]) {
  uint32_t most = 0;
#pragma unroll
  for (int c = 0; c < 16; ++c) most = umax(most, __float_as_uint(x[c]) & 0x7fffffff);
  return most;
}

// Sets *flag where a magnitude is not finite.
__device__ __forceinline__ void report_non_finite(uint32_t *flag, uint32_t most) {
  if (most >= 0x7f800000 && flag) atomicOr(flag, 1u);
}

// Two E4M3 codes, `low` in the low byte; beyond 448 is 448.
__device__ __forceinline__ uint32_t encode_e4m3x2(float low, float high) {
  uint16_t codes;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
  return codes;
}

__device__ __forceinline__ uint32_t encode_e4m3x4(const float *x) {
  return encode_e4m3x2(x[0], x[1]) | encode_e4m3x2(x[2], x[3]) << 16;
}

#if __CUDA_ARCH__ >= 1200 || !defined(__CUDA_ARCH__)
__device__ __forceinline__ float decode_e4m3(uint32_t code) {
  uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<uint16_t>(code)));
  float x;
  asm("{ .reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low; }" : "=f"(x) : "r"(halves));
  return x;
}

// Eight E2M1 codes, each even column in the high nibble of its byte; beyond 6 is 6.
__device__ __forceinline__ uint32_t encode_e2m1x8(const float (&x)[8]) {
  uint32_t codes;
  asm("{ .reg .b8 b0, b1, b2, b3;\n"
      "cvt.rn.satfinite.e2m1x2.f32 b0, %1, %2;\n"
      "cvt.rn.satfinite.e2m1x2.f32 b1, %3, %4;\n"
      "cvt.rn.satfinite.e2m1x2.f32 b2, %5, %6;\n"
      "cvt.rn.satfinite.e2m1x2.f32 b3, %7, %8;\n"
      "mov.b32 %0, {b0, b1, b2, b3}; }"
      : "=r"(codes)
      : "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3]), "f"(x[4]), "f"(x[5]), "f"(x[6]), "f"(x[7]));
  return codes;
}

// The codes, the scale's code, and the largest magnitude as bits.
struct Nvfp4Block {
  uint2 codes;
  uint32_t scale, most;
};

// A block of 16: scale = e4m3(min(max / 6 / scale_2, 448)), codes = e2m1(x / (scale_2 * scale)), every step rounded to
// f32. A block whose scale rounds to nothing has no signs either.
__device__ __forceinline__ Nvfp4Block encode_nvfp4(const float (&x)[16], const Divisor &scale_2) {
  Nvfp4Block block;
  block.most = magnitude16(x);
  const float scaled = fminf(scale_2.divide(Divisor(6).divide(__uint_as_float(block.most))), 448);
  block.scale = encode_e4m3x2(scaled, 0) & 0xff;
  const float total = scale_2.d * decode_e4m3(block.scale);
  block.codes = make_uint2(0, 0);
  if (total != 0) {
    const Divisor by(total);
    float low[8], high[8];
#pragma unroll
    for (int c = 0; c < 8; ++c) low[c] = by.divide(x[c]), high[c] = by.divide(x[8 + c]);
    block.codes = make_uint2(encode_e2m1x8(low), encode_e2m1x8(high));
  }
  return block;
}
#endif
