//! Which layer has which format: the rule files in `configs/`, read as `src/quantize/policy.rs` reads them.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::model::Stream;

/// Format of a weight, and of the activations that it is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// Two numbers in a byte, a scale per 16.
    Nvfp4,
    /// One byte.
    Fp8,
    /// Two bytes: what a policy keeps.
    Bf16,
}

impl Format {
    /// Bytes of a number, block scales included.
    pub fn bytes(self) -> f64 {
        match self {
            Self::Nvfp4 => 0.5 + 1.0 / 16.0,
            Self::Fp8 => 1.0,
            Self::Bf16 => 2.0,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
struct Rule {
    policy: String,
    #[serde(default, rename = "match")]
    matches: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct File {
    block_names: Vec<String>,
    rules: Vec<Rule>,
}

/// A rule file.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Name of the file, without its ending.
    pub name: String,
    file: File,
}

impl Policy {
    /// Reads `configs/NAME.json`.
    ///
    /// # Errors
    /// A file that cannot be read or has a format that is not modelled.
    pub fn read(configs: &Path, name: &str) -> Result<Self> {
        let path = configs.join(format!("{name}.json"));
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("reading {}", path.display()))?;
        Self::parse(name, &text).with_context(|| format!("reading {}", path.display()))
    }

    /// Reads the text of a rule file.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let file: File = serde_json::from_str(text)?;
        for rule in &file.rules {
            if !["keep", "float8_e4m3fn", "nvfp4"].contains(&rule.policy.as_str()) {
                bail!("{} is not modelled", rule.policy);
            }
        }
        Ok(Self {
            name: name.to_owned(),
            file,
        })
    }

    /// Format of a linear of block `block`: the first rule with a match that the tensor's name contains; bf16 if none has.
    pub fn format(&self, block: usize, linear: &str) -> Format {
        let tensor = format!("model.diffusion_model.transformer_blocks.{block}.{linear}.weight");
        let contains = |word: &String| tensor.contains(word.as_str());
        if !self.file.block_names.iter().any(contains) {
            return Format::Bf16;
        }
        let rule = self
            .file
            .rules
            .iter()
            .find(|r| r.matches.iter().any(contains));
        match rule.map(|r| r.policy.as_str()) {
            Some("nvfp4") => Format::Nvfp4,
            Some("float8_e4m3fn") => Format::Fp8,
            _ => Format::Bf16,
        }
    }

    /// Formats of a stream's linears in the order of [`Stream::names`].
    pub fn formats(&self, block: usize, stream: Stream) -> [Format; 7] {
        stream.names().map(|name| self.format(block, name))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn configs() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs")
    }

    #[test]
    fn the_variants() {
        use Format::{Bf16, Fp8, Nvfp4};
        let image = |name| {
            Policy::read(&configs(), name)
                .unwrap()
                .formats(7, Stream::Image)
        };
        let text = |name| {
            Policy::read(&configs(), name)
                .unwrap()
                .formats(7, Stream::Text)
        };
        assert_eq!(image("fp8"), [Fp8; 7]);
        assert_eq!(image("v3"), [Nvfp4, Nvfp4, Nvfp4, Nvfp4, Nvfp4, Nvfp4, Fp8]);
        assert_eq!(image("v4"), [Nvfp4, Nvfp4, Fp8, Fp8, Nvfp4, Nvfp4, Fp8]);
        assert_eq!(image("v5"), [Nvfp4, Nvfp4, Fp8, Fp8, Fp8, Nvfp4, Fp8]);
        assert_eq!(text("v5"), [Bf16, Bf16, Bf16, Bf16, Fp8, Fp8, Fp8]);
        assert_eq!(text("fp8"), [Fp8; 7]);
    }

    #[test]
    fn the_first_match_wins_and_blocks_count() {
        let policy = Policy::read(&configs(), "modelopt").unwrap();
        assert_eq!(policy.format(0, "attn.to_q"), Format::Bf16);
        assert_eq!(policy.format(10, "attn.to_q"), Format::Nvfp4);
        let unknown = r#"{"block_names": ["a"], "rules": [{"policy": "mxfp8", "match": [""]}]}"#;
        assert!(Policy::parse("x", unknown).is_err());
    }
}
