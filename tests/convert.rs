//! Conversions of the tiny model: equal to comfy-kitchen, the same for any number of threads, and readable
//! by everything here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::cli::tiny;
use common::convert::{monitor, output, try_convert, unscaled};
use qwen_nvfp4::checkpoint::{ModelSource, SafetensorsFile};
use qwen_nvfp4::context::Cx;
use qwen_nvfp4::inspect::inspect;
use qwen_nvfp4::numerics::search::Method;
use qwen_nvfp4::pipeline::request::{Request, Settings};
use qwen_nvfp4::pipeline::{Engine, Silent};
use qwen_nvfp4::quantize::plan::{Keys, Marker, Options};

use qwen_nvfp4::quantize::{Plan, Policy, Source, execute};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use sha2::{Digest, Sha256};

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// Every layer, bit for bit what comfy-kitchen's eager backend makes of it (`fixtures/convert`).
#[test]
fn layers_equal_comfy_kitchen() {
    let text = include_str!("fixtures/convert/convert.json");
    let expected: BTreeMap<String, BTreeMap<String, serde_json::Value>> =
        serde_json::from_str(text).unwrap();
    for (method, name) in [(Method::Amax, "amax"), (Method::Mse, "mse")] {
        let out = output();
        let options = Options {
            method,
            requantize_fp8: true,
            ..unscaled()
        };
        try_convert(&tiny(), &out.path, "v1", &options).unwrap();
        let file = SafetensorsFile::open(&out.path).unwrap();
        let bytes = |name: &str| file.view(name).unwrap().bytes().to_vec();
        let mut compared = 0;
        for (format, layers) in &expected {
            for (layer, entry) in layers {
                for (part, value) in entry[name].as_object().unwrap() {
                    let found = bytes(&format!("{layer}.{part}"));
                    match value.as_u64() {
                        Some(bits) => {
                            let found = u32::from_le_bytes(found.try_into().unwrap());
                            assert_eq!(u64::from(found), bits, "{name} {layer}.{part}");
                        }
                        None => assert_eq!(
                            digest(&found),
                            value.as_str().unwrap(),
                            "{name} {format} {layer}.{part}"
                        ),
                    }
                    compared += 1;
                }
            }
        }
        assert_eq!(compared, 72 * 3 + 48 * 2);
    }
}

#[test]
fn any_number_of_threads_writes_the_same_bytes() {
    let files: Vec<Vec<u8>> = [1, 2, 5]
        .into_iter()
        .map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let out = output();
            pool.install(|| try_convert(&tiny(), &out.path, "v4", &unscaled()))
                .unwrap();
            std::fs::read(&out.path).unwrap()
        })
        .collect();
    assert!(files[0] == files[1] && files[1] == files[2]);
}

/// What is not quantized keeps its numbers, FP8 layers keep their bytes, metadata stays, and `inspect` finds nothing.
#[test]
fn nothing_else_changes() {
    let out = output();
    try_convert(&tiny(), &out.path, "v3", &unscaled()).unwrap();
    let (before, after) = (
        SafetensorsFile::open(&tiny()).unwrap(),
        SafetensorsFile::open(&out.path).unwrap(),
    );
    for view in before.views() {
        let now = after.view(view.name()).unwrap();
        match (view.dtype(), now.dtype()) {
            (Dtype::F8_E4M3, Dtype::U8) => {}
            (a, b) if a == b => assert_eq!(view.bytes(), now.bytes(), "{}", view.name()),
            (Dtype::F8_E4M3, Dtype::BF16) => {
                assert_eq!(view.to_f32().unwrap(), now.to_f32().unwrap());
            }
            other => panic!("{}: {other:?}", view.name()),
        }
    }
    for (key, value) in before.metadata() {
        assert_eq!(after.metadata().get(key), Some(value));
    }
    let report = inspect(&out.path).unwrap();
    assert_eq!(report.faults, []);
    assert_eq!(
        (report.quantized.nvfp4, report.quantized.float8_e4m3fn),
        (72, 129)
    );
}

fn picture(model: &Path, change: impl Fn(&mut Settings)) -> Vec<u8> {
    let engine = Engine::load(&ModelSource::Files {
        model: model.to_owned(),
        text_encoder: None,
        vae: None,
    })
    .unwrap();
    let mut settings = engine.defaults();
    change(&mut settings);
    let request = Request {
        prompts: vec![
            "a large red star above a small blue circle on a plain yellow background".to_owned(),
        ],
        negatives: None,
        seeds: vec![0],
        settings,
        latents: None,
    };
    let made = engine
        .generate(&request, &Cx::default(), &mut Silent)
        .unwrap();
    made.pictures[0].rgb.clone()
}

/// The engine draws recognisably the same picture from every marker and naming, and exactly the same from each of them.
#[test]
fn the_engine_runs_the_result() {
    let original = picture(&tiny(), |_| {});
    let mut pictures = Vec::new();
    for (marker, keys) in [
        (Marker::ComfyQuant, Keys::Keep),
        (Marker::Metadata, Keys::Comfy),
        (Marker::Both, Keys::Diffusers),
    ] {
        let out = output();
        let options = Options {
            marker,
            keys,
            ..unscaled()
        };
        try_convert(&tiny(), &out.path, "v3", &options).unwrap();
        pictures.push(picture(&out.path, |_| {}));
    }
    assert!(pictures.iter().all(|p| *p == pictures[0]));
    let squares: f64 = original
        .iter()
        .zip(&pictures[0])
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
        .sum();
    let psnr = 10.0 * (255.0f64.powi(2) * original.len() as f64 / squares).log10();
    println!("v3 against FP8: {psnr:.1} dB");
    assert!(psnr > 20.0 && squares > 0.0, "{psnr}");
    // Converting the result again changes no layer.
    let (once, twice) = (output(), output());
    try_convert(&tiny(), &once.path, "v3", &unscaled()).unwrap();
    try_convert(&once.path, &twice.path, "v3", &Options::default()).unwrap();
    let tensors = |path: &Path| -> BTreeMap<String, String> {
        let file = SafetensorsFile::open(path).unwrap();
        file.views()
            .iter()
            .map(|v| (v.name().to_owned(), digest(v.bytes())))
            .collect()
    };
    assert_eq!(tensors(&once.path), tensors(&twice.path));
}

