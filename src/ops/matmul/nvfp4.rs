//! W4A4: NVFP4 activations by NVFP4 weights.
//!
//! The definition: within a block of 16 the products of codes are summed exactly (they are integers, in quarters); the
//! block's sum times its two E4M3 scales is exact in F32 too (12 + 4 + 4 bits); these are added in the order of K, each
//! sum rounded to F32, in chunks of 16 blocks; the chunks' sums are added in order; the total is multiplied by
//! `input_scale * weight_scale_2`.
//!
//! The trick: E2M1 doubled is a small integer (0, 1, 2, 3, 4, 6, 8, 12). With 12 added to the weight's it is an unsigned
//! byte, which is what `vpdpbusd` and `vpmaddubsw` multiply with a signed one; what the 12 added, 12 times the sum of the
//! activations' codes, is known per block and subtracted where the sum begins. The sum of a block may be taken in any
//! order, so codes are not put in order: first the high nibbles of four bytes, then the low ones.

use super::NonFinite;
use super::driver::{Extent, Finish, Kernel, matmul};
use crate::checkpoint::CheckpointError;
use crate::numerics::machine::{Level, Machine};
use crate::numerics::nvfp4::{self, BLOCK, BlockRule};
use crate::numerics::widen::E4M3_TO_F32;
use crate::numerics::{e2m1, swizzle};
use crate::ops::rows;

/// What is added to a doubled code of the weight to make it unsigned.
pub(crate) const OFFSET: i8 = 12;

/// Twice the numbers by code.
pub(crate) const DOUBLED: [i8; 16] = {
    let mut doubled = [0; 16];
    let mut code = 0;
    while code < 16 {
        doubled[code] = (e2m1::VALUES[code] * 2.0) as i8;
        code += 1;
    }
    doubled
};

/// An NVFP4 weight `[n, k]` as stored.
#[derive(Clone, Copy)]
pub(crate) struct Stored<'w> {
    /// `[n, k / 2]`, the even column in the high half.
    pub(crate) codes: &'w [u8],
    /// E4M3, in 128 x 4 tiles.
    pub(crate) scales: &'w [u8],
    /// Columns.
    pub(crate) k: usize,
}

impl Stored<'_> {
    /// The scale of four blocks of a row from `block`, a multiple of four, on.
    pub(crate) fn four_scales(&self, row: usize, block: usize) -> [u8; 4] {
        let at = swizzle::offset(row, block, self.k / BLOCK);
        std::array::from_fn(|i| self.scales[at + i])
    }
}

/// Activations `[m, k]` as NVFP4, in the order in which a machine's kernel reads them.
pub(crate) struct Rows {
    /// Multiplies everything.
    scale_2: f32,
    m: usize,
    packed: Packed,
}

enum Packed {
    #[cfg(target_arch = "x86_64")]
    Eight(Vec<Step<8>>),
    Four(Vec<Step<4>>),
}

/// A block of 16 columns of R rows.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Step<const R: usize> {
    /// Doubled codes: columns 0 2 4 6, 1 3 5 7, 8 10 12 14, 9 11 13 15.
    pub(crate) codes: [[i8; BLOCK]; R],
    /// What the block's scale stands for.
    pub(crate) scales: [f32; R],
    /// The sum of the codes times -12.
    pub(crate) corrections: [i32; R],
}

impl<const R: usize> Step<R> {
    const ZERO: Self = Self {
        codes: [[0; BLOCK]; R],
        scales: [0.0; R],
        corrections: [0; R],
    };

    fn set(&mut self, row: usize, packed: &[u8; BLOCK / 2], scale: u8) {
        let codes = &mut self.codes[row];
        for half in 0..2 {
            for i in 0..4 {
                let byte = packed[4 * half + i];
                codes[8 * half + i] = DOUBLED[usize::from(byte >> 4)];
                codes[8 * half + 4 + i] = DOUBLED[usize::from(byte & 15)];
            }
        }
        let sum: i32 = codes.iter().map(|c| i32::from(*c)).sum();
        self.corrections[row] = -i32::from(OFFSET) * sum;
        self.scales[row] = E4M3_TO_F32[usize::from(scale)];
    }
}

