//! The timestep's way into the blocks: sinusoids, a two-layer MLP, and the modulations made from it.

use candle_core::{Device, Tensor};

use crate::checkpoint::{CheckpointError, Weights};
use crate::context::Cx;
use crate::ops::Linear;
use crate::ops::activation::silu_tensor;

/// Width of the sinusoidal embedding.
const SINUSOIDS: usize = 256;

/// `time_text_embed`: a noise level to the vector that conditions every block.
pub(super) struct TimestepEmbedding {
    linear_1: Linear,
    linear_2: Linear,
}

impl TimestepEmbedding {
    /// Loads `timestep_embedder.linear_{1,2}`; `dim` is the width of the blocks.
    pub(super) fn load(weights: &Weights, dim: usize) -> Result<Self, CheckpointError> {
        let embedder = weights.pp("timestep_embedder");
        Ok(Self {
            linear_1: Linear::load(&embedder.pp("linear_1"), dim, SINUSOIDS, true)?,
            linear_2: Linear::load(&embedder.pp("linear_2"), dim, dim, true)?,
        })
    }

    /// M timesteps in [0, 1] to `[M, dim]`.
    pub(super) fn forward(&self, timesteps: &[f32], cx: &Cx) -> candle_core::Result<Tensor> {
        let e = self.linear_1.forward(&sinusoids(timesteps)?, cx)?;
        self.linear_2.forward(&silu_tensor(&e)?, cx)
    }
}

/// `[cos | sin](1000 t f_i)`, `f_i = 10000^(-i/128)`, `[M, 256]` in F32.
///
/// The order of the roundings is diffusers' (`t * f`, then `* 1000`): angles reach 1000, where one rounding
/// more moves a cosine by 3e-5.
fn sinusoids(timesteps: &[f32]) -> candle_core::Result<Tensor> {
    let half = SINUSOIDS / 2;
    let mut rows = Vec::with_capacity(timesteps.len() * SINUSOIDS);
    for t in timesteps {
        let angle = |i: usize| {
            let exponent = -(10_000f64.ln() as f32) * i as f32 / half as f32;
            1000.0 * (t * exponent.exp())
        };
        rows.extend((0..half).map(|i| angle(i).cos()));
        rows.extend((0..half).map(|i| angle(i).sin()));
    }
    Tensor::from_vec(rows, (timesteps.len(), SINUSOIDS), &Device::Cpu)
}

/// A linear layer whose output is `N` vectors per timestep: `img_mod.1` and `txt_mod.1` (N = 6), `norm_out` (2).
pub(super) struct Modulation<const N: usize> {
    linear: Linear,
}

impl<const N: usize> Modulation<N> {
    /// Loads the layer `[N * dim, dim]` under the prefix.
    pub(super) fn load(weights: &Weights, dim: usize) -> Result<Self, CheckpointError> {
        let linear = Linear::load(weights, N * dim, dim, true)?;
        Ok(Self { linear })
    }

    /// `silu(temb)` `[M, dim]` to N vectors for each of its rows.
    pub(super) fn forward(&self, silu_temb: &Tensor, cx: &Cx) -> candle_core::Result<Modulated<N>> {
        Ok(Modulated(self.linear.forward(silu_temb, cx)?))
    }
}

/// What a [`Modulation`] gave: `[M, N * dim]`, a row for each timestep.
pub(super) struct Modulated<const N: usize>(Tensor);

impl<const N: usize> Modulated<N> {
    /// The vectors of timestep `row`, the same for each row of a batch: N x `[batch, dim]`.
    pub(super) fn at(&self, row: usize, batch: usize) -> candle_core::Result<[Tensor; N]> {
        let (_, width) = self.0.dims2()?;
        let chunks = self
            .0
            .narrow(0, row, 1)?
            .expand((batch, width))?
            .chunk(N, 1)?;
        chunks.try_into().map_err(|chunks: Vec<_>| {
            candle_core::Error::Msg(format!("{} modulations, not {N}", chunks.len()))
        })
    }
}
