//! Fused norms against the same formulas in f64.
//!
//! Bound of an f32 result y of a row with mean m and deviation s: 2^-18 (|factor| (1 + |m| / s) + |y|), which is a few
//! roundings for each of the about 40 sums behind a mean; then half a bf16 step, at most 2^-8 |y|. Codes must be those of some
//! number within the bound.

#![allow(clippy::unwrap_used, clippy::panic)]

mod rows;

use cudarc::driver::CudaSlice;
use half::bf16;
use qwen_nvfp4_kernels::norm_quantize::{LayerNorm, Outputs, RmsNorm};
use qwen_nvfp4_kernels::operand::{Batches, E4m3Out, Matrix, Nvfp4Out};
use qwen_nvfp4_kernels::{Gpu, KernelError, layout};

use rows::{Random, down, gpu, gpu_with_seed, same, up, zeros};

const E4M3_SCALE: f32 = 0.011;
const NVFP4_SCALE: f32 = 0.0017;

/// A norm's operands on the host.
struct Case {
    x: Vec<bf16>,
    scale: Vec<bf16>,
    /// None: an RMSNorm, whose weight is `scale`.
    shift: Option<Vec<bf16>>,
    batches: Batches,
}

/// Which outputs are wanted.
#[derive(Clone, Copy)]
struct Wanted {
    bf16: bool,
    e4m3: bool,
    nvfp4: bool,
}

const ALL: Wanted = Wanted {
    bf16: true,
    e4m3: true,
    nvfp4: true,
};

#[derive(Debug, Default, PartialEq)]
struct Got {
    bf16: Vec<bf16>,
    e4m3: Vec<u8>,
    codes: Vec<u8>,
    scales: Vec<u8>,
    word: u32,
}

impl Case {
    fn layer_norm(random: &mut Random, (batch, sequence, width): (usize, usize, usize)) -> Self {
        let rows = batch * sequence;
        // Rows with means up to eight deviations.
        let x = (0..rows)
            .flat_map(|row| {
                let mean = (row % 17) as f64 - 8.0;
                let deviation = 2f64.powi(row as i32 % 7 - 3);
                random
                    .bf16s(width, 1.0)
                    .into_iter()
                    .map(move |x| bf16::from_f64((x.to_f64() + mean) * deviation))
                    .collect::<Vec<_>>()
            })
            .collect();
        let stride = 2 * width + 8;
        Self {
            x,
            scale: random.bf16s(batch * stride, 0.5),
            shift: Some(random.bf16s(batch * stride, 0.5)),
            batches: Batches {
                width,
                sequence,
                stride,
            },
        }
    }

    fn rms_norm(random: &mut Random, rows: usize, width: usize) -> Self {
        Self {
            x: random.bf16s(rows * width, 3.0),
            scale: random.bf16s(width, 1.0),
            shift: None,
            batches: Batches {
                width,
                sequence: rows,
                stride: 0,
            },
        }
    }

    fn run(&self, gpu: &Gpu, wanted: Wanted) -> Result<Got, KernelError> {
        let stream = gpu.stream();
        let (len, width) = (self.x.len(), self.batches.width);
        let lanes = layout::lane_order_len(len / width, width).unwrap();
        let x = up(stream, &self.x);
        let scale = up(stream, &self.scale);
        let shift: Option<CudaSlice<bf16>> = self.shift.as_ref().map(|shift| up(stream, shift));
        let by = up(stream, &[E4M3_SCALE, NVFP4_SCALE]);
        let mut bf16s = up(stream, &vec![bf16::NAN; len]);
        let mut e4m3 = up(stream, &vec![0xaau8; len]);
        let mut codes = up(stream, &vec![0xaau8; len / 2]);
        let mut scales = up(stream, &vec![0xaau8; lanes]);
        let mut word = zeros::<u32>(stream, 1);
        let (e4m3_scale, nvfp4_scale) = (by.slice(0..1), by.slice(1..2));
        let mut out = Outputs {
            bf16: wanted.bf16.then(|| bf16s.as_view_mut()),
            e4m3: wanted.e4m3.then(|| E4m3Out {
                scale: &e4m3_scale,
                codes: e4m3.as_view_mut(),
            }),
            nvfp4: wanted.nvfp4.then(|| Nvfp4Out {
                scale: &nvfp4_scale,
                codes: codes.as_view_mut(),
                scales: scales.as_view_mut(),
            }),
            not_finite: word.as_view_mut(),
        };
        let (x, scale) = (&x.as_view(), &scale.as_view());
        match &shift {
            Some(shift) => {
                let norm = LayerNorm {
                    x,
                    scale,
                    shift: &shift.as_view(),
                    batches: self.batches,
                    eps: 1e-6,
                };
                norm.run(gpu, &mut out)?;
            }
            None => {
                let x = Matrix { values: x, width };
                RmsNorm {
                    x,
                    weight: scale,
                    eps: 1e-6,
                }
                .run(gpu, &mut out)?;
            }
        }
        let mut got = Got {
            word: down(stream, &word.as_view())[0],
            ..Got::default()
        };
        if wanted.bf16 {
            got.bf16 = down(stream, &bf16s.as_view());
        }
        if wanted.e4m3 {
            got.e4m3 = down(stream, &e4m3.as_view());
        }
        if wanted.nvfp4 {
            got.codes = down(stream, &codes.as_view());
            got.scales = down(stream, &scales.as_view());
        }
        Ok(got)
    }

