//! A weight `[out, in]` as it is stored, and how its rows become F32.
//!
//! Precision ends here: what multiplies sees floats, and the model sees neither.

use std::ops::Range;

use safetensors::Dtype;

use super::matmul::driver::{Extent, Finish};
use super::matmul::float;
use crate::checkpoint::{Activations, Adapter, CheckpointError, Encoding, TensorView, Weights};
use crate::numerics::machine::Machine;
use crate::numerics::nvfp4::{self, BLOCK};
use crate::numerics::swizzle;

/// A weight as stored, with what is needed to use it.
pub enum Weight {
    /// F32, F16 or BF16.
    Dense(TensorView),
    /// FP8 times a scale.
    Fp8 {
        /// `[out, in]`.
        codes: TensorView,
        /// Multiplies all of them.
        scale: f32,
    },
    /// E2M1, two to a byte, times block scales times a scale.
    Nvfp4 {
        /// `[out, in / 2]`, the even column in the high half.
        codes: TensorView,
        /// E4M3, in 128 x 4 tiles.
        scales: TensorView,
        /// Multiplies everything.
        scale_2: f32,
    },
}

/// In which precision a layer's activations meet its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Input {
    /// F32; the weight is widened.
    F32,
    /// E4M3 under this scale, or under amax / 448.
    Fp8(Option<f32>),
    /// NVFP4 under this scale, or under amax / 2688.
    Nvfp4(Option<f32>),
}

impl Weight {
    /// Loads `weight` `[out, in]` from under the prefix of `layer`, and tells how its activations are to be quantized.
    ///
    /// # Errors
    /// A missing or misshapen tensor, or an encoding that cannot be read.
    pub fn load(
        layer: &Weights,
        out: usize,
        input: usize,
    ) -> Result<(Self, Input), CheckpointError> {
        let view = layer.get("weight").ok_or_else(|| layer.missing("weight"))?;
        // The encoding first: a packed format has another shape, and deserves the better message.
        let encoding = Encoding::of(layer, &view)?;
        if matches!(encoding, Encoding::Nvfp4 { .. }) && !input.is_multiple_of(BLOCK) {
            return Err(CheckpointError::Quantization {
                path: view.file().path().to_owned(),
                layer: layer.full(""),
                reason: format!(
                    "it is NVFP4 but its rows of {input} are not whole blocks of {BLOCK}; keep this layer in FP8 and convert again"
                ),
            });
        }
        let stored = match encoding {
            Encoding::Nvfp4 { .. } => [out, input / 2],
            _ => [out, input],
        };
        let codes = layer.view("weight", &stored)?;
        let precision = precision(layer, &encoding, &codes);
        let weight = match encoding {
            Encoding::Dense => Self::Dense(codes),
            Encoding::Fp8 { weight_scale, .. } => Self::Fp8 {
                codes,
                scale: weight_scale,
            },
            Encoding::Nvfp4 {
                weight_scale,
                weight_scale_2,
                ..
            } => Self::Nvfp4 {
                codes,
                scales: weight_scale,
                scale_2: weight_scale_2,
            },
        };
        Ok((weight, precision))
    }

    /// What the numbers of [`Self::widen_row`] are still to be multiplied with.
    pub fn scale(&self) -> f32 {
        match self {
            Self::Fp8 { scale, .. } => *scale,
            // Block scales are applied one by one, and this one with them.
            Self::Dense(_) | Self::Nvfp4 { .. } => 1.0,
        }
    }

