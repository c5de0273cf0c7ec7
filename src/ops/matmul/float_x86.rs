//! F32 tiles on AVX2 and AVX-512.

use std::arch::x86_64::*;
use std::ops::Range;

use super::driver::{CHUNK, Kernel, by_rows};
use super::float::Widened;
use super::transpose::{turn8, turn16};
use crate::checkpoint::CheckpointError;
use crate::numerics::machine::{Level, Machine};

/// 12 rows by 32 columns.
pub(crate) struct Avx512<'w>(Widened<'w>, Machine);

impl<'w> Avx512<'w> {
    /// # Panics
    /// Where `machine` has no AVX-512.
    pub(crate) fn new(weight: Widened<'w>, machine: Machine) -> Self {
        assert!(machine.level() >= Level::Avx512);
        Self(weight, machine)
    }
}

/// A step of 32 columns, aligned to a cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Line32(pub(crate) [f32; 32]);

impl Kernel for Avx512<'_> {
    const ROWS: usize = 12;
    const COLUMNS: usize = 32;
    const STEP: usize = 1;
    const STRETCH: usize = 4 * CHUNK;
    type Left = [f32; 12];
    type Right = Line32;

    fn zero(&self) -> Line32 {
        Line32([0.0; 32])
    }

    fn decode(
        &self,
        rows: Range<usize>,
        ks: Range<usize>,
        panel: &mut [Line32],
    ) -> Result<(), CheckpointError> {
        let mut lines = [[0.0; CHUNK]; 16];
        for half in 0..2 {
            let from = (rows.start + 16 * half).min(rows.end);
            let rows = from..(from + 16).min(rows.end);
            if let (Some(codes), Level::Avx512Bf16) = (self.0.weight.as_e4m3(), self.1.level()) {
                let weight = (codes, self.0.k);
                super::fp8_x86::widen16(self.1, weight, rows, ks.clone(), (half, panel));
                continue;
            }
            for (chunk, panel) in panel.chunks_mut(CHUNK).enumerate() {
                let first = ks.start + chunk * CHUNK;
                let ks = first..first + panel.len();
                let lines = self.0.lines(rows.clone(), ks, &mut lines)?;
                // SAFETY: `new` found the feature.
                unsafe { turn_lines16(&lines, half, panel) };
            }
        }
        Ok(())
    }

    fn multiply(&self, rows: usize, left: &[[f32; 12]], right: &[Line32], sums: &mut [f32]) {
        assert!(left.len() == right.len() && sums.len() == 12 * 32 && rows <= 12);
        // SAFETY: `new` found the features.
        unsafe { by_rows!(rows, tile512(left, right, sums), 12 11 10 9 8 7 6 5 4 3 2 1) }
    }
}

/// 16 lines into lanes `16 * half ..` of the panel's steps.
#[target_feature(enable = "avx512f")]
fn turn_lines16(lines: &[&[f32]; 16], half: usize, panel: &mut [Line32]) {
    assert!(lines.iter().all(|line| line.len() == panel.len()));
    let (squares, rest) = panel.as_chunks_mut::<16>();
    let whole = squares.len() * 16;
    for (square, steps) in squares.iter_mut().enumerate() {
        // SAFETY: the 16 floats from column 16 * square on lie in every line.
        let rows = std::array::from_fn(|n| unsafe {
            _mm512_loadu_si512(lines[n].as_ptr().add(16 * square).cast())
        });
        for (step, column) in steps.iter_mut().zip(turn16(rows)) {
            // SAFETY: half a step is 16 floats.
            unsafe { _mm512_storeu_si512(step.0.as_mut_ptr().add(16 * half).cast(), column) };
        }
    }
    for (k, step) in rest.iter_mut().enumerate() {
        for (n, line) in lines.iter().enumerate() {
            step.0[16 * half + n] = line[whole + k];
        }
    }
}

/// R rows by 32 columns; `left` and `right` are the same steps, `sums` is 12 x 32.
#[target_feature(enable = "avx512f")]
fn tile512<const R: usize>(left: &[[f32; 12]], right: &[Line32], sums: &mut [f32]) {
    for (left, right) in left.chunks(CHUNK).zip(right.chunks(CHUNK)) {
        let mut chunk = [[_mm512_setzero_ps(); 2]; R];
        for (a, b) in left.iter().zip(right) {
            // SAFETY: a line is 32 floats.
            let (b0, b1) = unsafe {
                (
                    _mm512_load_ps(b.0.as_ptr()),
                    _mm512_load_ps(b.0.as_ptr().add(16)),
                )
            };
            for (sum, a) in chunk.iter_mut().zip(a) {
                let a = _mm512_set1_ps(*a);
                sum[0] = _mm512_fmadd_ps(a, b0, sum[0]);
                sum[1] = _mm512_fmadd_ps(a, b1, sum[1]);
            }
        }
        add512(&chunk, sums);
    }
}

