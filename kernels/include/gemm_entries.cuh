// The tiles that exist, and a macro for kernels of one format.
#pragma once
#include "epilogue_gelu.cuh"
#include "split_k.cuh"

// Warps of 64x64 (two blocks a multiprocessor hide each other's epilogues), and of 32x64 where M is small and weights
// are streamed.
template <int stages>
using Tile128 = Tile<2, 4, stages, 2>;
template <int stages>
using Tile256 = Tile<4, 4, stages, 1>;
template <int stages>
using Tile64 = Tile<2, 2, stages, 2>;
template <int stages>
using Tile32 = Tile<1, 2, stages, 2>;

#define GEMM_ENTRY(NAME, FORMAT, TILE, EPILOGUE)                                                                      \
  extern "C" __global__ void __launch_bounds__(TILE::threads, TILE::blocks) NAME(const __grid_constant__ Gemm gemm) { \
    gemm_kernel<FORMAT, TILE, EPILOGUE>(gemm);                                                                        \
  }
