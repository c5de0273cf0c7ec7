//! The linear layer: `y = x W^T + b`. Precision lives here, in the weight, and nowhere else in the model.
//!
//! The weight stays where it is stored (the memory map); it is widened to F32 a panel of rows at a time,
//! just before the panel is multiplied.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Tensor};

use super::gemm::{self, Rows};
use crate::checkpoint::{CheckpointError, Encoding, TensorView, Weights};
use crate::context::Cx;

/// A weight as stored, with what is needed to use it.
enum Weight {
    /// F32, F16 or BF16.
    Dense(TensorView),
    /// FP8 times a scale.
    Fp8 { codes: TensorView, scale: f32 },
}

/// A linear layer `[.., in] -> [.., out]` under its checkpoint name.
pub struct Linear {
    name: String,
    weight: Weight,
    bias: Option<Vec<f32>>,
    out_features: usize,
    in_features: usize,
}

impl Linear {
    /// Loads `weight` `[out, in]` and, if `bias`, `bias` `[out]` from under the prefix of `layer`.
    ///
    /// # Errors
    /// A missing or misshapen tensor, or an encoding that cannot be read.
    pub fn load(
        layer: &Weights,
        out_features: usize,
        in_features: usize,
        bias: bool,
    ) -> Result<Self, CheckpointError> {
        let view = layer
            .get("weight")
            .ok_or_else(|| layer.missing("weight"))?;
        // The encoding first: a packed format has another shape, and deserves the better message.
        let encoding = Encoding::of(layer, &view)?;
        let view = layer.view("weight", &[out_features, in_features])?;
        let weight = match encoding {
            Encoding::Dense => Weight::Dense(view),
            Encoding::Fp8 { weight_scale, .. } => Weight::Fp8 {
                codes: view,
                scale: weight_scale,
            },
        };
        let bias = match bias {
            true => Some(layer.view("bias", &[out_features])?.to_f32()?),
            false => None,
        };
        Ok(Self {
            name: layer.full(""),
            weight,
            bias,
            out_features,
            in_features,
        })
    }

    /// The layer's name in its component (`transformer_blocks.0.attn.to_q`).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Output width.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// `x` `[.., in]` F32 to `[.., out]` F32.
    ///
    /// # Errors
    /// Where the last dimension of `x` is not `in`, or `x` is not F32.
    pub fn forward(&self, x: &Tensor, cx: &Cx) -> candle_core::Result<Tensor> {
        cx.observer.linear_input(&self.name, x);
        x.contiguous()?.apply_op1_no_bwd(&Apply(self))
    }
}

struct Apply<'a>(&'a Linear);

impl CustomOp1 for Apply<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let linear = self.0;
        let mut shape = layout.dims().to_vec();
        if shape.last() != Some(&linear.in_features) || storage.dtype() != DType::F32 {
            candle_core::bail!(
                "{}: the input is {:?} {shape:?}, F32 [.., {}] was expected",
                linear.name,
                storage.dtype(),
                linear.in_features
            );
        }
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("{}: the input is not contiguous", linear.name);
        };
        let x = &storage.as_slice::<f32>()?[start..end];
        let m = x.len() / linear.in_features;
        let mut out = vec![0.0; m * linear.out_features];
        let rows = match &linear.weight {
            Weight::Dense(view) => Rows {
                view,
                scale: 1.0,
                n: linear.out_features,
                k: linear.in_features,
            },
            Weight::Fp8 { codes, scale } => Rows {
                view: codes,
                scale: *scale,
                n: linear.out_features,
                k: linear.in_features,
            },
        };
        gemm::matmul_nt(x, &rows, linear.bias.as_deref(), &mut out)
            .map_err(|e| candle_core::Error::wrap(e).context(linear.name.clone()))?;
        if let Some(last) = shape.last_mut() {
            *last = linear.out_features;
        }
        Ok((CpuStorage::F32(out), shape.into()))
    }
}
