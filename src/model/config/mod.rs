//! The sizes of a model: from config JSON where there is one, else from tensor shapes, else the published
//! Qwen-Image constants for what neither tells.

mod detect;
mod fields;

/// Sizes of the MMDiT (`transformer/config.json` of a diffusers folder).
#[derive(Clone, Debug, PartialEq)]
pub struct TransformerConfig {
    /// Blocks (60 at full size).
    pub num_layers: usize,
    /// Attention heads (24).
    pub num_attention_heads: usize,
    /// Width of a head (128).
    pub attention_head_dim: usize,
    /// Packed latent channels that go in (64 = 16 channels x 2 x 2 patch).
    pub in_channels: usize,
    /// Latent channels that come out (16), before packing.
    pub out_channels: usize,
    /// Side of a patch in latent pixels (2).
    pub patch_size: usize,
    /// Width of the prompt embeddings (3584).
    pub joint_attention_dim: usize,
    /// Hidden width of `img_mlp` and `txt_mlp` (4 x inner width).
    pub mlp_dim: usize,
    /// Parts of a head that turn with frame, height and width (16, 56, 56).
    pub axes_dims_rope: [usize; 3],
}

impl TransformerConfig {
    /// Width of both streams: heads x head width (3072).
    pub fn inner_dim(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }
}

/// Sizes of the Qwen2.5-VL language model (`text_encoder/config.json`, its `text_config` where nested).
#[derive(Clone, Debug, PartialEq)]
pub struct TextEncoderConfig {
    /// Rows of `embed_tokens` (152064).
    pub vocab_size: usize,
    /// Width (3584).
    pub hidden_size: usize,
    /// Layers (28).
    pub num_hidden_layers: usize,
    /// Query heads (28).
    pub num_attention_heads: usize,
    /// Key and value heads (4).
    pub num_key_value_heads: usize,
    /// Width of a head (128).
    pub head_dim: usize,
    /// Hidden width of the MLP (18944).
    pub intermediate_size: usize,
    /// Epsilon of the RMS norms (1e-6).
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies (1e6).
    pub rope_theta: f64,
}

/// Sizes and latent statistics of the VAE (`vae/config.json`).
#[derive(Clone, Debug, PartialEq)]
pub struct VaeConfig {
    /// Channels of the first stage (96).
    pub base_dim: usize,
    /// Latent channels (16).
    pub z_dim: usize,
    /// Channel multiples per stage ([1, 2, 4, 4]).
    pub dim_mult: Vec<usize>,
    /// Residual blocks per encoder stage (2); the decoder has one more.
    pub num_res_blocks: usize,
    /// Which encoder downsamplers also halve time ([false, true, true]); they carry an unused `time_conv`.
    pub temporal_downsample: Vec<bool>,
    /// Channels of a picture (3).
    pub input_channels: usize,
    /// Per-channel mean of the latents, `z_dim` values.
    pub latents_mean: Vec<f32>,
    /// Per-channel standard deviation of the latents, `z_dim` values.
    pub latents_std: Vec<f32>,
}

/// `FlowMatchEulerDiscreteScheduler` (`scheduler/scheduler_config.json`).
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerConfig {
    /// Whether the shift depends on the number of image tokens.
    pub use_dynamic_shifting: bool,
    /// Static shift where it does not.
    pub shift: f64,
    /// mu at `base_image_seq_len` tokens (0.5).
    pub base_shift: f64,
    /// mu at `max_image_seq_len` tokens (0.9).
    pub max_shift: f64,
    /// 256.
    pub base_image_seq_len: usize,
    /// 8192.
    pub max_image_seq_len: usize,
    /// Where the last step's sigma is stretched to (0.02), if anywhere.
    pub shift_terminal: Option<f64>,
    /// Training timesteps (1000).
    pub num_train_timesteps: usize,
}

impl Default for SchedulerConfig {
    /// The published Qwen-Image scheduler.
    fn default() -> Self {
        Self {
            use_dynamic_shifting: true,
            shift: 1.0,
            base_shift: 0.5,
            max_shift: 0.9,
            base_image_seq_len: 256,
            max_image_seq_len: 8192,
            shift_terminal: Some(0.02),
            num_train_timesteps: 1000,
        }
    }
}
