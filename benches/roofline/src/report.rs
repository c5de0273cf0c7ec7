//! The report, in Markdown. Every number of time in it is modelled.

use std::fmt::Write;

use anyhow::Result;

use crate::inputs::Inputs;
use crate::model::Model;
use crate::policy::Policy;
use crate::step::{Options, Step};
use crate::time::{Bound, Machine};

/// Seconds per image that the project which the policies come from published (Hugging Face,
/// lognat0704/Qwen-Rapid-AIO-NVFP4; RTX 5090, ComfyUI).
const ORIGINAL: [(&str, f64); 5] = [
    ("fp8", 8.38),
    ("v2", 4.52),
    ("v3", 4.55),
    ("v4", 6.05),
    ("v5", 8.39),
];
/// Milliseconds that a step should take.
const TARGETS: [(&str, f64); 2] = [("v3", 95.0), ("fp8", 140.0)];
/// Clocks of the sensitivity, Hz: nominal, often observed, the highest seen in published measurements.
const CLOCKS: [f64; 3] = [2.407e9, 2.6e9, 2.85e9];

const WHY: &str = "The published speedups are of whole images in ComfyUI, with text encoder and VAE and at settings that are not stated, and
follow no count of arithmetic: NVFP4 has 100, 83 and 50 % of the image's products in V3, V4 and V5, the time saved is
100, 61 and 0 %. Two causes are likely, neither can be read off what was published: FP8 products without block scales run
at half rate on this card (last row of the sensitivity: V3 comes out near the published number there), or in bf16 where
weights are widened first; and layers in two formats that read the same input quantize it twice. Here FP8 runs at full
rate, one norm writes both formats, and attention, which no policy changes, is a large part of a step: so V3 gains less
over FP8 than published, and V4 and V5 lie between instead of at FP8's time.
";

/// A request to report on.
pub struct Request<'a> {
    /// The card and the kernels.
    pub machine: Machine,
    /// The model.
    pub model: Model,
    /// The policies; the first is what the others are compared with.
    pub policies: &'a [Policy],
    /// How steps run.
    pub options: Options,
}

/// The table of inputs.
pub fn inputs(inputs: &Inputs) -> String {
    let mut text = "| input | value | unit | source |\n|---|---:|---|---|\n".to_owned();
    for i in inputs.all() {
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} |",
            i.name,
            number(i.value),
            i.unit,
            i.source
        );
    }
    text
}

/// Four digits, with an exponent where they would not do.
fn number(value: f64) -> String {
    if (0.001..1e5).contains(&value) {
        return value.to_string();
    }
    let exponent = (value.log10().floor() / 3.0).floor() * 3.0;
    format!(
        "{}e{exponent}",
        (value / 10f64.powf(exponent) * 1e4).round() / 1e4
    )
}

