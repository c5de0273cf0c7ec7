//! Every tensor that a model of given sizes consists of, under its canonical name.
//!
//! The loaders claim what they execute; this list is the whole, with what text-to-image leaves alone (the
//! vision tower, `time_conv`, the text half of the last block). [`inspect`](crate::inspect) holds a file
//! against it.

use super::config::{TextEncoderConfig, TransformerConfig, VaeConfig};
use crate::checkpoint::Weights;

/// Name and shape of a tensor.
pub type Expected = (String, Vec<usize>);

/// Collects names under a prefix.
#[derive(Default)]
struct List(Vec<Expected>);

impl List {
    fn add(&mut self, name: String, shape: &[usize]) {
        self.0.push((name, shape.to_vec()));
    }

    /// `weight` `[out, in]` and `bias`.
    fn linear(&mut self, name: &str, out: usize, input: usize) {
        self.add(format!("{name}.weight"), &[out, input]);
        self.add(format!("{name}.bias"), &[out]);
    }

    /// `weight` `[out, in, kernel..]` and `bias`.
    fn conv(&mut self, name: &str, (out, input): (usize, usize), kernel: &[usize]) {
        self.add(format!("{name}.weight"), &[&[out, input], kernel].concat());
        self.add(format!("{name}.bias"), &[out]);
    }
}

/// The MMDiT: 1933 tensors at full size.
pub fn transformer(config: &TransformerConfig) -> Vec<Expected> {
    let (d, mlp, head) = (
        config.inner_dim(),
        config.mlp_dim,
        config.attention_head_dim,
    );
    let patch = config.patch_size * config.patch_size * config.out_channels;
    let mut list = List::default();
    list.linear("img_in", d, config.in_channels);
    list.linear("txt_in", d, config.joint_attention_dim);
    list.add("txt_norm.weight".to_owned(), &[config.joint_attention_dim]);
    // 256 sinusoids, whatever the width (`Timesteps(num_channels=256)`).
    list.linear("time_text_embed.timestep_embedder.linear_1", d, 256);
    list.linear("time_text_embed.timestep_embedder.linear_2", d, d);
    list.linear("norm_out.linear", 2 * d, d);
    list.linear("proj_out", patch, d);
    for block in (0..config.num_layers).map(|i| format!("transformer_blocks.{i}")) {
        for layer in [
            "to_q",
            "to_k",
            "to_v",
            "to_out.0",
            "add_q_proj",
            "add_k_proj",
            "add_v_proj",
            "to_add_out",
        ] {
            list.linear(&format!("{block}.attn.{layer}"), d, d);
        }
        for norm in ["norm_q", "norm_k", "norm_added_q", "norm_added_k"] {
            list.add(format!("{block}.attn.{norm}.weight"), &[head]);
        }
        for stream in ["img", "txt"] {
            list.linear(&format!("{block}.{stream}_mod.1"), 6 * d, d);
            list.linear(&format!("{block}.{stream}_mlp.net.0.proj"), mlp, d);
            list.linear(&format!("{block}.{stream}_mlp.net.2"), d, mlp);
        }
    }
    list.0
}

/// The language model and, where its sizes are given, the vision tower: 728 tensors at full size.
///
/// `lm_head.weight` and `logit_scale` may come with it and serve nothing here: see [`is_optional`].
pub fn text_encoder(config: &TextEncoderConfig, vision: Option<&VisionSizes>) -> Vec<Expected> {
    let (h, mlp) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (
        config.num_attention_heads * config.head_dim,
        config.num_key_value_heads * config.head_dim,
    );
    let mut list = List::default();
    list.add(
        "model.embed_tokens.weight".to_owned(),
        &[config.vocab_size, h],
    );
    list.add("model.norm.weight".to_owned(), &[h]);
    for layer in (0..config.num_hidden_layers).map(|i| format!("model.layers.{i}")) {
        list.linear(&format!("{layer}.self_attn.q_proj"), q, h);
        list.linear(&format!("{layer}.self_attn.k_proj"), kv, h);
        list.linear(&format!("{layer}.self_attn.v_proj"), kv, h);
        list.add(format!("{layer}.self_attn.o_proj.weight"), &[h, q]);
        list.add(format!("{layer}.mlp.gate_proj.weight"), &[mlp, h]);
        list.add(format!("{layer}.mlp.up_proj.weight"), &[mlp, h]);
        list.add(format!("{layer}.mlp.down_proj.weight"), &[h, mlp]);
        list.add(format!("{layer}.input_layernorm.weight"), &[h]);
        list.add(format!("{layer}.post_attention_layernorm.weight"), &[h]);
    }
    if let Some(vision) = vision {
        vision.list(h, &mut list);
    }
    list.0
}

/// Names that are known, may be missing, and are not read.
pub fn is_optional(name: &str) -> bool {
    matches!(
        name,
        "lm_head.weight" | "logit_scale" | "scaled_fp8" | "__index_timestep_zero__"
    )
}

/// Sizes of Qwen2.5-VL's vision tower, which text-to-image does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VisionSizes {
    /// Blocks (32).
    pub depth: usize,
    /// Width (1280).
    pub hidden_size: usize,
    /// Hidden width of the MLPs (3420).
    pub intermediate_size: usize,
    /// Width of the merger: four patches side by side (5120).
    pub merged: usize,
    /// Channels, frames, height and width of a patch ([3, 2, 14, 14]).
    pub patch: Vec<usize>,
}

