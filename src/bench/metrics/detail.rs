//! How much fine detail a picture has: the "energy of Laplacian" of M. Subbarao, T. S. Choi, A. Nikzad, "Focusing
//! techniques", Optical Engineering 32(11), 1993 (LAP1 in the survey of Pertuz, Puig, Garcia 2013).

use rayon::prelude::*;

use super::Pair;
use super::pair::{Picture, Plane};

/// The energy of the picture's Laplacian over that of the reference: 1 is the same amount of detail, below 1 is
/// blurred, above 1 is sharper or noisier. It counts detail, right or wrong: read it beside the other metrics.
///
/// The Laplacian is `left + right + up + down - 4 middle` of the luma `0.2126 R + 0.7152 G + 0.0722 B` (BT.709, on the
/// 8-bit values), its energy the mean of its squares over all pixels that are not at the edge. Two pictures without
/// any detail: 1; a reference alone without any: infinity.
pub fn detail_ratio(pair: &Pair) -> f64 {
    let [reference, picture] = [pair.reference(), pair.picture()].map(energy);
    if reference == picture {
        return 1.0;
    }
    picture / reference
}

/// The mean square of the Laplacian.
fn energy(picture: Picture) -> f64 {
    let luma = picture.plane(luma);
    let rows: Vec<f64> = (1..luma.height - 1)
        .into_par_iter()
        .map(|y| row(&luma, y))
        .collect();
    rows.iter().sum::<f64>() / ((luma.height - 2) * (luma.width - 2)) as f64
}

/// Luma in units of 1/10000: whole numbers, so that a flat picture has no detail at all.
fn luma([r, g, b]: &[u8; 3]) -> f64 {
    2126.0 * f64::from(*r) + 7152.0 * f64::from(*g) + 722.0 * f64::from(*b)
}

/// The sum of squares of one row.
fn row(luma: &Plane, y: usize) -> f64 {
    let (up, row, down) = (luma.row(y - 1), luma.row(y), luma.row(y + 1));
    let laplacian = |x: usize| row[x - 1] + row[x + 1] + up[x] + down[x] - 4.0 * row[x];
    (1..luma.width - 1).map(|x| laplacian(x).powi(2)).sum()
}
