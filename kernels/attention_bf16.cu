// arch: sm_120f sm_80
// softmax(q k^T * scale) v for heads of 128, bf16, the score matrix never written (FlashAttention-2, Dao, 2023).
//
// A block has 64 queries of one head, a warp 16 of them with their output in registers; keys come by 64. The
// accumulator of q k^T is, packed to bf16, the A operand of the second product as it stands. K has two buffers and V
// one: V of a step arrives while its scores are computed, K of the next step during the whole step. 48 KiB, so two
// blocks share a multiprocessor and the one's softmax hides behind the other's products. Rows of 256 bytes keep their
// 16-byte chunks at chunk ^ (row % 8): eight rows of any column of chunks lie in different banks.
#include "attention.cuh"

// As `Shape` in kernels/src/attention.rs.
struct AttentionShape {
  unsigned queries, keys;        // rows of q and out, of k and v
  unsigned padded;               // keys 0..padded are padded text, valid[batch] of them count; 0: all keys count
  unsigned group;                // query heads that share a key head
  unsigned q_row, k_row, v_row;  // numbers from one row to the next
  float scale_log2;              // of the scores, times log2(e); positive
  unsigned long long q_batch, k_batch, v_batch;
};

constexpr unsigned QUERY_TILE = 64, THREADS = 128, ROW_BYTES = HEAD * 2, TILE_BYTES = KEY_TILE * ROW_BYTES;

__device__ __forceinline__ void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Starts the copy of 64 rows, those from `count` on as zeros.
__device__ __forceinline__ void copy_tile(unsigned to, const __nv_bfloat16 *from, unsigned row_stride, unsigned count) {
  const unsigned row = threadIdx.x / 16, chunk = threadIdx.x % 16;
  to += row * ROW_BYTES + ((chunk ^ row) << 4);
  from += size_t(row) * row_stride + chunk * 8;
#pragma unroll
  for (unsigned i = 0; i < KEY_TILE / 8; ++i) {
    // What lies behind a ragged end may be NaN, and 0 * NaN is not 0.
    copy16(to + i * 8 * ROW_BYTES, from, row + 8 * i < count ? 16 : 0);
    from += size_t(8) * row_stride;
  }
  commit_copies();
}

// A warp's state: its queries, and per row (g and g + 8) the largest score so far (times scale_log2), the sum of
// weights (this lane's columns) and the weighted sum of values.
struct Rows {
  unsigned q[HEAD / 16][4];
  float largest[2], weight[2], out[HEAD / 8][4];
};

__device__ __forceinline__ void score(float (&scores)[KEY_TILE / 8][4], const Rows &rows, unsigned keys) {
  const unsigned lane = threadIdx.x % 32, row = lane % 8 + 8 * (lane / 16);
  const unsigned base = keys + row * ROW_BYTES + (((lane / 8 % 2) ^ (lane % 8)) << 4);
#pragma unroll
  for (unsigned n = 0; n < KEY_TILE / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[n][i] = 0.0f;
#pragma unroll
  for (unsigned k = 0; k < HEAD / 16; ++k)
#pragma unroll
    for (unsigned n = 0; n < KEY_TILE / 8; n += 2) {
      unsigned b[4];
      load_matrices(b, (base ^ (k << 5)) + n * 8 * ROW_BYTES);
      multiply(scores[n], rows.q[k], b[0], b[1]);
      multiply(scores[n + 1], rows.q[k], b[2], b[3]);
    }
}

// Scores to weights 2^(score - largest), and what was summed under a smaller largest score is scaled down.
__device__ __forceinline__ void weigh(
    unsigned (&weights)[KEY_TILE / 16][4], float (&scores)[KEY_TILE / 8][4], Rows &rows, float scale) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float raw = scores[0][2 * h];
#pragma unroll
    for (unsigned n = 0; n < KEY_TILE / 8; ++n) raw = fmaxf(raw, fmaxf(scores[n][2 * h], scores[n][2 * h + 1]));
    const float largest = fmaxf(rows.largest[h], row_max(raw) * scale);
    // Where all scores are -inf, -inf - -inf would be NaN.
    const float shift = largest == -CUDART_INF_F ? 0.0f : largest;
    const float shrink = exp2_fast(rows.largest[h] - shift);
    rows.largest[h] = largest;
    float sum = 0.0f;
#pragma unroll
    for (unsigned n = 0; n < KEY_TILE / 8; ++n) {
      const float p0 = exp2_fast(fmaf(scores[n][2 * h], scale, -shift));
      const float p1 = exp2_fast(fmaf(scores[n][2 * h + 1], scale, -shift));
      sum += p0 + p1;
      const __nv_bfloat162 pair = __floats2bfloat162_rn(p0, p1);
      weights[n / 2][n % 2 * 2 + h] = *reinterpret_cast<const unsigned *>(&pair);
    }
    rows.weight[h] = fmaf(rows.weight[h], shrink, sum);
#pragma unroll
    for (unsigned n = 0; n < HEAD / 8; ++n) rows.out[n][2 * h] *= shrink, rows.out[n][2 * h + 1] *= shrink;
  }
}

__device__ __forceinline__ void add_values(Rows &rows, const unsigned (&weights)[KEY_TILE / 16][4], unsigned values) {
  const unsigned lane = threadIdx.x % 32;
  const unsigned base = values + (lane % 16) * ROW_BYTES + (((lane / 16) ^ (lane % 8)) << 4);
#pragma unroll
  for (unsigned k = 0; k < KEY_TILE / 16; ++k)
#pragma unroll
    for (unsigned n = 0; n < HEAD / 8; n += 2) {
      unsigned b[4];
      load_matrices_transposed(b, (base ^ (n << 4)) + k * 16 * ROW_BYTES);
      multiply(rows.out[n], weights[k], b[0], b[1]);
      multiply(rows.out[n + 1], weights[k], b[2], b[3]);
    }
}

