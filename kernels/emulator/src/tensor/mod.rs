//! The warp-wide matrix instructions: `mma.sync`, `ldmatrix`, `stmatrix`.
