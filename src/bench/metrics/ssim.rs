//! Structural similarity: Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image quality assessment: from error
//! visibility to structural similarity", IEEE Transactions on Image Processing 13(4), 2004.
//!
//! Own code, because no well-kept crate computes this: `image-compare` 0.5 uses flat 8 x 8 blocks.

use std::array;

use rayon::prelude::*;

use super::Pair;
use super::pair::{MIN_SIDE, Plane};

/// Taps of the window.
const TAPS: usize = MIN_SIDE;
/// `(0.01 * 255)^2` and `(0.03 * 255)^2`.
const C1: f64 = 2.55 * 2.55;
const C2: f64 = 7.65 * 7.65;

/// SSIM with a Gaussian window of 11 x 11 (sigma 1.5), K1 = 0.01, K2 = 0.03, population covariance, and the mean taken
/// over the windows that lie inside of the picture, then over R, G and B. The same as scikit-image's
/// `structural_similarity(a, b, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5,
/// use_sample_covariance=False)`.
pub fn ssim(pair: &Pair) -> f64 {
    let channels = [0, 1, 2].map(|c| {
        let (a, b) = (pair.reference().channel(c), pair.picture().channel(c));
        similarity(&a, &b).ssim
    });
    channels.iter().sum::<f64>() / 3.0
}

/// The means over all windows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Similarity {
    /// Luminance, contrast and structure.
    pub ssim: f64,
    /// Contrast and structure alone.
    pub contrast: f64,
}

/// Compares two planes of the same size.
pub(super) fn similarity(a: &Plane, b: &Plane) -> Similarity {
    let window = window();
    let rows = a.height - (TAPS - 1);
    // A sum for each row, then over the rows in their order: the same on any number of threads.
    let sums: Vec<[f64; 2]> = (0..rows)
        .into_par_iter()
        .map(|y| row(&window, &moments(&window, a, b, y)))
        .collect();
    let windows = (rows * (a.width - (TAPS - 1))) as f64;
    let [ssim, contrast] = [0, 1].map(|i| sums.iter().map(|s| s[i]).sum::<f64>() / windows);
    Similarity { ssim, contrast }
}

/// The Gaussian, with the sum 1.
fn window() -> [f64; TAPS] {
    let middle = (TAPS / 2) as f64;
    let taps: [f64; TAPS] = array::from_fn(|i| (-(i as f64 - middle).powi(2) / 4.5).exp());
    let sum: f64 = taps.iter().sum();
    taps.map(|t| t / sum)
}

/// The means of `a`, `b`, `a^2`, `b^2` and `ab` down the windows that start at row `y`, for each column.
fn moments(window: &[f64; TAPS], a: &Plane, b: &Plane, y: usize) -> Vec<[f64; 5]> {
    let mut sums = vec![[0.0; 5]; a.width];
    for (k, w) in window.iter().enumerate() {
        for ((sum, a), b) in sums.iter_mut().zip(a.row(y + k)).zip(b.row(y + k)) {
            let (wa, wb) = (w * a, w * b);
            for (sum, term) in sum.iter_mut().zip([wa, wb, wa * a, wb * b, wa * b]) {
                *sum += term;
            }
        }
    }
    sums
}

/// The sums of SSIM and of its contrast part over the windows of one row.
fn row(window: &[f64; TAPS], columns: &[[f64; 5]]) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for columns in columns.windows(TAPS) {
        let mut m = [0.0; 5];
        for (w, column) in window.iter().zip(columns) {
            for (m, value) in m.iter_mut().zip(column) {
                *m += w * value;
            }
        }
        let [a, b, aa, bb, ab] = m;
        let contrast = (2.0 * (ab - a * b) + C2) / ((aa - a * a) + (bb - b * b) + C2);
        let luminance = (2.0 * a * b + C1) / (a * a + b * b + C1);
        sums[0] += luminance * contrast;
        sums[1] += contrast;
    }
    sums
}
