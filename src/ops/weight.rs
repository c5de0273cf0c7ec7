//! A weight `[out, in]` as it is stored, and how its rows become F32.
//!
//! Precision ends here: what multiplies sees floats, and the model sees neither.

use std::ops::Range;

use crate::checkpoint::{Adapter, CheckpointError, Encoding, TensorView, Weights};
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

impl Weight {
    /// Loads `weight` `[out, in]` from under the prefix of `layer`.
    ///
    /// # Errors
    /// A missing or misshapen tensor, or an encoding that cannot be read.
    pub fn load(layer: &Weights, out: usize, input: usize) -> Result<Self, CheckpointError> {
        let view = layer.get("weight").ok_or_else(|| layer.missing("weight"))?;
        // The encoding first: a packed format has another shape, and deserves the better message.
        let encoding = Encoding::of(layer, &view)?;
        let stored = match encoding {
            Encoding::Nvfp4 { .. } => [out, input / 2],
            _ => [out, input],
        };
        let codes = layer.view("weight", &stored)?;
        Ok(match encoding {
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
        })
    }

    /// What the numbers of [`Self::widen`] and [`Self::as_f32`] are still to be multiplied with.
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

    /// Rows `rows` of `k` numbers as F32 into `out` `[rows, k]`.
    ///
    /// # Errors
    /// Where the stored type is not a float.
    ///
    /// # Panics
    /// Where the rows lie outside of the weight, or `out` is not their size: the caller's arithmetic is wrong.
    pub fn widen(
        &self,
        rows: Range<usize>,
        k: usize,
        out: &mut [f32],
    ) -> Result<(), CheckpointError> {
        match self {
            Self::Dense(view) | Self::Fp8 { codes: view, .. } => {
                view.widen(rows.start * k..rows.end * k, out)
            }
            Self::Nvfp4 {
                codes,
                scales,
                scale_2,
            } => {
                let columns = k / BLOCK;
                let (codes, scales) = (codes.bytes(), scales.bytes());
                let mut row_scales = vec![0; columns];
                for (row, out) in rows.zip(out.chunks_exact_mut(k)) {
                    for (column, scale) in row_scales.iter_mut().enumerate() {
                        *scale = scales[swizzle::offset(row, column, columns)];
                    }
                    let codes = &codes[row * k / 2..(row + 1) * k / 2];
                    nvfp4::dequantize(codes, &row_scales, *scale_2, out);
                }
                Ok(())
            }
        }
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
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::{Device, Tensor};
    use safetensors::Dtype;

    use super::super::Linear;
    use crate::context::Cx;
    use crate::ops::linear::tests::weights;

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
            weights(&[
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
        };
        let w = layer(record.clone(), scales.clone());
        let linear = Linear::load(&w.pp("l"), 1, 32, false).unwrap();
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
}
