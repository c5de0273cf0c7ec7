//! Convolutions of pictures, channels last.
//!
//! Weights stay where they are stored (the memory map) and are laid out for the kernel when a convolution runs:
//! that costs a few percent of the smallest convolution and saves the memory of a second copy. A 3 x 3 kernel
//! of enough channels is computed by Winograd's method ([`winograd`]), anything else directly ([`direct`]); both
//! rest on one register-blocked product ([`product`]). Pixels are computed each in one fixed order: the result
//! does not depend on how many threads there are.

mod direct;
mod map;

#[cfg(test)]
mod tests;
mod winograd;

use std::ops::Range;

pub use map::Map;
use rayon::prelude::*;

use super::product::COLUMNS;
use crate::checkpoint::{CheckpointError, TensorView, Weights};
use crate::context::Cx;

/// How a kernel moves over a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Geometry {
    /// 1x1.
    Pointwise,
    /// 3x3, one zero pixel around.
    Same,
    /// 3x3 with stride 2, one zero pixel on the right and at the bottom.
    Halve,
    /// 3x3, one zero pixel around, over the map with every pixel four times (nearest neighbour, x2).
    Double,
}

impl Geometry {
    fn kernel(self) -> usize {
        match self {
            Self::Pointwise => 1,
            _ => 3,
        }
    }

    /// The output's length along an axis of `n` input pixels.
    pub fn output(self, n: usize) -> usize {
        match self {
            Self::Pointwise | Self::Same => n,
            Self::Halve => n / 2,
            Self::Double => 2 * n,
        }
    }

    /// The output row up to which rows can be computed once the input's rows up to `end` of `height` are there.
    /// A multiple of [`ROW_UNIT`] but at the lower edge.
    pub fn ready(self, end: usize, height: usize) -> usize {
        if end == height {
            return self.output(height);
        }
        let rows = match self {
            Self::Pointwise => end,
            Self::Same => end.saturating_sub(1),
            Self::Halve => end.saturating_sub(1) / 2,
            Self::Double => (2 * end).saturating_sub(1),
        };
        rows / ROW_UNIT * ROW_UNIT
    }

    /// The first input row that output rows from `row` on are made from.
    pub fn first(self, row: usize) -> usize {
        match self {
            Self::Pointwise => row,
            Self::Same => row.saturating_sub(1),
            Self::Halve => 2 * row,
            Self::Double => row.saturating_sub(1) / 2,
        }
    }
}

/// A picture computed piece by piece equals the picture computed at once, bit for bit, where the pieces begin at
/// multiples of this row: the height of a Winograd tile.
pub const ROW_UNIT: usize = winograd::TILE;

/// A convolution with its weight as stored.
pub struct Conv2d {
    name: String,
    weight: TensorView,
    bias: Vec<f32>,
    geometry: Geometry,
    c_in: usize,
    c_out: usize,
}

impl Conv2d {
    /// Takes `weight` and `bias` from under the prefix. `weight` is `[O, I, 3, 3]`, or `[O, I, 3, 3, 3]`, of which
    /// only the last slice in time acts on a single frame (the two frames of padding before it are zero);
    /// `[O, I, 1, 1]` or `[O, I, 1, 1, 1]` for [`Geometry::Pointwise`].
    ///
    /// # Errors
    /// A missing or misshapen tensor, or one that does not hold floats.
    pub fn load(
        weights: &Weights,
        (c_out, c_in): (usize, usize),
        geometry: Geometry,
    ) -> Result<Self, CheckpointError> {
        let k = geometry.kernel();
        let shape = match weights.shape("weight").map(<[usize]>::len) {
            Some(5) => vec![c_out, c_in, k, k, k],
            _ => vec![c_out, c_in, k, k],
        };
        let weight = weights.view("weight", &shape)?;
        weight.widen(0..1, &mut [0.0])?;
        Ok(Self {
            name: weights.full(""),
            weight,
            bias: weights.view("bias", &[c_out])?.to_f32()?,
            geometry,
            c_in,
            c_out,
        })
    }

    /// Shows rows of its output to the observer, under the convolution's name in its component.
    pub fn show(&self, out: &Map, cx: &Cx) {
        cx.observer.map_output(&self.name, &out.data);
    }

    /// How the kernel moves.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Input channels.
    pub fn channels_in(&self) -> usize {
        self.c_in
    }

    /// Output channels.
    pub fn channels_out(&self) -> usize {
        self.c_out
    }

    /// The whole of `x` convolved.
    ///
    /// # Errors
    /// Where the weight cannot be read.
    pub fn forward(&self, x: &Map) -> Result<Map, CheckpointError> {
        let rows = 0..self.geometry.output(x.height);
        let mut out = self.blank(x.height, x.width, rows);
        self.add_to(x, &mut out)?;
        Ok(out)
    }

    /// Output rows `rows`, zero, of a `height x width` input.
    pub fn blank(&self, height: usize, width: usize, rows: Range<usize>) -> Map {
        let size = (self.geometry.output(height), self.geometry.output(width));
        Map::zeros(size, rows, self.c_out)
    }

    /// Adds the convolution of `x` and the bias to `out`; `x` must hold the rows that `out`'s are made from.
    ///
    /// # Errors
    /// Where the weight cannot be read.
    pub fn add_to(&self, x: &Map, out: &mut Map) -> Result<(), CheckpointError> {
        assert_eq!((x.channels, out.channels), (self.c_in, self.c_out));
        if out.data.is_empty() {
            return Ok(());
        }
        let packed = self.packed()?;
        match winograd::serves(self.geometry, self.c_in, self.c_out) {
            true => winograd::add_to(x, &winograd::transform(&packed, self.c_in), self, out),
            false => direct::add_to(x, &packed, self, out),
        }
        Ok(())
    }

    /// The acting weights by blocks of output channels: `[C_out / 16][k][k][C_in][16]`, zeros behind the last channel.
    fn packed(&self) -> Result<Vec<f32>, CheckpointError> {
        let taps = self.geometry.kernel().pow(2);
        let stored = self.weight.elements() / (self.c_in * self.c_out);
        let block = taps * self.c_in * COLUMNS;
        let mut packed = vec![0.0; self.c_out.div_ceil(COLUMNS) * block];
        packed.par_chunks_mut(block).enumerate().try_for_each_init(
            || vec![0.0; self.c_in * stored],
            |row, (index, out)| {
                let first = index * COLUMNS;
                for column in 0..COLUMNS.min(self.c_out - first) {
                    let at = (first + column) * row.len();
                    self.weight.widen(at..at + row.len(), row)?;
                    for (i, kernel) in row.chunks_exact(stored).enumerate() {
                        for (tap, v) in kernel[stored - taps..].iter().enumerate() {
                            out[(tap * self.c_in + i) * COLUMNS + column] = *v;
                        }
                    }
                }
                Ok::<(), CheckpointError>(())
            },
        )?;
        Ok(packed)
    }
}