impl Request<'_> {
    fn step(&self, policy: &Policy) -> Step {
        Step::of(&self.machine, &self.model, policy, self.options)
    }

    fn changed(&self, name: &str, value: f64) -> Result<Self> {
        let mut machine = self.machine.clone();
        machine.inputs = machine.inputs.with(name, value)?;
        Ok(Self {
            machine,
            model: self.model,
            policies: self.policies,
            options: self.options,
        })
    }

    fn with(&self, options: Options) -> Self {
        Self {
            machine: self.machine.clone(),
            model: self.model,
            policies: self.policies,
            options,
        }
    }

    /// The whole report.
    ///
    /// # Errors
    /// Inputs that do not go together.
    pub fn markdown(&self) -> Result<String> {
        let mut text = "# Modelled time of a denoising step\n\nEvery time here is **modelled** from the inputs below; nothing \
                        was measured by this project.\n\n## Inputs\n\n"
            .to_owned();
        text += &inputs(&self.machine.inputs);
        text += &self.work();
        text += &self.steps();
        text += &self.sensitivity()?;
        text += &self.targets()?;
        Ok(text)
    }

    /// What a step does.
    fn work(&self) -> String {
        let model = &self.model;
        let tera = |flop: f64| flop * model.blocks as f64 / 1e12;
        let mut text = format!(
            "\n## Work of a step\n\n{} image and {} text tokens, width {}, {} blocks: image linears {:.2} TFLOP, text linears \
             {:.2} TFLOP, attention {:.2} TFLOP.\nShare of the tensor cores' rate inside a tile: ",
            model.image,
            model.text,
            model.width,
            model.blocks,
            tera(model.stream_flop(model.image)),
            tera(model.stream_flop(model.text)),
            tera(model.attention_flop()),
        );
        use crate::policy::Format::{Bf16, Fp8, Nvfp4};
        let shares = [("NVFP4", Nvfp4), ("FP8", Fp8), ("bf16", Bf16)];
        let shares =
            shares.map(|(word, format)| format!("{word} {:.3}", self.machine.share(format)));
        text += &shares.join(", ");
        text += ". Issue slots for each product (`kernels/SASS.md`): ";
        let entries = [
            "nvfp4_gemm_128x128_bf16",
            "nvfp4_gemm_256x128_bf16",
            "fp8_gemm_128x128_bf16",
            "fp8_gemm_256x128_bf16",
            "attention_fp8_d128",
            "attention_bf16_d128",
        ];
        let slots = entries.map(|e| format!("{e} {:.2}", self.machine.slots(e)));
        text += &slots.join(", ");
        text +=
            "; a product occupies its part of the tensor cores for 16 clocks, in bf16 for 32.\n";
        text
    }

    fn steps(&self) -> String {
        let mut text = format!(
            "\n## Steps, modelled, ms\n\nAttention in {}, modulations {}, {:.3} GHz.\n\n\
             | policy | image linears | attention | text linears | modulation | passes | **step** | speedup, modelled | \
             speedup, published | image linears bound by |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---|\n",
            if self.options.fp8_attention {
                "FP8"
            } else {
                "bf16"
            },
            if self.options.modulation_ready {
                "computed before the first step"
            } else {
                "in every step"
            },
            self.machine.inputs.clock() / 1e9,
        );
        let baseline = self.policies.first().map_or(0.0, |p| self.step(p).total());
        for policy in self.policies {
            let step = self.step(policy);
            let [image, attention, texts, modulation, passes, total] = [
                step.image,
                step.attention,
                step.text,
                step.modulation,
                step.passes,
                step.total(),
            ]
            .map(|seconds| format!("{:.1}", seconds * 1e3));
            let _ = writeln!(
                text,
                "| {} | {image} | {attention} | {texts} | {modulation} | {passes} | **{total}** | {:.2} | {} | {} |",
                policy.name,
                baseline / step.total(),
                original(&policy.name),
                bounds(&step),
            );
        }
        text + "\n" + WHY
    }

    /// Steps of every policy, and the speedup of each over the first.
    fn line(&self, what: &str) -> String {
        let steps: Vec<_> = self.policies.iter().map(|p| self.step(p).total()).collect();
        let baseline = steps.first().copied().unwrap_or_default();
        let cells = steps.iter().enumerate().map(|(i, step)| match i {
            0 => format!("{:.1}", step * 1e3),
            _ => format!("{:.1} ({:.2})", step * 1e3, baseline / step),
        });
        format!("| {what} | {} |\n", cells.collect::<Vec<_>>().join(" | "))
    }

    fn sensitivity(&self) -> Result<String> {
        let names: Vec<_> = self.policies.iter().map(|p| p.name.as_str()).collect();
        let mut text = format!(
            "\n## Sensitivity, modelled, ms (speedup over {})\n\n| change | {} |\n|---|{}\n",
            names.first().copied().unwrap_or("-"),
            names.join(" | "),
            "---:|".repeat(names.len()),
        );
        let inputs = &self.machine.inputs;
        text += &self.line("none");
        for clock in CLOCKS {
            let changed = self.changed("clock", clock)?;
            text += &changed.line(&format!("{:.3} GHz", clock / 1e9));
        }
        for (bandwidth, what) in [
            (inputs.memory_bandwidth() * 0.9, "memory 10 % slower"),
            (1.792e12, "memory at its nominal 1.792 TB/s"),
        ] {
            text += &self.changed("memory_bandwidth", bandwidth)?.line(what);
        }
        let slower = |name, value: f64| self.changed(name, value * 0.9);
        let gemms = slower("nvfp4_gemm_best", inputs.nvfp4_gemm_best())?;
        let gemms = gemms.changed("fp8_gemm_best", inputs.fp8_gemm_best() * 0.9)?;
        text += &gemms.line("products 10 % slower than the best published");
        let attention = self.changed("fp8_attention_share", 450.0 / 838.0)?;
        text += &attention.line("FP8 attention at 450 TFLOPS");
        text += &self
            .with(Options {
                fp8_attention: false,
                ..self.options
            })
            .line("attention in bf16");
        text += &self
            .with(Options {
                modulation_ready: false,
                ..self.options
            })
            .line("modulations in every step");
        let half = self
            .changed("fp8_rate", inputs.plain_fp8_rate())?
            .changed("fp8_gemm_best", inputs.plain_fp8_gemm_best())?
            .changed("fp8_registers_best", inputs.plain_fp8_registers_best())?;
        let half = half.with(Options {
            fp8_attention: false,
            ..self.options
        });
        text += &half.line("FP8 products without block scales, attention in bf16");
        Ok(text)
    }

    fn targets(&self) -> Result<String> {
        let mut text = "\n## Targets, modelled\n\n| policy | target, ms |".to_owned();
        for clock in CLOCKS {
            let _ = write!(text, " {:.3} GHz |", clock / 1e9);
        }
        text += "\n|---|---:|---:|---:|---:|\n";
        for (name, target) in TARGETS {
            let Some(policy) = self.policies.iter().find(|p| p.name == name) else {
                continue;
            };
            let _ = write!(text, "| {name} | {target} |");
            for clock in CLOCKS {
                let ms = self.changed("clock", clock)?.step(policy).total() * 1e3;
                let word = if ms <= target { "met" } else { "missed" };
                let _ = write!(text, " {ms:.1}, {word} |");
            }
            text.push('\n');
        }
        Ok(text)
    }
}

