//! Products for the tests of the GEMMs: matrices in both formats, their F64 reference, and what the kernels make of them.

use crate::numbers::{E2M1, Noise, e4m3};
use half::bf16;
use qwen_nvfp4_kernels::gemm::{Format, Shape};

/// A quantized matrix on the host.
#[derive(Clone)]
pub struct Matrix {
    pub format: Format,
    pub rows: usize,
    pub k: usize,
    /// Packed, as the checkpoint has them.
    pub codes: Vec<u8>,
    /// `[rows, k / 16]` E4M3; empty in FP8.
    pub scales: Vec<u8>,
    /// The scale of the whole.
    pub scale: f32,
}

impl Matrix {
    /// Every code but NaN, block scales from 2^-4 to 2^4.
    pub fn random(format: Format, rows: usize, k: usize, seed: u64) -> Self {
        let mut noise = Noise(seed);
        let mut codes: Vec<u8> = (0..rows * k).map(|_| noise.next() as u8).collect();
        let mut scales = Vec::new();
        match format {
            Format::Nvfp4 => {
                codes.truncate(rows * k / 2);
                scales = (0..rows * k / 16)
                    .map(|_| 0x18 + noise.below(0x40) as u8)
                    .collect();
            }
            Format::Fp8 => {
                for code in &mut codes {
                    if *code & 0x7f == 0x7f {
                        *code = 0x30;
                    }
                }
            }
        }
        let scale = 0.01 + 0.001 * noise.signed();
        Self {
            format,
            rows,
            k,
            codes,
            scales,
            scale,
        }
    }

    /// Some of its rows.
    pub fn rows(&self, of: std::ops::Range<usize>) -> Self {
        let part = |bytes: &[u8]| {
            let row = bytes.len() / self.rows;
            bytes[of.start * row..of.end * row].to_vec()
        };
        Self {
            rows: of.len(),
            codes: part(&self.codes),
            scales: part(&self.scales),
            ..*self
        }
    }

    /// Without the scale of the whole.
    pub fn values(&self) -> Vec<f64> {
        let at = |i: usize| match self.format {
            Format::Fp8 => e4m3(self.codes[i]),
            Format::Nvfp4 => {
                let byte = self.codes[i / 2];
                let code = if i.is_multiple_of(2) {
                    byte >> 4
                } else {
                    byte & 15
                };
                E2M1[usize::from(code)] * e4m3(self.scales[i / 16])
            }
        };
        (0..self.rows * self.k).map(at).collect()
    }
}

/// A product on the host.
#[derive(Clone)]
pub struct Case {
    pub a: Matrix,
    pub b: Matrix,
    pub bias: Option<Vec<f32>>,
}

impl Case {
    pub fn random(format: Format, shape: Shape, seed: u64) -> Self {
        let Shape { m, n, k } = shape;
        let mut noise = Noise(seed ^ 0xb1a5);
        Self {
            a: Matrix::random(format, m, k, 2 * seed),
            b: Matrix::random(format, n, k, 2 * seed + 1),
            bias: Some((0..n).map(|_| noise.signed()).collect()),
        }
    }

    pub fn shape(&self) -> Shape {
        Shape {
            m: self.a.rows,
            n: self.b.rows,
            k: self.a.k,
        }
    }

    /// `alpha A B^T + bias` in F64, and by how much the tensor cores' F32 sums may differ: they keep at least 20 bits
    /// and add at most K/32 times (a bf16 result differs by 2^-8 of itself more).
    pub fn reference(&self) -> Vec<(f64, f64)> {
        let Shape { m, n, k } = self.shape();
        let (a, b) = (self.a.values(), self.b.values());
        let alpha = f64::from(self.a.scale * self.b.scale);
        let steps = (k as f64 / 32.0).ceil() * 2f64.powi(-20);
        let mut out = Vec::with_capacity(m * n);
        for row in a.chunks_exact(k) {
            for (column, weight) in b.chunks_exact(k).enumerate() {
                let (mut sum, mut magnitude) = (0.0, 0.0);
                for (x, w) in row.iter().zip(weight) {
                    sum += x * w;
                    magnitude += (x * w).abs();
                }
                let bias = self
                    .bias
                    .as_ref()
                    .map_or(0.0, |bias| f64::from(bias[column]));
                let exact = alpha * sum + bias;
                // Alpha's and the last addition's roundings.
                let last = 2f64.powi(-22) * (exact.abs() + (alpha * sum).abs());
                out.push((exact, alpha * magnitude * steps + last));
            }
        }
        out
    }
}

/// Whether bf16 numbers are what the reference says; the message names the worst.
pub fn assert_close(got: &[bf16], wanted: &[(f64, f64)], n: usize, name: &str) {
    assert_eq!(got.len(), wanted.len(), "{name}");
    let mut worst = (0.0, 0);
    for (i, (got, (exact, error))) in got.iter().zip(wanted).enumerate() {
        let bound = error + 2f64.powi(-8) * exact.abs() + 1e-38;
        let share = (got.to_f64() - exact).abs() / bound;
        if share.is_nan() || share > worst.0 {
            worst = (share, i);
        }
    }
    let (share, i) = worst;
    assert!(
        share <= 1.0,
        "{name}: ({}, {}) is {}, exactly {}: {share} times the bound",
        i / n,
        i % n,
        got[i],
        wanted[i].0
    );
}
