//! The language model of Qwen2.5-VL, text path: token ids in, last hidden state out.
//!
//! Source: transformers' `modeling_qwen2_5_vl.py`. Its rotary positions have three rows (time, height, width);
//! for text the three are equal, which makes them the plain positions 0, 1, 2, ...

use candle_core::{Device, Tensor};
use candle_nn::rotary_emb::rope_thd;

use super::super::ModelError;
use super::super::config::TextEncoderConfig;
use crate::checkpoint::{Component, Weights};
use crate::context::Cx;
use crate::ops::attention::{Attention, Keys};
use crate::ops::weight::Weight;
use crate::ops::{Linear, activation, norm};

/// The decoder stack without its head.
pub struct LanguageModel {
    embed_tokens: Embedding,
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
            embed_tokens: Embedding::load(&model.pp("embed_tokens"), config)?,
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
        let mut h = self.embed_tokens.forward(ids)?;
        cx.observer.stage("model.embed_tokens", &h);
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

    /// Cosines and sines of positions 0..len, `[len, head_dim / 2]` each.
    fn rope(&self, len: usize) -> candle_core::Result<(Tensor, Tensor)> {
        let frequencies = frequencies(self.config.rope_theta, self.config.head_dim);
        let frequencies = Tensor::from_iter(frequencies, &Device::Cpu)?;
        let positions = Tensor::from_iter((0..len).map(|p| p as f32), &Device::Cpu)?;
        let angles = positions
            .unsqueeze(1)?
            .broadcast_mul(&frequencies.unsqueeze(0)?)?;
        Ok((angles.cos()?, angles.sin()?))
    }
}

/// Rotary frequencies of a head, `dim / 2` of them.
///
/// Exponent, power and reciprocal are rounded to F32 one after the other, as torch does: at position 500 the last
/// bits of a frequency are 1e-4 of an angle.
fn frequencies(theta: f64, dim: usize) -> impl Iterator<Item = f32> {
    let theta = f64::from(theta as f32);
    (0..dim).step_by(2).map(move |i| {
        let exponent = i as f32 / dim as f32;
        1.0 / theta.powf(f64::from(exponent)) as f32
    })
}

/// `model.embed_tokens`: rows are widened one by one where they are asked for, as at full size the table has 545
/// million numbers. Converters that go by "FP8 and two-dimensional" give it a scale like any linear layer.
struct Embedding {
    weight: Weight,
    rows: usize,
    width: usize,
}

impl Embedding {
    fn load(weights: &Weights, config: &TextEncoderConfig) -> Result<Self, ModelError> {
        let (rows, width) = (config.vocab_size, config.hidden_size);
        Ok(Self {
            weight: Weight::load(weights, rows, width)?.0,
            rows,
            width,
        })
    }

    /// `ids` (S tokens) to `[1, S, hidden]`.
    fn forward(&self, ids: &[u32]) -> Result<Tensor, ModelError> {
        let (rows, width) = (self.rows, self.width);
        let mut out = vec![0.0; ids.len() * width];
        for (row, id) in out.chunks_exact_mut(width).zip(ids) {
            let id = *id as usize;
            if id >= rows {
                return Err(ModelError::Config {
                    component: Component::TextEncoder,
                    reason: format!(
                        "token {id} is outside of its {rows} embeddings; the tokenizer belongs to another model"
                    ),
                });
            }
            self.weight.widen_row(id, width, 0..width, row)?;
            row.iter_mut().for_each(|v| *v *= self.weight.scale());
        }
        Ok(Tensor::from_vec(out, (1, ids.len(), width), &Device::Cpu)?)
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
        let [q, k, v] = Linear::forward_each([&self.q_proj, &self.k_proj, &self.v_proj], x, cx)?;
        let out = self.attention.forward(&rotate(q)?, &rotate(k)?, &v)?;
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
        let [gate, up] = Linear::forward_each([&self.gate_proj, &self.up_proj], x, cx)?;
        let gate = activation::silu_tensor(&gate)?;
        self.down_proj.forward(&(gate * up)?, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// torch 2.15: `1.0 / (theta ** (torch.arange(0, dim, 2).float() / dim))`.
    #[test]
    fn frequencies_are_rounded_as_torch_rounds_them() {
        let heads_of_20 = [
            1.0,
            0.25118864,
            0.06309573,
            0.015848929,
            0.0039810715,
            0.001,
            0.00025118855,
            6.3095744e-5,
            1.584893e-5,
            3.981073e-6,
        ];
        let heads_of_24 = [
            1.0,
            0.4641589,
            0.21544345,
            0.1,
            0.046415884,
            0.021544348,
            0.01,
            0.0046415897,
            0.0021544343,
            0.001,
            0.00046415895,
            0.00021544342,
        ];
        assert!(frequencies(1e6, 20).eq(heads_of_20));
        assert!(frequencies(1e4, 24).eq(heads_of_24));
    }
}
