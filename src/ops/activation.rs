//! Elementwise functions, and the gated residual of a block.

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::operand;
use super::simd::{self, multiversion};

multiversion! {
    /// GELU in its tanh form, in place: `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
    pub(crate) fn gelu_tanh(x: &mut [f32]) {
        for v in x {
            // 0.5 (1 + tanh u) = 1 / (1 + e^-2u)
            let u = 0.797_884_6 * (*v + 0.044_715 * *v * *v * *v);
            *v /= 1.0 + simd::exp(-2.0 * u);
        }
    }
}

multiversion! {
    /// SiLU in place: `x / (1 + e^-x)`.
    pub(crate) fn silu(x: &mut [f32]) {
        for v in x {
            *v /= 1.0 + simd::exp(-*v);
        }
    }
}

/// SiLU of every element.
///
/// # Errors
/// Where `x` is not F32.
pub fn silu_tensor(x: &Tensor) -> candle_core::Result<Tensor> {
    let mut values = x.flatten_all()?.to_vec1::<f32>()?;
    silu(&mut values);
    Tensor::from_vec(values, x.shape(), x.device())
}

multiversion! {
    fn gated_row(x: &[f32], gate: &[f32], y: &[f32], out: &mut [f32]) {
        for (((o, x), g), y) in out.iter_mut().zip(x).zip(gate).zip(y) {
            *o = *x + *g * *y;
        }
    }
}

/// `x + gate * y`: `x` and `y` `[B, S, D]`, `gate` `[B, D]`.
///
/// # Errors
/// Where the shapes do not fit.
pub fn gated_residual(x: &Tensor, gate: &Tensor, y: &Tensor) -> candle_core::Result<Tensor> {
    x.contiguous()?
        .apply_op3_no_bwd(&gate.contiguous()?, &y.contiguous()?, &GatedResidual)
}

struct GatedResidual;

impl CustomOp3 for GatedResidual {
    fn name(&self) -> &'static str {
        "gated-residual"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (x, gate, y) = (operand(s1, l1)?, operand(s2, l2)?, operand(s3, l3)?);
        let (b, s, d) = l1.shape().dims3()?;
        if y.len() != x.len() || gate.len() != b * d {
            candle_core::bail!(
                "gated residual of {:?}, gate {:?}, {:?}",
                l1.dims(),
                l2.dims(),
                l3.dims()
            );
        }
        let mut out = vec![0.0; x.len()];
        out.par_chunks_mut(d)
            .with_min_len(16)
            .enumerate()
            .for_each(|(row, out)| {
                let (at, batch) = (row * d..(row + 1) * d, row / s);
                gated_row(
                    &x[at.clone()],
                    &gate[batch * d..(batch + 1) * d],
                    &y[at],
                    out,
                );
            });
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_follow_their_definitions() {
        let x: Vec<f32> = (-400..400).map(|i| i as f32 * 0.05).collect();
        let (mut g, mut s) = (x.clone(), x.clone());
        gelu_tanh(&mut g);
        silu(&mut s);
        for ((x, g), s) in x.iter().zip(&g).zip(&s) {
            let x = f64::from(*x);
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            let gelu = 0.5 * x * (1.0 + u.tanh());
            assert!(
                (gelu - f64::from(*g)).abs() < 1e-6 * (1.0 + x.abs()),
                "gelu({x})"
            );
            let silu = x / (1.0 + (-x).exp());
            assert!(
                (silu - f64::from(*s)).abs() < 1e-6 * (1.0 + x.abs()),
                "silu({x})"
            );
        }
    }
}
