//! Convolutions of pictures, channels last, and the maps they work on.
//!
//! The trick: channels last makes a row of the im2col matrix nine contiguous copies, so a tile of output
//! pixels is gathered into a panel that fits the L2 cache and is one matrix product with the weights, which
//! are laid out `[3 * 3 * C_in, C_out]` once at load. Tiles are shared out to threads, each computed alone:
//! the result does not depend on how many threads there are.

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

use super::simd::{self, multiversion};
use crate::checkpoint::{CheckpointError, Weights};

/// Floats of an im2col panel: 384 KiB.
const PANEL: usize = 96 * 1024;

/// Rows `rows` of a picture of `height` rows: the unit that a decoder can be run on piece by piece.
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
    /// A whole picture from planes: `data` `[channels, height, width]`.
    pub fn from_planes(data: &[f32], (height, width): (usize, usize)) -> Self {
        let pixels = height * width;
        let channels = data.len() / pixels.max(1);
        let mut out = vec![0.0; data.len()];
        for (p, pixel) in out.chunks_exact_mut(channels.max(1)).enumerate() {
            for (c, v) in pixel.iter_mut().enumerate() {
                *v = data[c * pixels + p];
            }
        }
        Self {
            height,
            rows: 0..height,
            width,
            channels,
            data: out,
        }
    }

    /// The planes `[channels, rows, width]`.
    pub fn to_planes(&self) -> Vec<f32> {
        let pixels = self.rows.len() * self.width;
        let mut out = vec![0.0; self.data.len()];
        for (p, pixel) in self.data.chunks_exact(self.channels).enumerate() {
            for (c, v) in pixel.iter().enumerate() {
                out[c * pixels + p] = *v;
            }
        }
        out
    }

    /// Rows `rows` alone. They must be here.
    pub fn crop(&self, rows: Range<usize>) -> Self {
        let row = self.width * self.channels;
        let at = (rows.start - self.rows.start) * row..(rows.end - self.rows.start) * row;
        Self {
            height: self.height,
            rows,
            width: self.width,
            channels: self.channels,
            data: self.data[at].to_vec(),
        }
    }

    /// Every pixel four times (nearest neighbour, x2).
    pub fn upsample(&self) -> Self {
        let row = self.width * self.channels;
        let mut data = vec![0.0; self.data.len() * 4];
        data.par_chunks_mut(4 * row)
            .zip(self.data.par_chunks(row))
            .for_each(|(out, row)| {
                let (first, second) = out.split_at_mut(2 * row.len());
                for (out, pixel) in first
                    .chunks_exact_mut(2 * self.channels)
                    .zip(row.chunks_exact(self.channels))
                {
                    out[..self.channels].copy_from_slice(pixel);
                    out[self.channels..].copy_from_slice(pixel);
                }
                second.copy_from_slice(first);
            });
        Self {
            height: 2 * self.height,
            rows: 2 * self.rows.start..2 * self.rows.end,
            width: 2 * self.width,
            channels: self.channels,
            data,
        }
    }

    /// Adds `other`, of the same size.
    pub fn add(&mut self, other: &Self) {
        self.data
            .par_chunks_mut(1 << 14)
            .zip(other.data.par_chunks(1 << 14))
            .for_each(|(a, b)| a.iter_mut().zip(b).for_each(|(a, b)| *a += b));
    }

    /// The VAE's norm, `x / max(|x|, 1e-12) * sqrt(C) * gamma` per pixel, followed by SiLU if `silu`.
    pub fn norm(&self, gamma: &[f32], silu: bool) -> Self {
        let mut data = vec![0.0; self.data.len()];
        let row = self.width * self.channels;
        data.par_chunks_mut(row)
            .zip(self.data.par_chunks(row))
            .for_each(|(out, x)| norm_row(x, gamma, silu, out));
        Self {
            data,
            rows: self.rows.clone(),
            ..*self
        }
    }
}

multiversion! {
    fn norm_row(x: &[f32], gamma: &[f32], silu: bool, out: &mut [f32]) {
        let root = (gamma.len() as f32).sqrt();
        for (out, x) in out.chunks_exact_mut(gamma.len()).zip(x.chunks_exact(gamma.len())) {
            let length = simd::sum_by(x, |v| v * v).sqrt().max(1e-12);
            let factor = root / length;
            for ((o, v), g) in out.iter_mut().zip(x).zip(gamma) {
                *o = *v * factor * *g;
            }
            if silu {
                for o in out {
                    *o /= 1.0 + simd::exp(-*o);
                }
            }
        }
    }
}

/// How a kernel moves over a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Geometry {
    /// 1x1.
    Pointwise,
    /// 3x3, one zero pixel around.
    Same,
    /// 3x3 with stride 2, one zero pixel on the right and at the bottom.
    Halve,
}

/// A convolution with its weights as `[k * k * C_in, C_out]` in F32.
pub struct Conv2d {
    weight: Vec<f32>,
    bias: Vec<f32>,
    geometry: Geometry,
    c_in: usize,
    c_out: usize,
}

