//! Which layer goes to which format: the rule files of comfy-dit-quantizer, unmodified.
//!
//! `{"block_names": [..], "rules": [{"policy": P, "match": [..]}, ..]}`. A weight is a candidate if its name holds one
//! of the block names; the first rule with a `match` that its name holds decides. Everything is a plain substring of the
//! tensor's full name: `transformer_blocks.1` also hits block 10. Source: `quantize.py` of
//! bedovyy/comfy-dit-quantizer and of its fork by lognat0704, whose `replace_names` is read too.

use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

/// Block names of a file that states none.
const BLOCK_NAMES: [&str; 3] = ["block", "transformer", "layer"];
/// Policies of comfy-dit-quantizer that this program cannot write.
const FOREIGN: [&str; 5] = [
    "float8_e5m2",
    "mxfp8",
    "int8_tensorwise",
    "int8_rowwise",
    "convrot_w4a4",
];
/// Top-level keys that steer nothing here. Markers are chosen on the command line, whatever `format` says.
const IGNORED: [&str; 2] = ["format", "float8_e4m3fn_auto_fallback"];

/// The policies that come with the program, by name.
const BUILT_IN: [(&str, &str); 9] = [
    ("v1", include_str!("../../configs/v1.json")),
    ("v2", include_str!("../../configs/v2.json")),
    ("v3", include_str!("../../configs/v3.json")),
    ("v4", include_str!("../../configs/v4.json")),
    ("v5", include_str!("../../configs/v5.json")),
    ("modelopt", include_str!("../../configs/modelopt.json")),
    ("sglang", include_str!("../../configs/sglang.json")),
    ("all-nvfp4", include_str!("../../configs/all-nvfp4.json")),
    ("fp8", include_str!("../../configs/fp8.json")),
];

/// What a rule does with a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// It stays as it is.
    Keep,
    /// FP8 E4M3 with one scale.
    Fp8,
    /// NVFP4.
    Nvfp4,
    /// A format of comfy-dit-quantizer that cannot be written here.
    Foreign(String),
}

/// A policy, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How messages and files call it.
    pub name: String,
    /// Top-level keys that were not understood, for a warning.
    pub unknown_keys: Vec<String>,
    block_names: Vec<String>,
    rules: Vec<Rule>,
    replace_names: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    target: Target,
    matches: Vec<String>,
}

/// What a policy says of a weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What to do with it.
    pub target: Target,
    /// The rule and the match that decided, as `rule 2: attn.to_k`; nothing where no rule did.
    pub rule: Option<String>,
}

/// Why a policy cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("policy {name}: {reason}")]
pub struct PolicyError {
    /// The file, or the name that was asked for.
    pub name: String,
    /// What is wrong, and what to do.
    pub reason: String,
}

impl Policy {
    /// A policy that comes with the program.
    pub fn built_in(name: &str) -> Option<Result<Self, PolicyError>> {
        let (name, json) = BUILT_IN.iter().find(|(n, _)| *n == name)?;
        Some(Self::parse(name, json))
    }

