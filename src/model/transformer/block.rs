//! One double-stream block: each stream is modulated on its own, both attend together, text first.

use candle_core::Tensor;

use super::super::config::TransformerConfig;
use super::conditioning::Conditioning;
use super::embed::{Modulated, Modulation};
use crate::checkpoint::{CheckpointError, Weights};
use crate::context::{Cx, Part};
use crate::ops::Linear;
use crate::ops::activation::gated_residual;
use crate::ops::attention::{Attention, Keys};
use crate::ops::norm::{ModulatedNorm, layer_norm_modulate};
use crate::ops::rope::{RopeTable, rms_norm_rope};

/// What all blocks of one evaluation share.
pub(super) struct BlockInput {
    /// The noise level, as every block takes it.
    pub conditioning: Conditioning,
    /// Positions of the image tokens.
    pub img_rope: RopeTable,
    /// Positions of the text tokens.
    pub txt_rope: RopeTable,
    /// Which keys of the joint sequence [text, image] count.
    pub keys: Keys,
}

/// `transformer_blocks.N`.
pub(super) struct Block {
    name: String,
    index: usize,
    img_mod: Modulation<6>,
    txt_mod: Modulation<6>,
    attn: JointAttention,
    img_mlp: FeedForward,
    /// None in the last block, whose text output nobody reads.
    txt_mlp: Option<FeedForward>,
}

impl Block {
    pub(super) fn load(
        weights: &Weights,
        config: &TransformerConfig,
        index: usize,
    ) -> Result<Self, CheckpointError> {
        let d = config.inner_dim();
        let last = index + 1 == config.num_layers;
        let mlp = |name: &str| FeedForward::load(&weights.pp(name), d, config.mlp_dim);
        Ok(Self {
            name: weights.full(""),
            index,
            img_mod: Modulation::load(&weights.pp("img_mod.1"), d)?,
            txt_mod: Modulation::load(&weights.pp("txt_mod.1"), d)?,
            attn: JointAttention::load(&weights.pp("attn"), config, last)?,
            img_mlp: mlp("img_mlp")?,
            txt_mlp: (!last).then(|| mlp("txt_mlp")).transpose()?,
        })
    }

    /// How image and text are modulated at each row of `silu(temb)` `[M, D]`.
    pub(super) fn modulations(
        &self,
        silu_temb: &Tensor,
        cx: &Cx,
    ) -> candle_core::Result<[Modulated<6>; 2]> {
        Ok([
            self.img_mod.forward(silu_temb, cx)?,
            self.txt_mod.forward(silu_temb, cx)?,
        ])
    }

    /// `img` `[B, Si, D]` and `txt` `[B, St, D]` to the same shapes.
    pub(super) fn forward(
        &self,
        img: Tensor,
        txt: Tensor,
        at: &BlockInput,
        cx: &Cx,
    ) -> candle_core::Result<(Tensor, Tensor)> {
        let [img_mod, txt_mod] = at.conditioning.block(self.index, img.dim(0)?)?;
        let [shift1, scale1, gate1, shift2, scale2, gate2] = img_mod;
        let [
            txt_shift1,
            txt_scale1,
            txt_gate1,
            txt_shift2,
            txt_scale2,
            txt_gate2,
        ] = txt_mod;

        let add = |x: &Tensor, gate: &Tensor, y: Tensor| {
            cx.timed(Part::Norm, || gated_residual(x, gate, &y))
        };
        let img_in = layer_norm_modulate(&img, &shift1, &scale1)?;
        let txt_in = layer_norm_modulate(&txt, &txt_shift1, &txt_scale1)?;
        let (img_attn, txt_attn) = self.attn.forward(&img_in, &txt_in, at, cx)?;

        let img = add(&img, &gate1, img_attn)?;
        let img_in = layer_norm_modulate(&img, &shift2, &scale2)?;
        let img = add(&img, &gate2, self.img_mlp.forward(&img_in, cx)?)?;
        cx.observer.stage(&format!("{}.img", self.name), &img);

        let (Some(txt_mlp), Some(txt_attn)) = (&self.txt_mlp, txt_attn) else {
            return Ok((img, txt));
        };
        let txt = add(&txt, &txt_gate1, txt_attn)?;
        let txt_in = layer_norm_modulate(&txt, &txt_shift2, &txt_scale2)?;
        let txt = add(&txt, &txt_gate2, txt_mlp.forward(&txt_in, cx)?)?;
        cx.observer.stage(&format!("{}.txt", self.name), &txt);
        Ok((img, txt))
    }
}

