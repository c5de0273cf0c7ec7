//! A prompt's way to its embeddings: template, token ids, hidden states, and the template's part dropped.

use candle_core::{Device, Tensor};

use super::PipelineError;
use crate::context::Cx;
use crate::model::text_encoder::LanguageModel;
use crate::model::text_encoder::tokenizer::Tokenizer;

/// Tokens of a prompt that the transformer sees at most (`max_sequence_length` of diffusers' pipeline).
pub const MAX_SEQUENCE_LENGTH: usize = 512;

/// The frame that a prompt is put into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Template {
    /// That of Qwen-Image (diffusers `QwenImagePipeline`, ComfyUI `CLIPTextEncode`).
    TextToImage,
    /// That of Qwen-Image-Edit, which ComfyUI's `TextEncodeQwenImageEditPlus` uses without pictures too.
    Edit,
}

const TEXT_TO_IMAGE: &str = "Describe the image by detailing the color, shape, size, texture, quantity, text, \
                             spatial relationships of the objects and background:";
const EDIT: &str = "Describe the key features of the input image (color, shape, size, texture, objects, background), \
                    then explain how the user's text instruction should alter or modify the image. Generate a new \
                    image that meets the user's requirements while maintaining consistency with the original input \
                    where appropriate.";

/// What follows the prompt in both templates.
const TAIL: &str = "<|im_end|>\n<|im_start|>assistant\n";

impl Template {
    /// The whole text that is tokenized.
    pub fn fill(self, prompt: &str) -> String {
        let system = match self {
            Self::TextToImage => TEXT_TO_IMAGE,
            Self::Edit => EDIT,
        };
        format!("<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{prompt}{TAIL}")
    }
}

/// A prompt as token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptTokens {
    /// Ids of the filled template, cut at the limit.
    pub ids: Vec<u32>,
    /// How many of them belong to the template's head: their states are dropped.
    pub drop: usize,
    /// What the limit cut off the prompt itself, if anything; a lost part of the template's tail does not count.
    pub cut: Option<String>,
}

impl PromptTokens {
    /// Tokenizes `prompt` in its template.
    ///
    /// The head ends after the second `<|im_start|>`, `user` and a line break (ComfyUI's rule); with Qwen2.5's
    /// vocabulary that is diffusers' fixed 34 tokens, or 64 for the edit template. Where the prompt starts with a
    /// line break, which melts into that of the head, the two differ and diffusers' count is kept.
    ///
    /// # Errors
    /// [`PipelineError::Request`] where the tokenizer does not know the template's special tokens.
    pub fn new(
        tokenizer: &Tokenizer,
        template: Template,
        prompt: &str,
    ) -> Result<Self, PipelineError> {
        let mut ids = tokenizer.encode(&template.fill(prompt))?;
        let head = template.fill("");
        let head = &head[..head.len() - TAIL.len()];
        let drop = tokenizer.encode(head)?.len();
        let starts = |ids: &[u32]| {
            tokenizer
                .id("<|im_start|>")
                .map(|id| ids.iter().filter(|i| **i == id).count())
        };
        if starts(&ids[..drop.min(ids.len())]) != Some(2) {
            return Err(PipelineError::Request(
                "the tokenizer does not know `<|im_start|>`; it is not one of Qwen2".to_owned(),
            ));
        }
        let limit = drop + MAX_SEQUENCE_LENGTH;
        // The tail starts with a special token, so its ids do not depend on the prompt.
        let end = ids.len() - tokenizer.encode(TAIL)?.len();
        let cut = match end > limit {
            true => Some(tokenizer.decode(&ids[limit..end])?),
            false => None,
        };
        // What is cut could not reach the rest anyway: attention is causal.
        ids.truncate(limit);
        Ok(Self { ids, drop, cut })
    }
}

/// Embeddings of a batch of prompts.
pub struct PromptEmbeds {
    /// `[B, St, hidden]`, rows padded on the right with zeros.
    pub embeds: Tensor,
    /// Valid tokens of each row.
    pub lengths: Vec<usize>,
}

