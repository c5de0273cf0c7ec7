//! Pieces of the loops that the compiler vectorises: e^x, sums and maxima with the same bits on every machine.
//!
//! Sums run in 16 fixed lanes, whatever vectors the machine has.

pub(crate) use crate::numerics::simd::multiversion;

/// Lanes of a sum: two AVX2 registers, which hide the latency of the addition.
const LANES: usize = 16;

/// e^x with a relative error below 2e-7; 0 below -87.3, finite (about 3e38) above 88.7. NaN stays NaN.
///
/// Cody-Waite reduction by ln 2 in two parts and the degree-5 polynomial of Cephes' `expf`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer in any vector unit.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.336_54, 88.722_83);
    let n = (clamped * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = (clamped - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5e-1;
    let y = p * (r * r) + r + 1.0;
    // 2^n in two factors, since n reaches 128.
    let half = ((n * 0.5 + ROUND) - ROUND) as i32;
    let rest = n as i32 - half;
    let y = y
        * f32::from_bits(((half + 127) << 23) as u32)
        * f32::from_bits(((rest + 127) << 23) as u32);
    match x < -87.336_54 {
        true => 0.0,
        false => y,
    }
}

/// Sum in 16 lanes, then pairwise: the same order on every machine.
#[inline(always)]
pub(crate) fn sum_by(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += f(*v);
        }
    }
    for (lane, v) in lanes.iter_mut().zip(rest) {
        *lane += f(*v);
    }
    fold(lanes, |a, b| a + b)
}

/// The largest value, NaN ignored; -infinity for an empty slice.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane = if *v > *lane { *v } else { *lane };
        }
    }
    for (lane, v) in lanes.iter_mut().zip(rest) {
        *lane = if *v > *lane { *v } else { *lane };
    }
    fold(lanes, f32::max)
}

#[inline(always)]
fn fold(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_library() {
        let mut worst = 0.0f64;
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let expected = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - expected).abs() / expected);
        }
        println!("largest relative error of exp: {worst:.2e}");
        assert!(worst < 2e-7, "{worst:e}");
        assert_eq!(exp(-100.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(1000.0).is_finite());
    }

    #[test]
    fn sums_and_maxima_cover_the_tail() {
        for n in 0..67 {
            let x: Vec<f32> = (0..n).map(|i| (i * 7 % 13) as f32).collect();
            assert_eq!(sum_by(&x, |v| v), x.iter().sum::<f32>());
            let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(max(&x), largest);
        }
    }
}
