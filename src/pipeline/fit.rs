//! Whether the parts of a checkpoint belong to one model.

use super::PipelineError;
use crate::checkpoint::{Component, TokenizerSource};
use crate::model::ModelError;
use crate::model::config::{TextEncoderConfig, TransformerConfig, VaeConfig};
use crate::model::text_encoder::tokenizer::Tokenizer;

/// Parts of different models do not make a model.
pub(super) fn fit(
    transformer: &TransformerConfig,
    text: &TextEncoderConfig,
    vae: &VaeConfig,
) -> Result<(), ModelError> {
    let refuse = |component, reason| Err(ModelError::Config { component, reason });
    if transformer.joint_attention_dim != text.hidden_size {
        return refuse(
            Component::TextEncoder,
            format!(
                "it is {} wide, the transformer expects embeddings of {}; they belong to different models",
                text.hidden_size, transformer.joint_attention_dim
            ),
        );
    }
    if transformer.out_channels != vae.z_dim {
        return refuse(
            Component::Vae,
            format!(
                "it has {} latent channels, the transformer {}; they belong to different models",
                vae.z_dim, transformer.out_channels
            ),
        );
    }
    if vae.dim_mult.len() != 4 || vae.input_channels != 3 {
        return refuse(
            Component::Vae,
            format!(
                "{} stages and {} channels make no picture of 8 pixels per latent",
                vae.dim_mult.len(),
                vae.input_channels
            ),
        );
    }
    Ok(())
}

/// The checkpoint's tokenizer, or Qwen2.5's where the vocabulary has its size.
pub(super) fn tokenizer(
    source: &TokenizerSource,
    config: &TextEncoderConfig,
) -> Result<Tokenizer, PipelineError> {
    let tokenizer = match source {
        TokenizerSource::Json(json) => Tokenizer::from_json(json, "of the checkpoint")?,
        TokenizerSource::Folder(folder) => Tokenizer::from_folder(folder)?,
        TokenizerSource::Unstated => Tokenizer::qwen2_5()?,
    };
    match tokenizer.len() <= config.vocab_size {
        true => Ok(tokenizer),
        false => Err(PipelineError::Request(format!(
            "the tokenizer has {} tokens, the text encoder embeds {}; the checkpoint needs its own tokenizer \
             (metadata `qwen_nvfp4.tokenizer`, or a diffusers folder)",
            tokenizer.len(),
            config.vocab_size
        ))),
    }
}
