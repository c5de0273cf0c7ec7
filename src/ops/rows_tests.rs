//! What is computed as it is read gives the bits of what is computed before.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor};
use safetensors::Dtype;

use crate::checkpoint::{Activations, Adapter, Lora, LoraLabel, Weights};
use crate::context::{Cx, Observer};
use crate::numerics::machine::{Level, Machine};
use crate::ops::norm::{ModulatedNorm, layer_norm_modulate};
use crate::ops::{Input, Linear};

/// Numbers between -1 and 1 without a pattern.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mixed = (0..n as u32).map(|i| (i ^ seed << 20).wrapping_mul(2_654_435_761) >> 8);
    mixed.map(|v| v as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A weight of `n` rows of `k` as a converted checkpoint holds it, `l` in it.
fn layer(format: &str, (n, k): (usize, usize), input_scale: f32) -> Weights {
    let codes: Vec<u8> = (0..n * k).map(|i| (i * 37 % 96) as u8).collect();
    let record = format!(r#"{{"format": "{format}"}}"#).into_bytes();
    let (codes_of, record_of) = ([n, k], [record.len()]);
    let packed = [n, k / 2];
    let scales = [n.next_multiple_of(128), (k / 16).next_multiple_of(4)];
    let one = |name, value: f32| (name, Dtype::F32, &[][..], bytes(&[value]));
    let record = ("l.comfy_quant", Dtype::U8, &record_of[..], record);
    let input_scale = one("l.input_scale", input_scale);
    let tensors = match format {
        "float8_e4m3fn" => vec![
            ("l.weight", Dtype::F8_E4M3, &codes_of[..], codes),
            one("l.weight_scale", 0.5),
            input_scale,
            record,
        ],
        "nvfp4" => vec![
            (
                "l.weight",
                Dtype::U8,
                &packed[..],
                codes[..n * k / 2].to_vec(),
            ),
            (
                "l.weight_scale",
                Dtype::F8_E4M3,
                &scales,
                vec![0x38; scales[0] * scales[1]],
            ),
            one("l.weight_scale_2", 0.01),
            input_scale,
            record,
        ],
        _ => vec![(
            "l.weight",
            Dtype::F32,
            &codes_of[..],
            bytes(&numbers(n * k, 9)),
        )],
    };
    Weights::in_memory(&tensors).unwrap()
}

/// `[b, s, d]` normalised, each row of the batch modulated in its own way.
fn norm(x: Vec<f32>, (b, s, d): (usize, usize, usize)) -> ModulatedNorm {
    let x = Tensor::from_vec(x, (b, s, d), &Device::Cpu).unwrap();
    let vectors = |seed| Tensor::from_vec(numbers(b * d, seed), (b, d), &Device::Cpu).unwrap();
    layer_norm_modulate(&x, &vectors(1), &vectors(2)).unwrap()
}

fn bits(y: &Tensor) -> Vec<u32> {
    let y = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    y.into_iter().map(f32::to_bits).collect()
}

/// Every machine that this one can be.
fn contexts() -> impl Iterator<Item = Cx> {
    let machines = Level::ALL.into_iter().filter_map(Machine::at);
    machines.map(|machine| Cx {
        machine,
        ..Cx::default()
    })
}

/// Keeps what it sees.
#[derive(Default)]
struct Inputs(Mutex<Vec<(String, Vec<u32>)>>);

impl Observer for Inputs {
    fn linear_input(&self, layer: &str, input: &Tensor) {
        let mut seen = self.0.lock().unwrap();
        seen.push((layer.to_owned(), bits(input)));
    }
}

const NVFP4: (&str, f32) = ("nvfp4", 0.001);
const FP8: (&str, f32) = ("float8_e4m3fn", 0.01);
const F32: (&str, f32) = ("F32", 0.0);

#[test]
fn a_norm_and_its_tensor_give_the_same_bits() {
    for layers in [
        [NVFP4, NVFP4, NVFP4],
        [FP8, FP8, FP8],
        [NVFP4, FP8, NVFP4],
        [FP8, ("float8_e4m3fn", 0.02), NVFP4],
        [NVFP4, F32, FP8],
    ] {
        for activations in [Activations::Static, Activations::Dynamic] {
            for shape in [(1, 1, 16), (2, 13, 48), (2, 7, 272), (1, 37, 144)] {
                let (b, s, d) = shape;
                let layers = layers.map(|(format, scale)| {
                    let w = layer(format, (33, d), scale).with_activations(activations);
                    Linear::load(&w.pp("l"), 33, d, false).unwrap()
                });
                let layers = layers.each_ref();
                let norm = norm(numbers(b * s * d, 3), shape);
                let tensor = norm.tensor().unwrap();
                for cx in contexts() {
                    let about = format!("{activations:?} {shape:?} {}", cx.machine.level());
                    let each = |of: [Tensor; 3]| of.each_ref().map(bits);
                    let expected = each(Linear::forward_each(layers, &tensor, &cx).unwrap());
                    let got = each(Linear::forward_each(layers, &norm, &cx).unwrap());
                    assert!(got == expected, "{about}");
                    let expected = layers[0].forward_gelu(&tensor, &cx).unwrap();
                    let got = layers[0].forward_gelu(&norm, &cx).unwrap();
                    assert!(bits(&got) == bits(&expected), "{about}");
                    assert_eq!(got.dims(), [b, s, 33]);
                }
            }
        }
    }
}

/// FP8 rows need not be even, nor blocks of anything.
#[test]
fn odd_widths_give_the_same_bits() {
    for d in [1, 5, 47, 131] {
        let w = layer(FP8.0, (3, d), FP8.1);
        let linear = Linear::load(&w.pp("l"), 3, d, false).unwrap();
        let norm = norm(numbers(2 * 14 * d, 4), (2, 14, d));
        let tensor = norm.tensor().unwrap();
        for cx in contexts() {
            let expected = bits(&linear.forward(&tensor, &cx).unwrap());
            assert!(bits(&linear.forward(&norm, &cx).unwrap()) == expected);
        }
    }
}

#[test]
fn who_watches_sees_every_input() {
    let shape = (2, 3, 32);
    let layers = [NVFP4, FP8].map(|(format, scale)| {
        let w = layer(format, (5, 32), scale);
        Linear::load(&w.pp("l"), 5, 32, false).unwrap()
    });
    let norm = norm(numbers(2 * 3 * 32, 5), shape);
    let inputs = Arc::new(Inputs::default());
    let cx = Cx::default().observed_by(inputs.clone());
    let [a, b] = &layers;
    Linear::forward_each([a, b], &norm, &cx).unwrap();
    a.forward_gelu(&norm, &cx).unwrap();
    let expected = ("l".to_owned(), bits(&norm.tensor().unwrap()));
    assert_eq!(*inputs.0.lock().unwrap(), vec![expected; 3]);
}

/// Adapters see what is not quantized.
#[test]
fn an_adapter_beside_a_layer_gives_the_same_bits() {
    let (n, k, rank) = (5, 32, 2);
    let w = layer(NVFP4.0, (n, k), NVFP4.1);
    let term = Weights::in_memory(&[
        ("down", Dtype::F32, &[rank, k], bytes(&numbers(rank * k, 6))),
        ("up", Dtype::F32, &[n, rank], bytes(&numbers(n * rank, 7))),
    ])
    .unwrap();
    let adapter = Adapter {
        down: term.get("down").unwrap(),
        up: term.get("up").unwrap(),
        scale: 0.5,
    };
    let label = LoraLabel {
        name: "l".to_owned(),
        scale: 0.5,
        hash: String::new(),
    };
    let adapters = [("l".to_owned(), adapter)].into();
    let adapted = w.adapted_by(&Lora { label, adapters });
    let linear = Linear::load(&adapted.pp("l"), n, k, false).unwrap();
    let norm = norm(numbers(2 * 3 * k, 8), (2, 3, k));
    let tensor = norm.tensor().unwrap();
    for cx in contexts() {
        let expected = bits(&linear.forward(&tensor, &cx).unwrap());
        assert!(bits(&linear.forward(&norm, &cx).unwrap()) == expected);
    }
}

/// One number that is none makes its row so: the row's first column is named, and the layer.
#[test]
fn what_is_no_number_is_refused_by_name() {
    for (format, scale) in [NVFP4, FP8] {
        for activations in [Activations::Static, Activations::Dynamic] {
            let w = layer(format, (3, 32), scale).with_activations(activations);
            let linear = Linear::load(&w.pp("l"), 3, 32, false).unwrap();
            assert_ne!(linear.input(), Input::F32);
            for bad in [f32::NAN, f32::INFINITY] {
                let mut x = numbers(2 * 20 * 32, 10);
                (x[23 * 32 + 7], x[37 * 32]) = (bad, bad);
                let norm = norm(x, (2, 20, 32));
                for cx in contexts() {
                    let error = linear.forward(&norm, &cx).unwrap_err();
                    let candle_core::Error::WrappedContext { wrapped, context } = error else {
                        unreachable!("{error}");
                    };
                    assert_eq!(context, "l");
                    let said = wrapped.to_string();
                    assert_eq!(said, "its input is NaN in row 23, column 0");
                }
            }
        }
    }
}
