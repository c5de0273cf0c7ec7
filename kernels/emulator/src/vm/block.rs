//! A block: its warps in a seeded order, its barriers, what it shares.

use super::barriers::{Barriers, Completed};
use super::code::{BarrierKind, Code, Initial, Op, Special};
use super::registers::{Registers, Slot};
use super::space::{Memory, Own};
use super::warp::{Flaw, Stop, Warp};
use super::{Launch, Settings};
use crate::card::Card;
use crate::fault::Cause;
use crate::memory::{Checks, Cursor, Shared, View};

/// What all blocks of a launch have in common.
pub(super) struct Common<'a> {
    pub code: &'a Code,
    pub launch: &'a Launch,
    pub settings: &'a Settings,
    pub card: &'a Card,
    pub view: &'a View<'a>,
    pub checks: Checks,
    pub addresses: &'a [u64],
}

/// Room for a block, used again for the next.
pub(super) struct Block<'a> {
    common: &'a Common<'a>,
    memory: Memory<'a>,
    warps: Vec<Warp>,
}

/// What a block did.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Work {
    pub steps: u64,
    pub lane_steps: u64,
}

/// A flaw and the warp that has it.
pub(super) type BlockFlaw = (usize, Flaw);

/// Unsuccessful looks at mbarriers in a row, of each warp that can run, until nothing will ever happen.
const SPINS: u32 = 2000;

/// The generator of the order of warps (splitmix64).
struct Order(u64);

impl Order {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ x >> 31) % bound.max(1)
    }
}

impl<'a> Block<'a> {
    pub fn new(common: &'a Common<'a>) -> Self {
        let threads: u32 = common.launch.block.iter().product();
        let bytes = common.code.shared_bytes as usize;
        let bytes = dynamic_base(common.code) as usize
            * usize::from(common.launch.dynamic_shared > 0)
            + common.launch.dynamic_shared as usize
            + bytes * usize::from(common.launch.dynamic_shared == 0);
        let code = common.code;
        let warps = (0..threads.div_ceil(32)).map(|warp| {
            let registers = Registers {
                narrow: vec![[0; 32]; code.narrow as usize],
                wide: vec![[0; 32]; code.wide as usize],
                predicates: vec![0; code.predicates as usize],
            };
            let local_bytes = code.local_bytes as usize;
            let own = Own {
                warp,
                cursor: Cursor::new(0),
                local: vec![0; local_bytes * 32],
                local_bytes,
            };
            Warp::new(registers, own)
        });
        Self {
            common,
            memory: Memory {
                view: common.view,
                shared: Shared::new(bytes, threads, common.checks),
                parameters: &common.launch.params,
            },
            warps: warps.collect(),
        }
    }

    /// Runs the block of that linear index.
    pub fn run(&mut self, index: u64) -> Result<Work, BlockFlaw> {
        self.memory.shared.reset();
        let threads: u32 = self.common.launch.block.iter().product();
        for warp in 0..self.warps.len() {
            let rest = threads - 32 * warp as u32;
            let mask = if rest >= 32 {
                u32::MAX
            } else {
                (1 << rest) - 1
            };
            self.fill(warp, index);
            self.warps[warp].own.cursor = Cursor::new(index as u32);
            self.warps[warp].start(mask);
        }
        let outcome = self.schedule(index);
        let mut work = Work::default();
        for warp in &self.warps {
            work.steps += warp.steps;
            work.lane_steps += warp.lane_steps;
        }
        outcome.map(|()| work)
    }

