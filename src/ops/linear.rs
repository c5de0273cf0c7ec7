//! The linear layer: `y = x W^T + b`. Precision lives here, in the weight, and nowhere else in the model.
//!
//! The weight stays where it is stored (the memory map); it is widened to F32 a panel of rows at a time,
//! just before the panel is multiplied.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::gemm::{self, Epilogue, Rows};
use super::operand;
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
        let view = layer.get("weight").ok_or_else(|| layer.missing("weight"))?;
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
        self.apply(x, Epilogue::None, cx)
    }

    /// [`Self::forward`] followed by GELU in its tanh form, while the outputs are still in the cache.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_gelu(&self, x: &Tensor, cx: &Cx) -> candle_core::Result<Tensor> {
        self.apply(x, Epilogue::GeluTanh, cx)
    }

    fn apply(&self, x: &Tensor, epilogue: Epilogue, cx: &Cx) -> candle_core::Result<Tensor> {
        cx.observer.linear_input(&self.name, x);
        let op = Apply {
            linear: self,
            epilogue,
        };
        x.contiguous()?.apply_op1_no_bwd(&op)
    }
}

struct Apply<'a> {
    linear: &'a Linear,
    epilogue: Epilogue,
}

impl CustomOp1 for Apply<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let linear = self.linear;
        let mut shape = layout.dims().to_vec();
        if shape.last() != Some(&linear.in_features) {
            candle_core::bail!(
                "{}: the input is {shape:?}, [.., {}] was expected",
                linear.name,
                linear.in_features
            );
        }
        let x = operand(storage, layout)?;
        let m = x.len() / linear.in_features;
        let mut out = vec![0.0; m * linear.out_features];
        let (view, scale) = match &linear.weight {
            Weight::Dense(view) => (view, 1.0),
            Weight::Fp8 { codes, scale } => (codes, *scale),
        };
        let rows = Rows {
            view,
            scale,
            bias: linear.bias.as_deref(),
            n: linear.out_features,
            k: linear.in_features,
        };
        gemm::matmul_nt(x, &rows, self.epilogue, &mut out)
            .map_err(|e| candle_core::Error::wrap(e).context(linear.name.clone()))?;
        if let Some(last) = shape.last_mut() {
            *last = linear.out_features;
        }
        Ok((CpuStorage::F32(out), shape.into()))
    }
}
