//! A denoising step under a policy.

use qwen_nvfp4_kernels::gemm::Shape;

use crate::model::{Model, Stream};
use crate::policy::{Format, Policy};
use crate::time::{Bound, Machine, Product};

/// What a step does and does not do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Attention in FP8 instead of bf16.
    pub fp8_attention: bool,
    /// Modulations of all steps were computed before the first.
    pub modulation_ready: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            fp8_attention: true,
            modulation_ready: true,
        }
    }
}

/// Seconds of a step by what takes them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Step {
    /// Linears of the image stream.
    pub image: f64,
    /// Attention, without what prepares its operands.
    pub attention: f64,
    /// Linears of the text stream.
    pub text: f64,
    /// Modulations.
    pub modulation: f64,
    /// Norms, rotations, quantizers, and the layers outside of the blocks: all by their bytes.
    pub passes: f64,
    /// Of the image's products, the seconds under each bound.
    pub bounds: Vec<(Bound, f64)>,
}

impl Step {
    /// Seconds in all.
    pub fn total(&self) -> f64 {
        self.image + self.attention + self.text + self.modulation + self.passes
    }

    /// A step of `model` on `machine`.
    pub fn of(machine: &Machine, model: &Model, policy: &Policy, options: Options) -> Self {
        let mut step = Self::default();
        for block in 0..model.blocks {
            for stream in [Stream::Image, Stream::Text] {
                let layers = Layers {
                    model,
                    tokens: stream.tokens(model),
                    formats: policy.formats(block, stream),
                };
                step.add_linears(machine, &layers, stream);
                step.passes += layers.passes(machine);
                if !options.modulation_ready {
                    step.modulation += layers.modulation(machine);
                }
            }
            let format = if options.fp8_attention {
                Format::Fp8
            } else {
                Format::Bf16
            };
            let exponentials = model.heads() as f64 * (model.tokens() as f64).powi(2);
            let attention = machine.attention(format, model.attention_flop(), exponentials);
            step.attention += attention.seconds;
            step.passes += around_attention(machine, model, options.fp8_attention);
        }
        // Patches in, the last norm, patches out.
        let image = (model.image * model.width) as f64 * 2.0;
        step.passes += machine.pass(4.0 * image, 4.0);
        step
    }

    fn add_linears(&mut self, machine: &Machine, layers: &Layers<'_>, stream: Stream) {
        for product in layers.products() {
            let time = machine.product(&product);
            match stream {
                Stream::Image => {
                    self.image += time.seconds;
                    match self.bounds.iter_mut().find(|(b, _)| *b == time.bound) {
                        Some((_, seconds)) => *seconds += time.seconds,
                        None => self.bounds.push((time.bound, time.seconds)),
                    }
                }
                Stream::Text => self.text += time.seconds,
            }
        }
    }
}

/// One stream's linears in one block.
struct Layers<'a> {
    model: &'a Model,
    tokens: usize,
    formats: [Format; 7],
}

impl Layers<'_> {
    /// Query, key and value as few products as they have formats, then out, up and down.
    fn products(&self) -> Vec<Product> {
        let Model { width, mlp, .. } = *self.model;
        let [q, k, v, out, up, down, _] = self.formats;
        let product = |format, n, k, output| Product {
            format,
            shape: Shape {
                m: self.tokens,
                n,
                k,
            },
            output,
        };
        let mut products = Vec::new();
        for format in distinct(&[q, k, v]) {
            let count = [q, k, v].iter().filter(|f| **f == format).count();
            products.push(product(format, count * width, width, 2.0));
        }
        // A gated residual is read and written; what goes down is written as the product down wants it.
        products.push(product(out, width, width, 4.0));
        products.push(product(up, mlp * width, width, down.bytes()));
        products.push(product(down, width, mlp * width, 4.0));
        products
    }

    /// Two norms that write each format that is read after them, and the quantizer after attention.
    fn passes(&self, machine: &Machine) -> f64 {
        let [q, k, v, out, up, _, _] = self.formats;
        let numbers = (self.tokens * self.model.width) as f64;
        let first: f64 = distinct(&[q, k, v]).iter().map(|f| f.bytes()).sum();
        let mut seconds = machine.pass(numbers * (2.0 + first), 1.0);
        seconds += machine.pass(numbers * (2.0 + up.bytes()), 1.0);
        if out != Format::Bf16 {
            seconds += machine.pass(numbers * (2.0 + out.bytes()), 1.0);
        }
        seconds
    }

    /// The weight is read once.
    fn modulation(&self, machine: &Machine) -> f64 {
        let Model {
            width, modulation, ..
        } = *self.model;
        let weight = (width * width * modulation) as f64;
        machine.pass(weight * self.formats[6].bytes(), 1.0)
    }
}

/// Each format once, in order.
fn distinct(formats: &[Format]) -> Vec<Format> {
    let mut out = formats.to_vec();
    out.sort();
    out.dedup();
    out
}

