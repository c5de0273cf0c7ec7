//! In which format a linear layer is stored: read from its marker and the tensors beside its weight, never guessed.
//!
//! The spellings are ComfyUI's: `weight_scale` (also the older `scale_weight`), `input_scale` (also
//! `scale_input`), and a record in any of the carriers that [`Markers`](super::markers::Markers) knows.

use safetensors::Dtype;
use serde::Deserialize;

use super::markers::{
    self, Carrier, INPUT_SCALE, RECORD, Record, WEIGHT_SCALE, WEIGHT_SCALE_2, record_of,
};
use super::{CheckpointError, TensorView, Weights};
use crate::numerics::nvfp4::BLOCK;
use crate::numerics::swizzle;

/// How a linear layer's weight is to be read.
#[derive(Clone)]
pub enum Encoding {
    /// F32, F16 or BF16: the numbers themselves.
    Dense,
    /// FP8 numbers times one scale.
    Fp8 {
        /// Multiplies the stored values; 1 where the file has no scale at all (a plain cast, as in Qwen-Rapid-AIO).
        weight_scale: f32,
        /// Static activation scale, where the file brings one.
        input_scale: Option<f32>,
        /// Whether a record lets the product itself be computed in FP8; without one ComfyUI only widens the weight.
        quantizes_input: bool,
    },
    /// E2M1 numbers, two to a byte, times block scales, times one scale.
    Nvfp4 {
        /// E4M3 block scales in 128 x 4 tiles.
        weight_scale: TensorView,
        /// Multiplies everything.
        weight_scale_2: f32,
        /// Static activation scale, where the file brings one.
        input_scale: Option<f32>,
        /// Whether the product itself may be computed in NVFP4: the record does not ask for full precision.
        quantizes_input: bool,
    },
}

/// How activations are quantized for layers whose format quantizes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activations {
    /// With the file's `input_scale`. Where there is none: NVFP4 with the activation's own amax, FP8 with a scale of 1,
    /// as ComfyUI does.
    #[default]
    Static,
    /// With the activation's own amax, whatever the file says.
    Dynamic,
    /// Not at all: weights are widened and multiplied with F32 activations.
    None,
}

impl Activations {
    /// The word for it on command lines and in files.
    pub fn word(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Dynamic => "dynamic",
            Self::None => "none",
        }
    }
}

impl Encoding {
    /// Reads the encoding of the layer under the prefix of `layer`.
    ///
    /// # Errors
    /// [`CheckpointError::Quantization`] where a record or a scale does not fit the weight, is not finite and
    /// positive, or a record asks for a scale that is not there.
    pub fn of(layer: &Weights, weight: &TensorView) -> Result<Self, CheckpointError> {
        let refuse = |reason: String| CheckpointError::Quantization {
            path: weight.file().path().to_owned(),
            layer: layer.full(""),
            reason,
        };
        let scale =
            |spellings: &[&str]| markers::scale(spellings, |part| layer.get(part)).map_err(refuse);
        let record = match layer.get(RECORD) {
            Some(view) => Some(record_of(&view).map_err(refuse)?),
            None => layer.record().cloned(),
        };
        let format = record.as_ref().map(|r| r.format.as_str());
        let quantizes_input = record.as_ref().is_some_and(Record::quantizes_input);
        let input_scale = scale(&INPUT_SCALE)?;
        match (weight.dtype(), format) {
            (Dtype::U8, Some("nvfp4")) => {
                return Ok(Self::Nvfp4 {
                    weight_scale: block_scales(layer, weight).map_err(refuse)?,
                    weight_scale_2: scale(&[WEIGHT_SCALE_2])?.ok_or_else(|| {
                        refuse(
                            "it is NVFP4 but there is no `weight_scale_2`; convert the file again"
                                .to_owned(),
                        )
                    })?,
                    input_scale,
                    quantizes_input,
                });
            }
            (dtype, Some("nvfp4")) => {
                return Err(refuse(format!(
                    "its record says `nvfp4` but its weight is {dtype:?}"
                )));
            }
            _ => {}
        }
        let weight_scale = scale(&WEIGHT_SCALE)?;
        match (weight.dtype(), format) {
            (Dtype::F32 | Dtype::F16 | Dtype::BF16, None) => match weight_scale {
                None => Ok(Self::Dense),
                Some(_) => Err(refuse(format!(
                    "it has a weight scale but its weight is {:?}; the file mixes two checkpoints",
                    weight.dtype()
                ))),
            },
            (Dtype::F8_E4M3, None | Some("float8_e4m3fn"))
            | (Dtype::F8_E5M2, None | Some("float8_e5m2")) => match (weight_scale, format) {
                (None, Some(format)) => Err(refuse(format!(
                    "its record says `{format}` but there is no `weight_scale`; convert the file again"
                ))),
                (scale, _) => Ok(Self::Fp8 {
                    weight_scale: scale.unwrap_or(1.0),
                    // ComfyUI drops a 1 that comes with the older marker: it means "none".
                    input_scale: match record.as_ref().map(|r| r.carrier) {
                        Some(Carrier::Legacy) => input_scale.filter(|s| *s != 1.0),
                        _ => input_scale,
                    },
                    quantizes_input,
                }),
            },
            (dtype, Some(format)) => Err(refuse(format!(
                "its record says `{format}` but its weight is {dtype:?}"
            ))),
            (dtype, None) => Err(refuse(format!(
                "its weight is {dtype:?} and nothing says how to read that"
            ))),
        }
    }
}

/// The block scales of an NVFP4 weight `[out, in / 2]`.
fn block_scales(layer: &Weights, weight: &TensorView) -> Result<TensorView, String> {
    let view = layer
        .get(WEIGHT_SCALE[0])
        .ok_or("it is NVFP4 but there is no `weight_scale`; convert the file again")?;
    let [rows, packed] = weight.shape() else {
        return Err(format!("its weight has shape {:?}", weight.shape()));
    };
    let expected = swizzle::padded(*rows, packed / (BLOCK / 2));
    if view.shape() != expected || !matches!(view.dtype(), Dtype::F8_E4M3 | Dtype::U8) {
        return Err(format!(
            "its block scales are {:?} {:?}, E4M3 {expected:?} was expected; convert the file again",
            view.dtype(),
            view.shape()
        ));
    }
    // Both NaN codes differ from every number in all seven bits below the sign.
    match view.bytes().iter().position(|code| code & 0x7f == 0x7f) {
        None => Ok(view),
        Some(at) => Err(format!(
            "`{}` is NaN at {at}; convert the file again from its source",
            view.name()
        )),
    }
}