struct Operands {
  const __nv_bfloat16 *q, *k, *v;  // of this block: its first query row, its key head's first row
};

template <bool CAUSAL>
__device__ __forceinline__ void attend(
    __nv_bfloat16 *out, const Operands &at, const AttentionShape &shape, KeyRuns runs, unsigned first_query) {
  __shared__ __align__(1024) unsigned char memory[3 * TILE_BYTES];
  const unsigned keys = shared_address(memory), values = keys + 2 * TILE_BYTES;
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const unsigned queries = shape.queries - first_query;
  // A query sees no key behind its own position.
  if (CAUSAL) runs.tiles = min(runs.tiles, (first_query + QUERY_TILE + KEY_TILE - 1) / KEY_TILE);

  Tile tile = runs[0];
  copy_tile(values, at.q, shape.q_row, min(queries, QUERY_TILE));
  if (runs.tiles > 0) copy_tile(keys, at.k + size_t(tile.start) * shape.k_row, shape.k_row, tile.count);
  else commit_copies();
  wait_copies<1>();
  __syncthreads();

  Rows rows;
  const unsigned own = values + (warp * 16 + lane % 16) * ROW_BYTES + (((lane / 16) ^ (lane % 8)) << 4);
#pragma unroll
  for (unsigned k = 0; k < HEAD / 16; ++k) load_matrices(rows.q[k], own ^ (k << 5));
#pragma unroll
  for (int h = 0; h < 2; ++h) rows.largest[h] = -CUDART_INF_F, rows.weight[h] = 0.0f;
#pragma unroll
  for (unsigned n = 0; n < HEAD / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) rows.out[n][i] = 0.0f;

#pragma unroll 1
  for (unsigned step = 0; step < runs.tiles; ++step) {
    const unsigned buffer = keys + step % 2 * TILE_BYTES;
    // K of this step is there; V, and K of the step before, have been read by all warps.
    wait_copies<0>();
    __syncthreads();
    copy_tile(values, at.v + size_t(tile.start) * shape.v_row, shape.v_row, tile.count);
    const Tile next = runs[step + 1];
    if (step + 1 < runs.tiles)
      copy_tile(keys + (step + 1) % 2 * TILE_BYTES, at.k + size_t(next.start) * shape.k_row, shape.k_row, next.count);
    else
      commit_copies();

    float scores[KEY_TILE / 8][4];
    score(scores, rows, buffer);
    int limits[2] = {int(tile.count), int(tile.count)};
    if (CAUSAL) {
      const int own = int(first_query + warp * 16 + lane / 4) - int(tile.start);
      limits[0] = min(limits[0], own + 1);
      limits[1] = min(limits[1], own + 9);
    }
    if (CAUSAL ? tile.start + KEY_TILE > first_query + warp * 16 || tile.count < KEY_TILE : tile.count < KEY_TILE)
      mask_scores(scores, limits, [&](int n, int e) { return n * 8 + int(lane % 4) * 2 + e; });
    unsigned weights[KEY_TILE / 16][4];
    weigh(weights, scores, rows, shape.scale_log2);

    wait_copies<1>();
    __syncthreads();
    add_values(rows, weights, values);
    tile = next;
  }

#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float factor = reciprocal_or_zero(row_sum(rows.weight[h]));
#pragma unroll
    for (unsigned n = 0; n < HEAD / 8; ++n) rows.out[n][2 * h] *= factor, rows.out[n][2 * h + 1] *= factor;
  }
  // The buffers of K are idle since the last barrier.
  const unsigned row = gridDim.y * HEAD;
  const int left = int(queries) - int(warp * 16);
  store_rows(out + size_t(warp * 16) * row, row, left, memory + warp * 16 * ROW_BYTES, rows.out);
}

// One block: 64 queries (x), a head (y), a batch row (z). `valid` may be null where shape.padded is 0.
template <bool CAUSAL>
__device__ __forceinline__ void attend_block(
    __nv_bfloat16 *out, Operands at, const unsigned *valid, const AttentionShape &shape) {
  const unsigned block = CAUSAL ? gridDim.x - 1 - blockIdx.x : blockIdx.x;  // the longest rows first
  const unsigned first_query = block * QUERY_TILE, head = blockIdx.y, batch = blockIdx.z, key_head = head / shape.group;
  at.q += batch * shape.q_batch + size_t(first_query) * shape.q_row + head * HEAD;
  at.k += batch * shape.k_batch + key_head * HEAD;
  at.v += batch * shape.v_batch + key_head * HEAD;
  out += ((size_t(batch) * shape.queries + first_query) * gridDim.y + head) * HEAD;
  const unsigned counted = shape.padded > 0 ? min(valid[batch], shape.padded) : 0;
  attend<CAUSAL>(out, at, shape, KeyRuns(counted, shape.padded, shape.keys), first_query);
}

// out [batch, queries, heads * 128]; q, k and v [batch, rows, heads * 128] with the shape's strides.
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_bf16_d128(
    __nv_bfloat16 *out, const __nv_bfloat16 *q, const __nv_bfloat16 *k, const __nv_bfloat16 *v, const unsigned *valid,
    const __grid_constant__ AttentionShape shape) {
  attend_block<false>(out, {q, k, v}, valid, shape);
}

// The same where a query sees the keys up to its own position.
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_bf16_d128_causal(
    __nv_bfloat16 *out, const __nv_bfloat16 *q, const __nv_bfloat16 *k, const __nv_bfloat16 *v, const unsigned *valid,
    const __grid_constant__ AttentionShape shape) {
  attend_block<true>(out, {q, k, v}, valid, shape);
}