/// Norms and rotations of queries and keys, and what makes FP8 of the operands.
///
/// For bf16, `rms_norm_rope` reads and writes all three for each stream. For FP8, `qk_norm_rope_fp8_statistics` reads all
/// three and writes the queries' codes, `_scales` reads what it summed up, `_operands` reads keys and values again and
/// writes their codes. Angles, which all heads share, are read from memory once a pass.
fn around_attention(machine: &Machine, model: &Model, fp8: bool) -> f64 {
    let (tokens, heads, head) = (model.tokens(), model.heads(), model.head);
    let numbers = (tokens * model.width) as f64;
    // Cosines and sines of half a head, f32.
    let angles = (tokens * head * 4) as f64;
    if !fp8 {
        return machine.pass(numbers * 12.0 + angles, 2.0);
    }
    let query_scales = (heads * tokens * 4) as f64;
    // Four numbers a channel for each 256 keys.
    let partial = (heads * tokens.div_ceil(256) * 4 * head * 4) as f64;
    // A channel's mean of k and scale of v, a head's scale of k.
    let scales = (heads * (2 * head + 1) * 4) as f64;
    machine.pass(numbers * (6.0 + 1.0) + angles + query_scales + partial, 1.0)
        + machine.pass(partial + scales, 1.0)
        + machine.pass(numbers * (4.0 + 2.0) + angles + scales, 1.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::inputs::Inputs;

    fn policy(name: &str) -> Policy {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        Policy::read(&configs, name).unwrap()
    }

    fn machine() -> Machine {
        Machine {
            inputs: Inputs::rtx5090(),
            loops: Vec::new(),
        }
    }

    fn layers(model: &Model, name: &str) -> Vec<(Format, usize, usize)> {
        let layers = Layers {
            model,
            tokens: model.image,
            formats: policy(name).formats(0, Stream::Image),
        };
        let products = layers.products();
        products
            .iter()
            .map(|p| (p.format, p.shape.n, p.shape.k))
            .collect()
    }

    #[test]
    fn equal_formats_share_a_product() {
        use Format::{Fp8, Nvfp4};
        let model = Model::QWEN_IMAGE;
        assert_eq!(
            layers(&model, "v3"),
            [
                (Nvfp4, 9216, 3072),
                (Nvfp4, 3072, 3072),
                (Nvfp4, 12288, 3072),
                (Nvfp4, 3072, 12288)
            ]
        );
        assert_eq!(
            layers(&model, "v5"),
            [
                (Nvfp4, 6144, 3072),
                (Fp8, 3072, 3072),
                (Fp8, 3072, 3072),
                (Fp8, 12288, 3072),
                (Nvfp4, 3072, 12288)
            ]
        );
    }

    /// The products' FLOP are the model's.
    #[test]
    fn no_product_is_forgotten() {
        let model = Model::QWEN_IMAGE;
        for name in ["fp8", "v3", "v4", "v5"] {
            let flop: f64 = layers(&model, name)
                .iter()
                .map(|(_, n, k)| 2.0 * (model.image * n * k) as f64)
                .sum();
            assert_eq!(flop, model.stream_flop(model.image), "{name}");
        }
    }

    /// Bytes by hand, for one block of FP8: both streams' norms read 2 and write 1 a number, so does the quantizer. Around
    /// attention a channel of q, k and v moves 7 + 6 bytes; angles are 4224 x 128 x 4 bytes, read twice, queries' scales
    /// 24 x 4224 x 4, 17 blocks of statistics 24 x 17 x 4 x 128 x 4 and scales 24 x 257 x 4, both written and read. In bf16
    /// it is 6 + 6 bytes a channel, and the angles.
    #[test]
    fn passes_are_their_bytes() {
        let model = Model {
            blocks: 1,
            ..Model::QWEN_IMAGE
        };
        let numbers = 4224.0 * 3072.0;
        let outside = 4.0 * 4096.0 * 3072.0 * 2.0;
        let fp8 = 13.0 * numbers + 2.0 * (2_162_688.0 + 835_584.0 + 24_672.0) + 405_504.0;
        let bf16 = 12.0 * numbers + 2_162_688.0;
        for (fp8_attention, around, launches) in [(true, fp8, 3.0), (false, bf16, 2.0)] {
            let options = Options {
                fp8_attention,
                ..Options::default()
            };
            let step = Step::of(&machine(), &model, &policy("fp8"), options);
            let bytes = 9.0 * numbers + around + outside;
            let by_hand = bytes / 1.509e12 + (6.0 + launches + 4.0) * 1.5e-6;
            let passes = step.passes;
            assert!((passes / by_hand - 1.0).abs() < 1e-9, "{passes} {by_hand}");
            assert_eq!(step.modulation, 0.0);
        }
    }

    /// 60 blocks x 2 streams x 18432 x 3072 bytes in FP8 are 6.79 GB, 4.5 ms; bf16 attention is 13.15 T at 198 T/s.
    #[test]
    fn options_change_what_they_say() {
        let model = Model::QWEN_IMAGE;
        let options = Options {
            fp8_attention: false,
            modulation_ready: false,
        };
        let step = Step::of(&machine(), &model, &policy("v3"), options);
        let gaps = 120.0 * 1.5e-6;
        assert!((step.modulation - 6.794_772e9 / 1.509e12 - gaps).abs() < 1e-6);
        assert!(
            (step.attention * 1e3 - 66.5).abs() < 0.5,
            "{}",
            step.attention
        );
    }
}
