// arch: sm_120f sm_80
// RMSNorm of every head and rotary positions: queries and keys before attention, text and image at their places of the
// joint sequence.
//
// The trick: eight columns a lane, 16 bytes, so a head of 128 is 16 lanes; its sum of squares takes four shuffles, and no
// number leaves its lane but for that: adjacent pairs turn together (diffusers' use_real=False, as Qwen-Image does).
// Queries and keys of a fused qkv are one launch, in place. Moves 2 bytes in and 2 out a number; the angles, 4 bytes a
// number, are read by all heads of a row and stay in the cache.
#include "head_norm.cuh"

// Columns are groups of `heads` heads of `head_dim` (32, 64 or 128). Group g is normalised with weights[g] [head_dim] and
// rotated, groups from `weighted` on are copied. Row r = (b, s) with s < sequence is read at b * in_batch + s * in_row and
// written at b * out_batch + s * out_row (numbers, multiples of 8). cos, sin [sequence, head_dim / 2]. out may be in.
// blockDim.x 256; a thread for each eight columns.
extern "C" __global__ void __launch_bounds__(256) rms_norm_rope(
    __nv_bfloat16 *out, const __nv_bfloat16 *in, const __nv_bfloat16 *weights, const float *cos, const float *sin,
    unsigned rows, unsigned sequence, unsigned groups, unsigned weighted, unsigned heads, unsigned head_dim,
    size_t in_batch, size_t in_row, size_t out_batch, size_t out_row, float eps) {
  const unsigned lanes = head_dim / 8, width = groups * heads * lanes;
  const unsigned i = blockIdx.x * 256 + threadIdx.x;
  const unsigned row = i / width, chunk = i % width;
  // A warp is whole heads: all lanes of a head have a number or none has.
  const bool inside = row < rows;
  const unsigned batch = row / sequence, s = row % sequence;
  Floats8 v = {};
  if (inside) v = load8(in + batch * in_batch + s * in_row + chunk * 8);
  const float squares = head_squares(v, lanes);
  if (!inside) return;

  const unsigned group = chunk / lanes / heads, in_head = chunk % lanes * 8;
  if (group < weighted) {
    const size_t angle = (size_t(s) * head_dim + in_head) / 2;
    norm_rotate(v, head_inverse(squares, head_dim, eps), load8(weights + group * head_dim + in_head), cos + angle,
                sin + angle);
  }
  store8(out + batch * out_batch + s * out_row + chunk * 8, v);
}
