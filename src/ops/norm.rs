//! Norms over the last dimension, each fused with what follows it, so that a row is read once.

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::operand;
use super::rows::LinearInput;
use super::simd::{self, multiversion};

multiversion! {
    fn rms_row(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let mean = simd::sum_by(x, |v| v * v) / x.len() as f32;
        let inverse = 1.0 / (mean + eps).sqrt();
        for ((o, v), w) in out.iter_mut().zip(x).zip(weight) {
            *o = *v * inverse * *w;
        }
    }
}

multiversion! {
    fn modulate_row(x: &[f32], shift: &[f32], scale: &[f32], eps: f32, out: &mut [f32]) {
        let mean = simd::sum_by(x, |v| v) / x.len() as f32;
        let variance = simd::sum_by(x, |v| (v - mean) * (v - mean)) / x.len() as f32;
        let inverse = 1.0 / (variance + eps).sqrt();
        for (((o, v), shift), scale) in out.iter_mut().zip(x).zip(shift).zip(scale) {
            *o = (*v - mean) * inverse * (1.0 + *scale) + *shift;
        }
    }
}

/// RMSNorm (Zhang and Sennrich, 2019): `x / sqrt(mean(x^2) + eps) * weight`; `x` `[.., D]`, `weight` `[D]`.
///
/// # Errors
/// Where the shapes do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> candle_core::Result<Tensor> {
    x.contiguous()?
        .apply_op2_no_bwd(&weight.contiguous()?, &RmsNorm { eps: eps as f32 })
}

struct RmsNorm {
    eps: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (x, weight) = (operand(s1, l1)?, operand(s2, l2)?);
        let d = weight.len();
        if l1.dims().last() != Some(&d) {
            candle_core::bail!("rms norm of {:?} by a weight of {d}", l1.dims());
        }
        let mut out = vec![0.0; x.len()];
        out.par_chunks_mut(d)
            .with_min_len(16)
            .zip(x.par_chunks(d))
            .for_each(|(out, x)| rms_row(x, weight, self.eps, out));
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }
}

/// `LN(x) * (1 + scale) + shift` without affine parameters, eps 1e-6: `x` `[B, S, D]`, `shift` and `scale` `[B, D]`
/// (adaptive layer norm of DiT, Peebles and Xie, 2023). Rows are computed as they are read.
///
/// # Errors
/// Where the shapes do not fit.
pub fn layer_norm_modulate(
    x: &Tensor,
    shift: &Tensor,
    scale: &Tensor,
) -> candle_core::Result<ModulatedNorm> {
    let (b, s, d) = x.dims3()?;
    if shift.dims() != [b, d] || scale.dims() != [b, d] {
        candle_core::bail!(
            "layer norm of {:?} modulated by {:?} and {:?}",
            x.dims(),
            shift.dims(),
            scale.dims()
        );
    }
    Ok(ModulatedNorm {
        x: x.contiguous()?,
        shift: shift.flatten_all()?.to_vec1()?,
        scale: scale.flatten_all()?.to_vec1()?,
        s,
        d,
    })
}

/// A modulated layer norm that is yet to be computed: [`layer_norm_modulate`].
pub struct ModulatedNorm {
    /// `[B, S, D]`.
    x: Tensor,
    /// `[B, D]`.
    shift: Vec<f32>,
    /// `[B, D]`.
    scale: Vec<f32>,
    /// Rows that share a shift and a scale, and their width.
    s: usize,
    d: usize,
}

impl ModulatedNorm {
    /// All of it, `[B, S, D]`.
    ///
    /// # Errors
    /// Where `x` is not F32 in main memory.
    pub fn tensor(&self) -> candle_core::Result<Tensor> {
        let values = LinearInput::Norm(self).read(|rows| Ok(rows.all().into_owned()))?;
        Tensor::from_vec(values, self.x.shape(), self.x.device())
    }

    /// What is normalised, contiguous.
    pub(crate) fn x(&self) -> &Tensor {
        &self.x
    }

    /// Row `row` `[D]` of the result; `x` is the same row of the input.
    pub(crate) fn row(&self, row: usize, x: &[f32], out: &mut [f32]) {
        let batch = row / self.s;
        let at = batch * x.len()..(batch + 1) * x.len();
        modulate_row(x, &self.shift[at.clone()], &self.scale[at], 1e-6, out);
    }

    /// All rows of the result; `x` are all numbers of the input.
    pub(crate) fn rows(&self, x: &[f32]) -> Vec<f32> {
        let d = self.d.max(1);
        let mut out = vec![0.0; x.len()];
        out.par_chunks_mut(d)
            .with_min_len(16)
            .zip(x.par_chunks(d))
            .enumerate()
            .for_each(|(row, (out, x))| self.row(row, x, out));
        out
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::{Device, Tensor};

    use super::*;

    fn values(shape: &[usize], seed: u32) -> Tensor {
        let n = shape.iter().product::<usize>();
        let v: Vec<f32> = (0..n as u32)
            .map(|i| {
                ((i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) % 2000) as f32 / 700.0
                    - 1.0
            })
            .collect();
        Tensor::from_vec(v, shape, &Device::Cpu).unwrap()
    }

    /// The same formulas through candle's own operators.
    #[test]
    fn fused_norms_equal_their_formulas() {
        for d in [1, 5, 16, 37, 128] {
            let x = values(&[2, 3, d], 1);
            let (shift, scale, w) = (values(&[2, d], 2), values(&[2, d], 3), values(&[d], 4));
            let got = layer_norm_modulate(&x, &shift, &scale).unwrap();
            let got = got.tensor().unwrap();
            let centred = x.broadcast_sub(&x.mean_keepdim(2).unwrap()).unwrap();
            let var = centred.sqr().unwrap().mean_keepdim(2).unwrap();
            let normed = centred
                .broadcast_div(&(var + 1e-6).unwrap().sqrt().unwrap())
                .unwrap();
            let expected = normed
                .broadcast_mul(&(scale + 1.0).unwrap().unsqueeze(1).unwrap())
                .unwrap()
                .broadcast_add(&shift.unsqueeze(1).unwrap())
                .unwrap();
            assert!(largest_difference(&got, &expected) < 2e-5, "layer norm {d}");

            let got = rms_norm(&x, &w, 1e-6).unwrap();
            let ms = x.sqr().unwrap().mean_keepdim(2).unwrap();
            let expected = x
                .broadcast_div(&(ms + 1e-6).unwrap().sqrt().unwrap())
                .unwrap()
                .broadcast_mul(&w)
                .unwrap();
            assert!(largest_difference(&got, &expected) < 2e-5, "rms norm {d}");
        }
    }

    fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
        let d = (a - b).unwrap().abs().unwrap();
        d.flatten_all()
            .unwrap()
            .max(0)
            .unwrap()
            .to_scalar()
            .unwrap()
    }
}
