//! Canonical names back to those of a ComfyUI all-in-one file: its prefixes, and the VAE's original Wan names.

use super::Component;

/// How the decoder's flat list is counted: residual blocks per stage plus its upsampler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComfyNames {
    stage: usize,
}

impl ComfyNames {
    /// Looks at the canonical names of a VAE (others do no harm).
    pub fn of<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let resnet = |name: &str| {
            let rest = name.strip_prefix("decoder.up_blocks.0.resnets.")?;
            rest.split('.').next()?.parse::<usize>().ok()
        };
        // Three residual blocks and an upsampler in the published VAE.
        let last = names.filter_map(resnet).max().unwrap_or(2);
        Self {
            stage: last.saturating_add(2),
        }
    }

    /// The all-in-one name of a canonical name.
    pub fn name(&self, component: Component, canonical: &str) -> String {
        match component {
            Component::Transformer => format!("model.diffusion_model.{canonical}"),
            Component::TextEncoder if canonical == "logit_scale" => {
                format!("text_encoders.qwen25_7b.{canonical}")
            }
            Component::TextEncoder => format!("text_encoders.qwen25_7b.transformer.{canonical}"),
            Component::Vae => format!("vae.{}", self.wan(canonical)),
        }
    }

    /// diffusers' names (`AutoencoderKLQwenImage`) to Wan's; a name of another form stays.
    fn wan(&self, name: &str) -> String {
        let parts: Vec<&str> = name.split('.').collect();
        let number = |text: &str| text.parse::<usize>().ok();
        let renamed = match parts.as_slice() {
            ["quant_conv", rest @ ..] => Some(join("conv1", rest)),
            ["post_quant_conv", rest @ ..] => Some(join("conv2", rest)),
            [coder, "conv_in", rest @ ..] => Some(join(&format!("{coder}.conv1"), rest)),
            [coder, "norm_out", rest @ ..] => Some(join(&format!("{coder}.head.0"), rest)),
            [coder, "conv_out", rest @ ..] => Some(join(&format!("{coder}.head.2"), rest)),
            [coder, "mid_block", "attentions", "0", rest @ ..] => {
                Some(join(&format!("{coder}.middle.1"), rest))
            }
            [coder, "mid_block", "resnets", i, rest @ ..] => {
                number(i).map(|i| residual(&format!("{coder}.middle.{}", 2 * i), rest))
            }
            ["encoder", "down_blocks", j, rest @ ..] => {
                Some(residual(&format!("encoder.downsamples.{j}"), rest))
            }
            ["decoder", "up_blocks", b, "resnets", i, rest @ ..] => number(b)
                .zip(number(i))
                .map(|(b, i)| residual(&format!("decoder.upsamples.{}", b * self.stage + i), rest)),
            ["decoder", "up_blocks", b, "upsamplers", "0", rest @ ..] => number(b).map(|b| {
                let j = b * self.stage + self.stage - 1;
                join(&format!("decoder.upsamples.{j}"), rest)
            }),
            _ => None,
        };
        renamed.unwrap_or_else(|| name.to_owned())
    }
}

fn join(head: &str, rest: &[&str]) -> String {
    [&[head], rest].concat().join(".")
}

/// The inside of a residual block in Wan's names; resamplers keep theirs.
fn residual(head: &str, rest: &[&str]) -> String {
    let inner = match rest.first() {
        Some(&"norm1") => "residual.0",
        Some(&"conv1") => "residual.2",
        Some(&"norm2") => "residual.3",
        Some(&"conv2") => "residual.6",
        Some(&"conv_shortcut") => "shortcut",
        _ => return join(head, rest),
    };
    join(&format!("{head}.{inner}"), &rest[1..])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{Names, SafetensorsFile};
    use super::*;

    /// The tiny model's file has a real all-in-one's names: there and back they are the same.
    #[test]
    fn an_all_in_one_keeps_its_names() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("models/tiny/qwen-tiny-aio-fp8.safetensors");
        let file = SafetensorsFile::open(&path).unwrap();
        let there = Names::of(file.names());
        let placed: Vec<_> = file.names().map(|n| (n, there.place(n).unwrap())).collect();
        let back = ComfyNames::of(placed.iter().map(|(_, (_, canonical))| canonical.as_str()));
        for (name, (component, canonical)) in &placed {
            assert_eq!(back.name(*component, canonical), *name);
        }
        assert!(placed.len() > 500);
    }
}
