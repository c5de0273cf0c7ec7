//! 3 x 3 convolutions by Winograd's minimal filtering F(4 x 4, 3 x 3) (Lavin and Gray, 2015): a tile of 4 x 4 output
//! pixels costs 36 products per pair of channels instead of 144.
//!
//! The trick: channels last makes the transforms sums of whole vectors of channels, and the 36 products of a
//! block of tiles 36 plain matrix products that stay in the cache. Interpolation points 0, +-sqrt(1/2),
//! +-sqrt(2), infinity instead of the usual 0, +-1, +-2: coefficients near 1 lose half as many digits.

use rayon::prelude::*;

use super::{Conv2d, Geometry, Map};
use crate::ops::product::{COLUMNS, Left, ROWS, product};
use crate::ops::simd::multiversion;

/// Output rows and columns of a tile.
pub(super) const TILE: usize = 4;
/// Input rows and columns that it is made from.
const REACH: usize = 6;
/// Points of the transformed tile.
const POINTS: usize = REACH * REACH;
/// Channels that a transform works on at once.
const LANES: usize = 8;
/// Floats between the points of a block beyond their own: without them whole pages would lie between and all
/// points would fall on the same few lines of the L1 cache.
const SKEW: usize = 16;

const P: f32 = std::f32::consts::FRAC_1_SQRT_2;
const Q: f32 = std::f32::consts::SQRT_2;

/// Whether this method is faster than the definition; below 16 channels the transforms outweigh the products.
pub(super) fn serves(geometry: Geometry, c_in: usize, c_out: usize) -> bool {
    matches!(geometry, Geometry::Same | Geometry::Double)
        && c_in.min(c_out) >= 16
        && c_in.is_multiple_of(LANES)
        && c_out.is_multiple_of(LANES)
}

type Lane = [f32; LANES];

/// Combines lanes element by element.
macro_rules! lanes {
    (|$($x:ident),+| $e:expr) => {
        std::array::from_fn(|l| { $(let $x = $x[l];)+ $e })
    };
}

/// B^T d: an input column.
#[inline(always)]
fn input_1d([a, b, c, d, e, f]: [Lane; REACH]) -> [Lane; REACH] {
    let even_p: Lane = lanes!(|c, e| e - 2.0 * c);
    let odd_p: Lane = lanes!(|b, d| P * (d - 2.0 * b));
    let even_q: Lane = lanes!(|c, e| e - 0.5 * c);
    let odd_q: Lane = lanes!(|b, d| Q * (d - 0.5 * b));
    [
        lanes!(|a, c, e| a - 2.5 * c + e),
        lanes!(|even_p, odd_p| even_p + odd_p),
        lanes!(|even_p, odd_p| even_p - odd_p),
        lanes!(|even_q, odd_q| even_q + odd_q),
        lanes!(|even_q, odd_q| even_q - odd_q),
        lanes!(|b, d, f| b - 2.5 * d + f),
    ]
}

/// G g: a kernel column.
#[inline(always)]
fn kernel_1d<const N: usize>([a, b, c]: [[f32; N]; 3]) -> [[f32; N]; REACH] {
    let even_p: [f32; N] = lanes!(|a, c| (a + 0.5 * c) * (-2.0 / 3.0));
    let odd_p: [f32; N] = lanes!(|b| P * b * (-2.0 / 3.0));
    let even_q: [f32; N] = lanes!(|a, c| (a + 2.0 * c) * (1.0 / 6.0));
    let odd_q: [f32; N] = lanes!(|b| Q * b * (1.0 / 6.0));
    [
        a,
        lanes!(|even_p, odd_p| even_p + odd_p),
        lanes!(|even_p, odd_p| even_p - odd_p),
        lanes!(|even_q, odd_q| even_q + odd_q),
        lanes!(|even_q, odd_q| even_q - odd_q),
        c,
    ]
}

/// A^T m: an output column.
#[inline(always)]
fn output_1d([a, b, c, d, e, f]: [Lane; REACH]) -> [Lane; TILE] {
    let sum_p: Lane = lanes!(|b, c| b + c);
    let difference_p: Lane = lanes!(|b, c| P * (b - c));
    let sum_q: Lane = lanes!(|d, e| d + e);
    let difference_q: Lane = lanes!(|d, e| Q * (d - e));
    [
        lanes!(|a, sum_p, sum_q| a + sum_p + sum_q),
        lanes!(|difference_p, difference_q| difference_p + difference_q),
        lanes!(|sum_p, sum_q| 0.5 * sum_p + 2.0 * sum_q),
        lanes!(|difference_p, difference_q, f| 0.5 * difference_p + 2.0 * difference_q + f),
    ]
}

