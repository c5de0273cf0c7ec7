// arch: sm_120f sm_89
// Makes E4M3 of the operands of FP8 attention (attention_fp8.cu), in three launches:
//
// `statistics` over 256 keys a block, `scales` over a head, and `operands`, where every number is read once more.
// - q has a scale per row, k one per head, v one per channel: largest magnitude = 448.
// - k is coded less its mean over the keys that count: q . mean is the same for all keys of a query, which a softmax
//   does not see, and the keys' common offset would take most of the code's three bits (SageAttention, Zhang et al.,
//   2024).
// - Keys that do not count are left out: tiles hold the others without a gap, and zeros at the end.
// - v is turned, so that its keys are what the second product sums over.
// Sums have one order: a lane's rows, the warp's two halves, the warps, the blocks.
#include "attention_fp8.cuh"
#include "encode.cuh"
#include "pack.cuh"

constexpr unsigned THREADS = 256, CHUNKS = HEAD / 8;  // a thread has 8 channels
constexpr float LEAST_SCALE = 0x1p-100f;               // keeps 448 / magnitude finite: zeros have a scale too

struct Statistics {
  float of[STATISTICS][8];  // sum, least, greatest of k, largest magnitude of v
};

// Blocks: 256 keys (x), a key head (y), a batch row (z).
extern "C" __global__ void __launch_bounds__(THREADS) attention_fp8_prepare_statistics(
    const __nv_bfloat16 *k, const __nv_bfloat16 *v, unsigned char *workspace, const unsigned *valid,
    const __grid_constant__ Fp8Shape shape) {
  __shared__ float warps[THREADS / 32][STATISTICS][HEAD];
  const unsigned head = blockIdx.y, batch = blockIdx.z, chunk = threadIdx.x % CHUNKS;
  const CountedKeys keys(shape, valid, batch);
  if (blockIdx.x * STATISTICS_ROWS >= keys.count) return;
  k += batch * shape.k_batch + head * HEAD + chunk * 8;
  v += batch * shape.v_batch + head * HEAD + chunk * 8;
  Statistics own;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    own.of[0][j] = own.of[3][j] = 0;
    own.of[1][j] = CUDART_INF_F;
    own.of[2][j] = -CUDART_INF_F;
  }
  const unsigned end = min((blockIdx.x + 1) * STATISTICS_ROWS, keys.count);
  for (unsigned at = blockIdx.x * STATISTICS_ROWS + threadIdx.x / CHUNKS; at < end; at += THREADS / CHUNKS) {
    const size_t row = keys.row(at);
    const Floats8 x = load8(k + row * shape.k_row), y = load8(v + row * shape.v_row);
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
  float *partial = part<float>(workspace, shape.partial) +
                   ((size_t(batch) * gridDim.y + head) * gridDim.x + blockIdx.x) * STATISTICS * HEAD;
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

// Blocks: a key head (x), a batch row (z); a thread has a channel. `blocks` are those of `statistics` for one head.
extern "C" __global__ void __launch_bounds__(HEAD) attention_fp8_prepare_scales(
    unsigned char *workspace, const unsigned *valid, const __grid_constant__ Fp8Shape shape, unsigned blocks) {
  __shared__ float warps[HEAD / 32];
  const size_t head = size_t(blockIdx.z) * gridDim.x + blockIdx.x;
  const unsigned channel = threadIdx.x, count = CountedKeys(shape, valid, blockIdx.z).count;
  const float *partial = part<float>(workspace, shape.partial) + head * blocks * STATISTICS * HEAD + channel;
  float sum = 0, least = CUDART_INF_F, greatest = -CUDART_INF_F, largest_v = 0;
  for (unsigned first = 0; first < count; first += STATISTICS_ROWS, partial += STATISTICS * HEAD) {
    sum += partial[0];
    least = fminf(least, partial[HEAD]);
    greatest = fmaxf(greatest, partial[2 * HEAD]);
    largest_v = fmaxf(largest_v, partial[3 * HEAD]);
  }
  const float mean = count > 0 ? sum / float(count) : 0.0f;
  part<float>(workspace, shape.k_mean)[head * HEAD + channel] = mean;
  part<float>(workspace, shape.v_scale)[head * HEAD + channel] = fmaxf(largest_v, LEAST_SCALE) * (1 / 448.0f);
  float range = fmaxf(greatest - mean, mean - least);
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) range = fmaxf(range, __shfl_xor_sync(~0u, range, lanes));
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = range;
  __syncthreads();
  if (threadIdx.x == 0) {
    range = fmaxf(fmaxf(warps[0], warps[1]), fmaxf(warps[2], warps[3]));
    part<float>(workspace, shape.k_scale)[head] = fmaxf(range, LEAST_SCALE) * (1 / 448.0f);
  }
}

