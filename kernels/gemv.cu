// arch: sm_120f sm_80
// A few rows times a weight: the timestep's layers and the modulations, weight-only (bf16, E4M3 or NVFP4 weights).
//
// The time is that of reading the weight, once for each 10 rows of x. The trick: a warp takes four rows of the weight, 16
// columns a lane at a time (16 bytes of E4M3), and rows of x lie in shared memory so that 16-byte reads of neighbouring
// lanes have no bank conflict and serve four rows of the weight. Codes become numbers by moving their bits into an f16,
// whose exponent counts from elsewhere; that power of two goes into the tensor's scale.
// Moves 2, 1 or 0.5625 bytes a weight. Sums are in f32: a lane adds its columns in order, then butterflies over the warp.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "quantize.cuh"

constexpr int kRows = 4;       // of the weight, a warp
constexpr int kWarps = 8;
constexpr int kColumns = 512;  // of a step: 16 a lane

__device__ __forceinline__ float not_a_number() { return __uint_as_float(0x7fc00000u); }

// Two f16 at once.
__device__ __forceinline__ float2 widen(unsigned halves) { return __half22float2(*reinterpret_cast<__half2 *>(&halves)); }

// Of each format: 16 columns as they are stored, and four of them (of 4) as numbers times 1 / kUnit.
struct Bf16Weight {
  static constexpr float kUnit = 1;
  struct Packed {
    uint4 half[2];
  };
  const __nv_bfloat16 *values;

  __device__ __forceinline__ Packed load(unsigned row, unsigned column, unsigned k) const {
    const uint4 *from = reinterpret_cast<const uint4 *>(values + size_t(row) * k + column);
    return {from[0], from[1]};
  }

  static __device__ __forceinline__ float4 quad(const Packed &packed, int i) {
    const Floats8 v = unpack8(packed.half[i / 2]);
    const int at = i % 2 * 4;
    return make_float4(v.at[at], v.at[at + 1], v.at[at + 2], v.at[at + 3]);
  }

  static __device__ __forceinline__ bool has_nan(const Packed &) { return false; }  // it is multiplied as it is
};

struct E4m3Weight {
  static constexpr float kUnit = 256;  // an f16 counts exponents from -15, E4M3 from -7
  using Packed = uint4;
  const unsigned char *codes;

  __device__ __forceinline__ Packed load(unsigned row, unsigned column, unsigned k) const {
    return *reinterpret_cast<const uint4 *>(codes + size_t(row) * k + column);
  }

  static __device__ __forceinline__ float4 quad(const Packed &packed, int i) {
    const unsigned word = i == 0 ? packed.x : i == 1 ? packed.y : i == 2 ? packed.z : packed.w;
    const unsigned even = __byte_perm(word, 0, 0x2404), odd = __byte_perm(word, 0, 0x3414);
    const float2 a = widen((even & 0x80008000u) | (even & 0x7f007f00u) >> 1);
    const float2 b = widen((odd & 0x80008000u) | (odd & 0x7f007f00u) >> 1);
    return make_float4(a.x, b.x, a.y, b.y);
  }

  // All ones without the sign is NaN, and would read as 480.
  static __device__ __forceinline__ bool has_nan(const Packed &packed) {
    const auto carry = [](unsigned word) { return (word & 0x7f7f7f7fu) + 0x01010101u; };
    return (carry(packed.x) | carry(packed.y) | carry(packed.z) | carry(packed.w)) & 0x80808080u;
  }
};

struct Fp4Weight {
  static constexpr float kUnit = 16384.0f * 256;  // E2M1 counts from -1; and that of the block scale
  struct Packed {
    uint2 codes;
    float scale;
  };
  const unsigned char *codes, *scales;  // scales: lane order

  __device__ __forceinline__ Packed load(unsigned row, unsigned column, unsigned k) const {
    const unsigned scale = scales[lane_order_word(row, column / 64, k) * 4 + column / 16 % 4];
    const uint2 *from = reinterpret_cast<const uint2 *>(codes + (size_t(row) * k + column) / 2);
    return {*from, widen(scale << 7).x};
  }

  static __device__ __forceinline__ float4 quad(const Packed &packed, int i) {
    const unsigned bytes = __byte_perm(i < 2 ? packed.codes.x : packed.codes.y, 0, i % 2 == 0 ? 0x4140 : 0x4342);
    // A byte's high nibble is the even column.
    const float2 even = widen((bytes & 0x00800080u) << 8 | (bytes & 0x00700070u) << 5);
    const float2 odd = widen((bytes & 0x00080008u) << 12 | (bytes & 0x00070007u) << 9);
    const float by = packed.scale;
    return make_float4(even.x * by, odd.x * by, even.y * by, odd.y * by);
  }

  // A block scale of 0x7f, which would read as 480: 2^-8 of it is 1.875, which no other code gives.
  static __device__ __forceinline__ bool has_nan(const Packed &packed) { return fabsf(packed.scale) == 1.875f; }
};