#[inline(always)]
fn lane(x: &[f32], at: usize) -> Lane {
    std::array::from_fn(|l| x[at + l])
}

multiversion! {
    /// One tile's input: 36 pixels (row by row) to 36 points, `stride` apart in `out`.
    fn transform_input(pixels: &[&[f32]; POINTS], out: &mut [f32], stride: usize) {
        let channels = pixels[0].len();
        assert!(pixels.iter().all(|p| p.len() == channels));
        assert!(channels.is_multiple_of(LANES) && (POINTS - 1) * stride + channels <= out.len());
        for c in (0..channels).step_by(LANES) {
            let columns: [[Lane; REACH]; REACH] = std::array::from_fn(|x| {
                input_1d(std::array::from_fn(|y| lane(pixels[y * REACH + x], c)))
            });
            for y in 0..REACH {
                let row = input_1d(columns.map(|column| column[y]));
                for (x, v) in row.into_iter().enumerate() {
                    out[(y * REACH + x) * stride + c..][..LANES].copy_from_slice(&v);
                }
            }
        }
    }
}

multiversion! {
    /// 36 points, `stride` apart in `points`, of channels `c..c + 8` to 4 x 4 pixels.
    fn transform_output(points: &[f32], stride: usize, c: usize, out: &mut [[Lane; TILE]; TILE]) {
        let columns: [[Lane; TILE]; REACH] = std::array::from_fn(|x| {
            output_1d(std::array::from_fn(|y| lane(points, (y * REACH + x) * stride + c)))
        });
        for (y, out) in out.iter_mut().enumerate() {
            *out = output_1d(columns.map(|column| column[y]));
        }
    }
}

multiversion! {
    /// Kernels of 16 output channels: `[3 * 3][C_in][16]` to `[36][C_in][16]`.
    fn transform_kernels(kernels: &[f32], c_in: usize, out: &mut [f32]) {
        let kernels = kernels.as_chunks::<COLUMNS>().0;
        let out = out.as_chunks_mut::<COLUMNS>().0;
        for i in 0..c_in {
            let columns: [[[f32; COLUMNS]; REACH]; 3] = std::array::from_fn(|x| {
                kernel_1d(std::array::from_fn(|y| kernels[(y * 3 + x) * c_in + i]))
            });
            for y in 0..REACH {
                let row = kernel_1d(columns.map(|column| column[y]));
                for (x, v) in row.into_iter().enumerate() {
                    out[(y * REACH + x) * c_in + i] = v;
                }
            }
        }
    }
}

/// Packed weights `[C_out / 16][3 * 3][C_in][16]` to `[C_out / 16][36][C_in][16]`.
pub(super) fn transform(packed: &[f32], c_in: usize) -> Vec<f32> {
    let row = c_in * COLUMNS;
    let mut out = vec![0.0; packed.len() / 9 * POINTS];
    out.par_chunks_mut(POINTS * row)
        .zip(packed.par_chunks(9 * row))
        .for_each(|(out, kernels)| transform_kernels(kernels, c_in, out));
    out
}

/// Tiles of a block: as many as keep both transforms in about `2 MiB`, and enough to be worth a pass over the
/// weights.
fn block_tiles(c_in: usize, c_out: usize) -> usize {
    let floats = 512 * 1024 / (POINTS * (c_in + c_out));
    (floats / ROWS * ROWS).clamp(6 * ROWS, 16 * ROWS)
}

/// Adds the convolution of `x` by the transformed weights to `out`.
pub(super) fn add_to(x: &Map, weights: &[f32], conv: &Conv2d, out: &mut Map) {
    let tiles_across = out.width.div_ceil(TILE);
    let most = block_tiles(conv.c_in, conv.c_out);
    let tile_rows = (most / tiles_across).max(1);
    let (first_row, row) = (out.rows.start, out.width * conv.c_out);
    let zeros = vec![0.0; conv.c_in];
    out.data
        .par_chunks_mut(tile_rows * TILE * row)
        .enumerate()
        .for_each_init(
            || Block::new(most, conv),
            |block, (job, out)| {
                let top = first_row + job * tile_rows * TILE;
                let tiles = (out.len() / row).div_ceil(TILE) * tiles_across;
                for start in (0..tiles).step_by(most) {
                    let end = (start + most).min(tiles);
                    for (t, tile) in (start..end).enumerate() {
                        let (y, x0) = (tile / tiles_across * TILE, tile % tiles_across * TILE);
                        let pixels = neighbourhood(x, conv.geometry, (top + y, x0), &zeros);
                        let at = &mut block.input[t * conv.c_in..];
                        transform_input(&pixels, at, block.input_stride);
                    }
                    block.multiply(end - start, weights);
                    for (t, tile) in (start..end).enumerate() {
                        let (y, x0) = (tile / tiles_across * TILE, tile % tiles_across * TILE);
                        block.add_output(t, &conv.bias, &mut out[y * row..], (x0, row));
                    }
                }
            },
        );
}

