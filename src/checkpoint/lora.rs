//! Low-rank adapters: a file of `down` and `up` matrices to the layers of a transformer that they belong to.
//!
//! Spellings, all of the same numbers: diffusers and PEFT (`transformer.transformer_blocks.0.attn.to_q.lora_A.weight`,
//! `lora_B`), ComfyUI (`diffusion_model.` before it, `lora_down` and `lora_up`), kohya
//! (`lora_unet_transformer_blocks_0_attn_to_q.lora_down.weight`), the latter two with `alpha`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::fingerprint::hex;
use super::{CheckpointError, SafetensorsFile, TensorView, Weights};

/// What stands before a layer's name.
const PREFIXES: [&str; 4] = [
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "",
];
/// What stands before a layer's name whose dots became underscores.
const FLAT_PREFIXES: [&str; 3] = ["lora_unet_", "lora_transformer_", "lycoris_"];
/// Endings of the matrix that comes first, `[rank, in]`.
const DOWN: [&str; 4] = [
    ".lora_A.weight",
    ".lora_A.default.weight",
    ".lora_down.weight",
    ".lora.down.weight",
];
/// Endings of the matrix that comes second, `[out, rank]`.
const UP: [&str; 4] = [
    ".lora_B.weight",
    ".lora_B.default.weight",
    ".lora_up.weight",
    ".lora.up.weight",
];
/// Ending of the number that, over the rank, scales both.
const ALPHA: &str = ".alpha";
/// Metadata key under which diffusers keeps PEFT's configuration.
const METADATA: &str = "lora_adapter_metadata";
/// Names that a message lists before it only counts them.
const LISTED: usize = 5;

/// A low-rank term of one layer: `scale * up (down x)` is added to its output.
#[derive(Clone)]
pub struct Adapter {
    /// `[rank, in]`.
    pub down: TensorView,
    /// `[out, rank]`.
    pub up: TensorView,
    /// The user's scale times alpha over rank.
    pub scale: f32,
}

/// Which adapter acts, and how strongly.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraLabel {
    /// The file's name without its ending.
    pub name: String,
    /// What the user multiplies it with.
    pub scale: f32,
    /// SHA-256 of the file's tensors, without its header, in hex: what model sites list as `AutoV3`.
    pub hash: String,
}

/// An opened adapter file.
pub struct Lora {
    /// What to call it.
    pub label: LoraLabel,
    /// Terms by the layer's canonical name.
    pub(crate) adapters: BTreeMap<String, Adapter>,
}

/// The tensors of one layer.
#[derive(Default)]
struct Parts {
    down: Option<TensorView>,
    up: Option<TensorView>,
    alpha: Option<TensorView>,
}

impl Lora {
    /// Opens `path` and finds the layer of `transformer` for each of its tensors.
    ///
    /// # Errors
    /// A file that is no whole safetensors file, that has a tensor which belongs to no layer, half an adapter, or
    /// an alpha that is no number; NaN; layers of other shapes than the transformer's.
    pub fn open(path: &Path, scale: f32, transformer: &Weights) -> Result<Self, CheckpointError> {
        let file = SafetensorsFile::open(path)?;
        let layers = Layers::of(transformer);
        let (mut found, mut unknown) = (BTreeMap::<String, Parts>::new(), Vec::new());
        for view in file.views() {
            let Some((layer, part)) = layers.place(view.name()) else {
                unknown.push(view.name().to_owned());
                continue;
            };
            let parts = found.entry(layer).or_default();
            let slot = match part {
                Part::Down => &mut parts.down,
                Part::Up => &mut parts.up,
                Part::Alpha => &mut parts.alpha,
            };
            if let Some(first) = slot.replace(view.clone()) {
                let (first, second) = (first.name(), view.name());
                return Err(foreign(
                    path,
                    format!("holds the same adapter twice (`{first}`, `{second}`)"),
                    "convert it again from its source",
                ));
            }
        }
        if !unknown.is_empty() {
            return Err(unplaced(path, &unknown, found.is_empty()));
        }
        if found.is_empty() {
            return Err(foreign(
                path,
                "holds no tensor".to_owned(),
                "give a LoRA of Qwen-Image",
            ));
        }
        let general = general_alpha(path, &file)?;
        let adapters = found
            .into_iter()
            .map(|(layer, parts)| {
                let adapter = parts.assemble(path, &layer, general, transformer)?;
                Ok((
                    layer,
                    Adapter {
                        scale: adapter.scale * scale,
                        ..adapter
                    },
                ))
            })
            .collect::<Result<_, CheckpointError>>()?;
        let name = path.file_stem().unwrap_or(path.as_os_str());
        let hash = Sha256::digest(file.data());
        let label = LoraLabel {
            name: name.to_string_lossy().into_owned(),
            scale,
            hash: hex(&hash),
        };
        Ok(Self { label, adapters })
    }
}

