//! Products of bf16 activations and packed weights against F64, on an emulated A100: both tiles, ragged sizes, every
//! code of either format, repeats to the bit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[allow(dead_code)]
#[path = "gemm/numbers.rs"]
mod numbers;

use common::emulator;
use cudarc::driver::CudaView;
use half::bf16;
use numbers::{E2M1, Noise, e4m3};
use qwen_nvfp4_kernels::dequant_gemm::{DequantPlan, DequantProduct, Weight, dequant_gemm_planned};
use qwen_nvfp4_kernels::gemm::{Epilogue, Format, Shape, Workspace};
use qwen_nvfp4_kernels::layout::{swizzled_len, swizzled_offset};
use qwen_nvfp4_kernels::{Gpu, KernelError};

/// An emulated A100, until it is dropped.
struct Card {
    gpu: Gpu,
    _settings: emulator::Settings,
}

impl std::ops::Deref for Card {
    type Target = Gpu;

    fn deref(&self) -> &Gpu {
        &self.gpu
    }
}

fn card() -> Card {
    card_of("0")
}

/// With its warps in an order of their own.
fn card_of(seed: &str) -> Card {
    let context = emulator::context();
    let _settings = emulator::settings(&[("card", "a100"), ("seed", seed)]);
    Card {
        gpu: Gpu::of_context(context).unwrap(),
        _settings,
    }
}

const LARGE: DequantPlan = DequantPlan::Large;

fn small(splits: u32) -> DequantPlan {
    DequantPlan::Small { splits }
}

/// A product on the host.
struct Case {
    format: Format,
    shape: Shape,
    a: Vec<bf16>,
    codes: Vec<u8>,
    /// In the checkpoint's order; what pads is NaN, so that nobody may use it.
    scales: Vec<u8>,
    scale: f32,
    bias: Vec<f32>,
}

impl Case {
    /// Every code but NaN, block scales from 2^-4 to 2^4, activations of any sign around 1.
    fn random(format: Format, shape: Shape, seed: u64) -> Self {
        let Shape { m, n, k } = shape;
        let mut noise = Noise(seed);
        let a = (0..m * k).map(|_| bf16::from_f32(noise.signed())).collect();
        let mut case = Self {
            format,
            shape,
            a,
            codes: Vec::new(),
            scales: Vec::new(),
            scale: 0.01 + 0.001 * noise.signed(),
            bias: (0..n).map(|_| noise.signed()).collect(),
        };
        match format {
            Format::Fp8 => {
                let finite = |code: u8| if code & 0x7f == 0x7f { 0x30 } else { code };
                case.codes = (0..n * k).map(|_| finite(noise.next() as u8)).collect();
            }
            Format::Nvfp4 => {
                case.codes = (0..n * k / 2).map(|_| noise.next() as u8).collect();
                case.set_scales(|_, _| 0x18 + noise.below(0x40) as u8);
            }
        }
        case
    }

    fn set_scales(&mut self, mut scale: impl FnMut(usize, usize) -> u8) {
        let Shape { n, k, .. } = self.shape;
        self.scales = vec![0x7f; swizzled_len(n, k).unwrap()];
        for row in 0..n {
            for block in 0..k / 16 {
                self.scales[swizzled_offset(row, block, k)] = scale(row, block);
            }
        }
    }

    /// The weight without the scale of the whole.
    fn weight(&self) -> Vec<f64> {
        let Shape { n, k, .. } = self.shape;
        let at = |i: usize| match self.format {
            Format::Fp8 => e4m3(self.codes[i]),
            Format::Nvfp4 => {
                let (byte, block) = (self.codes[i / 2], i % k / 16);
                let code = if i.is_multiple_of(2) {
                    byte >> 4
                } else {
                    byte & 15
                };
                E2M1[usize::from(code)] * e4m3(self.scales[swizzled_offset(i / k, block, k)])
            }
        };
        (0..n * k).map(at).collect()
    }

    /// The sum in F64, and by how much the tensor cores' F32 sum may differ: products of bf16 are exact in F32, the sum
    /// keeps at least 20 bits and is added to K/16 times.
    fn reference(&self) -> Vec<(f64, f64)> {
        let Shape { k, .. } = self.shape;
        let (alpha, weight) = (f64::from(self.scale), self.weight());
        let steps = (k as f64 / 16.0).ceil() * 2f64.powi(-20);
        let mut out = Vec::new();
        for row in self.a.chunks_exact(k) {
            for (weight, bias) in weight.chunks_exact(k).zip(&self.bias) {
                let terms = || row.iter().zip(weight).map(|(x, w)| x.to_f64() * w);
                let exact = alpha * terms().sum::<f64>() + f64::from(*bias);
                let magnitude: f64 = terms().map(f64::abs).sum();
                // Alpha's rounding and the last addition's.
                let last = 2f64.powi(-22) * (exact.abs() + f64::from(bias.abs()));
                out.push((exact, alpha * magnitude * steps + last));
            }
        }
        out
    }

