//! NVFP4 tiles by byte products: `vpdpbusd` on AVX-512, `vpmaddubsw` on AVX2.

use std::arch::x86_64::*;
use std::ops::Range;

use super::driver::{CHUNK, Kernel, by_rows};
use super::float_x86::{add256, add512};
use super::nvfp4::{DOUBLED, OFFSET, Step, Stored};
use super::transpose::{turn8, turn16};
use crate::checkpoint::CheckpointError;
use crate::numerics::machine::{Level, Machine};
use crate::numerics::nvfp4::BLOCK;
use crate::numerics::swizzle;

/// Blocks of a chunk.
const BLOCKS: usize = CHUNK / BLOCK;

/// Twice the numbers plus 12, by code.
static UNSIGNED: [u8; 16] = {
    let mut table = [0; 16];
    let mut code = 0;
    while code < 16 {
        table[code] = (DOUBLED[code] + OFFSET) as u8;
        code += 1;
    }
    table
};

/// A quarter of what an E4M3 scale stands for: codes are doubled on both sides.
static QUARTERS: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = crate::numerics::widen::e4m3_of(code as u8) * 0.25;
        code += 1;
    }
    table
};

/// 8 rows by 32 columns.
pub(crate) struct Vnni<'w>(Stored<'w>);

impl<'w> Vnni<'w> {
    /// # Panics
    /// Where `machine` has no AVX-512 with VNNI.
    pub(crate) fn new(weight: Stored<'w>, machine: Machine) -> Self {
        assert!(machine.level() >= Level::Avx512);
        Self(weight)
    }
}

/// A block of 16 columns of 32 rows of the weight.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Right32 {
    /// By 16 rows, by four columns (in the order of [`Step`]): four bytes a row.
    codes: [[[u8; 64]; 4]; 2],
    /// A quarter of the scales.
    scales: [f32; 32],
}

impl Kernel for Vnni<'_> {
    const ROWS: usize = 8;
    const COLUMNS: usize = 32;
    const STEP: usize = BLOCK;
    const STRETCH: usize = 6 * CHUNK;
    type Left = Step<8>;
    type Right = Right32;

    fn zero(&self) -> Right32 {
        Right32 {
            codes: [[[0; 64]; 4]; 2],
            scales: [0.0; 32],
        }
    }

    fn decode(
        &self,
        rows: Range<usize>,
        ks: Range<usize>,
        panel: &mut [Right32],
    ) -> Result<(), CheckpointError> {
        let Stored { codes, k, .. } = self.0;
        assert!(codes.len() >= rows.end * k / 2 && ks.end <= k && panel.len() * BLOCK >= ks.len());
        for half in 0..2 {
            let from = (rows.start + 16 * half).min(rows.end);
            let rows = from..(from + 16).min(rows.end);
            if rows.is_empty() {
                continue;
            }
            // SAFETY: `new` found the features.
            unsafe { scales16(&self.0, rows.start, ks.start / BLOCK, half, panel) };
            // SAFETY: as above.
            unsafe { decode16(&self.0, rows, ks.clone(), half, panel) };
        }
        Ok(())
    }

    fn multiply(&self, rows: usize, left: &[Step<8>], right: &[Right32], sums: &mut [f32]) {
        assert!(left.len() == right.len() && sums.len() == 8 * 32 && rows <= 8);
        // SAFETY: `new` found the features.
        unsafe { by_rows!(rows, tile512(left, right, sums), 8 7 6 5 4 3 2 1) }
    }
}

/// The scales of `rows`, from block `first` on, into the panel.
fn scales<T, const N: usize>(
    stored: &Stored<'_>,
    rows: Range<usize>,
    first: usize,
    panel: &mut [T],
    of: impl Fn(&mut T) -> &mut [f32; N],
) {
    for (n, row) in rows.enumerate() {
        for (four, steps) in panel.chunks_mut(4).enumerate() {
            let codes = stored.four_scales(row, first + 4 * four);
            for (step, code) in steps.iter_mut().zip(codes) {
                of(step)[n] = QUARTERS[usize::from(code)];
            }
        }
    }
}

