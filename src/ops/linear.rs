//! The linear layer: `y = x W^T + b`. Precision lives here, in the weight, and nowhere else in the model.
//!
//! The weight stays where it is stored (the memory map) and in its format; what its activations become is decided when
//! it is loaded. Low-rank adapters stay beside it: they are never merged, and see the activations unquantized.

use candle_core::{Device, Storage, Tensor};
use rayon::prelude::*;

use super::matmul::driver::{Extent, Finish};
use super::matmul::{NonFinite, float, fp8, nvfp4};
use super::weight::{Input, LowRankWeight, Weight};
use super::{activation, operand};
use crate::checkpoint::{CheckpointError, Weights};
use crate::context::Cx;

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
    pub fn forward(&self, x: &Tensor, cx: &Cx) -> candle_core::Result<Tensor> {
        self.apply(x, &mut Quantized::default(), false, cx)
    }

    /// [`Self::forward`] followed by GELU in its tanh form, while the outputs are still in the cache.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_gelu(&self, x: &Tensor, cx: &Cx) -> candle_core::Result<Tensor> {
        self.apply(x, &mut Quantized::default(), true, cx)
    }

    /// [`Self::forward`] of several layers with one input, which is quantized once for those that quantize it alike.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_each<const N: usize>(
        layers: [&Self; N],
        x: &Tensor,
        cx: &Cx,
    ) -> candle_core::Result<[Tensor; N]> {
        let x = x.contiguous()?;
        let mut quantized = Quantized::default();
        let mut outputs = Vec::with_capacity(N);
        for layer in layers {
            outputs.push(layer.apply(&x, &mut quantized, false, cx)?);
        }
        outputs
            .try_into()
            .map_err(|_| candle_core::Error::Msg("an output per layer".to_owned()))
    }

    fn apply(
        &self,
        x: &Tensor,
        quantized: &mut Quantized,
        gelu: bool,
        cx: &Cx,
    ) -> candle_core::Result<Tensor> {
        cx.observer.linear_input(&self.name, x);
        let mut shape = x.dims().to_vec();
        if shape.last() != Some(&self.in_features) {
            candle_core::bail!(
                "{}: the input is {shape:?}, [.., {}] was expected",
                self.name,
                self.in_features
            );
        }
        let x = x.contiguous()?;
        let (storage, layout) = x.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            candle_core::bail!("{}: the input is not in main memory", self.name);
        };
        let x = operand(storage, layout)?;
        let mut out = vec![0.0; x.len() / self.in_features.max(1) * self.out_features];
        self.multiply(x, quantized, gelu, (&mut out, cx))
            .map_err(|e| e.in_layer(&self.name))?;
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
        x: &[f32],
        quantized: &mut Quantized,
        gelu: bool,
        to: (&mut [f32], &Cx),
    ) -> Result<(), Fault> {
        let (out, Cx { machine, .. }) = to;
        let extent = Extent {
            m: x.len() / self.in_features.max(1),
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
                let rows = quantized.fp8(self.input, || {
                    fp8::Rows::quantize(*machine, x, extent.k, scale)
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
                let rows = quantized.nvfp4(self.input, || {
                    nvfp4::Rows::quantize(*machine, x, extent.k, scale)
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
            _ => float::multiply(*machine, x, (&self.weight, extent), &finish, out)?,
        }
        for adapter in &self.adapters {
            adapter.add(*machine, x, extent, out)?;
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

impl Quantized {
    fn fp8(
        &mut self,
        input: Input,
        quantize: impl FnOnce() -> Result<fp8::Rows, NonFinite>,
    ) -> Result<&fp8::Rows, NonFinite> {
        reuse(&mut self.fp8, input, quantize)
    }

    fn nvfp4(
        &mut self,
        input: Input,
        quantize: impl FnOnce() -> Result<nvfp4::Rows, NonFinite>,
    ) -> Result<&nvfp4::Rows, NonFinite> {
        reuse(&mut self.nvfp4, input, quantize)
    }
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
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;
    use std::path::Path;

    use candle_core::Device;
    use safetensors::Dtype;
    use safetensors::tensor::TensorView as Plain;

    use super::*;
    use crate::checkpoint::{Component, SafetensorsFile};

    /// A component from (name, dtype, shape, bytes).
    pub(crate) fn weights(tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> Weights {
        let plain: Vec<(&str, Plain<'_>)> = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| {
                (*name, Plain::new(*dtype, shape.to_vec(), bytes).unwrap())
            })
            .collect();
        let bytes: &'static [u8] = safetensors::serialize(plain, None).unwrap().leak();
        let file = SafetensorsFile::from_static("memory", bytes).unwrap();
        let views: BTreeMap<_, _> = file
            .names()
            .map(|n| (n.to_owned(), file.view(n).unwrap()))
            .collect();
        Weights::new(
            Component::Transformer,
            Path::new("memory"),
            &Device::Cpu,
            views,
        )
    }

    fn bytes_of(dtype: Dtype, codes: &[u8]) -> Vec<u8> {
        let values = codes
            .iter()
            .map(|c| crate::numerics::widen::E4M3_TO_F32[usize::from(*c)]);
        match dtype {
            Dtype::F8_E4M3 => codes.to_vec(),
            Dtype::F32 => values.flat_map(f32::to_le_bytes).collect(),
            Dtype::BF16 => values
                .flat_map(|v| half::bf16::from_f32(v).to_le_bytes())
                .collect(),
            _ => values
                .flat_map(|v| half::f16::from_f32(v).to_le_bytes())
                .collect(),
        }
    }

    /// Every stored type of the same numbers gives candle's own product of them, at odd sizes.
    #[test]
    fn every_format_equals_a_plain_product() {
        let cx = Cx::default();
        for (m, n, k) in [(1, 1, 1), (3, 65, 17), (70, 130, 33)] {
            let codes: Vec<u8> = (0..n * k)
                .map(|i| ((i * 37 + i / 7) % 120) as u8 | ((i % 2) << 7) as u8)
                .collect();
            let bias: Vec<f32> = (0..n).map(|i| i as f32 * 0.25).collect();
            let x: Vec<f32> = (0..m * k)
                .map(|i| ((i * 13) % 29) as f32 * 0.125 - 1.5)
                .collect();
            let x = Tensor::from_vec(x, (1, m, k), &Device::Cpu).unwrap();
            let mut outputs = Vec::new();
            for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F8_E4M3] {
                let w = weights(&[
                    ("l.weight", dtype, &[n, k], bytes_of(dtype, &codes)),
                    (
                        "l.bias",
                        Dtype::F32,
                        &[n],
                        bias.iter().flat_map(|b| b.to_le_bytes()).collect(),
                    ),
                ]);
                let linear = Linear::load(&w.pp("l"), n, k, true).unwrap();
                assert_eq!(linear.name(), "l");
                outputs.push(
                    linear
                        .forward(&x, &cx)
                        .unwrap()
                        .flatten_all()
                        .unwrap()
                        .to_vec1::<f32>()
                        .unwrap(),
                );
                let gelu = linear.forward_gelu(&x, &cx).unwrap();
                let expected = linear.forward(&x, &cx).unwrap().gelu().unwrap();
                let difference = (gelu - expected)
                    .unwrap()
                    .abs()
                    .unwrap()
                    .flatten_all()
                    .unwrap();
                assert!(difference.max(0).unwrap().to_scalar::<f32>().unwrap() < 1e-4);
                assert!(w.unclaimed().is_empty());
            }
            assert!(
                outputs.iter().all(|o| o == &outputs[0]),
                "formats differ at {m}x{n}x{k}"
            );
            let dense: Vec<f32> = codes
                .iter()
                .map(|c| crate::numerics::widen::E4M3_TO_F32[usize::from(*c)])
                .collect();
            let dense = Tensor::from_vec(dense, (n, k), &Device::Cpu).unwrap();
            let expected = x.squeeze(0).unwrap().matmul(&dense.t().unwrap()).unwrap();
            let expected = expected
                .broadcast_add(&Tensor::new(bias.as_slice(), &Device::Cpu).unwrap())
                .unwrap();
            let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (a, b) in outputs[0].iter().zip(&expected) {
                assert!(
                    (a - b).abs() <= 1e-5 * (1.0 + b.abs()) * k as f32,
                    "{a} {b}"
                );
            }
        }
    }

    #[test]
    fn fp8_scales_are_applied_and_never_guessed() {
        let one = |v: f32| v.to_le_bytes().to_vec();
        let code = (Dtype::F8_E4M3, &[1usize, 2][..], vec![0x38, 0xb8]);
        let run = |extra: &[(&str, Dtype, &[usize], Vec<u8>)]| {
            let mut all = vec![("l.weight", code.0, code.1, code.2.clone())];
            all.extend_from_slice(extra);
            let linear = Linear::load(&weights(&all).pp("l"), 1, 2, false)?;
            let x = Tensor::new(&[[3.0f32, 1.0]], &Device::Cpu).unwrap();
            let y = linear.forward(&x, &Cx::default()).unwrap();
            Ok::<f32, CheckpointError>(y.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0])
        };
        let record = |json: &str| {
            (
                "l.comfy_quant",
                Dtype::U8,
                json.len(),
                json.as_bytes().to_vec(),
            )
        };
        assert_eq!(run(&[]).unwrap(), 2.0);
        assert_eq!(
            run(&[("l.weight_scale", Dtype::F32, &[], one(0.5))]).unwrap(),
            1.0
        );
        assert_eq!(
            run(&[("l.scale_weight", Dtype::F32, &[1], one(0.25))]).unwrap(),
            0.5
        );
        for (scale, found) in [(0.0, "is 0"), (f32::NAN, "is NaN"), (-1.0, "is -1")] {
            let error = run(&[("l.weight_scale", Dtype::F32, &[], one(scale))]).unwrap_err();
            assert!(error.to_string().contains(found), "{error}");
        }
        let (name, dtype, len, bytes) = record(r#"{"format": "float8_e4m3fn"}"#);
        let error = run(&[(name, dtype, &[len], bytes)]).unwrap_err();
        assert!(error.to_string().contains("no `weight_scale`"), "{error}");
        let (name, dtype, len, bytes) = record(r#"{"format": "nvfp4"}"#);
        let error = run(&[(name, dtype, &[len], bytes)]).unwrap_err();
        assert!(error.to_string().contains("nvfp4"), "{error}");
    }
}