    /// What the kernels make of it; with a residual and a gate, gated in place.
    fn run(
        &self,
        gpu: &Gpu,
        plan: DequantPlan,
        gated: Option<(&[bf16], &[bf16])>,
    ) -> Result<Vec<bf16>, KernelError> {
        let stream = gpu.stream();
        let a = stream.clone_htod(&self.a).unwrap();
        let codes = stream.clone_htod(&self.codes).unwrap();
        let scales =
            (self.format == Format::Nvfp4).then(|| stream.clone_htod(&self.scales).unwrap());
        let scale = stream.clone_htod(&[self.scale]).unwrap();
        let bias = stream.clone_htod(&self.bias).unwrap();
        let (codes, scale) = (codes.as_view(), scale.as_view());
        let scales: Option<CudaView<'_, u8>> = scales.as_ref().map(|s| s.as_view());
        let product = DequantProduct {
            a: &a.as_view(),
            weight: match &scales {
                Some(scales) => Weight::nvfp4(&codes, scales, Some(&scale)),
                None => Weight::fp8(&codes, Some(&scale)),
            },
            bias: Some(&bias.as_view()),
            shape: self.shape,
        };
        let mut workspace = Workspace::default();
        let Some((residual, gate)) = gated else {
            // Allocated, not written: what no kernel writes is found when it is read back.
            let mut out = unsafe { stream.alloc::<bf16>(self.shape.m * self.shape.n) }.unwrap();
            let epilogue = Epilogue::Bf16 {
                out: &mut out.as_view_mut(),
            };
            dequant_gemm_planned(gpu, &product, epilogue, (plan, &mut workspace))?;
            return Ok(stream.clone_dtoh(&out).unwrap());
        };
        let mut out = stream.clone_htod(residual).unwrap();
        let gate = stream.clone_htod(gate).unwrap();
        let epilogue = Epilogue::Gated {
            out: &mut out.as_view_mut(),
            residual: None,
            gate: &gate.as_view(),
        };
        dequant_gemm_planned(gpu, &product, epilogue, (plan, &mut workspace))?;
        Ok(stream.clone_dtoh(&out).unwrap())
    }
}

/// bf16 numbers against exact ones with their errors.
fn assert_close(got: &[bf16], wanted: &[(f64, f64)], name: &str) {
    assert_eq!(got.len(), wanted.len(), "{name}");
    for (i, (got, (exact, error))) in got.iter().zip(wanted).enumerate() {
        let bound = error + 2f64.powi(-8) * exact.abs() + 1e-38;
        let off = (got.to_f64() - exact).abs();
        assert!(
            off <= bound,
            "{name}: number {i} is {got}, exactly {exact}, bound {bound}"
        );
    }
}

/// (m, n, k, plan). K of half a tile; more K tiles than a ring has stages; N of no multiple of 8.
const SHAPES: [(usize, usize, usize, DequantPlan); 9] = [
    (1, 8, 64, DequantPlan::Small { splits: 1 }),
    (1, 37, 96, DequantPlan::Small { splits: 1 }),
    (20, 136, 416, DequantPlan::Small { splits: 1 }),
    (20, 129, 352, DequantPlan::Small { splits: 3 }),
    (77, 152, 448, DequantPlan::Small { splits: 2 }),
    (77, 131, 320, DequantPlan::Large),
    (200, 152, 352, DequantPlan::Large),
    (128, 128, 64, DequantPlan::Large),
    (1, 1, 32, DequantPlan::Large),
];

fn all_shapes(format: Format) {
    let gpu = card();
    for (i, (m, n, k, plan)) in SHAPES.into_iter().enumerate() {
        let case = Case::random(format, Shape { m, n, k }, i as u64);
        let got = case.run(&gpu, plan, None).unwrap();
        let name = format!("{format:?} {m} x {n} x {k} {plan:?}");
        assert_close(&got, &case.reference(), &name);
    }
}

#[test]
fn fp8_weights() {
    all_shapes(Format::Fp8);
}

#[test]
fn nvfp4_weights() {
    all_shapes(Format::Nvfp4);
}

/// With the unit matrix for activations the output is the weight, exactly: every E4M3 code but NaN at every depth of a
/// K tile.
#[test]
fn every_e4m3_code_at_every_depth() {
    let gpu = card();
    let shape = Shape {
        m: 64,
        n: 256,
        k: 64,
    };
    let mut case = Case::random(Format::Fp8, shape, 0);
    case.a = (0..64 * 64)
        .map(|i| bf16::from_f32(f32::from(u8::from(i / 64 == i % 64))))
        .collect();
    case.codes = (0..256 * 64)
        .map(|i| (i / 64 + i % 64 * 37) as u8)
        .map(|code| if code & 0x7f == 0x7f { 0 } else { code })
        .collect();
    case.scale = 1.0;
    case.bias = vec![0.0; 256];
    for plan in [LARGE, small(1)] {
        let got = case.run(&gpu, plan, None).unwrap();
        for (i, got) in got.iter().enumerate() {
            let code = case.codes[i % 256 * 64 + i / 256];
            assert_eq!(
                got.to_f64(),
                e4m3(code),
                "{plan:?}: code {code:#x}, depth {}",
                i / 256
            );
        }
    }
}