/// The scales of 16 rows from `row` (a multiple of 16) on, blocks from `first` (a multiple of four) on.
///
/// Of 16 such rows the stored tile holds 16 runs of 16 bytes, one after the other, and in each the four blocks of a row
/// are a lane of 32 bits: four loads and three shuffles bring 64 scales.
#[target_feature(enable = "avx512f,avx512bw")]
fn scales16(stored: &Stored<'_>, row: usize, first: usize, half: usize, panel: &mut [Right32]) {
    debug_assert!(row.is_multiple_of(16) && first.is_multiple_of(4));
    let lane = (row % swizzle::TILE_ROWS / 32) as i32;
    let steps = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 28, 24, 20, 16, 12, 8, 4, 0);
    let order = _mm512_add_epi32(steps, _mm512_set1_epi32(lane));
    // An E4M3 number's bits where F32 has its exponent and mantissa are that number times 2^-120.
    let quarter = _mm512_set1_ps(f32::from_bits((127 + 118) << 23));
    for (four, steps) in panel.chunks_mut(4).enumerate() {
        let at = swizzle::offset(row / 32 * 32, first + 4 * four, stored.k / BLOCK);
        let runs = &stored.scales[at - 4 * lane as usize + row % 32 * 16..][..256];
        // SAFETY: 256 bytes.
        let load = |i: usize| unsafe { _mm512_loadu_si512(runs.as_ptr().add(64 * i).cast()) };
        let low = _mm512_permutex2var_epi32(load(0), order, load(1));
        let high = _mm512_permutex2var_epi32(load(2), order, load(3));
        let mut codes = _mm512_inserti64x4::<1>(low, _mm512_castsi512_si256(high));
        for step in steps {
            let sign = _mm512_slli_epi32::<24>(_mm512_and_si512(codes, _mm512_set1_epi32(0x80)));
            let bits = _mm512_slli_epi32::<20>(_mm512_and_si512(codes, _mm512_set1_epi32(0x7f)));
            let scale = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_or_si512(bits, sign)), quarter);
            // SAFETY: half of the scales are 16 floats.
            unsafe { _mm512_storeu_ps(step.scales.as_mut_ptr().add(16 * half), scale) };
            codes = _mm512_srli_epi32::<8>(codes);
        }
    }
}

/// Up to 16 rows of codes into half `half` of the panel's steps; rows that are not there become 0 + 12.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn decode16(
    stored: &Stored<'_>,
    rows: Range<usize>,
    ks: Range<usize>,
    half: usize,
    panel: &mut [Right32],
) {
    // SAFETY: a table of 16 bytes.
    let table = unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(UNSIGNED.as_ptr().cast())) };
    let low = _mm512_set1_epi8(15);
    // Eight blocks of a row are 64 bytes.
    for (eight, steps) in panel[..ks.len() / BLOCK].chunks_mut(8).enumerate() {
        let at = ks.start / 2 + 64 * eight;
        let mask = u64::MAX >> (64 - 8 * steps.len());
        let lines = std::array::from_fn(|n| match rows.start + n < rows.end {
            // SAFETY: the mask ends with the row's columns `ks`, and `decode` checked that the row lies in the codes.
            true => unsafe {
                let line = stored
                    .codes
                    .as_ptr()
                    .add((rows.start + n) * stored.k / 2 + at);
                _mm512_maskz_loadu_epi8(mask, line.cast())
            },
            false => _mm512_setzero_si512(),
        });
        let turned = turn16(lines);
        for (step, pair) in steps.iter_mut().zip(turned.as_chunks::<2>().0) {
            let codes = &mut step.codes[half];
            for (i, bytes) in pair.iter().enumerate() {
                let high = _mm512_and_si512(_mm512_srli_epi16::<4>(*bytes), low);
                let nibbles = [high, _mm512_and_si512(*bytes, low)];
                for (j, nibbles) in nibbles.into_iter().enumerate() {
                    let numbers = _mm512_shuffle_epi8(table, nibbles);
                    // SAFETY: 64 bytes.
                    unsafe { _mm512_storeu_si512(codes[2 * i + j].as_mut_ptr().cast(), numbers) };
                }
            }
        }
    }
}

