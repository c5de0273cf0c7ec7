//! Latents to pixels.
//!
//! The middle block and the stages whose maps are small run on the whole picture; the rest, which would take
//! gigabytes, in strips of rows.

use candle_core::{Device, Tensor};

use super::super::ModelError;
use super::super::config::VaeConfig;
use super::blocks::{MidBlock, Residual, gamma};
use super::observe;
use super::stream::{STRIP_BYTES, Stream, strip_rows};
use crate::checkpoint::{CheckpointError, Weights};
use crate::context::Cx;
use crate::ops::conv::{Conv2d, Geometry, Map};

/// `decoder` and `post_quant_conv`.
pub struct Decoder {
    post_quant_conv: Conv2d,
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    norm_out: Vec<f32>,
    conv_out: Conv2d,
    z_dim: usize,
    pub(super) strip_bytes: usize,
}

/// `decoder.up_blocks.i`: residual blocks, then twice the size (but for the last).
struct UpBlock {
    resnets: Vec<Residual>,
    upsampler: Option<Conv2d>,
}

impl UpBlock {
    fn add_to<'a>(&'a self, stream: &mut Stream<'a>) {
        for resnet in &self.resnets {
            stream.residual(resnet);
        }
        if let Some(conv) = &self.upsampler {
            stream.conv(None, conv);
        }
    }
}

impl Decoder {
    /// Takes `decoder.*` and `post_quant_conv`; the weights stay in the memory map.
    ///
    /// # Errors
    /// A missing or misshapen tensor.
    pub fn load(weights: &Weights, config: &VaeConfig) -> Result<Self, ModelError> {
        let decoder = weights.pp("decoder");
        let same = |name: &str, c| Conv2d::load(&decoder.pp(name), c, Geometry::Same);
        // Channels from the deepest stage to the picture: 384, 384, 192, 96 at full size.
        let dims: Vec<usize> = config
            .dim_mult
            .iter()
            .rev()
            .map(|m| m * config.base_dim)
            .collect();
        let (Some(top), Some(bottom)) = (dims.first(), dims.last()) else {
            return Err(ModelError::Config {
                component: crate::checkpoint::Component::Vae,
                reason: "dim_mult is empty".to_owned(),
            });
        };
        let up_block = |i: usize| -> Result<UpBlock, CheckpointError> {
            let weights = decoder.pp("up_blocks").pp(i);
            let last = i + 1 == dims.len();
            // The upsampler before this stage has halved the channels.
            let c_in = if i == 0 { dims[0] } else { dims[i - 1] / 2 };
            let resnet = |j: usize| {
                let c_in = if j == 0 { c_in } else { dims[i] };
                Residual::load(&weights.pp("resnets").pp(j), (dims[i], c_in))
            };
            let upsampler = || {
                let weights = weights.pp("upsamplers.0.resample.1");
                Conv2d::load(&weights, (dims[i] / 2, dims[i]), Geometry::Double)
            };
            Ok(UpBlock {
                resnets: (0..=config.num_res_blocks)
                    .map(resnet)
                    .collect::<Result<_, _>>()?,
                upsampler: (!last).then(upsampler).transpose()?,
            })
        };
        let z = config.z_dim;
        Ok(Self {
            post_quant_conv: Conv2d::load(
                &weights.pp("post_quant_conv"),
                (z, z),
                Geometry::Pointwise,
            )?,
            conv_in: same("conv_in", (*top, z))?,
            mid_block: MidBlock::load(&decoder.pp("mid_block"), *top)?,
            up_blocks: (0..dims.len()).map(up_block).collect::<Result<_, _>>()?,
            norm_out: gamma(&decoder, "norm_out", *bottom)?,
            conv_out: same("conv_out", (config.input_channels, *bottom))?,
            z_dim: z,
            strip_bytes: STRIP_BYTES,
        })
    }

    /// `z` `[B, z_dim, h, w]` (the VAE's own scale) to pixels `[B, 3, 8h, 8w]` in [-1, 1].
    ///
    /// # Errors
    /// Where the shape does not fit, or [`ModelError::Cancelled`].
    pub fn forward(&self, z: &Tensor, cx: &Cx) -> Result<Tensor, ModelError> {
        let (batch, channels, h, w) = z.dims4()?;
        if channels != self.z_dim {
            return Err(ModelError::Config {
                component: crate::checkpoint::Component::Vae,
                reason: format!(
                    "latents have {channels} channels, the VAE has {}",
                    self.z_dim
                ),
            });
        }
        let mut pictures = Vec::with_capacity(batch);
        for b in 0..batch {
            let planes = z.get(b)?.flatten_all()?.to_vec1::<f32>()?;
            let z = Map::from_planes(&planes, (h, w), channels);
            pictures.push(self.picture(&z, cx)?);
        }
        let picture = Tensor::stack(&pictures, 0)?;
        cx.observer.stage("vae.decoder", &picture);
        Ok(picture)
    }

    /// One picture, `[3, 8h, 8w]`.
    fn picture(&self, z: &Map, cx: &Cx) -> Result<Tensor, ModelError> {
        let x = self.post_quant_conv.forward(z)?;
        self.post_quant_conv.show(&x, cx);
        let x = self.conv_in.forward(&x)?;
        self.conv_in.show(&x, cx);
        observe("vae.decoder.conv_in", &x, cx)?;
        let mut x = self.mid_block.forward(x, cx)?;
        observe("vae.decoder.mid_block", &x, cx)?;

        let mut up_blocks = self.up_blocks.iter().peekable();
        let mut stream = Stream::new((x.height, x.width));
        while let Some(block) = up_blocks.peek() {
            let mut whole = Stream::new((x.height, x.width));
            block.add_to(&mut whole);
            if strip_rows(self.strip_bytes, whole.floats_per_row()) < x.height {
                break;
            }
            x = whole.push(x, cx)?;
            stream = Stream::new((x.height, x.width));
            up_blocks.next();
        }
        for block in up_blocks {
            block.add_to(&mut stream);
        }
        stream.conv(Some(&self.norm_out), &self.conv_out);

        let (height, width) = stream.size();
        let channels = self.conv_out.channels_out();
        let strip = strip_rows(self.strip_bytes, stream.floats_per_row());
        let mut planes = vec![0.0; channels * height * width];
        while !x.rows.is_empty() {
            let rows = x.take_before(x.rows.start + strip);
            stream.push(rows, cx)?.write_planes(&mut planes);
        }
        // An infinity must not pass for white or black.
        planes.iter_mut().for_each(|v| match v.is_finite() {
            true => *v = v.clamp(-1.0, 1.0),
            false => *v = f32::NAN,
        });
        Ok(Tensor::from_vec(
            planes,
            (channels, height, width),
            &Device::Cpu,
        )?)
    }
}
