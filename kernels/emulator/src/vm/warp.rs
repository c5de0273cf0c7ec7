//! A warp: which of its lanes stand at which step, and how it goes on.
//!
//! Lanes that stand at one step are a fragment; `fragments` says which runs and how they meet again.

use super::access;
use super::asynchronous;
use super::code::{BarrierOp, Code, Element, Members, Op};
use super::fragments::{BURST, Fragment, PATIENCE};
use super::registers::{Registers, lanes};
use super::space::{Memory, Own};
use crate::fault::Cause;
use crate::memory::LaneFault;

/// A warp of a block.
#[derive(Debug)]
pub(super) struct Warp {
    pub registers: Registers,
    pub own: Own,
    pub(super) fragments: Vec<Fragment>,
    /// Lanes that it began with, and those that have not exited.
    pub initial: u32,
    pub live: u32,
    /// Steps so far, and lanes that took them.
    pub steps: u64,
    pub lane_steps: u64,
    /// Steps with more than one fragment, from which on one out of turn runs: the lowest waits for what others do.
    pub(super) crowded: u32,
    /// Which one that is.
    pub(super) rotation: usize,
    /// Unsuccessful looks at mbarriers in a row.
    pub spins: u32,
}

/// Why a warp stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// Its turn is over.
    Turn,
    /// It gives way.
    Pause,
    /// It looked at an mbarrier whose phase is not over.
    Spin,
    /// It stands at the barrier of that step.
    Barrier(u32),
    Done,
}

/// What went wrong, at which step and lane.
#[derive(Debug)]
pub(super) struct Flaw {
    pub step: u32,
    pub lane: u32,
    pub cause: Cause,
}

impl Warp {
    pub fn new(registers: Registers, own: Own) -> Self {
        Self {
            registers,
            own,
            fragments: Vec::new(),
            initial: 0,
            live: 0,
            steps: 0,
            lane_steps: 0,
            crowded: 0,
            rotation: 0,
            spins: 0,
        }
    }

    /// Back to the first step, with the lanes of `mask`.
    pub fn start(&mut self, mask: u32) {
        self.fragments.clear();
        self.fragments.push(Fragment {
            step: 0,
            mask,
            waiting: false,
        });
        (self.initial, self.live) = (mask, mask);
        (self.steps, self.lane_steps) = (0, 0);
        (self.crowded, self.rotation, self.spins) = (0, 0, 0);
    }

    pub fn done(&self) -> bool {
        self.fragments.is_empty()
    }

    /// Runs for up to `turn` steps.
    pub fn run(&mut self, code: &Code, memory: &mut Memory<'_>, turn: u32) -> Result<Stop, Flaw> {
        let mut left = turn;
        loop {
            if self.fragments.is_empty() {
                return Ok(Stop::Done);
            }
            let Some((index, limit)) = self.pick() else {
                return Err(self.stuck(code));
            };
            if limit == u32::MAX {
                self.crowded = 0;
            }
            let limit = if self.crowded >= PATIENCE {
                u32::MAX
            } else {
                limit
            };
            if let Some(stop) = self.run_fragment((code, memory), index, limit, &mut left)? {
                return Ok(stop);
            }
        }
    }

