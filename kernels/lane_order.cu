// arch: sm_120f sm_80
// Block scales of a weight from the checkpoint's swizzled tiles into lane order, once, when it is loaded.
//
// The four scales of a row's 64 columns are an aligned word in both orders (src/layout.rs), so words are what moves:
// one read and one write of each, writes without gaps.
#include "quantize.cuh"

// to: lane order of [rows, k]; from: tiles of 128 rows by 4 scales. What lies in their padding is not looked at.
extern "C" __global__ void __launch_bounds__(256) lane_order_from_swizzled(
    unsigned *to, const unsigned *from, unsigned rows, unsigned k) {
  const unsigned k_tiles = (k + 127) / 128, blocks = k / 16;
  const size_t count = size_t((rows + 63) / 64) * k_tiles * 128;
  const size_t i = size_t(blockIdx.x) * 256 + threadIdx.x;
  if (i >= count) return;
  const unsigned tile = unsigned(i / 128), lane = i % 128 / 4, word = i % 4;
  const unsigned row = tile / k_tiles * 64 + word % 2 * 32 + lane % 4 * 8 + lane / 4;
  const unsigned first = tile % k_tiles * 8 + word / 2 * 4;
  unsigned scales = 0;
  if (row < rows && first < blocks) {
    const size_t swizzled = size_t(row / 128) * ((blocks + 3) / 4) + first / 4;
    scales = from[swizzled * 128 + row % 32 * 4 + row % 128 / 32];
    if (blocks - first < 4) scales &= (1u << (blocks - first) * 8) - 1;
  }
  to[i] = scales;
}
