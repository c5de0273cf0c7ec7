//! A function decoded: operations with resolved registers, addresses and labels.

use super::registers::{Action, Predicate, Registers, Slot};
use crate::ptx::Space;

/// A decoded entry, with everything it calls inlined.
#[derive(Default)]
pub(super) struct Code {
    pub steps: Vec<Step>,
    /// Function and statement that each step came from, in the module.
    pub origins: Vec<(u32, u32)>,
    /// Number of registers of each kind.
    pub narrow: u32,
    pub wide: u32,
    pub predicates: u32,
    /// Registers with a value from the start.
    pub fills: Vec<Fill>,
    /// Bytes of local memory per thread.
    pub local_bytes: u32,
    /// Bytes of shared memory that the code declares, and the alignment of what comes after them.
    pub shared_bytes: u32,
    pub dynamic_align: u32,
    /// Registers of 32 bits that the entry declares.
    pub declared: u32,
}

/// One step: an operation for the lanes where its guard holds.
pub(super) struct Step {
    pub op: Op,
    pub guard: Option<(Predicate, bool)>,
}

/// A register's value from the start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fill {
    pub wide: bool,
    pub slot: u32,
    pub value: Initial,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Initial {
    Bits(u64),
    Special(Special),
    /// Address of a variable of the module, by its index.
    Address(u32),
    /// The same in every lane of a predicate register.
    Predicate(bool),
}

/// Special registers that stay as they are while a warp lives. Dimensions are 0 to 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    Lane,
    Warp,
    Warps,
    Sm,
    Sms,
    MaskEq,
    MaskLe,
    MaskLt,
    MaskGe,
    MaskGt,
    DynamicShared,
    /// Where dynamic shared memory begins.
    DynamicBase,
    TotalShared,
    Zero,
    One,
}

/// What counts as an address: a base register, or none for an absolute one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Address {
    pub base: Base,
    pub offset: i64,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Base {
    None,
    Narrow(Slot<u32>),
    Wide(Slot<u64>),
}

/// One element of a vector in registers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Element {
    Narrow(Slot<u32>),
    Wide(Slot<u64>),
    /// `_`: not wanted.
    Sink,
}

/// How an access orders others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Order {
    pub acquire: bool,
    pub release: bool,
    /// Not a plain access: it does not race.
    pub strong: bool,
}

/// `ld` and `st`.
#[derive(Debug)]
pub(super) struct Access {
    pub space: Space,
    pub address: Address,
    /// Bytes of one element.
    pub bytes: usize,
    /// `.s8` and the like: sign bit position to extend from, and the mask of the register's width.
    pub signed: bool,
    /// The registers' width in bits, where narrower than 32.
    pub register_bits: u32,
    pub elements: Vec<Element>,
    pub order: Order,
}

/// `atom` and `red`.
pub(super) struct Atomic {
    pub space: Space,
    pub address: Address,
    pub bytes: usize,
    /// Old values; empty for `red`.
    pub old: Vec<Element>,
    pub operand: Vec<Element>,
    /// Second operand of `cas`.
    pub other: Option<Element>,
    /// `(old, operand, other)` to the new value.
    pub update: Box<dyn Fn(u64, u64, u64) -> u64 + Send + Sync>,
    pub order: Order,
}

/// Which lanes must be together at an instruction.
#[derive(Debug, Clone, Copy)]
pub(super) enum Members {
    /// All that have not exited.
    All,
    /// Those of a mask in a register.
    Mask(Slot<u32>),
}

/// An operation across lanes.
pub(super) type Together = Box<dyn Fn(&mut Registers, u32) -> Result<(), String> + Send + Sync>;

/// `barrier.sync` and its kin.
#[derive(Debug, Clone)]
pub(super) struct BarrierOp {
    pub id: Slot<u32>,
    /// Threads that take part, where not all do.
    pub count: Option<Slot<u32>>,
    pub kind: BarrierKind,
}

#[derive(Debug, Clone)]
pub(super) enum BarrierKind {
    Sync,
    Arrive,
    /// `.red`: the predicate of each thread, and what becomes of it.
    Popc {
        d: Slot<u32>,
        p: Predicate,
        negated: bool,
    },
    Vote {
        d: Predicate,
        p: Predicate,
        negated: bool,
        all: bool,
    },
}

/// `cp.async`.
#[derive(Debug)]
pub(super) struct CopyAsync {
    pub to: Address,
    pub from: Address,
    pub bytes: usize,
    /// Bytes to read; the rest is zero.
    pub source_bytes: Option<Slot<u32>>,
    /// `ignore-src`: nothing is read where it holds.
    pub ignore: Option<(Predicate, bool)>,
}

/// `mbarrier` in shared memory.
#[derive(Debug)]
pub(super) struct Mbarrier {
    pub space: Space,
    pub address: Address,
    pub kind: MbarrierKind,
}

#[derive(Debug)]
pub(super) enum MbarrierKind {
    Init(Slot<u32>),
    Invalidate,
    Arrive {
        state: Option<Slot<u64>>,
        count: Option<Slot<u32>>,
        expect: Option<Slot<u32>>,
    },
    Expect(Slot<u32>),
    /// `cp.async.mbarrier.arrive`.
    ArriveCopies {
        noinc: bool,
    },
    Test {
        d: Predicate,
        state: Slot<u64>,
    },
    TestParity {
        d: Predicate,
        parity: Slot<u32>,
    },
}

/// `cp.async.bulk` of a plain range.
#[derive(Debug)]
pub(super) enum Bulk {
    /// Global to shared, with `complete_tx` at an mbarrier.
    Load {
        to: Address,
        from: Address,
        bytes: Slot<u32>,
        mbarrier: Address,
    },
    /// Shared to global.
    Store {
        to: Address,
        from: Address,
        bytes: Slot<u32>,
    },
}

/// `ldmatrix` and `stmatrix`.
pub(super) enum MatrixMove {
    Load {
        shape: crate::tensor::ldmatrix::Load,
        space: Space,
        address: Address,
        count: usize,
        d: Vec<Slot<u32>>,
    },
    Store {
        shape: crate::tensor::stmatrix::Store,
        space: Space,
        address: Address,
        s: Vec<Slot<u32>>,
    },
}

/// An operation.
pub(super) enum Op {
    /// On registers alone.
    Lanes(Action),
    /// Across lanes, which must be together.
    Together(Members, Together),
    /// Jump of the lanes where the guard holds.
    Branch(u32),
    /// `brx.idx`.
    BranchIndexed {
        index: Slot<u32>,
        targets: Vec<u32>,
    },
    Exit,
    Trap(&'static str),
    Load(Box<Access>),
    Store(Box<Access>),
    Atomic(Box<Atomic>),
    Barrier(Box<BarrierOp>),
    CopyAsync(Box<CopyAsync>),
    Commit,
    /// Wait for all groups but that many; `None`: for all copies.
    WaitGroup(Option<u32>),
    Mbarrier(Box<Mbarrier>),
    Bulk(Box<Bulk>),
    Matrix(Box<MatrixMove>),
    Fence,
    /// A reading of a clock: steps of the warp so far.
    Clock(Element),
    ActiveMask(Slot<u32>),
    /// Lets other warps run.
    Pause,
}