/// R rows by 32 columns; `left` and `right` are the same steps, `sums` is 8 x 32.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn tile512<const R: usize>(left: &[Step<8>], right: &[Right32], sums: &mut [f32]) {
    for (left, right) in left.chunks(BLOCKS).zip(right.chunks(BLOCKS)) {
        let mut chunk = [[_mm512_setzero_ps(); 2]; R];
        for (a, b) in left.iter().zip(right) {
            // SAFETY: arrays of 64 bytes and of 32 floats.
            let (codes, scales) = unsafe {
                let codes: [[__m512i; 4]; 2] = std::array::from_fn(|v| {
                    std::array::from_fn(|j| _mm512_load_si512(b.codes[v][j].as_ptr().cast()))
                });
                let scales = [
                    _mm512_load_ps(b.scales.as_ptr()),
                    _mm512_load_ps(b.scales.as_ptr().add(16)),
                ];
                (codes, scales)
            };
            for (row, sum) in chunk.iter_mut().enumerate() {
                let mut dots = [_mm512_set1_epi32(a.corrections[row]); 2];
                let quads = a.codes[row].as_chunks::<4>().0;
                for j in 0..4 {
                    let quad = _mm512_set1_epi32(i32::from_ne_bytes(quads[j].map(|c| c as u8)));
                    dots[0] = _mm512_dpbusd_epi32(dots[0], codes[0][j], quad);
                    dots[1] = _mm512_dpbusd_epi32(dots[1], codes[1][j], quad);
                }
                let scale = _mm512_set1_ps(a.scales[row]);
                for (v, sum) in sum.iter_mut().enumerate() {
                    let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[v]), scales[v]);
                    // Both products are exact, so fusing the addition changes nothing.
                    *sum = _mm512_fmadd_ps(scaled, scale, *sum);
                }
            }
        }
        add512(&chunk, sums);
    }
}

/// 4 rows by 16 columns.
pub(crate) struct Avx2<'w>(Stored<'w>);

impl<'w> Avx2<'w> {
    /// # Panics
    /// Where `machine` has no AVX2.
    pub(crate) fn new(weight: Stored<'w>, machine: Machine) -> Self {
        assert!(machine.level() >= Level::Avx2);
        Self(weight)
    }
}

/// A block of 16 columns of 16 rows of the weight.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Right16 {
    codes: [[[u8; 32]; 4]; 2],
    scales: [f32; 16],
}

impl Kernel for Avx2<'_> {
    const ROWS: usize = 4;
    const COLUMNS: usize = 16;
    const STEP: usize = BLOCK;
    const STRETCH: usize = 6 * CHUNK;
    type Left = Step<4>;
    type Right = Right16;

    fn zero(&self) -> Right16 {
        Right16 {
            codes: [[[0; 32]; 4]; 2],
            scales: [0.0; 16],
        }
    }

    fn decode(
        &self,
        rows: Range<usize>,
        ks: Range<usize>,
        panel: &mut [Right16],
    ) -> Result<(), CheckpointError> {
        scales(&self.0, rows.clone(), ks.start / BLOCK, panel, |step| {
            &mut step.scales
        });
        for half in 0..2 {
            let from = (rows.start + 8 * half).min(rows.end);
            let rows = from..(from + 8).min(rows.end);
            // SAFETY: `new` found the feature.
            unsafe { decode8(&self.0, rows, ks.clone(), half, panel) };
        }
        Ok(())
    }

    fn multiply(&self, rows: usize, left: &[Step<4>], right: &[Right16], sums: &mut [f32]) {
        assert!(left.len() == right.len() && sums.len() == 4 * 16 && rows <= 4);
        // SAFETY: `new` found the features.
        unsafe { by_rows!(rows, tile256(left, right, sums), 4 3 2 1) }
    }
}

