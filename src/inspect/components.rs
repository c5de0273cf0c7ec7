//! The components of a checkpoint: their sizes, told from shapes and configs, and every tensor that follows from them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::Device;
use safetensors::Dtype;

use super::fault::{FaultKind, Findings};
use super::{ComponentReport, markers};
use crate::checkpoint::gather::Opened;
use crate::checkpoint::markers::{Markers, companion};
use crate::checkpoint::{Component, TensorView, Weights};
use crate::model::ModelError;
use crate::model::config::{TextEncoderConfig, TransformerConfig, VaeConfig};
use crate::model::inventory::{self, Expected, VisionSizes};

/// Describes every component and holds its tensors against those that there must be.
pub(super) fn check(
    opened: &Opened,
    path: &Path,
    records: &Markers,
    found: &mut Findings,
) -> BTreeMap<&'static str, ComponentReport> {
    let mut components = BTreeMap::new();
    for (component, tensors) in &opened.tensors {
        let weights = Weights::new(*component, path, &Device::Cpu, tensors.clone())
            .marked(records.canonical(tensors));
        let sizes = sizes(&weights, opened).unwrap_or_else(|error| {
            found.fault("", FaultKind::Config, error.to_string());
            Sizes::default()
        });
        if sizes.blocks > 0 {
            compare(*component, tensors, &sizes.expected, found);
        }
        components.insert(word(*component), describe(*component, tensors, sizes));
    }
    components
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
    found: &mut Findings,
) {
    let mut known = BTreeSet::new();
    for (name, shape) in expected {
        known.insert(name.as_str());
        match tensors.get(name) {
            None => found.fault(
                name,
                FaultKind::Missing,
                format!(
                    "the {component} needs `{name}` {shape:?}, which is not there; get a complete file"
                ),
            ),
            Some(view) => shapes(component, view, shape, found),
        }
    }
    for (name, view) in tensors {
        if known.contains(name.as_str()) || inventory::is_optional(name) {
            continue;
        }
        match companion(name) {
            // A companion without its weight has a fault of its own.
            Some(_) => {}
            None if markers::is_foreign(name) => markers::foreign(view.name(), found),
            None => unknown(view.name(), &format!("the {component}"), found),
        }
    }
}

/// Holds a stored shape against the model's. Packed weights have two numbers in a byte, and both of their sides are
/// padded to multiples of 16; where they are not, that is another fault.
fn shapes(component: Component, view: &TensorView, shape: &[usize], found: &mut Findings) {
    let [n, k] = shape else {
        return same(component, view, shape, found);
    };
    if view.dtype() != Dtype::U8 || !view.name().ends_with(".weight") {
        return same(component, view, shape, found);
    }
    if view.shape() == [*n, k.div_ceil(2)] {
        return;
    }
    let padded = [*n, *k].map(|side| side.checked_next_multiple_of(16).unwrap_or(side));
    same(component, view, &[padded[0], padded[1] / 2], found);
    if view.shape() == [padded[0], padded[1] / 2] {
        found.advise(
            view.name(),
            FaultKind::PaddedNvfp4,
            format!(
                "it is {n} x {k}, padded to {} x {}: few programs can read that, and nothing is won; keep this layer in FP8 or BF16",
                padded[0], padded[1]
            ),
        );
    }
}

fn same(component: Component, view: &TensorView, shape: &[usize], found: &mut Findings) {
    if view.shape() != shape {
        found.fault(
            view.name(),
            FaultKind::WrongShape,
            format!(
                "it has shape {:?}, the {component} needs {shape:?}; it is another model's, get the file again",
                view.shape()
            ),
        );
    }
}

/// A tensor that `of` does not have.
pub(super) fn unknown(name: &str, of: &str, found: &mut Findings) {
    found.fault(
        name,
        FaultKind::Unknown,
        format!("no tensor of {of} has this name; it is ignored, remove it or get the file again"),
    );
}
