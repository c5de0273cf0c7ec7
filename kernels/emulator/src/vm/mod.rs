//! Decodes a module and runs its kernels.
//!
//! `program` lays a module out and decodes an entry when it is first needed; `decode` makes operations of instructions,
//! `code` says what an operation is; `warp` runs them on registers 32 lanes wide, `block` the warps of a block in an
//! order drawn from a seed, and this file the blocks of a launch side by side. `space` is the door to memory.

mod access;
mod asynchronous;
mod barriers;
mod block;
mod code;
mod decode;
mod fragments;
mod limits;
mod program;
mod registers;
mod simd;
mod space;
mod warp;

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use crate::card::Card;
use crate::fault::{Fault, Location};
use crate::memory::{Checks, Global};
use block::{Block, BlockFlaw, Common, Work};
pub use program::{Entry, Needs, ParameterLayout, Program};

/// One launch of a kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Launch {
    /// Blocks per dimension.
    pub grid: [u32; 3],
    /// Threads per dimension.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub dynamic_shared: u32,
    /// The parameters, laid out as [`Entry::parameters`] says.
    pub params: Vec<u8>,
    /// Only the blocks of these linear indices; all if absent.
    pub blocks: Option<Range<u64>>,
}

/// How to run, and what to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Draws the order of warps.
    pub seed: u64,
    /// What to check besides bounds and alignment.
    pub checks: Checks,
    /// Steps of all warps of one block after which it is taken to run forever.
    pub step_limit: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 0,
            checks: Checks::default(),
            step_limit: 1 << 32,
        }
    }
}

/// Where a launch runs.
#[derive(Debug, Clone, Copy)]
pub struct Device<'a> {
    /// Its memory.
    pub memory: &'a Global,
    /// How to run.
    pub settings: &'a Settings,
    /// What it stands in for.
    pub card: &'a Card,
}

/// What a launch did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Instructions, each counted once per lane that executed it.
    pub lane_instructions: u64,
    /// Instructions, each counted once per warp.
    pub warp_instructions: u64,
    /// Blocks that ran.
    pub blocks: u64,
}

/// Runs a kernel to its end.
///
/// # Errors
/// The first fault, of the lowest block that has one; an entry that cannot be decoded; limits of the card.
pub fn launch(entry: &Entry, launch: &Launch, device: &Device<'_>) -> Result<Report, Fault> {
    let code = entry.code()?;
    limits::check(entry, code, launch, device.card)?;
    let addresses = limits::addresses(entry)?;
    let total: u64 = launch.grid.iter().map(|size| u64::from(*size)).product();
    let range = launch.blocks.clone().unwrap_or(0..total);
    let range = range.start.min(total)..range.end.min(total);
    let checks = device.settings.checks;
    let view = device.memory.view(checks, total as usize);
    let common = Common {
        code,
        launch,
        settings: device.settings,
        card: device.card,
        view: &view,
        checks,
        addresses,
    };
    let worst = AtomicU64::new(u64::MAX);
    let flaws: Mutex<Vec<(u64, BlockFlaw)>> = Mutex::new(Vec::new());
    let run = |room: &mut Block<'_>, index: u64| -> Work {
        if index > worst.load(Ordering::Relaxed) {
            return Work::default();
        }
        match room.run(index) {
            Ok(work) => work,
            Err(flaw) => {
                worst.fetch_min(index, Ordering::Relaxed);
                if let Ok(mut flaws) = flaws.lock() {
                    flaws.push((index, flaw));
                }
                Work::default()
            }
        }
    };
    let blocks = range.end.saturating_sub(range.start);
    let add = |a: Work, b: Work| Work {
        steps: a.steps + b.steps,
        lane_steps: a.lane_steps + b.lane_steps,
    };
    let work = range
        .into_par_iter()
        .map_init(|| Block::new(&common), |room, index| run(room, index))
        .reduce(Work::default, add);
    let flaws = flaws.into_inner().unwrap_or_default();
    if let Some((index, flaw)) = flaws.into_iter().min_by_key(|(index, _)| *index) {
        return Err(located(entry, &common, index, flaw));
    }
    Ok(Report {
        lane_instructions: work.lane_steps,
        warp_instructions: work.steps,
        blocks,
    })
}

/// A flaw with its place in the PTX.
fn located(entry: &Entry, common: &Common<'_>, index: u64, (warp, flaw): BlockFlaw) -> Fault {
    let origin = common
        .code
        .origins
        .get(flaw.step as usize)
        .copied()
        .unwrap_or_default();
    let (line, text) = entry.image.instruction(origin);
    Fault {
        cause: flaw.cause,
        at: Some(Box::new(Location {
            entry: entry.name.clone(),
            line,
            text,
            block: block::block_of(index, common.launch.grid),
            thread: block::thread_of(warp as u32 * 32 + flaw.lane.min(31), common.launch.block),
        })),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::type_complexity)]
mod tests;
