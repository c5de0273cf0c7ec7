//! The same numbers in every layout that checkpoints come in.
//!
//! Names follow ComfyUI's source (`comfy/ldm/wan/vae.py`, `comfy/supported_models.py`, the published files), not the
//! reader under test.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde_json::{Value, json};

use super::weights::{Recipe, copy_configs, encode, file_stem, tokenizer_json, write};

/// A tensor of a file: name, type, shape, bytes.
type Stored = (String, Dtype, Vec<usize>, Vec<u8>);

/// How numbers are stored.
#[derive(Clone, Copy)]
pub enum Storage {
    /// Every tensor in one type.
    Plain(Dtype),
    /// Linear layers in E4M3 with `weight_scale` and a `comfy_quant` record, the rest in BF16.
    Recorded,
    /// Linear layers in E4M3 with `scale_weight` and `scale_input`, the rest in BF16: the older spelling.
    Scaled,
}

/// A pipeline whose numbers every storage holds exactly.
pub struct Pipeline {
    fixture: PathBuf,
    recipe: Recipe,
}

impl Pipeline {
    /// The sizes of a fixture, with coarser numbers.
    pub fn of(fixture: &Path) -> Self {
        Self {
            fixture: fixture.to_owned(),
            recipe: Recipe::read(fixture),
        }
    }

    /// A component's tensors; `rename` gives the name in the file, None leaves the tensor out.
    fn tensors(
        &self,
        component: &str,
        storage: Storage,
        rename: impl Fn(&str) -> Option<String>,
    ) -> Vec<Stored> {
        let mut out = Vec::new();
        for (name, shape) in &self.recipe.components[component] {
            let Some(stored) = rename(name) else { continue };
            let values = self.recipe.representable(component, name);
            out.extend(store(&stored, shape, &values, storage));
        }
        out
    }

    /// As `save_pretrained` writes it, each component in `shards` files.
    pub fn diffusers(&self, to: &Path, dtype: Dtype, shards: usize) {
        copy_configs(&self.fixture, to);
        for component in self.recipe.components.keys() {
            let tensors = self.tensors(component, Storage::Plain(dtype), |n| Some(n.to_owned()));
            write_shards(&to.join(component), file_stem(component), &tensors, shards);
        }
    }

    /// One file with ComfyUI's prefixes, as Qwen-Rapid-AIO is laid out: `model` for transformer and text encoder,
    /// the VAE in BF16 under Wan names.
    pub fn all_in_one(&self, path: &Path, model: Storage) {
        let mut tensors = self.tensors("transformer", model, |name| {
            Some(format!("model.diffusion_model.{name}"))
        });
        let prefix = "text_encoders.qwen25_7b.";
        tensors.extend(self.tensors("text_encoder", model, |name| {
            Some(format!("{prefix}transformer.{}", comfy_text(name)?))
        }));
        tensors.push((
            format!("{prefix}logit_scale"),
            Dtype::F32,
            vec![],
            4.6052f32.to_le_bytes().to_vec(),
        ));
        let wan = self.wan();
        tensors.extend(self.tensors("vae", Storage::Plain(Dtype::BF16), |name| {
            Some(format!("vae.{}", wan(name)))
        }));
        write(path, &tensors, Some(self.metadata()));
    }

    /// ComfyUI's three files, without prefixes: transformer, text encoder, VAE.
    pub fn separate(
        &self,
        folder: &Path,
        transformer: Storage,
        text_encoder: Storage,
    ) -> [PathBuf; 3] {
        let paths = ["qwen_image", "qwen_2.5_vl_7b", "qwen_image_vae"]
            .map(|stem| folder.join(format!("{stem}.safetensors")));
        let same = |name: &str| Some(name.to_owned());
        let wan = self.wan();
        let mut text = self.tensors("text_encoder", text_encoder, same);
        if matches!(text_encoder, Storage::Scaled) {
            text.push(("scaled_fp8".to_owned(), Dtype::F8_E4M3, vec![0], vec![]));
        }
        let parts = [
            self.tensors("transformer", transformer, same),
            text,
            self.tensors("vae", Storage::Plain(Dtype::BF16), |name| Some(wan(name))),
        ];
        for (path, tensors) in paths.iter().zip(&parts) {
            write(path, tensors, Some(self.metadata()));
        }
        paths
    }

    /// What shapes cannot tell of sizes other than the published ones.
    fn metadata(&self) -> HashMap<String, String> {
        let read = |file: &str| -> Value {
            serde_json::from_slice(&fs::read(self.fixture.join(file)).unwrap()).unwrap()
        };
        let config = json!({
            "transformer": read("transformer/config.json"),
            "text_encoder": read("text_encoder/config.json"),
            "vae": read("vae/config.json"),
            "scheduler": read("scheduler/scheduler_config.json"),
        });
        let tokenizer = fs::read_to_string(tokenizer_json()).unwrap();
        HashMap::from([
            ("qwen_nvfp4.config".to_owned(), config.to_string()),
            ("qwen_nvfp4.tokenizer".to_owned(), tokenizer),
        ])
    }

