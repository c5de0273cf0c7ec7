//! Against diffusers: `tests/fixtures/vae/make_vae.py` says how its files are made.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::TensorView as Plain;

use super::{Decoder, Encoder};
use crate::checkpoint::{CheckpointError, Component, SafetensorsFile, Weights};
use crate::context::{Cx, Observer};
use crate::model::ModelError;
use crate::model::config::VaeConfig;

const CASES: [(&str, &[u8]); 3] = [
    (
        "published",
        include_bytes!("../../../tests/fixtures/vae/vae_published.safetensors"),
    ),
    (
        "odd",
        include_bytes!("../../../tests/fixtures/vae/vae_odd.safetensors"),
    ),
    (
        "short",
        include_bytes!("../../../tests/fixtures/vae/vae_short.safetensors"),
    ),
];

/// The script's `hashed`.
fn hashed(name: &str, count: usize) -> impl Iterator<Item = f32> {
    let seed = name.bytes().fold(0x811C_9DC5u32, |seed, byte| {
        (seed ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    (0..count as u32).map(move |i| {
        let mut x = i.wrapping_mul(0x9E37_79B9).wrapping_add(seed);
        x = (x ^ (x >> 16)).wrapping_mul(0x85EB_CA6B);
        x = (x ^ (x >> 13)).wrapping_mul(0xC2B2_AE35);
        x ^= x >> 16;
        (x >> 8) as f32 * 2f32.powi(-23) - 1.0
    })
}

/// The script's `weight`.
fn weight(name: &str, shape: &[usize]) -> Vec<f32> {
    let u = hashed(name, shape.iter().product());
    if name.ends_with("gamma") {
        return u.map(|u| 1.0 + 0.5 * u).collect();
    }
    if name.ends_with("bias") {
        return u.map(|u| 0.25 * u).collect();
    }
    let acting = shape[1] * shape[shape.len() - 1].pow(2);
    let scale = (3.0 / acting as f32).sqrt();
    let shrink = match name {
        "decoder.conv_out.weight" => 0.5,
        _ => 1.0,
    };
    u.map(|u| u * scale * shrink).collect()
}

struct Case {
    fixture: Arc<SafetensorsFile>,
    config: VaeConfig,
    weights: Weights,
}

impl Case {
    fn new(bytes: &'static [u8], change: impl Fn(&str, &mut Vec<f32>)) -> Self {
        let fixture = SafetensorsFile::from_static("fixture", bytes).unwrap();
        let meta = |key: &str| -> serde_json::Value {
            serde_json::from_str(&fixture.metadata()[key]).unwrap()
        };
        let shapes: BTreeMap<String, Vec<usize>> = serde_json::from_value(meta("shapes")).unwrap();
        let tensors: Vec<(&String, &Vec<usize>, Vec<u8>)> = shapes
            .iter()
            .map(|(name, shape)| {
                let mut values = weight(name, shape);
                change(name, &mut values);
                (
                    name,
                    shape,
                    values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                )
            })
            .collect();
        let plain = tensors.iter().map(|(name, shape, bytes)| {
            let view = Plain::new(Dtype::F32, shape.to_vec(), bytes).unwrap();
            (name.as_str(), view)
        });
        let file = safetensors::serialize(plain, None).unwrap().leak();
        let file = SafetensorsFile::from_static("weights", file).unwrap();
        let views = file
            .names()
            .map(|n| (n.to_owned(), file.view(n).unwrap()))
            .collect();
        let config = meta("config");
        let number = |key: &str| config[key].as_u64().unwrap() as usize;
        let z_dim = number("z_dim");
        Self {
            config: VaeConfig {
                base_dim: number("base_dim"),
                z_dim,
                dim_mult: serde_json::from_value(config["dim_mult"].clone()).unwrap(),
                num_res_blocks: number("num_res_blocks"),
                temporal_downsample: serde_json::from_value(config["temperal_downsample"].clone())
                    .unwrap(),
                input_channels: 3,
                latents_mean: vec![0.0; z_dim],
                latents_std: vec![1.0; z_dim],
            },
            weights: Weights::new(Component::Vae, Path::new("weights"), &Device::Cpu, views),
            fixture,
        }
    }

    fn plain(bytes: &'static [u8]) -> Self {
        Self::new(bytes, |_, _| {})
    }

    fn tensor(&self, name: &str) -> Tensor {
        let view = self.fixture.view(name).unwrap();
        Tensor::from_vec(view.to_f32().unwrap(), view.shape(), &Device::Cpu).unwrap()
    }

    fn decoder(&self) -> Decoder {
        Decoder::load(&self.weights, &self.config).unwrap()
    }

    fn encoder(&self) -> Encoder {
        Encoder::load(&self.weights, &self.config).unwrap()
    }
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let pairs = values(a).into_iter().zip(values(b));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn encoder_and_decoder_equal_diffusers() {
    for (name, bytes) in CASES {
        let case = Case::plain(bytes);
        let (image, latents) = (case.tensor("image"), case.tensor("latents"));
        let mean = case.encoder().forward(&image, &Cx::default()).unwrap();
        let picture = case.decoder().forward(&latents, &Cx::default()).unwrap();
        let mean = largest_difference(&mean, &case.tensor("mean"));
        let picture = largest_difference(&picture, &case.tensor("picture"));
        println!("{name}: largest difference of the mean {mean:.2e}, of pixels {picture:.2e}");
        assert!(mean < 5e-5 && picture < 5e-5, "{name}");
        // What is left never acts on a single frame.
        assert!(
            case.weights
                .unclaimed()
                .iter()
                .all(|n| n.contains("time_conv"))
        );
    }
}

/// Strips and threads change the order of work, not the result: not one bit of it.
#[test]
fn strips_and_threads_leave_every_bit_alone() {
    for (name, bytes) in CASES {
        let case = Case::plain(bytes);
        let (image, latents) = (case.tensor("image"), case.tensor("latents"));
        let run = |strip_bytes, threads| {
            let (mut encoder, mut decoder) = (case.encoder(), case.decoder());
            if let Some(bytes) = strip_bytes {
                (encoder.strip_bytes, decoder.strip_bytes) = (bytes, bytes);
            }
            let pool = rayon::ThreadPoolBuilder::new();
            let pool = pool.num_threads(threads).build().unwrap();
            pool.install(|| {
                let cx = Cx::default();
                let mean = encoder.forward(&image, &cx).unwrap();
                (
                    values(&mean),
                    values(&decoder.forward(&latents, &cx).unwrap()),
                )
            })
        };
        let whole = run(None, 1);
        for (strip_bytes, threads) in [(None, 3), (Some(0), 2), (Some(1 << 18), 2)] {
            assert!(
                run(strip_bytes, threads) == whole,
                "{name}: {strip_bytes:?}, {threads} threads"
            );
        }
    }
}

#[test]
fn a_batch_is_its_pictures() {
    let case = Case::plain(CASES[2].1);
    let (decoder, latents) = (case.decoder(), case.tensor("latents"));
    let other = (&latents * 0.5).unwrap();
    let batch = Tensor::cat(&[&latents, &other], 0).unwrap();
    let cx = Cx::default();
    let pictures = decoder.forward(&batch, &cx).unwrap();
    for (i, z) in [latents, other].iter().enumerate() {
        let alone = decoder.forward(z, &cx).unwrap();
        assert_eq!(
            values(&alone.get(0).unwrap()),
            values(&pictures.get(i).unwrap())
        );
    }
}

/// Which stages are seen, and whether all they held was finite.
#[derive(Default)]
struct Seen(Mutex<Vec<(String, bool)>>);

impl Observer for Seen {
    fn stage(&self, name: &str, value: &Tensor) {
        let finite = values(value).iter().all(|v| v.is_finite());
        self.0.lock().unwrap().push((name.to_owned(), finite));
    }
}

#[test]
fn a_nan_reaches_the_picture_and_its_stage_is_seen() {
    let case = Case::new(CASES[2].1, |name, values| {
        if name == "decoder.mid_block.resnets.1.conv2.bias" {
            values[3] = f32::NAN;
        }
    });
    let seen = Arc::new(Seen::default());
    let cx = Cx::default().observed_by(seen.clone());
    let picture = case
        .decoder()
        .forward(&case.tensor("latents"), &cx)
        .unwrap();
    assert!(values(&picture).iter().all(|v| v.is_nan()));
    let stages = [
        "vae.decoder.conv_in",
        "vae.decoder.mid_block",
        "vae.decoder",
    ];
    let expected: Vec<_> = stages
        .map(str::to_owned)
        .into_iter()
        .zip([true, false, false])
        .collect();
    assert_eq!(*seen.0.lock().unwrap(), expected);
}

#[test]
fn faults_are_named() {
    let case = Case::plain(CASES[2].1);
    let cx = Cx::default();
    let image = case.tensor("image");
    let error = case.decoder().forward(&image, &cx).unwrap_err().to_string();
    assert!(
        error.contains("3 channels") && error.contains("16"),
        "{error}"
    );
    let error = case
        .encoder()
        .forward(&case.tensor("latents"), &cx)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("16 channels") && error.contains('3'),
        "{error}"
    );

    let mut wider = case.config.clone();
    wider.base_dim *= 2;
    let error = Decoder::load(&case.weights, &wider)
        .map(|_| ())
        .unwrap_err();
    assert!(
        matches!(error, ModelError::Checkpoint(CheckpointError::Shape { .. })),
        "{error}"
    );

    cx.cancel.cancel();
    let error = case
        .decoder()
        .forward(&case.tensor("latents"), &cx)
        .unwrap_err();
    assert!(matches!(error, ModelError::Cancelled));
    let error = case.encoder().forward(&image, &cx).unwrap_err();
    assert!(matches!(error, ModelError::Cancelled));
}