impl Parts {
    fn assemble(
        self,
        path: &Path,
        layer: &str,
        general: Option<f32>,
        transformer: &Weights,
    ) -> Result<Adapter, CheckpointError> {
        let refuse = |reason: String| CheckpointError::Quantization {
            path: path.to_owned(),
            layer: layer.to_owned(),
            reason,
        };
        let (Some(down), Some(up)) = (self.down, self.up) else {
            return Err(refuse(
                "its adapter lacks the other half (both a down and an up matrix are needed)"
                    .to_owned(),
            ));
        };
        let weight = transformer.shape(&format!("{layer}.weight"));
        let fits = |w: &[usize]| {
            matches!((down.shape(), up.shape(), w), ([r, k], [n, s], [out, inner])
                if r == s && *r > 0 && n == out && k == inner)
        };
        if !weight.is_some_and(fits) {
            return Err(refuse(format!(
                "its adapter is {:?} after {:?}, the layer's weight is {:?}; the LoRA belongs to another model",
                up.shape(),
                down.shape(),
                weight.unwrap_or(&[])
            )));
        }
        for view in [&down, &up] {
            if let Some(at) = view.to_f32()?.iter().position(|v| !v.is_finite()) {
                return Err(refuse(format!(
                    "number {at} of `{}` is NaN or infinite; get the LoRA again from its source",
                    view.name()
                )));
            }
        }
        let rank = down.shape()[0] as f32;
        let alpha = match self.alpha {
            Some(view) if view.elements() == 1 => Some(view.to_f32()?[0]),
            Some(view) => return Err(refuse(format!("its alpha has shape {:?}", view.shape()))),
            None => general,
        };
        let scale = alpha.map_or(1.0, |alpha| alpha / rank);
        match scale.is_finite() {
            true => Ok(Adapter { down, up, scale }),
            false => Err(refuse(format!("its alpha over its rank is {scale}"))),
        }
    }
}

/// The alpha of all layers, where diffusers wrote PEFT's configuration into the file.
fn general_alpha(path: &Path, file: &SafetensorsFile) -> Result<Option<f32>, CheckpointError> {
    let Some(text) = file.metadata().get(METADATA) else {
        return Ok(None);
    };
    let refuse = |reason: String| CheckpointError::Json {
        path: path.to_owned(),
        reason: format!("its metadata `{METADATA}` {reason}"),
    };
    let json: Value =
        serde_json::from_str(text).map_err(|e| refuse(format!("is not JSON ({e})")))?;
    // A pipeline's file names the component, a file that the transformer wrote alone does not.
    let get = |name: &str| {
        json.get(format!("transformer.{name}"))
            .or_else(|| json.get(name))
    };
    for (key, meaning) in [
        ("use_rslora", "another scale"),
        ("use_dora", "another kind of adapter"),
    ] {
        if get(key).and_then(Value::as_bool) == Some(true) {
            return Err(refuse(format!(
                "says `{key}`: {meaning} than is known here"
            )));
        }
    }
    let own = get("alpha_pattern").and_then(Value::as_object);
    if own.is_some_and(|pattern| !pattern.is_empty()) {
        return Err(refuse(
            "gives layers alphas of their own, which is not known here".to_owned(),
        ));
    }
    Ok(get("lora_alpha")
        .and_then(Value::as_f64)
        .map(|alpha| alpha as f32))
}

enum Part {
    Down,
    Up,
    Alpha,
}

/// The transformer's linear layers by the names that adapters use.
struct Layers {
    /// Canonical names by their form without dots.
    flat: BTreeMap<String, String>,
    plain: BTreeSet<String>,
}

impl Layers {
    fn of(transformer: &Weights) -> Self {
        let layers: Vec<&str> = transformer
            .names()
            .filter(|name| {
                transformer
                    .shape(name)
                    .is_some_and(|shape| shape.len() == 2)
            })
            .filter_map(|name| name.strip_suffix(".weight"))
            .collect();
        Self {
            flat: layers
                .iter()
                .map(|l| (l.replace('.', "_"), (*l).to_owned()))
                .collect(),
            plain: layers.iter().map(|l| (*l).to_owned()).collect(),
        }
    }

    /// The layer and the part of an adapter that a tensor is, if it is one.
    fn place(&self, tensor: &str) -> Option<(String, Part)> {
        let ending = |ends: &[&str]| ends.iter().find_map(|end| tensor.strip_suffix(end));
        let (name, part) = if let Some(name) = ending(&DOWN) {
            (name, Part::Down)
        } else if let Some(name) = ending(&UP) {
            (name, Part::Up)
        } else {
            (tensor.strip_suffix(ALPHA)?, Part::Alpha)
        };
        let flat = FLAT_PREFIXES
            .iter()
            .find_map(|prefix| self.flat.get(name.strip_prefix(prefix)?).cloned());
        let plain = || {
            PREFIXES
                .iter()
                .filter_map(|prefix| name.strip_prefix(prefix))
                .find(|name| self.plain.contains(*name))
                .map(str::to_owned)
        };
        Some((flat.or_else(plain)?, part))
    }
}

fn foreign(path: &Path, found: String, hint: &str) -> CheckpointError {
    CheckpointError::Foreign {
        path: PathBuf::from(path),
        found,
        hint: hint.to_owned(),
    }
}

fn unplaced(path: &Path, unknown: &[String], nothing_else: bool) -> CheckpointError {
    let listed: Vec<String> = unknown
        .iter()
        .take(LISTED)
        .map(|n| format!("`{n}`"))
        .collect();
    let more = match unknown.len().saturating_sub(LISTED) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let names = listed.join(", ");
    match nothing_else {
        true => foreign(
            path,
            format!("is no LoRA of this model: nothing in it belongs to a layer ({names}{more})"),
            "give a LoRA of Qwen-Image's transformer",
        ),
        false => foreign(
            path,
            format!(
                "has {} tensors that belong to no layer of the transformer: {names}{more}",
                unknown.len()
            ),
            "only low-rank adapters of its linear layers can be applied",
        ),
    }
}
