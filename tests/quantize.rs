//! Codes, block scales and chosen scales equal comfy-kitchen's eager backend bit for bit, for every kind of source.
//!
//! The expected bytes are those of `fixtures/quantize/make_quantize.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use qwen_nvfp4::numerics::e4m3_source::{FourSix, Histogram, Split, Tables};
use qwen_nvfp4::numerics::nvfp4::{self, BLOCK, BlockRule};
use qwen_nvfp4::numerics::search::{self, Candidate, Format, Method, Search};
use qwen_nvfp4::numerics::{e2m1, e4m3, fp8, swizzle, widen};
use safetensors::{Dtype, SafeTensors};

const METHODS: [(&str, BlockRule); 3] = [
    ("amax", BlockRule::Six),
    ("mse", BlockRule::Six),
    ("four_six", BlockRule::FourSix),
];

fn with_fixture(check: impl Fn(&Fixture)) {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/quantize/quantize.safetensors");
    let bytes = std::fs::read(path).unwrap();
    check(&Fixture(SafeTensors::deserialize(&bytes).unwrap()));
}

struct Fixture<'a>(SafeTensors<'a>);

/// A weight as its checkpoint stores it, and as numbers.
struct Weight {
    name: String,
    columns: usize,
    /// E4M3 bytes, where it is stored so.
    e4m3: Option<Vec<u8>>,
    weight_scale: f32,
    x: Vec<f32>,
}

impl Fixture<'_> {
    fn bytes(&self, name: &str) -> &[u8] {
        self.0.tensor(name).unwrap().data()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let view = self.0.tensor(name).unwrap();
        let mut out = vec![0.0; view.shape().iter().product()];
        assert!(widen::widen(view.dtype(), view.data(), &mut out));
        out
    }

    fn scale(&self, name: &str) -> f32 {
        self.floats(name)[0]
    }

    /// Mean squared errors of the ratios: summed in F64, and by torch in F32.
    fn errors(&self, name: &str) -> [Vec<f64>; 2] {
        let all: Vec<f64> = self
            .bytes(name)
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| f64::from_le_bytes(*b))
            .collect();
        let (exact, plain) = all.split_at(all.len() / 2);
        [exact.to_vec(), plain.to_vec()]
    }

    fn weights(&self) -> Vec<Weight> {
        let names = self.0.names();
        let mut names: Vec<&str> = names
            .iter()
            .filter_map(|n| n.strip_suffix(".weight"))
            .collect();
        names.sort_unstable();
        assert_eq!(names.len(), 17);
        names.into_iter().map(|name| self.weight(name)).collect()
    }

    fn weight(&self, name: &str) -> Weight {
        let key = format!("{name}.weight");
        let view = self.0.tensor(&key).unwrap();
        let weight_scale = match self.0.tensor(&format!("{key}_scale")) {
            Ok(_) => self.scale(&format!("{key}_scale")),
            Err(_) => 1.0,
        };
        Weight {
            name: name.to_owned(),
            columns: view.shape()[1],
            e4m3: (view.dtype() == Dtype::F8_E4M3).then(|| view.data().to_vec()),
            weight_scale,
            x: self.floats(&key).iter().map(|x| x * weight_scale).collect(),
        }
    }

    fn same_bytes(&self, name: &str, ours: &[u8]) {
        let different = ours.iter().zip(self.bytes(name)).position(|(a, b)| a != b);
        assert!(
            different.is_none() && ours.len() == self.bytes(name).len(),
            "{name}: byte {different:?}"
        );
    }

    fn same_floats(&self, name: &str, ours: &[f32]) {
        let theirs = self.floats(name);
        assert_eq!(ours.len(), theirs.len());
        let different = ours
            .iter()
            .zip(&theirs)
            .position(|(a, b)| a.to_bits() != b.to_bits());
        assert!(different.is_none(), "{name}: element {different:?}");
    }
}

impl Weight {
    /// The searches that there are for this weight: over its numbers, and over its histogram.
    fn searches(&self, format: Format) -> Vec<Vec<Candidate>> {
        let mut search = Search::new(format, Method::Mse, search::amax(&self.x));
        search.add(&self.x);
        let mut searches = vec![search.candidates().to_vec()];
        if let Some(bytes) = &self.e4m3 {
            let mut histogram = Histogram::new();
            histogram.add(bytes).unwrap();
            searches.push(search::search_e4m3(
                format,
                Method::Mse,
                &histogram,
                self.weight_scale,
            ));
        }
        searches
    }

    fn codes_and_scales(&self) -> (Vec<u8>, Vec<u8>) {
        (vec![0; self.x.len() / 2], vec![0; self.x.len() / BLOCK])
    }
}

#[test]
fn single_numbers() {
    with_fixture(|fixture| {
        let x = fixture.floats("cast.x");
        let mut codes = vec![0; x.len()];
        e4m3::encode_slice(&x, &mut codes);
        fixture.same_bytes("cast.e4m3", &codes);
        let codes: Vec<u8> = x.iter().map(|x| e2m1::encode(*x)).collect();
        fixture.same_bytes("cast.e2m1", &codes);
    });
}

