// arch: sm_120f sm_89
// RMSNorm and rotation of queries and keys on the way into the codes of FP8 attention (attention_fp8.cu): neither is
// written before it is a code.
//
// Two launches about attention_fp8_prepare_scales: `statistics` makes codes of the queries and sums up keys and values,
// `operands` makes codes of those. Keys are normalised and rotated in both: that is some ten operations a number, where
// writing them down would cost two bytes out and save none in. So a channel of q, k and v moves 13 bytes: 6 in and 1 out,
// then 4 in and 2 out; through rms_norm_rope.cu and attention_fp8_prepare.cu they were 25. The angles, 4 bytes a number,
// are read by all heads of a row and come from the second-level cache.
//
// Queries and keys are rounded to bf16 in registers: codes, scales and means are those of the two other kernels, bit for
// bit, and of the engine's other paths, which hold bf16 here. Against a code's three bits those eight are no loss.
#include "attention_fp8_encode.cuh"
#include "head_norm.cuh"

// Rows of heads as a projection has left them, and what is done to q and k. As `Stream` in kernels/src/qk_norm_rope_fp8.rs.
struct Stream {
  const __nv_bfloat16 *q, *k, *v;            // [batch, rows, heads or key heads, 128] with strides
  const __nv_bfloat16 *q_weight, *k_weight;  // [128]
  const float *cos, *sin;                    // [rows, 64]
  unsigned long long q_batch, k_batch, v_batch;
  unsigned q_row, k_row, v_row;  // numbers from one row to the next
  unsigned rows;
};

// Two streams one behind the other, text and image. Query 0 is row `skip` of them.
struct Joint {
  Stream first, second;
  float eps;
  unsigned skip;
};

// Rows of both streams.
struct JointRows {
  const __nv_bfloat16 *first, *second;
  unsigned first_stride, second_stride, first_rows;

  __device__ __forceinline__ Floats8 at(unsigned row, unsigned chunk, bool inside) const {
    Floats8 x = {};
    const __nv_bfloat16 *from = first + size_t(row) * first_stride;
    if (row >= first_rows) from = second + size_t(row - first_rows) * second_stride;
    if (inside) x = load8(from + chunk * 8);
    return x;
  }
};

// The same, normalised, rotated and rounded; row 0 is row `skip`.
struct NormedRows {
  JointRows rows;
  const __nv_bfloat16 *first_weight, *second_weight;
  const Joint &joint;
  unsigned skip;

  __device__ __forceinline__ Floats8 at(unsigned from, unsigned chunk, bool inside) const {
    const unsigned row = from + skip;
    Floats8 x = rows.at(row, chunk, inside);
    const float squares = head_squares(x, CHUNKS);
    if (!inside) return x;
    const bool second = row >= rows.first_rows;
    const size_t angle = size_t(second ? row - rows.first_rows : row) * (HEAD / 2) + chunk * 4;
    norm_rotate(x, head_inverse(squares, HEAD, joint.eps), load8((second ? second_weight : first_weight) + chunk * 8),
                (second ? joint.second.cos : joint.first.cos) + angle,
                (second ? joint.second.sin : joint.first.sin) + angle);
    return unpack8(pack8(x));
  }
};

__device__ __forceinline__ NormedRows queries(const Joint &joint, unsigned batch, unsigned head) {
  const Stream &a = joint.first, &b = joint.second;
  const JointRows rows = {
      a.q + batch * a.q_batch + head * HEAD, b.q + batch * b.q_batch + head * HEAD, a.q_row, b.q_row, a.rows};
  return {rows, a.q_weight, b.q_weight, joint, joint.skip};
}

__device__ __forceinline__ NormedRows keys_of(const Joint &joint, unsigned batch, unsigned head) {
  const Stream &a = joint.first, &b = joint.second;
  const JointRows rows = {
      a.k + batch * a.k_batch + head * HEAD, b.k + batch * b.k_batch + head * HEAD, a.k_row, b.k_row, a.rows};
  return {rows, a.k_weight, b.k_weight, joint, 0};
}

__device__ __forceinline__ JointRows values(const Joint &joint, unsigned batch, unsigned head) {
  const Stream &a = joint.first, &b = joint.second;
  return {a.v + batch * a.v_batch + head * HEAD, b.v + batch * b.v_batch + head * HEAD, a.v_row, b.v_row, a.rows};
}

// Blocks: tiles of 64 queries, then 256 keys each (x), a query head (y), a batch row (z).
extern "C" __global__ void __launch_bounds__(THREADS) qk_norm_rope_fp8_statistics(
    unsigned char *workspace, const unsigned *valid, const __grid_constant__ Fp8Shape shape,
    const __grid_constant__ Joint joint) {
  const unsigned head = blockIdx.y, batch = blockIdx.z, query_tiles = shape.query_rows / KEY_TILE;
  if (blockIdx.x < query_tiles) {
    encode_queries(queries(joint, batch, head), workspace, shape, blockIdx.x * KEY_TILE,
                   size_t(batch) * gridDim.y + head);
    return;
  }
  const CountedKeys keys(shape, valid, batch);
  const unsigned key_heads = gridDim.y / shape.group, block = blockIdx.x - query_tiles;
  if (head >= key_heads || block * STATISTICS_ROWS >= keys.count) return;
  const size_t blocks = gridDim.x - query_tiles;
  float *partial = part<float>(workspace, shape.partial) +
                   ((size_t(batch) * key_heads + head) * blocks + block) * STATISTICS * HEAD;
  sum_up(keys_of(joint, batch, head), values(joint, batch, head), partial, keys, block * STATISTICS_ROWS);
}

// Blocks: tiles of 64 keys, then those of values (x), a key head (y), a batch row (z).
extern "C" __global__ void __launch_bounds__(THREADS) qk_norm_rope_fp8_operands(
    unsigned char *workspace, const unsigned *valid, const __grid_constant__ Fp8Shape shape,
    const __grid_constant__ Joint joint) {
  const unsigned head = blockIdx.y, batch = blockIdx.z, tile = blockIdx.x % shape.key_tiles;
  const CountedKeys keys(shape, valid, batch);
  if (tile * KEY_TILE >= keys.count) return;
  const uint2 at = make_uint2(tile, batch * gridDim.y + head);
  if (blockIdx.x < shape.key_tiles)
    encode_keys(keys_of(joint, batch, head), workspace, shape, keys, at);
  else
    encode_values(values(joint, batch, head), workspace, shape, keys, at);
}