impl VisionSizes {
    /// Reads the sizes from the shapes; `None` where there is no vision tower, or not enough of it.
    pub fn detect(weights: &Weights) -> Option<Self> {
        let rows = |name: &str| weights.shape(name)?.first().copied();
        let index = |name: &str| -> Option<u32> {
            name.strip_prefix("visual.blocks.")?
                .split('.')
                .next()?
                .parse()
                .ok()
        };
        let last = weights.names().filter_map(index).max()?;
        let (hidden_size, patch) = weights
            .shape("visual.patch_embed.proj.weight")?
            .split_first()?;
        Some(Self {
            // A stray index must not make the list longer than the file.
            depth: (last as usize + 1).min(weights.names().count()),
            hidden_size: *hidden_size,
            intermediate_size: rows("visual.blocks.0.mlp.gate_proj.weight")?,
            merged: rows("visual.merger.mlp.0.weight")?,
            patch: patch.to_vec(),
        })
    }

    fn list(&self, out: usize, list: &mut List) {
        let (h, mlp) = (self.hidden_size, self.intermediate_size);
        list.add(
            "visual.patch_embed.proj.weight".to_owned(),
            &[&[h], &self.patch[..]].concat(),
        );
        for block in (0..self.depth).map(|i| format!("visual.blocks.{i}")) {
            list.linear(&format!("{block}.attn.qkv"), h.saturating_mul(3), h);
            list.linear(&format!("{block}.attn.proj"), h, h);
            list.linear(&format!("{block}.mlp.gate_proj"), mlp, h);
            list.linear(&format!("{block}.mlp.up_proj"), mlp, h);
            list.linear(&format!("{block}.mlp.down_proj"), h, mlp);
            list.add(format!("{block}.norm1.weight"), &[h]);
            list.add(format!("{block}.norm2.weight"), &[h]);
        }
        list.add("visual.merger.ln_q.weight".to_owned(), &[h]);
        list.linear("visual.merger.mlp.0", self.merged, self.merged);
        list.linear("visual.merger.mlp.2", out, self.merged);
    }
}

/// The VAE, both halves: 194 tensors at full size.
pub fn vae(config: &VaeConfig) -> Vec<Expected> {
    let mut list = List::default();
    list.encoder(config);
    list.decoder(config);
    list.0
}

/// Kernels in time, height and width.
const CUBE: [usize; 3] = [3, 3, 3];
const POINT: [usize; 3] = [1, 1, 1];
const TIME: [usize; 3] = [3, 1, 1];

impl List {
    fn encoder(&mut self, config: &VaeConfig) {
        let (base, z) = (config.base_dim, config.z_dim);
        self.conv("encoder.conv_in", (base, config.input_channels), &CUBE);
        let (mut index, mut c) = (0, base);
        for (stage, mult) in config.dim_mult.iter().enumerate() {
            let out = base * mult;
            for _ in 0..config.num_res_blocks {
                self.residual(&format!("encoder.down_blocks.{index}"), c, out);
                (c, index) = (out, index + 1);
            }
            if let Some(time) = config.temporal_downsample.get(stage) {
                let down = format!("encoder.down_blocks.{index}");
                self.conv(&format!("{down}.resample.1"), (out, out), &[3, 3]);
                if *time {
                    self.conv(&format!("{down}.time_conv"), (out, out), &TIME);
                }
                index += 1;
            }
        }
        self.middle("encoder", c);
        self.add("encoder.norm_out.gamma".to_owned(), &[c, 1, 1, 1]);
        self.conv("encoder.conv_out", (2 * z, c), &CUBE);
        self.conv("quant_conv", (2 * z, 2 * z), &POINT);
    }

    fn decoder(&mut self, config: &VaeConfig) {
        let z = config.z_dim;
        let widths: Vec<usize> = config
            .dim_mult
            .iter()
            .rev()
            .map(|m| m * config.base_dim)
            .collect();
        let mut c = widths.first().copied().unwrap_or(config.base_dim);
        self.conv("post_quant_conv", (z, z), &POINT);
        self.conv("decoder.conv_in", (c, z), &CUBE);
        self.middle("decoder", c);
        // The decoder mirrors the encoder: its first upsampler undoes the last downsampler.
        let mut times = config.temporal_downsample.iter().rev();
        for (stage, out) in widths.into_iter().enumerate() {
            let block = format!("decoder.up_blocks.{stage}");
            for i in 0..=config.num_res_blocks {
                self.residual(&format!("{block}.resnets.{i}"), c, out);
                c = out;
            }
            if let Some(time) = times.next() {
                let up = format!("{block}.upsamplers.0");
                self.conv(&format!("{up}.resample.1"), (out / 2, out), &[3, 3]);
                if *time {
                    self.conv(&format!("{up}.time_conv"), (2 * out, out), &TIME);
                }
                c = out / 2;
            }
        }
        self.add("decoder.norm_out.gamma".to_owned(), &[c, 1, 1, 1]);
        self.conv("decoder.conv_out", (config.input_channels, c), &CUBE);
    }

    fn residual(&mut self, name: &str, c: usize, out: usize) {
        self.add(format!("{name}.norm1.gamma"), &[c, 1, 1, 1]);
        self.conv(&format!("{name}.conv1"), (out, c), &CUBE);
        self.add(format!("{name}.norm2.gamma"), &[out, 1, 1, 1]);
        self.conv(&format!("{name}.conv2"), (out, out), &CUBE);
        if c != out {
            self.conv(&format!("{name}.conv_shortcut"), (out, c), &POINT);
        }
    }

    fn middle(&mut self, coder: &str, c: usize) {
        for i in 0..2 {
            self.residual(&format!("{coder}.mid_block.resnets.{i}"), c, c);
        }
        let attention = format!("{coder}.mid_block.attentions.0");
        self.add(format!("{attention}.norm.gamma"), &[c, 1, 1]);
        self.conv(&format!("{attention}.to_qkv"), (3 * c, c), &[1, 1]);
        self.conv(&format!("{attention}.proj"), (c, c), &[1, 1]);
    }
}