    /// Names of the policies that come with the program.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// Reads a policy's JSON.
    ///
    /// # Errors
    /// JSON of another form, no rules, or a policy word that means nothing: a misspelt `nvfp4` must not become `keep`.
    pub fn parse(name: &str, json: &str) -> Result<Self, PolicyError> {
        let refuse = |reason: String| PolicyError {
            name: name.to_owned(),
            reason,
        };
        let raw: Raw =
            serde_json::from_str(json).map_err(|e| refuse(format!("it is not a policy ({e})")))?;
        let Some(rules) = raw.rules else {
            return Err(refuse(
                "it has no `rules`; a policy is {\"block_names\": [..], \"rules\": [{\"policy\": .., \"match\": [..]}]}"
                    .to_owned(),
            ));
        };
        let rules = rules
            .into_iter()
            .enumerate()
            .map(|(i, rule)| {
                let target = match rule.policy.as_str() {
                    "keep" => Target::Keep,
                    "float8_e4m3fn" => Target::Fp8,
                    "nvfp4" => Target::Nvfp4,
                    word if FOREIGN.contains(&word) => Target::Foreign(word.to_owned()),
                    word => {
                        return Err(refuse(format!(
                            "rule {} says `{word}`; known are keep, float8_e4m3fn and nvfp4",
                            i + 1
                        )));
                    }
                };
                Ok(Rule {
                    target,
                    matches: rule.matches,
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            name: name.to_owned(),
            unknown_keys: raw.unknown,
            block_names: raw
                .block_names
                .unwrap_or_else(|| BLOCK_NAMES.map(str::to_owned).to_vec()),
            rules,
            replace_names: raw.replace_names,
        })
    }

    /// What happens to the two-dimensional float weight `tensor` (its full name in the file).
    pub fn decide(&self, tensor: &str) -> Decision {
        let candidate = self.block_names.iter().any(|b| tensor.contains(b.as_str()));
        let hit = self
            .rules
            .iter()
            .enumerate()
            .filter(|_| candidate)
            .find_map(|(i, rule)| {
                let by = rule.matches.iter().find(|m| tensor.contains(m.as_str()))?;
                Some((rule, format!("rule {}: {by}", i + 1)))
            });
        match hit {
            Some((rule, by)) => Decision {
                target: rule.target.clone(),
                rule: Some(by),
            },
            None => Decision {
                target: Target::Keep,
                rule: None,
            },
        }
    }

    /// The name that a tensor gets: the first prefix of `replace_names` that fits is exchanged.
    pub fn rename(&self, tensor: &str) -> String {
        let renamed = self
            .replace_names
            .iter()
            .find_map(|(old, new)| Some(format!("{new}{}", tensor.strip_prefix(old.as_str())?)));
        renamed.unwrap_or_else(|| tensor.to_owned())
    }
}

#[derive(Deserialize)]
struct RawRule {
    policy: String,
    #[serde(default, rename = "match")]
    matches: Vec<String>,
}

#[derive(Default)]
struct Raw {
    block_names: Option<Vec<String>>,
    rules: Option<Vec<RawRule>>,
    replace_names: Vec<(String, String)>,
    unknown: Vec<String>,
}

/// By hand, because the order of `replace_names` counts and a key that stands twice is a mistake.
impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with `rules`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
                let mut raw = Raw::default();
                let mut seen = std::collections::BTreeSet::new();
                while let Some(key) = map.next_key::<String>()? {
                    if !seen.insert(key.clone()) {
                        return Err(serde::de::Error::custom(format!("`{key}` stands twice")));
                    }
                    match key.as_str() {
                        "block_names" => raw.block_names = Some(map.next_value()?),
                        "rules" => raw.rules = Some(map.next_value()?),
                        "replace_names" => raw.replace_names = map.next_value::<Pairs>()?.0,
                        known => {
                            map.next_value::<serde::de::IgnoredAny>()?;
                            if !IGNORED.contains(&known) {
                                raw.unknown.push(key);
                            }
                        }
                    }
                }
                Ok(raw)
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

/// An object's entries in the order in which they are written.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of old prefix: new prefix")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const BLOCK: &str = "model.diffusion_model.transformer_blocks.10.";

    fn policy(json: &str) -> Policy {
        Policy::parse("test", json).unwrap()
    }

    #[test]
    fn the_first_match_decides_and_matches_are_substrings() {
        let v4 = Policy::built_in("v4").unwrap().unwrap();
        for (layer, target) in [
            ("attn.to_q", Target::Nvfp4),
            ("attn.to_v", Target::Fp8),
            ("attn.to_out.0", Target::Fp8),
            ("attn.to_add_out", Target::Keep),
            ("attn.add_q_proj", Target::Keep),
            ("img_mlp.net.2", Target::Nvfp4),
            ("txt_mlp.net.2", Target::Fp8),
            ("img_mod.1", Target::Fp8),
        ] {
            assert_eq!(v4.decide(&format!("{BLOCK}{layer}.weight")).target, target);
        }
        assert_eq!(v4.decide("img_in.weight").target, Target::Keep);
        let trap = policy(
            r#"{"rules": [{"policy": "keep", "match": ["blocks.1"]}, {"policy": "nvfp4", "match": [""]}]}"#,
        );
        let decision = trap.decide(&format!("{BLOCK}attn.to_q.weight"));
        assert_eq!(
            (decision.target, decision.rule.as_deref()),
            (Target::Keep, Some("rule 1: blocks.1"))
        );
        assert_eq!(
            trap.decide("transformer_blocks.2.x.weight").target,
            Target::Nvfp4
        );
    }

    #[test]
    fn nothing_is_guessed() {
        for (json, word) in [
            (
                r#"{"rules": [{"policy": "nvpf4", "match": [""]}]}"#,
                "nvpf4",
            ),
            (r#"{"block_names": ["x"]}"#, "no `rules`"),
            (r#"{"rules": 3}"#, "not a policy"),
            (r#"{"rules": [], "rules": []}"#, "twice"),
            ("[]", "not a policy"),
            ("", "not a policy"),
        ] {
            let error = Policy::parse("p.json", json).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("p.json"), "{error}");
        }
        let foreign =
            policy(r#"{"rules": [{"policy": "mxfp8", "match": [""]}], "extra": {"a": 1}}"#);
        assert_eq!(
            foreign.decide("layer.weight").target,
            Target::Foreign("mxfp8".to_owned())
        );
        assert_eq!(foreign.unknown_keys, ["extra"]);
    }

    #[test]
    fn names_are_replaced_in_the_order_of_the_file() {
        let p = policy(
            r#"{"rules": [], "replace_names": {"model.b": "x", "model": "y", "model.a": "z"}}"#,
        );
        assert_eq!(p.rename("model.b.weight"), "x.weight");
        assert_eq!(p.rename("model.a.weight"), "y.a.weight");
        assert_eq!(p.rename("other"), "other");
    }
}
