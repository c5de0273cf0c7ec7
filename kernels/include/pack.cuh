// Eight bf16 numbers as one 16-byte access.
#pragma once
#include <cuda_bf16.h>

struct Floats8 {
  float at[8];
};

__device__ __forceinline__ Floats8 load8(const __nv_bfloat16 *from) {
  const uint4 packed = *reinterpret_cast<const uint4 *>(from);
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

__device__ __forceinline__ void store8(__nv_bfloat16 *to, const Floats8 &from) {
  unsigned words[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(from.at[2 * j], from.at[2 * j + 1]);
    words[j] = *reinterpret_cast<const unsigned *>(&pair);
  }
  *reinterpret_cast<uint4 *>(to) = make_uint4(words[0], words[1], words[2], words[3]);
}
