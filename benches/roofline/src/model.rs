//! Qwen-Image's transformer as a list of products.

/// Sizes of the model and of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// Width of both streams.
    pub width: usize,
    /// Numbers of a head.
    pub head: usize,
    /// Width of the hidden layer, in widths.
    pub mlp: usize,
    /// Outputs of a modulation, in widths: two of shift, scale and gate.
    pub modulation: usize,
    /// Blocks.
    pub blocks: usize,
    /// Image tokens: 64 x 64 patches at 1024 x 1024.
    pub image: usize,
    /// Text tokens.
    pub text: usize,
}

impl Model {
    /// Qwen-Image at 1024 x 1024 with a text of 128 tokens.
    pub const QWEN_IMAGE: Self = Self {
        width: 3072,
        head: 128,
        mlp: 4,
        modulation: 6,
        blocks: 60,
        image: 4096,
        text: 128,
    };

    /// Tokens that attend to each other.
    pub fn tokens(&self) -> usize {
        self.image + self.text
    }

    /// Heads.
    pub fn heads(&self) -> usize {
        self.width / self.head
    }

    /// FLOP of attention in one block: two products of tokens x tokens x width.
    pub fn attention_flop(&self) -> f64 {
        4.0 * (self.tokens() as f64).powi(2) * self.width as f64
    }

    /// Parameters of the linears of one stream in one block.
    pub fn stream_parameters(&self) -> usize {
        self.width * self.width * (4 + 2 * self.mlp)
    }

    /// FLOP of the linears of one stream in one block.
    pub fn stream_flop(&self, tokens: usize) -> f64 {
        2.0 * tokens as f64 * self.stream_parameters() as f64
    }
}

/// The two streams of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Image tokens.
    Image,
    /// Text tokens.
    Text,
}

impl Stream {
    /// Names of its linears in the checkpoint: query, key, value, out, up, down, modulation.
    pub fn names(self) -> [&'static str; 7] {
        match self {
            Self::Image => [
                "attn.to_q",
                "attn.to_k",
                "attn.to_v",
                "attn.to_out.0",
                "img_mlp.net.0.proj",
                "img_mlp.net.2",
                "img_mod.1",
            ],
            Self::Text => [
                "attn.add_q_proj",
                "attn.add_k_proj",
                "attn.add_v_proj",
                "attn.to_add_out",
                "txt_mlp.net.0.proj",
                "txt_mlp.net.2",
                "txt_mod.1",
            ],
        }
    }

    /// Its tokens.
    pub fn tokens(self, model: &Model) -> usize {
        match self {
            Self::Image => model.image,
            Self::Text => model.text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: 12 * 3072^2 = 113,246,208 parameters; times 2 * 4096 * 60 = 55.66 T; 4 * 4224^2 * 3072 * 60 = 13.15 T.
    #[test]
    fn totals_of_a_step() {
        let model = Model::QWEN_IMAGE;
        assert_eq!(model.stream_parameters(), 113_246_208);
        let tera = |flop: f64| (flop * model.blocks as f64 / 1e10).round() / 100.0;
        assert_eq!(tera(model.stream_flop(model.image)), 55.66);
        assert_eq!(tera(model.stream_flop(model.text)), 1.74);
        assert_eq!(tera(model.attention_flop()), 13.15);
        assert_eq!(model.heads(), 24);
        // 60 x (2 streams + 2 modulations of 18432 x 3072): 20.38 G.
        let modulation = 2 * model.width * model.width * model.modulation;
        let all = model.blocks * (2 * model.stream_parameters() + modulation);
        assert_eq!(all, 20_384_317_440);
    }
}
