//! The registers of one warp, each 32 lanes wide, and how operations on them are built.
//!
//! Immediates and special registers that do not change while a warp lives (`%tid.x`, `%laneid`) are registers too,
//! filled when the warp starts: every operand of an operation is then a slot, and every inner loop runs over arrays.

use std::marker::PhantomData;

use crate::Lanes;

/// Registers of a warp: of up to 32 bits (narrower ones zero-extended), of 64 bits, and predicates as masks of lanes.
#[derive(Debug, Default)]
pub(super) struct Registers {
    pub narrow: Vec<Lanes>,
    pub wide: Vec<[u64; 32]>,
    pub predicates: Vec<u32>,
}

/// The carry flag of `add.cc` and its kin is the first predicate.
pub(super) const CARRY: Predicate = Predicate(0);

/// A predicate register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Predicate(pub u32);

/// A register whose lanes are `T`: `u32` or `u64`.
#[derive(Debug)]
pub(super) struct Slot<T>(pub u32, PhantomData<fn() -> T>);

impl<T> Slot<T> {
    pub const fn new(index: u32) -> Self {
        Self(index, PhantomData)
    }
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Slot<T> {}

/// What a lane of a register holds.
pub(super) trait Word: Copy + Default + Send + Sync + 'static {
    /// Width in bits.
    const BITS: u32;
    fn of(registers: &Registers, slot: Slot<Self>) -> &[Self; 32];
    fn of_mut(registers: &mut Registers, slot: Slot<Self>) -> &mut [Self; 32];
    fn truncate(bits: u64) -> Self;
    fn extend(self) -> u64;
}

impl Word for u32 {
    const BITS: u32 = 32;
    fn of(registers: &Registers, slot: Slot<Self>) -> &[Self; 32] {
        &registers.narrow[slot.0 as usize]
    }
    fn of_mut(registers: &mut Registers, slot: Slot<Self>) -> &mut [Self; 32] {
        &mut registers.narrow[slot.0 as usize]
    }
    fn truncate(bits: u64) -> Self {
        bits as Self
    }
    fn extend(self) -> u64 {
        u64::from(self)
    }
}

impl Word for u64 {
    const BITS: u32 = 64;
    fn of(registers: &Registers, slot: Slot<Self>) -> &[Self; 32] {
        &registers.wide[slot.0 as usize]
    }
    fn of_mut(registers: &mut Registers, slot: Slot<Self>) -> &mut [Self; 32] {
        &mut registers.wide[slot.0 as usize]
    }
    fn truncate(bits: u64) -> Self {
        bits
    }
    fn extend(self) -> u64 {
        self
    }
}

impl Registers {
    /// Writes the lanes of `mask`.
    #[inline]
    pub fn put<T: Word>(&mut self, slot: Slot<T>, values: &[T; 32], mask: u32) {
        let register = T::of_mut(self, slot);
        if mask == u32::MAX {
            *register = *values;
        } else {
            for lane in 0..32 {
                register[lane] = if mask >> lane & 1 == 1 {
                    values[lane]
                } else {
                    register[lane]
                };
            }
        }
    }

    #[inline]
    pub fn get<T: Word>(&self, slot: Slot<T>) -> &[T; 32] {
        T::of(self, slot)
    }

    #[inline]
    pub fn predicate(&self, predicate: Predicate) -> u32 {
        self.predicates[predicate.0 as usize]
    }

    #[inline]
    pub fn set_predicate(&mut self, predicate: Predicate, value: u32, mask: u32) {
        let old = &mut self.predicates[predicate.0 as usize];
        *old = *old & !mask | value & mask;
    }
}

/// An operation on registers alone, for the lanes of a mask.
pub(super) type Action = Box<dyn Fn(&mut Registers, u32) + Send + Sync>;

/// `d = f(a)` in each lane.
pub(super) fn map1<D: Word, A: Word>(
    d: Slot<D>,
    a: Slot<A>,
    f: impl Fn(A) -> D + Send + Sync + 'static,
) -> Action {
    Box::new(move |registers, mask| {
        let mut out = [D::default(); 32];
        let a = registers.get(a);
        for lane in 0..32 {
            out[lane] = f(a[lane]);
        }
        registers.put(d, &out, mask);
    })
}

/// `d = f(a, b)` in each lane.
pub(super) fn map2<D: Word, A: Word, B: Word>(
    d: Slot<D>,
    (a, b): (Slot<A>, Slot<B>),
    f: impl Fn(A, B) -> D + Send + Sync + 'static,
) -> Action {
    Box::new(move |registers, mask| {
        let mut out = [D::default(); 32];
        let (a, b) = (registers.get(a), registers.get(b));
        for lane in 0..32 {
            out[lane] = f(a[lane], b[lane]);
        }
        registers.put(d, &out, mask);
    })
}

/// `d = f(a, b, c)` in each lane.
pub(super) fn map3<D: Word, A: Word, B: Word, C: Word>(
    d: Slot<D>,
    (a, b, c): (Slot<A>, Slot<B>, Slot<C>),
    f: impl Fn(A, B, C) -> D + Send + Sync + 'static,
) -> Action {
    Box::new(move |registers, mask| {
        let mut out = [D::default(); 32];
        let (a, b, c) = (registers.get(a), registers.get(b), registers.get(c));
        for lane in 0..32 {
            out[lane] = f(a[lane], b[lane], c[lane]);
        }
        registers.put(d, &out, mask);
    })
}

/// `d = f(a, b, c, e)` in each lane.
pub(super) fn map4<D: Word, A: Word, C: Word>(
    d: Slot<D>,
    (a, b): (Slot<A>, Slot<A>),
    (c, e): (Slot<C>, Slot<C>),
    f: impl Fn(A, A, C, C) -> D + Send + Sync + 'static,
) -> Action {
    Box::new(move |registers, mask| {
        let mut out = [D::default(); 32];
        let (a, b, c, e) = (
            registers.get(a),
            registers.get(b),
            registers.get(c),
            registers.get(e),
        );
        for lane in 0..32 {
            out[lane] = f(a[lane], b[lane], c[lane], e[lane]);
        }
        registers.put(d, &out, mask);
    })
}

/// The mask of lanes where `f(a, b)` holds.
#[inline]
pub(super) fn compare<A: Word>(a: &[A; 32], b: &[A; 32], f: impl Fn(A, A) -> bool) -> u32 {
    let mut flags = [0u32; 32];
    for lane in 0..32 {
        flags[lane] = u32::from(f(a[lane], b[lane])) << lane;
    }
    flags.iter().fold(0, |mask, flag| mask | flag)
}

/// The lanes of a mask, from the lowest.
pub(super) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        let lane = rest.trailing_zeros();
        rest &= rest.wrapping_sub(1);
        (lane < 32).then_some(lane as usize)
    })
}
