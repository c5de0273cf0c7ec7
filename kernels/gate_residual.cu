// arch: sm_120f sm_80
// residual + gate * y: what ends each half of a block (bf16, a gate per column and batch).
//
// The trick: 16 bytes a lane, and the gate stays in the cache. Moves 4 bytes in and 2 out a number, each once. The product
// and the sum are in f32 and are rounded once.
#include <cuda_bf16.h>

#include "pack.cuh"

// out, residual, y [rows, width]; width a multiple of 8. Row r is of batch r / batch_rows, whose gate [width] begins
// batch * stride numbers after the first. out may be residual.
extern "C" __global__ void __launch_bounds__(256) gate_residual_bf16(
    __nv_bfloat16 *out, const __nv_bfloat16 *residual, const __nv_bfloat16 *y, const __nv_bfloat16 *gate,
    unsigned rows, unsigned width, unsigned batch_rows, unsigned stride) {
  const unsigned chunks = width / 8;
  // Fewer than 2^32 (the launch code sees to it), so the division is of 32 bits.
  const unsigned i = blockIdx.x * 256 + threadIdx.x;
  const unsigned row = i / chunks, column = i % chunks * 8;
  if (row >= rows) return;
  const size_t at = size_t(i) * 8;
  const Floats8 r = load8(residual + at), v = load8(y + at);
  const Floats8 g = load8(gate + size_t(row / batch_rows) * stride + column);
  Floats8 sum;
#pragma unroll
  for (int j = 0; j < 8; ++j) sum.at[j] = fmaf(g.at[j], v.at[j], r.at[j]);
  store8(out + at, sum);
}