/// A NaN in a weight's row makes that output NaN, whatever it is multiplied with, and no other.
#[test]
fn a_nan_code_stays_nan() {
    let gpu = card();
    for code in [0x7f, 0xff] {
        for depth in 0..16 {
            let shape = Shape { m: 2, n: 16, k: 64 };
            let mut case = Case::random(Format::Fp8, shape, 1);
            case.codes[5 * 64 + 16 + depth] = code;
            let got = case.run(&gpu, small(1), None).unwrap();
            for (i, got) in got.iter().enumerate() {
                assert_eq!(
                    got.is_nan(),
                    i % 16 == 5,
                    "code {code:#x}, depth {depth}, number {i}"
                );
            }
        }
    }
}

/// Every E2M1 code under every scale from 2^-9 to 448, exactly, and a NaN scale.
#[test]
fn every_e2m1_code_under_every_scale() {
    let gpu = card();
    let shape = Shape {
        m: 64,
        n: 128,
        k: 64,
    };
    let mut case = Case::random(Format::Nvfp4, shape, 0);
    case.a = (0..64 * 64)
        .map(|i| bf16::from_f32(f32::from(u8::from(i / 64 == i % 64))))
        .collect();
    // Codes 0..15 along each block, rotated by the row.
    let code = |row: usize, column: usize| ((column + row) % 16) as u8;
    case.codes = (0..128 * 32)
        .map(|i| (i / 32, i % 32 * 2))
        .map(|(row, column)| code(row, column) << 4 | code(row, column + 1))
        .collect();
    case.set_scales(|row, _| row as u8);
    case.scale = 1.0;
    case.bias = vec![0.0; 128];
    for plan in [LARGE, small(1)] {
        let got = case.run(&gpu, plan, None).unwrap();
        for (i, got) in got.iter().enumerate() {
            let (depth, row) = (i / 128, i % 128);
            let exact = E2M1[usize::from(code(row, depth))] * e4m3(row as u8);
            let same = got.to_f64() == exact || (got.is_nan() && exact.is_nan());
            assert!(
                same,
                "{plan:?}: row {row}, depth {depth}: {got}, exactly {exact}"
            );
        }
    }
}

#[test]
fn a_gated_residual() {
    let gpu = card();
    for (n, plan) in [(72, LARGE), (72, small(2)), (67, LARGE), (67, small(2))] {
        for format in [Format::Fp8, Format::Nvfp4] {
            let shape = Shape { m: 20, n, k: 192 };
            let case = Case::random(format, shape, n as u64);
            let mut noise = Noise(7);
            let mut some =
                |len| -> Vec<bf16> { (0..len).map(|_| bf16::from_f32(noise.signed())).collect() };
            let (residual, gate) = (some(20 * n), some(n));
            let got = case.run(&gpu, plan, Some((&residual, &gate))).unwrap();
            let wanted: Vec<(f64, f64)> = case
                .reference()
                .iter()
                .enumerate()
                .map(|(i, (exact, error))| {
                    let gate = gate[i % n].to_f64();
                    let product = gate * exact;
                    let last = 2f64.powi(-22) * (product.abs() + residual[i].to_f64().abs());
                    (residual[i].to_f64() + product, gate.abs() * error + last)
                })
                .collect();
            assert_close(&got, &wanted, &format!("{format:?} n = {n} {plan:?}"));
        }
    }
}

#[test]
fn repeats_are_equal_to_the_bit_whatever_the_order_of_warps() {
    let shape = Shape {
        m: 77,
        n: 136,
        k: 256,
    };
    let case = Case::random(Format::Nvfp4, shape, 3);
    let bits = |seed, plan| {
        let got = case.run(&card_of(seed), plan, None).unwrap();
        got.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
    };
    for plan in [LARGE, small(4)] {
        let first = bits("0", plan);
        for seed in ["0", "1", "2"] {
            assert_eq!(bits(seed, plan), first, "{plan:?}, order {seed}");
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_told() {
    let gpu = card();
    let good = || Case::random(Format::Nvfp4, Shape { m: 2, n: 8, k: 64 }, 0);
    let told = |case: Case| case.run(&gpu, LARGE, None).unwrap_err().to_string();
    let mut case = good();
    case.shape.k = 48;
    assert!(told(case).contains("no multiple of 32"));
    let mut case = good();
    case.shape.k = 1 << 26;
    assert!(told(case).contains("too large"));
    let mut case = good();
    case.a.pop();
    assert!(told(case).contains("A has 127 elements"));
    let mut case = good();
    case.scales.pop();
    assert!(told(case).contains("the weight's scales has 511"));
    let mut case = good();
    case.bias.pop();
    assert!(told(case).contains("the bias has 7"));
    let mut case = good();
    case.codes.push(0);
    assert!(told(case).contains("the weight has 257"));
}
