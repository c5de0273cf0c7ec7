//! The joint-attention MMDiT of Qwen-Image (`QwenImageTransformer2DModel`): packed noisy latents and prompt
//! embeddings in, velocity out.
//!
//! Source: Qwen-Image Technical Report (2025); names and order of operations as in diffusers'
//! `transformer_qwenimage.py`.

mod block;
mod embed;

use candle_core::Tensor;

use self::block::{Block, BlockInput};
use self::embed::{Modulation, TimestepEmbedding};
use super::ModelError;
use super::config::TransformerConfig;
use crate::checkpoint::Weights;
use crate::context::Cx;
use crate::ops::Linear;
use crate::ops::activation::silu_tensor;
use crate::ops::attention::Keys;
use crate::ops::norm;
use crate::ops::rope::RopeTable;

/// What one evaluation of the transformer takes.
pub struct Input {
    /// Packed noisy latents `[B, h * w, in_channels]`, row-major over the grid.
    pub img: Tensor,
    /// Prompt embeddings `[B, St, joint_attention_dim]`, rows padded on the right with anything.
    pub txt: Tensor,
    /// Valid tokens per row of `txt`.
    pub txt_lengths: Vec<usize>,
    /// Noise level in [0, 1] (sigma), one for the whole batch.
    pub timestep: f32,
    /// Rows and columns of packed tokens: H/16 and W/16 of the picture.
    pub grid: (usize, usize),
}

/// The MMDiT with its weights.
pub struct QwenImageTransformer {
    axes_dims_rope: [usize; 3],
    img_in: Linear,
    txt_norm: Tensor,
    txt_in: Linear,
    time_text_embed: TimestepEmbedding,
    transformer_blocks: Vec<Block>,
    norm_out: Modulation<2>,
    proj_out: Linear,
}

impl QwenImageTransformer {
    /// Loads every tensor that text-to-image executes. The last block's text output feeds nothing: the layers
    /// that only compute it (`to_add_out`, `add_q_proj`, `norm_added_q`, `txt_mlp`) are not loaded.
    ///
    /// # Errors
    /// A missing or misshapen tensor, or a layer whose format cannot be executed.
    pub fn load(weights: &Weights, config: &TransformerConfig) -> Result<Self, ModelError> {
        let d = config.inner_dim();
        let last = config.num_layers.saturating_sub(1);
        let blocks = weights.pp("transformer_blocks");
        let patch = config.out_channels * config.patch_size * config.patch_size;
        Ok(Self {
            axes_dims_rope: config.axes_dims_rope,
            img_in: Linear::load(&weights.pp("img_in"), d, config.in_channels, true)?,
            txt_norm: weights.tensor("txt_norm.weight", &[config.joint_attention_dim])?,
            txt_in: Linear::load(&weights.pp("txt_in"), d, config.joint_attention_dim, true)?,
            time_text_embed: TimestepEmbedding::load(&weights.pp("time_text_embed"), d)?,
            transformer_blocks: (0..config.num_layers)
                .map(|i| Block::load(&blocks.pp(i), config, i == last))
                .collect::<Result<_, _>>()?,
            norm_out: Modulation::load(&weights.pp("norm_out.linear"), d)?,
            proj_out: Linear::load(&weights.pp("proj_out"), patch, d, true)?,
        })
    }

    /// The velocity `noise - image`, `[B, h * w, out_channels * patch^2]`, in the packed layout of the input.
    ///
    /// # Errors
    /// Where the input's shapes do not fit, or [`ModelError::Cancelled`].
    pub fn forward(&self, input: &Input, cx: &Cx) -> Result<Tensor, ModelError> {
        let (b, _, _) = input.img.dims3()?;
        let (_, padded, _) = input.txt.dims3()?;
        let temb = self.time_text_embed.forward(input.timestep, b, cx)?;
        cx.observer.stage("temb", &temb);

        let mut img = self.img_in.forward(&input.img, cx)?;
        let txt = norm::rms_norm(&input.txt, &self.txt_norm, 1e-6)?;
        let mut txt = self.txt_in.forward(&txt, cx)?;

        let at = BlockInput {
            silu_temb: silu_tensor(&temb)?,
            img_rope: RopeTable::image(self.axes_dims_rope, input.grid),
            txt_rope: RopeTable::text(self.axes_dims_rope, input.grid, padded),
            keys: match input.txt_lengths.iter().all(|n| *n == padded) {
                true => Keys::All,
                false => Keys::PaddedPrefix {
                    valid: input.txt_lengths.clone(),
                    padded,
                },
            },
        };
        for block in &self.transformer_blocks {
            if cx.cancel.is_cancelled() {
                return Err(ModelError::Cancelled);
            }
            (img, txt) = block.forward(img, txt, &at, cx)?;
        }

        let [scale, shift] = self.norm_out.forward(&at.silu_temb, cx)?;
        let out = norm::layer_norm_modulate(&img, &shift, &scale)?;
        Ok(self.proj_out.forward(&out, cx)?)
    }
}
