//! Text to token ids: Qwen2's byte-level BPE, from a checkpoint's own files or from the embedded Qwen2.5 merges.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior};

/// Merges of Qwen2.5, one a line; `data/README.md` says where they come from.
static QWEN2_5_MERGES: &[u8] = include_bytes!("data/qwen2.5-merges.txt.gz");

/// Qwen2's pre-tokenizer (transformers' `tokenization_qwen2.py`): digits come one by one.
const SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Added tokens of Qwen2.5 in the order of their ids, which start at 151643; the first 14 are special.
const ADDED: [&str; 22] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
];
const SPECIAL: usize = 14;

/// A tokenizer that cannot be built or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file that cannot be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A definition that makes no tokenizer.
    #[error("the tokenizer {what} cannot be used: {reason}")]
    Definition {
        /// Which one.
        what: String,
        /// The library's reason.
        reason: String,
    },
    /// A text that cannot be split.
    #[error("the text cannot be tokenized: {0}")]
    Encode(String),
}

/// Text to token ids.
pub struct Tokenizer(tokenizers::Tokenizer);

impl Tokenizer {
    /// From the bytes of a `tokenizer.json`; `what` names it in messages.
    ///
    /// # Errors
    /// Where it defines no tokenizer.
    pub fn from_json(json: &[u8], what: &str) -> Result<Self, TokenizerError> {
        match tokenizers::Tokenizer::from_bytes(json) {
            Ok(mut tokenizer) => {
                // transformers saves the limit and padding of its last call along; they are none of the model's.
                tokenizer
                    .with_truncation(None)
                    .map_err(|e| definition(what, &e))?;
                tokenizer.with_padding(None);
                Ok(Self(tokenizer))
            }
            Err(e) => Err(definition(what, &e)),
        }
    }

