//! `residual + gate * y`, whose bytes IEEE arithmetic determines: one fused multiply-add in f32, one rounding to bf16.

#![allow(clippy::unwrap_used, clippy::panic)]

mod rows;

use half::bf16;
use qwen_nvfp4_kernels::gate_residual::{Gated, gate_residual};
use qwen_nvfp4_kernels::operand::Batches;
use qwen_nvfp4_kernels::{Gpu, KernelError};

use rows::{Random, down, gpu, same, up};

struct Case {
    residual: Vec<bf16>,
    y: Vec<bf16>,
    gate: Vec<bf16>,
    batches: Batches,
}

impl Case {
    fn new(seed: u64, [batch, sequence, width]: [usize; 3], stride: usize) -> Self {
        let mut random = Random(seed);
        let len = batch * sequence * width;
        Self {
            residual: random.bf16s(len, 4.0),
            y: random.bf16s(len, 1.0),
            gate: random.bf16s((batch - 1) * stride + width, 1.0),
            batches: Batches {
                width,
                sequence,
                stride,
            },
        }
    }

    fn run(&self, gpu: &Gpu, in_place: bool) -> Result<Vec<bf16>, KernelError> {
        let stream = gpu.stream();
        let (residual, y, gate) = (
            up(stream, &self.residual),
            up(stream, &self.y),
            up(stream, &self.gate),
        );
        let gated = Gated {
            y: &y.as_view(),
            gate: &gate.as_view(),
            batches: self.batches,
        };
        let mut out = if in_place {
            residual.clone()
        } else {
            up(stream, &vec![bf16::NAN; self.y.len()])
        };
        let residual = residual.as_view();
        gate_residual(
            gpu,
            &mut out.as_view_mut(),
            (!in_place).then_some(&residual),
            &gated,
        )?;
        Ok(down(stream, &out.as_view()))
    }

    fn expected(&self) -> Vec<bf16> {
        let Batches {
            width,
            sequence,
            stride,
        } = self.batches;
        let gate = |i: usize| self.gate[i / width / sequence * stride + i % width].to_f32();
        let pairs = self.residual.iter().zip(&self.y).enumerate();
        pairs
            .map(|(i, (r, y))| bf16::from_f32(gate(i).mul_add(y.to_f32(), r.to_f32())))
            .collect()
    }
}

#[test]
fn sums_are_rounded_once() {
    for (i, (shape, stride)) in [
        ([1, 1, 8], 8),
        ([1, 20, 72], 72),
        ([3, 7, 64], 6 * 64),
        ([2, 77, 136], 0),
        ([1, 4224, 16], 16),
    ]
    .into_iter()
    .enumerate()
    {
        let case = Case::new(i as u64, shape, stride);
        for card in ["rtx5090", "a100"] {
            let gpu = gpu(card);
            same("apart", &case.run(&gpu, false).unwrap(), &case.expected());
            same("in place", &case.run(&gpu, true).unwrap(), &case.expected());
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let gpu = gpu("rtx5090");
    let told = |case: &Case| case.run(&gpu, false).unwrap_err().to_string();
    let mut case = Case::new(0, [2, 3, 16], 24);
    case.residual.pop();
    assert!(told(&case).contains("95 numbers of the residual, expected 96"));
    let mut case = Case::new(0, [2, 3, 16], 24);
    case.gate.pop();
    assert!(told(&case).contains("the gates: 2 vectors of 16, 24 apart, in 39 numbers"));
    case.batches.sequence = 5;
    assert!(told(&case).contains("no whole batches of 5"));
    case.batches.width = 12;
    assert!(told(&case).contains("multiple of 8"));
}