impl Conv2d {
    /// Loads `weight` and `bias` from under the prefix. `weight` is `[O, I, 3, 3]`, or `[O, I, 3, 3, 3]`, of which
    /// only the last slice in time acts on a single frame (the two frames of padding before it are zero);
    /// `[O, I, 1, 1]` or `[O, I, 1, 1, 1]` for [`Geometry::Pointwise`].
    ///
    /// # Errors
    /// A missing or misshapen tensor.
    pub fn load(
        weights: &Weights,
        (c_out, c_in): (usize, usize),
        geometry: Geometry,
    ) -> Result<Self, CheckpointError> {
        let k = match geometry {
            Geometry::Pointwise => 1,
            Geometry::Same | Geometry::Halve => 3,
        };
        let rank = weights.shape("weight").map_or(4, <[usize]>::len);
        let frames = match rank {
            5 => k,
            _ => 1,
        };
        let shape: Vec<usize> = match rank {
            5 => vec![c_out, c_in, frames, k, k],
            _ => vec![c_out, c_in, k, k],
        };
        let view = weights.view("weight", &shape)?;
        let (taps, stride) = (k * k, frames * k * k);
        let mut weight = vec![0.0; taps * c_in * c_out];
        let mut kernel = vec![0.0; taps];
        for (o, i) in (0..c_out).flat_map(|o| (0..c_in).map(move |i| (o, i))) {
            let end = (o * c_in + i + 1) * stride;
            view.widen(end - taps..end, &mut kernel)?;
            for (tap, v) in kernel.iter().enumerate() {
                weight[(tap * c_in + i) * c_out + o] = *v;
            }
        }
        Ok(Self {
            weight,
            bias: weights.view("bias", &[c_out])?.to_f32()?,
            geometry,
            c_in,
            c_out,
        })
    }

    /// Output channels.
    pub fn channels_out(&self) -> usize {
        self.c_out
    }

    /// Rows of the input that output rows `rows` of a picture of `height` input rows are made from.
    pub fn needs(&self, rows: Range<usize>, height: usize) -> Range<usize> {
        match self.geometry {
            Geometry::Pointwise => rows,
            Geometry::Same => rows.start.saturating_sub(1)..(rows.end + 1).min(height),
            Geometry::Halve => 2 * rows.start..(2 * rows.end + 1).min(height),
        }
    }

    /// Output rows `rows`, which need [`Self::needs`] of them to be in `x`.
    pub fn forward(&self, x: &Map, rows: Range<usize>) -> Map {
        let (height, width) = match self.geometry {
            Geometry::Halve => (x.height / 2, x.width / 2),
            _ => (x.height, x.width),
        };
        let pixels = rows.len() * width;
        let mut data = vec![0.0; pixels * self.c_out];
        let k = self.weight.len() / self.c_out;
        let tile = (PANEL / k).clamp(1, pixels.max(1));
        data.par_chunks_mut(tile * self.c_out)
            .enumerate()
            .for_each_init(Vec::new, |panel, (index, out)| {
                let first = index * tile;
                for pixel in out.chunks_exact_mut(self.c_out) {
                    pixel.copy_from_slice(&self.bias);
                }
                let m = out.len() / self.c_out;
                let lhs = match self.geometry {
                    Geometry::Pointwise => {
                        let at = ((rows.start - x.rows.start) * width + first) * self.c_in;
                        &x.data[at..at + m * k]
                    }
                    _ => {
                        panel.resize(tile * k, 0.0);
                        for (p, row) in panel.chunks_exact_mut(k).take(m).enumerate() {
                            let (y, column) = ((first + p) / width, (first + p) % width);
                            self.gather(x, rows.start + y, column, row);
                        }
                        &panel[..m * k]
                    }
                };
                // SAFETY: lhs is m x k, the weight k x c_out, out m x c_out, all row-major.
                unsafe {
                    gemm::gemm(
                        m,
                        self.c_out,
                        k,
                        out.as_mut_ptr(),
                        1,
                        self.c_out as isize,
                        true,
                        lhs.as_ptr(),
                        1,
                        k as isize,
                        self.weight.as_ptr(),
                        1,
                        self.c_out as isize,
                        1.0,
                        1.0,
                        false,
                        false,
                        false,
                        Parallelism::None,
                    );
                }
            });
        Map {
            height,
            rows,
            width,
            channels: self.c_out,
            data,
        }
    }

    /// The 3 x 3 neighbourhood that makes output pixel (y, column), zeros outside of the picture.
    fn gather(&self, x: &Map, y: usize, column: usize, row: &mut [f32]) {
        let (top, left) = match self.geometry {
            Geometry::Halve => (2 * y as isize, 2 * column as isize),
            _ => (y as isize - 1, column as isize - 1),
        };
        for (tap, out) in row.chunks_exact_mut(self.c_in).enumerate() {
            let (y, column) = (top + tap as isize / 3, left + tap as isize % 3);
            let inside =
                (0..x.height as isize).contains(&y) && (0..x.width as isize).contains(&column);
            match inside {
                true => {
                    let at = ((y as usize - x.rows.start) * x.width + column as usize) * self.c_in;
                    out.copy_from_slice(&x.data[at..at + self.c_in]);
                }
                false => out.fill(0.0),
            }
        }
    }
}
