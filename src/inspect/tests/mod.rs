#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod advice;
mod container;
mod converted;
mod deep;
mod hostile;
mod markers;
mod scales;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

use super::*;
use crate::numerics::swizzle;

/// A layer of the tiny model, [128, 128], that tests spoil.
const LAYER: &str = "model.diffusion_model.transformer_blocks.1.attn.to_q";
/// Another one.
const OTHER: &str = "model.diffusion_model.transformer_blocks.2.attn.to_k";

fn tiny_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny/qwen-tiny-aio-fp8.safetensors")
}

/// The tiny model, as a map that a test may spoil.
#[derive(Clone)]
struct Tiny {
    metadata: HashMap<String, String>,
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Tiny {
    fn new() -> Self {
        let bytes = std::fs::read(tiny_path()).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |t: &TensorView| (t.dtype(), t.shape().to_vec(), t.data().to_vec());
        Self {
            metadata: header.metadata().clone().unwrap(),
            tensors: file
                .iter()
                .map(|(name, t)| (name.to_owned(), tensor(&t)))
                .collect(),
        }
    }

    fn put(&mut self, name: impl Into<String>, dtype: Dtype, shape: &[usize], bytes: &[u8]) {
        self.tensors
            .insert(name.into(), (dtype, shape.to_vec(), bytes.to_vec()));
    }

    fn remove(&mut self, name: &str) {
        self.tensors.remove(name).unwrap();
    }

    fn shape(&self, name: &str) -> [usize; 2] {
        self.tensors[name].1.clone().try_into().unwrap()
    }

    /// The names with `from` in front get `to` instead.
    fn rename(&mut self, from: &str, to: &str) {
        self.tensors = std::mem::take(&mut self.tensors)
            .into_iter()
            .map(|(name, tensor)| match name.strip_prefix(from) {
                Some(rest) => (format!("{to}{rest}"), tensor),
                None => (name, tensor),
            })
            .collect();
    }

    fn record(&mut self, layer: &str, json: &str) {
        let name = format!("{layer}.comfy_quant");
        self.put(name, Dtype::U8, &[json.len()], json.as_bytes());
    }

    /// `_quantization_metadata` with these layers.
    fn layers(&mut self, layers: serde_json::Value) {
        let text = json!({"format_version": "1.0", "layers": layers}).to_string();
        self.metadata
            .insert("_quantization_metadata".to_owned(), text);
    }

    fn scale(&mut self, name: impl Into<String>, value: f32) {
        self.put(name, Dtype::F32, &[], &value.to_le_bytes());
    }

    fn bf16(&mut self, name: impl Into<String>, shape: &[usize]) {
        let n: usize = shape.iter().product();
        self.put(name, Dtype::BF16, shape, &[0, 0x3c].repeat(n));
    }

    /// A sound FP8 layer with every companion.
    fn fp8(&mut self, layer: &str) {
        self.record(layer, r#"{"format": "float8_e4m3fn"}"#);
        self.scale(format!("{layer}.weight_scale"), 1.0);
        self.scale(format!("{layer}.input_scale"), 0.5);
        let n = self.shape(&format!("{layer}.weight"))[0];
        if self.tensors.contains_key(&format!("{layer}.bias")) {
            self.bf16(format!("{layer}.bias"), &[n]);
        }
    }

    /// A sound NVFP4 layer of the size of the one that is there; its block scales as [rows, columns] in tiles.
    fn nvfp4(&mut self, layer: &str) {
        let [n, k] = self.shape(&format!("{layer}.weight"));
        self.nvfp4_of(layer, n, k);
    }

    fn nvfp4_of(&mut self, layer: &str, n: usize, k: usize) {
        let columns = k / 16;
        let [rows, padded] = swizzle::padded(n, columns);
        let mut scales = vec![0; rows * padded];
        swizzle::to_blocked(&vec![0x38; n * columns], columns, &mut scales);
        let weight = format!("{layer}.weight");
        self.put(&weight, Dtype::U8, &[n, k / 2], &vec![0x21; n * k / 2]);
        self.put(
            format!("{weight}_scale"),
            Dtype::F8_E4M3,
            &[rows, padded],
            &scales,
        );
        self.scale(format!("{weight}_scale_2"), 0.01);
        self.record(layer, r#"{"format": "nvfp4"}"#);
        self.bf16(format!("{layer}.bias"), &[n]);
    }

    fn write(&self, path: &Path) {
        let views = self.tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, Some(self.metadata.clone()), path).unwrap();
    }

    fn report_to(&self, depth: &Depth) -> Report {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spoiled.safetensors");
        self.write(&path);
        let report = inspect_to(Some(&path), depth).unwrap();
        report.faults.iter().chain(&report.advice).for_each(helps);
        report
    }

    fn report(&self) -> Report {
        self.report_to(&Depth::Scales)
    }
}

/// Every message says what to do, but for those of configs, which come from where those are read.
fn helps(fault: &Fault) {
    const WORDS: [&str; 8] = [
        "convert",
        "get ",
        "remove",
        "rename",
        "download",
        "save",
        "give",
        "keep this",
    ];
    let message = &fault.message;
    let helps = WORDS.iter().any(|word| message.contains(word)) || message.contains("compare");
    assert!(helps || fault.kind == FaultKind::Config, "{message}");
}

/// The faults of a report, without their sentences.
fn kinds(report: &Report) -> Vec<(&str, FaultKind)> {
    brief(&report.faults)
}

fn advice(report: &Report) -> Vec<(&str, FaultKind)> {
    brief(&report.advice)
}

fn brief(faults: &[Fault]) -> Vec<(&str, FaultKind)> {
    faults.iter().map(|f| (f.tensor.as_str(), f.kind)).collect()
}

/// Exactly one fault, of this tensor and kind, whose message has these words.
#[track_caller]
fn only(tiny: &Tiny, tensor: &str, kind: FaultKind, words: &str) {
    let report = tiny.report();
    assert_eq!(kinds(&report), [(tensor, kind)]);
    let message = &report.faults[0].message;
    assert!(message.contains(words), "`{words}` is not in: {message}");
}

#[test]
fn the_tiny_model_has_no_faults() {
    let report = Tiny::new().report();
    assert_eq!(kinds(&report), []);
    assert_eq!(advice(&report), []);
    assert_eq!(report.quantized, Quantized::default());
    assert_eq!(
        report.components.keys().copied().collect::<Vec<_>>(),
        ["text_encoder", "transformer", "vae"]
    );
    assert!(
        report
            .components
            .values()
            .all(|part| part.key_style == "comfyui-aio")
    );
    assert_eq!(
        report.components["transformer"]
            .dtypes
            .keys()
            .collect::<Vec<_>>(),
        ["F8_E4M3"]
    );
    assert!(
        render_text(&report).contains("no faults"),
        "{}",
        render_text(&report)
    );
}

#[test]
fn sound_quantized_layers_have_no_faults() {
    let mut tiny = Tiny::new();
    tiny.fp8(LAYER);
    tiny.nvfp4(OTHER);
    // 64 rows: half of its tile of block scales is padding.
    tiny.nvfp4("model.diffusion_model.proj_out");
    let report = tiny.report();
    assert_eq!(kinds(&report), []);
    assert_eq!(
        report.quantized,
        Quantized {
            nvfp4: 2,
            float8_e4m3fn: 1
        }
    );
}

/// The words of scripts, and what people see.
#[test]
fn a_report_as_json_and_as_text() {
    let mut tiny = Tiny::new();
    for block in 0..6 {
        tiny.fp8(&format!(
            "model.diffusion_model.transformer_blocks.{block}.attn.to_q"
        ));
        tiny.remove(&format!(
            "model.diffusion_model.transformer_blocks.{block}.attn.to_q.weight_scale"
        ));
    }
    let report = tiny.report();
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["faults"].as_array().unwrap().len(), 6);
    assert_eq!(json["faults"][0]["kind"], "missing_weight_scale");
    assert_eq!(json["advice"][0]["kind"], "unrecorded_fp8");
    assert_eq!(json["quantized"]["nvfp4"], 0);
    assert_eq!(
        serde_json::to_value(FaultKind::MissingWeightScale2).unwrap(),
        "missing_weight_scale_2"
    );
    let text = render_text(&report);
    let [faults, more, advice] = ["6 faults:", "... and 1 more of kind", "  advice:"]
        .map(|part| text.find(part).unwrap_or_else(|| panic!("{part}: {text}")));
    assert!(faults < more && more < advice, "{text}");
}