    fn schedule(&mut self, index: u64) -> Result<(), BlockFlaw> {
        let mut order =
            Order(self.common.settings.seed ^ index.wrapping_mul(0xd6e8_feb8_6659_fd93));
        let mut barriers = Barriers::new(self.warps.len() as u32);
        // Barrier step of each warp that waits.
        let mut waits: Vec<Option<u32>> = vec![None; self.warps.len()];
        let mut ready: Vec<usize> = (0..self.warps.len()).collect();
        let mut taken = 0u64;
        while !ready.is_empty() {
            let at = order.below(ready.len() as u64) as usize;
            let warp = ready[at];
            // Mostly long turns, for speed; now and then short ones, for what they bring to light.
            let turn = 1u32 << order.below(11);
            let before = self.warps[warp].steps;
            let stop = self.warps[warp]
                .run(self.common.code, &mut self.memory, turn)
                .map_err(|flaw| (warp, flaw))?;
            taken += self.warps[warp].steps - before;
            if taken > self.common.settings.step_limit {
                let cause = Cause::Trap(format!(
                    "a block ran for more than {taken} steps of its warps"
                ));
                return Err((
                    warp,
                    Flaw {
                        step: 0,
                        lane: 0,
                        cause,
                    },
                ));
            }
            match stop {
                Stop::Turn | Stop::Pause => {}
                Stop::Spin => {
                    if ready.iter().all(|warp| self.warps[*warp].spins > SPINS) {
                        let text =
                            "all warps that can run wait for an mbarrier whose phase never ends";
                        let cause = Cause::DivergentBarrier(text.to_owned());
                        return Err((
                            warp,
                            Flaw {
                                step: 0,
                                lane: 0,
                                cause,
                            },
                        ));
                    }
                }
                Stop::Done => {
                    ready.swap_remove(at);
                }
                Stop::Barrier(step) => {
                    ready.swap_remove(at);
                    waits[warp] = Some(step);
                    if let Some(woken) = self.arrive(&mut barriers, warp, step)? {
                        for warp in super::registers::lanes(woken) {
                            waits[warp] = None;
                            ready.push(warp);
                        }
                        if waits[warp].take().is_some() {
                            // `bar.arrive` completed the barrier for others, or did not wait itself.
                            ready.push(warp);
                        }
                    } else if self.passes(step) {
                        waits[warp] = None;
                        ready.push(warp);
                    }
                }
            }
        }
        self.nobody_waits(&barriers, &waits)
    }

    /// Whether the barrier of a step does not hold who comes.
    fn passes(&self, step: u32) -> bool {
        matches!(&self.common.code.steps[step as usize].op, Op::Barrier(op) if matches!(op.kind, BarrierKind::Arrive))
    }

    /// A warp comes to a barrier; the warps that go on, if it is complete.
    fn arrive(
        &mut self,
        barriers: &mut Barriers,
        warp: usize,
        step: u32,
    ) -> Result<Option<u32>, BlockFlaw> {
        let Op::Barrier(op) = &self.common.code.steps[step as usize].op else {
            return Ok(None);
        };
        let this = &self.warps[warp];
        let flawed = |cause| {
            (
                warp,
                Flaw {
                    step,
                    lane: this.live.trailing_zeros(),
                    cause,
                },
            )
        };
        let (id, count, votes) = this.at_barrier(op);
        if count.is_none() && this.live != this.initial {
            let gone = (this.initial & !this.live).count_ones();
            let cause =
                Cause::DivergentBarrier(format!("{gone} threads of warp {warp} exited before it"));
            return Err(flawed(cause));
        }
        let live = this.live;
        let completed = barriers
            .arrive((id, warp as u32), count, &op.kind, (votes, live))
            .map_err(flawed)?;
        self.memory.shared.barrier_arrive(id, warp as u32);
        let Some(completed) = completed else {
            return Ok(None);
        };
        self.memory
            .shared
            .barrier_complete(completed.id, completed.waiting);
        self.tell(op, completed);
        Ok(Some(completed.waiting))
    }

    /// Gives the result of `bar.red` to those who waited.
    fn tell(&mut self, op: &super::code::BarrierOp, completed: Completed) {
        for warp in super::registers::lanes(completed.waiting) {
            let this = &mut self.warps[warp];
            let mask = this.live;
            match op.kind {
                BarrierKind::Popc { d, .. } => this.registers.put(d, &[completed.trues; 32], mask),
                BarrierKind::Vote { d, all, .. } => {
                    let holds = if all {
                        completed.trues == completed.voters
                    } else {
                        completed.trues > 0
                    };
                    this.registers
                        .set_predicate(d, if holds { u32::MAX } else { 0 }, mask);
                }
                _ => {}
            }
        }
    }

