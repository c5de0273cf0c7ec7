// Numbers to E4M3 and NVFP4 codes, with the roundings of the engine's CPU path (comfy-kitchen's eager backend).
//
// Everything here is one IEEE operation after the other: bytes do not depend on the card. Divisions stay divisions; a
// quantizer is bound by memory, which leaves about 90 instructions a number on an RTX 5090 (its data sheet's bandwidth).
#pragma once
#include "pack.cuh"

constexpr unsigned kInfinity = 0x7f800000u;
constexpr unsigned kAllLanes = 0xffffffffu;

// The largest magnitude of eight numbers, as bits: those are in order, infinity above all numbers and NaN above it.
__device__ __forceinline__ unsigned magnitude(const Floats8 &v) {
  unsigned most = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) most = max(most, __float_as_uint(v.at[j]) & 0x7fffffffu);
  return most;
}

// Sets *flag where a lane met a magnitude that is not finite. All lanes of a warp call it.
__device__ __forceinline__ void report(unsigned *flag, unsigned most) {
  if (__any_sync(kAllLanes, most >= kInfinity) && threadIdx.x % 32 == 0) atomicOr(flag, 1u);
}

#if __CUDA_ARCH__ >= 890
// To the nearest, ties to even, saturating at 448; the first number in the lowest byte.
__device__ __forceinline__ unsigned e4m3x4(float a, float b, float c, float d) {
  unsigned short low, high;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(low) : "f"(b), "f"(a));
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(high) : "f"(d), "f"(c));
  return low | unsigned(high) << 16;
}

// E4M3 codes of v * reciprocal. The reciprocal was rounded before: so do comfy-kitchen and the CPU path.
__device__ __forceinline__ uint2 e4m3x8(const Floats8 &v, float reciprocal) {
  float a[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) a[j] = v.at[j] * reciprocal;
  return make_uint2(e4m3x4(a[0], a[1], a[2], a[3]), e4m3x4(a[4], a[5], a[6], a[7]));
}

// The number of an E4M3 code.
__device__ __forceinline__ float e4m3_value(unsigned code) {
  unsigned pair;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(pair) : "h"((unsigned short)code));
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"((unsigned short)(pair & 0xffffu)));
  return value;
}
#endif

#if __CUDA_ARCH__ >= 1200
// To the nearest, ties to even, saturating at 6. An even column lands in the high nibble: the checkpoint's order.
__device__ __forceinline__ unsigned e2m1x8(const float (&v)[8]) {
  unsigned codes;
  asm("{\n"
      ".reg .b8 b0, b1, b2, b3;\n"
      "cvt.rn.satfinite.e2m1x2.f32 b0, %1, %2;\n"
      "cvt.rn.satfinite.e2m1x2.f32 b1, %3, %4;\n"
      "cvt.rn.satfinite.e2m1x2.f32 b2, %5, %6;\n"
      "cvt.rn.satfinite.e2m1x2.f32 b3, %7, %8;\n"
      "mov.b32 %0, {b0, b1, b2, b3};\n"
      "}"
      : "=r"(codes)
      : "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3]), "f"(v[4]), "f"(v[5]), "f"(v[6]), "f"(v[7]));
  return codes;
}

// Half of a block of 16 columns: its codes, and the block's scale and largest magnitude.
struct HalfBlock {
  unsigned codes, scale, most;
};

// Two neighbouring lanes hold a block, the even one its first half. All lanes of a warp call it.
//   scale = e4m3(min(amax / 6 / global, 448)), total = global * scale, code = e2m1(x / total)
// A block that rounds to nothing has no signs either.
__device__ __forceinline__ HalfBlock nvfp4_half_block(const Floats8 &v, float global) {
  HalfBlock half;
  const unsigned own = magnitude(v);
  half.most = max(own, __shfl_xor_sync(kAllLanes, own, 1));
  const float scale = fminf(__uint_as_float(half.most) / 6.0f / global, 448.0f);
  half.scale = e4m3x4(scale, 0.0f, 0.0f, 0.0f);
  const float total = global * e4m3_value(half.scale);
  half.codes = 0;
  if (total != 0.0f) {
    float quotients[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) quotients[j] = v.at[j] / total;
    half.codes = e2m1x8(quotients);
  }
  return half;
}

// The four scale bytes of 64 columns, of which eight lanes hold eight columns each, as a word in the first of them.
__device__ __forceinline__ unsigned scale_word(unsigned scale) {
  unsigned word = scale | __shfl_down_sync(kAllLanes, scale, 2) << 8;
  word |= __shfl_down_sync(kAllLanes, word, 4) << 16;
  return word;
}
#endif

// The word of row `row` and columns 64 step ..+64 among scales in lane order (src/layout.rs), for rows of `k` columns.
__device__ __forceinline__ size_t lane_order_word(unsigned row, unsigned step, unsigned k) {
  const size_t tile = size_t(row / 64) * ((k + 127) / 128) + step / 2;
  const unsigned lane = row % 8 * 4 + row % 32 / 8;
  return tile * 128 + lane * 4 + step % 2 * 2 + row % 64 / 32;
}
