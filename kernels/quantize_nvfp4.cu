// arch: sm_120f
// bf16 rows to NVFP4 under a tensor scale that lies on the device: packed codes, block scales in lane order.
//
// The trick: eight columns a lane, so that every load is 16 bytes a lane without gaps; a block of 16 is a pair of lanes
// and needs one shuffle, and the four scale bytes of 64 columns leave as one word, already where the product reads them.
// Moves 2 bytes of input and 0.5625 bytes of output a number, each once. The order of operations is comfy-kitchen's
// eager backend (comfy_kitchen/backends/eager/quantization.py, quantize_nvfp4).
#include <cuda_bf16.h>

#include "quantize.cuh"

// x [rows, k]; codes [rows, k/2] bytes; scales: lane order of [rows, k]; k a multiple of 16; *scale finite, above 0.
// Scales of padding become zero. A warp for each 256 columns
// of a row, padding included. Where a number is not finite, *not_finite becomes 1 and its block means nothing.
extern "C" __global__ void __launch_bounds__(256) quantize_nvfp4(
    unsigned *codes, unsigned *scales, unsigned *not_finite, const __nv_bfloat16 *x, const float *scale,
    unsigned rows, unsigned k) {
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const unsigned padded_rows = (rows + 63) / 64 * 64, padded_k = (k + 127) / 128 * 128;
  const unsigned spans = (padded_k + 255) / 256;
  const unsigned i = blockIdx.x * 8 + warp;
  const unsigned row = i / spans, column = i % spans * 256 + lane * 8;
  if (row >= padded_rows) return;
  const bool inside = row < rows && column < k;
  const size_t at = size_t(row) * k + column;
  Floats8 v = {};
  if (inside) v = load8(x + at);
  const HalfBlock half = nvfp4_half_block(v, *scale);
  if (inside) codes[at / 8] = half.codes;
  const unsigned word = scale_word(inside ? half.scale : 0);
  if (lane % 8 == 0 && column < padded_k) scales[lane_order_word(row, column / 64, k)] = word;
  report_non_finite(not_finite, half.most);
}
