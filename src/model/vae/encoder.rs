//! Pixels to latents: the mean of the posterior (its mode), which is what the pipelines use.

use candle_core::{Device, Tensor};

use super::super::ModelError;
use super::super::config::VaeConfig;
use super::blocks::{MidBlock, Residual, gamma};
use super::observe;
use super::stream::{STRIP_BYTES, Stream, strip_rows};
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
    pub(super) strip_bytes: usize,
}

/// An entry of the flat list `encoder.down_blocks`.
enum DownBlock {
    Residual(Box<Residual>),
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
                let residual = Residual::load(&weights, (*c_out, c_in))?;
                down_blocks.push(DownBlock::Residual(Box::new(residual)));
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
            strip_bytes: STRIP_BYTES,
        })
    }

    /// `image` `[B, 3, H, W]` in [-1, 1] to the posterior's mean `[B, z_dim, H/8, W/8]`, in the VAE's own scale.
    ///
    /// # Errors
    /// Where the shape does not fit, or [`ModelError::Cancelled`].
    pub fn forward(&self, image: &Tensor, cx: &Cx) -> Result<Tensor, ModelError> {
        let (batch, channels, h, w) = image.dims4()?;
        if channels != self.conv_in.channels_in() {
            return Err(ModelError::Config {
                component: crate::checkpoint::Component::Vae,
                reason: format!(
                    "the picture has {channels} channels, the VAE takes {}",
                    self.conv_in.channels_in()
                ),
            });
        }
        let mut latents = Vec::with_capacity(batch);
        for b in 0..batch {
            let planes = image.get(b)?.flatten_all()?.to_vec1::<f32>()?;
            let moments = self.moments(Map::from_planes(&planes, (h, w), channels), cx)?;
            let size = (moments.channels, moments.height, moments.width);
            let moments = Tensor::from_vec(moments.to_planes(), size, &Device::Cpu)?;
            latents.push(moments.narrow(0, 0, self.z_dim)?);
        }
        let latents = Tensor::stack(&latents, 0)?;
        cx.observer.stage("vae.encoder", &latents);
        Ok(latents)
    }

    /// Mean and logarithm of the variance, `2 * z_dim` channels.
    fn moments(&self, mut image: Map, cx: &Cx) -> Result<Map, ModelError> {
        let mut stream = Stream::new((image.height, image.width));
        stream.conv(None, &self.conv_in);
        for block in &self.down_blocks {
            match block {
                DownBlock::Residual(residual) => stream.residual(residual),
                DownBlock::Downsample(conv) => stream.conv(None, conv),
            }
        }
        let strip = strip_rows(self.strip_bytes, stream.floats_per_row());
        let mut x = stream.push(image.take_before(strip), cx)?;
        while !image.rows.is_empty() {
            x.append(stream.push(image.take_before(image.rows.start + strip), cx)?);
        }
        observe("vae.encoder.down_blocks", &x, cx)?;
        let x = self.mid_block.forward(x, cx)?;
        observe("vae.encoder.mid_block", &x, cx)?;
        let x = self.conv_out.forward(&x.norm_silu(&self.norm_out))?;
        Ok(self.quant_conv.forward(&x)?)
    }
}

fn downsample(weights: &Weights, channels: usize) -> Result<Conv2d, CheckpointError> {
    Conv2d::load(
        &weights.pp("resample.1"),
        (channels, channels),
        Geometry::Halve,
    )
}
