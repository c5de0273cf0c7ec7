// arch: sm_120f sm_89
// softmax(q k^T * scale) v for heads of 128 with both products in E4M3 (SageAttention2, Zhang et al., 2024, in FP8).
//
// attention_fp8_prepare.cu has made codes of q, of k less its mean and of v. A block has 128 queries of one head, a
// warp 16 of them; keys come by 64 through a ring of three tiles of K and V (48 KiB) with one barrier a step. The
// weights, 448 * 2^(score - largest), become E4M3 in registers, where they already are operand A of the second product,
// as V's columns stand in that order. Their sum is a product with ones: what normalises is the sum of the rounded
// weights, so that rounding them changes no constant part of v. The products are block-scaled with scales of 1 (see
// mma.cuh).
//
// Ada and Hopper keep 13 bits of mantissa of a sum of FP8 products and cut off the rest (SageAttention2, section on
// "two-level accumulation"): over hundreds of tiles what is cut adds up. There a tile's sums begin at zero, and f32
// additions gather them, which takes the place of scaling them down.
#include "attention_fp8.cuh"
#include "encode.cuh"

constexpr unsigned QUERY_TILE = 128, THREADS = 256, STAGES = 3, K_ROW = HEAD, V_ROW = KEY_TILE;
constexpr unsigned STAGE_BYTES = 2 * TILE_CODES;
constexpr float LARGEST_CODE_LOG2 = 8.807354922f;  // log2(448)

// Chunks of 16 bytes lie at chunk ^ (row % 8) in K's rows of 128 bytes, and at chunk ^ (row / 2 % 4) in V's of 64:
// eight rows of any column of chunks lie in different banks.
__device__ __forceinline__ void copy_stage(unsigned to, const unsigned char *k, const unsigned char *v) {
  const unsigned i = threadIdx.x;
  const unsigned k_to = to + i / 8 * K_ROW + ((i % 8 ^ i / 8 % 8) << 4);
  const unsigned v_to = to + TILE_CODES + i / 4 * V_ROW + ((i % 4 ^ i / 8 % 4) << 4);
#pragma unroll
  for (unsigned half = 0; half < TILE_CODES; half += THREADS * 16) {
    copy16(k_to + half, k + half + i * 16);
    copy16(v_to + half, v + half + i * 16);
  }
}

// A warp's state: its queries, and per row (g and g + 8) the largest score so far (in powers of two), the sum of
// weights (in every column of a product) and the weighted sum of values.
struct Rows {
  unsigned q[HEAD / 32][4];
  float scale[2], largest[2], weight[4], out[HEAD / 8][4];
};

__device__ __forceinline__ void score(float (&scores)[KEY_TILE / 8][4], const Rows &rows, unsigned keys) {
  const unsigned lane = threadIdx.x % 32, row = lane % 8 + 8 * (lane / 16);
  const unsigned base = keys + row * K_ROW + (((lane / 8 % 2) ^ (lane % 8)) << 4);
#pragma unroll
  for (unsigned n = 0; n < KEY_TILE / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[n][i] = 0.0f;
#pragma unroll
  for (unsigned k = 0; k < HEAD / 32; ++k)
#pragma unroll
    for (unsigned n = 0; n < KEY_TILE / 8; n += 2) {
      uint32_t b[4];
      load_matrices(b, (base ^ (k << 5)) + n * 8 * K_ROW);
      mma_e4m3(scores[n], rows.q[k], b);
      mma_e4m3(scores[n + 1], rows.q[k], b + 2);
    }
}

// Scores to weights 448 * 2^(score - largest); what was summed under a smaller largest score counts `shrink` times.
__device__ __forceinline__ void weigh(
    unsigned (&weights)[KEY_TILE / 32][4], float (&shrink)[2], float (&scores)[KEY_TILE / 8][4], Rows &rows) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float raw = scores[0][2 * h];
#pragma unroll
    for (unsigned n = 0; n < KEY_TILE / 8; ++n) raw = fmaxf(raw, fmaxf(scores[n][2 * h], scores[n][2 * h + 1]));
    const float largest = fmaxf(rows.largest[h], row_max(raw) * rows.scale[h]);
    // Where all scores are -inf, -inf - -inf would be NaN.
    const float shift = largest == -CUDART_INF_F ? 0.0f : largest;
    const float lift = LARGEST_CODE_LOG2 - shift;
    shrink[h] = exp2_fast(rows.largest[h] - shift);
    rows.largest[h] = largest;
#pragma unroll
    for (unsigned n = 0; n < KEY_TILE / 8; n += 2) {
      float p[4];
#pragma unroll
      for (unsigned i = 0; i < 4; ++i) p[i] = exp2_fast(fmaf(scores[n + i / 2][2 * h + i % 2], rows.scale[h], lift));
      weights[n / 4][n / 2 % 2 * 2 + h] = encode_e4m3x4(p);
    }
#if __CUDA_ARCH__ >= 1200
    rows.weight[2 * h] *= shrink[h], rows.weight[2 * h + 1] *= shrink[h];
#pragma unroll
    for (unsigned n = 0; n < HEAD / 8; ++n) rows.out[n][2 * h] *= shrink[h], rows.out[n][2 * h + 1] *= shrink[h];
#endif
  }
}

