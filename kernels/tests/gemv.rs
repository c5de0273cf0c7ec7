//! A few rows times a weight against f64.
//!
//! Bound of an f32 sum over k: (k / 32 + 8) roundings of half a step, 2^-24, of the sum of magnitudes; then half a bf16
//! step, 2^-8 |y|. SiLU's slope is at most 1.1, its exponential good to 2^-20.

#![allow(clippy::unwrap_used, clippy::panic)]

mod rows;

use half::bf16;
use qwen_nvfp4_kernels::gemv::{Gemv, Out, Weight};
use qwen_nvfp4_kernels::{Gpu, KernelError, layout};

use rows::{Random, down, gpu, gpu_with_seed, up, zeros};

/// A weight on the host.
enum Host {
    Bf16(Vec<bf16>),
    E4m3(Vec<u8>),
    /// Codes and row-major block scales.
    Nvfp4(Vec<u8>, Vec<u8>),
}

struct Case {
    x: Vec<f32>,
    weight: Host,
    n: usize,
    k: usize,
    scale: Option<f32>,
    bias: Option<Vec<bf16>>,
    silu: bool,
}

#[derive(Clone, Copy)]
enum Format {
    Bf16,
    E4m3,
    Nvfp4,
}

impl Case {
    fn new(random: &mut Random, format: Format, [m, n, k]: [usize; 3]) -> Self {
        // Every code but NaN.
        let e4m3 = |code: u8| if code & 0x7f == 0x7f { 0x7e } else { code };
        let weight = match format {
            Format::Bf16 => Host::Bf16(random.bf16s(n * k, 1.0)),
            Format::E4m3 => Host::E4m3(random.bytes(n * k).into_iter().map(e4m3).collect()),
            Format::Nvfp4 => {
                let scales = random
                    .bytes(n * k / 16)
                    .into_iter()
                    .map(|code| e4m3(code & 0x7f));
                Host::Nvfp4(random.bytes(n * k / 2), scales.collect())
            }
        };
        Self {
            x: (0..m * k).map(|_| random.normal() as f32).collect(),
            weight,
            n,
            k,
            scale: Some(0.0123),
            bias: Some(random.bf16s(n, 2.0)),
            silu: false,
        }
    }

    /// In f32 (as f64) or in bf16.
    fn run(&self, gpu: &Gpu, in_bf16: bool) -> Result<Vec<f64>, KernelError> {
        let (stream, k) = (gpu.stream(), self.k);
        let len = self.x.len() / k * self.n;
        let x = up(stream, &self.x);
        let bias = self.bias.as_ref().map(|bias| up(stream, bias));
        let scale = self.scale.map(|scale| up(stream, &[scale]));
        let (bias, scale) = (
            bias.as_ref().map(|b| b.as_view()),
            scale.as_ref().map(|s| s.as_view()),
        );
        let (mut values, mut codes, mut scales) = (
            zeros::<bf16>(stream, 8),
            zeros::<u8>(stream, 8),
            zeros::<u8>(stream, 8),
        );
        match &self.weight {
            Host::Bf16(weight) => values = up(stream, weight),
            Host::E4m3(weight) => codes = up(stream, weight),
            Host::Nvfp4(weight, blocks) => {
                codes = up(stream, weight);
                scales = up(stream, &layout::lane_order_from_rows(blocks, self.n, k)?);
            }
        }
        let (values, codes, scales) = (values.as_view(), codes.as_view(), scales.as_view());
        let gemv = Gemv {
            x: &x.as_view(),
            k,
            weight: match &self.weight {
                Host::Bf16(_) => Weight::Bf16(&values),
                Host::E4m3(_) => Weight::E4m3(&codes),
                Host::Nvfp4(..) => Weight::Nvfp4 {
                    codes: &codes,
                    scales: &scales,
                },
            },
            scale: scale.as_ref(),
            bias: bias.as_ref(),
            silu: self.silu,
        };
        if in_bf16 {
            let mut out = up(stream, &vec![bf16::NAN; len]);
            gemv.run(gpu, &mut Out::Bf16(out.as_view_mut()))?;
            return Ok(down(stream, &out.as_view())
                .iter()
                .map(|y| y.to_f64())
                .collect());
        }
        let mut out = up(stream, &vec![f32::NAN; len]);
        gemv.run(gpu, &mut Out::F32(out.as_view_mut()))?;
        Ok(down(stream, &out.as_view())
            .into_iter()
            .map(f64::from)
            .collect())
    }

    /// The weight's numbers before its tensor scale.
    fn weights(&self) -> Vec<f64> {
        let (e4m3, e2m1) = (rows::e4m3_values(), rows::e2m1_values());
        let signed = |code: u8, sign: u8, values: &[f64]| {
            let value = values[usize::from(code & (sign - 1))];
            if code & sign == 0 { value } else { -value }
        };
        match &self.weight {
            Host::Bf16(weight) => weight.iter().map(|w| w.to_f64()).collect(),
            Host::E4m3(codes) => codes
                .iter()
                .map(|code| signed(*code, 0x80, &e4m3))
                .collect(),
            Host::Nvfp4(codes, scales) => (0..self.n * self.k)
                .map(|i| {
                    let byte = codes[i / 2];
                    let code = if i % 2 == 0 { byte >> 4 } else { byte & 15 };
                    signed(code, 8, &e2m1) * e4m3[usize::from(scales[i / 16])]
                })
                .collect(),
        }
    }

