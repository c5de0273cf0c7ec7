//! Linear layers with quantized activations against comfy-kitchen's quantizer and products in F64, on every kind of
//! machine that this one can be.
//!
//! The expected numbers are those of `fixtures/quantized_linear/make_quantized_linear.py`. Codes and scales of the
//! activations are compared by themselves as well, bit for bit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use candle_core::{Device, Tensor};
use qwen_nvfp4::checkpoint::{Activations, Stored, Weights};
use qwen_nvfp4::context::Cx;
use qwen_nvfp4::numerics::machine::{Level, Machine};
use qwen_nvfp4::numerics::nvfp4::{self, BLOCK, BlockRule};
use qwen_nvfp4::numerics::{fp8, widen};
use qwen_nvfp4::ops::{Input, Linear};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

static FIXTURE: &[u8] = include_bytes!("fixtures/quantized_linear/quantized_linear.safetensors");

/// Of the sum of the products' magnitudes. The definition rounds chains of 256 and K / 256 sums by at most 6e-8 of what
/// is there by then, as often up as down: the root of 272 such roundings is 1e-6; the scales add two.
const LIMIT: f64 = 2e-6;

/// One layer of the fixture.
struct Case<'a> {
    name: &'a str,
    file: &'a SafeTensors<'static>,
    n: usize,
    m: usize,
    k: usize,
    is_nvfp4: bool,
}

impl<'a> Case<'a> {
    fn all(file: &'a SafeTensors<'static>, names: &'a [String]) -> Vec<Self> {
        let names = names.iter().map(|n| n.as_str());
        let mut names: Vec<&str> = names.filter_map(|n| n.strip_suffix(".x")).collect();
        names.sort_unstable();
        let case = |name: &'a str| {
            let shape = |part: &str| file.tensor(&format!("{name}.{part}")).unwrap();
            let (x, weight) = (shape("x"), shape("weight"));
            Self {
                name,
                file,
                n: weight.shape()[0],
                m: x.shape()[0],
                k: x.shape()[1],
                is_nvfp4: weight.dtype() == Dtype::U8,
            }
        };
        names.into_iter().map(case).collect()
    }

    fn part(&self, part: &str) -> Option<TensorView<'static>> {
        self.file.tensor(&format!("{}.{part}", self.name)).ok()
    }

    fn bytes(&self, part: &str) -> &'static [u8] {
        self.part(part).unwrap().data()
    }

    fn floats(&self, part: &str) -> Vec<f32> {
        let view = self.part(part).unwrap();
        let mut out = vec![0.0; view.shape().iter().product()];
        assert!(widen::widen(view.dtype(), view.data(), &mut out));
        out
    }

    fn doubles(&self, part: &str) -> Vec<f64> {
        let chunks = self.bytes(part).as_chunks::<8>().0.iter();
        chunks.map(|b| f64::from_le_bytes(*b)).collect()
    }

    /// The layer as a converted checkpoint holds it.
    fn layer(&self) -> Linear {
        let format = match self.is_nvfp4 {
            true => "nvfp4",
            false => "float8_e4m3fn",
        };
        let record = format!(r#"{{"format": "{format}"}}"#).into_bytes();
        let record_shape = [record.len()];
        let parts: Vec<_> = ["weight", "weight_scale", "weight_scale_2", "input_scale"]
            .into_iter()
            .filter_map(|part| Some((format!("l.{part}"), self.part(part)?)))
            .collect();
        let mut tensors: Vec<Stored<'_>> = parts
            .iter()
            .map(|(name, view)| {
                (
                    name.as_str(),
                    view.dtype(),
                    view.shape(),
                    view.data().to_vec(),
                )
            })
            .collect();
        tensors.push(("l.comfy_quant", Dtype::U8, &record_shape, record));
        let weights = Weights::in_memory(&tensors).unwrap();
        let weights = weights.with_activations(match self.name.contains("dynamic") {
            true => Activations::Dynamic,
            false => Activations::Static,
        });
        Linear::load(&weights.pp("l"), self.n, self.k, false).unwrap()
    }

    /// Codes and scales of the activations by themselves, bit for bit.
    fn check_codes(&self, input: Input) {
        let x = self.floats("x");
        let amax = x.iter().fold(0.0f32, |a, v| a.max(v.abs()));
        let mut scales = vec![0; x.len() / BLOCK];
        let (scale, codes) = match input {
            Input::Nvfp4(scale) => {
                let scale = scale.unwrap_or_else(|| nvfp4::scale_2_of(amax));
                let mut codes = vec![0; x.len() / 2];
                nvfp4::quantize(&x, scale, BlockRule::Six, &mut codes, &mut scales);
                same_bytes(self.name, "scales", &scales, self.bytes("input.scales"));
                (scale, codes)
            }
            Input::Fp8(scale) => {
                let scale = scale.unwrap_or_else(|| fp8::scale_of(amax));
                let mut codes = vec![0; x.len()];
                fp8::quantize(&x, scale, &mut codes);
                (scale, codes)
            }
            Input::F32 => panic!("{}: its activations are not quantized", self.name),
        };
        let expected = self.floats("input.scale")[0];
        assert_eq!(scale.to_bits(), expected.to_bits(), "{}: scale", self.name);
        same_bytes(self.name, "codes", &codes, self.bytes("input.codes"));
    }

    /// What the layer makes of `x` on `machine`.
    fn run(&self, layer: &Linear, x: Vec<f32>, machine: Machine) -> candle_core::Result<Vec<f32>> {
        let x = Tensor::from_vec(x, (self.m, self.k), &Device::Cpu)?;
        let cx = Cx {
            machine,
            ..Cx::default()
        };
        layer.forward(&x, &cx)?.flatten_all()?.to_vec1()
    }

    /// The largest difference of an output, over the sum of its products' magnitudes.
    fn worst(&self, layer: &Linear, machine: Machine) -> f64 {
        let y = self.run(layer, self.floats("x"), machine).unwrap();
        let (expected, size) = (self.doubles("y"), self.doubles("size"));
        assert_eq!((y.len(), size.len()), (expected.len(), expected.len()));
        let mut worst = 0.0f64;
        for (i, (y, (expected, size))) in y.iter().zip(expected.iter().zip(size)).enumerate() {
            let difference = (f64::from(*y) - expected).abs();
            assert!(
                difference <= LIMIT * size,
                "{} on {}, row {}, column {}: {y} instead of {expected}",
                self.name,
                machine.level(),
                i / self.n,
                i % self.n
            );
            // Nothing times anything is exactly nothing.
            if size > 0.0 {
                worst = worst.max(difference / size);
            }
        }
        worst
    }
}

