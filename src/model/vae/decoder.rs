//! Latents to pixels.
//!
//! Everything after the middle block's attention is local, so large pictures are decoded in strips of rows
//! whose halos are computed again: the result is that of the whole picture, at a bounded amount of memory.

use std::ops::Range;

use candle_core::{Device, Tensor};

use super::super::ModelError;
use super::super::config::VaeConfig;
use super::blocks::{MidBlock, Residual, gamma};
use crate::checkpoint::{CheckpointError, Weights};
use crate::context::Cx;
use crate::ops::conv::{Conv2d, Geometry, Map};

/// Bytes that the maps of one strip may take, all together.
const STRIP_BYTES: usize = 256 << 20;
/// Maps of one stage that are alive at once: input, normed input, output, shortcut.
const MAPS: usize = 4;

/// `decoder` and `post_quant_conv`.
pub struct Decoder {
    post_quant_conv: Conv2d,
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    norm_out: Vec<f32>,
    conv_out: Conv2d,
    z_dim: usize,
    strip_bytes: usize,
}

/// `decoder.up_blocks.i`: residual blocks, then twice the size (but for the last).
struct UpBlock {
    resnets: Vec<Residual>,
    upsampler: Option<Conv2d>,
}

impl UpBlock {
    /// Rows of the block's input that its output rows are made from; `height` is the input's.
    fn needs(&self, rows: Range<usize>, height: usize) -> Range<usize> {
        let rows = match &self.upsampler {
            Some(conv) => {
                let rows = conv.needs(rows, 2 * height);
                rows.start / 2..rows.end.div_ceil(2)
            }
            None => rows,
        };
        let back = |rows, resnet: &Residual| resnet.needs(rows, height);
        self.resnets.iter().rev().fold(rows, back)
    }

    /// Output rows `rows`.
    fn forward(&self, mut x: Map, rows: Range<usize>) -> Map {
        let inner = match &self.upsampler {
            Some(conv) => {
                let rows = conv.needs(rows.clone(), 2 * x.height);
                rows.start / 2..rows.end.div_ceil(2)
            }
            None => rows.clone(),
        };
        for (i, resnet) in self.resnets.iter().enumerate() {
            let back = |rows, resnet: &Residual| resnet.needs(rows, x.height);
            let rows = self.resnets[i + 1..].iter().rev().fold(inner.clone(), back);
            x = resnet.forward(&x, rows);
        }
        match &self.upsampler {
            Some(conv) => conv.forward(&x.upsample(), rows),
            None => x,
        }
    }
}

impl Decoder {
    /// Loads `decoder.*` and `post_quant_conv` in the kernel's layout (F32, one slice in time: about 170 MB at
    /// full size).
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
                Conv2d::load(&weights, (dims[i] / 2, dims[i]), Geometry::Same)
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
        let pictures = (0..batch)
            .map(|b| {
                let planes = z.get(b)?.flatten_all()?.to_vec1::<f32>()?;
                let picture = self.picture(&Map::from_planes(&planes, (h, w)), cx)?;
                let size = (picture.channels, picture.height, picture.width);
                Ok(Tensor::from_vec(picture.to_planes(), size, &Device::Cpu)?)
            })
            .collect::<Result<Vec<_>, ModelError>>()?;
        Ok(Tensor::stack(&pictures, 0)?)
    }

    fn picture(&self, z: &Map, cx: &Cx) -> Result<Map, ModelError> {
        let all = 0..z.height;
        let x = self.post_quant_conv.forward(z, all.clone());
        let x = self.conv_in.forward(&x, all);
        let mut x = self.mid_block.forward(&x, cx)?;

        // Stages run on the whole picture as long as their maps are small, then strip by strip.
        let mut whole = 0;
        while whole < self.up_blocks.len() && self.stage_bytes(&x, whole) <= self.strip_bytes {
            let rows = 0..x.height * (1 + usize::from(self.up_blocks[whole].upsampler.is_some()));
            x = self.up_blocks[whole].forward(x, rows);
            whole += 1;
        }
        let rest = &self.up_blocks[whole..];
        let scale = 1 << rest.iter().filter(|b| b.upsampler.is_some()).count();
        let (height, width) = (x.height * scale, x.width * scale);
        let strip = self.strip_rows(&x, rest, height);
        let channels = self.conv_out.channels_out();
        let mut data = Vec::with_capacity(height * width * channels);
        for start in (0..height).step_by(strip) {
            if cx.cancel.is_cancelled() {
                return Err(ModelError::Cancelled);
            }
            let rows = start..(start + strip).min(height);
            data.extend(
                self.strip(&x, rest, rows)
                    .data
                    .iter()
                    .map(|v| v.clamp(-1.0, 1.0)),
            );
        }
        Ok(Map {
            height,
            rows: 0..height,
            width,
            channels,
            data,
        })
    }

    /// Picture rows `rows` from the map `x` before the blocks `rest`.
    fn strip(&self, x: &Map, rest: &[UpBlock], rows: Range<usize>) -> Map {
        let mut heights = vec![x.height];
        for block in rest {
            let h = heights[heights.len() - 1];
            heights.push(if block.upsampler.is_some() { 2 * h } else { h });
        }
        // From the picture back to `x`: the rows that each block has to deliver.
        let last = self.conv_out.needs(rows.clone(), heights[rest.len()]);
        let mut wanted = vec![last];
        for (block, h) in rest.iter().zip(&heights).rev() {
            let rows = block.needs(wanted[wanted.len() - 1].clone(), *h);
            wanted.push(rows);
        }
        wanted.reverse();
        let mut part = x.crop(wanted[0].clone());
        for (block, rows) in rest.iter().zip(&wanted[1..]) {
            part = block.forward(part, rows.clone());
        }
        self.conv_out
            .forward(&part.norm(&self.norm_out, true), rows)
    }

    /// Bytes that stage `i` takes on the whole map `x`, at its widest.
    fn stage_bytes(&self, x: &Map, i: usize) -> usize {
        let pixels = x.height * x.width;
        let grown = if self.up_blocks[i].upsampler.is_some() {
            4
        } else {
            1
        };
        MAPS * 4 * pixels * grown * x.channels
    }

    /// Picture rows per strip.
    fn strip_rows(&self, x: &Map, rest: &[UpBlock], height: usize) -> usize {
        let widest = x.width * (height / x.height.max(1)) * x.channels.max(1);
        let rows = self.strip_bytes / (MAPS * 4 * widest.max(1));
        let unit = 1 << rest.len();
        (rows / unit * unit).clamp(unit, height.max(unit))
    }
}
