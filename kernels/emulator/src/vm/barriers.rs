//! The barriers of a block.

use super::code::BarrierKind;
use crate::fault::Cause;

/// The barrier that stands for the one of a cluster, which is a block here.
pub(super) const CLUSTER: i128 = 16;

/// A block has 16 barriers, and that of its cluster.
const COUNT: usize = 17;

/// All barriers of a block.
#[derive(Debug)]
pub(super) struct Barriers {
    /// The warps of the block.
    everyone: u32,
    states: [State; COUNT],
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    arrived: u32,
    waiting: u32,
    /// Threads that take part; `None` for all of the block.
    threads: Option<u32>,
    trues: u32,
    voters: u32,
}

/// What a barrier that is complete tells those who waited.
#[derive(Debug, Clone, Copy)]
pub(super) struct Completed {
    pub id: u32,
    /// Warps that go on.
    pub waiting: u32,
    pub trues: u32,
    pub voters: u32,
}

impl Barriers {
    pub fn new(warps: u32) -> Self {
        let everyone = if warps >= 32 {
            u32::MAX
        } else {
            (1 << warps) - 1
        };
        Self {
            everyone,
            states: [State::default(); COUNT],
        }
    }

    /// A warp arrives, with the predicate of each of its threads for `.red`; the barrier's result if it is complete.
    pub fn arrive(
        &mut self,
        (id, warp): (u32, u32),
        threads: Option<u32>,
        kind: &BarrierKind,
        (votes, lanes): (u32, u32),
    ) -> Result<Option<Completed>, Cause> {
        let Some(state) = self.states.get_mut(id as usize) else {
            return Err(Cause::Instruction(format!("a block has no barrier {id}")));
        };
        if let Some(threads) = threads
            && (threads == 0 || !threads.is_multiple_of(32))
        {
            return Err(Cause::Instruction(format!(
                "{threads} threads at a barrier: no multiple of 32"
            )));
        }
        let bit = 1 << warp;
        if state.arrived & bit != 0 {
            return Err(Cause::DivergentBarrier(format!(
                "warp {warp} arrives twice at barrier {id}"
            )));
        }
        if state.arrived != 0 && state.threads != threads {
            let words = |threads: Option<u32>| threads.map_or("all".to_owned(), |n| n.to_string());
            return Err(Cause::DivergentBarrier(format!(
                "warp {warp} comes to barrier {id} with {} threads, others with {}",
                words(threads),
                words(state.threads)
            )));
        }
        state.threads = threads;
        state.arrived |= bit;
        if !matches!(kind, BarrierKind::Arrive) {
            state.waiting |= bit;
        }
        state.trues += (votes & lanes).count_ones();
        state.voters += lanes.count_ones();
        let complete = match threads {
            None => state.arrived == self.everyone,
            Some(threads) => state.arrived.count_ones() * 32 >= threads,
        };
        if !complete {
            return Ok(None);
        }
        let State {
            waiting,
            trues,
            voters,
            ..
        } = std::mem::take(state);
        Ok(Some(Completed {
            id,
            waiting,
            trues,
            voters,
        }))
    }

    /// What is missing where a warp waits, in words.
    pub fn missing(&self, id: u32, done: u32) -> String {
        let Some(state) = self.states.get(id as usize) else {
            return String::new();
        };
        let list = |mask: u32| {
            let all: Vec<String> = super::registers::lanes(mask)
                .map(|warp| warp.to_string())
                .collect();
            all.join(", ")
        };
        let missing = self.everyone & !state.arrived;
        let mut text = format!("barrier {id} has warps {}", list(state.arrived));
        if missing & done != 0 {
            text += &format!("; warps {} exited", list(missing & done));
        }
        if missing & !done != 0 {
            text += &format!("; warps {} wait elsewhere", list(missing & !done));
        }
        text
    }
}
