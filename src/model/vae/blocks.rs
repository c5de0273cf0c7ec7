//! What encoder and decoder are made of.

use candle_core::{Device, Tensor};

use super::super::ModelError;
use super::stream::Stream;
use crate::checkpoint::{CheckpointError, Weights};
use crate::context::Cx;
use crate::ops::attention::{Attention, Keys};
use crate::ops::conv::{Conv2d, Geometry, Map};

/// `gamma` of a norm, `[C, 1, 1]` or `[C, 1, 1, 1]`.
pub(super) fn gamma(
    weights: &Weights,
    name: &str,
    channels: usize,
) -> Result<Vec<f32>, CheckpointError> {
    let name = format!("{name}.gamma");
    let mut shape = vec![1; weights.shape(&name).map_or(4, <[usize]>::len).max(1)];
    shape[0] = channels;
    weights.view(&name, &shape)?.to_f32()
}

/// `QwenImageResidualBlock`.
pub(super) struct Residual {
    pub(super) norm1: Vec<f32>,
    pub(super) conv1: Conv2d,
    pub(super) norm2: Vec<f32>,
    pub(super) conv2: Conv2d,
    pub(super) conv_shortcut: Option<Conv2d>,
}

impl Residual {
    pub(super) fn load(
        weights: &Weights,
        (c_out, c_in): (usize, usize),
    ) -> Result<Self, CheckpointError> {
        let conv =
            |name: &str, c_in| Conv2d::load(&weights.pp(name), (c_out, c_in), Geometry::Same);
        let shortcut = || {
            Conv2d::load(
                &weights.pp("conv_shortcut"),
                (c_out, c_in),
                Geometry::Pointwise,
            )
        };
        Ok(Self {
            norm1: gamma(weights, "norm1", c_in)?,
            conv1: conv("conv1", c_in)?,
            norm2: gamma(weights, "norm2", c_out)?,
            conv2: conv("conv2", c_out)?,
            conv_shortcut: (c_in != c_out).then(shortcut).transpose()?,
        })
    }
}

/// `QwenImageMidBlock`: residual, attention of one head over all pixels, residual.
pub(super) struct MidBlock {
    resnets: [Residual; 2],
    norm: Vec<f32>,
    to_qkv: Conv2d,
    proj: Conv2d,
}

impl MidBlock {
    pub(super) fn load(weights: &Weights, channels: usize) -> Result<Self, CheckpointError> {
        let (resnets, attention) = (weights.pp("resnets"), weights.pp("attentions.0"));
        let resnet = |i: usize| Residual::load(&resnets.pp(i), (channels, channels));
        let conv = |name: &str, c_out| {
            Conv2d::load(&attention.pp(name), (c_out, channels), Geometry::Pointwise)
        };
        Ok(Self {
            resnets: [resnet(0)?, resnet(1)?],
            norm: gamma(&attention, "norm", channels)?,
            to_qkv: conv("to_qkv", 3 * channels)?,
            proj: conv("proj", channels)?,
        })
    }

    /// A whole map to a map of the same size.
    pub(super) fn forward(&self, x: Map, cx: &Cx) -> Result<Map, ModelError> {
        let size = (x.height, x.width);
        let mut before = Stream::new(size);
        before.residual(&self.resnets[0]);
        let x = self.attend(before.push(x, cx)?, cx)?;
        let mut after = Stream::new(size);
        after.residual(&self.resnets[1]);
        after.push(x, cx)
    }

    /// `x + proj(attention(norm(x)))`: the only part of the VAE in which every pixel sees every other.
    fn attend(&self, mut x: Map, cx: &Cx) -> Result<Map, ModelError> {
        let (s, c) = (x.height * x.width, x.channels);
        let qkv = self.to_qkv.forward(&x.norm(&self.norm, false))?;
        self.to_qkv.show(&qkv, cx);
        let qkv = Tensor::from_vec(qkv.data, (1, s, 3 * c), &Device::Cpu)?;
        let [q, k, v] = [0, 1, 2].map(|i| qkv.narrow(2, i * c, c));
        let attention = Attention {
            heads: 1,
            kv_heads: 1,
            keys: Keys::All,
        };
        let out = attention.forward(&q?, &k?, &v?)?;
        let attended = Map {
            data: out.flatten_all()?.to_vec1()?,
            rows: x.rows.clone(),
            ..x
        };
        self.proj.add_to(&attended, &mut x)?;
        self.proj.show(&x, cx);
        Ok(x)
    }
}
