//! f16, bf16, tf32, f32 and f64, and f32 arithmetic with a rounding mode.

use half::{bf16, f16};
use ptx_emulator::convert::Rounding;
use ptx_emulator::convert::float::{Float, FloatMode, convert, from_bits, to_bits};
use ptx_emulator::convert::single;

use super::Random;

fn rounded(value: f64, to: Float, rounding: Rounding) -> u64 {
    to_bits(
        value,
        to,
        FloatMode {
            rounding,
            ..FloatMode::default()
        },
    )
}

#[test]
fn every_half_is_read_and_written_as_the_half_crate_does() {
    for bits in 0..=u16::MAX {
        let (f, b) = (f16::from_bits(bits), bf16::from_bits(bits));
        let (read_f, read_b) = (
            from_bits(bits.into(), Float::F16),
            from_bits(bits.into(), Float::Bf16),
        );
        if f.is_nan() {
            assert!(read_f.is_nan());
            assert_eq!(rounded(read_f, Float::F16, Rounding::NearestEven), 0x7fff);
        } else {
            assert_eq!(read_f.to_bits(), f.to_f64().to_bits());
            assert_eq!(rounded(read_f, Float::F16, Rounding::Up), bits.into());
            let to_bf16 = convert(bits.into(), Float::F16, Float::Bf16, FloatMode::default());
            assert_eq!(to_bf16, bf16::from_f32(f.to_f32()).to_bits().into());
        }
        if b.is_nan() {
            assert!(read_b.is_nan());
        } else {
            assert_eq!(read_b.to_bits(), b.to_f64().to_bits());
            assert_eq!(rounded(read_b, Float::Bf16, Rounding::Down), bits.into());
            let to_f16 = convert(bits.into(), Float::Bf16, Float::F16, FloatMode::default());
            assert_eq!(
                to_f16,
                f16::from_f32(b.to_f32()).to_bits().into(),
                "{bits:#x}"
            );
        }
    }
}

/// The value half way between two halves, and its neighbours.
#[test]
fn ties_between_halves_go_to_even_in_every_binade() {
    for bits in 0..0x7c00u16 {
        let low = f16::from_bits(bits).to_f64();
        let high = if bits == 0x7bff {
            65536.0
        } else {
            f16::from_bits(bits + 1).to_f64()
        };
        let tie = (low + high) / 2.0;
        let near = |value| rounded(value, Float::F16, Rounding::NearestEven);
        let (even, bits64) = (u64::from(bits + bits % 2), u64::from(bits));
        assert_eq!((near(tie), near(-tie)), (even, even | 0x8000));
        assert_eq!(
            (near(tie.next_up()), near(tie.next_down())),
            (bits64 + 1, bits64)
        );
        assert_eq!(
            rounded(tie, Float::F16, Rounding::NearestAway),
            u64::from(bits) + 1
        );
        assert_eq!(rounded(tie, Float::F16, Rounding::Down), bits.into());
        assert_eq!(
            rounded(-tie, Float::F16, Rounding::Down),
            0x8000 | (u64::from(bits) + 1)
        );
        assert_eq!(rounded(tie, Float::F16, Rounding::TowardZero), bits.into());
    }
}

#[test]
fn f64_to_f32_rounds_as_rust_does_and_directed_modes_bracket() {
    let mut random = Random(1);
    let up = FloatMode {
        rounding: Rounding::Up,
        ..FloatMode::default()
    };
    for _ in 0..200_000 {
        // Exponents around f32's, its subnormals and its overflow included.
        let exponent = 1023 - 160 + random.below(300);
        let value = f64::from_bits((random.any() & 0x800f_ffff_ffff_ffff) | exponent << 52);
        let read = |bits: u64| f64::from(f32::from_bits(bits as u32));
        assert_eq!(
            rounded(value, Float::F32, Rounding::NearestEven),
            u64::from((value as f32).to_bits())
        );
        let low = read(rounded(value, Float::F32, Rounding::Down));
        let high = read(to_bits(value, Float::F32, up));
        assert!(low <= value && value <= high);
        assert!(
            low == high || f64::from((low as f32).next_up()) == high,
            "{value:e}"
        );
        let inner = if value > 0.0 { low } else { high };
        assert_eq!(
            read(rounded(value, Float::F32, Rounding::TowardZero)),
            inner
        );
    }
}

#[test]
fn tf32_keeps_ten_bits_and_rna_rounds_ties_away() {
    let one_half_ulp = 1.0 + 2f64.powi(-11);
    assert_eq!(
        rounded(one_half_ulp, Float::Tf32, Rounding::NearestAway),
        0x3f80_2000
    );
    assert_eq!(
        rounded(one_half_ulp, Float::Tf32, Rounding::NearestEven),
        0x3f80_0000
    );
    assert_eq!(from_bits(0x3f80_3fff, Float::Tf32), 1.0 + 2f64.powi(-10));
}

