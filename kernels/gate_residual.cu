// arch: sm_120f sm_80
// residual + gate * y: what ends each half of a block (bf16, gate per column).
//
// One read of each operand, 16 bytes a lane. The product and the sum are in f32 and are rounded once.
#include <cuda_bf16.h>

#include "pack.cuh"

// out, residual, y [rows, width]; gate [width]; width a multiple of 8. out may be residual.
extern "C" __global__ void __launch_bounds__(256) gate_residual_bf16(
    __nv_bfloat16 *out, const __nv_bfloat16 *residual, const __nv_bfloat16 *y, const __nv_bfloat16 *gate,
    unsigned rows, unsigned width) {
  const unsigned chunks = width / 8;
  const size_t count = size_t(rows) * chunks;
  for (size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += size_t(gridDim.x) * blockDim.x) {
    const unsigned column = unsigned(i % chunks) * 8;
    const Floats8 r = load8(residual + i * 8), v = load8(y + i * 8), g = load8(gate + column);
    Floats8 sum;
#pragma unroll
    for (int j = 0; j < 8; ++j) sum.at[j] = fmaf(g.at[j], v.at[j], r.at[j]);
    store8(out + i * 8, sum);
  }
}
