// What the attention kernels share: which keys count, exponentials, the way out. Lanes are named as in mma.cuh.
#pragma once
#include <cuda_bf16.h>
#include <math_constants.h>

#include "cp_async.cuh"
#include "mma.cuh"

constexpr unsigned HEAD = 128;     // numbers of a head
constexpr unsigned KEY_TILE = 64;  // keys of one step

// The keys that count are two runs, 0..valid and padded..keys: padded text, then the image. A tile never spans both.
struct Tile {
  unsigned start, count;  // the first key, and how many of the tile's 64 count
};

struct KeyRuns {
  unsigned valid, padded, keys, first_tiles, tiles;

  __device__ KeyRuns(unsigned valid_, unsigned padded_, unsigned keys_) : valid(valid_), padded(padded_), keys(keys_) {
    // Without padding there is one run.
    if (valid >= padded) valid = keys, padded = keys;
    first_tiles = (valid + KEY_TILE - 1) / KEY_TILE;
    tiles = first_tiles + (keys - padded + KEY_TILE - 1) / KEY_TILE;
  }

  __device__ Tile operator[](unsigned tile) const {
    const bool first = tile < first_tiles;
    const unsigned start = first ? tile * KEY_TILE : padded + (tile - first_tiles) * KEY_TILE;
    return {start, min(KEY_TILE, (first ? valid : keys) - start)};
  }
};

// As load_matrices, each 8x8 matrix turned.
__device__ __forceinline__ void load_matrices_transposed(unsigned (&to)[4], unsigned from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from));
}

// 2^x, 2^-inf = 0.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Over the four lanes that hold one row.
__device__ __forceinline__ float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// 0 of an empty sum: a row without keys gives zeros.
__device__ __forceinline__ float reciprocal_or_zero(float sum) { return sum == 0.0f ? 0.0f : reciprocal(sum); }

// Scores of keys from `limits[h]` on become -inf (`limits[h]` of row g + 8h). `key(n, e)` is the key that belongs to
// scores[n][e] and scores[n][e + 2].
template <typename Key>
__device__ __forceinline__ void mask_scores(float (&scores)[KEY_TILE / 8][4], const int (&limits)[2], Key key) {
#pragma unroll
  for (int n = 0; n < int(KEY_TILE / 8); ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (key(n, i % 2) >= limits[i / 2]) scores[n][i] = -CUDART_INF_F;
}

// 16 rows of a warp's output, normalised: first into shared memory (4 KiB of this warp alone), then 16 bytes a lane.
// `out` is the warp's first row, `rows` how many of the 16 exist, `row_stride` in numbers.
__device__ __forceinline__ void store_rows(
    __nv_bfloat16 *out, unsigned row_stride, int rows, unsigned char *stage, const float (&sums)[HEAD / 8][4]) {
  const unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (unsigned n = 0; n < HEAD / 8; ++n)
#pragma unroll
    for (unsigned h = 0; h < 2; ++h)
      // g + 8h has the lower three bits of g: one swizzle for both rows.
      *reinterpret_cast<__nv_bfloat162 *>(stage + (g + 8 * h) * 256 + ((n ^ g) << 4) + 4 * t) =
          __floats2bfloat162_rn(sums[n][2 * h], sums[n][2 * h + 1]);
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int row = 2 * i + int(lane / 16);
    const unsigned chunk = lane % 16;
    if (row < rows)
      *reinterpret_cast<uint4 *>(out + size_t(row) * row_stride + chunk * 8) =
          *reinterpret_cast<const uint4 *>(stage + row * 256 + ((chunk ^ (unsigned(row) & 7)) << 4));
  }
}
