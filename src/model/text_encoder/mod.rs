//! Qwen2.5-VL as the prompt encoder: text to token ids to the last hidden state.

mod language;
pub mod tokenizer;

pub use language::LanguageModel;
