//! Sizes read from configuration JSON and tensor shapes. Both are asked where both exist, and must agree.

use serde_json::Value;

use super::super::ModelError;
use super::fields::{Fields, LARGEST, count};
use super::{SchedulerConfig, TextEncoderConfig, TransformerConfig, VaeConfig};
use crate::checkpoint::{Component, Weights};

/// Head width of every published Qwen-Image and Qwen2.5-VL.
const PUBLISHED_HEAD_DIM: usize = 128;
/// Rotary split of the published Qwen-Image.
const PUBLISHED_AXES: [usize; 3] = [16, 56, 56];
/// Latent statistics of the published VAE (Wan 2.1's; diffusers' `AutoencoderKLQwenImage` defaults, Apache-2.0).
const PUBLISHED_MEAN: [f32; 16] = [
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517,
    -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
];
/// As [`PUBLISHED_MEAN`].
const PUBLISHED_STD: [f32; 16] = [
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579,
    1.6382, 1.1253, 2.8251, 1.9160,
];

impl TransformerConfig {
    /// Reads the sizes of `weights`; `json` is `transformer/config.json` where there is one.
    ///
    /// # Errors
    /// [`ModelError::Config`] where the two contradict each other, ask for a variant that is not supported,
    /// or leave open how a head turns with the position.
    pub fn detect(weights: &Weights, json: Option<&Value>) -> Result<Self, ModelError> {
        let fields = Fields {
            component: Component::Transformer,
            json,
        };
        fields.class("QwenImageTransformer2DModel")?;
        for variant in [
            "guidance_embeds",
            "use_additional_t_cond",
            "use_layer3d_rope",
        ] {
            if fields.flag(variant)? {
                return Err(fields.refuse(format!(
                    "`{variant}` is set: that variant of Qwen-Image is not supported"
                )));
            }
        }
        let block = "transformer_blocks.0";
        let inner = fields.dim(weights, "img_in.weight", 0)?;
        let in_channels = fields.dim(weights, "img_in.weight", 1)?;
        let head_dim = fields.dim(weights, &format!("{block}.attn.norm_q.weight"), 0)?;
        if !inner.is_multiple_of(head_dim) {
            return Err(fields.refuse(format!(
                "its width {inner} is not a multiple of its head width {head_dim}"
            )));
        }
        let patch_size = fields.size("patch_size")?.unwrap_or(2);
        let packed = fields.dim(weights, "proj_out.weight", 0)?;
        let axes = fields.list(
            "axes_dims_rope",
            |v| Some(v.as_u64()?.min(LARGEST) as usize),
        )?;
        let axes_dims_rope = match (axes, head_dim) {
            (Some(axes), _) => <[usize; 3]>::try_from(axes).map_err(|axes| {
                fields.refuse(format!("`axes_dims_rope` has {} parts, not 3", axes.len()))
            })?,
            (None, PUBLISHED_HEAD_DIM) => PUBLISHED_AXES,
            (None, other) => {
                return Err(fields.refuse(format!(
                    "heads are {other} wide and no config says how they split into rotary axes; \
                     put `axes_dims_rope` into a config"
                )));
            }
        };
        if axes_dims_rope.iter().sum::<usize>() != head_dim
            || axes_dims_rope.iter().any(|d| d % 2 != 0)
        {
            return Err(fields.refuse(format!(
                "`axes_dims_rope` {axes_dims_rope:?} must be even numbers that sum to the head width {head_dim}"
            )));
        }
        let out_channels = packed / (patch_size * patch_size);
        if out_channels * patch_size * patch_size != packed || in_channels != packed {
            return Err(fields.refuse(format!(
                "{in_channels} packed channels go in and {packed} come out, with a patch of {patch_size}"
            )));
        }
        Ok(Self {
            num_layers: fields.agree("num_layers", count(weights, "transformer_blocks"))?,
            num_attention_heads: fields.agree("num_attention_heads", inner / head_dim)?,
            attention_head_dim: fields.agree("attention_head_dim", head_dim)?,
            in_channels: fields.agree("in_channels", in_channels)?,
            out_channels: fields.agree("out_channels", out_channels)?,
            patch_size,
            joint_attention_dim: fields.agree(
                "joint_attention_dim",
                fields.dim(weights, "txt_in.weight", 1)?,
            )?,
            mlp_dim: fields.dim(weights, &format!("{block}.img_mlp.net.0.proj.weight"), 0)?,
            axes_dims_rope,
        })
    }
}

