//! Squares of 32-bit lanes turned over, so that rows of a weight become lanes.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Lane j of row i becomes lane i of row j: 16 x 16.
///
/// Four rounds that interleave neighbours at distances 1, 2, 4 and 8: 64 shuffles.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn turn16(r: [__m512i; 16]) -> [__m512i; 16] {
    let mut a = r;
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    // b[4 q + j]: in each 128-bit lane l, the column 4 l + j of rows 4 q .. 4 q + 3.
    let mut b = a;
    for q in 0..4 {
        b[4 * q] = _mm512_unpacklo_epi64(a[4 * q], a[4 * q + 2]);
        b[4 * q + 1] = _mm512_unpackhi_epi64(a[4 * q], a[4 * q + 2]);
        b[4 * q + 2] = _mm512_unpacklo_epi64(a[4 * q + 1], a[4 * q + 3]);
        b[4 * q + 3] = _mm512_unpackhi_epi64(a[4 * q + 1], a[4 * q + 3]);
    }
    let mut c = b;
    for j in 0..4 {
        // Lanes 0 and 2, then 1 and 3, of two quarters of the rows.
        let even_01 = _mm512_shuffle_i32x4::<0x88>(b[j], b[4 + j]);
        let odd_01 = _mm512_shuffle_i32x4::<0xdd>(b[j], b[4 + j]);
        let even_23 = _mm512_shuffle_i32x4::<0x88>(b[8 + j], b[12 + j]);
        let odd_23 = _mm512_shuffle_i32x4::<0xdd>(b[8 + j], b[12 + j]);
        c[j] = _mm512_shuffle_i32x4::<0x88>(even_01, even_23);
        c[8 + j] = _mm512_shuffle_i32x4::<0xdd>(even_01, even_23);
        c[4 + j] = _mm512_shuffle_i32x4::<0x88>(odd_01, odd_23);
        c[12 + j] = _mm512_shuffle_i32x4::<0xdd>(odd_01, odd_23);
    }
    c
}

/// Lane j of row i becomes lane i of row j: 8 x 8.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn turn8(r: [__m256i; 8]) -> [__m256i; 8] {
    let mut a = r;
    for i in 0..4 {
        a[2 * i] = _mm256_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    let mut b = a;
    for q in 0..2 {
        b[4 * q] = _mm256_unpacklo_epi64(a[4 * q], a[4 * q + 2]);
        b[4 * q + 1] = _mm256_unpackhi_epi64(a[4 * q], a[4 * q + 2]);
        b[4 * q + 2] = _mm256_unpacklo_epi64(a[4 * q + 1], a[4 * q + 3]);
        b[4 * q + 3] = _mm256_unpackhi_epi64(a[4 * q + 1], a[4 * q + 3]);
    }
    let mut c = b;
    for j in 0..4 {
        c[j] = _mm256_permute2x128_si256::<0x20>(b[j], b[4 + j]);
        c[4 + j] = _mm256_permute2x128_si256::<0x31>(b[j], b[4 + j]);
    }
    c
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[target_feature(enable = "avx512f")]
    fn turned16(m: &[[i32; 16]; 16]) -> [[i32; 16]; 16] {
        // SAFETY: vectors and arrays of their lanes have the same size.
        unsafe {
            let rows = m.map(|row| _mm512_loadu_si512(row.as_ptr().cast()));
            std::mem::transmute(turn16(rows))
        }
    }

    #[target_feature(enable = "avx2")]
    fn turned8(m: &[[i32; 8]; 8]) -> [[i32; 8]; 8] {
        // SAFETY: as above.
        unsafe {
            let rows = m.map(|row| _mm256_loadu_si256(row.as_ptr().cast()));
            std::mem::transmute(turn8(rows))
        }
    }

    #[test]
    fn rows_become_columns() {
        if is_x86_feature_detected!("avx512f") {
            let m = std::array::from_fn(|i| std::array::from_fn(|j| (16 * i + j) as i32));
            // SAFETY: the feature was just found.
            let t = unsafe { turned16(&m) };
            assert!((0..256).all(|i| t[i % 16][i / 16] == m[i / 16][i % 16]));
        }
        if is_x86_feature_detected!("avx2") {
            let m = std::array::from_fn(|i| std::array::from_fn(|j| (8 * i + j) as i32));
            // SAFETY: the feature was just found.
            let t = unsafe { turned8(&m) };
            assert!((0..64).all(|i| t[i % 8][i / 8] == m[i / 8][i % 8]));
        }
    }
}
