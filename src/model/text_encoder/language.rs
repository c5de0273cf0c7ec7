//! The language model of Qwen2.5-VL, text path: token ids in, last hidden state out.
//!
//! Source: transformers' `modeling_qwen2_5_vl.py`. Its rotary positions have three rows (time, height, width);
//! for text the three are equal, which makes them the plain positions 0, 1, 2, ...

use candle_core::Tensor;
use candle_nn::rotary_emb::rope_thd;

use super::super::ModelError;
use super::super::config::TextEncoderConfig;
use crate::checkpoint::{TensorView, Weights};
use crate::context::Cx;
use crate::ops::attention::{Attention, Keys};
use crate::ops::{Linear, activation, norm};

/// The decoder stack without its head.
pub struct LanguageModel {
    embed_tokens: TensorView,
    layers: Vec<Layer>,
    norm: Tensor,
    config: TextEncoderConfig,
}

impl LanguageModel {
    /// Loads `model.embed_tokens`, `model.layers.N` and `model.norm`; vision tower and head are left alone.
    ///
    /// # Errors
    /// A missing or misshapen tensor, or a layer whose format cannot be executed.
    pub fn load(weights: &Weights, config: &TextEncoderConfig) -> Result<Self, ModelError> {
        let model = weights.pp("model");
        let h = config.hidden_size;
        let layers = model.pp("layers");
        Ok(Self {
            embed_tokens: model.view("embed_tokens.weight", &[config.vocab_size, h])?,
            layers: (0..config.num_hidden_layers)
                .map(|i| Layer::load(&layers.pp(i), config))
                .collect::<Result<_, _>>()?,
            norm: model.tensor("norm.weight", &[h])?,
            config: config.clone(),
        })
    }

    /// The last hidden state, after the final norm: `ids` (one prompt, S tokens) to `[1, S, hidden_size]`.
    ///
    /// Prompts are encoded one by one: without padding there is nothing to mask, and a prompt's embedding
    /// cannot depend on its neighbours in a batch.
    ///
    /// # Errors
    /// An id outside of the vocabulary, or [`ModelError::Cancelled`].
    pub fn forward(&self, ids: &[u32], cx: &Cx) -> Result<Tensor, ModelError> {
        let mut h = self.embed(ids)?;
        let (cos, sin) = self.rope(ids.len())?;
        for (i, layer) in self.layers.iter().enumerate() {
            if cx.cancel.is_cancelled() {
                return Err(ModelError::Cancelled);
            }
            h = layer.forward(&h, (&cos, &sin), cx)?;
            cx.observer.stage(&format!("model.layers.{i}"), &h);
        }
        Ok(norm::rms_norm(&h, &self.norm, self.config.rms_norm_eps)?)
    }

    /// Rows of the embedding, widened one by one: at full size the table has 545 million numbers.
    fn embed(&self, ids: &[u32]) -> Result<Tensor, ModelError> {
        let width = self.config.hidden_size;
        let mut rows = vec![0.0; ids.len() * width];
        for (row, id) in rows.chunks_exact_mut(width).zip(ids) {
            let id = *id as usize;
            if id >= self.config.vocab_size {
                return Err(ModelError::Config {
                    component: crate::checkpoint::Component::TextEncoder,
                    reason: format!(
                        "token {id} is outside of its {} embeddings; the tokenizer belongs to another model",
                        self.config.vocab_size
                    ),
                });
            }
            self.embed_tokens.widen(id * width..(id + 1) * width, row)?;
        }
        Ok(Tensor::from_vec(
            rows,
            (1, ids.len(), width),
            &candle_core::Device::Cpu,
        )?)
    }

    /// Cosines and sines of positions 0..len, `[len, head_dim / 2]` each.
    fn rope(&self, len: usize) -> candle_core::Result<(Tensor, Tensor)> {
        let half = self.config.head_dim / 2;
        let angle = |p: usize, j: usize| {
            let frequency = self.config.rope_theta.powf(-(j as f64) / half as f64) as f32;
            p as f32 * frequency
        };
        let angles: Vec<f32> = (0..len)
            .flat_map(|p| (0..half).map(move |j| angle(p, j)))
            .collect();
        let angles = Tensor::from_vec(angles, (len, half), &candle_core::Device::Cpu)?;
        Ok((angles.cos()?, angles.sin()?))
    }
}