fn same_bytes(name: &str, part: &str, ours: &[u8], theirs: &[u8]) {
    let different = ours.iter().zip(theirs).filter(|(a, b)| a != b).count();
    assert!(
        different == 0 && ours.len() == theirs.len(),
        "{name}: {different} of {} {part} are not comfy-kitchen's",
        theirs.len()
    );
}

#[test]
fn products_equal_those_of_comfy_kitchens_codes() {
    let file = SafeTensors::deserialize(FIXTURE).unwrap();
    let names: Vec<String> = file.names().into_iter().map(str::to_owned).collect();
    let cases = Case::all(&file, &names);
    assert_eq!(cases.len(), 16);
    let machines: Vec<Machine> = Level::ALL.into_iter().filter_map(Machine::at).collect();
    for case in cases {
        let layer = case.layer();
        assert_eq!(
            matches!(layer.input(), Input::Nvfp4(_)),
            case.is_nvfp4,
            "{}",
            case.name
        );
        case.check_codes(layer.input());
        let worst = machines.iter().map(|m| (m.level(), case.worst(&layer, *m)));
        let worst: Vec<String> = worst.map(|(m, w)| format!("{m} {w:.1e}")).collect();
        let (name, m, n, k) = (case.name, case.m, case.n, case.k);
        println!("{name:22} [{m}, {n}, {k}]: {}", worst.join(", "));
    }
}

/// An amax of 0 is no scale: comfy-kitchen divides by it and gets NaN, here nothing times anything is nothing.
#[test]
fn nothing_in_gives_nothing_out() {
    let file = SafeTensors::deserialize(FIXTURE).unwrap();
    let names: Vec<String> = file.names().into_iter().map(str::to_owned).collect();
    for case in Case::all(&file, &names) {
        let layer = case.layer();
        for machine in Level::ALL.into_iter().filter_map(Machine::at) {
            for zero in [0.0, -0.0] {
                let x = vec![zero; case.m * case.k];
                let y = case.run(&layer, x, machine).unwrap();
                assert!(y.iter().all(|y| *y == 0.0), "{}: {y:?}", case.name);
            }
        }
    }
}

/// Clamping, which makes the largest code of a finite number, must not make one of an infinity.
#[test]
fn no_clamp_hides_an_infinity() {
    let file = SafeTensors::deserialize(FIXTURE).unwrap();
    let names: Vec<String> = file.names().into_iter().map(str::to_owned).collect();
    for case in Case::all(&file, &names) {
        let layer = case.layer();
        for machine in Level::ALL.into_iter().filter_map(Machine::at) {
            for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
                let (row, column) = (case.m - 1, case.k - 2);
                let mut x = case.floats("x");
                x[row * case.k + column] = bad;
                let error = case.run(&layer, x, machine).unwrap_err().to_string();
                let place = format!("row: {row}, column: {column}");
                assert!(error.contains(&place), "{}: {error}", case.name);
            }
        }
    }
}

/// The fixture is what it says: static inputs beyond the largest code, and zeros of both signs.
#[test]
fn the_fixture_has_what_it_is_for() {
    let file = SafeTensors::deserialize(FIXTURE).unwrap();
    let names: Vec<String> = file.names().into_iter().map(str::to_owned).collect();
    for case in Case::all(&file, &names) {
        let x = case.floats("x");
        let largest = match case.is_nvfp4 {
            true => 2688.0,
            false => 448.0,
        };
        // amax / 2688 * 2688 may be a rounding less than amax.
        let limit = largest * case.floats("input.scale")[0] * (1.0 + 1e-6);
        let clamped = x.iter().filter(|v| v.abs() > limit).count();
        assert_eq!(
            clamped > 0,
            case.name.contains("clamped") || case.name == "nvfp4_range",
            "{}: {clamped} beyond {limit}",
            case.name
        );
        if case.name.contains("signs") {
            let zeros = |sign: bool| x.iter().any(|v| *v == 0.0 && v.is_sign_negative() == sign);
            assert!(zeros(true) && zeros(false), "{}", case.name);
        }
        if case.name.contains("positive") {
            assert!(case.k >= 4096 && x.iter().all(|v| *v >= 0.0));
        }
    }
}
