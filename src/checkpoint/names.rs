//! Every spelling of a tensor's name to its component and canonical name.
//!
//! Canonical names are diffusers' (transformer, VAE) and the saved form of transformers (text encoder:
//! `model.layers...`, `visual...`). One function serves every kind of file: ComfyUI's all-in-one prefixes, the
//! separate files without prefix, both spellings of the text encoder, and the VAE's original Wan names.

use super::Component;

/// Prefixes that say which component follows.
const PREFIXES: &[(&str, Component)] = &[
    ("model.diffusion_model.", Component::Transformer),
    (
        "text_encoders.qwen25_7b.transformer.",
        Component::TextEncoder,
    ),
    ("text_encoders.qwen25_7b.", Component::TextEncoder),
    ("vae.", Component::Vae),
];

/// First parts of names without prefix.
const ROOTS: &[(&str, Component)] = &[
    ("transformer_blocks", Component::Transformer),
    ("img_in", Component::Transformer),
    ("txt_in", Component::Transformer),
    ("txt_norm", Component::Transformer),
    ("time_text_embed", Component::Transformer),
    ("norm_out", Component::Transformer),
    ("proj_out", Component::Transformer),
    ("__index_timestep_zero__", Component::Transformer),
    ("model", Component::TextEncoder),
    ("visual", Component::TextEncoder),
    ("lm_head", Component::TextEncoder),
    ("logit_scale", Component::TextEncoder),
    ("encoder", Component::Vae),
    ("decoder", Component::Vae),
    ("quant_conv", Component::Vae),
    ("post_quant_conv", Component::Vae),
    ("conv1", Component::Vae),
    ("conv2", Component::Vae),
];

/// How the names of one set of files are to be read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names {
    /// Residual blocks per decoder stage plus its upsampler, where the VAE has Wan names.
    wan_stage: Option<usize>,
}

impl Names {
    /// Looks at all names of a set of files.
    pub fn of<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        // The first upsampler in Wan's flat list ends the first stage.
        let stage = |name: &str| {
            let (_, rest) = name.split_once("decoder.upsamples.")?;
            let (j, rest) = rest.split_once('.')?;
            rest.starts_with("resample.")
                .then(|| j.parse::<usize>().ok())?
        };
        let first = names.filter_map(stage).min();
        Self {
            wan_stage: first.and_then(|j| j.checked_add(1)),
        }
    }

    /// Whether a prefix says which component `name` belongs to.
    pub fn has_prefix(name: &str) -> bool {
        PREFIXES.iter().any(|(prefix, _)| name.starts_with(prefix))
    }

    /// The component and canonical name of `name`; None for a tensor of something else.
    pub fn place(&self, name: &str) -> Option<(Component, String)> {
        let prefixed = PREFIXES
            .iter()
            .find_map(|(prefix, c)| Some((name.strip_prefix(prefix)?, *c)));
        let (rest, component) = prefixed.or_else(|| {
            let root = name.split_once('.').map_or(name, |(root, _)| root);
            let (_, component) = ROOTS.iter().find(|(r, _)| *r == root)?;
            Some((name, *component))
        })?;
        let canonical = match component {
            Component::Transformer => rest.to_owned(),
            Component::TextEncoder => text_encoder(rest),
            Component::Vae => self.vae(rest),
        };
        Some((component, canonical))
    }

    /// Wan's names to diffusers' (`AutoencoderKLQwenImage`); diffusers' names stay.
    fn vae(&self, name: &str) -> String {
        let Some(stage) = self.wan_stage else {
            return name.to_owned();
        };
        let (root, rest) = name.split_once('.').unwrap_or((name, ""));
        match root {
            "conv1" => return format!("quant_conv.{rest}"),
            "conv2" => return format!("post_quant_conv.{rest}"),
            _ => {}
        }
        let parts: Vec<&str> = rest.split('.').collect();
        let tail = |n: usize| parts[n..].join(".");
        let index = |n: usize| parts.get(n).and_then(|p| p.parse::<usize>().ok());
        match (parts[0], index(1)) {
            ("conv1", _) => format!("{root}.conv_in.{}", tail(1)),
            ("head", Some(0)) => format!("{root}.norm_out.{}", tail(2)),
            ("head", Some(2)) => format!("{root}.conv_out.{}", tail(2)),
            ("middle", Some(1)) => format!("{root}.mid_block.attentions.0.{}", tail(2)),
            ("middle", Some(i)) => {
                format!(
                    "{root}.mid_block.resnets.{}.{}",
                    i / 2,
                    residual(&parts[2..])
                )
            }
            ("downsamples", Some(j)) => {
                format!("{root}.down_blocks.{j}.{}", residual(&parts[2..]))
            }
            ("upsamples", Some(j)) => match (j / stage, j % stage) {
                (block, i) if i + 1 == stage => {
                    format!("{root}.up_blocks.{block}.upsamplers.0.{}", tail(2))
                }
                (block, i) => {
                    format!(
                        "{root}.up_blocks.{block}.resnets.{i}.{}",
                        residual(&parts[2..])
                    )
                }
            },
            _ => name.to_owned(),
        }
    }
}

