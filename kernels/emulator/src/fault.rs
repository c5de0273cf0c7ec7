//! What goes wrong while a kernel runs, as `compute-sanitizer` would say it.

use std::fmt;

/// Where a fault happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Location {
    /// Name of the kernel.
    pub entry: String,
    /// Line of the PTX text, counted from 1, and the line itself.
    pub line: usize,
    /// The instruction.
    pub text: String,
    /// `ctaid` of the block.
    pub block: [u32; 3],
    /// `tid` of the thread, of the lowest faulting lane.
    pub thread: [u32; 3],
}

/// A fault's cause. The texts say numbers; [`Fault`] adds where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// An access outside of every allocation, or across the end of one.
    #[error("{access} of {bytes} bytes at {address:#x} is out of bounds: {nearest}")]
    OutOfBounds {
        /// `load`, `store`, `atomic`, ...
        access: &'static str,
        /// Width of the access.
        bytes: usize,
        /// First address.
        address: u64,
        /// The nearest allocation, in words.
        nearest: String,
    },
    /// An address that is not a multiple of the access's width.
    #[error("{access} of {bytes} bytes at {address:#x} is misaligned")]
    Misaligned {
        /// `load`, `store`, ...
        access: &'static str,
        /// Width of the access.
        bytes: usize,
        /// First address.
        address: u64,
    },
    /// A read of memory that nobody wrote.
    #[error("{space} memory at {address:#x} is read before anything was written there")]
    Uninitialised {
        /// `global` or `shared`.
        space: &'static str,
        /// First byte that was not written.
        address: u64,
    },
    /// A read of what `cp.async` brings, before the wait and the barrier that make it visible.
    #[error("shared memory at {address:#x} is read before its cp.async is waited for: {missing}")]
    NotYetVisible {
        /// First such byte.
        address: u64,
        /// What is missing: the wait of the thread that copied, or a barrier after it.
        missing: &'static str,
    },
    /// Two threads at one address without a barrier between them, one of them writing.
    #[error(
        "race at {space} {address:#x}: thread {first} {first_did}, thread {second} {second_did}, no barrier between"
    )]
    Race {
        /// `global` or `shared`.
        space: &'static str,
        /// Address of the byte.
        address: u64,
        /// Thread (linear index in the block) of the earlier access.
        first: u32,
        /// `wrote` or `read`.
        first_did: &'static str,
        /// Thread of the later access.
        second: u32,
        /// `wrote` or `read`.
        second_did: &'static str,
    },
    /// Two blocks of a launch at one byte of global memory, one of them writing, and no fence or atomic to order them.
    #[error(
        "race at global {address:#x}: block {first} {first_did}, block {second} {second_did}, in one launch"
    )]
    BlockRace {
        /// Address of the byte.
        address: u64,
        /// Block (linear index in the grid) of the earlier access.
        first: u32,
        /// `wrote` or `read`.
        first_did: &'static str,
        /// Block of the later access.
        second: u32,
        /// `wrote` or `read`.
        second_did: &'static str,
    },
    /// A barrier that some threads of a block never reach, or reach by different ways.
    #[error("divergent barrier: {0}")]
    DivergentBarrier(String),
    /// A launch that the card would refuse.
    #[error("launch refused: {0}")]
    LaunchLimit(String),
    /// An instruction that is not implemented, or misused.
    #[error("{0}")]
    Instruction(String),
    /// `trap` or a failed assertion in the kernel.
    #[error("the kernel trapped: {0}")]
    Trap(String),
}

/// A cause and the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub cause: Cause,
    /// Where; absent where the host is at fault.
    pub at: Option<Box<Location>>,
}

impl From<Cause> for Fault {
    fn from(cause: Cause) -> Self {
        Self { cause, at: None }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cause)?;
        if let Some(at) = &self.at {
            let ([x, y, z], [tx, ty, tz]) = (at.block, at.thread);
            write!(
                f,
                "; kernel {}, PTX line {}: `{}`, block ({x}, {y}, {z}), thread ({tx}, {ty}, {tz})",
                at.entry, at.line, at.text
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}
