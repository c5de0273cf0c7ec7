//! Weights by formula, bit for bit those of `fixtures/pipelines/make_pipelines.py`, and folders made of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;

/// The formula's numbers of one tensor.
pub fn weight(component: &str, name: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    let count = shape.iter().product();
    let x = uniform(&format!("{component}.{name}"), seed, count);
    let norm = name.ends_with("gamma")
        || (name.contains("norm") && name.ends_with("weight") && shape.len() == 1);
    let fan_in: usize = shape.iter().skip(1).product();
    let bits = usize::BITS - fan_in.leading_zeros();
    x.into_iter()
        .map(|x| match (norm, shape.len()) {
            (true, _) => 1.0 + x * 0.5,
            (false, 1) => x * 0.25,
            (false, _) => x * 2f32.powi(-(bits as i32 / 2)),
        })
        .collect()
}

fn uniform(name: &str, seed: u64, count: usize) -> Vec<f32> {
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

/// Names and shapes of a fixture's tensors, by component, and the seed of their values.
pub struct Recipe {
    pub seed: u64,
    pub components: BTreeMap<String, BTreeMap<String, Vec<usize>>>,
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
        }
    }

    /// A tensor's numbers.
    pub fn values(&self, component: &str, name: &str) -> Vec<f32> {
        weight(
            component,
            name,
            &self.components[component][name],
            self.seed,
        )
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
        other => panic!("no test writes {other:?}"),
    }
}

/// A safetensors file of (name, dtype, shape, bytes).
pub fn write(
    path: &Path,
    tensors: &[(String, Dtype, Vec<usize>, Vec<u8>)],
    metadata: Option<(String, String)>,
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
    safetensors::serialize_to_file(views, metadata.map(|m| [m].into()), path).unwrap();
}

/// Writes the fixture `from` as a diffusers folder with its weights, in F32.
pub fn diffusers_folder(from: &Path, to: &Path) {
    let recipe = Recipe::read(from);
    for part in ["transformer", "text_encoder", "vae", "scheduler"] {
        fs::create_dir_all(to.join(part)).unwrap();
        for entry in fs::read_dir(from.join(part)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, to.join(part).join(path.file_name().unwrap())).unwrap();
        }
    }
    fs::copy(from.join("model_index.json"), to.join("model_index.json")).unwrap();
    fs::create_dir_all(to.join("tokenizer")).unwrap();
    let tokenizer =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny/tokenizer/tokenizer.json");
    fs::copy(tokenizer, to.join("tokenizer/tokenizer.json")).unwrap();
    for (component, tensors) in &recipe.components {
        let file = match component.as_str() {
            "text_encoder" => "model.safetensors",
            _ => "diffusion_pytorch_model.safetensors",
        };
        let tensors: Vec<_> = tensors
            .iter()
            .map(|(name, shape)| {
                let bytes = encode(&recipe.values(component, name), Dtype::F32);
                (name.clone(), Dtype::F32, shape.clone(), bytes)
            })
            .collect();
        write(&to.join(component).join(file), &tensors, None);
    }
}
