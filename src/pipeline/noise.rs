//! Normal numbers, equal to torch's CPU generator bit for bit.
//!
//! `torch.randn(n, generator=torch.Generator("cpu").manual_seed(seed))` has two ways: below 16 numbers it draws
//! doubles (ATen `normal_distribution<double>`), from 16 on it fills the whole tensor with uniforms and turns
//! blocks of 16 into normals (ATen `normal_fill`, here as its AVX2 build computes it: the logarithm and sine of
//! `avx_mathfun.h`, with the fused multiply-adds that GCC makes of them). torch takes that build with
//! `ATEN_CPU_CAPABILITY=avx512` too; without AVX2 (`default`, or not x86-64) four numbers in ten differ, by at
//! most 2e-6. This module gives the same everywhere.

use rand_mt::Mt;

use crate::ops::simd::multiversion;

/// From this many numbers on torch works in blocks.
const BLOCK: usize = 16;

/// torch's CPU generator.
pub struct TorchGenerator {
    mt: Mt,
    /// The second number of a pair that the scalar way has drawn and not given out yet.
    spare: Option<f64>,
}

impl TorchGenerator {
    /// `torch.Generator("cpu").manual_seed(seed)`: the Mersenne twister takes the low 32 bits.
    pub fn new(seed: u64) -> Self {
        Self {
            mt: Mt::new(seed as u32),
            spare: None,
        }
    }

    /// `torch.randn(n, generator=self)` in F32.
    pub fn randn(&mut self, n: usize) -> Vec<f32> {
        match n {
            0..BLOCK => self.scalar(n),
            _ => self.blocks(n),
        }
    }

    fn scalar(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal() as f32).collect()
    }

    fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (u1, u2) = (self.uniform_f64(), self.uniform_f64());
        let r = (-2.0 * (-u2).ln_1p()).sqrt();
        let theta = 2.0 * std::f64::consts::PI * u1;
        self.spare = Some(r * theta.sin());
        r * theta.cos()
    }

    fn blocks(&mut self, n: usize) -> Vec<f32> {
        let mut out: Vec<f32> = (0..n).map(|_| self.uniform_f32()).collect();
        let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
        normals(blocks);
        if !rest.is_empty() {
            // The last 16 numbers are drawn again, those of the last whole block among them.
            let mut last = [0.0; BLOCK];
            last.fill_with(|| self.uniform_f32());
            normals(std::slice::from_mut(&mut last));
            out[n - BLOCK..].copy_from_slice(&last);
        }
        out
    }

    fn uniform_f32(&mut self) -> f32 {
        (self.mt.next_u32() & 0x00ff_ffff) as f32 * 2f32.powi(-24)
    }

    fn uniform_f64(&mut self) -> f64 {
        let high = u64::from(self.mt.next_u32());
        let bits = high << 32 | u64::from(self.mt.next_u32());
        (bits & ((1 << 53) - 1)) as f64 * 2f64.powi(-53)
    }
}

multiversion! {
    /// Box-Muller on blocks of 16 uniforms: number j and number j + 8 make a pair.
    fn normals(blocks: &mut [[f32; BLOCK]]) {
        for block in blocks {
            let (first, second) = block.split_at_mut(BLOCK / 2);
            for (a, b) in first.iter_mut().zip(second) {
                let radius = (-2.0 * log(1.0 - *a)).sqrt();
                let (sin, cos) = sin_cos(std::f32::consts::TAU * *b);
                // Adding 0 makes -0 a +0, as the original's multiply-add by a mean of 0 does.
                (*a, *b) = (radius * cos + 0.0, radius * sin + 0.0);
            }
        }
    }
}

/// Cephes' `logf` for x in (0, 1], as `log256_ps` is compiled.
#[inline(always)]
fn log(x: f32) -> f32 {
    const P: [f32; 8] = [
        -1.151_461e-1,
        1.167_699_87e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_4e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    let bits = x.max(f32::MIN_POSITIVE).to_bits();
    let mut e = ((bits >> 23) as i32 - 127) as f32 + 1.0;
    let mantissa = f32::from_bits(bits & 0x807f_ffff | 0x3f00_0000);
    let mut x = mantissa - 1.0;
    if mantissa < std::f32::consts::FRAC_1_SQRT_2 {
        e -= 1.0;
        x += mantissa;
    }
    let z = x * x;
    let y = P.iter().fold(7.037_683_6e-2, |y: f32, p| y.mul_add(x, *p)) * x;
    let y = y.mul_add(z, e * -2.121_944_4e-4);
    let y = (-z).mul_add(0.5, y);
    e.mul_add(0.693_359_4, x + y)
}

/// Cephes' `sinf` and `cosf`, as `sincos256_ps` is compiled.
#[inline(always)]
fn sin_cos(x: f32) -> (f32, f32) {
    let octant = ((x.abs() * 1.273_239_5) as i32 + 1) & !1;
    let y = octant as f32;
    let r = y.mul_add(-0.785_156_25, x.abs());
    let r = y.mul_add(-2.418_756_5e-4, r);
    let r = y.mul_add(-3.774_895e-8, r);
    let z = r * r;
    let c = 2.443_315_7e-5f32
        .mul_add(z, -1.388_731_6e-3)
        .mul_add(z, 4.166_664_6e-2)
        * z;
    let c = c.mul_add(z, -(z * 0.5)) + 1.0;
    let s = (-1.951_529_6e-4f32)
        .mul_add(z, 8.332_161e-3)
        .mul_add(z, -1.666_665_5e-1)
        * z;
    let s = s.mul_add(r, r);
    let (sin, cos) = match octant & 2 {
        0 => (s, c),
        _ => (c, s),
    };
    let flip = |v: f32, negative: bool| if negative { -v } else { v };
    let sin = flip(sin, (octant & 4 != 0) != x.is_sign_negative());
    (sin, flip(cos, !(octant - 2) & 4 != 0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use sha2::{Digest, Sha256};

    use super::*;

    fn sha256(x: &[f32]) -> String {
        let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
        let digest = Sha256::digest(&bytes);
        digest.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn bits_equal_torch() {
        let rows: Vec<(u64, usize, String, Vec<f32>)> =
            serde_json::from_str(include_str!("../../tests/fixtures/noise/randn.json")).unwrap();
        for (seed, n, digest, first) in rows {
            let x = TorchGenerator::new(seed).randn(n);
            assert_eq!(x[..first.len()], first, "seed {seed}, {n} numbers");
            assert_eq!(sha256(&x), digest, "seed {seed}, {n} numbers");
        }
    }

    #[test]
    fn a_generator_goes_on_as_torchs_does() {
        let rows: Vec<(u64, Vec<usize>, String)> =
            serde_json::from_str(include_str!("../../tests/fixtures/noise/sequences.json"))
                .unwrap();
        for (seed, sizes, digest) in rows {
            let mut generator = TorchGenerator::new(seed);
            let drawn: Vec<f32> = sizes.iter().flat_map(|n| generator.randn(*n)).collect();
            assert_eq!(sha256(&drawn), digest, "seed {seed}, sizes {sizes:?}");
        }
    }
}