__device__ __forceinline__ uint2 encode8(const float (&x)[8], float inverse) {
  float y[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) y[j] = x[j] * inverse;
  return make_uint2(encode_e4m3x4(y), encode_e4m3x4(y + 4));
}

// 64 queries from `first` on of head `head`: rows behind the last are zeros.
__device__ __forceinline__ void encode_queries(
    const __nv_bfloat16 *q, unsigned char *workspace, const Fp8Shape &shape, unsigned first, size_t head) {
  const unsigned chunk = threadIdx.x % CHUNKS;
#pragma unroll
  for (unsigned i = 0; i < KEY_TILE; i += THREADS / CHUNKS) {
    const unsigned query = first + i + threadIdx.x / CHUNKS;
    Floats8 x = {};
    if (query < shape.queries) x = load8(q + size_t(query) * shape.q_row + chunk * 8);
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

// Tile `tile` of key head `head`.
__device__ __forceinline__ void encode_keys(
    const __nv_bfloat16 *k, unsigned char *workspace, const Fp8Shape &shape, const CountedKeys &keys, uint2 at) {
  const unsigned tile = at.x, head = at.y, chunk = threadIdx.x % CHUNKS;
  const float *means = part<float>(workspace, shape.k_mean) + size_t(head) * HEAD + chunk * 8;
  const float inverse = reciprocal(part<float>(workspace, shape.k_scale)[head]);
  unsigned char *to = workspace + shape.k + (size_t(head) * shape.key_tiles + tile) * TILE_CODES + chunk * 8;
  float mean[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) mean[j] = means[j];
#pragma unroll
  for (unsigned i = threadIdx.x / CHUNKS; i < KEY_TILE; i += THREADS / CHUNKS) {
    const unsigned key = tile * KEY_TILE + i;
    float x[8] = {};
    if (key < keys.count) {
      const Floats8 from = load8(k + size_t(keys.row(key)) * shape.k_row + chunk * 8);
#pragma unroll
      for (int j = 0; j < 8; ++j) x[j] = from.at[j] - mean[j];
    }
    *reinterpret_cast<uint2 *>(to + i * HEAD) = encode8(x, inverse);
  }
}

// The same of v, turned: a thread has 8 channels of the four keys that stand in one word of V's row.
__device__ __forceinline__ void encode_values(
    const __nv_bfloat16 *v, unsigned char *workspace, const Fp8Shape &shape, const CountedKeys &keys, uint2 at) {
  const unsigned tile = at.x, head = at.y, word = threadIdx.x % 16, channel = threadIdx.x / 16 * 8;
  const float *scales = part<float>(workspace, shape.v_scale) + size_t(head) * HEAD + channel;
  float x[4][8];
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned own = tile * KEY_TILE + value_key(word) + i % 2 + i / 2 * 8;
    Floats8 from = {};
    if (own < keys.count) from = load8(v + size_t(keys.row(own)) * shape.v_row + channel);
#pragma unroll
    for (int j = 0; j < 8; ++j) x[i][j] = from.at[j];
  }
  unsigned char *to = workspace + shape.v + (size_t(head) * shape.key_tiles + tile) * TILE_CODES;
#pragma unroll
  for (unsigned j = 0; j < 8; ++j) {
    const float inverse = reciprocal(scales[j]);
    const float y[4] = {x[0][j] * inverse, x[1][j] * inverse, x[2][j] * inverse, x[3][j] * inverse};
    *reinterpret_cast<unsigned *>(to + (channel + j) * KEY_TILE + word * 4) = encode_e4m3x4(y);
  }
}

// Blocks: tiles of 64 queries, then those of keys, then those of values (x), a query head (y), a batch row (z).
extern "C" __global__ void __launch_bounds__(THREADS) attention_fp8_prepare_operands(
    const __nv_bfloat16 *q, const __nv_bfloat16 *k, const __nv_bfloat16 *v, unsigned char *workspace,
    const unsigned *valid, const __grid_constant__ Fp8Shape shape) {
  const unsigned head = blockIdx.y, batch = blockIdx.z, query_tiles = shape.query_rows / KEY_TILE;
  if (blockIdx.x < query_tiles) {
    q += batch * shape.q_batch + head * HEAD;
    encode_queries(q, workspace, shape, blockIdx.x * KEY_TILE, size_t(batch) * gridDim.y + head);
    return;
  }
  const CountedKeys keys(shape, valid, batch);
  const unsigned key_heads = gridDim.y / shape.group, tile = (blockIdx.x - query_tiles) % shape.key_tiles;
  if (head >= key_heads || tile * KEY_TILE >= keys.count) return;
  const uint2 at = make_uint2(tile, batch * key_heads + head);
  if (blockIdx.x - query_tiles < shape.key_tiles)
    encode_keys(k + batch * shape.k_batch + head * HEAD, workspace, shape, keys, at);
  else
    encode_values(v + batch * shape.v_batch + head * HEAD, workspace, shape, keys, at);
}
