// The matrix instructions, and the load that brings their operands.
//
// Lane = 4 g + t. A 16x8 product's sums: d[0], d[1] are row g, columns 2t, 2t+1; d[2], d[3] are row g+8. An operand's
// step is 32 bytes of K: 64 E2M1 codes or 32 E4M3 codes, which fragment alike (PTX ISA 9.7.14).
#pragma once
#include <cstdint>

// Four 8x8 matrices of b16: lane l gives the address of row l%8 of matrix l/8.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address));
}

__device__ __forceinline__ uint4 load_shared16(uint32_t address) {
  uint4 to;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(to.x), "=r"(to.y), "=r"(to.z), "=r"(to.w) : "r"(address));
  return to;
}

// d += a b with E2M1 codes and a UE4M3 scale per 16 of K. `a_lanes` (0, 1) and `b_lanes` (0 to 3) say whose registers
// hold the scales: lanes 2 a_lanes and 2 a_lanes + 1 of each quad those of rows g and g+8, lane b_lanes that of column g.
template <int a_lanes, int b_lanes>
__device__ __forceinline__ void mma_nvfp4(float (&d)[4], const uint32_t (&a)[4], const uint32_t *b, uint32_t a_scale,
                                          uint32_t b_scale) {
#if __CUDA_ARCH__ >= 1200
  asm volatile(
      "mma.sync.aligned.kind::mxf4nvf4.block_scale.scale_vec::4X.m16n8k64.row.col.f32.e2m1.e2m1.f32.ue4m3 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3}, %10, {0, %12}, %11, {0, %13};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(a_scale), "r"(b_scale), "n"(a_lanes),
        "n"(b_lanes));
#endif
}

// d += a b with E4M3 codes. GeForce Blackwell runs the plain form at half the rate of the block-scaled one, so that is
// used with every scale 1 (0x7f of UE8M0), which changes no product.
__device__ __forceinline__ void mma_e4m3(float (&d)[4], const uint32_t (&a)[4], const uint32_t *b) {
#if __CUDA_ARCH__ >= 1200
  asm volatile(
      "mma.sync.aligned.kind::mxf8f6f4.block_scale.scale_vec::1X.m16n8k32.row.col.f32.e4m3.e4m3.f32.ue8m0 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3}, %10, {0, 0}, %10, {0, 0};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(0x7f7f7f7f));
#else
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
