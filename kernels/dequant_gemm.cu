// arch: sm_80
// Products for cards without FP8 or NVFP4 tensor cores: D = epilogue(alpha A B^T + bias) with A [m, k] in bf16 and B
// [n, k] of E4M3 codes with one scale, or of E2M1 codes with block scales in the checkpoint's order.
//
// Weights stay packed in memory and are widened to bf16 on the multiprocessor (widen.cuh), exactly. In `Gemm`, k_bytes
// are the bytes of a row of A: 2 k.
#include "dequant_kernel.cuh"
#include "epilogue_ragged.cuh"

#define DEQUANT_ENTRY(NAME, WEIGHTS, TILE, EPILOGUE)                                                                  \
  extern "C" __global__ void __launch_bounds__(TILE::threads, TILE::blocks) NAME(const __grid_constant__ Gemm gemm) { \
    dequant_kernel<WEIGHTS, TILE, EPILOGUE>(gemm);                                                                    \
  }
#define REDUCE_ENTRY(NAME, TILE, EPILOGUE)                                                               \
  extern "C" __global__ void __launch_bounds__(TILE::threads) NAME(const __grid_constant__ Gemm gemm) { \
    reduce_kernel<TILE, EPILOGUE>(gemm);                                                                 \
  }

// Stages that fit twice into the 164 KB of sm_80: 24 KB and 20.5 KB each, and 16 KB of bf16; where rows are few 12 KB
// and 8.5 KB.
template <int stages>
using Large = Tile<2, 4, stages, 2>;
template <int stages>
using Small = Tile<1, 2, stages, 2>;

DEQUANT_ENTRY(dequant_e4m3_128x128_bf16, E4m3Weights, Large<2>, RaggedBf16)
DEQUANT_ENTRY(dequant_e4m3_128x128_gate_bf16, E4m3Weights, Large<2>, RaggedGated)
DEQUANT_ENTRY(dequant_e4m3_32x128_splitk, E4m3Weights, Small<4>, ToPartial)
DEQUANT_ENTRY(dequant_nvfp4_128x128_bf16, Nvfp4Weights, Large<3>, RaggedBf16)
DEQUANT_ENTRY(dequant_nvfp4_128x128_gate_bf16, Nvfp4Weights, Large<3>, RaggedGated)
DEQUANT_ENTRY(dequant_nvfp4_32x128_splitk, Nvfp4Weights, Small<4>, ToPartial)
REDUCE_ENTRY(dequant_reduce_32x128_bf16, Small<4>, RaggedBf16)
REDUCE_ENTRY(dequant_reduce_32x128_gate_bf16, Small<4>, RaggedGated)
