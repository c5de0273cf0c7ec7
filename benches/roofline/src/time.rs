//! Seconds of a product, of an attention, of a pass over memory.

use qwen_nvfp4_kernels::gemm::{Format as KernelFormat, Plan, Shape};
use sass_gate::report::LoopLine;

use crate::inputs::Inputs;
use crate::policy::Format;

/// What holds a product back, the slowest of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// The tensor cores, with multiprocessors idle in the last round.
    Tensor,
    /// Issue slots.
    Issue,
    /// Shared memory.
    Shared,
    /// The second-level cache.
    L2,
    /// Memory.
    Memory,
}

/// A product's time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Time {
    /// Seconds.
    pub seconds: f64,
    /// What holds it back.
    pub bound: Bound,
}

/// The card and the kernels.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The card.
    pub inputs: Inputs,
    /// Main loops of the kernels, from `kernels/SASS.md`.
    pub loops: Vec<LoopLine>,
}

/// A product of the model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Product {
    /// Of both operands.
    pub format: Format,
    /// Sizes.
    pub shape: Shape,
    /// Bytes of an output number, and of what the epilogue reads for it.
    pub output: f64,
}

impl Machine {
    /// Issue slots for each matrix instruction of a kernel on cc 12; 1, the instruction itself, where SASS.md lacks it.
    pub fn slots(&self, entry: &str) -> f64 {
        let fits = |l: &&LoopLine| l.arch == "sm_120f" && l.entry == entry;
        self.loops
            .iter()
            .find(fits)
            .map_or(1.0, |l| l.slots_per_mma)
    }

    /// Share of the tensor cores' rate that a block reaches inside its tile: the best published product over the best
    /// with operands in registers, without what its last round left idle.
    pub fn share(&self, format: Format) -> f64 {
        let inputs = &self.inputs;
        let (best, registers) = match format {
            Format::Nvfp4 => (inputs.nvfp4_gemm_best(), inputs.nvfp4_registers_best()),
            Format::Fp8 => (inputs.fp8_gemm_best(), inputs.fp8_registers_best()),
            Format::Bf16 => (inputs.bf16_gemm_best(), inputs.bf16_registers_best()),
        };
        let rounds = (inputs.best_gemm_size() / 128.0).powi(2) / inputs.multiprocessors();
        (best / registers / (rounds / rounds.ceil())).min(1.0)
    }

    fn rate(&self, format: Format) -> f64 {
        match format {
            Format::Nvfp4 => self.inputs.nvfp4_rate(),
            Format::Fp8 => self.inputs.fp8_rate(),
            Format::Bf16 => self.inputs.bf16_rate(),
        }
    }

    /// A product with its launches.
    pub fn product(&self, product: &Product) -> Time {
        let Shape { m, n, k } = product.shape;
        let (inputs, format) = (&self.inputs, product.format);
        let operands = ((m + n) * k) as f64 * format.bytes();
        let memory = (operands + (m * n) as f64 * product.output) / inputs.memory_bandwidth();
        let kernel = match format {
            Format::Nvfp4 => KernelFormat::Nvfp4,
            Format::Fp8 => KernelFormat::Fp8,
            // cuBLAS: its tiles are not known, the best share stands for them.
            Format::Bf16 => {
                let flop = 2.0 * (m * n * k) as f64;
                let tensor = flop / (inputs.peak(inputs.bf16_rate()) * self.share(format));
                return slowest(
                    &[(tensor, Bound::Tensor), (memory, Bound::Memory)],
                    inputs.gap(),
                );
            }
        };
        let plan = Plan::of(kernel, product.shape, inputs.multiprocessors() as u32);
        let (rows, columns) = (plan.tile.rows() as f64, 128.0);
        let splits = f64::from(plan.splits);
        let tiles = (m as f64 / rows).ceil() * (n as f64 / columns).ceil();
        let depth = k as f64 / splits;
        // Rounds of one tile a multiprocessor, also where two blocks share it.
        let rounds = (tiles * splits / inputs.multiprocessors()).ceil();
        let second = |clocks: f64| rounds * clocks / inputs.clock();

        let tensor = rows * columns * depth / self.rate(format) / self.share(format);
        let word = if plan.tile.splits() { "splitk" } else { "bf16" };
        let entry = format!("{}_{}_{word}", kernel.kernel(), plan.tile);
        let instruction = 16.0 * 8.0 * if format == Format::Nvfp4 { 64.0 } else { 32.0 };
        let issue = rows * columns * depth / instruction * self.slots(&entry) / inputs.issue();
        // Each warp of 64 columns reads its rows of A and of B; copies write both once.
        let warps = f64::from(plan.tile.threads()) / 32.0;
        let warp_rows = rows / (warps / 2.0);
        let through = (warps * (warp_rows + 64.0) + rows + columns) * depth * format.bytes();
        let shared = through / inputs.shared_bandwidth();
        let (partial, gaps) = if plan.tile.splits() {
            (2.0 * tiles * splits * rows * columns * 4.0, 2.0)
        } else {
            (0.0, 1.0)
        };
        let l2 = tiles * splits * (rows + columns) * depth * format.bytes() + partial;
        slowest(
            &[
                (second(tensor), Bound::Tensor),
                (second(issue), Bound::Issue),
                (second(shared), Bound::Shared),
                (l2 / inputs.l2_bandwidth(), Bound::L2),
                (memory, Bound::Memory),
            ],
            gaps * inputs.gap(),
        )
    }

