//! Pixels to latents: the mean of the posterior (its mode), which is what the pipelines use.

use candle_core::{Device, Tensor};

use super::super::ModelError;
use super::super::config::VaeConfig;
use super::blocks::{MidBlock, Residual, gamma};
use crate::checkpoint::{CheckpointError, Weights};
use crate::context::Cx;
use crate::ops::conv::{Conv2d, Geometry, Map};

/// `encoder` and `quant_conv`.
pub struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    norm_out: Vec<f32>,
    conv_out: Conv2d,
    quant_conv: Conv2d,
    z_dim: usize,
}

/// An entry of the flat list `encoder.down_blocks`.
enum DownBlock {
    Residual(Residual),
    Downsample(Conv2d),
}

impl Encoder {
    /// Loads `encoder.*` and `quant_conv`.
    ///
    /// # Errors
    /// A missing or misshapen tensor.
    pub fn load(weights: &Weights, config: &VaeConfig) -> Result<Self, ModelError> {
        let encoder = weights.pp("encoder");
        let same = |name: &str, c| Conv2d::load(&encoder.pp(name), c, Geometry::Same);
        let dims: Vec<usize> = config
            .dim_mult
            .iter()
            .map(|m| m * config.base_dim)
            .collect();
        let first = dims.first().copied().unwrap_or(config.base_dim);
        let mut down_blocks = Vec::new();
        let mut c_in = config.base_dim;
        for (stage, c_out) in dims.iter().enumerate() {
            for _ in 0..config.num_res_blocks {
                let weights = encoder.pp("down_blocks").pp(down_blocks.len());
                down_blocks.push(DownBlock::Residual(Residual::load(
                    &weights,
                    (*c_out, c_in),
                )?));
                c_in = *c_out;
            }
            if stage + 1 < dims.len() {
                let weights = encoder.pp("down_blocks").pp(down_blocks.len());
                let conv = downsample(&weights, *c_out)?;
                down_blocks.push(DownBlock::Downsample(conv));
            }
        }
        let z = config.z_dim;
        Ok(Self {
            conv_in: same(
                "conv_in",
                (config.base_dim.min(first), config.input_channels),
            )?,
            down_blocks,
            mid_block: MidBlock::load(&encoder.pp("mid_block"), c_in)?,
            norm_out: gamma(&encoder, "norm_out", c_in)?,
            conv_out: same("conv_out", (2 * z, c_in))?,
            quant_conv: Conv2d::load(
                &weights.pp("quant_conv"),
                (2 * z, 2 * z),
                Geometry::Pointwise,
            )?,
            z_dim: z,
        })
    }

    /// `image` `[B, 3, H, W]` in [-1, 1] to the posterior's mean `[B, z_dim, H/8, W/8]`, in the VAE's own scale.
    /// Whole pictures: three maps of `base_dim` channels at full size are alive at once.
    ///
    /// # Errors
    /// Where the shape does not fit, or [`ModelError::Cancelled`].
    pub fn forward(&self, image: &Tensor, cx: &Cx) -> Result<Tensor, ModelError> {
        let (batch, _, h, w) = image.dims4()?;
        let latents = (0..batch)
            .map(|b| {
                let planes = image.get(b)?.flatten_all()?.to_vec1::<f32>()?;
                let moments = self.moments(&Map::from_planes(&planes, (h, w)), cx)?;
                let size = (moments.channels, moments.height, moments.width);
                let moments = Tensor::from_vec(moments.to_planes(), size, &Device::Cpu)?;
                Ok(moments.narrow(0, 0, self.z_dim)?)
            })
            .collect::<Result<Vec<_>, ModelError>>()?;
        Ok(Tensor::stack(&latents, 0)?)
    }

    fn moments(&self, image: &Map, cx: &Cx) -> Result<Map, ModelError> {
        let mut x = self.conv_in.forward(image, 0..image.height);
        for block in &self.down_blocks {
            if cx.cancel.is_cancelled() {
                return Err(ModelError::Cancelled);
            }
            x = match block {
                DownBlock::Residual(residual) => residual.forward(&x, 0..x.height),
                DownBlock::Downsample(conv) => conv.forward(&x, 0..x.height / 2),
            };
        }
        let x = self.mid_block.forward(&x, cx)?;
        let all = 0..x.height;
        let x = self
            .conv_out
            .forward(&x.norm(&self.norm_out, true), all.clone());
        Ok(self.quant_conv.forward(&x, all))
    }
}

fn downsample(weights: &Weights, channels: usize) -> Result<Conv2d, CheckpointError> {
    Conv2d::load(
        &weights.pp("resample.1"),
        (channels, channels),
        Geometry::Halve,
    )
}
