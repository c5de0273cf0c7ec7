//! Which vector instructions a machine has, as far as the products care.

use std::fmt;

/// What a machine can do, from least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Whatever the compiler makes of plain loops.
    Portable,
    /// AVX2 and FMA: 8 floats, byte products by `vpmaddubsw`.
    Avx2,
    /// AVX-512 with VNNI: 16 floats, byte products by `vpdpbusd`.
    Avx512,
    /// The same with BF16 and VBMI: FP8 by `vdpbf16ps`, two products a lane.
    Avx512Bf16,
}

impl Level {
    /// From least to most.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16];
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512-vnni",
            Self::Avx512Bf16 => "avx512-vnni-bf16",
        })
    }
}

/// A level that this machine was found to have: only then its instructions may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Machine(Level);

impl Machine {
    /// The most that this machine has.
    pub fn detect() -> Self {
        let best = Level::ALL.into_iter().rev().find(|level| has(*level));
        Self(best.unwrap_or(Level::Portable))
    }

    /// This machine as if it had nothing above `level`; None where it has not that much.
    pub fn at(level: Level) -> Option<Self> {
        has(level).then_some(Self(level))
    }

    /// What it may use.
    pub fn level(self) -> Level {
        self.0
    }
}

#[cfg(target_arch = "x86_64")]
fn has(level: Level) -> bool {
    let avx2 = || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = || {
        avx2()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
    };
    match level {
        Level::Portable => true,
        Level::Avx2 => avx2(),
        Level::Avx512 => avx512(),
        Level::Avx512Bf16 => {
            avx512()
                && is_x86_feature_detected!("avx512bf16")
                && is_x86_feature_detected!("avx512vbmi")
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn has(level: Level) -> bool {
    level == Level::Portable
}

/// Whether a feature is there.
pub type Has = fn() -> bool;

/// The features that kernels look for, by name.
#[cfg(target_arch = "x86_64")]
pub const FEATURES: [(&str, Has); 9] = [
    ("avx2", || is_x86_feature_detected!("avx2")),
    ("fma", || is_x86_feature_detected!("fma")),
    ("f16c", || is_x86_feature_detected!("f16c")),
    ("avx512f", || is_x86_feature_detected!("avx512f")),
    ("avx512bw", || is_x86_feature_detected!("avx512bw")),
    ("avx512vl", || is_x86_feature_detected!("avx512vl")),
    ("avx512vnni", || is_x86_feature_detected!("avx512vnni")),
    ("avx512bf16", || is_x86_feature_detected!("avx512bf16")),
    ("avx512vbmi", || is_x86_feature_detected!("avx512vbmi")),
];

/// The features that kernels look for, by name.
#[cfg(not(target_arch = "x86_64"))]
pub const FEATURES: [(&str, Has); 0] = [];
