//! Operations on halves against exact integers.

use half::{bf16, f16};
use ptx_emulator::convert::half::{Half, HalfMode, add, fma, map2, map3, max, min, mul, sub};

use super::Random;

/// A finite half in units of 2^-40 (bf16: of those made by `pattern`) or 2^-24 (f16), exactly.
fn units(bits: u16, format: Half) -> i128 {
    let (value, per_unit) = match format {
        Half::F16 => (f16::from_bits(bits).to_f64(), 2f64.powi(24)),
        Half::Bf16 => (bf16::from_bits(bits).to_f64(), 2f64.powi(40)),
    };
    let scaled = value * per_unit;
    assert_eq!(scaled, scaled.trunc());
    scaled as i128
}

/// Any finite f16; a bf16 between 2^-20 and 2^20, so that exact results fit i128.
fn pattern(random: &mut Random, format: Half) -> u16 {
    match format {
        Half::F16 => loop {
            let bits = random.any() as u16;
            if f16::from_bits(bits).is_finite() {
                return bits;
            }
        },
        Half::Bf16 => (random.any() as u16 & 0x807f) | (107 + random.below(40) as u16) << 7,
    }
}

/// `result` is the half nearest to `exact`, given in squared units; ties are even.
fn assert_nearest(result: u16, exact: i128, format: Half) {
    let shift = if format == Half::F16 { 24 } else { 40 };
    let infinity = if format == Half::F16 { 0x7c00 } else { 0x7f80 };
    let magnitude = result & 0x7fff;
    if magnitude == infinity {
        // 65520 is half way to where the next f16 would be.
        assert!(exact.abs() >= 65520i128 << 48);
        return;
    }
    // A bf16 below 2^-40 is no multiple of the unit; the bound still holds in f64.
    let place = |bits: u16| match format {
        Half::F16 => f16::from_bits(bits).to_f64() * 2f64.powi(2 * shift),
        Half::Bf16 => bf16::from_bits(bits).to_f64() * 2f64.powi(2 * shift),
    };
    let distance = |bits: u16| (exact - place(bits) as i128).abs();
    let sign = result & 0x8000;
    let mut neighbours = vec![sign | (magnitude + 1)];
    if magnitude > 0 {
        neighbours.push(sign | (magnitude - 1));
    }
    for other in neighbours.into_iter().filter(|x| x & 0x7fff != infinity) {
        let (ours, theirs) = (distance(result), distance(other));
        assert!(
            ours < theirs || ours == theirs && result & 1 == 0,
            "{result:#x} for {exact}"
        );
    }
}

#[test]
fn every_operation_rounds_once() {
    let mut random = Random(7);
    let mode = HalfMode::default();
    for format in [Half::F16, Half::Bf16] {
        let shift = if format == Half::F16 { 24 } else { 40 };
        for _ in 0..100_000 {
            let [a, b, c] = [0; 3].map(|_: u8| pattern(&mut random, format));
            let [x, y, z] = [a, b, c].map(|bits| units(bits, format));
            assert_nearest(fma(a, b, c, format, mode), x * y + (z << shift), format);
            assert_nearest(mul(a, b, format, mode), x * y, format);
            assert_nearest(add(a, b, format, mode), (x + y) << shift, format);
            assert_nearest(sub(a, b, format, mode), (x - y) << shift, format);
        }
    }
}

/// A sum rounded to f32 first would be a tie and go down.
#[test]
fn a_term_far_below_breaks_the_tie() {
    let bits = |x: f64| f16::from_f32(x as f32).to_bits();
    let mode = HalfMode::default();
    // 1 + (1 + 2^-10) * 2^-11 is 2^-21 over the tie.
    let (a, b, c) = (bits(1.0 + 2f64.powi(-10)), bits(2f64.powi(-11)), bits(1.0));
    assert_eq!(
        f16::from_bits(fma(a, b, c, Half::F16, mode)).to_f64(),
        1.0 + 2f64.powi(-10)
    );
    assert_eq!(
        f16::from_bits(fma(bits(1.0), b, c, Half::F16, mode)).to_f64(),
        1.0
    );
    let large = bf16::from_f64(2f64.powi(60)).to_bits();
    let half_unit = bf16::from_f64(2f64.powi(52)).to_bits();
    let tiny = bf16::from_f64(2f64.powi(-60)).to_bits();
    let one = bf16::from_f64(1.0).to_bits();
    assert_eq!(add(large, half_unit, Half::Bf16, mode), large);
    // 2^60 + 2^52 * (1 + 2^-7): just over the tie.
    let over = bf16::from_f64(1.0 + 2f64.powi(-7)).to_bits();
    assert_eq!(fma(half_unit, over, large, Half::Bf16, mode), large + 1);
    assert_eq!(fma(tiny, tiny, one, Half::Bf16, mode), one);
}

#[test]
fn minimum_and_maximum() {
    let (one, two, nan, zero, minus) = (0x3c00, 0x4000, 0xfe01, 0x0000, 0x8000);
    let f = Half::F16;
    assert_eq!(
        (min(one, two, f, false), max(one, two, f, false)),
        (one, two)
    );
    assert_eq!(
        (min(nan, two, f, false), max(two, nan, f, false)),
        (two, two)
    );
    assert_eq!(
        (min(nan, two, f, true), max(two, nan, f, true)),
        (0x7fff, 0x7fff)
    );
    assert_eq!(min(nan, nan, f, false), 0x7fff);
    assert_eq!(
        (min(zero, minus, f, false), max(minus, zero, f, false)),
        (minus, zero)
    );
    assert_eq!(
        (min(0xc000, 0xbc00, f, false), max(0xc000, 0xbc00, f, false)),
        (0xc000, 0xbc00)
    );
}

#[test]
fn modes_and_packs() {
    let mode = HalfMode::default();
    let f = Half::F16;
    assert_eq!(sub(0x3c00, 0x4000, f, HalfMode { relu: true, ..mode }), 0);
    assert_eq!(
        add(0x3c00, 0x4000, f, HalfMode { sat: true, ..mode }),
        0x3c00
    );
    assert_eq!(add(0x0001, 0x0001, f, HalfMode { ftz: true, ..mode }), 0);
    assert_eq!(add(0x0001, 0x0001, f, mode), 2);
    assert_eq!(add(0x7c00, 0xfc00, f, mode), 0x7fff);
    assert_eq!(
        map2(0x4000_3c00, 0x3c00_3c00, |a, b| add(a, b, f, mode)),
        0x4200_4000
    );
    assert_eq!(
        map3(0x4000_3c00, 0x4000_4000, 0x0000_3c00, |a, b, c| fma(
            a, b, c, f, mode
        )),
        0x4400_4200
    );
}