impl TextEncoderConfig {
    /// Reads the sizes of `weights`; `json` is `text_encoder/config.json`, nested (`text_config`) or flat.
    ///
    /// # Errors
    /// [`ModelError::Config`] where the two contradict each other or the number of heads stays open.
    pub fn detect(weights: &Weights, json: Option<&Value>) -> Result<Self, ModelError> {
        let fields = Fields {
            component: Component::TextEncoder,
            json: json.map(|json| json.get("text_config").unwrap_or(json)),
        };
        let attn = "model.layers.0.self_attn";
        let q = fields.dim(weights, &format!("{attn}.q_proj.weight"), 0)?;
        let kv = fields.dim(weights, &format!("{attn}.k_proj.weight"), 0)?;
        let heads = fields.size("num_attention_heads")?;
        let head_dim = match (fields.size("head_dim")?, heads) {
            (Some(head_dim), _) => head_dim,
            (None, Some(heads)) => q / heads,
            (None, None) => PUBLISHED_HEAD_DIM,
        };
        if head_dim == 0
            || !q.is_multiple_of(head_dim)
            || !kv.is_multiple_of(head_dim)
            || head_dim % 2 != 0
        {
            return Err(fields.refuse(format!(
                "queries are {q} wide and keys {kv}: no whole number of heads of {head_dim}; it needs its config.json"
            )));
        }
        let (heads, kv_heads) = (q / head_dim, kv / head_dim);
        if !heads.is_multiple_of(kv_heads) {
            return Err(fields.refuse(format!(
                "{heads} query heads cannot share {kv_heads} key heads"
            )));
        }
        if fields.flag("use_sliding_window")? {
            return Err(
                fields.refuse("`use_sliding_window` is set, which is not supported".to_owned())
            );
        }
        if let Some(act) = fields.get("hidden_act").filter(|act| *act != "silu") {
            return Err(fields.refuse(format!("`hidden_act` is {act}, only silu is supported")));
        }
        let rope = Fields {
            component: Component::TextEncoder,
            json: fields.get("rope_parameters").or(fields.json),
        };
        let scaling = fields.get("rope_scaling").or(fields.get("rope_parameters"));
        let kind = scaling.and_then(|s| s.get("rope_type").or(s.get("type")));
        if let Some(kind) = kind.filter(|kind| *kind != "default" && *kind != "mrope") {
            return Err(fields.refuse(format!(
                "its rotary positions are scaled by {kind}, which is not supported"
            )));
        }
        Ok(Self {
            vocab_size: fields.agree(
                "vocab_size",
                fields.dim(weights, "model.embed_tokens.weight", 0)?,
            )?,
            hidden_size: fields.agree(
                "hidden_size",
                fields.dim(weights, "model.embed_tokens.weight", 1)?,
            )?,
            num_hidden_layers: fields.agree("num_hidden_layers", count(weights, "model.layers"))?,
            num_attention_heads: fields.agree("num_attention_heads", heads)?,
            num_key_value_heads: fields.agree("num_key_value_heads", kv_heads)?,
            head_dim,
            intermediate_size: fields.agree(
                "intermediate_size",
                fields.dim(weights, "model.layers.0.mlp.gate_proj.weight", 0)?,
            )?,
            // A config that leaves it out means its class's default, which is not the published model's.
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(if json.is_some() {
                1e-5
            } else {
                1e-6
            }),
            rope_theta: rope.number("rope_theta")?.unwrap_or(1e6),
        })
    }
}