    /// Each number in f64, and how far an f32 result may be from it.
    fn exact(&self) -> Vec<(f64, f64)> {
        let Batches {
            width,
            sequence,
            stride,
        } = self.batches;
        let mut out = Vec::new();
        for (row, x) in self.x.chunks(width).enumerate() {
            let x: Vec<f64> = x.iter().map(|x| x.to_f64()).collect();
            let mean = self
                .shift
                .as_ref()
                .map_or(0.0, |_| x.iter().sum::<f64>() / width as f64);
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
            let deviation = (variance + 1e-6).sqrt();
            for (column, x) in x.iter().enumerate() {
                let at = row / sequence * stride + column;
                let by = self.scale[at].to_f64();
                let (factor, shift) = match &self.shift {
                    Some(shift) => (1.0 + by, shift[at].to_f64()),
                    None => (by, 0.0),
                };
                let y = (x - mean) / deviation * factor + shift;
                let bound = factor.abs() * (1.0 + mean.abs() / deviation) + y.abs();
                out.push((y, bound * 2f64.powi(-18)));
            }
        }
        out
    }

    fn check(&self, got: &Got) {
        let width = self.batches.width;
        let (e4m3_values, e2m1_values) = (rows::e4m3_values(), rows::e2m1_values());
        let exact = self.exact();
        for (i, (got, (y, bound))) in got.bf16.iter().zip(&exact).enumerate() {
            let error = (got.to_f64() - y).abs();
            let bound = bound + y.abs() * 2f64.powi(-8);
            assert!(
                error <= bound,
                "bf16 {i}: {got}, exactly {y}, error {error} above {bound}"
            );
        }
        let between = |code: f64, low: f64, high: f64| low <= code && code <= high;
        let e4m3 = |x: f64| signed(rows::nearest(&e4m3_values, x as f32), 0x80, &e4m3_values);
        for (i, (got, (y, bound))) in got.e4m3.iter().zip(&exact).enumerate() {
            let by = f64::from(1.0 / E4M3_SCALE);
            // A product is rounded, too.
            let bound = bound + y.abs() * 2f64.powi(-23);
            let (low, high) = (e4m3((y - bound) * by), e4m3((y + bound) * by));
            let code = signed(*got, 0x80, &e4m3_values);
            assert!(
                between(code, low, high),
                "E4M3 {i}: {code}, not in {low}..={high}"
            );
        }
        if got.codes.is_empty() {
            return;
        }
        let scales =
            layout::rows_from_lane_order(&got.scales, self.x.len() / width, width).unwrap();
        let padding = layout::lane_order_from_rows(&scales, self.x.len() / width, width).unwrap();
        same("padding of the scales", &got.scales, &padding);
        let e2m1 = |x: f64| signed(rows::nearest(&e2m1_values, x as f32), 8, &e2m1_values);
        for (block, exact) in exact.chunks(16).enumerate() {
            let scale = |by: f64| {
                let most = exact
                    .iter()
                    .fold(0f64, |most, (y, bound)| most.max(y.abs() + by * bound));
                e4m3((most / 6.0 / f64::from(NVFP4_SCALE) * (1.0 + by * 2f64.powi(-22))).min(448.0))
            };
            let got_scale = e4m3_values[usize::from(scales[block])];
            let (low, high) = (scale(-1.0), scale(1.0));
            assert!(
                between(got_scale, low, high),
                "scale of block {block}: {got_scale}, not in {low}..={high}"
            );
            let total = f64::from(NVFP4_SCALE * got_scale as f32);
            for (i, (y, bound)) in exact.iter().enumerate() {
                let byte = got.codes[block * 8 + i / 2];
                let code = signed(
                    if i % 2 == 0 { byte >> 4 } else { byte & 15 },
                    8,
                    &e2m1_values,
                );
                let bound = bound + y.abs() * 2f64.powi(-23);
                let (low, high) = (e2m1((y - bound) / total), e2m1((y + bound) / total));
                assert!(
                    between(code, low, high),
                    "block {block}, {i}: {code}, not in {low}..={high}"
                );
            }
        }
    }
}

fn signed(code: u8, sign: u8, values: &[f64]) -> f64 {
    let value = values[usize::from(code & (sign - 1))];
    if code & sign == 0 { value } else { -value }
}

#[test]
fn layer_norms_are_within_the_bound() {
    let mut random = Random(4);
    for shape in [
        (1, 1, 64),
        (2, 3, 192),
        (1, 20, 320),
        (2, 2, 3072),
        (1, 1, 12_288),
        (1, 1, 16_384),
        (1, 77, 64),
    ] {
        let case = Case::layer_norm(&mut random, shape);
        let got = case.run(&gpu("rtx5090"), ALL).unwrap();
        assert_eq!(got.word, 0);
        case.check(&got);
    }
}

