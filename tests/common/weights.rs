//! Weights by formula, bit for bit those of `fixtures/pipelines/make_pipelines.py`, and folders made of them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::Deserialize;
use serde_json::Value;

/// The formula's numbers of one tensor.
pub fn weight(component: &str, name: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    let norm = is_norm(name, shape);
    let scale = scale(shape);
    uniform(&format!("{component}.{name}"), seed, shape.iter().product())
        .into_iter()
        .map(|x| match norm {
            true => 1.0 + x * 0.5,
            false => x * scale,
        })
        .collect()
}

/// The formula's numbers, coarse enough for any float format: at most four significant bits, none smaller
/// than E4M3 can tell from 0.
pub fn representable(component: &str, name: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    let norm = is_norm(name, shape);
    let scale = scale(shape);
    uniform(&format!("{component}.{name}"), seed, shape.iter().product())
        .into_iter()
        .map(|x| match norm {
            true => 1.0 + (x * 4.0).trunc() / 8.0,
            false => (x * 16.0).trunc() / 16.0 * scale,
        })
        .collect()
}

fn is_norm(name: &str, shape: &[usize]) -> bool {
    name.ends_with("gamma")
        || (name.contains("norm") && name.ends_with("weight") && shape.len() == 1)
}

/// 1/4 for vectors; for matrices and kernels a power of two near 1/sqrt(fan-in).
fn scale(shape: &[usize]) -> f32 {
    let fan_in: usize = shape.iter().skip(1).product();
    let bits = usize::BITS - fan_in.leading_zeros();
    match shape.len() {
        1 => 0.25,
        _ => 2f32.powi(-(bits as i32 / 2)),
    }
}

/// `count` numbers of [-1, 1), told by a name and a seed.
pub fn uniform(name: &str, seed: u64, count: usize) -> Vec<f32> {
    let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3)
    });
    let start = hash ^ seed;
    (1..=count as u64)
        .map(|i| {
            let z = start.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let z = z ^ (z >> 31);
            ((z >> 40) as i64 - (1 << 23)) as f32 / (1 << 23) as f32
        })
        .collect()
}

/// The numbers of a component's tensor of a name and a shape, from a seed.
type Formula = fn(&str, &str, &[usize], u64) -> Vec<f32>;

/// Names and shapes of a fixture's tensors, by component, and the seed of their values.
pub struct Recipe {
    pub seed: u64,
    pub components: BTreeMap<String, BTreeMap<String, Vec<usize>>>,
    contrast: Contrast,
}

/// What makes the decoder's pixels spread around the middle: a power of two on its last kernel, and its biases.
#[derive(Deserialize)]
struct Contrast {
    gain: f32,
    bias: Vec<f32>,
}

impl Recipe {
    /// Reads `weights.json`, in which names that differ by their block only are one name with `*`.
    pub fn read(folder: &Path) -> Self {
        let json: Value =
            serde_json::from_slice(&fs::read(folder.join("weights.json")).unwrap()).unwrap();
        let mut components = BTreeMap::new();
        for component in ["transformer", "text_encoder", "vae"] {
            let mut tensors = BTreeMap::new();
            for (name, entry) in json[component].as_object().unwrap() {
                let shape: Vec<usize> = serde_json::from_value(entry[1].clone()).unwrap();
                match entry[0].as_u64().unwrap() {
                    0 => drop(tensors.insert(name.clone(), shape)),
                    blocks => (0..blocks).for_each(|i| {
                        tensors.insert(name.replace('*', &i.to_string()), shape.clone());
                    }),
                }
            }
            components.insert(component.to_owned(), tensors);
        }
        Self {
            seed: json["seed"].as_u64().unwrap(),
            components,
            contrast: serde_json::from_value(json["contrast"].clone()).unwrap(),
        }
    }

    /// A tensor's numbers.
    pub fn values(&self, component: &str, name: &str) -> Vec<f32> {
        self.contrasted(weight, component, name)
    }

    /// As [`Self::values`], coarse enough for any float format.
    pub fn representable(&self, component: &str, name: &str) -> Vec<f32> {
        self.contrasted(representable, component, name)
    }

    fn contrasted(&self, formula: Formula, component: &str, name: &str) -> Vec<f32> {
        let values = || {
            formula(
                component,
                name,
                &self.components[component][name],
                self.seed,
            )
        };
        match (component, name) {
            ("vae", "decoder.conv_out.weight") => {
                values().iter().map(|v| v * self.contrast.gain).collect()
            }
            ("vae", "decoder.conv_out.bias") => self.contrast.bias.clone(),
            _ => values(),
        }
    }
}

/// F32 numbers as bytes of `dtype`.
pub fn encode(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Dtype::BF16 => values
            .iter()
            .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
            .collect(),
        Dtype::F16 => values
            .iter()
            .flat_map(|v| f16::from_f32(*v).to_le_bytes())
            .collect(),
        Dtype::F8_E4M3 => values.iter().map(|v| e4m3(*v)).collect(),
        other => panic!("no test writes {other:?}"),
    }
}

/// The E4M3 code whose value is exactly `value`: found by decoding all of them.
fn e4m3(value: f32) -> u8 {
    let decode = |code: u8| {
        let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
        let magnitude = match exponent {
            0 => mantissa * 2f32.powi(-9),
            _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
        };
        if code < 0x80 { magnitude } else { -magnitude }
    };
    (0..=0xFF)
        .filter(|code| code & 0x7F != 0x7F)
        .find(|code| decode(*code) == value)
        .unwrap_or_else(|| panic!("{value} is not an E4M3 number"))
}

/// A safetensors file of (name, dtype, shape, bytes).
pub fn write(
    path: &Path,
    tensors: &[(String, Dtype, Vec<usize>, Vec<u8>)],
    metadata: Option<HashMap<String, String>>,
) {
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            (
                name.as_str(),
                TensorView::new(*dtype, shape.clone(), bytes).unwrap(),
            )
        })
        .collect();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    safetensors::serialize_to_file(views, metadata, path).unwrap();
}

/// The tokenizer of every fixture.
pub fn tokenizer_json() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny/tokenizer/tokenizer.json")
}

/// Copies what a diffusers folder holds beside its weights.
pub fn copy_configs(from: &Path, to: &Path) {
    for part in ["transformer", "text_encoder", "vae", "scheduler"] {
        fs::create_dir_all(to.join(part)).unwrap();
        for entry in fs::read_dir(from.join(part)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, to.join(part).join(path.file_name().unwrap())).unwrap();
        }
    }
    fs::copy(from.join("model_index.json"), to.join("model_index.json")).unwrap();
    fs::create_dir_all(to.join("tokenizer")).unwrap();
    fs::copy(tokenizer_json(), to.join("tokenizer/tokenizer.json")).unwrap();
}

/// The file name of a component's weights in a diffusers folder, without its extension.
pub fn file_stem(component: &str) -> &'static str {
    match component {
        "text_encoder" => "model",
        _ => "diffusion_pytorch_model",
    }
}

/// Writes the fixture `from` as a diffusers folder with its weights, in F32.
pub fn diffusers_folder(from: &Path, to: &Path) {
    let recipe = Recipe::read(from);
    copy_configs(from, to);
    for (component, tensors) in &recipe.components {
        let tensors: Vec<_> = tensors
            .iter()
            .map(|(name, shape)| {
                let bytes = encode(&recipe.values(component, name), Dtype::F32);
                (name.clone(), Dtype::F32, shape.clone(), bytes)
            })
            .collect();
        let file = format!("{}.safetensors", file_stem(component));
        write(&to.join(component).join(file), &tensors, None);
    }
}
