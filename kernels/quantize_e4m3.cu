// arch: sm_120f sm_89
// bf16 to E4M3 under a tensor scale that lies on the device.
//
// 16 bytes in and 8 bytes out a lane. Moves 2 bytes of input and 1 byte of output a number, each once. Codes are
// e4m3(x * (1 / scale)), as comfy-kitchen's eager backend computes them (quantize_per_tensor_fp8).
#include <cuda_bf16.h>

#include "quantize.cuh"

// x, codes: 8 * chunks numbers; *scale finite and above 0, with a finite reciprocal. Where a number is not finite,
// *not_finite becomes 1.
extern "C" __global__ void __launch_bounds__(256) quantize_e4m3(
    uint2 *codes, unsigned *not_finite, const __nv_bfloat16 *x, const float *scale, size_t chunks) {
  const size_t i = size_t(blockIdx.x) * 256 + threadIdx.x;
  if (i >= chunks) return;
  const Floats8 v = load8(x + i * 8);
  codes[i] = e4m3x8(v, 1.0f / *scale);
  report_non_finite(not_finite, magnitude(v));
}
