// arch: sm_120f
// Block scales of a weight from the checkpoint's tiles into the order of the products, once, when it is loaded.
//
// As lane_order.cu, but the rows of each 64 are interleaved as the products take them (src/gemm/scales.rs): lane 4g + t,
// word 2s + h has row 16 (g / 2) + 8h + 2t + g % 2. A word holds the four scales of a row's 64 columns in both orders:
// one read and one write of each, writes without gaps.
#include <cstddef>

// to: lane order of [n, k], rows interleaved; from: tiles of 128 rows by 4 scales. Their padding is not looked at.
extern "C" __global__ void __launch_bounds__(256) weight_order_from_swizzled(
    unsigned *to, const unsigned *from, unsigned n, unsigned k) {
  const unsigned k_tiles = (k + 127) / 128, blocks = k / 16;
  const size_t count = size_t((n + 63) / 64) * k_tiles * 128;
  const size_t i = size_t(blockIdx.x) * 256 + threadIdx.x;
  if (i >= count) return;
  const unsigned tile = unsigned(i / 128), word = i % 4, g = i % 128 / 16, t = i % 16 / 4;
  const unsigned row = tile / k_tiles * 64 + g / 2 * 16 + word % 2 * 8 + t * 2 + g % 2;
  const unsigned first = tile % k_tiles * 8 + word / 2 * 4;
  unsigned scales = 0;
  if (row < n && first < blocks) {
    const size_t swizzled = size_t(row / 128) * ((blocks + 3) / 4) + first / 4;
    scales = from[swizzled * 128 + row % 32 * 4 + row % 128 / 32];
    if (blocks - first < 4) scales &= (1u << (blocks - first) * 8) - 1;
  }
  to[i] = scales;
}
