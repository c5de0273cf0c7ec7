//! The numbers themselves: norms and biases always, weights where the whole file is to be read.

use rayon::prelude::*;
use safetensors::Dtype;

use super::fault::{FaultKind, Findings};
use super::{Layer, Stored};
use crate::checkpoint::TensorView;
use crate::checkpoint::markers::{WEIGHT_SCALE, companion};
use crate::context::Cancel;
use crate::numerics::e4m3::{E4M3_TO_F32, MAX};

/// Bytes that one thread looks at, a multiple of every element's size.
const CHUNK: usize = 1 << 20;

/// The code of 448 in E4M3.
const LARGEST_CODE: u8 = 0x7e;

/// What E4M3 codes there are among many.
#[derive(Clone, Copy, Default)]
pub(super) struct Codes {
    /// The largest without its sign; 0x7f is NaN.
    pub largest: u8,
    /// Whether a number below zero is among them.
    pub has_negative: bool,
}

impl Codes {
    /// Looks at all of `bytes`, with all threads.
    pub fn of(bytes: &[u8]) -> Self {
        let chunk = |chunk: &[u8]| {
            chunk.iter().fold(Self::default(), |codes, code| Self {
                largest: codes.largest.max(code & 0x7f),
                has_negative: codes.has_negative | (*code > 0x80 && *code != 0xff),
            })
        };
        let both = |a: Self, b: Self| Self {
            largest: a.largest.max(b.largest),
            has_negative: a.has_negative | b.has_negative,
        };
        bytes
            .par_chunks(CHUNK)
            .map(chunk)
            .reduce(Self::default, both)
    }

    /// Whether a NaN is among them.
    pub fn has_nan(self) -> bool {
        self.largest == 0x7f
    }
}

/// Norms, biases and other vectors must be finite.
pub(super) fn check_small(stored: &Stored, found: &mut Findings) {
    for (name, view) in stored.iter().filter(|(_, view)| is_vector(view)) {
        if companion(name).is_none()
            && let Some(at) = not_finite(view)
        {
            found.fault(
                name,
                FaultKind::NotFinite,
                format!("number {at} is NaN or infinite: every picture is black; get the file again from its source"),
            );
        }
    }
}

/// Every other weight must be finite, and its scale must be the one that its numbers were divided by.
pub(super) fn check_weights(stored: &Stored, cancel: &Cancel, found: &mut Findings) {
    for (name, view) in stored.iter().filter(|(_, view)| !is_vector(view)) {
        if cancel.is_cancelled() {
            return;
        }
        if companion(name).is_some() {
            continue;
        }
        let layer = name.strip_suffix(".weight").map(|name| Layer {
            name,
            weight: view,
            stored,
        });
        if let Some(layer) = layer
            && view.dtype() == Dtype::F8_E4M3
        {
            let codes = Codes::of(view.bytes());
            if !codes.has_nan() {
                check_range(&layer, codes.largest, found);
                continue;
            }
        }
        if let Some(at) = not_finite(view) {
            found.fault(
                name,
                FaultKind::NanWeight,
                format!("number {at} is NaN or infinite: every picture is black or noise; get the file again from its source"),
            );
        }
    }
}

/// What the largest code of an E4M3 weight tells of its scale.
fn check_range(layer: &Layer, largest: u8, found: &mut Findings) {
    let scale = WEIGHT_SCALE.iter().find_map(|part| layer.find(part));
    let Some(view) = scale else {
        if largest == LARGEST_CODE && layer.weight.shape().len() == 2 {
            found.advise(
                layer.weight.name(),
                FaultKind::LostScale,
                "it has no scale but its numbers reach 448, the end of FP8: it was cut off there, or its scale was lost; compare it with its source",
            );
        }
        return;
    };
    let value = match view.elements() {
        1 => view.to_f32().ok().and_then(|v| v.first().copied()),
        _ => None,
    };
    let amax = E4M3_TO_F32[usize::from(largest)];
    // Numbers that were divided by amax / 448 reach 448, so this equality has no other cause than chance: one in
    // millions.
    let is_undivided = |scale: f32| (scale / (amax / MAX) - 1.0).abs() < 1e-6;
    if amax > 0.0 && amax < MAX && value.is_some_and(is_undivided) {
        found.fault(
            view.name(),
            FaultKind::UndividedWeight,
            format!(
                "it is 1/448 of the largest stored number ({amax}), but the numbers were never divided by it: they are the weights themselves, and the scale must be 1; convert the original with --assume-unscaled"
            ),
        );
    }
}

/// At most one side that is not 1.
fn is_vector(view: &TensorView) -> bool {
    view.shape().iter().filter(|side| **side != 1).count() <= 1
}

/// The first number that is NaN or infinite: all bits of its exponent are set (in E4M3, all bits).
fn not_finite(view: &TensorView) -> Option<usize> {
    let bytes = view.bytes();
    match view.dtype() {
        Dtype::F8_E4M3 => first(bytes, |[code]| code & 0x7f == 0x7f),
        Dtype::F8_E5M2 => first(bytes, |[code]| code & 0x7c == 0x7c),
        Dtype::F16 => first(bytes, |b| u16::from_le_bytes(b) & 0x7c00 == 0x7c00),
        Dtype::BF16 => first(bytes, |b| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
        Dtype::F32 => first(bytes, |b| {
            u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000
        }),
        _ => None,
    }
}

/// The first of the elements of `N` bytes that is bad.
fn first<const N: usize>(bytes: &[u8], is_bad: impl Fn([u8; N]) -> bool + Sync) -> Option<usize> {
    let chunks = bytes.par_chunks(CHUNK).enumerate();
    chunks.find_map_first(|(index, chunk)| {
        let (elements, _) = chunk.as_chunks::<N>();
        // Without an early end the compiler looks at many elements at once.
        let bad = elements.iter().fold(false, |bad, e| bad | is_bad(*e));
        let at = elements.iter().position(|e| bad && is_bad(*e))?;
        Some(index * (CHUNK / N) + at)
    })
}