    /// Nothing runs any more: then nothing may wait.
    fn nobody_waits(&self, barriers: &Barriers, waits: &[Option<u32>]) -> Result<(), BlockFlaw> {
        let Some((warp, step)) = waits
            .iter()
            .enumerate()
            .find_map(|(warp, step)| Some((warp, (*step)?)))
        else {
            return Ok(());
        };
        let done = self
            .warps
            .iter()
            .enumerate()
            .filter(|(_, warp)| warp.done());
        let done = done.fold(0, |mask, (warp, _)| mask | 1 << warp);
        let text = match &self.common.code.steps[step as usize].op {
            Op::Barrier(op) => barriers.missing(self.warps[warp].at_barrier(op).0, done),
            _ => String::new(),
        };
        let lane = self.warps[warp].live.trailing_zeros();
        Err((
            warp,
            Flaw {
                step,
                lane,
                cause: Cause::DivergentBarrier(text),
            },
        ))
    }

    /// The registers' values from the start.
    fn fill(&mut self, warp: usize, index: u64) {
        let code = self.common.code;
        let registers = &mut self.warps[warp].registers;
        registers.narrow.fill([0; 32]);
        registers.wide.fill([0; 32]);
        registers.predicates.fill(0);
        self.warps[warp].own.local.fill(0);
        for fill in &code.fills {
            let values: [u64; 32] = match fill.value {
                Initial::Bits(bits) => [bits; 32],
                Initial::Address(index) => {
                    [self.common
                        .addresses
                        .get(index as usize)
                        .copied()
                        .unwrap_or(0); 32]
                }
                Initial::Predicate(value) => {
                    self.warps[warp].registers.predicates[fill.slot as usize] =
                        if value { u32::MAX } else { 0 };
                    continue;
                }
                Initial::Special(special) => std::array::from_fn(|lane| {
                    self.special(special, (warp as u32, lane as u32), index)
                }),
            };
            let registers = &mut self.warps[warp].registers;
            if fill.wide {
                registers.put(Slot::<u64>::new(fill.slot), &values, u32::MAX);
            } else {
                registers.put(
                    Slot::<u32>::new(fill.slot),
                    &values.map(|value| value as u32),
                    u32::MAX,
                );
            }
        }
    }

    fn special(&self, special: Special, (warp, lane): (u32, u32), index: u64) -> u64 {
        let launch = self.common.launch;
        let dynamic_base = dynamic_base(self.common.code);
        let value = match special {
            Special::Tid(dimension) => {
                thread_of(warp * 32 + lane, launch.block)[dimension as usize]
            }
            Special::Ntid(dimension) => launch.block[dimension as usize],
            Special::Ctaid(dimension) => block_of(index, launch.grid)[dimension as usize],
            Special::Nctaid(dimension) => launch.grid[dimension as usize],
            Special::Lane => lane,
            Special::Warp => warp,
            Special::Warps => self.warps.len() as u32,
            Special::Sm => (index % u64::from(self.common.card.multiprocessors)) as u32,
            Special::Sms => self.common.card.multiprocessors,
            Special::MaskEq => 1 << lane,
            Special::MaskLt => (1 << lane) - 1,
            Special::MaskLe => (2u64.pow(lane + 1) - 1) as u32,
            Special::MaskGt => !((2u64.pow(lane + 1) - 1) as u32),
            Special::MaskGe => !((1 << lane) - 1),
            Special::DynamicShared => launch.dynamic_shared,
            Special::DynamicBase => dynamic_base,
            Special::TotalShared => self.memory.shared.len() as u32,
            Special::Zero => 0,
            Special::One => 1,
        };
        u64::from(value)
    }
}

/// Where dynamic shared memory begins.
pub(super) fn dynamic_base(code: &Code) -> u32 {
    code.shared_bytes
        .next_multiple_of(code.dynamic_align.max(16))
}

/// `ctaid` of a linear index.
pub(super) fn block_of(index: u64, grid: [u32; 3]) -> [u32; 3] {
    let (x, y) = (u64::from(grid[0].max(1)), u64::from(grid[1].max(1)));
    [
        (index % x) as u32,
        (index / x % y) as u32,
        (index / x / y) as u32,
    ]
}

/// `tid` of a linear index.
pub(super) fn thread_of(index: u32, block: [u32; 3]) -> [u32; 3] {
    let (x, y) = (block[0].max(1), block[1].max(1));
    [index % x, index / x % y, index / x / y]
}
