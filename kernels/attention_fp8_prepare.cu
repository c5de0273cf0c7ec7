// arch: sm_120f sm_89
// Makes E4M3 of the operands of FP8 attention (attention_fp8.cu), in three launches:
//
// `statistics` over 256 keys a block, `scales` over a head, and `operands`, where every number is read once more. What
// they do is in attention_fp8_encode.cuh. qk_norm_rope_fp8.cu takes the place of the first and the last where queries and
// keys have yet to be normalised and rotated.
#include "attention_fp8_encode.cuh"

struct PlainRows {
  const __nv_bfloat16 *from;
  unsigned stride;

  __device__ __forceinline__ Floats8 at(unsigned row, unsigned chunk, bool inside) const {
    Floats8 x = {};
    if (inside) x = load8(from + size_t(row) * stride + chunk * 8);
    return x;
  }
};

// Blocks: 256 keys (x), a key head (y), a batch row (z).
extern "C" __global__ void __launch_bounds__(THREADS) attention_fp8_prepare_statistics(
    const __nv_bfloat16 *k, const __nv_bfloat16 *v, unsigned char *workspace, const unsigned *valid,
    const __grid_constant__ Fp8Shape shape) {
  const unsigned head = blockIdx.y, batch = blockIdx.z;
  const CountedKeys keys(shape, valid, batch);
  if (blockIdx.x * STATISTICS_ROWS >= keys.count) return;
  const PlainRows k_rows = {k + batch * shape.k_batch + head * HEAD, shape.k_row};
  const PlainRows v_rows = {v + batch * shape.v_batch + head * HEAD, shape.v_row};
  float *partial = part<float>(workspace, shape.partial) +
                   ((size_t(batch) * gridDim.y + head) * gridDim.x + blockIdx.x) * STATISTICS * HEAD;
  sum_up(k_rows, v_rows, partial, keys, blockIdx.x * STATISTICS_ROWS);
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

// Blocks: tiles of 64 queries, then those of keys, then those of values (x), a query head (y), a batch row (z).
extern "C" __global__ void __launch_bounds__(THREADS) attention_fp8_prepare_operands(
    const __nv_bfloat16 *q, const __nv_bfloat16 *k, const __nv_bfloat16 *v, unsigned char *workspace,
    const unsigned *valid, const __grid_constant__ Fp8Shape shape) {
  const unsigned head = blockIdx.y, batch = blockIdx.z, query_tiles = shape.query_rows / KEY_TILE;
  if (blockIdx.x < query_tiles) {
    const PlainRows rows = {q + batch * shape.q_batch + head * HEAD, shape.q_row};
    encode_queries(rows, workspace, shape, blockIdx.x * KEY_TILE, size_t(batch) * gridDim.y + head);
    return;
  }
  const CountedKeys keys(shape, valid, batch);
  const unsigned key_heads = gridDim.y / shape.group, tile = (blockIdx.x - query_tiles) % shape.key_tiles;
  if (head >= key_heads || tile * KEY_TILE >= keys.count) return;
  const uint2 at = make_uint2(tile, batch * key_heads + head);
  if (blockIdx.x - query_tiles < shape.key_tiles)
    encode_keys(PlainRows{k + batch * shape.k_batch + head * HEAD, shape.k_row}, workspace, shape, keys, at);
  else
    encode_values(PlainRows{v + batch * shape.v_batch + head * HEAD, shape.v_row}, workspace, shape, keys, at);
}
