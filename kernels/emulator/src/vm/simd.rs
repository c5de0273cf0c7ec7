//! The loops that want the processor's own instructions.

use super::registers::{Action, Registers, Slot, map3};

/// What the cards give for every NaN that arithmetic makes.
pub(super) const NAN: u32 = 0x7fff_ffff;

/// An f32's bits, NaN in the one form that the cards give.
#[inline]
pub(super) fn bits(value: f32) -> u32 {
    if value.is_nan() { NAN } else { value.to_bits() }
}

/// `fma.rn.f32`: without the processor's own, each product would be a call.
pub(super) fn fma(d: Slot<u32>, abc: (Slot<u32>, Slot<u32>, Slot<u32>)) -> Action {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("fma") && std::arch::is_x86_feature_detected!("avx2") {
        return Box::new(move |registers: &mut Registers, mask| {
            let (a, b, c) = (
                registers.get(abc.0),
                registers.get(abc.1),
                registers.get(abc.2),
            );
            // SAFETY: both features were found when the action was made.
            let out = unsafe { fma_avx2(a, b, c) };
            registers.put(d, &out, mask);
        });
    }
    map3(d, abc, |a, b, c| {
        bits(f32::from_bits(a).mul_add(f32::from_bits(b), f32::from_bits(c)))
    })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "fma,avx2")]
fn fma_avx2(a: &[u32; 32], b: &[u32; 32], c: &[u32; 32]) -> [u32; 32] {
    let mut out = [0; 32];
    for lane in 0..32 {
        out[lane] =
            bits(f32::from_bits(a[lane]).mul_add(f32::from_bits(b[lane]), f32::from_bits(c[lane])));
    }
    out
}