__device__ __forceinline__ void gather(float (&sums)[4], const float (&shrink)[2], const float (&of_tile)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) sums[i] = fmaf(sums[i], shrink[i / 2], of_tile[i]);
}

__device__ __forceinline__ void add_values(
    Rows &rows, const unsigned (&weights)[KEY_TILE / 32][4], const float (&shrink)[2], unsigned values) {
  const unsigned lane = threadIdx.x % 32, row = lane % 8 + 8 * (lane / 16);
  const uint32_t ones[2] = {0x38383838, 0x38383838};
  const unsigned base = values + row * V_ROW + (((lane / 8 % 2) ^ (lane / 2 % 4)) << 4);
#if __CUDA_ARCH__ >= 1200
#pragma unroll
  for (unsigned k = 0; k < KEY_TILE / 32; ++k) {
    mma_e4m3(rows.weight, weights[k], ones);
#pragma unroll
    for (unsigned n = 0; n < HEAD / 8; n += 2) {
      uint32_t b[4];
      load_matrices(b, (base ^ (k << 5)) + n * 8 * V_ROW);
      mma_e4m3(rows.out[n], weights[k], b);
      mma_e4m3(rows.out[n + 1], weights[k], b + 2);
    }
  }
#else
  float weight[4] = {};
#pragma unroll
  for (unsigned k = 0; k < KEY_TILE / 32; ++k) mma_e4m3(weight, weights[k], ones);
  gather(rows.weight, shrink, weight);
#pragma unroll
  for (unsigned n = 0; n < HEAD / 8; n += 2) {
    float out[2][4] = {};
#pragma unroll
    for (unsigned k = 0; k < KEY_TILE / 32; ++k) {
      uint32_t b[4];
      load_matrices(b, (base ^ (k << 5)) + n * 8 * V_ROW);
      mma_e4m3(out[0], weights[k], b);
      mma_e4m3(out[1], weights[k], b + 2);
    }
    gather(rows.out[n], shrink, out[0]);
    gather(rows.out[n + 1], shrink, out[1]);
  }
#endif
}

// Copies the block's queries to shared memory at `memory`; `from` is contiguous.
__device__ __forceinline__ void copy_queries(unsigned memory, const unsigned char *from) {
  const unsigned i = threadIdx.x, to = memory + i / 8 * K_ROW + ((i % 8 ^ i / 8 % 8) << 4);
#pragma unroll
  for (unsigned at = 0; at < QUERY_TILE * HEAD; at += THREADS * 16) copy16(to + at, from + at + i * 16);
  commit_copies();
}

__device__ __forceinline__ void begin(Rows &rows, unsigned queries, const float *q_scale, float k_scale) {
  const unsigned lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane % 16;
#pragma unroll
  for (unsigned k = 0; k < HEAD / 32; ++k)
    load_matrices(rows.q[k], (queries + row * K_ROW + (((lane / 16) ^ (lane % 8)) << 4)) ^ (k << 5));
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    // A scale of nothing would make NaN of a masked score.
    rows.scale[h] = fmaxf(q_scale[threadIdx.x / 32 * 16 + lane / 4 + 8 * h] * k_scale, 1e-37f);
    rows.largest[h] = -CUDART_INF_F;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) rows.weight[i] = 0.0f;