/// The inside of a Wan residual block; resamplers keep their names.
fn residual(parts: &[&str]) -> String {
    let name = match parts {
        ["residual", "0", ..] => "norm1",
        ["residual", "2", ..] => "conv1",
        ["residual", "3", ..] => "norm2",
        ["residual", "6", ..] => "conv2",
        ["shortcut", rest @ ..] => return format!("conv_shortcut.{}", rest.join(".")),
        _ => return parts.join("."),
    };
    format!("{name}.{}", parts[2..].join("."))
}

/// transformers 5 nests what was saved flat before.
fn text_encoder(name: &str) -> String {
    if let Some(rest) = name.strip_prefix("model.language_model.") {
        return format!("model.{rest}");
    }
    match name.strip_prefix("model.visual.") {
        Some(rest) => format!("visual.{rest}"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The rule of ComfyUI and diffusers for the published VAE (two residual blocks per stage).
    #[test]
    fn spellings_meet() {
        let names = Names::of(["vae.decoder.upsamples.3.resample.1.weight"].into_iter());
        for (name, component, canonical) in [
            (
                "model.diffusion_model.img_in.weight",
                Component::Transformer,
                "img_in.weight",
            ),
            (
                "transformer_blocks.3.attn.to_q.weight",
                Component::Transformer,
                "transformer_blocks.3.attn.to_q.weight",
            ),
            (
                "text_encoders.qwen25_7b.transformer.model.norm.weight",
                Component::TextEncoder,
                "model.norm.weight",
            ),
            (
                "text_encoders.qwen25_7b.logit_scale",
                Component::TextEncoder,
                "logit_scale",
            ),
            (
                "model.language_model.norm.weight",
                Component::TextEncoder,
                "model.norm.weight",
            ),
            (
                "model.visual.merger.ln_q.weight",
                Component::TextEncoder,
                "visual.merger.ln_q.weight",
            ),
            ("vae.conv1.weight", Component::Vae, "quant_conv.weight"),
            ("conv2.bias", Component::Vae, "post_quant_conv.bias"),
            (
                "vae.encoder.conv1.bias",
                Component::Vae,
                "encoder.conv_in.bias",
            ),
            (
                "vae.decoder.head.0.gamma",
                Component::Vae,
                "decoder.norm_out.gamma",
            ),
            (
                "vae.decoder.head.2.weight",
                Component::Vae,
                "decoder.conv_out.weight",
            ),
            (
                "vae.decoder.middle.0.residual.0.gamma",
                Component::Vae,
                "decoder.mid_block.resnets.0.norm1.gamma",
            ),
            (
                "vae.decoder.middle.1.to_qkv.weight",
                Component::Vae,
                "decoder.mid_block.attentions.0.to_qkv.weight",
            ),
            (
                "vae.decoder.middle.2.residual.6.bias",
                Component::Vae,
                "decoder.mid_block.resnets.1.conv2.bias",
            ),
            (
                "vae.encoder.downsamples.3.shortcut.weight",
                Component::Vae,
                "encoder.down_blocks.3.conv_shortcut.weight",
            ),
            (
                "vae.encoder.downsamples.5.time_conv.weight",
                Component::Vae,
                "encoder.down_blocks.5.time_conv.weight",
            ),
            (
                "vae.decoder.upsamples.4.residual.2.weight",
                Component::Vae,
                "decoder.up_blocks.1.resnets.0.conv1.weight",
            ),
            (
                "vae.decoder.upsamples.7.time_conv.bias",
                Component::Vae,
                "decoder.up_blocks.1.upsamplers.0.time_conv.bias",
            ),
            (
                "vae.decoder.upsamples.14.residual.3.gamma",
                Component::Vae,
                "decoder.up_blocks.3.resnets.2.norm2.gamma",
            ),
        ] {
            assert_eq!(
                names.place(name),
                Some((component, canonical.to_owned())),
                "{name}"
            );
        }
        assert_eq!(names.place("lora_unet_blocks_0"), None);
        let plain = Names::default();
        let name = "decoder.up_blocks.0.resnets.0.conv1.weight";
        assert_eq!(plain.place(name).unwrap().1, name);
    }
}
