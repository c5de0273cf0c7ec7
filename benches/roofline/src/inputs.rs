//! What the card does, each number with its unit and where it was published. Change any with `--set NAME=VALUE`.

use anyhow::{Context, Result, bail};

/// A number with its origin.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// How `--set` and the table call it.
    pub name: &'static str,
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// Who published it, or how it follows.
    pub source: &'static str,
}

/// All inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Inputs(Vec<Input>);

macro_rules! inputs {
    ($($name:ident = $value:expr, $unit:literal, $source:literal;)*) => {
        impl Inputs {
            /// The RTX 5090 (GB202, cc 12.0) as published.
            pub fn rtx5090() -> Self {
                Self(vec![$(Input {
                    name: stringify!($name),
                    value: $value,
                    unit: $unit,
                    source: $source,
                }),*])
            }

            $(
                #[doc = concat!($source, " (", $unit, ").")]
                pub fn $name(&self) -> f64 {
                    self.of(stringify!($name))
                }
            )*
        }
    };
}

inputs! {
    multiprocessors = 170.0, "SMs", "chipsandcheese, GB202; quack AI/sm120_hardware.md";
    clock = 2.407e9, "Hz", "nominal boost clock; 2.6 to 2.9 GHz are observed (kekzl/imp PR 606: 2.85)";
    nvfp4_rate = 2048.0, "MAC/clk/SM", "1676 TFLOPS nominal (learn-cuda 09a) / clock / SMs / 2";
    fp8_rate = 1024.0, "MAC/clk/SM", "838 TFLOPS nominal, block-scaled, f32 sums (learn-cuda 08) / clock / SMs / 2";
    plain_fp8_rate = 512.0, "MAC/clk/SM", "419 TFLOPS nominal without block scales, f32 sums (learn-cuda 08) / clock / SMs / 2";
    bf16_rate = 256.0, "MAC/clk/SM", "209.5 TFLOPS nominal, f32 sums (learn-cuda 02c) / clock / SMs / 2";
    nvfp4_gemm_best = 1495e12, "FLOP/s", "best published product of 8192^3 (quack AI/blockscaled_api.md, boost clocks)";
    nvfp4_registers_best = 2019e12, "FLOP/s", "operands in registers only (kekzl/imp PR 606, 2.85 GHz)";
    fp8_gemm_best = 728e12, "FLOP/s", "best published product of 8192^3, mxfp8 (quack AI/blockscaled_api.md, boost clocks)";
    fp8_registers_best = 993e12, "FLOP/s", "operands in registers only, block-scaled (flashinfer PR 4149)";
    plain_fp8_gemm_best = 480e12, "FLOP/s", "best published product without block scales, 600 W (gn-kernels README)";
    plain_fp8_registers_best = 507e12, "FLOP/s", "operands in registers only, without block scales (quack gemm_sm120)";
    bf16_gemm_best = 246e12, "FLOP/s", "best published product, 600 W (gn-kernels README)";
    bf16_registers_best = 253e12, "FLOP/s", "operands in registers only (flashinfer PR 4149)";
    best_gemm_size = 8192.0, "rows, columns", "of the best products, for their share of idle multiprocessors";
    bf16_attention_share = 0.945, "of the bf16 rate", "198 of 209.5 TFLOPS, 4096 x 8192 tokens, 400 W (learn-cuda 07)";
    fp8_attention_share = 0.668, "of the FP8 rate", "560 of 838 TOPS: SageAttention2 (int8 scores, FP8 values), its README";
    exponentials = 16.0, "per clk per SM", "CUDA C++ programming guide, throughput of arithmetic instructions";
    issue = 4.0, "warp instructions/clk/SM", "four schedulers, one instruction each (CUDA C++ programming guide)";
    shared_bandwidth = 128.0, "B/clk/SM", "chipsandcheese, GB202";
    l2_bandwidth = 8e12, "B/s", "chipsandcheese: 8.7 TB/s on an RTX PRO 6000, scaled to 170 SMs";
    memory_bandwidth = 1.509e12, "B/s", "copy of 1792 GB/s nominal (gn-kernels README); 1.48 to 1.55 in row kernels (quack)";
    gap = 1.5e-6, "s", "between kernels of a CUDA graph; an assumption, launches without a graph cost about 2.5 us";
}

impl Inputs {
    fn of(&self, name: &str) -> f64 {
        let found = self.0.iter().find(|i| i.name == name);
        found.map_or(f64::NAN, |i| i.value)
    }

    /// All of them.
    pub fn all(&self) -> &[Input] {
        &self.0
    }

    /// These, but one of them changed.
    ///
    /// # Errors
    /// A name that no input has, or a value that is no positive number.
    pub fn with(&self, name: &str, value: f64) -> Result<Self> {
        let mut changed = self.clone();
        let input = changed.0.iter_mut().find(|i| i.name == name);
        let input = input.with_context(|| format!("there is no input {name}"))?;
        if !(value.is_finite() && value > 0.0) {
            bail!("{name} = {value} is no positive number");
        }
        if input.value != value {
            input.value = value;
            input.source = "--set";
        }
        Ok(changed)
    }

    /// FLOP/s of `rate` (MAC/clk/SM) over the whole card.
    pub fn peak(&self, rate: f64) -> f64 {
        2.0 * rate * self.multiprocessors() * self.clock()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The nominal numbers that the rates were taken from.
    #[test]
    fn rates_give_the_nominal_numbers_back() {
        let inputs = Inputs::rtx5090();
        for (rate, nominal) in [
            (inputs.nvfp4_rate(), 1676e12),
            (inputs.fp8_rate(), 838e12),
            (inputs.plain_fp8_rate(), 419e12),
            (inputs.bf16_rate(), 209.5e12),
        ] {
            assert!(
                (inputs.peak(rate) / nominal - 1.0).abs() < 1e-3,
                "{nominal}"
            );
        }
        // At 2.85 GHz the registers-only measurement is what the rate promises.
        let fast = inputs.with("clock", 2.85e9).unwrap();
        let share = inputs.nvfp4_registers_best() / fast.peak(fast.nvfp4_rate());
        assert!((share - 1.0).abs() < 0.03, "{share}");
    }

    #[test]
    fn inputs_can_be_changed_by_name() {
        let inputs = Inputs::rtx5090();
        assert_eq!(inputs.with("gap", 3e-6).unwrap().gap(), 3e-6);
        assert!(inputs.with("gup", 1.0).is_err());
        assert!(inputs.with("gap", 0.0).is_err());
        assert_eq!(inputs.with("gap", 1.5e-6).unwrap(), inputs);
        assert!(inputs.all().iter().all(|i| !i.source.is_empty()));
    }
}