impl VaeConfig {
    /// Reads the sizes of `weights` (diffusers names); `json` is `vae/config.json` where there is one.
    ///
    /// # Errors
    /// [`ModelError::Config`] where the two contradict each other, or latent statistics stay open.
    pub fn detect(weights: &Weights, json: Option<&Value>) -> Result<Self, ModelError> {
        let fields = Fields {
            component: Component::Vae,
            json,
        };
        fields.class("AutoencoderKLQwenImage")?;
        if fields
            .get("attn_scales")
            .and_then(Value::as_array)
            .is_some_and(|a| !a.is_empty())
        {
            return Err(
                fields.refuse("`attn_scales` is not empty, which is not supported".to_owned())
            );
        }
        let base_dim = fields.agree(
            "base_dim",
            fields.dim(weights, "encoder.conv_in.weight", 0)?,
        )?;
        let z_dim = fields.agree("z_dim", fields.dim(weights, "decoder.conv_in.weight", 1)?)?;
        let stages = count(weights, "decoder.up_blocks");
        // The decoder's stages mirror the encoder's; a stage is as wide as its first residual block's output.
        let mut dim_mult = Vec::new();
        let mut temporal_downsample = Vec::new();
        for stage in (0..stages).rev() {
            let block = format!("decoder.up_blocks.{stage}");
            let width = fields.dim(weights, &format!("{block}.resnets.0.conv1.weight"), 0)?;
            if !width.is_multiple_of(base_dim) {
                return Err(fields.refuse(format!(
                    "a stage is {width} wide, no multiple of {base_dim}"
                )));
            }
            dim_mult.push(width / base_dim);
            if stage + 1 < stages {
                let time = format!("{block}.upsamplers.0.time_conv.weight");
                temporal_downsample.push(weights.contains(&time));
            }
        }
        let stated = fields.list("dim_mult", |v| Some(v.as_u64()?.min(LARGEST) as usize))?;
        if stated.as_ref().is_some_and(|stated| *stated != dim_mult) {
            return Err(fields.refuse(format!(
                "`dim_mult` is {stated:?} but its tensors say {dim_mult:?}"
            )));
        }
        let stated = fields.list("temperal_downsample", Value::as_bool)?;
        if stated
            .as_ref()
            .is_some_and(|stated| *stated != temporal_downsample)
        {
            return Err(fields.refuse(format!(
                "`temperal_downsample` is {stated:?} but its tensors say {temporal_downsample:?}"
            )));
        }
        let resnets = count(weights, "decoder.up_blocks.0.resnets");
        if stages == 0 || resnets == 0 {
            return Err(weights
                .missing("decoder.up_blocks.0.resnets.0.conv1.weight")
                .into());
        }
        let statistics = |name: &str, published: &[f32; 16]| {
            let stated = fields.list(name, |v| Some(v.as_f64()? as f32))?;
            let values = match stated {
                Some(values) => values,
                None => published.to_vec(),
            };
            match values.len() == z_dim && values.iter().all(|v| v.is_finite()) {
                true => Ok(values),
                false => Err(fields.refuse(format!(
                    "`{name}` has {} values for {z_dim} latent channels; it needs its config.json",
                    values.len()
                ))),
            }
        };
        Ok(Self {
            base_dim,
            z_dim,
            dim_mult,
            num_res_blocks: fields.agree("num_res_blocks", resnets - 1)?,
            temporal_downsample,
            input_channels: fields.agree(
                "input_channels",
                fields.dim(weights, "decoder.conv_out.weight", 0)?,
            )?,
            latents_mean: statistics("latents_mean", &PUBLISHED_MEAN)?,
            latents_std: statistics("latents_std", &PUBLISHED_STD)?,
        })
    }
}

impl SchedulerConfig {
    /// Reads `scheduler/scheduler_config.json`; without one, the published schedule.
    ///
    /// # Errors
    /// [`ModelError::Config`] where it asks for another kind of schedule.
    pub fn detect(json: Option<&Value>) -> Result<Self, ModelError> {
        let fields = Fields {
            component: Component::Transformer,
            json,
        };
        let Some(json) = json else {
            return Ok(Self::default());
        };
        fields.class("FlowMatchEulerDiscreteScheduler")?;
        for unsupported in [
            "use_karras_sigmas",
            "use_exponential_sigmas",
            "use_beta_sigmas",
            "invert_sigmas",
            "stochastic_sampling",
        ] {
            if fields.flag(unsupported)? {
                return Err(fields.refuse(format!(
                    "the scheduler's `{unsupported}` is set, which is not supported"
                )));
            }
        }
        if json
            .get("time_shift_type")
            .and_then(Value::as_str)
            .is_some_and(|t| t != "exponential")
        {
            return Err(
                fields.refuse("the scheduler's `time_shift_type` is not `exponential`".to_owned())
            );
        }
        // What the file leaves out has the value of the class, not of the published config.
        let size = |name, default| Ok::<_, ModelError>(fields.size(name)?.unwrap_or(default));
        let number = |name, default| Ok::<_, ModelError>(fields.number(name)?.unwrap_or(default));
        let config = Self {
            use_dynamic_shifting: fields.flag("use_dynamic_shifting")?,
            shift: number("shift", 1.0)?,
            base_shift: number("base_shift", 0.5)?,
            max_shift: number("max_shift", 1.15)?,
            base_image_seq_len: size("base_image_seq_len", 256)?,
            max_image_seq_len: size("max_image_seq_len", 4096)?,
            shift_terminal: fields.number("shift_terminal")?,
            num_train_timesteps: size("num_train_timesteps", 1000)?,
        };
        let lengths = (config.base_image_seq_len, config.max_image_seq_len);
        if lengths.0 >= lengths.1 {
            return Err(fields.refuse(format!(
                "the scheduler's `base_image_seq_len` {} is not below `max_image_seq_len` {}",
                lengths.0, lengths.1
            )));
        }
        Ok(config)
    }
}