/// Up to 8 rows of codes into half `half` of the panel's steps; rows that are not there become 0 + 12.
#[target_feature(enable = "avx2")]
fn decode8(
    stored: &Stored<'_>,
    rows: Range<usize>,
    ks: Range<usize>,
    half: usize,
    panel: &mut [Right16],
) {
    // SAFETY: a table of 16 bytes.
    let table = unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(UNSIGNED.as_ptr().cast())) };
    let low = _mm256_set1_epi8(15);
    // Four blocks of a row are 32 bytes.
    for (four, steps) in panel[..ks.len() / BLOCK].chunks_mut(4).enumerate() {
        let at = ks.start / 2 + 32 * four;
        let len = 8 * steps.len();
        let lines = std::array::from_fn(|n| {
            let mut line = [0u8; 32];
            if rows.start + n < rows.end {
                let from = (rows.start + n) * stored.k / 2 + at;
                line[..len].copy_from_slice(&stored.codes[from..from + len]);
            }
            // SAFETY: 32 bytes.
            unsafe { _mm256_loadu_si256(line.as_ptr().cast()) }
        });
        let turned = turn8(lines);
        for (step, pair) in steps.iter_mut().zip(turned.as_chunks::<2>().0) {
            let codes = &mut step.codes[half];
            for (i, bytes) in pair.iter().enumerate() {
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(*bytes), low);
                let nibbles = [high, _mm256_and_si256(*bytes, low)];
                for (j, nibbles) in nibbles.into_iter().enumerate() {
                    let numbers = _mm256_shuffle_epi8(table, nibbles);
                    // SAFETY: 32 bytes.
                    unsafe { _mm256_storeu_si256(codes[2 * i + j].as_mut_ptr().cast(), numbers) };
                }
            }
        }
    }
}

/// R rows by 16 columns; `left` and `right` are the same steps, `sums` is 4 x 16.
#[target_feature(enable = "avx2,fma")]
fn tile256<const R: usize>(left: &[Step<4>], right: &[Right16], sums: &mut [f32]) {
    let ones = _mm256_set1_epi16(1);
    for (left, right) in left.chunks(BLOCKS).zip(right.chunks(BLOCKS)) {
        let mut chunk = [[_mm256_setzero_ps(); 2]; R];
        for (a, b) in left.iter().zip(right) {
            for (row, sum) in chunk.iter_mut().enumerate() {
                let quads = a.codes[row].as_chunks::<4>().0;
                let correction = _mm256_set1_epi32(a.corrections[row]);
                let scale = _mm256_set1_ps(a.scales[row]);
                for (v, sum) in sum.iter_mut().enumerate() {
                    // SAFETY: arrays of 32 bytes and of 16 floats.
                    let (codes, scales): ([__m256i; 4], _) = unsafe {
                        let codes = std::array::from_fn(|j| {
                            _mm256_load_si256(b.codes[v][j].as_ptr().cast())
                        });
                        (codes, _mm256_load_ps(b.scales.as_ptr().add(8 * v)))
                    };
                    // Pairs reach 2 * 24 * 12, the sums of four 2304: far inside of 16 bits.
                    let mut pairs = _mm256_setzero_si256();
                    for j in 0..4 {
                        let quad = _mm256_set1_epi32(i32::from_ne_bytes(quads[j].map(|c| c as u8)));
                        pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(codes[j], quad));
                    }
                    let dot = _mm256_add_epi32(_mm256_madd_epi16(pairs, ones), correction);
                    let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), scales);
                    // Both products are exact, so fusing the addition changes nothing.
                    *sum = _mm256_fmadd_ps(scaled, scale, *sum);
                }
            }
        }
        add256(&chunk, sums);
    }
}
