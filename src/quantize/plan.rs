//! `Policy + Checkpoint (+ Calibration) -> Plan`: every decision of a conversion as a value.
//!
//! Only headers, markers and scales are read. What a dry run prints, what the writer executes and what tests assert is
//! the same [`Plan`]; nothing is decided after it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::calibration::Calibration;
use super::draft::Draft;
use super::error::ConvertError;
use super::policy::Policy;
use super::source::Source;
use crate::checkpoint::{Component, NewTensor, TensorView};
use crate::numerics::search::Method;

/// Where the formats of layers are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// A `comfy_quant` tensor beside each weight.
    ComfyQuant,
    /// `_quantization_metadata` in the header.
    Metadata,
    /// Both.
    Both,
}

/// How tensors are named in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// As in the source.
    Keep,
    /// Canonical names without a component's prefix.
    Diffusers,
    /// ComfyUI's all-in-one prefixes.
    Comfy,
}

/// What a conversion is asked besides its policy.
#[derive(Clone, Debug)]
pub struct Options {
    /// How scales are found.
    pub method: Method,
    /// Quantize FP8 to FP8 anew, through F32, as the original pipeline did. Without it such layers keep their bytes.
    pub requantize_fp8: bool,
    /// Where formats are written down.
    pub marker: Marker,
    /// How tensors are named.
    pub keys: Keys,
    /// The components to write.
    pub components: Vec<Component>,
    /// FP8 without a scale means scale 1.
    pub assume_unscaled: bool,
    /// A calibration may come from other weights, as long as its layers are here.
    pub foreign_calibration: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            method: Method::Mse,
            requantize_fp8: false,
            marker: Marker::ComfyQuant,
            keys: Keys::Keep,
            components: Component::ALL.to_vec(),
            assume_unscaled: false,
            foreign_calibration: false,
        }
    }
}

/// What happens to one two-dimensional weight.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerPlan {
    /// Its name in the output, without `.weight`.
    pub name: String,
    /// `[out, in]`.
    pub shape: Vec<usize>,
    /// Its format in the source: `float8_e4m3fn`, `bf16`, ...
    pub from: &'static str,
    /// Its format in the output.
    pub to: &'static str,
    /// The rule that decided, or why none did.
    pub rule: String,
}

/// Layers by what becomes of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// In NVFP4.
    pub nvfp4: usize,
    /// Sent to FP8 by a rule, or two-dimensional FP8 weights of the text encoder.
    pub float8_e4m3fn: usize,
    /// FP8 linears outside of every rule. They get a record, since ComfyUI widens FP8 without one to BF16.
    pub recorded_only: usize,
    /// In the format they had.
    pub kept: usize,
}

/// The work for one or several output tensors, named by their place in [`Plan::outputs`].
#[derive(Clone)]
pub enum Step {
    /// Bytes go over as they are.
    Copy {
        /// The source.
        view: TensorView,
        /// The output.
        to: usize,
    },
    /// FP8 numbers become BF16, which holds them exactly.
    Widen {
        /// The source.
        view: TensorView,
        /// The output.
        to: usize,
    },
    /// A small tensor that the plan knows: a scale, a record.
    Bytes {
        /// Its little-endian bytes.
        bytes: Vec<u8>,
        /// The output.
        to: usize,
    },
    /// A weight becomes NVFP4: codes, block scales, `weight_scale_2`.
    Nvfp4 {
        /// The source, `[out, in]`.
        view: TensorView,
        /// Multiplies the source's numbers.
        weight_scale: f32,
        /// Place in [`Plan::layers`].
        layer: usize,
        /// Outputs: codes, block scales, `weight_scale_2`.
        to: [usize; 3],
    },
    /// A weight becomes FP8: codes, `weight_scale`.
    Fp8 {
        /// The source, `[out, in]`.
        view: TensorView,
        /// Multiplies the source's numbers.
        weight_scale: f32,
        /// Place in [`Plan::layers`].
        layer: usize,
        /// Outputs: codes, `weight_scale`.
        to: [usize; 2],
    },
}

/// A conversion, decided.
pub struct Plan {
    /// How scales are found.
    pub method: Method,
    /// Every two-dimensional weight, in the order of the source's names.
    pub layers: Vec<LayerPlan>,
    /// Layers counted.
    pub counts: Counts,
    /// The tensors of the output.
    pub outputs: Vec<NewTensor>,
    /// How they come about; together the steps write each output once.
    pub steps: Vec<Step>,
    /// Metadata of the output.
    pub metadata: BTreeMap<String, String>,
    /// Bytes of the source's files.
    pub bytes_in: u64,
    /// Bytes of the output.
    pub bytes_out: u64,
    /// What the user should know, a sentence each.
    pub notes: Vec<String>,
}

impl Plan {
    /// Decides.
    ///
    /// # Errors
    /// A weight whose format is not clear, an FP8 weight without a scale (unless that is said to be right), a rule that
    /// cannot be followed, a calibration of another model, two tensors that would have the same name.
    pub fn new(
        source: &Source,
        policy: &Policy,
        calibration: Option<&Calibration>,
        options: &Options,
    ) -> Result<Self, ConvertError> {
        if !options.assume_unscaled {
            source.refuse_unscaled()?;
        }
        if let Some(calibration) = calibration {
            source.covers(calibration, options.foreign_calibration)?;
        }
        let wanted = |c: Component| options.components.contains(&c);
        let mut draft = Draft::new(source, policy, calibration, options);
        for layer in source.layers.iter().filter(|l| wanted(l.component)) {
            draft.layer(layer)?;
        }
        for other in &source.others {
            if other.component.is_none_or(wanted) {
                draft.other(other);
            }
        }
        draft.finish(source)
    }
}