/// `attn`: queries, keys and values of both streams, one softmax over both.
struct JointAttention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    norm_q: Tensor,
    norm_k: Tensor,
    to_out: Linear,
    add_k_proj: Linear,
    add_v_proj: Linear,
    norm_added_k: Tensor,
    /// None in the last block.
    txt_query: Option<TextQuery>,
    heads: usize,
}

/// What turns the text stream's attention into an output.
struct TextQuery {
    add_q_proj: Linear,
    norm_added_q: Tensor,
    to_add_out: Linear,
}

impl JointAttention {
    fn load(
        weights: &Weights,
        config: &TransformerConfig,
        last: bool,
    ) -> Result<Self, CheckpointError> {
        let d = config.inner_dim();
        let linear = |name: &str| Linear::load(&weights.pp(name), d, d, true);
        let norm =
            |name: &str| weights.tensor(&format!("{name}.weight"), &[config.attention_head_dim]);
        let txt_query = || {
            Ok::<_, CheckpointError>(TextQuery {
                add_q_proj: linear("add_q_proj")?,
                norm_added_q: norm("norm_added_q")?,
                to_add_out: linear("to_add_out")?,
            })
        };
        Ok(Self {
            to_q: linear("to_q")?,
            to_k: linear("to_k")?,
            to_v: linear("to_v")?,
            norm_q: norm("norm_q")?,
            norm_k: norm("norm_k")?,
            to_out: linear("to_out.0")?,
            add_k_proj: linear("add_k_proj")?,
            add_v_proj: linear("add_v_proj")?,
            norm_added_k: norm("norm_added_k")?,
            txt_query: (!last).then(txt_query).transpose()?,
            heads: config.num_attention_heads,
        })
    }

    /// Attention output of the image stream and, but for the last block, of the text stream.
    fn forward(
        &self,
        img: &ModulatedNorm,
        txt: &ModulatedNorm,
        at: &BlockInput,
        cx: &Cx,
    ) -> candle_core::Result<(Tensor, Option<Tensor>)> {
        let [q, k, v] = Linear::forward_each([&self.to_q, &self.to_k, &self.to_v], img, cx)?;
        let rotate = |x, norm, rope| cx.timed(Part::Norm, || rms_norm_rope(x, norm, rope));
        let attend = |attention: &Attention, q, k, v| {
            cx.timed(Part::Attention, || attention.forward(q, k, v))
        };
        let q = rotate(&q, &self.norm_q, &at.img_rope)?;
        let k = rotate(&k, &self.norm_k, &at.img_rope)?;
        let (added_k, added_v) = (&self.add_k_proj, &self.add_v_proj);
        let (added_q, [added_k, added_v]) = match &self.txt_query {
            Some(TextQuery { add_q_proj, .. }) => {
                let [q, k, v] = Linear::forward_each([add_q_proj, added_k, added_v], txt, cx)?;
                (Some(q), [k, v])
            }
            None => (None, Linear::forward_each([added_k, added_v], txt, cx)?),
        };
        let added_k = rotate(&added_k, &self.norm_added_k, &at.txt_rope)?;

        let attention = Attention {
            heads: self.heads,
            kv_heads: self.heads,
            keys: at.keys.clone(),
        };
        let k = Tensor::cat(&[added_k, k], 1)?;
        let v = Tensor::cat(&[added_v, v], 1)?;
        let img = attend(&attention, &q, &k, &v)?;
        let img = self.to_out.forward(&img, cx)?;

        let (Some(query), Some(added_q)) = (&self.txt_query, added_q) else {
            return Ok((img, None));
        };
        let added_q = rotate(&added_q, &query.norm_added_q, &at.txt_rope)?;
        let txt = attend(&attention, &added_q, &k, &v)?;
        Ok((img, Some(query.to_add_out.forward(&txt, cx)?)))
    }
}

/// `img_mlp` and `txt_mlp`: linear, GELU (tanh form), linear.
struct FeedForward {
    proj: Linear,
    out: Linear,
}

impl FeedForward {
    fn load(weights: &Weights, dim: usize, hidden: usize) -> Result<Self, CheckpointError> {
        Ok(Self {
            proj: Linear::load(&weights.pp("net.0.proj"), hidden, dim, true)?,
            out: Linear::load(&weights.pp("net.2"), dim, hidden, true)?,
        })
    }

    fn forward(&self, x: &ModulatedNorm, cx: &Cx) -> candle_core::Result<Tensor> {
        self.out.forward(&self.proj.forward_gelu(x, cx)?, cx)
    }
}