    /// The numbers where they lie, if they are F32.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match self {
            Self::Dense(view) => view.as_f32(),
            _ => None,
        }
    }

    /// The codes if they are E4M3.
    pub fn as_e4m3(&self) -> Option<&[u8]> {
        match self {
            Self::Fp8 { codes, .. } if codes.dtype() == Dtype::F8_E4M3 => Some(codes.bytes()),
            _ => None,
        }
    }

    /// The stored bytes of the numbers.
    pub fn codes(&self) -> &[u8] {
        match self {
            Self::Dense(view) => view.bytes(),
            Self::Fp8 { codes, .. } | Self::Nvfp4 { codes, .. } => codes.bytes(),
        }
    }

    /// Columns `columns` of row `row` of `k` numbers as F32 into `out`. Columns begin at a block of 16.
    ///
    /// # Errors
    /// Where the stored type is not a float.
    ///
    /// # Panics
    /// Where the row lies outside of the weight, or `out` is not as long: the caller's arithmetic is wrong.
    pub fn widen_row(
        &self,
        row: usize,
        k: usize,
        columns: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), CheckpointError> {
        match self {
            Self::Dense(view) | Self::Fp8 { codes: view, .. } => {
                view.widen(row * k + columns.start..row * k + columns.end, out)
            }
            Self::Nvfp4 {
                codes,
                scales,
                scale_2,
            } => {
                let (codes, scales) = (codes.bytes(), scales.bytes());
                let mut some = [0; SCALES_AT_ONCE];
                let parts = out.chunks_mut(SCALES_AT_ONCE * BLOCK).enumerate();
                for (part, out) in parts {
                    let first = columns.start / BLOCK + part * SCALES_AT_ONCE;
                    let some = &mut some[..out.len() / BLOCK];
                    for (i, scale) in some.iter_mut().enumerate() {
                        *scale = scales[swizzle::offset(row, first + i, k / BLOCK)];
                    }
                    let at = (row * k + first * BLOCK) / 2;
                    nvfp4::dequantize(&codes[at..at + out.len() / 2], some, *scale_2, out);
                }
                Ok(())
            }
        }
    }
}

/// Block scales that are put in order at a time.
const SCALES_AT_ONCE: usize = 16;

/// How the layer's activations are quantized: not at all without a record, as in ComfyUI; E5M2 has no product of its own.
fn precision(layer: &Weights, encoding: &Encoding, weight: &TensorView) -> Input {
    let is_static = layer.activations() == Activations::Static;
    match encoding {
        Encoding::Fp8 {
            input_scale,
            quantizes_input,
            ..
        } if layer.quantizes_input(*quantizes_input) && weight.dtype() == Dtype::F8_E4M3 => {
            Input::Fp8(is_static.then_some(input_scale.unwrap_or(1.0)))
        }
        Encoding::Nvfp4 {
            input_scale,
            quantizes_input,
            ..
        } if layer.quantizes_input(*quantizes_input) => {
            Input::Nvfp4(input_scale.filter(|_| is_static))
        }
        _ => Input::F32,
    }
}

/// A low-rank term beside a weight, its two matrices as stored.
pub struct LowRankWeight {
    /// `[rank, in]`.
    pub down: Weight,
    /// `[out, rank]`.
    pub up: Weight,
    /// Multiplies both.
    pub scale: f32,
    /// Columns in between.
    pub rank: usize,
}

impl LowRankWeight {
    /// The term that an adapter stands for; its shapes were checked when it was opened.
    pub fn new(adapter: &Adapter) -> Self {
        Self {
            down: Weight::Dense(adapter.down.clone()),
            up: Weight::Dense(adapter.up.clone()),
            scale: adapter.scale,
            rank: adapter.down.shape()[0],
        }
    }