#[test]
fn rms_norms_are_within_the_bound() {
    let mut random = Random(5);
    for (rows, width) in [(1, 64), (20, 192), (2, 3584), (1, 16_384)] {
        let case = Case::rms_norm(&mut random, rows, width);
        let got = case.run(&gpu("rtx5090"), ALL).unwrap();
        assert_eq!(got.word, 0);
        case.check(&got);
    }
}

/// Whatever else leaves the kernel, an output has the same bytes; older cards make what they can.
#[test]
fn outputs_do_not_depend_on_each_other() {
    let case = Case::layer_norm(&mut Random(6), (2, 5, 192));
    let none = Wanted {
        bf16: false,
        e4m3: false,
        nvfp4: false,
    };
    let all = case.run(&gpu("rtx5090"), ALL).unwrap();
    let bf16 = case
        .run(&gpu("rtx5090"), Wanted { bf16: true, ..none })
        .unwrap();
    let e4m3 = case
        .run(&gpu("rtx5090"), Wanted { e4m3: true, ..none })
        .unwrap();
    let nvfp4 = case
        .run(
            &gpu("rtx5090"),
            Wanted {
                nvfp4: true,
                ..none
            },
        )
        .unwrap();
    same("bf16", &bf16.bf16, &all.bf16);
    same("E4M3", &e4m3.e4m3, &all.e4m3);
    same("NVFP4", &nvfp4.codes, &all.codes);
    same("block scales", &nvfp4.scales, &all.scales);

    let ada = case
        .run(
            &gpu("rtx4090"),
            Wanted {
                nvfp4: false,
                ..ALL
            },
        )
        .unwrap();
    same("bf16 of sm_89", &ada.bf16, &all.bf16);
    same("E4M3 of sm_89", &ada.e4m3, &all.e4m3);
    let ampere = case
        .run(&gpu("a100"), Wanted { bf16: true, ..none })
        .unwrap();
    same("bf16 of sm_80", &ampere.bf16, &all.bf16);
    let told = case.run(&gpu("rtx4090"), ALL).unwrap_err().to_string();
    assert!(told.contains("NVFP4 codes are not made on sm_89"), "{told}");
    let told = case
        .run(&gpu("a100"), Wanted { e4m3: true, ..none })
        .unwrap_err()
        .to_string();
    assert!(told.contains("E4M3 codes are not made on sm_80"), "{told}");
}

#[test]
fn every_run_has_the_same_bits() {
    let case = Case::layer_norm(&mut Random(10), (2, 5, 1088));
    let first = case.run(&gpu("rtx5090"), ALL).unwrap();
    for seed in 1..4 {
        let again = case.run(&gpu_with_seed("rtx5090", seed), ALL).unwrap();
        assert!(again == first, "seed {seed}");
    }
}

/// A row without variance gives the shift: eps keeps the quotient finite.
#[test]
fn a_constant_row_becomes_the_shift() {
    let mut case = Case::layer_norm(&mut Random(7), (1, 2, 128));
    case.x.fill(bf16::from_f32(-3.25));
    let got = case.run(&gpu("rtx5090"), ALL).unwrap();
    let shift = &case.shift.as_ref().unwrap()[..128];
    same("shift", &got.bf16[..128], shift);
    same("shift", &got.bf16[128..], shift);
    assert_eq!(got.word, 0);
}

#[test]
fn what_is_not_finite_is_reported_where_codes_are_made() {
    let gpu = gpu("rtx5090");
    let mut case = Case::layer_norm(&mut Random(8), (1, 3, 64));
    case.x[100] = bf16::INFINITY;
    let none = Wanted {
        bf16: false,
        e4m3: false,
        nvfp4: false,
    };
    assert_eq!(
        case.run(&gpu, Wanted { e4m3: true, ..none }).unwrap().word,
        1
    );
    assert_eq!(
        case.run(
            &gpu,
            Wanted {
                nvfp4: true,
                ..none
            }
        )
        .unwrap()
        .word,
        1
    );
    assert_eq!(
        case.run(&gpu, Wanted { bf16: true, ..none }).unwrap().word,
        0
    );
}

#[test]
fn what_does_not_fit_is_refused() {
    let gpu = gpu("rtx5090");
    let told = |case: &Case| case.run(&gpu, ALL).unwrap_err().to_string();
    let mut random = Random(9);
    let case = Case::layer_norm(&mut random, (1, 1, 96));
    assert!(told(&case).contains("multiple of 64"));
    let mut case = Case::layer_norm(&mut random, (2, 3, 64));
    case.batches.sequence = 4;
    assert!(told(&case).contains("no whole batches of 4"));
    case.batches.sequence = 3;
    case.scale.truncate(136 + 63);
    assert!(told(&case).contains("the scales: 2 vectors of 64, 136 apart"));
    let case = Case::rms_norm(&mut random, 1, 16_448);
    assert!(told(&case).contains("at most 16384"));
}