impl Rows {
    /// Quantizes `x` `[m, k]`, k a multiple of 16, with `scale_2`; `None`: with its own amax / 2688.
    ///
    /// # Errors
    /// Where a number is not finite.
    pub(crate) fn quantize(
        machine: Machine,
        x: rows::Rows<'_>,
        scale_2: Option<f32>,
    ) -> Result<Self, NonFinite> {
        let scale_2 = match scale_2 {
            Some(scale_2) => scale_2,
            None => nvfp4::scale_2_of(x.amax()?),
        };
        let packed = match machine.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Bf16 => Packed::Eight(pack(x, scale_2)?),
            _ => Packed::Four(pack(x, scale_2)?),
        };
        let m = x.m();
        Ok(Self { scale_2, m, packed })
    }

    /// `out[m, n] = finish(rows * weight^T)`; `finish.alpha` is `weight_scale_2`.
    ///
    /// # Errors
    /// None of its own.
    pub(crate) fn multiply(
        &self,
        machine: Machine,
        weight: (Stored<'_>, Extent),
        finish: &Finish<'_>,
        out: &mut [f32],
    ) -> Result<(), CheckpointError> {
        let (right, Extent { n, k, .. }) = weight;
        let extent = Extent { m: self.m, n, k };
        let alpha = self.scale_2 * finish.alpha;
        let finish = &Finish { alpha, ..*finish };
        match &self.packed {
            #[cfg(target_arch = "x86_64")]
            Packed::Eight(left) => {
                let right = super::nvfp4_x86::Vnni::new(right, machine);
                matmul(&right, left, extent, finish, out)
            }
            #[cfg(target_arch = "x86_64")]
            Packed::Four(left) if machine.level() == Level::Avx2 => {
                let right = super::nvfp4_x86::Avx2::new(right, machine);
                matmul(&right, left, extent, finish, out)
            }
            Packed::Four(left) => matmul(&Portable(right), left, extent, finish, out),
        }
    }
}

/// Groups of R rows, block by block.
fn pack<const R: usize>(x: rows::Rows<'_>, scale_2: f32) -> Result<Vec<Step<R>>, NonFinite> {
    let (k, blocks) = (x.k(), x.k() / BLOCK);
    let mut packed = vec![Step::ZERO; x.groups(R) * blocks];
    x.pack::<R, _, _>(
        &mut packed,
        || (vec![0; k / 2], vec![0; blocks]),
        |(codes, scales), packed, row, x| {
            nvfp4::quantize(x, scale_2, BlockRule::Six, codes, scales);
            let codes = codes.as_chunks::<{ BLOCK / 2 }>().0;
            for ((step, codes), scale) in packed.iter_mut().zip(codes).zip(scales.iter()) {
                step.set(row, codes, *scale);
            }
        },
    )?;
    Ok(packed)
}

/// Plain loops, 4 rows by 16 columns, in F32: the integers are far inside of its 24 bits, and compilers vectorise floats
/// well where 16-bit integers gave a third of the speed.
struct Portable<'w>(Stored<'w>);

/// A block of 16 columns of 16 rows of the weight: `codes[k][n]`, and a quarter of the scales.
#[derive(Clone, Copy)]
struct Right {
    codes: [[f32; 16]; BLOCK],
    scales: [f32; 16],
}