/// `model.layers.N`.
struct Layer {
    input_layernorm: Tensor,
    self_attn: SelfAttention,
    post_attention_layernorm: Tensor,
    mlp: Mlp,
    eps: f64,
}

impl Layer {
    fn load(weights: &Weights, config: &TextEncoderConfig) -> Result<Self, ModelError> {
        let norm = |name: &str| weights.tensor(&format!("{name}.weight"), &[config.hidden_size]);
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            self_attn: SelfAttention::load(&weights.pp("self_attn"), config)?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: Mlp::load(&weights.pp("mlp"), config)?,
            eps: config.rms_norm_eps,
        })
    }

    /// `h` `[1, S, hidden]` to the same shape.
    fn forward(
        &self,
        h: &Tensor,
        rope: (&Tensor, &Tensor),
        cx: &Cx,
    ) -> candle_core::Result<Tensor> {
        let normed = norm::rms_norm(h, &self.input_layernorm, self.eps)?;
        let h = (h + self.self_attn.forward(&normed, rope, cx)?)?;
        let normed = norm::rms_norm(&h, &self.post_attention_layernorm, self.eps)?;
        h + self.mlp.forward(&normed, cx)?
    }
}

/// Grouped-query causal attention.
struct SelfAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    attention: Attention,
    head_dim: usize,
}

impl SelfAttention {
    fn load(weights: &Weights, config: &TextEncoderConfig) -> Result<Self, ModelError> {
        let h = config.hidden_size;
        let (q, kv) = (
            config.num_attention_heads * config.head_dim,
            config.num_key_value_heads * config.head_dim,
        );
        Ok(Self {
            q_proj: Linear::load(&weights.pp("q_proj"), q, h, true)?,
            k_proj: Linear::load(&weights.pp("k_proj"), kv, h, true)?,
            v_proj: Linear::load(&weights.pp("v_proj"), kv, h, true)?,
            o_proj: Linear::load(&weights.pp("o_proj"), h, q, false)?,
            attention: Attention {
                heads: config.num_attention_heads,
                kv_heads: config.num_key_value_heads,
                keys: Keys::Causal,
            },
            head_dim: config.head_dim,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        (cos, sin): (&Tensor, &Tensor),
        cx: &Cx,
    ) -> candle_core::Result<Tensor> {
        // [1, S, heads * d] -> rotated halves per head -> [1, S, heads * d]
        let rotate = |x: Tensor| {
            let (b, s, width) = x.dims3()?;
            let heads = x.reshape((b, s, width / self.head_dim, self.head_dim))?;
            rope_thd(&heads, cos, sin)?.reshape((b, s, width))
        };
        let q = rotate(self.q_proj.forward(x, cx)?)?;
        let k = rotate(self.k_proj.forward(x, cx)?)?;
        let v = self.v_proj.forward(x, cx)?;
        let out = self.attention.forward(&q, &k, &v)?;
        self.o_proj.forward(&out, cx)
    }
}

/// SwiGLU: `down(silu(gate(x)) * up(x))`.
struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    fn load(weights: &Weights, config: &TextEncoderConfig) -> Result<Self, ModelError> {
        let (h, i) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            gate_proj: Linear::load(&weights.pp("gate_proj"), i, h, false)?,
            up_proj: Linear::load(&weights.pp("up_proj"), i, h, false)?,
            down_proj: Linear::load(&weights.pp("down_proj"), h, i, false)?,
        })
    }

    fn forward(&self, x: &Tensor, cx: &Cx) -> candle_core::Result<Tensor> {
        let gate = activation::silu_tensor(&self.gate_proj.forward(x, cx)?)?;
        let up = self.up_proj.forward(x, cx)?;
        self.down_proj.forward(&(gate * up)?, cx)
    }
}
