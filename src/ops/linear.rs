//! The linear layer: `y = x W^T + b`. Precision lives here, in the weight, and nowhere else in the model.
//!
//! The weight stays where it is stored (the memory map) and in its format; what its activations become is decided when
//! it is loaded. Low-rank adapters stay beside it: they are never merged, and see the activations unquantized.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::activation;
use super::matmul::driver::{Extent, Finish};
use super::matmul::{NonFinite, float, fp8, nvfp4};
use super::rows::{LinearInput, Rows};
use super::weight::{Input, LowRankWeight, Weight};
use crate::checkpoint::{CheckpointError, Weights};
use crate::context::{Cx, Part};

/// A linear layer `[.., in] -> [.., out]` under its checkpoint name.
pub struct Linear {
    name: String,
    weight: Weight,
    input: Input,
    bias: Option<Vec<f32>>,
    adapters: Vec<LowRankWeight>,
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
        let (weight, input) = Weight::load(layer, out_features, in_features)?;
        let bias = match bias {
            true => Some(layer.view("bias", &[out_features])?.to_f32()?),
            false => None,
        };
        Ok(Self {
            name: layer.full(""),
            weight,
            input,
            bias,
            adapters: layer.adapters().iter().map(LowRankWeight::new).collect(),
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

    /// In which precision activations meet the weight.
    pub fn input(&self) -> Input {
        self.input
    }

    /// `x` `[.., in]` F32 to `[.., out]` F32.
    ///
    /// # Errors
    /// Where the last dimension of `x` is not `in`, `x` is not F32, or a number that is to be quantized is not finite.
    pub fn forward<'a>(
        &self,
        x: impl Into<LinearInput<'a>>,
        cx: &Cx,
    ) -> candle_core::Result<Tensor> {
        let [y] = Self::apply_each([self], x.into(), false, cx)?;
        Ok(y)
    }

    /// [`Self::forward`] followed by GELU in its tanh form, while the outputs are still in the cache.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_gelu<'a>(
        &self,
        x: impl Into<LinearInput<'a>>,
        cx: &Cx,
    ) -> candle_core::Result<Tensor> {
        let [y] = Self::apply_each([self], x.into(), true, cx)?;
        Ok(y)
    }