#pragma unroll
  for (unsigned n = 0; n < HEAD / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) rows.out[n][i] = 0.0f;
}

// out [batch, queries, heads * 128]. One block: 128 queries (x), a head (y), a batch row (z).
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_fp8_d128(
    __nv_bfloat16 *out, unsigned char *workspace, const unsigned *valid, const __grid_constant__ Fp8Shape shape) {
  __shared__ __align__(1024) unsigned char memory[STAGES * STAGE_BYTES];
  const unsigned ring = shared_address(memory), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const unsigned first_query = blockIdx.x * QUERY_TILE, heads = gridDim.y;
  const size_t head = size_t(blockIdx.z) * heads + blockIdx.y;
  const size_t key_head = size_t(blockIdx.z) * (heads / shape.group) + blockIdx.y / shape.group;
  const size_t first_row = head * shape.query_rows + first_query;
  const unsigned char *k = workspace + shape.k + key_head * shape.key_tiles * TILE_CODES;
  const unsigned char *v = workspace + shape.v + key_head * shape.key_tiles * TILE_CODES;
  const unsigned count = CountedKeys(shape, valid, blockIdx.z).count, steps = (count + KEY_TILE - 1) / KEY_TILE;

  // The queries take the ring's last stage until they are in registers.
  copy_queries(ring + (STAGES - 1) * STAGE_BYTES, workspace + shape.q + first_row * HEAD);
#pragma unroll
  for (unsigned stage = 0; stage < STAGES - 1; ++stage) {
    if (stage < steps) copy_stage(ring + stage * STAGE_BYTES, k, v), k += TILE_CODES, v += TILE_CODES;
    commit_copies();
  }
  wait_copies<STAGES - 1>();
  __syncthreads();
  Rows rows;
  begin(rows, ring + (STAGES - 1) * STAGE_BYTES, part<float>(workspace, shape.q_scale) + first_row,
        part<float>(workspace, shape.k_scale)[key_head]);

  unsigned stage = ring, free_stage = ring + (STAGES - 1) * STAGE_BYTES;
#pragma unroll 1
  for (unsigned step = 0; step < steps; ++step) {
    // This step's tile is there, and all warps have read that of the step before (or the queries).
    wait_copies<STAGES - 2>();
    __syncthreads();
    if (step + STAGES - 1 < steps) copy_stage(free_stage, k, v);
    commit_copies();
    k += TILE_CODES, v += TILE_CODES;

    float scores[KEY_TILE / 8][4];
    score(scores, rows, stage);
    const int left = int(count - step * KEY_TILE), limits[2] = {left, left};
    if (left < int(KEY_TILE)) mask_scores(scores, limits, [&](int n, int e) { return n * 8 + int(lane % 4) * 2 + e; });
    unsigned weights[KEY_TILE / 32][4];
    float shrink[2];
    weigh(weights, shrink, scores, rows);
    add_values(rows, weights, shrink, stage + TILE_CODES);
    free_stage = stage;
    stage = stage == ring + (STAGES - 1) * STAGE_BYTES ? ring : stage + STAGE_BYTES;
  }

  const float *v_scale = part<float>(workspace, shape.v_scale) + key_head * HEAD + lane % 4 * 2;
  const float factors[2] = {reciprocal_or_zero(rows.weight[0]), reciprocal_or_zero(rows.weight[2])};
#pragma unroll
  for (unsigned n = 0; n < HEAD / 8; ++n) {
    const float2 scale = *reinterpret_cast<const float2 *>(v_scale + n * 8);
#pragma unroll
    for (int i = 0; i < 4; ++i) rows.out[n][i] *= factors[i / 2] * (i % 2 ? scale.y : scale.x);
  }
  __syncthreads();
  const unsigned row = heads * HEAD;
  __nv_bfloat16 *to = out + (size_t(blockIdx.z) * shape.queries + first_query + warp * 16) * row + blockIdx.y * HEAD;
  store_rows(to, row, int(shape.queries - first_query) - int(warp * 16), memory + warp * 4096, rows.out);
}
