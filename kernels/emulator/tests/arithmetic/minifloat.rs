//! Small formats, for every f16 and bf16 pattern and every code.

use ptx_emulator::convert::float::{Float, from_bits};
use ptx_emulator::convert::{Minifloat, Narrow, Rounding, decode, decode_x2, encode, encode_x2};

const CODES: &str = include_str!("../fixtures/minifloat/codes.txt");

fn format(name: &str) -> Minifloat {
    match name {
        "e4m3" => Minifloat::E4m3,
        "e5m2" => Minifloat::E5m2,
        "e2m1" => Minifloat::E2m1,
        "e2m3" => Minifloat::E2m3,
        "e3m2" => Minifloat::E3m2,
        "ue8m0" => Minifloat::Ue8m0,
        _ => panic!("format {name}"),
    }
}

fn mode(words: &str) -> Narrow {
    let rounding = match words.split('.').next().unwrap() {
        "rn" => Rounding::NearestEven,
        "rz" => Rounding::TowardZero,
        "rp" => Rounding::Up,
        other => panic!("rounding {other}"),
    };
    Narrow {
        rounding,
        satfinite: words.ends_with("satfinite"),
        relu: false,
    }
}

/// A conversion, and the codes of all patterns of its source as runs `(first pattern, code)`.
type Section = (Minifloat, Narrow, Float, Vec<(usize, u8)>);

fn sections() -> Vec<Section> {
    let mut sections = Vec::new();
    for text in CODES.split("encode ").skip(1) {
        let text = text.split("decode").next().unwrap();
        let mut lines = text.lines();
        let head: Vec<&str> = lines.next().unwrap().split(' ').collect();
        let source = if head[2] == "f16" {
            Float::F16
        } else {
            Float::Bf16
        };
        let runs = lines.map(|line| {
            let (pattern, code) = line.split_once(' ').unwrap();
            (
                usize::from_str_radix(pattern, 16).unwrap(),
                u8::from_str_radix(code, 16).unwrap(),
            )
        });
        sections.push((format(head[0]), mode(head[1]), source, runs.collect()));
    }
    sections
}

#[test]
fn every_pattern_of_f16_and_bf16_gets_the_code_of_cuda_and_ml_dtypes() {
    let sections = sections();
    assert_eq!(sections.len(), 18);
    for (format, mode, source, runs) in sections {
        let mut checked = 0;
        for (i, &(first, code)) in runs.iter().enumerate() {
            let end = runs.get(i + 1).map_or(65536, |next| next.0);
            for pattern in first..end {
                let value = from_bits(pattern as u64, source);
                assert_eq!(
                    encode(format, value, mode),
                    code,
                    "{format:?} {mode:?} {source:?} {pattern:#06x}"
                );
                checked += 1;
            }
        }
        assert_eq!(checked, 65536);
    }
}

#[test]
fn every_code_has_the_value_of_ml_dtypes() {
    let mut checked = 0;
    for text in CODES.split("decode ").skip(1) {
        let mut lines = text.lines();
        let format = format(lines.next().unwrap());
        for (code, bits) in lines.next().unwrap().split(' ').enumerate() {
            let theirs = f32::from_bits(u32::from_str_radix(bits, 16).unwrap());
            let ours = decode(format, code as u8);
            assert!(
                ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(),
                "{format:?} {code:#x}"
            );
            checked += 1;
        }
    }
    assert_eq!(checked, 3 * 256 + 2 * 64 + 16);
}

#[test]
fn e2m1_ties_go_to_even() {
    let near = Narrow {
        satfinite: true,
        ..Narrow::default()
    };
    for (value, rounded) in [
        (0.25, 0.0),
        (0.75, 1.0),
        (1.25, 1.0),
        (1.75, 2.0),
        (2.5, 2.0),
        (3.5, 4.0),
        (5.0, 4.0),
    ] {
        assert_eq!(
            decode(Minifloat::E2m1, encode(Minifloat::E2m1, value, near)),
            rounded
        );
        assert_eq!(
            decode(Minifloat::E2m1, encode(Minifloat::E2m1, -value, near)),
            -rounded
        );
        // The next f64 to either side is no tie.
        let step = |x: f64| decode(Minifloat::E2m1, encode(Minifloat::E2m1, x, near));
        assert!(step(value.next_up()) >= rounded && step(value.next_down()) <= rounded);
        assert!(step(value.next_up()) > step(value.next_down()));
    }
}

#[test]
fn saturation_nan_and_relu() {
    let near = Narrow {
        satfinite: true,
        ..Narrow::default()
    };
    let relu = Narrow { relu: true, ..near };
    for (format, most, nan) in [
        (Minifloat::E2m1, 6.0, 0x7),
        (Minifloat::E4m3, 448.0, 0x7f),
        (Minifloat::E5m2, 57344.0, 0x7f),
    ] {
        for value in [most, most * 1.25, 1e300, f64::INFINITY] {
            assert_eq!(f64::from(decode(format, encode(format, value, near))), most);
            assert_eq!(
                f64::from(decode(format, encode(format, -value, near))),
                -most
            );
            assert_eq!(encode(format, -value, relu), 0);
        }
        for value in [f64::NAN, -f64::NAN] {
            assert_eq!(encode(format, value, near), nan);
            assert_eq!(encode(format, value, relu), nan);
        }
    }
}

#[test]
fn the_first_source_lands_high() {
    let near = Narrow {
        satfinite: true,
        ..Narrow::default()
    };
    assert_eq!(encode_x2(Minifloat::E2m1, 6.0, 0.5, near), 0x71);
    assert_eq!(encode_x2(Minifloat::E4m3, 448.0, 1.0, near), 0x7e38);
    assert_eq!(encode_x2(Minifloat::E2m3, 7.5, -0.125, near), 0x1f21);
    assert_eq!(decode_x2(Minifloat::E2m1, 0x71), (6.0, 0.5));
    assert_eq!(decode_x2(Minifloat::E4m3, 0x7e38), (448.0, 1.0));
}
