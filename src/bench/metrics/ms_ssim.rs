//! Multi-scale structural similarity: Z. Wang, E. P. Simoncelli, A. C. Bovik, "Multi-scale structural similarity for
//! image quality assessment", 37th Asilomar Conference, 2003.

use super::Pair;
use super::pair::{MIN_SIDE, Plane};
use super::ssim::similarity;

/// The exponents of the paper, finest scale first. Their sum is 1.0001, as published.
const WEIGHTS: [f64; 5] = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333];

/// MS-SSIM of R, G and B, then their mean: the product over the scales of contrast and structure, and of the whole
/// SSIM at the coarsest, each to its weight. Negative means count as 0. The same as pytorch-msssim's `ms_ssim`, but an
/// odd side is halved as in Wang's MATLAB code (the last row or column is its own neighbour), not padded with zeros.
///
/// Five scales need 161 pixels on each side. Smaller pictures have [`scales`] and the first weights, scaled so that
/// their sum stays that of all five; compare such numbers only at the same size.
pub fn ms_ssim(pair: &Pair) -> f64 {
    let (reference, picture) = (pair.reference(), pair.picture());
    let weights = weights(scales(reference.width(), reference.height()));
    let channels = [0, 1, 2].map(|c| product(reference.channel(c), picture.channel(c), &weights));
    channels.iter().sum::<f64>() / 3.0
}

/// The number of scales of a picture: 5, or as many as keep [`MIN_SIDE`] pixels on each side (64x64: 3).
pub fn scales(width: usize, height: usize) -> usize {
    let sides = std::iter::successors(Some(width.min(height)), |side| Some(side.div_ceil(2)));
    let large_enough = sides.take(WEIGHTS.len()).take_while(|s| *s >= MIN_SIDE);
    large_enough.count().max(1)
}

/// The first weights with the sum of all.
fn weights(scales: usize) -> Vec<f64> {
    let first = &WEIGHTS[..scales];
    let factor = WEIGHTS.iter().sum::<f64>() / first.iter().sum::<f64>();
    first.iter().map(|w| w * factor).collect()
}

/// The product over the scales of one channel.
fn product(mut a: Plane, mut b: Plane, weights: &[f64]) -> f64 {
    let mut product = 1.0;
    for (scale, weight) in weights.iter().enumerate() {
        let means = similarity(&a, &b);
        if scale + 1 == weights.len() {
            return product * means.ssim.max(0.0).powf(*weight);
        }
        product *= means.contrast.max(0.0).powf(*weight);
        (a, b) = (halve(&a), halve(&b));
    }
    product
}

/// Means of 2 x 2 pixels.
fn halve(plane: &Plane) -> Plane {
    let (width, height) = (plane.width.div_ceil(2), plane.height.div_ceil(2));
    let mut samples = Vec::with_capacity(width * height);
    for y in 0..height {
        let (upper, lower) = (
            plane.row(2 * y),
            plane.row((2 * y + 1).min(plane.height - 1)),
        );
        samples.extend((0..width).map(|x| {
            let (left, right) = (2 * x, (2 * x + 1).min(plane.width - 1));
            (upper[left] + upper[right] + lower[left] + lower[right]) / 4.0
        }));
    }
    Plane {
        width,
        height,
        samples,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_keep_a_window() {
        assert_eq!(scales(161, 161), 5);
        assert_eq!(scales(160, 4096), 4);
        assert_eq!(scales(2048, 2048), 5);
        assert_eq!(scales(64, 64), 3);
        assert_eq!(scales(11, 11), 1);
    }

    #[test]
    fn weights_keep_their_sum() {
        assert_eq!(weights(5), WEIGHTS);
        for scales in 1..5 {
            assert!((weights(scales).iter().sum::<f64>() - 1.0001).abs() < 1e-12);
        }
    }
}