/// Adds a chunk's sums to the first R rows of `sums`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn add512<const R: usize>(chunk: &[[__m512; 2]; R], sums: &mut [f32]) {
    for (chunk, sums) in chunk
        .iter()
        .zip(sums.as_chunks_mut::<16>().0.as_chunks_mut::<2>().0)
    {
        for (chunk, sums) in chunk.iter().zip(sums) {
            // SAFETY: 16 floats.
            unsafe {
                let total = _mm512_add_ps(_mm512_loadu_ps(sums.as_ptr()), *chunk);
                _mm512_storeu_ps(sums.as_mut_ptr(), total);
            }
        }
    }
}

/// 6 rows by 16 columns.
pub(crate) struct Avx2<'w>(Widened<'w>);

impl<'w> Avx2<'w> {
    /// # Panics
    /// Where `machine` has no AVX2.
    pub(crate) fn new(weight: Widened<'w>, machine: Machine) -> Self {
        assert!(machine.level() >= Level::Avx2);
        Self(weight)
    }
}

/// A step of 16 columns, aligned to a cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Line16(pub(crate) [f32; 16]);

impl Kernel for Avx2<'_> {
    const ROWS: usize = 6;
    const COLUMNS: usize = 16;
    const STEP: usize = 1;
    const STRETCH: usize = 2 * CHUNK;
    type Left = [f32; 6];
    type Right = Line16;

    fn zero(&self) -> Line16 {
        Line16([0.0; 16])
    }

    fn decode(
        &self,
        rows: Range<usize>,
        ks: Range<usize>,
        panel: &mut [Line16],
    ) -> Result<(), CheckpointError> {
        let mut lines = [[0.0; CHUNK]; 16];
        for (chunk, panel) in panel.chunks_mut(CHUNK).enumerate() {
            let first = ks.start + chunk * CHUNK;
            let ks = first..first + panel.len();
            let lines = self.0.lines(rows.clone(), ks, &mut lines)?;
            // SAFETY: `new` found the feature.
            unsafe { turn_lines8(&lines, panel) };
        }
        Ok(())
    }

    fn multiply(&self, rows: usize, left: &[[f32; 6]], right: &[Line16], sums: &mut [f32]) {
        assert!(left.len() == right.len() && sums.len() == 6 * 16 && rows <= 6);
        // SAFETY: `new` found the features.
        unsafe { by_rows!(rows, tile256(left, right, sums), 6 5 4 3 2 1) }
    }
}

/// 16 lines into the lanes of the panel's steps.
#[target_feature(enable = "avx2")]
fn turn_lines8(lines: &[&[f32]; 16], panel: &mut [Line16]) {
    assert!(lines.iter().all(|line| line.len() == panel.len()));
    let (squares, rest) = panel.as_chunks_mut::<8>();
    let whole = squares.len() * 8;
    for (square, steps) in squares.iter_mut().enumerate() {
        for half in 0..2 {
            // SAFETY: the 8 floats from column 8 * square on lie in every line.
            let rows = std::array::from_fn(|n| unsafe {
                _mm256_loadu_si256(lines[8 * half + n].as_ptr().add(8 * square).cast())
            });
            for (step, column) in steps.iter_mut().zip(turn8(rows)) {
                // SAFETY: half a step is 8 floats.
                unsafe { _mm256_storeu_si256(step.0.as_mut_ptr().add(8 * half).cast(), column) };
            }
        }
    }
    for (k, step) in rest.iter_mut().enumerate() {
        for (n, line) in lines.iter().enumerate() {
            step.0[n] = line[whole + k];
        }
    }
}

/// R rows by 16 columns; `left` and `right` are the same steps, `sums` is 6 x 16.
#[target_feature(enable = "avx2,fma")]
fn tile256<const R: usize>(left: &[[f32; 6]], right: &[Line16], sums: &mut [f32]) {
    for (left, right) in left.chunks(CHUNK).zip(right.chunks(CHUNK)) {
        let mut chunk = [[_mm256_setzero_ps(); 2]; R];
        for (a, b) in left.iter().zip(right) {
            // SAFETY: a line is 16 floats.
            let (b0, b1) = unsafe {
                (
                    _mm256_load_ps(b.0.as_ptr()),
                    _mm256_load_ps(b.0.as_ptr().add(8)),
                )
            };
            for (sum, a) in chunk.iter_mut().zip(a) {
                let a = _mm256_set1_ps(*a);
                sum[0] = _mm256_fmadd_ps(a, b0, sum[0]);
                sum[1] = _mm256_fmadd_ps(a, b1, sum[1]);
            }
        }
        add256(&chunk, sums);
    }
}

/// Adds a chunk's sums to the first R rows of `sums`.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn add256<const R: usize>(chunk: &[[__m256; 2]; R], sums: &mut [f32]) {
    for (chunk, sums) in chunk
        .iter()
        .zip(sums.as_chunks_mut::<8>().0.as_chunks_mut::<2>().0)
    {
        for (chunk, sums) in chunk.iter().zip(sums) {
            // SAFETY: 8 floats.
            unsafe {
                let total = _mm256_add_ps(_mm256_loadu_ps(sums.as_ptr()), *chunk);
                _mm256_storeu_ps(sums.as_mut_ptr(), total);
            }
        }
    }
}
