// RMSNorm of a head and its rotation, eight columns a lane.
#pragma once
#include "pack.cuh"

// Sum of squares over the `lanes` neighbouring lanes that hold a head. All lanes of the warp call it.
__device__ __forceinline__ float head_squares(const Floats8 &v, unsigned lanes) {
  float squares = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) squares = fmaf(v.at[j], v.at[j], squares);
  for (unsigned by = lanes / 2; by > 0; by /= 2) squares += __shfl_xor_sync(~0u, squares, by);
  return squares;
}

__device__ __forceinline__ float head_inverse(float squares, unsigned head_dim, float eps) {
  return 1.0f / sqrtf(squares / float(head_dim) + eps);
}

// v * inverse * weight, then adjacent pairs turned by the angles of this lane's four pairs.
__device__ __forceinline__ void norm_rotate(
    Floats8 &v, float inverse, const Floats8 &weight, const float *cos, const float *sin) {
  const float4 c = *reinterpret_cast<const float4 *>(cos);
  const float4 n = *reinterpret_cast<const float4 *>(sin);
  const float cosines[4] = {c.x, c.y, c.z, c.w}, sines[4] = {n.x, n.y, n.z, n.w};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float a = v.at[2 * j] * inverse * weight.at[2 * j];
    const float b = v.at[2 * j + 1] * inverse * weight.at[2 * j + 1];
    v.at[2 * j] = fmaf(a, cosines[j], -(b * sines[j]));
    v.at[2 * j + 1] = fmaf(a, sines[j], b * cosines[j]);
  }
}