    /// diffusers' VAE names to Wan's.
    fn wan(&self) -> impl Fn(&str) -> String + use<> {
        let config: Value =
            serde_json::from_slice(&fs::read(self.fixture.join("vae/config.json")).unwrap())
                .unwrap();
        // A decoder stage has one residual block more than an encoder's, and then its upsampler.
        let stage = config["num_res_blocks"].as_u64().unwrap() as usize + 2;
        move |name| wan_name(name, stage)
    }
}

/// A tensor as `storage` holds it, with what lies beside it.
fn store(name: &str, shape: &[usize], values: &[f32], storage: Storage) -> Vec<Stored> {
    let plain = |dtype| {
        vec![(
            name.to_owned(),
            dtype,
            shape.to_vec(),
            encode(values, dtype),
        )]
    };
    let linear = shape.len() == 2 && !name.contains("embed_tokens") && !name.contains("lm_head");
    let recorded = match storage {
        Storage::Plain(dtype) => return plain(dtype),
        _ if !linear => return plain(Dtype::BF16),
        Storage::Recorded => true,
        Storage::Scaled => false,
    };
    let scalar = |name: String, v: f32| (name, Dtype::F32, vec![], v.to_le_bytes().to_vec());
    let layer = name.strip_suffix(".weight").unwrap();
    // A power of two, so that no bit of the product differs.
    let coarse: Vec<f32> = values.iter().map(|v| v * 8.0).collect();
    let codes = encode(&coarse, Dtype::F8_E4M3);
    let mut out = vec![(name.to_owned(), Dtype::F8_E4M3, shape.to_vec(), codes)];
    if recorded {
        let record = br#"{"format": "float8_e4m3fn"}"#.to_vec();
        out.push(scalar(format!("{layer}.weight_scale"), 0.125));
        out.push((
            format!("{layer}.comfy_quant"),
            Dtype::U8,
            vec![record.len()],
            record,
        ));
    } else {
        out.push(scalar(format!("{layer}.scale_weight"), 0.125));
        out.push(scalar(format!("{layer}.scale_input"), 1.0));
    }
    out
}

/// `tensors` in `count` files with an index, or in one without.
fn write_shards(folder: &Path, stem: &str, tensors: &[Stored], count: usize) {
    if count == 1 {
        return write(&folder.join(format!("{stem}.safetensors")), tensors, None);
    }
    let mut map = BTreeMap::new();
    for (i, shard) in tensors.chunks(tensors.len().div_ceil(count)).enumerate() {
        let file = format!("{stem}-{:05}-of-{count:05}.safetensors", i + 1);
        write(&folder.join(&file), shard, None);
        map.extend(shard.iter().map(|t| (t.0.clone(), file.clone())));
    }
    let size: usize = tensors.iter().map(|t| t.3.len()).sum();
    let index = json!({"metadata": {"total_size": size}, "weight_map": map});
    fs::write(
        folder.join(format!("{stem}.safetensors.index.json")),
        index.to_string(),
    )
    .unwrap();
}

/// ComfyUI's text encoder has no `lm_head`.
fn comfy_text(name: &str) -> Option<&str> {
    (!name.starts_with("lm_head")).then_some(name)
}

/// One VAE name of diffusers as Wan 2.1 has it; `stage` modules make a decoder stage.
fn wan_name(name: &str, stage: usize) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let number = |i: usize| parts[i].parse::<usize>().unwrap();
    let rest = |i: usize| parts[i..].join(".");
    match (parts[0], parts[1]) {
        ("quant_conv", _) => format!("conv1.{}", rest(1)),
        ("post_quant_conv", _) => format!("conv2.{}", rest(1)),
        (coder, "conv_in") => format!("{coder}.conv1.{}", rest(2)),
        (coder, "norm_out") => format!("{coder}.head.0.{}", rest(2)),
        (coder, "conv_out") => format!("{coder}.head.2.{}", rest(2)),
        (coder, "mid_block") if parts[2] == "attentions" => format!("{coder}.middle.1.{}", rest(4)),
        (coder, "mid_block") => {
            format!(
                "{coder}.middle.{}.{}",
                2 * number(3),
                wan_residual(&parts[4..])
            )
        }
        (coder, "down_blocks") => {
            format!(
                "{coder}.downsamples.{}.{}",
                number(2),
                wan_residual(&parts[3..])
            )
        }
        (coder, "up_blocks") if parts[3] == "upsamplers" => {
            let j = number(2) * stage + stage - 1;
            format!("{coder}.upsamples.{j}.{}", rest(5))
        }
        (coder, "up_blocks") => {
            let j = number(2) * stage + number(4);
            format!("{coder}.upsamples.{j}.{}", wan_residual(&parts[5..]))
        }
        _ => panic!("{name}"),
    }
}

/// The inside of a residual block; resamplers keep their names.
fn wan_residual(parts: &[&str]) -> String {
    let inner = match parts[0] {
        "norm1" => "residual.0",
        "conv1" => "residual.2",
        "norm2" => "residual.3",
        "conv2" => "residual.6",
        "conv_shortcut" => "shortcut",
        _ => return parts.join("."),
    };
    format!("{inner}.{}", parts[1..].join("."))
}
