// arch: sm_120f sm_89
// FP8 products: D = epilogue(alpha A B^T + bias), A [m, k] and B [n, k] of E4M3 codes with one scale each.
//
// GeForce Blackwell halves the rate of the plain FP8 instruction with f32 sums, not that of the block-scaled one: it is
// used with scales of 1 (mma.cuh). Ada and Hopper have the plain one, whose sums are too narrow for a long K
// (gemm_formats.cuh). All else is shared with nvfp4_gemm.cu.
// Source: the trick is known from learn-cuda 08_row_scaled_mm and quack's gemm_sm120; the code is not theirs.
#include "gemm_entries.cuh"

// Stages that fit: 16 KB and 24 KB each; 12 KB and 10 KB.
GEMM_ENTRY(fp8_gemm_128x128_bf16, E4m3, Tile128<3>, ToBf16)
GEMM_ENTRY(fp8_gemm_128x128_gate_bf16, E4m3, Tile128<3>, ToGated)
GEMM_ENTRY(fp8_gemm_128x128_gelu_e4m3, E4m3, Tile128<3>, ToGeluE4m3)
GEMM_ENTRY(fp8_gemm_256x128_bf16, E4m3, Tile256<4>, ToBf16)
GEMM_ENTRY(fp8_gemm_256x128_gate_bf16, E4m3, Tile256<4>, ToGated)
GEMM_ENTRY(fp8_gemm_256x128_gelu_e4m3, E4m3, Tile256<4>, ToGeluE4m3)
GEMM_ENTRY(fp8_gemm_64x128_splitk, E4m3, Tile64<4>, ToPartial)
GEMM_ENTRY(fp8_gemm_32x128_splitk, E4m3, Tile32<4>, ToPartial)
#if __CUDA_ARCH__ >= 1200 || !defined(__CUDA_ARCH__)
GEMM_ENTRY(fp8_gemm_128x128_gelu_nvfp4, E4m3, Tile128<3>, ToGeluNvfp4)
GEMM_ENTRY(fp8_gemm_256x128_gelu_nvfp4, E4m3, Tile256<4>, ToGeluNvfp4)
#endif