/// A layer whose numbers are known, stored in every way, becomes the same NVFP4 layer.
#[test]
fn every_source_format_gives_the_same_layer() {
    let dir = tempfile::tempdir().unwrap();
    let (n, k) = (48, 64);
    let codes: Vec<u8> = (0..n * k)
        .map(|i| ((i * 41 + i / 9) % 0x7f) as u8 | ((i % 3 == 0) as u8) << 7)
        .collect();
    let numbers: Vec<f32> = codes
        .iter()
        .map(|c| qwen_nvfp4::numerics::widen::E4M3_TO_F32[usize::from(*c)])
        .collect();
    let layer = "transformer_blocks.0.attn.to_q";
    let (half, one) = (0.5f32.to_le_bytes(), 1f32.to_le_bytes());
    let write = |name: &str, dtype, bytes: &[u8], extra: &[(&str, Dtype, &[usize], &[u8])]| {
        let path = dir.path().join(format!("{name}.safetensors"));
        let weight = format!("{layer}.weight");
        let mut views = vec![(weight, TensorView::new(dtype, vec![n, k], bytes).unwrap())];
        for (part, dtype, shape, bytes) in extra {
            let view = TensorView::new(*dtype, shape.to_vec(), bytes).unwrap();
            let name = if part.is_empty() {
                "scaled_fp8".to_owned()
            } else {
                format!("{layer}.{part}")
            };
            views.push((name, view));
        }
        safetensors::serialize_to_file(views, None, &path).unwrap();
        path
    };
    let dense =
        |f: &dyn Fn(f32) -> Vec<u8>| numbers.iter().flat_map(|v| f(v * 0.5)).collect::<Vec<u8>>();
    let record: &[u8] = br#"{"format": "float8_e4m3fn"}"#;
    let sources = [
        write(
            "scaled",
            Dtype::F8_E4M3,
            &codes,
            &[
                ("weight_scale", Dtype::F32, &[], &half),
                ("comfy_quant", Dtype::U8, &[27], record),
            ],
        ),
        write(
            "legacy",
            Dtype::F8_E4M3,
            &codes,
            &[
                ("scale_weight", Dtype::F32, &[], &half),
                ("scale_input", Dtype::F32, &[], &one),
                ("", Dtype::F8_E4M3, &[0], &[]),
            ],
        ),
        write(
            "f32",
            Dtype::F32,
            &dense(&|v| v.to_le_bytes().to_vec()),
            &[],
        ),
        write(
            "bf16",
            Dtype::BF16,
            &dense(&|v| half::bf16::from_f32(v).to_le_bytes().to_vec()),
            &[],
        ),
        write(
            "f16",
            Dtype::F16,
            &dense(&|v| half::f16::from_f32(v).to_le_bytes().to_vec()),
            &[],
        ),
    ];
    for method in [Method::Amax, Method::Mse, Method::FourSix] {
        let mut results = Vec::new();
        for source in &sources {
            let out = output();
            let options = Options {
                method,
                ..Options::default()
            };
            let reports = try_convert(source, &out.path, "v3", &options).unwrap();
            assert_eq!(reports.len(), 1);
            assert!(reports[0].sqnr_db.unwrap() > 10.0);
            let file = SafetensorsFile::open(&out.path).unwrap();
            // The older marker is spent: a record stands for it.
            // Its activation scale of 1 meant none.
            assert!(!file.contains(&format!("{layer}.input_scale")));
            assert!(!file.contains("scaled_fp8") && file.contains(&format!("{layer}.comfy_quant")));
            let part = |part: &str| {
                file.view(&format!("{layer}.{part}"))
                    .unwrap()
                    .bytes()
                    .to_vec()
            };
            results.push([part("weight"), part("weight_scale"), part("weight_scale_2")]);
        }
        assert!(results.iter().all(|r| *r == results[0]), "{method:?}");
    }
}

/// A folder's configurations and tokenizer go into the file that is made of it: without them its tiny vocabulary could not
/// be read. Every weight is kept, so both draw the same.
#[test]
fn a_converted_folder_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pipelines/oblong");
    let folder = dir.path().join("folder");
    common::weights::diffusers_folder(&fixture, &folder);
    let keep =
        r#"{"block_names": ["transformer_blocks"], "rules": [{"policy": "keep", "match": [""]}]}"#;
    let policy = Policy::parse("keep", keep).unwrap();
    let source = Source::open(&folder).unwrap();
    let plan = Plan::new(&source, &policy, None, &unscaled()).unwrap();
    let file = dir.path().join("file.safetensors");
    execute(&plan, &source, (&file, false), &monitor()).unwrap();
    let small = |settings: &mut Settings| {
        (settings.width, settings.height, settings.steps) = (32, 32, 2);
    };
    let [folder, file] = [folder, file].map(|model| picture(&model, small));
    let differ = folder.iter().zip(&file).filter(|(a, b)| a != b).count();
    assert_eq!((folder.len(), differ), (file.len(), 0));
}
