//! Peak signal-to-noise ratio.

use super::Pair;

/// PSNR in dB with the peak 255, of the mean squared error over all pixels and the three channels:
/// `10 log10(255^2 / mse)`. Equal pictures: infinity.
pub fn psnr_db(pair: &Pair) -> f64 {
    let (a, b) = (pair.reference().rgb(), pair.picture().rgb());
    // Integers: exact, in any order.
    let squares: u64 = a
        .iter()
        .zip(b)
        .map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2))
        .sum();
    let mse = squares as f64 / a.len() as f64;
    10.0 * (255.0 * 255.0 / mse).log10()
}