    /// Adds `scale * x down^T up^T` to `out` `[m, n]`; `x` is `[m, k]`.
    ///
    /// # Errors
    /// Where the adapter's stored type is not a float.
    pub(crate) fn add(
        &self,
        machine: Machine,
        x: &[f32],
        extent: Extent,
        out: &mut [f32],
    ) -> Result<(), CheckpointError> {
        let Extent { m, n, k } = extent;
        let rank = self.rank;
        let finish = Finish {
            alpha: self.scale,
            bias: None,
            gelu: false,
            adds: false,
        };
        let mut hidden = vec![0.0; m * rank];
        let down = (&self.down, Extent { m, n: rank, k });
        float::multiply(machine, x, down, &finish, &mut hidden)?;
        let up = (&self.up, Extent { m, n, k: rank });
        let finish = Finish {
            alpha: 1.0,
            adds: true,
            ..finish
        };
        float::multiply(machine, &hidden, up, &finish, out)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::{Device, Tensor};
    use safetensors::Dtype;

    use super::super::Linear;
    use crate::checkpoint::{Activations, Weights};
    use crate::context::Cx;

    /// The row of 32 numbers of comfy-kitchen's eager backend that the format's worked example gives: codes
    /// `1a 2b ..`, block scales 0x7E and 0x62, `weight_scale_2` = 1.6 / 2688.
    #[test]
    fn an_nvfp4_layer_multiplies_what_it_decodes_to() {
        let codes = [
            0x1a, 0x2b, 0x4c, 0x5d, 0x5e, 0x6e, 0x6f, 0x7f, 0x09, 0x2b, 0x3c, 0x5d, 0x5e, 0x6e,
            0x7f, 0x7f,
        ];
        let mut scales = vec![0u8; 512];
        (scales[0], scales[1]) = (0x7e, 0x62);
        let record = br#"{"format": "nvfp4"}"#.to_vec();
        let layer = |record: Vec<u8>, scales: Vec<u8>| {
            Weights::in_memory(&[
                ("l.weight", Dtype::U8, &[1, 16], codes.to_vec()),
                ("l.weight_scale", Dtype::F8_E4M3, &[128, 4], scales),
                (
                    "l.weight_scale_2",
                    Dtype::F32,
                    &[],
                    (1.6f32 / 2688.0).to_le_bytes().to_vec(),
                ),
                ("l.comfy_quant", Dtype::U8, &[record.len()], record),
            ])
            .unwrap()
        };
        let w = layer(record.clone(), scales.clone());
        let widened = w.with_activations(Activations::None);
        let linear = Linear::load(&widened.pp("l"), 1, 32, false).unwrap();
        assert!(w.unclaimed().is_empty());
        let decoded: Vec<f32> = (0..32)
            .map(|i| {
                let mut x = vec![0.0f32; 32];
                x[i] = 1.0;
                let x = Tensor::from_vec(x, (1, 32), &Device::Cpu).unwrap();
                let y = linear.forward(&x, &Cx::default()).unwrap();
                y.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]
            })
            .collect();
        // What a code of 1 is worth in each block, from the same example.
        let (block_0, block_1) = (f32::from_bits(0x3e88_8889), f32::from_bits(0x3cc3_0c31));
        let values = [0.5, -1.0, 1.0, -1.5, 2.0, -2.0, 3.0, -3.0];
        assert_eq!(decoded[..8], values.map(|v| v * block_0));
        assert_eq!(decoded[16..20], [0.0, -0.5, 1.0, -1.5].map(|v| v * block_1));
        scales[1] = 0x7f;
        let nan = layer(record, scales);
        let error = Linear::load(&nan.pp("l"), 1, 32, false).err().unwrap();
        assert!(error.to_string().contains("NaN"), "{error}");
    }

    /// Rows that end within a block have no scale for their end.
    #[test]
    fn nvfp4_rows_are_whole_blocks() {
        let record = br#"{"format": "nvfp4"}"#.to_vec();
        for input in [24, 25, 33] {
            let w = Weights::in_memory(&[
                ("l.weight", Dtype::U8, &[1, input / 2], vec![0; input / 2]),
                ("l.weight_scale", Dtype::F8_E4M3, &[128, 4], vec![0x38; 512]),
                (
                    "l.weight_scale_2",
                    Dtype::F32,
                    &[],
                    1f32.to_le_bytes().to_vec(),
                ),
                ("l.comfy_quant", Dtype::U8, &[record.len()], record.clone()),
            ]);
            let error = Linear::load(&w.unwrap().pp("l"), 1, input, false)
                .err()
                .unwrap();
            assert!(error.to_string().contains("whole blocks of 16"), "{error}");
        }
    }
}
