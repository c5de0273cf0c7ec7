//! Planted faults of each kind are found, and the same accesses done right are not reported.
#![allow(clippy::unwrap_used, clippy::panic)]

mod asynchronous;
mod blocks;
mod global;
mod shared;

use super::{Checks, Cursor, Global, LaneFault, Shared};
use crate::fault::Cause;

fn shared(threads: u32) -> Shared {
    Shared::new(1024, threads, Checks::default())
}

fn sync(shared: &mut Shared, warps: u32) {
    (0..warps).for_each(|warp| shared.barrier_arrive(0, warp));
    shared.barrier_complete(0, (1 << warps) - 1);
}

fn lanes(first: u64, step: u64) -> [u64; 32] {
    std::array::from_fn(|lane| first + step * lane as u64)
}