/// The published speedup.
fn original(name: &str) -> String {
    let seconds = |name: &str| ORIGINAL.iter().find(|(n, _)| *n == name).map(|(_, s)| *s);
    match (seconds("fp8"), seconds(name)) {
        (Some(fp8), Some(own)) => format!("{:.2}", fp8 / own),
        _ => "-".to_owned(),
    }
}

fn bounds(step: &Step) -> String {
    let words = step.bounds.iter().map(|(bound, seconds)| {
        let word = match bound {
            Bound::Tensor => "tensor cores",
            Bound::Issue => "issue slots",
            Bound::Shared => "shared memory",
            Bound::L2 => "L2",
            Bound::Memory => "memory",
        };
        format!("{word} {:.0} %", seconds / step.image * 100.0)
    });
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The inputs are part of the interface: a change of one shows here. `tests/inputs.md` is what the command prints.
    #[test]
    fn the_inputs_are_those_on_file() {
        assert_eq!(
            inputs(&Inputs::rtx5090()),
            include_str!("../tests/inputs.md")
        );
    }

    #[test]
    fn published_speedups() {
        assert_eq!(
            ["v3", "v4", "v5", "v1"].map(original),
            ["1.84", "1.39", "1.00", "-"]
        );
    }

    #[test]
    fn numbers_keep_their_digits() {
        let told = [170.0, 2.407e9, 0.668, 1.5e-6, 1.495e15, 2048.0].map(number);
        assert_eq!(
            told,
            ["170", "2.407e9", "0.668", "1.5e-6", "1.495e15", "2048"]
        );
    }

    #[test]
    fn every_time_is_said_to_be_modelled() {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        let policies = ["fp8", "v3"].map(|name| Policy::read(&configs, name).unwrap());
        let request = Request {
            machine: Machine {
                inputs: Inputs::rtx5090(),
                loops: Vec::new(),
            },
            model: Model::QWEN_IMAGE,
            policies: &policies,
            options: Options::default(),
        };
        let text = request.markdown().unwrap();
        let heads = text
            .lines()
            .filter(|l| l.starts_with("## ") && l.contains("ms"));
        assert!(heads.clone().count() == 2 && heads.clone().all(|l| l.contains("modelled")));
        for word in [
            "55.66 TFLOP",
            "13.15 TFLOP",
            "| fp8 |",
            "| v3 |",
            "Targets, modelled",
        ] {
            assert!(text.contains(word), "{word}");
        }
    }
}