    /// Runs one fragment until it gives way; the reason if the warp as a whole stops.
    fn run_fragment(
        &mut self,
        (code, memory): (&Code, &mut Memory<'_>),
        index: usize,
        mut limit: u32,
        left: &mut u32,
    ) -> Result<Option<Stop>, Flaw> {
        let Fragment {
            step: mut at,
            mut mask,
            ..
        } = self.fragments[index];
        macro_rules! park {
            () => {
                self.fragments[index] = Fragment {
                    step: at,
                    mask,
                    waiting: false,
                }
            };
        }
        macro_rules! flawed {
            ($result:expr) => {
                match $result {
                    Ok(value) => value,
                    Err(LaneFault { lane, cause }) => {
                        return Err(Flaw {
                            step: at,
                            lane,
                            cause,
                        })
                    }
                }
            };
        }
        loop {
            if at >= limit || *left == 0 {
                park!();
                return Ok((*left == 0).then_some(Stop::Turn));
            }
            *left -= 1;
            if self.fragments.len() > 1 {
                self.crowded += 1;
                if self.crowded == PATIENCE || self.crowded >= PATIENCE + BURST {
                    self.rotation += usize::from(self.crowded == PATIENCE);
                    self.crowded %= PATIENCE + BURST;
                    park!();
                    return Ok(None);
                }
            }
            let step = &code.steps[at as usize];
            let active = match step.guard {
                None => mask,
                Some((p, false)) => mask & self.registers.predicate(p),
                Some((p, true)) => mask & !self.registers.predicate(p),
            };
            self.steps += 1;
            self.lane_steps += u64::from(active.count_ones());
            if active == 0 {
                at += 1;
                continue;
            }
            match &step.op {
                Op::Lanes(action) => action(&mut self.registers, active),
                Op::Branch(target) => {
                    if active == mask {
                        at = *target;
                        continue;
                    }
                    mask &= !active;
                    self.fragments.push(Fragment {
                        step: *target,
                        mask: active,
                        waiting: false,
                    });
                    if self.crowded < PATIENCE {
                        limit = limit.min(*target);
                    }
                }
                Op::BranchIndexed {
                    index: slot,
                    targets,
                } => {
                    let slots = *self.registers.get(*slot);
                    self.fragments.swap_remove(index);
                    let mut push = |step: u32, mask: u32| match self
                        .fragments
                        .iter_mut()
                        .find(|f| f.step == step && !f.waiting)
                    {
                        Some(fragment) => fragment.mask |= mask,
                        None => self.fragments.push(Fragment {
                            step,
                            mask,
                            waiting: false,
                        }),
                    };
                    for lane in lanes(active) {
                        let Some(target) = targets.get(slots[lane] as usize) else {
                            let cause =
                                Cause::Instruction(format!("there is no branch {}", slots[lane]));
                            return Err(Flaw {
                                step: at,
                                lane: lane as u32,
                                cause,
                            });
                        };
                        push(*target, 1 << lane);
                    }
                    if mask != active {
                        push(at + 1, mask & !active);
                    }
                    return Ok(None);
                }
                Op::Exit => {
                    self.live &= !active;
                    mask &= !active;
                    self.fragments
                        .iter_mut()
                        .for_each(|fragment| fragment.waiting = false);
                    if mask == 0 {
                        self.fragments.swap_remove(index);
                        return Ok(None);
                    }
                }
                Op::Trap(why) => {
                    let cause = Cause::Trap((*why).to_owned());
                    return Err(Flaw {
                        step: at,
                        lane: active.trailing_zeros(),
                        cause,
                    });
                }
                Op::Load(op) => {
                    flawed!(access::load(
                        op,
                        &mut self.registers,
                        active,
                        (memory, &mut self.own)
                    ));
                }
                Op::Store(op) => {
                    flawed!(access::store(
                        op,
                        &self.registers,
                        active,
                        (memory, &mut self.own)
                    ));
                }
                Op::Atomic(op) => {
                    flawed!(access::atomic(
                        op,
                        &mut self.registers,
                        active,
                        (memory, &mut self.own)
                    ));
                }
                Op::CopyAsync(op) => {
                    flawed!(asynchronous::copy(
                        op,
                        &self.registers,
                        active,
                        (memory, &mut self.own)
                    ));
                }
                Op::Commit => {
                    lanes(active).for_each(|lane| memory.shared.commit_group(self.own.thread(lane)))
                }
                Op::WaitGroup(pending) => {
                    for lane in lanes(active) {
                        match pending {
                            Some(pending) => memory
                                .shared
                                .wait_group(self.own.thread(lane), *pending as usize),
                            None => memory.shared.wait_all(self.own.thread(lane)),
                        }
                    }
                }
                Op::Mbarrier(op) => {
                    let spins = flawed!(asynchronous::mbarrier(
                        op,
                        &mut self.registers,
                        active,
                        (memory, &mut self.own)
                    ));
                    if spins {
                        at += 1;
                        park!();
                        self.spins += 1;
                        self.crowded = PATIENCE;
                        self.rotation += 1;
                        return Ok(Some(Stop::Spin));
                    }
                    self.spins = 0;
                }
                Op::Bulk(op) => {
                    flawed!(asynchronous::bulk(
                        op,
                        &self.registers,
                        active,
                        (memory, &mut self.own)
                    ));
                }
                Op::Fence => memory.fence(&self.own),
                Op::Clock(element) => match element {
                    Element::Narrow(slot) => {
                        self.registers.put(*slot, &[self.steps as u32; 32], active)
                    }
                    Element::Wide(slot) => self.registers.put(*slot, &[self.steps; 32], active),
                    Element::Sink => {}
                },
                Op::ActiveMask(slot) => self.registers.put(*slot, &[active; 32], active),
                Op::Pause => {
                    at += 1;
                    park!();
                    self.crowded = PATIENCE;
                    return Ok(Some(Stop::Pause));
                }
                Op::Together(members, action) => {
                    let Some(groups) =
                        self.gather(*members, (at, index), (mask, active), step.guard)
                    else {
                        return Ok(None);
                    };
                    let (joined, groups) = flawed!(groups);
                    for group in groups {
                        action(&mut self.registers, group).map_err(|problem| Flaw {
                            step: at,
                            lane: group.trailing_zeros(),
                            cause: Cause::Instruction(problem),
                        })?;
                    }
                    // Others may have joined: the fragment is looked up anew.
                    at += 1;
                    self.put_back(at, joined);
                    return Ok(if *left == 0 { Some(Stop::Turn) } else { None });
                }
                Op::Matrix(op) => {
                    let Some(groups) =
                        self.gather(Members::All, (at, index), (mask, active), step.guard)
                    else {
                        return Ok(None);
                    };
                    let (joined, _) = flawed!(groups);
                    flawed!(asynchronous::matrix(
                        op,
                        &mut self.registers,
                        joined,
                        (memory, &mut self.own)
                    ));
                    at += 1;
                    self.put_back(at, joined);
                    return Ok(if *left == 0 { Some(Stop::Turn) } else { None });
                }
                Op::Barrier(_) => {
                    let Some(groups) =
                        self.gather(Members::All, (at, index), (mask, active), step.guard)
                    else {
                        return Ok(None);
                    };
                    let (joined, _) = flawed!(groups);
                    self.put_back(at + 1, joined);
                    return Ok(Some(Stop::Barrier(at)));
                }
            }
            at += 1;
        }
    }

    /// What a barrier needs to know of the warp: its number, its count of threads, the votes.
    pub fn at_barrier(&self, op: &BarrierOp) -> (u32, Option<u32>, u32) {
        use super::code::BarrierKind;
        let lane = self.live.trailing_zeros() as usize & 31;
        let votes = match &op.kind {
            BarrierKind::Popc { p, negated, .. } | BarrierKind::Vote { p, negated, .. } => {
                self.registers.predicate(*p) ^ if *negated { u32::MAX } else { 0 }
            }
            _ => 0,
        };
        let count = op.count.map(|slot| self.registers.get(slot)[lane]);
        (self.registers.get(op.id)[lane], count, votes)
    }
}