#[test]
fn qualifiers() {
    let mode = FloatMode::default();
    let f32 = |value, mode| f32::from_bits(to_bits(value, Float::F32, mode) as u32);
    assert_eq!(f32(-3.0, FloatMode { sat: true, ..mode }).to_bits(), 0);
    assert_eq!(f32(3.0, FloatMode { sat: true, ..mode }), 1.0);
    assert_eq!(f32(f64::NAN, FloatMode { sat: true, ..mode }).to_bits(), 0);
    assert_eq!(to_bits(f64::NAN, Float::F32, mode), 0x7fff_ffff);
    assert_eq!(
        f32(-1e-40, FloatMode { ftz: true, ..mode }).to_bits(),
        0x8000_0000
    );
    assert_eq!(
        to_bits(
            1e9,
            Float::F16,
            FloatMode {
                satfinite: true,
                ..mode
            }
        ),
        0x7bff
    );
    assert_eq!(to_bits(1e9, Float::F16, mode), 0x7c00);
    assert_eq!(rounded(1e9, Float::F16, Rounding::TowardZero), 0x7bff);
    assert_eq!(rounded(-1e9, Float::F16, Rounding::Up), 0xfbff);
    assert_eq!(
        to_bits(-2.0, Float::Bf16, FloatMode { relu: true, ..mode }),
        0
    );
    assert_eq!(
        to_bits(f64::NAN, Float::Bf16, FloatMode { relu: true, ..mode }),
        0x7fff
    );
    let subnormal = u64::from(1e-40f32.to_bits());
    assert_eq!(
        convert(
            subnormal,
            Float::F32,
            Float::F64,
            FloatMode { ftz: true, ..mode }
        ),
        0
    );
    assert_eq!(
        f64::from_bits(convert(subnormal, Float::F32, Float::F64, mode)),
        f64::from(1e-40f32)
    );
}

/// An f32 of any sign with an exponent within `spread` of 0.
fn near_one(random: &mut Random, spread: u64) -> f32 {
    let bits = random.any() as u32 & 0x807f_ffff;
    f32::from_bits(bits | ((127 - spread / 2 + random.below(spread)) as u32) << 23)
}

/// `fma` does not lean on Rust's operators, so they can judge it. (The others do, to nearest.)
#[test]
fn fma_rounds_to_nearest_as_rust_does() {
    let mut random = Random(2);
    let near = Rounding::NearestEven;
    for _ in 0..100_000 {
        let [a, b, c] = [0; 3].map(|_: u8| f32::from_bits(random.any() as u32));
        let same = |ours: f32, theirs: f32| {
            ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan()
        };
        assert!(
            same(single::fma(a, b, c, near), a.mul_add(b, c)),
            "{a:e} * {b:e} + {c:e}"
        );
        assert!(same(single::fma(a, 1.0, c, near), a + c), "{a:e} + {c:e}");
        assert!(
            same(single::fma(a, b, -0.0, near), a * b + -0.0),
            "{a:e} * {b:e}"
        );
    }
}

#[test]
fn f32_operations_bracket_the_exact_result() {
    let mut random = Random(3);
    for _ in 0..50_000 {
        // Within 2^28 of each other, so that f64 holds the sum exactly.
        let [a, b, c] = [0; 3].map(|_: u8| near_one(&mut random, 12));
        let [x, y, z] = [a, b, c].map(f64::from);
        let check = |name: &str, exact: f64, f: &dyn Fn(Rounding) -> f32| {
            let (low, high) = (f(Rounding::Down), f(Rounding::Up));
            assert!(
                f64::from(low) <= exact && exact <= f64::from(high),
                "{name} {a:e} {b:e} {c:e}"
            );
            let holds = f64::from(exact as f32) == exact;
            assert_eq!(
                high,
                if holds { low } else { low.next_up() },
                "{name} {a:e} {b:e} {c:e}"
            );
            assert_eq!(
                f(Rounding::TowardZero),
                if exact > 0.0 { low } else { high }
            );
        };
        check("add", x + y, &|r| single::add(a, b, r));
        check("mul", x * y, &|r| single::mul(a, b, r));
        // A quotient or root that f32 does not hold is no closer to one than 2^-48: f64's is on the same side.
        check("div", x / y, &|r| single::div(a, b, r));
        check("sqrt", x.abs().sqrt(), &|r| single::sqrt(a.abs(), r));
        let product = (x * y) as f32;
        check("fma", f64::from(product) + z, &|r| {
            single::fma(product, 1.0, c, r)
        });
    }
    // One bit far below: only the exact product tells.
    let above = 1.0f32.next_up();
    let tiny = 2f32.powi(-100);
    assert_eq!(
        single::fma(above, above, tiny, Rounding::Up),
        (above * above).next_up()
    );
    assert_eq!(single::fma(1.0, 1.0, tiny, Rounding::Up), above);
    assert_eq!(
        single::fma(1.0, 1.0, -tiny, Rounding::TowardZero),
        1.0f32.next_down()
    );
    assert_eq!(
        single::add(1.0, -1.0, Rounding::Down).to_bits(),
        (-0.0f32).to_bits()
    );
    assert_eq!(single::add(1.0, -1.0, Rounding::Up).to_bits(), 0);
}
