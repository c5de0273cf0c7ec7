// arch: sm_120f sm_89
// The largest magnitude of a bf16 tensor, as the scale of a quantizer: for layers whose scale is not calibrated.
//
// Two passes: a maximum for each thread block, then one thread block for those. A maximum does not depend on its order, so
// neither does the scale; it stays on the device. The first pass reads 2 bytes a number, once.
#include <cuda_bf16.h>

#include "quantize.cuh"

// The largest of a thread block's values, in every thread of its first warp.
__device__ __forceinline__ unsigned block_max(unsigned most) {
  __shared__ unsigned of_warps[8];
  most = __reduce_max_sync(kAllLanes, most);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = most;
  __syncthreads();
  return __reduce_max_sync(kAllLanes, of_warps[threadIdx.x % 8]);
}

// maxima [gridDim.x]: bits of magnitudes. x: 8 * chunks numbers.
extern "C" __global__ void __launch_bounds__(256) amax_blocks(
    unsigned *maxima, const __nv_bfloat16 *x, size_t chunks) {
  unsigned most = 0;
  for (size_t i = size_t(blockIdx.x) * 256 + threadIdx.x; i < chunks; i += size_t(gridDim.x) * 256)
    most = max(most, magnitude(load8(x + i * 8)));
  most = block_max(most);
  if (threadIdx.x == 0) maxima[blockIdx.x] = most;
}

__device__ __forceinline__ float amax_of(const unsigned *maxima, unsigned count) {
  unsigned most = 0;
  for (unsigned i = threadIdx.x; i < count; i += 256) most = max(most, maxima[i]);
  return __uint_as_float(block_max(most));
}

// One thread block. amax / (448 * 6), or 1 where that is zero: every code is zero then.
extern "C" __global__ void __launch_bounds__(256) scale_nvfp4(float *scale, const unsigned *maxima, unsigned count) {
  const float of_amax = amax_of(maxima, count) / 2688.0f;
  if (threadIdx.x == 0) *scale = of_amax == 0.0f ? 1.0f : of_amax;
}

// One thread block. amax / 448, or 1 where that has no finite reciprocal: every code is zero then.
extern "C" __global__ void __launch_bounds__(256) scale_e4m3(float *scale, const unsigned *maxima, unsigned count) {
  const float of_amax = amax_of(maxima, count) / 448.0f;
  if (threadIdx.x == 0) *scale = isfinite(1.0f / of_amax) ? of_amax : 1.0f;
}