    /// From a folder as transformers writes it: `tokenizer.json`, else `vocab.json` with `merges.txt`. To these
    /// come the added tokens of `tokenizer_config.json` (`added_tokens_decoder`), or Qwen2.5's where it lists none.
    ///
    /// # Errors
    /// Where neither is there, they define no tokenizer, or an added token would get another id than the folder says.
    pub fn from_folder(folder: &Path) -> Result<Self, TokenizerError> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).map_err(|source| TokenizerError::Io { path, source })
        };
        let json = folder.join("tokenizer.json");
        if json.is_file() {
            return Self::from_json(&read("tokenizer.json")?, &json.display().to_string());
        }
        let what = folder.display().to_string();
        let vocab: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&read("vocab.json")?).map_err(|e| definition(&what, &e))?;
        let vocab = vocab
            .into_iter()
            .map(|(token, id)| Some((token, u32::try_from(id.as_u64()?).ok()?)))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| {
                definition(&what, &"vocab.json maps a token to something that is no id")
            })?;
        let merges = String::from_utf8(read("merges.txt")?).map_err(|e| definition(&what, &e))?;
        let config = folder.join("tokenizer_config.json");
        let declared = match config.is_file() {
            true => {
                serde_json::from_slice::<TokenizerConfig>(&read("tokenizer_config.json")?)
                    .map_err(|e| definition(&config.display().to_string(), &e))?
                    .added_tokens_decoder
            }
            false => BTreeMap::new(),
        };
        if declared.is_empty() {
            return Self::build(vocab, &merges, added_of_qwen2_5(), &what);
        }
        let tokenizer = Self::build(vocab, &merges, declared.values().cloned().collect(), &what)?;
        for (id, token) in &declared {
            let found = tokenizer.id(&token.content);
            if found != Some(*id) {
                let reason = format!(
                    "{} is declared as {id} but becomes {found:?}",
                    token.content
                );
                return Err(definition(&what, &reason));
            }
        }
        Ok(tokenizer)
    }

    /// Qwen2.5's own, embedded in the program.
    ///
    /// # Errors
    /// None that a build which passes its tests can meet.
    pub fn qwen2_5() -> Result<Self, TokenizerError> {
        let what = "of Qwen2.5";
        let mut merges = String::new();
        GzDecoder::new(QWEN2_5_MERGES)
            .read_to_string(&mut merges)
            .map_err(|e| definition(what, &e))?;
        // Ids follow from the merges: the 256 bytes, then one token per merge.
        let tokens = byte_tokens().chain(merges.lines().map(|m| m.replacen(' ', "", 1)));
        let vocab = tokens.zip(0u32..).collect();
        Self::build(vocab, &merges, added_of_qwen2_5(), what)
    }

    fn build(
        vocab: Vec<(String, u32)>,
        merges: &str,
        added: Vec<AddedToken>,
        what: &str,
    ) -> Result<Self, TokenizerError> {
        let merges = merges
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with("#version"))
            .map(|line| {
                let (a, b) = line.split_once(' ')?;
                Some((a.to_owned(), b.to_owned()))
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| definition(what, &"a merge is not two tokens"))?;
        let bpe = BPE::builder()
            .vocab_and_merges(
                vocab
                    .into_iter()
                    .collect::<tokenizers::models::bpe::Vocab>(),
                merges,
            )
            .build()
            .map_err(|e| definition(what, &e))?;
        let split = Split::new(
            SplitPattern::Regex(SPLIT.to_owned()),
            SplitDelimiterBehavior::Isolated,
            false,
        )
        .map_err(|e| definition(what, &e))?;
        let bytes = ByteLevel::new(false, false, false);
        let steps: Vec<PreTokenizerWrapper> = vec![split.into(), bytes.into()];
        let mut tokenizer = tokenizers::Tokenizer::new(bpe);
        tokenizer
            .with_normalizer(Some(NFC))
            .map_err(|e| definition(what, &e))?
            .with_pre_tokenizer(Some(Sequence::new(steps)));
        tokenizer
            .add_tokens(added)
            .map_err(|e| definition(what, &e))?;
        Ok(Self(tokenizer))
    }

    /// The ids of `text`. Special tokens inside of it are taken as such, as transformers does.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        match self.0.encode_fast(text, false) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(e) => Err(TokenizerError::Encode(e.to_string())),
        }
    }

    /// The text of `ids`, special tokens included.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        // The byte-level decoder by hand: a built tokenizer has none, and a piece may end inside of a character.
        let mut bytes = Vec::new();
        for id in ids {
            let Some(token) = self.0.id_to_token(*id) else {
                return Err(TokenizerError::Encode(format!("{id} is no token")));
            };
            match self.0.get_added_vocabulary().is_special_token(&token) {
                true => bytes.extend_from_slice(token.as_bytes()),
                false => bytes.extend(token.chars().filter_map(byte_of)),
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The id of one token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }

    /// Tokens in all, added ones included.
    pub fn len(&self) -> usize {
        self.0.get_vocab_size(true)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What is read of `tokenizer_config.json`.
#[derive(serde::Deserialize)]
struct TokenizerConfig {
    #[serde(default)]
    added_tokens_decoder: BTreeMap<u32, AddedToken>,
}

fn added_of_qwen2_5() -> Vec<AddedToken> {
    let token =
        |(i, token): (usize, &&str)| AddedToken::from(*token, i < SPECIAL).normalized(false);
    ADDED.iter().enumerate().map(token).collect()
}

fn definition(what: &str, reason: &dyn std::fmt::Display) -> TokenizerError {
    TokenizerError::Definition {
        what: what.to_owned(),
        reason: reason.to_string(),
    }
}

/// Bytes that GPT-2 writes as themselves.
fn is_printable(byte: u32) -> bool {
    matches!(byte, 33..=126 | 161..=172 | 174..=255)
}

/// The 256 single-byte tokens in GPT-2's order: printable bytes as themselves, then the rest from U+0100 on.
fn byte_tokens() -> impl Iterator<Item = String> {
    let printable = (0..256).filter(|b| is_printable(*b));
    let rest = (0..256).filter(|b| !is_printable(*b)).count() as u32;
    printable
        .chain(256..256 + rest)
        .filter_map(char::from_u32)
        .map(String::from)
}

/// The byte that a character of a byte-level token stands for.
fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    if is_printable(code) {
        return u8::try_from(code).ok();
    }
    let hidden = (0..256)
        .filter(|b| !is_printable(*b))
        .nth(code.checked_sub(256)? as usize)?;
    u8::try_from(hidden).ok()
}