impl PromptEmbeds {
    /// Encodes each distinct prompt alone, drops the template's head, pads to the longest.
    ///
    /// # Errors
    /// Those of the model.
    pub fn encode(
        model: &LanguageModel,
        prompts: &[PromptTokens],
        cx: &Cx,
    ) -> Result<Self, PipelineError> {
        let mut rows: Vec<(&PromptTokens, Tensor)> = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            // The rows of a batch often share a prompt, the negative one always.
            let row = match rows.iter().find(|(known, _)| *known == prompt) {
                Some((_, row)) => row.clone(),
                None => {
                    let states = model.forward(&prompt.ids, cx)?;
                    states.narrow(1, prompt.drop, prompt.ids.len() - prompt.drop)?
                }
            };
            rows.push((prompt, row));
        }
        let rows: Vec<_> = rows.into_iter().map(|(_, row)| row).collect();
        let lengths = rows
            .iter()
            .map(|r| r.dim(1))
            .collect::<Result<Vec<_>, _>>()?;
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let rows = rows
            .into_iter()
            .map(|row| {
                let (_, len, hidden) = row.dims3()?;
                match longest - len {
                    0 => Ok(row),
                    missing => {
                        let padding =
                            Tensor::zeros((1, missing, hidden), row.dtype(), &Device::Cpu)?;
                        Tensor::cat(&[row, padding], 1)
                    }
                }
            })
            .collect::<candle_core::Result<Vec<_>>>()?;
        Ok(Self {
            embeds: Tensor::cat(&rows, 0)?,
            lengths,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// `prompt_template_encode_start_idx` of diffusers' pipelines.
    #[test]
    fn heads_are_as_long_as_diffusers_says() {
        let real = Tokenizer::qwen2_5().unwrap();
        let tiny = include_bytes!("../../models/tiny/tokenizer/tokenizer.json");
        let tiny = Tokenizer::from_json(tiny, "tiny").unwrap();
        for (tokenizer, template, drop) in [
            (&real, Template::TextToImage, 34),
            (&real, Template::Edit, 64),
            (&tiny, Template::TextToImage, 34),
        ] {
            for prompt in ["", "a cat", "<|im_start|>user\n odd", "\n\nbreaks"] {
                assert_eq!(
                    PromptTokens::new(tokenizer, template, prompt).unwrap().drop,
                    drop
                );
            }
        }
    }

    #[test]
    fn long_prompts_are_cut_and_say_what_was_lost() {
        let real = Tokenizer::qwen2_5().unwrap();
        let prompt = format!("{} and a tail", "cat ".repeat(511).trim_end());
        let tokens = PromptTokens::new(&real, Template::TextToImage, &prompt).unwrap();
        assert_eq!(tokens.ids.len(), 34 + MAX_SEQUENCE_LENGTH);
        assert_eq!(tokens.cut.as_deref(), Some(" a tail"));
        let short = PromptTokens::new(&real, Template::TextToImage, "a cat").unwrap();
        assert_eq!((short.ids.len(), short.cut), (34 + 2 + 5, None));
    }

    /// The limit may fall inside of the template's tail, or the lost text may look like that tail.
    #[test]
    fn only_words_of_the_user_count_as_cut() {
        let real = Tokenizer::qwen2_5().unwrap();
        let cut = |prompt: &str| {
            PromptTokens::new(&real, Template::TextToImage, prompt)
                .unwrap()
                .cut
        };
        for words in MAX_SEQUENCE_LENGTH - 5..=MAX_SEQUENCE_LENGTH {
            assert_eq!(cut("cat ".repeat(words).trim_end()), None, "{words} words");
        }
        let cats = "cat ".repeat(MAX_SEQUENCE_LENGTH);
        let lookalike = format!("{}{TAIL} end", cats.trim_end());
        assert_eq!(cut(&lookalike), Some(format!("{TAIL} end")));
    }
}
