//! The maps that convolutions work on, and the norm before them.

use std::ops::Range;

use rayon::prelude::*;

use crate::ops::simd::{self, multiversion};

/// Rows `rows` of a picture of `height` rows: the unit in which a picture can be computed piece by piece.
///
/// Channels last: `data[((y - rows.start) * width + x) * channels + c]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// Rows of the whole picture.
    pub height: usize,
    /// Which of them are here.
    pub rows: Range<usize>,
    /// Columns.
    pub width: usize,
    /// Channels.
    pub channels: usize,
    /// The values.
    pub data: Vec<f32>,
}

impl Map {
    /// Rows `rows` of a picture of (height, width), all zero.
    pub fn zeros((height, width): (usize, usize), rows: Range<usize>, channels: usize) -> Self {
        Self {
            height,
            width,
            channels,
            data: vec![0.0; rows.len() * width * channels],
            rows,
        }
    }

    /// A whole picture from planes: `data` `[channels, height, width]`.
    pub fn from_planes(data: &[f32], size: (usize, usize), channels: usize) -> Self {
        let mut map = Self::zeros(size, 0..size.0, channels);
        let pixels = size.0 * size.1;
        for (p, pixel) in map.data.chunks_exact_mut(channels).enumerate() {
            for (c, v) in pixel.iter_mut().enumerate() {
                *v = data[c * pixels + p];
            }
        }
        map
    }

    /// Writes the rows that are here into planes `[channels, height, width]` of the whole picture.
    pub fn write_planes(&self, planes: &mut [f32]) {
        let (pixels, first) = (self.height * self.width, self.rows.start * self.width);
        for (p, pixel) in self.data.chunks_exact(self.channels).enumerate() {
            for (c, v) in pixel.iter().enumerate() {
                planes[c * pixels + first + p] = *v;
            }
        }
    }

    /// The planes `[channels, height, width]` of a whole picture.
    pub fn to_planes(&self) -> Vec<f32> {
        let mut planes = vec![0.0; self.data.len()];
        self.write_planes(&mut planes);
        planes
    }

    /// Row `y` of the picture, `[width, channels]`, or nothing outside of it.
    pub(super) fn row(&self, y: isize) -> Option<&[f32]> {
        if !(0..self.height as isize).contains(&y) {
            return None;
        }
        let (row, at) = (self.width * self.channels, y as usize - self.rows.start);
        Some(&self.data[at * row..(at + 1) * row])
    }

    /// Puts `next`, which begins where this ends, behind it.
    pub fn append(&mut self, next: Self) {
        match self.rows.is_empty() {
            true => *self = next,
            false => {
                self.rows.end = next.rows.end;
                self.data.extend_from_slice(&next.data);
            }
        }
    }

    /// Takes the rows before `row` out.
    pub fn take_before(&mut self, row: usize) -> Self {
        let row = row.clamp(self.rows.start, self.rows.end);
        let kept = self
            .data
            .split_off((row - self.rows.start) * self.width * self.channels);
        let taken = Self {
            rows: self.rows.start..row,
            data: std::mem::replace(&mut self.data, kept),
            ..*self
        };
        self.rows.start = row;
        taken
    }

    /// The VAE's norm, `x / max(|x|, 1e-12) * sqrt(C) * gamma` per pixel, followed by SiLU if `silu`.
    pub fn norm(&self, gamma: &[f32], silu: bool) -> Self {
        let mut out = Self::zeros((self.height, self.width), self.rows.clone(), self.channels);
        let row = (self.width * self.channels).max(1);
        out.data
            .par_chunks_mut(row)
            .zip(self.data.par_chunks(row))
            .for_each(|(out, x)| {
                out.copy_from_slice(x);
                norm_row(out, gamma, silu);
            });
        out
    }

    /// [`Self::norm`] with SiLU, in place.
    pub fn norm_silu(mut self, gamma: &[f32]) -> Self {
        let row = (self.width * self.channels).max(1);
        self.data
            .par_chunks_mut(row)
            .for_each(|x| norm_row(x, gamma, true));
        self
    }
}

multiversion! {
    fn norm_row(x: &mut [f32], gamma: &[f32], silu: bool) {
        let root = (gamma.len() as f32).sqrt();
        for x in x.chunks_exact_mut(gamma.len()) {
            let length = simd::sum_by(x, |v| v * v).sqrt().max(1e-12);
            let factor = root / length;
            for (v, g) in x.iter_mut().zip(gamma) {
                *v = *v * factor * *g;
            }
            if silu {
                for v in x {
                    *v /= 1.0 + simd::exp(-*v);
                }
            }
        }
    }
}
