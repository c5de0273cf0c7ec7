// Eight numbers a lane to E4M3 and NVFP4 codes, with the roundings of the engine's CPU path (comfy-kitchen's eager
// backend).
//
// Everything here is one IEEE operation after the other, over the whole range: bytes do not depend on the card. Divisions
// stay divisions: a quantizer waits for memory, which on an RTX 5090 leaves it about 90 instructions a number (by its
// data sheet: 1.8 TB/s for 2.56 bytes, 170 multiprocessors of 128 lanes at 2.4 GHz).
#pragma once
#include "encode.cuh"
#include "pack.cuh"

constexpr unsigned kAllLanes = 0xffffffffu;

// The largest magnitude of eight numbers, as bits: those are in order, infinity above all numbers and NaN above it.
__device__ __forceinline__ unsigned magnitude(const Floats8 &v) {
  unsigned most = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) most = max(most, __float_as_uint(v.at[j]) & 0x7fffffffu);
  return most;
}

#if __CUDA_ARCH__ >= 890
// E4M3 codes of v * reciprocal. The reciprocal was rounded before: so do comfy-kitchen and the CPU path.
__device__ __forceinline__ uint2 e4m3x8(const Floats8 &v, float reciprocal) {
  float a[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) a[j] = v.at[j] * reciprocal;
  return make_uint2(encode_e4m3x4(a), encode_e4m3x4(a + 4));
}
#endif

#if __CUDA_ARCH__ >= 1200
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
  half.scale = encode_e4m3x2(scale, 0);
  const float total = global * decode_e4m3(half.scale);
  half.codes = 0;
  if (total != 0.0f) {
    float quotients[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) quotients[j] = v.at[j] / total;
    half.codes = encode_e2m1x8(quotients);
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
