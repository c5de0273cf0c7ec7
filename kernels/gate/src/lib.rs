//! What `ptxas` made of the kernels, counted and held against limits, without a GPU.
//!
//! `sass` reads the listing of `cuobjdump -sass`, `loops` finds the loop that does the work, `count` counts its
//! instructions; `usage` reads registers, spills and shared memory; `card` says how many blocks a multiprocessor holds;
//! `limits` is the committed table of what each kernel must keep (`kernels/gate.json`), `rules` compares, `report`
//! writes `kernels/SASS.md`.
//!
//! Counts are not times. They catch what makes a kernel slow for certain: spills, narrow loads, a matrix instruction of
//! half rate, a loop with too much around its products.

pub mod card;
pub mod count;
pub mod kernel;
pub mod limits;
pub mod loops;
pub mod report;
pub mod rules;
pub mod sass;
pub mod usage;