    /// [`Self::forward`] of several layers with one input, which is quantized once for those that quantize it alike.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_each<'a, const N: usize>(
        layers: [&Self; N],
        x: impl Into<LinearInput<'a>>,
        cx: &Cx,
    ) -> candle_core::Result<[Tensor; N]> {
        Self::apply_each(layers, x.into(), false, cx)
    }

    /// The layers one after the other, each with GELU if `gelu`. A norm becomes a tensor only if somebody needs all of it
    /// in F32: who watches, a layer that quantizes nothing, an adapter.
    fn apply_each<const N: usize>(
        layers: [&Self; N],
        x: LinearInput<'_>,
        gelu: bool,
        cx: &Cx,
    ) -> candle_core::Result<[Tensor; N]> {
        let tensor;
        let only_quantized = || layers.iter().all(|layer| layer.only_quantizes());
        let x = match x {
            LinearInput::Norm(_) if !cx.observer.watches_linears() && only_quantized() => x,
            _ => {
                tensor = x.tensor()?;
                LinearInput::Tensor(&tensor)
            }
        };
        let mut quantized = Quantized::default();
        let mut outputs = Vec::with_capacity(N);
        for layer in layers {
            outputs.push(layer.apply(x, &mut quantized, gelu, cx)?);
        }
        outputs
            .try_into()
            .map_err(|_| candle_core::Error::Msg("an output per layer".to_owned()))
    }

    /// Whether all it does with its input is to quantize it, row by row.
    fn only_quantizes(&self) -> bool {
        self.input != Input::F32 && self.adapters.is_empty()
    }

    /// Which of the transformer's parts its time belongs to.
    fn part(&self) -> Part {
        match self.input {
            Input::F32 => Part::LinearF32,
            Input::Fp8(_) => Part::LinearFp8,
            Input::Nvfp4(_) => Part::LinearNvfp4,
        }
    }

    fn apply(
        &self,
        x: LinearInput<'_>,
        quantized: &mut Quantized,
        gelu: bool,
        cx: &Cx,
    ) -> candle_core::Result<Tensor> {
        if let LinearInput::Tensor(x) = x {
            cx.observer.linear_input(&self.name, x);
        }
        let mut shape = x.dims().to_vec();
        if shape.last() != Some(&self.in_features) {
            candle_core::bail!(
                "{}: the input is {shape:?}, [.., {}] was expected",
                self.name,
                self.in_features
            );
        }
        let out = cx.timed(self.part(), || {
            x.read(|rows| {
                let mut out = vec![0.0; rows.m() * self.out_features];
                self.multiply(rows, quantized, gelu, (&mut out, cx))
                    .map_err(|e| e.in_layer(&self.name))?;
                Ok(out)
            })
        })?;
        if let Some(last) = shape.last_mut() {
            *last = self.out_features;
        }
        let y = Tensor::from_vec(out, shape, &Device::Cpu)?;
        cx.observer.linear_output(&self.name, &y);
        Ok(y)
    }

    /// `out` `[m, out]` of `x` `[m, in]`: the weight's product, then the adapters', then GELU.
    fn multiply(
        &self,
        x: Rows<'_>,
        quantized: &mut Quantized,
        gelu: bool,
        to: (&mut [f32], &Cx),
    ) -> Result<(), Fault> {
        let (out, Cx { machine, .. }) = to;
        let extent = Extent {
            m: x.m(),
            n: self.out_features,
            k: self.in_features,
        };
        let plain = self.adapters.is_empty();
        let finish = Finish {
            alpha: self.weight.scale(),
            bias: self.bias.as_deref(),
            gelu: gelu && plain,
            adds: false,
        };
        match (&self.weight, self.input) {
            (Weight::Fp8 { .. }, Input::Fp8(scale)) => {
                let rows = reuse(&mut quantized.fp8, self.input, || {
                    fp8::Rows::quantize(*machine, x, scale)
                })?;
                rows.multiply(*machine, (&self.weight, extent), &finish, out)?;
            }
            (
                Weight::Nvfp4 {
                    codes,
                    scales,
                    scale_2,
                },
                Input::Nvfp4(scale),
            ) => {
                let rows = reuse(&mut quantized.nvfp4, self.input, || {
                    nvfp4::Rows::quantize(*machine, x, scale)
                })?;
                let stored = nvfp4::Stored {
                    codes: codes.bytes(),
                    scales: scales.bytes(),
                    k: extent.k,
                };
                let finish = Finish {
                    alpha: *scale_2,
                    ..finish
                };
                rows.multiply(*machine, (stored, extent), &finish, out)?;
            }
            _ => float::multiply(*machine, &x.all(), (&self.weight, extent), &finish, out)?,
        }
        for adapter in &self.adapters {
            adapter.add(*machine, &x.all(), extent, out)?;
        }
        if gelu && !plain {
            out.par_chunks_mut(self.out_features.max(1))
                .for_each(activation::gelu_tanh);
        }
        Ok(())
    }
}

/// An activation as it was quantized for the layers before: one of each format.
#[derive(Default)]
struct Quantized {
    fp8: Option<(Input, fp8::Rows)>,
    nvfp4: Option<(Input, nvfp4::Rows)>,
}

/// What is there if it was made for the same `input`, else what `quantize` makes.
fn reuse<T>(
    kept: &mut Option<(Input, T)>,
    input: Input,
    quantize: impl FnOnce() -> Result<T, NonFinite>,
) -> Result<&T, NonFinite> {
    let rows = match kept.take() {
        Some((made_for, rows)) if made_for == input => rows,
        _ => quantize()?,
    };
    Ok(&kept.insert((input, rows)).1)
}

/// What can go wrong in a product.
enum Fault {
    NonFinite(NonFinite),
    Checkpoint(CheckpointError),
}

impl From<NonFinite> for Fault {
    fn from(e: NonFinite) -> Self {
        Self::NonFinite(e)
    }
}

impl From<CheckpointError> for Fault {
    fn from(e: CheckpointError) -> Self {
        Self::Checkpoint(e)
    }
}

impl Fault {
    fn in_layer(self, layer: &str) -> candle_core::Error {
        let context = layer.to_owned();
        let wrapped: Box<dyn std::error::Error + Send + Sync> = match self {
            Self::NonFinite(e) => Box::new(e),
            Self::Checkpoint(e) => Box::new(e),
        };
        candle_core::Error::WrappedContext { wrapped, context }
    }
}

#[cfg(test)]
#[path = "linear_tests.rs"]
mod tests;
