//! What a checkpoint holds, and what is wrong with it.
//!
//! A path goes in, a [`Report`] comes out: components with their sizes, quantization markers counted, faults
//! by tensor. Only headers, markers and scales are read, so a 28 GB file takes seconds; the numbers of the
//! weights themselves are not judged.

mod markers;
mod render;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::Device;
use serde::Serialize;

use crate::checkpoint::gather::{Opened, Strictness};
use crate::checkpoint::{CheckpointError, Component, TensorView, Weights};
use crate::model::ModelError;
use crate::model::config::{TextEncoderConfig, TransformerConfig, VaeConfig};
use crate::model::inventory::{self, Expected, VisionSizes};

use markers::Markers;
pub use render::render_text;

/// What is wrong with one tensor (or, where `tensor` is empty, with a file as a whole).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The name as stored.
    pub tensor: String,
    /// A word for scripts.
    pub kind: FaultKind,
    /// A sentence for people.
    pub message: String,
}

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The file ends before its last tensor, or goes on after it.
    Truncated,
    /// A tensor that the model needs is not there.
    Missing,
    /// A tensor has another shape than its neighbours ask for.
    WrongShape,
    /// A tensor that no part of the model has.
    Unknown,
    /// A tensor does not begin at a multiple of its element's size.
    Misaligned,
    /// A scale is NaN or infinite.
    NanScale,
    /// A scale is zero or negative.
    ZeroScale,
    /// A marker that cannot be read, or names a format that is not known.
    UnknownMarker,
    /// A marker says one format, the weight is stored in another.
    WrongFormat,
    /// A quantized weight without a marker: its scale would be ignored.
    MissingMarker,
    /// A marker for a layer that has no weight.
    RecordWithoutWeight,
    /// The metadata names a layer that is not in the file.
    AbsentLayer,
    /// The padding of a swizzled block-scale matrix is not zero.
    SwizzlePadding,
    /// The sizes cannot be told, or config and tensors contradict each other.
    Config,
}

/// One component of a checkpoint.
#[derive(Clone, Debug, Serialize)]
pub struct ComponentReport {
    /// Who writes names like these: `comfyui-aio`, `diffusers`, ...
    pub key_style: String,
    /// Repeated blocks: transformer blocks, language-model layers, VAE stages.
    pub blocks: usize,
    /// Tensors, quantization companions included.
    pub tensors: usize,
    /// Bytes as stored.
    pub bytes: usize,
    /// Tensors by stored type.
    pub dtypes: BTreeMap<String, usize>,
    /// The sizes by their config names, as far as they could be told.
    pub sizes: BTreeMap<&'static str, serde_json::Value>,
    /// Stored shape by canonical name.
    pub shapes: BTreeMap<String, Vec<usize>>,
}

/// Layers that carry a quantization marker, by format.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quantized {
    /// NVFP4.
    pub nvfp4: usize,
    /// FP8 E4M3.
    pub float8_e4m3fn: usize,
}

/// What was found at a path.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was looked at.
    pub path: PathBuf,
    /// `transformer`, `text_encoder`, `vae`: those that are there.
    pub components: BTreeMap<&'static str, ComponentReport>,
    /// Marked layers.
    pub quantized: Quantized,
    /// Everything that is wrong, in the order of the checks.
    pub faults: Vec<Fault>,
}

/// Looks at a file, a shard index or a folder.
///
/// # Errors
/// Where nothing can be said about it at all: unreadable, no safetensors header, an adapter instead of a model.
pub fn inspect(path: &Path) -> Result<Report, CheckpointError> {
    Ok(report(&Opened::open(path, Strictness::Lenient)?, path))
}

/// Looks at the model inside of the program.
///
/// # Errors
/// None that a build which passes its tests can meet.
pub fn inspect_embedded() -> Result<Report, CheckpointError> {
    Ok(report(&Opened::embedded()?, Path::new("tiny")))
}

fn report(opened: &Opened, path: &Path) -> Report {
    let mut faults = Vec::new();
    for file in &opened.files {
        if let Some(cut) = file.cut() {
            faults.push(Fault {
                tensor: String::new(),
                kind: FaultKind::Truncated,
                message: format!(
                    "{}: {cut}; download or copy it again",
                    file.path().display()
                ),
            });
        }
        faults.extend(file.views().iter().filter_map(misaligned));
    }
    let whole = faults.iter().all(|f| f.kind != FaultKind::Truncated);
    let mut found = opened
        .unknown
        .iter()
        .map(|name| unknown(name, "the model"))
        .collect();
    let markers = Markers::read(opened, &mut found);
    let mut components = BTreeMap::new();
    for (component, tensors) in &opened.tensors {
        let weights = Weights::new(*component, path, &Device::Cpu, tensors.clone());
        let sizes = sizes(&weights, opened).unwrap_or_else(|error| {
            found.push(Fault {
                tensor: String::new(),
                kind: FaultKind::Config,
                message: error.to_string(),
            });
            Sizes::default()
        });
        if sizes.blocks > 0 {
            compare(*component, tensors, &sizes.expected, &markers, &mut found);
        }
        components.insert(word(*component), describe(*component, tensors, sizes));
    }
    // What a file lacks because it was cut short is no news.
    if whole {
        faults.append(&mut found);
    }
    Report {
        path: path.to_owned(),
        components,
        quantized: markers.count(),
        faults,
    }
}

/// The component's name in reports.
fn word(component: Component) -> &'static str {
    match component {
        Component::Transformer => "transformer",
        Component::TextEncoder => "text_encoder",
        Component::Vae => "vae",
    }
}

/// Sizes of a component and what follows from them.
#[derive(Default)]
struct Sizes {
    blocks: usize,
    named: BTreeMap<&'static str, serde_json::Value>,
    expected: Vec<Expected>,
}