    /// Attention over `tokens`: FP8 or bf16, with FLOP of both products.
    pub fn attention(&self, format: Format, flop: f64, exponentials: f64) -> Time {
        let inputs = &self.inputs;
        let (rate, share, entry, depth) = match format {
            Format::Bf16 => (
                inputs.bf16_rate(),
                inputs.bf16_attention_share(),
                "attention_bf16_d128",
                16.0,
            ),
            _ => (
                inputs.fp8_rate(),
                inputs.fp8_attention_share(),
                "attention_fp8_d128",
                32.0,
            ),
        };
        let per_second = inputs.multiprocessors() * inputs.clock();
        let instructions = flop / (2.0 * 16.0 * 8.0 * depth);
        slowest(
            &[
                (flop / (inputs.peak(rate) * share), Bound::Tensor),
                (
                    instructions * self.slots(entry) / (inputs.issue() * per_second),
                    Bound::Issue,
                ),
                (
                    exponentials / (inputs.exponentials() * per_second),
                    Bound::Issue,
                ),
            ],
            inputs.gap(),
        )
    }

    /// A pass that reads and writes so many bytes, in `launches` kernels.
    pub fn pass(&self, bytes: f64, launches: f64) -> f64 {
        bytes / self.inputs.memory_bandwidth() + launches * self.inputs.gap()
    }
}

fn slowest(times: &[(f64, Bound)], gaps: f64) -> Time {
    let slowest = times.iter().copied().max_by(|a, b| a.0.total_cmp(&b.0));
    let (seconds, bound) = slowest.unwrap_or((0.0, Bound::Tensor));
    Time {
        seconds: seconds + gaps,
        bound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            inputs: Inputs::rtx5090(),
            loops: Vec::new(),
        }
    }

    fn product(format: Format, m: usize, n: usize, k: usize) -> Product {
        Product {
            format,
            shape: Shape { m, n, k },
            output: 2.0,
        }
    }

    /// By hand: 768 tiles of 128 x 128 are 5 rounds; a tile of K 12288 in NVFP4 is 128 * 128 * 12288 / 2048 = 98304
    /// clocks at full rate, and the share is 1495 / 2019 / (4096 / 170 / 25).
    #[test]
    fn the_last_round_counts() {
        let machine = machine();
        let share = 1495.0 / 2019.0 / (4096.0 / 170.0 / 25.0);
        assert!((machine.share(Format::Nvfp4) - share).abs() < 1e-9);
        let time = machine.product(&product(Format::Nvfp4, 4096, 3072, 12288));
        let by_hand = 5.0 * 98304.0 / share / 2.407e9 + 1.5e-6;
        assert_eq!(time.bound, Bound::Tensor);
        assert!((time.seconds / by_hand - 1.0).abs() < 1e-9, "{time:?}");
    }

    /// Few rows: the weight's bytes. 3072 x 12288 in FP8 are 37.7 MB.
    #[test]
    fn few_rows_are_bound_by_memory() {
        let time = machine().product(&product(Format::Fp8, 128, 12288, 3072));
        assert_eq!(time.bound, Bound::Memory);
        let bytes = ((128 + 12288) * 3072 + 2 * 128 * 12288) as f64;
        let by_hand = bytes / 1.509e12 + 1.5e-6;
        assert!(
            (time.seconds / by_hand - 1.0).abs() < 0.2,
            "{time:?} {by_hand}"
        );
    }

    /// A kernel that needs more issue slots than its products last is bound by them.
    #[test]
    fn a_loop_full_of_instructions_is_bound_by_them() {
        let mut machine = machine();
        machine.loops.push(LoopLine {
            entry: "nvfp4_gemm_128x128_bf16".to_owned(),
            arch: "sm_120f".to_owned(),
            products: "64 OMMA.SF".to_owned(),
            slots_per_mma: 40.0,
        });
        let time = machine.product(&product(Format::Nvfp4, 4096, 3072, 12288));
        assert_eq!(time.bound, Bound::Issue);
        // 128 * 128 * 12288 / 8192 products of 40 slots over 4 schedulers, 5 rounds.
        let by_hand = 5.0 * 24576.0 * 40.0 / 4.0 / 2.407e9 + 1.5e-6;
        assert!((time.seconds / by_hand - 1.0).abs() < 1e-9);
    }

    /// 24 heads of 4224^2 exponentials at 16 a clock: 65 us; the FP8 products at their share 391 us.
    #[test]
    fn attention_hides_its_exponentials() {
        let exponentials = 24.0 * 4224f64.powi(2);
        let flop = 4.0 * 4224f64.powi(2) * 3072.0;
        let machine = machine();
        let alone = exponentials / (16.0 * 170.0 * 2.407e9);
        assert!((alone * 1e6 - 65.4).abs() < 0.1, "{alone}");
        let time = machine.attention(Format::Fp8, flop, exponentials);
        assert_eq!(time.bound, Bound::Tensor);
        assert!((time.seconds * 1e6 - 393.0).abs() < 1.0, "{time:?}");
    }
}