impl Kernel for Portable<'_> {
    const ROWS: usize = 4;
    const COLUMNS: usize = 16;
    const STEP: usize = BLOCK;
    const STRETCH: usize = 6 * super::driver::CHUNK;
    type Left = Step<4>;
    type Right = Right;

    fn zero(&self) -> Right {
        Right {
            codes: [[0.0; 16]; BLOCK],
            scales: [0.0; 16],
        }
    }

    fn decode(
        &self,
        rows: std::ops::Range<usize>,
        ks: std::ops::Range<usize>,
        panel: &mut [Right],
    ) -> Result<(), CheckpointError> {
        let first = ks.start / BLOCK;
        for (n, row) in rows.enumerate() {
            let codes =
                &self.0.codes[(row * self.0.k + ks.start) / 2..(row * self.0.k + ks.end) / 2];
            for (block, (step, bytes)) in panel.iter_mut().zip(codes.as_chunks::<8>().0).enumerate()
            {
                for (i, byte) in bytes.iter().enumerate() {
                    let at = 8 * (i / 4) + i % 4;
                    step.codes[at][n] = f32::from(DOUBLED[usize::from(byte >> 4)]);
                    step.codes[at + 4][n] = f32::from(DOUBLED[usize::from(byte & 15)]);
                }
                let scale = self.0.four_scales(row, (first + block) / 4 * 4)[(first + block) % 4];
                step.scales[n] = E4M3_TO_F32[usize::from(scale)] * 0.25;
            }
        }
        Ok(())
    }

    fn multiply(&self, _: usize, left: &[Step<4>], right: &[Right], sums: &mut [f32]) {
        let chunk = super::driver::CHUNK / BLOCK;
        for (left, right) in left.chunks(chunk).zip(right.chunks(chunk)) {
            let mut chunk = [[0.0f32; 16]; 4];
            for (a, b) in left.iter().zip(right) {
                let mut dots = [[0.0f32; 16]; 4];
                for (k, b) in b.codes.iter().enumerate() {
                    for (dots, a) in dots.iter_mut().zip(&a.codes) {
                        let a = f32::from(a[k]);
                        for (dot, b) in dots.iter_mut().zip(b) {
                            *dot += a * b;
                        }
                    }
                }
                for ((sums, dots), scale) in chunk.iter_mut().zip(&dots).zip(a.scales) {
                    for ((sum, dot), b) in sums.iter_mut().zip(dots).zip(&b.scales) {
                        *sum += dot * b * scale;
                    }
                }
            }
            for (sum, chunk) in sums.iter_mut().zip(chunk.as_flattened()) {
                *sum += chunk;
            }
        }
    }
}

/// The definition, one element after the other.
pub mod reference {
    use super::super::driver::CHUNK;
    use crate::numerics::e2m1;
    use crate::numerics::nvfp4::BLOCK;
    use crate::numerics::widen::E4M3_TO_F32;

    /// A row of numbers: packed codes, and the block scales in order.
    pub type Row<'a> = (&'a [u8], &'a [u8]);

    /// The sum for one row of activations and one row of the weight, before `input_scale` and `weight_scale_2`.
    pub fn sum(a: Row<'_>, b: Row<'_>) -> f32 {
        let mut total = 0.0;
        let mut chunk = 0.0;
        for block in 0..a.1.len() {
            let at = block * BLOCK / 2..(block + 1) * BLOCK / 2;
            // In quarters, so an integer.
            let dot: i32 = a.0[at.clone()].iter().zip(&b.0[at]).map(product).sum();
            let scale = E4M3_TO_F32[usize::from(a.1[block])] * E4M3_TO_F32[usize::from(b.1[block])];
            chunk += scale * dot as f32 * 0.25;
            if (block + 1) % (CHUNK / BLOCK) == 0 || block + 1 == a.1.len() {
                total += chunk;
                chunk = 0.0;
            }
        }
        total
    }

    /// Four times the product of two packed pairs.
    fn product((a, b): (&u8, &u8)) -> i32 {
        let twice = |code: u8| (2.0 * e2m1::VALUES[usize::from(code)]) as i32;
        twice(a >> 4) * twice(b >> 4) + twice(a & 15) * twice(b & 15)
    }
}
