//! Groups of layers that change their format together, and policies that name them.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::bench::layer_errors::{depth, place, third};
use crate::bench::teacher::Lesson;
use crate::checkpoint::Weights;
use crate::numerics::nvfp4::BLOCK;

/// What makes a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// Layers of one type, as `attn.to_q`.
    Type,
    /// Layers of one type in one third of the depth.
    TypeThird,
}

/// Layers that change their format together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// As `attn.to_q`.
    pub layer_type: String,
    /// The third of the depth, from 0; nothing for all of it.
    pub third: Option<usize>,
    /// Names without the component's prefix, by block.
    pub layers: Vec<String>,
}

impl Group {
    /// As `attn.to_q` or `attn.to_q 2/3`.
    pub fn name(&self) -> String {
        match self.third {
            Some(third) => format!("{} {}/3", self.layer_type, third + 1),
            None => self.layer_type.clone(),
        }
    }
}

/// The groups of all layers that ran in `lesson` and can be NVFP4: those of the blocks whose sides are multiples of 16. What
/// ComfyUI forbids (`img_in`) and what never runs (the last block's text output) is in none.
pub fn groups(lesson: &Lesson, weights: &Weights, by: By) -> Vec<Group> {
    let fits = |layer: &&String| {
        let sides = super::super::layer_errors::sides(weights, layer);
        sides.is_some_and(|(n, k)| n.is_multiple_of(BLOCK) && k.is_multiple_of(BLOCK))
    };
    let ran = || lesson.calls.keys().map(String::as_str);
    let blocks = depth(ran());
    let mut found: Vec<(usize, String, Option<usize>, String)> = lesson
        .calls
        .keys()
        .filter(fits)
        .filter_map(|layer| {
            let (block, layer_type) = place(layer)?;
            let third = (by == By::TypeThird).then(|| third(block, blocks));
            Some((block, layer_type.to_owned(), third, layer.clone()))
        })
        .collect();
    found.sort();
    let mut groups: Vec<Group> = Vec::new();
    for (_, layer_type, third, layer) in found {
        let known = groups
            .iter_mut()
            .find(|g| g.layer_type == layer_type && g.third == third);
        match known {
            Some(group) => group.layers.push(layer),
            None => groups.push(Group {
                layer_type,
                third,
                layers: vec![layer],
            }),
        }
    }
    groups.sort_by(|a, b| (&a.layer_type, a.third).cmp(&(&b.layer_type, b.third)));
    groups
}

/// The policy of comfy-dit-quantizer that sends `nvfp4` (layers without prefix) to NVFP4 and every other linear of the
/// `blocks` blocks to FP8. A type that is there in every block is named once.
///
/// Matches end with a dot, and so do their block numbers: they are substrings, and `blocks.1` would be block 10 too.
pub fn policy_json(nvfp4: &[&str], blocks: usize) -> String {
    let mut types: Vec<&str> = nvfp4.iter().filter_map(|l| Some(place(l)?.1)).collect();
    types.sort_unstable();
    types.dedup();
    let mut matches = Vec::new();
    for layer_type in types {
        let of_type = nvfp4.iter().filter_map(|layer| match place(layer) {
            Some((block, found)) if found == layer_type => Some(block),
            _ => None,
        });
        let mut numbers: Vec<usize> = of_type.collect();
        numbers.sort_unstable();
        numbers.dedup();
        match numbers.len() == blocks {
            true => matches.push(format!(".{layer_type}.")),
            false => {
                let names = numbers.iter();
                matches.extend(names.map(|n| format!("transformer_blocks.{n}.{layer_type}.")));
            }
        }
    }
    let rule = |policy: &str, matches: String| {
        format!("    {{ \"policy\": \"{policy}\", \"match\": {matches} }}")
    };
    let rules = [
        rule(
            "nvfp4",
            json!(matches).to_string().replace("\",\"", "\", \""),
        ),
        rule("float8_e4m3fn", "[\"\"]".to_owned()),
    ];
    format!(
        "{{\n  \"block_names\": [\"transformer_blocks\"],\n  \"rules\": [\n{}\n  ]\n}}\n",
        rules.join(",\n")
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::quantize::Policy;
    use crate::quantize::policy::Target;

    #[test]
    fn a_policy_hits_what_it_names_and_nothing_else() {
        let q: Vec<String> = (0..12)
            .map(|n| format!("transformer_blocks.{n}.attn.to_q"))
            .collect();
        let mut layers: Vec<&str> = q.iter().map(String::as_str).collect();
        layers.push("transformer_blocks.1.attn.to_out.0");
        let json = policy_json(&layers, 12);
        assert_eq!(json.matches("to_q").count(), 1, "{json}");
        let policy = Policy::parse("test", &json).unwrap();
        let decide = |layer: &str| {
            let name = format!("model.diffusion_model.{layer}.weight");
            policy.decide(&name).target
        };
        for n in 0..12 {
            let block = format!("transformer_blocks.{n}");
            assert_eq!(decide(&format!("{block}.attn.to_q")), Target::Nvfp4);
            assert_eq!(decide(&format!("{block}.attn.add_q_proj")), Target::Fp8);
            let out = decide(&format!("{block}.attn.to_out.0"));
            assert_eq!(out == Target::Nvfp4, n == 1, "{n}");
        }
        assert_eq!(decide("img_in"), Target::Keep);
        let none = Policy::parse("test", &policy_json(&[], 12)).unwrap();
        let weight = "transformer_blocks.0.attn.to_q.weight";
        assert_eq!(none.decide(weight).target, Target::Fp8);
    }
}
