//! Conversions of the tiny model: equal to comfy-kitchen, the same for any number of threads, readable by everything
//! here, and never half done.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use qwen_nvfp4::checkpoint::{ModelSource, SafetensorsFile};
use qwen_nvfp4::context::{Cancel, Cx};
use qwen_nvfp4::inspect::inspect;
use qwen_nvfp4::numerics::search::Method;
use qwen_nvfp4::pipeline::request::Request;
use qwen_nvfp4::pipeline::{Engine, Progress};
use qwen_nvfp4::quantize::execute::verify;
use qwen_nvfp4::quantize::plan::{Keys, Marker, Options};
use qwen_nvfp4::quantize::report::LayerReport;
use qwen_nvfp4::quantize::{ConvertError, Monitor, Plan, Policy, Source, execute};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use sha2::{Digest, Sha256};

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny/qwen-tiny-aio-fp8.safetensors")
}

fn unscaled() -> Options {
    Options {
        assume_unscaled: true,
        ..Options::default()
    }
}

fn monitor() -> Monitor<'static> {
    Monitor {
        cancel: Cancel::default(),
        done: &|_| {},
    }
}

fn try_convert(
    input: &Path,
    output: &Path,
    policy: &str,
    options: &Options,
) -> Result<Vec<LayerReport>, ConvertError> {
    let source = Source::open(input)?;
    let plan = Plan::new(&source, &Policy::built_in(policy).unwrap()?, None, options)?;
    let reports = execute(&plan, &source, (output, false), &monitor())?;
    verify(&plan, &source, output, &monitor())?;
    Ok(reports)
}

/// A file that is thrown away with its folder.
struct Output {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

fn output() -> Output {
    let dir = tempfile::tempdir().unwrap();
    Output {
        path: dir.path().join("out.safetensors"),
        _dir: dir,
    }
}

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

struct Silent;
impl Progress for Silent {}

fn picture(model: &Path) -> Vec<u8> {
    let engine = Engine::load(&ModelSource::Files {
        model: model.to_owned(),
        text_encoder: None,
        vae: None,
    })
    .unwrap();
    let request = Request {
        prompts: vec![
            "a large red star above a small blue circle on a plain yellow background".to_owned(),
        ],
        negatives: None,
        seeds: vec![0],
        settings: engine.defaults(),
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
    let original = picture(&tiny());
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
        pictures.push(picture(&out.path));
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

#[test]
fn faults_leave_nothing_behind() {
    let out = output();
    let folder = out.path.parent().unwrap();
    let empty = || std::fs::read_dir(folder).unwrap().count() == 0;
    let fails = |input: &Path, words: &[&str]| {
        let error = try_convert(input, &out.path, "v3", &unscaled())
            .expect_err("a refusal")
            .to_string();
        for word in words {
            assert!(error.contains(word), "`{word}` is not in: {error}");
        }
        assert!(empty());
    };
    let scratch = tempfile::tempdir().unwrap();
    // A NaN in a weight that is quantized, found in the middle of the work.
    let bytes = std::fs::read(tiny()).unwrap();
    let file = SafetensorsFile::open(&tiny()).unwrap();
    let layer = "model.diffusion_model.transformer_blocks.5.attn.to_q";
    let view = file.view(&format!("{layer}.weight")).unwrap();
    let k = view.shape()[1];
    let mut spoiled = bytes.clone();
    spoiled[view.offset() + 3 * k + 7] = 0xff;
    let nan = scratch.path().join("nan.safetensors");
    std::fs::write(&nan, &spoiled).unwrap();
    fails(&nan, &[layer, "row 3, column 7", "nan.safetensors"]);
    // And in tensors that only go over: a kept weight, a bias that is widened, the VAE's BF16.
    for (name, at, byte) in [
        ("model.diffusion_model.img_in.weight", 5, 0x7f),
        ("model.diffusion_model.proj_out.bias", 2, 0xff),
        ("vae.decoder.conv1.bias", 3, 0xff),
    ] {
        let view = file.view(name).unwrap();
        let mut spoiled = bytes.clone();
        let width = if view.dtype() == Dtype::BF16 { 2 } else { 1 };
        spoiled[view.offset() + width * at..][..width].fill(byte);
        std::fs::write(&nan, &spoiled).unwrap();
        fails(&nan, &[name, &format!("number {at}"), "nan.safetensors"]);
    }
    std::fs::write(&nan, &spoiled).unwrap();
    let cut = scratch.path().join("cut.safetensors");
    std::fs::write(&cut, &bytes[..bytes.len() - 100]).unwrap();
    fails(&cut, &["tensors are cut", "cut.safetensors"]);

    // The input is the output, by another name.
    let link = scratch.path().join("link.safetensors");
    std::os::unix::fs::symlink(&nan, &link).unwrap();
    let source = Source::open(&nan).unwrap();
    let plan = Plan::new(
        &source,
        &Policy::built_in("v3").unwrap().unwrap(),
        None,
        &unscaled(),
    )
    .unwrap();
    let error = execute(&plan, &source, (&link, true), &monitor())
        .err()
        .unwrap();
    assert!(error.to_string().contains("is the input"), "{error}");

    // The input is cut while it is read, then replaced.
    let victim = scratch.path().join("victim.safetensors");
    std::fs::write(&victim, &bytes).unwrap();
    let source = Source::open(&victim).unwrap();
    let plan = Plan::new(
        &source,
        &Policy::built_in("v3").unwrap().unwrap(),
        None,
        &unscaled(),
    )
    .unwrap();
    let cutter = std::fs::OpenOptions::new()
        .write(true)
        .open(&victim)
        .unwrap();
    let once = std::sync::Once::new();
    let cutting = Monitor {
        cancel: Cancel::default(),
        done: &|_| once.call_once(|| cutter.set_len(1 << 20).unwrap()),
    };
    let error = execute(&plan, &source, (&out.path, false), &cutting)
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("changed while it was read"),
        "{error}"
    );
    assert!(empty());
    let error = execute(&plan, &source, (&out.path, false), &monitor())
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("changed while it was read"),
        "{error}"
    );

    // A request to stop.
    let source = Source::open(&tiny()).unwrap();
    let plan = Plan::new(
        &source,
        &Policy::built_in("v3").unwrap().unwrap(),
        None,
        &unscaled(),
    )
    .unwrap();
    let cancel = Cancel::default();
    let handle = cancel.clone();
    let stopping = Monitor {
        cancel,
        done: &|_| handle.cancel(),
    };
    let error = execute(&plan, &source, (&out.path, false), &stopping)
        .err()
        .unwrap();
    assert!(matches!(error, ConvertError::Cancelled) && empty());
}

/// One changed bit anywhere is found.
#[test]
fn verification_finds_a_changed_bit() {
    let out = output();
    try_convert(&tiny(), &out.path, "v5", &unscaled()).unwrap();
    let source = Source::open(&tiny()).unwrap();
    let plan = Plan::new(
        &source,
        &Policy::built_in("v5").unwrap().unwrap(),
        None,
        &unscaled(),
    )
    .unwrap();
    let whole = std::fs::read(&out.path).unwrap();
    for at in [whole.len() - 1, whole.len() / 2, whole.len() / 3, 100_000] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&out.path, &bytes).unwrap();
        let error = verify(&plan, &source, &out.path, &monitor()).err();
        assert!(error.is_some(), "byte {at}");
    }
    std::fs::write(&out.path, &whole).unwrap();
    verify(&plan, &source, &out.path, &monitor()).unwrap();
}
