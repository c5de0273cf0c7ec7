// arch: sm_120f sm_89 sm_80
// Norms over a row, fused with what follows: modulation, and the codes of the linears that read the result.
//
// LayerNorm without affine parameters, times 1 + scale, plus shift (adaptive layer norm of DiT, Peebles and Xie, 2023),
// or RMSNorm times a weight (Zhang and Sennrich, 2019). The trick: a row stays in registers, packed, while mean and
// variance are taken one after the other, as exactly as if it were read thrice; then bf16, E4M3 and NVFP4 leave in the
// same pass, as many of them as the linears want. Codes are made from f32, not from the bf16 output.
// Moves 2 bytes of input a number and of output 2 (bf16), 1 (E4M3), 0.5625 (NVFP4); shift and scale stay in the cache.
//
// Sums: a thread adds its columns in order, then butterflies over a warp, then over the warps in order: the same bits in
// every run.
#include <cuda_bf16.h>

#include "quantize.cuh"

// Numbers a thread holds: four times eight columns, so up to 512 threads for rows of 16384.
constexpr int kChunks = 4;

// Rows and what is done to them. row r belongs to batch r / batch_rows.
struct Rows {
  const __nv_bfloat16 *x;       // [rows, width]
  const __nv_bfloat16 *scale;   // LayerNorm: [batches, width], rows `stride` apart; RMSNorm: the weight [width]
  const __nv_bfloat16 *shift;   // LayerNorm only, as scale
  unsigned rows, width, batch_rows, stride;
  float eps;
};

// Null: not wanted. e4m3 and fp4 come with the scales by which their codes count; fp4_scales is in lane order.
struct Outputs {
  __nv_bfloat16 *bf16;
  uint2 *e4m3;
  const float *e4m3_scale;
  unsigned *fp4, *fp4_scales;
  const float *fp4_scale;
  unsigned *not_finite;
};

// The sum over the threads of a block, the same in all of them. `of_warps` holds 16 numbers that nobody else uses.
__device__ __forceinline__ float block_sum(float sum, float *of_warps) {
#pragma unroll
  for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(kAllLanes, sum, by);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = sum;
  __syncthreads();
  const unsigned warps = blockDim.x / 32;
  sum = of_warps[0];
  for (unsigned i = 1; i < warps; ++i) sum += of_warps[i];
  return sum;
}

// What the scales of `Outputs` hold, read before the first store: the compiler may not do that later.
struct Scales {
  float e4m3_reciprocal, fp4;
};

__device__ __forceinline__ void store(const Outputs &to, const Scales &by, const Floats8 &v, unsigned row,
                                      unsigned column, const Rows &of) {
  const bool inside = row < of.rows && column < of.width;
  const size_t at = size_t(row) * of.width + column;
  if (inside && to.bf16) store8(to.bf16 + at, v);
#if __CUDA_ARCH__ >= 890
  if (inside && to.e4m3) to.e4m3[at / 8] = e4m3x8(v, by.e4m3_reciprocal);
#endif
#if __CUDA_ARCH__ >= 1200
  if (to.fp4) {
    const HalfBlock half = nvfp4_half_block(v, by.fp4);
    if (inside) to.fp4[at / 8] = half.codes;
    const unsigned word = scale_word(inside ? half.scale : 0);
    if (threadIdx.x % 8 == 0 && column < (of.width + 127) / 128 * 128)
      to.fp4_scales[lane_order_word(row, column / 64, of.width)] = word;
  }
#endif
}

template <bool kCentred>
__device__ __forceinline__ void norm(const Rows &of, const Outputs &to) {
  __shared__ float of_warps[2][16];
  const unsigned row = blockIdx.x;
  const __nv_bfloat16 *x = of.x + size_t(row) * of.width;
  uint4 held[kChunks];
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    const unsigned column = (threadIdx.x + i * blockDim.x) * 8;
    const bool inside = row < of.rows && column < of.width;
    held[i] = inside ? *reinterpret_cast<const uint4 *>(x + column) : make_uint4(0, 0, 0, 0);
    if (kCentred) sum += sum8(unpack8(held[i]));
  }
  const float mean = kCentred ? block_sum(sum, of_warps[0]) / float(of.width) : 0;
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    const unsigned column = (threadIdx.x + i * blockDim.x) * 8;
    Floats8 v = unpack8(held[i]);
#pragma unroll
    for (int j = 0; j < 8; ++j) v.at[j] = (v.at[j] - mean) * (v.at[j] - mean);
    if (column < of.width) squares += sum8(v);
  }
  const float variance = block_sum(squares, of_warps[1]) / float(of.width);
  const float inverse = 1.0f / sqrtf(variance + of.eps);

  const Scales by = {to.e4m3 ? 1.0f / *to.e4m3_scale : 0, to.fp4 ? *to.fp4_scale : 0};
  const size_t batch = size_t(row / of.batch_rows) * of.stride;
  unsigned most = 0;
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    const unsigned column = (threadIdx.x + i * blockDim.x) * 8;
    // Unpacked again: to keep 32 differences would cost as many registers and half of the occupancy.
    asm volatile("" : "+r"(held[i].x), "+r"(held[i].y), "+r"(held[i].z), "+r"(held[i].w));
    Floats8 v = unpack8(held[i]);
    if (row < of.rows && column < of.width) {
      const Floats8 scale = load8(of.scale + batch + column);
      const Floats8 shift = kCentred ? load8(of.shift + batch + column) : Floats8{};
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float normed = (v.at[j] - mean) * inverse;
        v.at[j] = kCentred ? fmaf(normed, 1.0f + scale.at[j], shift.at[j]) : normed * scale.at[j];
      }
    }
    store(to, by, v, row, column, of);
    most = max(most, magnitude(v));
  }
  if (to.e4m3 || to.fp4) report_non_finite(to.not_finite, most);
}

// gridDim.x: rows, with FP4 those of the padding too. blockDim.x: a multiple of 32, at most 512, with 4 * 8 * blockDim.x >= width; width a multiple of 64.
#define ENTRY(name, centred)                                                                                        \
  extern "C" __global__ void __launch_bounds__(512) name(                                                           \
      const __nv_bfloat16 *x, const __nv_bfloat16 *scale, const __nv_bfloat16 *shift, unsigned rows,                \
      unsigned width, unsigned batch_rows, unsigned stride, float eps, __nv_bfloat16 *bf16, uint2 *e4m3,            \
      const float *e4m3_scale, unsigned *fp4, unsigned *fp4_scales, const float *fp4_scale, unsigned *not_finite) { \
    norm<centred>({x, scale, shift, rows, width, batch_rows, stride, eps},                                          \
                  {bf16, e4m3, e4m3_scale, fp4, fp4_scales, fp4_scale, not_finite});                                \
  }

ENTRY(layer_norm_modulate, true)
ENTRY(rms_norm, false)
