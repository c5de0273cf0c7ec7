// arch: sm_120f
// NVFP4 products: D = epilogue(alpha A B^T + bias), A [m, k] and B [n, k] of E2M1 codes with an E4M3 scale per 16 of K.
//
// The tensor core applies the block scales itself (mma kind::mxf4nvf4): one LDS.128 per operand and 128 of K brings those
// of a warp's 64 rows, because they are stored in the order in which lanes want them. See gemm_operands.cuh for the
// order of B's rows, which lets every epilogue stay in registers, and gemm_kernel.cuh for the ring of copies.
// Source: PTX ISA 9.7.14 for the fragments; the tiling is that of CUTLASS example 79 and gn-kernels, the code is not.
#include "epilogue.cuh"
#include "gemm_kernel.cuh"

using Tile128 = Tile<2, 4, 2, 2>;

#define ENTRY(NAME, TILE, EPILOGUE)                                                                       \
  extern "C" __global__ void __launch_bounds__(TILE::threads, TILE::blocks) NAME(const __grid_constant__ Gemm gemm) { \
    gemm_kernel<Nvfp4, TILE, EPILOGUE>(gemm);                                                             \
  }

ENTRY(nvfp4_gemm_128x128_bf16, Tile128, ToBf16)
