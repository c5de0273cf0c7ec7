//! Integers against Rust's `as`, which saturates from floats and takes NaN to 0.

use ptx_emulator::convert::Rounding;
use ptx_emulator::convert::float::{Float, FloatMode};
use ptx_emulator::convert::integer::{Int, convert, from_float, to_float, to_integral};

use super::Random;

macro_rules! for_every_int {
    ($call:ident) => {
        $call!(i8);
        $call!(u8);
        $call!(i16);
        $call!(u16);
        $call!(i32);
        $call!(u32);
        $call!(i64);
        $call!(u64);
    };
}

macro_rules! int {
    ($type:ty) => {
        Int {
            bits: <$type>::BITS as u8,
            signed: <$type>::MIN != 0,
        }
    };
}

/// Values of all magnitudes, and the edges of all types.
fn values() -> Vec<f64> {
    let mut random = Random(4);
    let mut values: Vec<f64> = (0..20_000)
        .map(|_| {
            f64::from_bits(
                (random.any() & 0x800f_ffff_ffff_ffff) | (1023 - 4 + random.below(75)) << 52,
            )
        })
        .collect();
    for bits in [7, 8, 15, 16, 31, 32, 63, 64] {
        let edge = 2f64.powi(bits);
        for near in [
            edge,
            edge.next_down(),
            edge.next_up(),
            edge - 0.5,
            edge - 1.5,
            edge + 0.5,
        ] {
            values.extend([near, -near]);
        }
    }
    values.extend([
        0.0,
        -0.0,
        0.5,
        1.5,
        2.5,
        -0.5,
        -1.5,
        -2.5,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ]);
    values
}

#[test]
fn floats_to_integers_clamp() {
    for value in values() {
        macro_rules! check {
            ($type:ty) => {
                let all = [
                    (Rounding::TowardZero, value as $type),
                    (Rounding::NearestEven, value.round_ties_even() as $type),
                    (Rounding::Down, value.floor() as $type),
                    (Rounding::Up, value.ceil() as $type),
                ];
                for (rounding, expected) in all {
                    // Extended to 64 bits by the type's own sign.
                    assert_eq!(
                        from_float(value, int!($type), rounding),
                        expected as u64,
                        "{value:e} {rounding:?}"
                    );
                }
            };
        }
        for_every_int!(check);
    }
}

#[test]
fn nan_to_integer() {
    for (bits, expected) in [(8, 0), (16, 0), (32, 0), (64, 1 << 63)] {
        for signed in [false, true] {
            assert_eq!(
                from_float(f64::NAN, Int { bits, signed }, Rounding::TowardZero),
                expected
            );
        }
    }
}

#[test]
fn integers_to_floats_round_once() {
    let mut random = Random(5);
    let mode = |rounding| FloatMode {
        rounding,
        ..FloatMode::default()
    };
    for i in 0..100_000u32 {
        // Every length of integer, and long runs of ones or zeros behind the leading bits: the hard cases.
        let long = random.any() >> random.below(64);
        let bits = if i % 3 == 0 {
            long | ((1 << random.below(64)) - 1)
        } else {
            long & !((1 << random.below(64)) - 1)
        };
        macro_rules! check {
            ($type:ty) => {
                let value = bits as $type;
                let near = mode(Rounding::NearestEven);
                assert_eq!(
                    to_float(bits, int!($type), Float::F32, near),
                    (value as f32).to_bits().into()
                );
                assert_eq!(
                    to_float(bits, int!($type), Float::F64, near),
                    (value as f64).to_bits()
                );
                let read32 = |r| {
                    f64::from(f32::from_bits(
                        to_float(bits, int!($type), Float::F32, mode(r)) as u32,
                    ))
                };
                let (low, high) = (read32(Rounding::Down), read32(Rounding::Up));
                assert!(
                    low as i128 <= value as i128 && value as i128 <= high as i128,
                    "{value}"
                );
                assert!(low == high || f64::from((low as f32).next_up()) == high);
                let read64 = |r| f64::from_bits(to_float(bits, int!($type), Float::F64, mode(r)));
                let (low, high) = (read64(Rounding::Down), read64(Rounding::Up));
                assert!(
                    low as i128 <= value as i128 && value as i128 <= high as i128,
                    "{value}"
                );
                assert!(low == high || low.next_up() == high);
                let inner = if bits as $type as i128 >= 0 {
                    low
                } else {
                    high
                };
                assert_eq!(read64(Rounding::TowardZero), inner);
            };
        }
        for_every_int!(check);
    }
}

#[test]
fn integers_to_integers() {
    let mut random = Random(6);
    for _ in 0..20_000 {
        let bits = random.any() >> random.below(64);
        macro_rules! from {
            ($from:ty) => {
                let value = bits as $from;
                macro_rules! to {
                    ($to:ty) => {
                        let clamped =
                            (value as i128).clamp(<$to>::MIN as i128, <$to>::MAX as i128) as $to;
                        assert_eq!(
                            convert(bits, int!($from), int!($to), false),
                            value as $to as u64
                        );
                        assert_eq!(convert(bits, int!($from), int!($to), true), clamped as u64);
                    };
                }
                for_every_int!(to);
            };
        }
        for_every_int!(from);
    }
}

#[test]
fn whole_numbers_keep_their_sign() {
    assert_eq!(
        to_integral(-0.25, Rounding::NearestEven).to_bits(),
        (-0.0f64).to_bits()
    );
    assert_eq!(to_integral(2.5, Rounding::NearestEven), 2.0);
    assert_eq!(to_integral(-2.5, Rounding::Down), -3.0);
    assert_eq!(to_integral(-2.5, Rounding::Up), -2.0);
    assert_eq!(to_integral(-2.5, Rounding::TowardZero), -2.0);
}
