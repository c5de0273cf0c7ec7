//! The joint-attention MMDiT of Qwen-Image (`QwenImageTransformer2DModel`): packed noisy latents and prompt
//! embeddings in, velocity out.
//!
//! Source: Qwen-Image Technical Report (2025); names and order of operations as in diffusers'
//! `transformer_qwenimage.py`.

mod block;
mod conditioning;
mod embed;

use candle_core::Tensor;

use self::block::{Block, BlockInput};
pub use self::conditioning::Conditioning;
use self::conditioning::Levels;
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
    /// The noise level, one for the whole batch.
    pub conditioning: Conditioning,
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
        let blocks = weights.pp("transformer_blocks");
        let patch = config.out_channels * config.patch_size * config.patch_size;
        Ok(Self {
            axes_dims_rope: config.axes_dims_rope,
            img_in: Linear::load(&weights.pp("img_in"), d, config.in_channels, true)?,
            txt_norm: weights.tensor("txt_norm.weight", &[config.joint_attention_dim])?,
            txt_in: Linear::load(&weights.pp("txt_in"), d, config.joint_attention_dim, true)?,
            time_text_embed: TimestepEmbedding::load(&weights.pp("time_text_embed"), d)?,
            transformer_blocks: (0..config.num_layers)
                .map(|i| Block::load(&blocks.pp(i), config, i))
                .collect::<Result<_, _>>()?,
            norm_out: Modulation::load(&weights.pp("norm_out.linear"), d)?,
            proj_out: Linear::load(&weights.pp("proj_out"), patch, d, true)?,
        })
    }

    /// What `timesteps` (noise levels in [0, 1], sigmas) decide, one value for each: many at once cost little more
    /// than one, and 12 vectors per block and level are kept (8.8 MB for a level of the published model).
    ///
    /// # Errors
    /// Those of the layers, or [`ModelError::Cancelled`].
    pub fn conditioning(
        &self,
        timesteps: &[f32],
        cx: &Cx,
    ) -> Result<Vec<Conditioning>, ModelError> {
        let temb = self.time_text_embed.forward(timesteps, cx)?;
        let silu_temb = silu_tensor(&temb)?;
        let mut blocks = Vec::with_capacity(self.transformer_blocks.len());
        for block in &self.transformer_blocks {
            if cx.cancel.is_cancelled() {
                return Err(ModelError::Cancelled);
            }
            blocks.push(block.modulations(&silu_temb, cx)?);
        }
        let norm_out = self.norm_out.forward(&silu_temb, cx)?;
        Ok(Conditioning::rows(Levels {
            temb,
            blocks,
            norm_out,
        })?)
    }

    /// The velocity `noise - image`, `[B, h * w, out_channels * patch^2]`, in the packed layout of the input.
    ///
    /// # Errors
    /// Where the input's shapes do not fit, or [`ModelError::Cancelled`].
    pub fn forward(&self, input: &Input, cx: &Cx) -> Result<Tensor, ModelError> {
        let (b, _, _) = input.img.dims3()?;
        let (_, padded, _) = input.txt.dims3()?;
        cx.observer.stage("temb", &input.conditioning.temb(b)?);

        let mut img = self.img_in.forward(&input.img, cx)?;
        let txt = norm::rms_norm(&input.txt, &self.txt_norm, 1e-6)?;
        let mut txt = self.txt_in.forward(&txt, cx)?;

        let at = BlockInput {
            conditioning: input.conditioning.clone(),
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

        let [scale, shift] = at.conditioning.norm_out(b)?;
        let out = norm::layer_norm_modulate(&img, &shift, &scale)?;
        Ok(self.proj_out.forward(&out, cx)?)
    }
}