/// The 6 x 6 pixels that the tile at output pixel (y, x) is made from, `zeros` outside of the picture.
fn neighbourhood<'a>(
    map: &'a Map,
    geometry: Geometry,
    (y, x): (usize, usize),
    zeros: &'a [f32],
) -> [&'a [f32]; POINTS] {
    let c = map.channels;
    let (scale, width) = match geometry {
        Geometry::Double => (2, 2 * map.width as isize),
        _ => (1, map.width as isize),
    };
    let mut pixels = [zeros; POINTS];
    for (i, line) in pixels.chunks_exact_mut(REACH).enumerate() {
        // The last tile may reach far below the picture, where rows are zeros too.
        let Some(row) = map.row((y as isize - 1 + i as isize).div_euclid(scale)) else {
            continue;
        };
        for (j, pixel) in line.iter_mut().enumerate() {
            let x = x as isize - 1 + j as isize;
            if (0..width).contains(&x) {
                let at = (x / scale) as usize * c;
                *pixel = &row[at..at + c];
            }
        }
    }
    pixels
}

/// A block of tiles between the transforms: what a thread reuses.
struct Block {
    c_in: usize,
    c_out: usize,
    /// `[36][tiles][C_in]`.
    input: Vec<f32>,
    input_stride: usize,
    /// `[36][tiles][C_out rounded up to 16]`.
    output: Vec<f32>,
    output_stride: usize,
    output_row: usize,
}

impl Block {
    fn new(tiles: usize, conv: &Conv2d) -> Self {
        let output_row = conv.c_out.next_multiple_of(COLUMNS);
        let input_stride = tiles * conv.c_in + SKEW;
        let output_stride = tiles * output_row + SKEW;
        Self {
            c_in: conv.c_in,
            c_out: conv.c_out,
            input: vec![0.0; POINTS * input_stride],
            input_stride,
            output: vec![0.0; POINTS * output_stride],
            output_stride,
            output_row,
        }
    }

    /// The 36 products of the first `tiles` tiles.
    fn multiply(&mut self, tiles: usize, weights: &[f32]) {
        let panel = self.c_in * COLUMNS;
        for point in 0..POINTS {
            let input = &self.input[point * self.input_stride..];
            let output = &mut self.output[point * self.output_stride..];
            for (n, block) in weights.chunks_exact(POINTS * panel).enumerate() {
                let right = &block[point * panel..(point + 1) * panel];
                for t in (0..tiles).step_by(ROWS) {
                    let left = Left {
                        data: &input[t * self.c_in..],
                        rows: ROWS.min(tiles - t),
                        row: self.c_in,
                        runs: 1,
                        run: 0,
                        len: self.c_in,
                    };
                    let at = t * self.output_row + n * COLUMNS;
                    product(&left, right, &mut output[at..], self.output_row);
                }
            }
        }
    }

    /// Adds tile `t` and the bias to its pixels: `out` begins at the tile's first row, rows are `row` apart.
    fn add_output(&self, t: usize, bias: &[f32], out: &mut [f32], (x, row): (usize, usize)) {
        let points = &self.output[t * self.output_row..];
        let mut tile = [[[0.0; LANES]; TILE]; TILE];
        for c in (0..self.c_out).step_by(LANES) {
            transform_output(points, self.output_stride, c, &mut tile);
            let bias = &bias[c..c + LANES];
            for (out, values) in out.chunks_exact_mut(row).zip(&tile) {
                let pixels = out[x * self.c_out..].chunks_exact_mut(self.c_out);
                for (pixel, v) in pixels.zip(values) {
                    for ((o, v), b) in pixel[c..c + LANES].iter_mut().zip(v).zip(bias) {
                        *o += v + b;
                    }
                }
            }
        }
    }
}
