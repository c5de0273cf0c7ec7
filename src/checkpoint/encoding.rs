//! In which format a linear layer is stored: read from the tensors beside its weight, never guessed.
//!
//! The spellings are ComfyUI's: `weight_scale` (also the older `scale_weight`), `input_scale` (also
//! `scale_input`), and the record `comfy_quant` (U8 JSON, `{"format": "float8_e4m3fn"}`).

use safetensors::Dtype;

use super::{CheckpointError, TensorView, Weights};

/// How a linear layer's weight is to be read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Encoding {
    /// F32, F16 or BF16: the numbers themselves.
    Dense,
    /// FP8 numbers times one scale.
    Fp8 {
        /// Multiplies the stored values; 1 where the file has no scale at all (a plain cast, as in Qwen-Rapid-AIO).
        weight_scale: f32,
        /// Static activation scale, where the file brings one.
        input_scale: Option<f32>,
    },
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
        let scale = |names: [&str; 2]| -> Result<Option<f32>, CheckpointError> {
            let Some(view) = names.iter().find_map(|name| layer.get(name)) else {
                return Ok(None);
            };
            if view.elements() != 1 {
                return Err(refuse(format!(
                    "`{}` has shape {:?}, one number was expected",
                    view.name(),
                    view.shape()
                )));
            }
            let value = view.to_f32()?[0];
            match value.is_finite() && value > 0.0 {
                true => Ok(Some(value)),
                false => Err(refuse(format!(
                    "`{}` is {value}; convert the file again from its source",
                    view.name()
                ))),
            }
        };
        let record = match layer.get("comfy_quant") {
            Some(view) => Some(record_format(&view).map_err(refuse)?),
            None => None,
        };
        let weight_scale = scale(["weight_scale", "scale_weight"])?;
        let input_scale = scale(["input_scale", "scale_input"])?;
        match (weight.dtype(), record.as_deref()) {
            (Dtype::F32 | Dtype::F16 | Dtype::BF16, None) => match weight_scale {
                None => Ok(Self::Dense),
                Some(_) => Err(refuse(format!(
                    "it has a weight scale but its weight is {:?}; the file mixes two checkpoints",
                    weight.dtype()
                ))),
            },
            (Dtype::F8_E4M3, None | Some("float8_e4m3fn"))
            | (Dtype::F8_E5M2, None | Some("float8_e5m2")) => match (weight_scale, &record) {
                (None, Some(format)) => Err(refuse(format!(
                    "its record says `{format}` but there is no `weight_scale`; convert the file again"
                ))),
                (scale, _) => Ok(Self::Fp8 {
                    weight_scale: scale.unwrap_or(1.0),
                    input_scale,
                }),
            },
            (Dtype::U8, Some("nvfp4")) => Err(refuse(
                "it is stored as NVFP4, which this version cannot execute; use the FP8 or BF16 file".to_owned(),
            )),
            (dtype, Some(format)) => Err(refuse(format!(
                "its record says `{format}` but its weight is {dtype:?}"
            ))),
            (dtype, None) => Err(refuse(format!(
                "its weight is {dtype:?} and nothing says how to read that"
            ))),
        }
    }
}

/// The `format` of a `comfy_quant` record.
fn record_format(view: &TensorView) -> Result<String, String> {
    let bad = |why: String| format!("its record `{}` {why}", view.name());
    if view.dtype() != Dtype::U8 {
        return Err(bad(format!("is {:?}, not U8 JSON", view.dtype())));
    }
    let record: serde_json::Value = serde_json::from_slice(view.bytes())
        .map_err(|e| bad(format!("is not valid JSON ({e})")))?;
    match record.get("format").and_then(|f| f.as_str()) {
        Some(format) => Ok(format.to_owned()),
        None => Err(bad("names no format".to_owned())),
    }
}