    fn check(&self, got: &[f64], in_bf16: bool) {
        let (weights, k, n) = (self.weights(), self.k, self.n);
        let scale = f64::from(self.scale.unwrap_or(1.0));
        assert_eq!(got.len(), self.x.len() / k * n);
        for (i, got) in got.iter().enumerate() {
            let (row, column) = (i / n, i % n);
            let terms = self.x[row * k..][..k]
                .iter()
                .zip(&weights[column * k..][..k]);
            let terms = terms.map(|(x, w)| f64::from(*x) * w * scale);
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()));
            let bias = self.bias.as_ref().map_or(0.0, |bias| bias[column].to_f64());
            let mut exact = sum + bias;
            let mut bound = (size * (k as f64 / 32.0 + 8.0) + exact.abs()) * 2f64.powi(-24);
            if self.silu {
                exact /= 1.0 + (-exact).exp();
                bound = 1.1 * bound + exact.abs() * 2f64.powi(-20);
            }
            if in_bf16 {
                bound += exact.abs() * 2f64.powi(-8);
            }
            let error = (got - exact).abs();
            assert!(
                error <= bound,
                "row {row}, column {column}: {got}, exactly {exact}, error {error} above {bound}"
            );
        }
    }
}

#[test]
fn products_are_within_the_bound() {
    let mut random = Random(1);
    for format in [Format::Bf16, Format::E4m3, Format::Nvfp4] {
        for shape in [
            [1, 1, 16],
            [1, 33, 528],
            [2, 4, 64],
            [11, 37, 1040],
            [23, 65, 80],
        ] {
            let case = Case::new(&mut random, format, shape);
            for card in ["rtx5090", "a100"] {
                let gpu = gpu(card);
                case.check(&case.run(&gpu, false).unwrap(), false);
                case.check(&case.run(&gpu, true).unwrap(), true);
            }
        }
    }
}

#[test]
fn scale_bias_and_silu_may_be_missing_or_there() {
    let gpu = gpu("rtx5090");
    let mut random = Random(2);
    let mut case = Case::new(&mut random, Format::Bf16, [3, 9, 96]);
    case.silu = true;
    case.check(&case.run(&gpu, false).unwrap(), false);
    case.scale = None;
    case.bias = None;
    case.check(&case.run(&gpu, false).unwrap(), false);
    case.silu = false;
    case.check(&case.run(&gpu, true).unwrap(), true);
    // A step of SiLU where e^-y overflows, and where it is nothing.
    case.silu = true;
    case.x[..96].fill(1e4);
    case.check(&case.run(&gpu, false).unwrap(), false);
}

#[test]
fn a_row_is_the_same_alone_among_others_and_in_another_run() {
    let gpu = gpu("rtx5090");
    let mut case = Case::new(&mut Random(3), Format::E4m3, [12, 40, 560]);
    let many = case.run(&gpu, false).unwrap();
    let x = case.x.clone();
    for (row, x) in x.chunks(560).enumerate() {
        case.x = x.to_vec();
        let alone = case.run(&gpu, false).unwrap();
        assert_eq!(alone, many[row * 40..][..40], "row {row}");
    }
    case.x = x;
    drop(gpu);
    for seed in 1..4 {
        let again = case.run(&gpu_with_seed("rtx5090", seed), false).unwrap();
        assert_eq!(again, many, "seed {seed}");
    }
}

/// Row 2 of the weight gets one NaN after the other, at each place of a word: only its outputs become NaN.
#[test]
fn nan_in_a_weight_stays_nan() {
    for card in ["rtx5090", "a100"] {
        let gpu = gpu(card);
        let mut random = Random(4);
        let mut case = Case::new(&mut random, Format::E4m3, [2, 5, 64]);
        let check = |case: &Case| {
            for (i, y) in case.run(&gpu, false).unwrap().iter().enumerate() {
                assert_eq!(y.is_nan(), i % 5 == 2, "output {i}: {y}");
            }
        };
        for (at, code) in [(0, 0x7f), (1, 0xff), (18, 0x7f), (35, 0x7f), (63, 0xff)] {
            let Host::E4m3(codes) = &mut case.weight else {
                panic!()
            };
            let before = std::mem::replace(&mut codes[2 * 64 + at], code);
            check(&case);
            let Host::E4m3(codes) = &mut case.weight else {
                panic!()
            };
            codes[2 * 64 + at] = before;
        }
        let mut case = Case::new(&mut random, Format::Nvfp4, [2, 5, 64]);
        let Host::Nvfp4(_, scales) = &mut case.weight else {
            panic!()
        };
        scales[2 * 4 + 3] = 0x7f;
        check(&case);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let gpu = gpu("rtx5090");
    let told = |case: &Case| case.run(&gpu, false).unwrap_err().to_string();
    let mut case = Case::new(&mut Random(4), Format::E4m3, [2, 3, 32]);
    case.k = 24;
    assert!(told(&case).contains("multiple of 16"));
    case.k = 32;
    case.bias.as_mut().unwrap().pop();
    assert!(told(&case).contains("2 numbers of the bias, expected 3"));
    case.bias = None;
    case.n = 4;
    assert!(told(&case).contains("8 numbers of the output") || told(&case).contains("expected 6"));
    let mut case = Case::new(&mut Random(5), Format::Nvfp4, [2, 3, 32]);
    if let Host::Nvfp4(codes, _) = &mut case.weight {
        codes.truncate(32);
    }
    case.bias = None;
    assert!(case.run(&gpu, false).is_err());
}
