// arch: sm_120f
// NVFP4 products: D = epilogue(alpha A B^T + bias), A [m, k] and B [n, k] of E2M1 codes with an E4M3 scale per 16 of K.
//
// The tensor core applies the block scales itself (mma kind::mxf4nvf4): one LDS.128 per operand and 128 of K brings those
// of a warp's 64 rows, because they are stored in the order in which lanes want them. See gemm_operands.cuh for the
// order of B's rows, which lets every epilogue stay in registers, and gemm_kernel.cuh for the ring of copies.
// Source: PTX ISA 9.7.14 for the fragments; the tiling is that of CUTLASS example 79 and gn-kernels, the code is not.
#include "gemm_entries.cuh"

// Stages that fit: 18 KB and 28 KB each; 13.5 KB and 11.5 KB.
GEMM_ENTRY(nvfp4_gemm_128x128_bf16, Nvfp4, Tile128<2>, ToBf16)
GEMM_ENTRY(nvfp4_gemm_128x128_gate_bf16, Nvfp4, Tile128<2>, ToGated)
GEMM_ENTRY(nvfp4_gemm_128x128_gelu_e4m3, Nvfp4, Tile128<2>, ToGeluE4m3)
GEMM_ENTRY(nvfp4_gemm_128x128_gelu_nvfp4, Nvfp4, Tile128<2>, ToGeluNvfp4)
GEMM_ENTRY(nvfp4_gemm_256x128_bf16, Nvfp4, Tile256<3>, ToBf16)
GEMM_ENTRY(nvfp4_gemm_256x128_gate_bf16, Nvfp4, Tile256<3>, ToGated)
GEMM_ENTRY(nvfp4_gemm_256x128_gelu_e4m3, Nvfp4, Tile256<3>, ToGeluE4m3)
GEMM_ENTRY(nvfp4_gemm_256x128_gelu_nvfp4, Nvfp4, Tile256<3>, ToGeluNvfp4)
GEMM_ENTRY(nvfp4_gemm_64x128_splitk, Nvfp4, Tile64<3>, ToPartial)
GEMM_ENTRY(nvfp4_gemm_32x128_splitk, Nvfp4, Tile32<4>, ToPartial)
