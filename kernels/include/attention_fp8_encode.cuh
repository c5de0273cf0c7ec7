// E4M3 of the operands of FP8 attention: statistics of keys and values, and codes of all three.
//
// - q has a scale per row, k one per head, v one per channel: largest magnitude = 448.
// - k is coded less its mean over the keys that count: q . mean is the same for all keys of a query, which a softmax
//   does not see, and the keys' common offset would take most of the code's three bits (SageAttention, Zhang et al.,
//   2024).
// - Keys that do not count are left out: tiles hold the others without a gap, and zeros at the end.
// - v is turned, so that its keys are what the second product sums over.
// Sums have one order: a lane's rows, the warp's two halves, the warps, the blocks.
//
// Numbers come from `rows.at(row, chunk, inside)`: eight channels from 8 chunk on, zeros if not inside. All lanes of a warp
// call it together, half a warp for one row; only those of `encode_values` have other rows.
#pragma once
#include "attention_fp8.cuh"
#include "encode.cuh"
#include "pack.cuh"

constexpr unsigned THREADS = 256, CHUNKS = HEAD / 8;  // a thread has 8 channels
constexpr float LEAST_SCALE = 0x1p-100f;               // keeps 448 / magnitude finite: zeros have a scale too

struct Statistics {
  float of[STATISTICS][8];  // sum, least, greatest of k, largest magnitude of v
};

// Of the 256 keys from `first` on to `partial`.
template <typename K, typename V>
__device__ __forceinline__ void sum_up(
    const K &k, const V &v, float *partial, const CountedKeys &keys, unsigned first) {
  __shared__ float warps[THREADS / 32][STATISTICS][HEAD];
  const unsigned chunk = threadIdx.x % CHUNKS, end = min(first + STATISTICS_ROWS, keys.count);
  Statistics own;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    own.of[0][j] = own.of[3][j] = 0;
    own.of[1][j] = CUDART_INF_F;
    own.of[2][j] = -CUDART_INF_F;
  }
  for (unsigned i = first; i < end; i += THREADS / CHUNKS) {
    const unsigned at = i + threadIdx.x / CHUNKS, row = keys.row(at);
    const bool inside = at < end;
    const Floats8 x = k.at(row, chunk, inside), y = v.at(row, chunk, inside);
    if (!inside) continue;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      own.of[0][j] += x.at[j];
      own.of[1][j] = fminf(own.of[1][j], x.at[j]);
      own.of[2][j] = fmaxf(own.of[2][j], x.at[j]);
      own.of[3][j] = fmaxf(own.of[3][j], fabsf(y.at[j]));
    }
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    own.of[0][j] += __shfl_xor_sync(~0u, own.of[0][j], 16);
    own.of[1][j] = fminf(own.of[1][j], __shfl_xor_sync(~0u, own.of[1][j], 16));
    own.of[2][j] = fmaxf(own.of[2][j], __shfl_xor_sync(~0u, own.of[2][j], 16));
    own.of[3][j] = fmaxf(own.of[3][j], __shfl_xor_sync(~0u, own.of[3][j], 16));
  }
  if (threadIdx.x % 32 < 16)
#pragma unroll
    for (unsigned s = 0; s < STATISTICS; ++s)
#pragma unroll
      for (int j = 0; j < 8; ++j) warps[threadIdx.x / 32][s][chunk * 8 + j] = own.of[s][j];
  __syncthreads();
#pragma unroll
  for (unsigned i = threadIdx.x; i < STATISTICS * HEAD; i += THREADS) {
    const unsigned s = i / HEAD, channel = i % HEAD;
    float x = warps[0][s][channel];
#pragma unroll
    for (unsigned w = 1; w < THREADS / 32; ++w) {
      const float y = warps[w][s][channel];
      x = s == 0 ? x + y : s == 1 ? fminf(x, y) : fmaxf(x, y);
    }
    partial[i] = x;
  }
}

