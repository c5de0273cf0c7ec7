// arch: sm_120f sm_89
// The second half of the split-K products: adds the parts in order, then the epilogue (split_k.cuh).
#include "gemm_entries.cuh"

#define REDUCE_ENTRY(NAME, TILE, EPILOGUE)                                                                          \
  extern "C" __global__ void __launch_bounds__(TILE::threads) NAME(const __grid_constant__ Gemm gemm) {            \
    reduce_kernel<TILE, EPILOGUE>(gemm);                                                                           \
  }

REDUCE_ENTRY(splitk_reduce_64x128_bf16, Tile64<2>, ToBf16)
REDUCE_ENTRY(splitk_reduce_64x128_gate_bf16, Tile64<2>, ToGated)
REDUCE_ENTRY(splitk_reduce_64x128_gelu_e4m3, Tile64<2>, ToGeluE4m3)
REDUCE_ENTRY(splitk_reduce_32x128_bf16, Tile32<2>, ToBf16)
REDUCE_ENTRY(splitk_reduce_32x128_gate_bf16, Tile32<2>, ToGated)
REDUCE_ENTRY(splitk_reduce_32x128_gelu_e4m3, Tile32<2>, ToGeluE4m3)
#if __CUDA_ARCH__ >= 1200 || !defined(__CUDA_ARCH__)
REDUCE_ENTRY(splitk_reduce_64x128_gelu_nvfp4, Tile64<2>, ToGeluNvfp4)
REDUCE_ENTRY(splitk_reduce_32x128_gelu_nvfp4, Tile32<2>, ToGeluNvfp4)
#endif
