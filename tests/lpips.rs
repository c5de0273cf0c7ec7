//! LPIPS against the authors' package, with made-up weights (`tests/fixtures/lpips/make_lpips.py`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use image::RgbImage;
use qwen_nvfp4::bench::metrics::{Lpips, Pair, Picture};
use qwen_nvfp4::numerics::splitmix::splitmix64;
use serde_json::Value;

fn fixture() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lpips/lpips.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn picture(name: &str) -> RgbImage {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/metrics");
    let path = folder.join(format!("{name}.png"));
    image::open(path).unwrap().to_rgb8()
}

/// The weights that the script made up.
fn weights(net: &str) -> HashMap<String, Tensor> {
    let fixture = fixture();
    let shapes = fixture["shapes"][net].as_array().unwrap().iter();
    let made = shapes.enumerate().map(|(t, entry)| {
        let name = entry[0].as_str().unwrap().to_owned();
        let dims: Vec<usize> = serde_json::from_value(entry[1].clone()).unwrap();
        let fan_in: usize = dims[1..].iter().product();
        let value = |i: usize| {
            let u = splitmix64(((t as u64) << 32) + i as u64) as f64 / 2f64.powi(64);
            let value = match name.as_str() {
                name if name.starts_with("lin") => u,
                name if name.ends_with("bias") => (2.0 * u - 1.0) / 10.0,
                _ => (2.0 * u - 1.0) * (6.0 / fan_in as f64).sqrt(),
            };
            value as f32
        };
        let values: Vec<f32> = (0..dims.iter().product()).map(value).collect();
        let tensor = Tensor::from_vec(values, dims, &Device::Cpu).unwrap();
        (name, tensor)
    });
    made.collect()
}

fn write(tensors: &HashMap<String, Tensor>, dir: &Path) -> PathBuf {
    let path = dir.join("weights.safetensors");
    candle_core::safetensors::save(tensors, &path).unwrap();
    path
}

#[test]
fn distances_are_those_of_the_authors_package() {
    let dir = tempfile::tempdir().unwrap();
    let mut worst = 0.0f64;
    for (net, trunk) in [("alex", "AlexNet"), ("vgg", "VGG16")] {
        let metric = Lpips::open(&write(&weights(net), dir.path())).unwrap();
        assert_eq!(metric.trunk(), trunk);
        for row in fixture()["pairs"].as_array().unwrap() {
            if row["net"] != net {
                continue;
            }
            let [a, b] = ["reference", "picture"].map(|key| picture(row[key].as_str().unwrap()));
            let [a, b] = [&a, &b].map(|p| {
                Picture::new(p.width() as usize, p.height() as usize, p.as_raw()).unwrap()
            });
            let found = metric.distance(&Pair::new(a, b).unwrap()).unwrap();
            let expected = row["lpips"].as_f64().unwrap();
            let error = (found - expected).abs() / expected.max(1e-3);
            assert!(error < 1e-4, "{row}: {found}");
            worst = worst.max(error);
        }
    }
    println!("differs by at most {worst:.1e}");
}

#[test]
fn what_is_not_the_authors_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let told = |tensors: &HashMap<String, Tensor>| match Lpips::open(&write(tensors, dir.path())) {
        Ok(_) => panic!("it was taken"),
        Err(e) => e.to_string(),
    };
    let whole = weights("alex");
    let mut cut = whole.clone();
    cut.remove("lin3.model.1.weight");
    assert!(told(&cut).contains("lin3.model.1.weight is missing"));
    let mut odd = whole.clone();
    let bias = Tensor::zeros(63, candle_core::DType::F32, &Device::Cpu).unwrap();
    odd.insert("net.slice1.0.bias".to_owned(), bias);
    assert!(told(&odd).contains("net.slice1.0.bias has the shape [63], not [64]"));
    let mut nan = whole.clone();
    let weight = (nan["net.slice2.3.weight"].clone() * f64::NAN).unwrap();
    nan.insert("net.slice2.3.weight".to_owned(), weight);
    assert!(told(&nan).contains("net.slice2.3.weight holds numbers that are not finite"));
    fs::write(dir.path().join("weights.pth"), b"no pickle").unwrap();
    let text = match Lpips::open(&dir.path().join("weights.pth")) {
        Ok(_) => panic!("it was taken"),
        Err(e) => e.to_string(),
    };
    assert!(text.contains("weights.pth"), "{text}");
}
