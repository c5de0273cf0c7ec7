//! Convolutions by their definition: for 1 x 1 kernels, strides, and few channels.
//!
//! Rows of the input are copied once into a buffer with their zero border (and doubled where the geometry says
//! so); the product then reads the neighbourhoods out of that buffer in place.

use rayon::prelude::*;

use super::{Conv2d, Geometry, Map};
use crate::ops::product::{COLUMNS, Left, ROWS, product};

/// Floats of input rows that a thread holds: half of an L2 cache of 512 KiB, the rest is for the weights.
const BUFFER: usize = 64 * 1024;

/// Adds the convolution of `x` by the weights `packed` (`[C_out / 16][k * k * C_in][16]`) to `out`.
pub(super) fn add_to(x: &Map, packed: &[f32], conv: &Conv2d, out: &mut Map) {
    let (c_in, c_out) = (conv.c_in, conv.c_out);
    let k = conv.geometry.kernel();
    let step = match conv.geometry {
        Geometry::Halve => 2,
        _ => 1,
    };
    let (width, first_row) = (out.width, out.rows.start);
    // The pixels that a row of output reads.
    let reach = (width - 1) * step + k;
    let rows_at_once = (BUFFER / (reach * c_in * step)).clamp(1, 16);
    out.data
        .par_chunks_mut(rows_at_once * width * c_out)
        .enumerate()
        .for_each_init(Vec::new, |buffer, (job, out)| {
            let (rows, y) = (out.len() / (width * c_out), first_row + job * rows_at_once);
            let lines = (rows - 1) * step + k;
            buffer.resize(lines * reach * c_in, 0.0);
            for (i, line) in buffer.chunks_exact_mut(reach * c_in).enumerate() {
                bordered_row(x, conv.geometry, (y * step + i) as isize, line);
            }
            let mut block = [0.0; ROWS * COLUMNS];
            for (n, weights) in packed.chunks_exact(k * k * c_in * COLUMNS).enumerate() {
                let channels = n * COLUMNS..((n + 1) * COLUMNS).min(c_out);
                let bias = &conv.bias[channels.clone()];
                for (row, column) in
                    (0..rows).flat_map(|r| (0..width).step_by(ROWS).map(move |c| (r, c)))
                {
                    let left = Left {
                        data: &buffer[(row * reach + column) * step * c_in..],
                        rows: ROWS.min(width - column),
                        row: step * c_in,
                        runs: k,
                        run: reach * c_in,
                        len: k * c_in,
                    };
                    product(&left, weights, &mut block, COLUMNS);
                    for (i, sums) in block.chunks_exact(COLUMNS).take(left.rows).enumerate() {
                        let pixel = (row * width + column + i) * c_out;
                        let out = &mut out[pixel + channels.start..pixel + channels.end];
                        for ((o, s), b) in out.iter_mut().zip(sums).zip(bias) {
                            *o += s + b;
                        }
                    }
                }
            }
        });
}

/// Line `y` of the bordered picture: zeros above, below, and at the sides.
fn bordered_row(x: &Map, geometry: Geometry, y: isize, line: &mut [f32]) {
    let c = x.channels;
    let (border, source) = match geometry {
        Geometry::Pointwise | Geometry::Halve => (0, x.row(y)),
        Geometry::Same => (1, x.row(y - 1)),
        // Before the picture must stay before it: -1 / 2 is 0.
        Geometry::Double => (1, x.row((y - 1).div_euclid(2))),
    };
    let Some(source) = source else {
        line.fill(0.0);
        return;
    };
    line[..border * c].fill(0.0);
    let inner = &mut line[border * c..];
    let used = match geometry {
        Geometry::Double => {
            for (pair, pixel) in inner.chunks_exact_mut(2 * c).zip(source.chunks_exact(c)) {
                pair[..c].copy_from_slice(pixel);
                pair[c..].copy_from_slice(pixel);
            }
            2 * source.len()
        }
        _ => {
            let used = source.len().min(inner.len());
            inner[..used].copy_from_slice(&source[..used]);
            used
        }
    };
    inner[used..].fill(0.0);
}