#[test]
fn nvfp4_codes_and_scales() {
    with_fixture(|fixture| {
        for weight in fixture.weights() {
            for (method, rule) in METHODS {
                let key = format!("{}.nvfp4.{method}", weight.name);
                let scale_2 = fixture.scale(&format!("{key}.scale_2"));
                let (mut codes, mut scales) = weight.codes_and_scales();
                nvfp4::quantize(&weight.x, scale_2, rule, &mut codes, &mut scales);
                fixture.same_bytes(&format!("{key}.codes"), &codes);

                let columns = weight.columns / BLOCK;
                let [rows, padded_columns] = swizzle::padded(scales.len() / columns, columns);
                let mut blocked = vec![0xaa; rows * padded_columns];
                swizzle::to_blocked(&scales, columns, &mut blocked);
                fixture.same_bytes(&format!("{key}.scales"), &blocked);
                if method == "amax" {
                    let mut out = vec![0.0; weight.x.len()];
                    nvfp4::dequantize(&codes, &scales, scale_2, &mut out);
                    fixture.same_floats(&format!("{key}.dequantized"), &out);
                }
            }
        }
    });
}

#[test]
fn nvfp4_from_e4m3_bytes() {
    with_fixture(|fixture| {
        let mut tested = 0;
        for weight in fixture.weights() {
            let Some(bytes) = &weight.e4m3 else { continue };
            for (method, rule) in METHODS {
                let key = format!("{}.nvfp4.{method}", weight.name);
                let scale_2 = fixture.scale(&format!("{key}.scale_2"));
                let (mut codes, mut scales) = weight.codes_and_scales();
                match rule {
                    BlockRule::Six => Tables::new(scale_2, weight.weight_scale).quantize(
                        bytes,
                        &mut codes,
                        &mut scales,
                    ),
                    BlockRule::FourSix => FourSix::new(scale_2, weight.weight_scale).quantize(
                        bytes,
                        &mut codes,
                        &mut scales,
                        &mut Split::default(),
                    ),
                }
                .unwrap();
                fixture.same_bytes(&format!("{key}.codes"), &codes);
                tested += 1;
            }
        }
        assert_eq!(tested, 6 * METHODS.len());
    });
}

#[test]
fn fp8_codes() {
    with_fixture(|fixture| {
        for weight in fixture.weights() {
            for method in ["amax", "mse"] {
                let key = format!("{}.fp8.{method}", weight.name);
                let scale = fixture.scale(&format!("{key}.scale"));
                let mut codes = vec![0; weight.x.len()];
                fp8::quantize(&weight.x, scale, &mut codes);
                fixture.same_bytes(&format!("{key}.codes"), &codes);
                if let Some(bytes) = &weight.e4m3 {
                    let table = fp8::requantize(weight.weight_scale, scale);
                    let again: Vec<u8> = bytes.iter().map(|b| table[usize::from(*b)]).collect();
                    assert_eq!(again, codes, "{key}");
                }
                if method == "amax" {
                    let mut out = vec![0.0; weight.x.len()];
                    fp8::dequantize(&codes, scale, &mut out);
                    fixture.same_floats(&format!("{key}.dequantized"), &out);
                }
            }
        }
    });
}

/// The same scales, the same errors, the same winner. comfy-dit-quantizer's F32 means choose it too, unless the squares
/// are below F32's range (the weight `subnormal`: all its means are 0 or coarse).
#[test]
fn searches_choose_the_same_scales() {
    with_fixture(|fixture| {
        for weight in fixture.weights() {
            for (format, kind, scale) in [
                (Format::Nvfp4, "nvfp4", "scale_2"),
                (Format::Fp8, "fp8", "scale"),
            ] {
                let key = format!("{}.{kind}", weight.name);
                let base = fixture.scale(&format!("{key}.amax.{scale}"));
                assert_eq!(
                    format.scale_of(search::amax(&weight.x)).to_bits(),
                    base.to_bits(),
                    "{key}"
                );
                let [exact, plain] = fixture.errors(&format!("{key}.mse.errors"));
                for candidates in weight.searches(format) {
                    let best = search::best(&candidates);
                    let expected = fixture.scale(&format!("{key}.mse.{scale}"));
                    assert_eq!(
                        best.scale.to_bits(),
                        expected.to_bits(),
                        "{key}: {candidates:?}"
                    );
                    if best.noise == 0.0 {
                        continue;
                    }
                    for (candidate, exact) in candidates.iter().zip(&exact) {
                        let ours = candidate.noise / weight.x.len() as f64;
                        assert!(
                            (ours / exact - 1.0).abs() < 1e-12,
                            "{key}: {ours:e} {exact:e}"
                        );
                    }
                    let mut torch = candidates.clone();
                    torch
                        .iter_mut()
                        .zip(&plain)
                        .for_each(|(c, mean)| c.noise = *mean);
                    let agrees = search::best(&torch).ratio == best.ratio;
                    assert!(agrees || weight.name == "subnormal", "{key}: {plain:?}");
                }
            }
        }
    });
}

/// The two examples that were worked by hand from the formulas.
#[test]
fn worked_examples() {
    with_fixture(|fixture| {
        let nvfp4 = fixture.weight("example");
        let scale_2 = nvfp4::scale_2_of(search::amax(&nvfp4.x));
        assert_eq!(scale_2.to_bits(), 0x3a1c_09c1);
        let (mut codes, mut scales) = nvfp4.codes_and_scales();
        nvfp4::quantize(&nvfp4.x, scale_2, BlockRule::Six, &mut codes, &mut scales);
        assert_eq!(scales, [0x7e, 0x62]);
        let expected = 0x1a2b_4c5d_5e6e_6f7f_092b_3c5d_5e6e_7f7f_u128;
        assert_eq!(codes, expected.to_be_bytes());

        let fp8 = fixture.weight("example_fp8");
        let scale = fp8::scale_of(search::amax(&fp8.x));
        assert_eq!(scale.to_bits(), 0x3a5b_6db7);
        let mut codes = vec![0; fp8.x.len()];
        fp8::quantize(&fp8.x, scale, &mut codes);
        assert_eq!(codes[..6], [104, 226, 111, 92, 198, 126]);
    });
}