fn sizes(weights: &Weights, opened: &Opened) -> Result<Sizes, ModelError> {
    let configs = &opened.configs;
    Ok(match weights.component() {
        Component::Transformer => {
            let config = TransformerConfig::detect(weights, configs.transformer.as_ref())?;
            Sizes {
                blocks: config.num_layers,
                named: BTreeMap::from([
                    ("num_layers", config.num_layers.into()),
                    ("num_attention_heads", config.num_attention_heads.into()),
                    ("attention_head_dim", config.attention_head_dim.into()),
                    ("in_channels", config.in_channels.into()),
                    ("joint_attention_dim", config.joint_attention_dim.into()),
                    ("axes_dims_rope", config.axes_dims_rope.to_vec().into()),
                ]),
                expected: inventory::transformer(&config),
            }
        }
        Component::TextEncoder => {
            let config = TextEncoderConfig::detect(weights, configs.text_encoder.as_ref())?;
            let vision = VisionSizes::detect(weights);
            Sizes {
                blocks: config.num_hidden_layers,
                named: BTreeMap::from([
                    ("vocab_size", config.vocab_size.into()),
                    ("hidden_size", config.hidden_size.into()),
                    ("num_hidden_layers", config.num_hidden_layers.into()),
                    ("num_attention_heads", config.num_attention_heads.into()),
                    ("num_key_value_heads", config.num_key_value_heads.into()),
                    ("intermediate_size", config.intermediate_size.into()),
                    (
                        "vision_depth",
                        vision.as_ref().map_or(0, |v| v.depth).into(),
                    ),
                ]),
                expected: inventory::text_encoder(&config, vision.as_ref()),
            }
        }
        Component::Vae => {
            let config = VaeConfig::detect(weights, configs.vae.as_ref())?;
            Sizes {
                blocks: config.dim_mult.len(),
                named: BTreeMap::from([
                    ("base_dim", config.base_dim.into()),
                    ("z_dim", config.z_dim.into()),
                    ("dim_mult", config.dim_mult.clone().into()),
                    ("num_res_blocks", config.num_res_blocks.into()),
                ]),
                expected: inventory::vae(&config),
            }
        }
    })
}

fn describe(
    component: Component,
    tensors: &BTreeMap<String, TensorView>,
    sizes: Sizes,
) -> ComponentReport {
    let mut dtypes = BTreeMap::new();
    for view in tensors.values() {
        *dtypes.entry(format!("{:?}", view.dtype())).or_default() += 1;
    }
    ComponentReport {
        key_style: key_style(component, tensors).to_owned(),
        blocks: sizes.blocks,
        tensors: tensors.len(),
        bytes: tensors.values().map(|view| view.bytes().len()).sum(),
        dtypes,
        sizes: sizes.named,
        shapes: tensors
            .iter()
            .map(|(name, view)| (name.clone(), view.shape().to_vec()))
            .collect(),
    }
}

/// Told by what the stored names have before or in place of the canonical ones.
fn key_style(component: Component, tensors: &BTreeMap<String, TensorView>) -> &'static str {
    let stored = |mark: &str| tensors.values().any(|view| view.name().starts_with(mark));
    match component {
        Component::Transformer if stored("model.diffusion_model.") => "comfyui-aio",
        // Diffusers and ComfyUI's single files name the transformer alike.
        Component::Transformer => "diffusers",
        Component::TextEncoder if stored("text_encoders.") => "comfyui-aio",
        Component::TextEncoder if stored("model.language_model.") => "transformers-5",
        Component::TextEncoder => "transformers",
        Component::Vae if stored("vae.") => "comfyui-aio",
        Component::Vae if stored("decoder.upsamples.") => "wan",
        Component::Vae => "diffusers",
    }
}

/// Holds the tensors against the list of those that there must be.
fn compare(
    component: Component,
    tensors: &BTreeMap<String, TensorView>,
    expected: &[Expected],
    markers: &Markers,
    faults: &mut Vec<Fault>,
) {
    let mut known = BTreeSet::new();
    for (name, shape) in expected {
        known.insert(name.as_str());
        match tensors.get(name) {
            None => faults.push(Fault {
                tensor: name.clone(),
                kind: FaultKind::Missing,
                message: format!("the {component} needs `{name}` {shape:?}, which is not there"),
            }),
            Some(view) => {
                let shape = markers.stored_shape(view, shape);
                if view.shape() != shape {
                    faults.push(Fault {
                        tensor: view.name().to_owned(),
                        kind: FaultKind::WrongShape,
                        message: format!(
                            "it has shape {:?}, the {component} needs {shape:?}",
                            view.shape()
                        ),
                    });
                }
            }
        }
    }
    for (name, view) in tensors {
        let known = known.contains(name.as_str())
            || inventory::is_optional(name)
            || markers::layer_of(name)
                .is_some_and(|layer| known.contains(format!("{layer}.weight").as_str()));
        // A marker without its weight has a fault of its own.
        if !known && !name.ends_with(".comfy_quant") {
            faults.push(unknown(view.name(), &format!("the {component}")));
        }
    }
}

fn unknown(name: &str, of: &str) -> Fault {
    Fault {
        tensor: name.to_owned(),
        kind: FaultKind::Unknown,
        message: format!("no tensor of {of} has this name"),
    }
}

fn misaligned(view: &TensorView) -> Option<Fault> {
    let width = (view.dtype().bitsize() / 8).max(1);
    (!view.offset().is_multiple_of(width)).then(|| Fault {
        tensor: view.name().to_owned(),
        kind: FaultKind::Misaligned,
        message: format!(
            "its {:?} numbers begin at byte {}, which is no multiple of {width}; save the file again",
            view.dtype(),
            view.offset()
        ),
    })
}
