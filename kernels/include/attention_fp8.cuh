// What FP8 attention and its preparation agree upon: the workspace.
#pragma once
#include "attention.cuh"

// Of a channel: sum, least and greatest of the keys, largest magnitude of the values; over so many rows by a block.
constexpr unsigned STATISTICS = 4, STATISTICS_ROWS = 256;
constexpr unsigned TILE_CODES = KEY_TILE * HEAD;

// As `Shape` in kernels/src/attention_fp8.rs. Offsets are bytes from the workspace's start.
struct Fp8Shape {
  unsigned queries, keys;        // rows of q and out, of k and v
  unsigned padded;               // keys 0..padded are padded text, valid[batch] of them count; 0: all keys count
  unsigned group;                // query heads that share a key head
  unsigned q_row, k_row, v_row;  // numbers from one row to the next
  float scale_log2;              // of the scores, times log2(e); positive
  unsigned long long q_batch, k_batch, v_batch;
  unsigned query_rows;         // queries, up to a multiple of 128
  unsigned key_tiles;          // tiles of 64 that hold all keys
  unsigned long long q;        // [batch, heads, query_rows, 128] codes
  unsigned long long k;        // [batch, key heads, key_tiles, 64 keys, 128] codes
  unsigned long long v;        // [batch, key heads, key_tiles, 128, 64 keys] codes, keys ordered by `value_key`
  unsigned long long q_scale;  // [batch, heads, query_rows], times scale_log2
  unsigned long long k_scale;  // [batch, key heads]
  unsigned long long v_scale;  // [batch, key heads, 128]
  unsigned long long k_mean;   // [batch, key heads, 128]
  unsigned long long partial;  // [batch, key heads, keys / 256, STATISTICS, 128]
};

// The keys that count, without gaps: key number `at` of them is row `at` or, behind the text, row `at + gap`.
struct CountedKeys {
  unsigned text, gap, count;

  __device__ CountedKeys(const Fp8Shape &shape, const unsigned *valid, unsigned batch) {
    text = shape.padded > 0 ? min(valid[batch], shape.padded) : 0;
    gap = shape.padded - text;
    count = shape.keys - gap;
  }
  __device__ unsigned row(unsigned at) const { return at < text ? at : at + gap; }
};

// The first of the four keys in columns 4 word..+4 of V's rows; the others are the next, and both plus 8.
//
// Lane t of a quad holds the weights of keys 8n + 2t and 8n + 2t + 1 of the scores' columns n, but as operand A of
// m16n8k32 it has to have columns 4t..4t+3 and 16+4t..16+4t+3. The order of a sum is free, so V stands in the order in
// which the weights already lie.
__device__ __forceinline__ unsigned value_key(unsigned word) { return word / 4 * 16 + word % 4 * 2; }

template <typename T>
__device__ __forceinline__ T *part(unsigned char *workspace, unsigned long long offset) {
  return reinterpret_cast<T *>(workspace + offset);
}
