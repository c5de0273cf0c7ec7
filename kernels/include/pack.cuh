// Eight bf16 numbers as one 16-byte access.
#pragma once
#include <cuda_bf16.h>

struct Floats8 {
  float at[8];
};

__device__ __forceinline__ Floats8 unpack8(const uint4 &packed) {
  const unsigned words[4] = {packed.x, packed.y, packed.z, packed.w};
  Floats8 to;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    // A bf16 is the upper half of an f32.
    to.at[2 * j] = __uint_as_float(words[j] << 16);
    to.at[2 * j + 1] = __uint_as_float(words[j] & 0xffff0000u);
  }
  return to;
}

__device__ __forceinline__ Floats8 load8(const __nv_bfloat16 *from) {
  return unpack8(*reinterpret_cast<const uint4 *>(from));
}

__device__ __forceinline__ uint4 pack8(const Floats8 &from) {
  unsigned words[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(from.at[2 * j], from.at[2 * j + 1]);
    words[j] = *reinterpret_cast<const unsigned *>(&pair);
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

__device__ __forceinline__ void store8(__nv_bfloat16 *to, const Floats8 &from) {
  *reinterpret_cast<uint4 *>(to) = pack8(from);
}

// Pairs, pairs of pairs, and those.
__device__ __forceinline__ float sum8(const Floats8 &v) {
  return ((v.at[0] + v.at[1]) + (v.at[2] + v.at[3])) + ((v.at[4] + v.at[5]) + (v.at[6] + v.at[7]));
}