__device__ __forceinline__ uint2 encode8(const float (&x)[8], float inverse) {
  float y[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) y[j] = x[j] * inverse;
  return make_uint2(encode_e4m3x4(y), encode_e4m3x4(y + 4));
}

// 64 queries from `first` on of head `head`: rows behind the last are zeros.
template <typename Rows>
__device__ __forceinline__ void encode_queries(
    const Rows &rows, unsigned char *workspace, const Fp8Shape &shape, unsigned first, size_t head) {
  const unsigned chunk = threadIdx.x % CHUNKS;
#pragma unroll
  for (unsigned i = 0; i < KEY_TILE; i += THREADS / CHUNKS) {
    const unsigned query = first + i + threadIdx.x / CHUNKS;
    const Floats8 x = rows.at(query, chunk, query < shape.queries);
    float largest = LEAST_SCALE;
#pragma unroll
    for (int j = 0; j < 8; ++j) largest = fmaxf(largest, fabsf(x.at[j]));
#pragma unroll
    for (int lanes = 8; lanes > 0; lanes /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, lanes));
    const size_t row = head * shape.query_rows + query;
    const uint2 codes = encode8(x.at, 448.0f * reciprocal(largest));
    *reinterpret_cast<uint2 *>(workspace + shape.q + row * HEAD + chunk * 8) = codes;
    if (chunk == 0) part<float>(workspace, shape.q_scale)[row] = largest * (1 / 448.0f) * shape.scale_log2;
  }
}

// Tile at.x of key head at.y (of all batch rows).
template <typename Rows>
__device__ __forceinline__ void encode_keys(
    const Rows &rows, unsigned char *workspace, const Fp8Shape &shape, const CountedKeys &keys, uint2 at) {
  const unsigned tile = at.x, head = at.y, chunk = threadIdx.x % CHUNKS;
  const float *means = part<float>(workspace, shape.k_mean) + size_t(head) * HEAD + chunk * 8;
  const float inverse = reciprocal(part<float>(workspace, shape.k_scale)[head]);
  unsigned char *to = workspace + shape.k + (size_t(head) * shape.key_tiles + tile) * TILE_CODES + chunk * 8;
  float mean[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) mean[j] = means[j];
#pragma unroll
  for (unsigned first = 0; first < KEY_TILE; first += THREADS / CHUNKS) {
    const unsigned i = first + threadIdx.x / CHUNKS, key = tile * KEY_TILE + i;
    const bool inside = key < keys.count;
    const Floats8 from = rows.at(keys.row(key), chunk, inside);
    float x[8] = {};
    if (inside)
#pragma unroll
      for (int j = 0; j < 8; ++j) x[j] = from.at[j] - mean[j];
    *reinterpret_cast<uint2 *>(to + i * HEAD) = encode8(x, inverse);
  }
}

// The same of v, turned: a thread has 8 channels of the four keys that stand in one word of V's row.
template <typename Rows>
__device__ __forceinline__ void encode_values(
    const Rows &rows, unsigned char *workspace, const Fp8Shape &shape, const CountedKeys &keys, uint2 at) {
  const unsigned tile = at.x, head = at.y, word = threadIdx.x % 16, channel = threadIdx.x / 16 * 8;
  const float *scales = part<float>(workspace, shape.v_scale) + size_t(head) * HEAD + channel;
  Floats8 x[4];
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned own = tile * KEY_TILE + value_key(word) + i % 2 + i / 2 * 8;
    x[i] = rows.at(keys.row(own), channel / 8, own < keys.count);
  }
  unsigned char *to = workspace + shape.v + (size_t(head) * shape.key_tiles + tile) * TILE_CODES;
#pragma unroll
  for (unsigned j = 0; j < 8; ++j) {
    const float inverse = reciprocal(scales[j]);
    const float y[4] = {x[0].at[j] * inverse, x[1].at[j] * inverse, x[2].at[j] * inverse, x[3].at[j] * inverse};
    *reinterpret_cast<unsigned *>(to + (channel + j) * KEY_TILE + word * 4) = encode_e4m3x4(y);
  }
}
