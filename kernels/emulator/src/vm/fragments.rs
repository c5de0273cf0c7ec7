//! Lanes of a warp that stand at different steps, and how they come together.
//!
//! The fragment at the lowest step runs first, so that those who jumped back or took the longer way catch up and join.
//! Where code is laid out so that they do not, an instruction that needs lanes together makes a fragment wait for them,
//! as `.sync` says. A fragment that keeps running while others could is taken to wait for them, and gives way.

use super::code::{Code, Members, Op};
use super::registers::lanes;
use super::warp::{Flaw, Warp};
use crate::fault::Cause;
use crate::memory::LaneFault;

/// Lanes at one step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fragment {
    pub step: u32,
    pub mask: u32,
    /// Waits for other lanes.
    pub waiting: bool,
}

/// Steps that a fragment takes out of turn.
pub(super) const BURST: u32 = 64;
/// Steps after which the lowest fragment is taken to wait for others.
pub(super) const PATIENCE: u32 = 2000;

impl Warp {
    /// The fragment to run, joined with those at its step, and the step at which it has to give way.
    pub(super) fn pick(&mut self) -> Option<(usize, u32)> {
        let runnable = |fragment: &Fragment| !fragment.waiting;
        let mut order: Vec<usize> = (0..self.fragments.len())
            .filter(|index| runnable(&self.fragments[*index]))
            .collect();
        let place = if self.crowded >= PATIENCE && order.len() > 1 {
            order.sort_by_key(|index| self.fragments[*index].step);
            self.rotation % order.len()
        } else {
            let lowest = (0..order.len()).min_by_key(|place| self.fragments[order[*place]].step);
            lowest?
        };
        let mut index = order[place];
        let step = self.fragments[index].step;
        let mut other = 0;
        while other < self.fragments.len() {
            let fragment = self.fragments[other];
            if other != index && fragment.step == step && !fragment.waiting {
                self.fragments[index].mask |= fragment.mask;
                self.fragments.swap_remove(other);
                if index == self.fragments.len() {
                    index = other;
                }
            } else {
                other += 1;
            }
        }
        let others = self
            .fragments
            .iter()
            .enumerate()
            .filter(|(at, f)| *at != index && runnable(f));
        let limit = others
            .map(|(_, fragment)| fragment.step)
            .min()
            .unwrap_or(u32::MAX);
        Some((index, limit))
    }

    pub(super) fn put_back(&mut self, step: u32, mask: u32) {
        self.fragments.push(Fragment {
            step,
            mask,
            waiting: false,
        });
    }

    /// Brings lanes together: nothing if some are missing, and the fragment waits. Else the fragments at this step are
    /// taken out; the lanes of all of them, and the groups that act together.
    #[allow(clippy::type_complexity)]
    pub(super) fn gather(
        &mut self,
        members: Members,
        (at, index): (u32, usize),
        (mask, active): (u32, u32),
        guard: Option<(super::registers::Predicate, bool)>,
    ) -> Option<Result<(u32, Vec<u32>), LaneFault>> {
        self.fragments[index] = Fragment {
            step: at,
            mask,
            waiting: true,
        };
        let here = self.fragments.iter().filter(|f| f.step == at);
        let joined = here.fold(0, |joined, fragment| joined | fragment.mask);
        let active = match guard {
            None => joined,
            Some((p, negated)) => {
                joined & (self.registers.predicate(p) ^ if negated { u32::MAX } else { 0 }) | active
            }
        };
        let groups = match members {
            Members::All => {
                if active != self.live {
                    return None;
                }
                vec![active]
            }
            Members::Mask(slot) => {
                let masks = *self.registers.get(slot);
                let (mut rest, mut groups) = (active, Vec::with_capacity(1));
                while rest != 0 {
                    let lane = rest.trailing_zeros();
                    let wanted = masks[lane as usize];
                    if wanted >> lane & 1 == 0 {
                        let cause = Cause::Instruction(format!(
                            "the lane is not in its own member mask {wanted:#010x}"
                        ));
                        return Some(Err(LaneFault { lane, cause }));
                    }
                    let group = lanes(active)
                        .filter(|l| masks[*l] == wanted)
                        .fold(0u32, |g, l| g | 1 << l);
                    if wanted & self.live & !group != 0 {
                        return None;
                    }
                    groups.push(group);
                    rest &= !group;
                }
                groups
            }
        };
        self.fragments.retain(|fragment| fragment.step != at);
        Some(Ok((joined, groups)))
    }

    /// No fragment can go on: each waits for lanes that wait elsewhere.
    pub(super) fn stuck(&self, code: &Code) -> Flaw {
        let Some(first) = self.fragments.iter().min_by_key(|fragment| fragment.step) else {
            return Flaw {
                step: 0,
                lane: 0,
                cause: Cause::DivergentBarrier("nothing runs".to_owned()),
            };
        };
        let others = self.live & !first.mask;
        let text = format!(
            "lanes {:#010x} wait here for lanes {others:#010x}, which {}",
            first.mask,
            if self.fragments.len() > 1 {
                "wait at another instruction"
            } else {
                "do not come"
            }
        );
        let barrier = matches!(code.steps[first.step as usize].op, Op::Barrier(_));
        let cause = if barrier {
            Cause::DivergentBarrier(text)
        } else {
            Cause::Instruction(text)
        };
        Flaw {
            step: first.step,
            lane: first.mask.trailing_zeros(),
            cause,
        }
    }
}