// 2 * kBy sums of each lane; what comes back is the sum over lanes of number lane % (2 * kBy). From 32 numbers on that are
// 31 shuffles instead of 160.
template <int kBy>
__device__ __forceinline__ float transposed_sum(const float (&v)[2 * kBy]) {
  const bool upper = threadIdx.x & kBy;
  float sums[kBy];
#pragma unroll
  for (int j = 0; j < kBy; ++j) {
    const float kept = upper ? v[j + kBy] : v[j], sent = upper ? v[j] : v[j + kBy];
    sums[j] = kept + __shfl_xor_sync(kAllLanes, sent, kBy);
  }
  if constexpr (kBy > 1) {
    return transposed_sum<kBy / 2>(sums);
  } else {
    return sums[0];
  }
}

// Where results go: f32 or bf16, the other null.
struct Out {
  float *f32;
  __nv_bfloat16 *bf16;
  bool silu;
};

// out [m, n] = act(x [m, k] weight [n, k]^T * *scale + bias [n]); k a multiple of 16; no scale is 1, no bias 0. Block y takes
// rows kM * y ..+kM.
template <int kM, typename Weight>
__device__ __forceinline__ void gemv(const Out &out, const float *x, const Weight &weight, const float *scale,
                                     const __nv_bfloat16 *bias, unsigned m, unsigned n, unsigned k) {
  __shared__ float4 staged[kM][kColumns / 4];
  const unsigned lane = threadIdx.x % 32, first_x = blockIdx.y * kM;
  const unsigned first = (blockIdx.x * kWarps + threadIdx.x / 32) * kRows;
  // Number r * kM + row.
  float sums[kRows * kM] = {};
  unsigned poisoned = 0;  // rows of the weight with a NaN that the arithmetic would not see, a bit each
#pragma unroll 1
  for (unsigned start = 0; start < k; start += kColumns) {
    // The columns of lane l lie at l, 32 + l, 64 + l, 96 + l, in fours.
    for (unsigned i = threadIdx.x; i < kM * kColumns / 4; i += kWarps * 32) {
      const unsigned row = i / (kColumns / 4), quad = i % (kColumns / 4), column = start + quad * 4;
      const bool inside = first_x + row < m && column < k;
      const float4 *from = reinterpret_cast<const float4 *>(x + size_t(first_x + row) * k + column);
      staged[row][quad % 4 * 32 + quad / 4] = inside ? *from : make_float4(0, 0, 0, 0);
    }
    __syncthreads();
    const unsigned column = start + lane * 16;
    if (column < k) {
      typename Weight::Packed packed[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) packed[r] = weight.load(min(first + r, n - 1), column, k);
#pragma unroll
      for (int r = 0; r < kRows; ++r) poisoned |= unsigned(Weight::has_nan(packed[r])) << r;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float4 w[kRows];
#pragma unroll
        for (int r = 0; r < kRows; ++r) w[r] = Weight::quad(packed[r], i);
#pragma unroll
        for (int row = 0; row < kM; ++row) {
          const float4 v = staged[row][i * 32 + lane];
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            float &sum = sums[r * kM + row];
            sum = fmaf(w[r].w, v.w, fmaf(w[r].z, v.z, fmaf(w[r].y, v.y, fmaf(w[r].x, v.x, sum))));
          }
        }
      }
    }
    __syncthreads();
  }
  poisoned = __reduce_or_sync(kAllLanes, poisoned);
  const float unit = (scale ? *scale : 1.0f) * Weight::kUnit;
#pragma unroll
  for (int part = 0; part < kRows * kM; part += 32) {
    float some[32];
#pragma unroll
    for (int j = 0; j < 32; ++j) some[j] = part + j < kRows * kM ? sums[part + j] : 0;
    float sum = transposed_sum<16>(some);
    const unsigned column = first + (part + lane) / kM, row = first_x + (part + lane) % kM;
    if (part + lane >= kRows * kM || column >= n || row >= m) continue;
    if (poisoned >> (part + lane) / kM & 1) sum = not_a_number();
    float y = fmaf(sum, unit, bias ? __bfloat162float(bias[column]) : 0.0f);
    if (out.silu) y = y / (1.0f + expf(-y));
    const size_t at = size_t(row) * n + column;
    if (out.f32) out.f32[at] = y;
    if (out.bf16) out.bf16[at] = __float2bfloat16_rn(y);
  }
}

#define ARGUMENTS                                                                                                  \
  float *f32, __nv_bfloat16 *bf16, unsigned silu, const float *x, const float *scale, const __nv_bfloat16 *bias,   \
      unsigned m, unsigned n, unsigned k
// gridDim.x: the weight's rows in 32s; gridDim.y: rows of x, one or ten at a time.
#define ENTRIES(name, blocks, Weight, fields, ...)                                                                 \
  extern "C" __global__ void __launch_bounds__(kWarps * 32, blocks) name##_1(ARGUMENTS, __VA_ARGS__) {             \
    gemv<1>({f32, bf16, silu != 0}, x, Weight fields, scale, bias, m, n, k);                                       \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(kWarps * 32, blocks) name##_10(ARGUMENTS, __VA_ARGS__) {            \
    gemv<10>({f32, bf16, silu != 0}, x, Weight fields, scale, bias, m, n, k);                                      \
  }

ENTRIES(gemv_bf16, 2, Bf16Weight, {values}, const __nv_bfloat16 *values)
ENTRIES(gemv_e4m3, 2, E4m3Weight, {codes}, const unsigned char *codes)
// At 128 registers it would spill.
#define BOTH {codes, scales}
ENTRIES(gemv_nvfp4, 1, Fp4Weight, BOTH, const unsigned char *codes, const unsigned char *scales)
