//! The scales and the record beside one weight, under every spelling, checked.

use std::collections::BTreeMap;

use safetensors::Dtype;

use super::error::ConvertError;
use super::source::{Format, Layer};
use crate::checkpoint::markers::{
    self, Carrier, INPUT_SCALE, Record, WEIGHT_SCALE, WEIGHT_SCALE_2,
};
use crate::checkpoint::{Component, TensorView};
use crate::numerics::nvfp4::BLOCK;
use crate::numerics::swizzle;

/// A weight among all tensors of its checkpoint.
pub(super) struct Companions<'a> {
    /// By stored name.
    pub stored: &'a BTreeMap<&'a str, &'a TensorView>,
    /// The weight's stored name without `.weight`.
    pub layer: &'a str,
    pub view: &'a TensorView,
}

impl Companions<'_> {
    /// The layer with its format and scales.
    ///
    /// # Errors
    /// A record that does not fit the weight, a scale that is missing or no positive number, two spellings of one scale.
    pub fn layer(
        &self,
        component: Component,
        canonical: &str,
        record: Option<&Record>,
    ) -> Result<Layer, ConvertError> {
        let word = record.map(|r| r.format.as_str());
        let format = match (self.view.dtype(), word) {
            (dtype @ (Dtype::F32 | Dtype::F16 | Dtype::BF16), None) => Format::Dense(dtype),
            (Dtype::F8_E4M3, None | Some("float8_e4m3fn")) => Format::E4m3,
            (Dtype::F8_E5M2, None | Some("float8_e5m2")) => Format::E5m2,
            (Dtype::U8, Some("nvfp4")) => Format::Nvfp4,
            (dtype, Some(word)) => {
                return Err(self.refuse(format!(
                    "its record says `{word}` but its weight is {dtype:?}; `inspect` lists what is wrong with the file"
                )));
            }
            (dtype, None) => {
                return Err(self.refuse(format!(
                    "its weight is {dtype:?} and nothing says how to read that"
                )));
            }
        };
        let nvfp4 = match format {
            Format::Nvfp4 => Some(self.nvfp4()?),
            _ => None,
        };
        let weight_scale = match format {
            Format::Nvfp4 => None,
            _ => self.number(&WEIGHT_SCALE)?,
        };
        if let (Format::Dense(dtype), Some(_)) = (&format, weight_scale) {
            return Err(self.refuse(format!(
                "it has a weight scale but its weight is {dtype:?}; the file mixes two checkpoints"
            )));
        }
        let input_scale = self.number(&INPUT_SCALE)?;
        Ok(Layer {
            component,
            stored: self.layer.to_owned(),
            canonical: canonical.to_owned(),
            weight: self.view.clone(),
            format,
            weight_scale,
            // ComfyUI drops a 1 that comes with the older marker: it means "none".
            input_scale: match record.map(|r| r.carrier) {
                Some(Carrier::Legacy) => input_scale.filter(|s| *s != 1.0),
                _ => input_scale,
            },
            nvfp4,
            full_precision: record.is_some_and(|r| r.full_precision_matrix_mult),
        })
    }

    /// Block scales and the tensor's scale.
    fn nvfp4(&self) -> Result<(TensorView, f32), ConvertError> {
        let Some(scales) = self.find(WEIGHT_SCALE[0]) else {
            return Err(self.refuse("it is NVFP4 without `weight_scale`".to_owned()));
        };
        let (rows, packed) = (self.view.shape()[0], self.view.shape()[1]);
        let expected = swizzle::padded(rows, packed / (BLOCK / 2));
        if scales.shape() != expected || !matches!(scales.dtype(), Dtype::F8_E4M3 | Dtype::U8) {
            return Err(self.refuse(format!(
                "its block scales are {:?} {:?}, E4M3 {expected:?} was expected",
                scales.dtype(),
                scales.shape()
            )));
        }
        match self.number(&[WEIGHT_SCALE_2])? {
            Some(scale_2) => Ok((scales.clone(), scale_2)),
            None => Err(self.refuse("it is NVFP4 without `weight_scale_2`".to_owned())),
        }
    }

    /// A scale of one number under any of its spellings.
    fn number(&self, spellings: &[&str]) -> Result<Option<f32>, ConvertError> {
        markers::scale(spellings, |part| self.find(part).cloned()).map_err(|e| self.refuse(e))
    }

    fn find(&self, part: &str) -> Option<&TensorView> {
        self.stored
            .get(format!("{}.{part}", self.layer).as_str())
            .copied()
    }

    fn refuse(&self, reason: String) -> ConvertError {
        ConvertError::Layer {
            path: self.view.file().path().to_owned(),
            layer: self.layer.to_owned(),
            reason,
        }
    }
}
