//! The product at the bottom of convolutions and attention: 6 rows of one operand by 16 columns of the other.
//!
//! The trick: 6 x 16 sums are twelve of AVX2's sixteen registers, so one step over k costs twelve multiply-adds,
//! two loads and six broadcasts, and the multipliers are what limits. The left operand is read where it lies:
//! in channels-last pictures the pixels under one row of a kernel are one contiguous run, so a 3 x 3
//! neighbourhood is three runs and needs no im2col.

/// Rows of a block.
pub(crate) const ROWS: usize = 6;
/// Columns of a block, and the width to which weights are packed.
pub(crate) const COLUMNS: usize = 16;

/// The left operand of a block: row i is the runs `data[i * row + s * run ..][..len]`, s = 0 .. runs, one after the
/// other.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(crate) data: &'a [f32],
    /// Rows, 1 to [`ROWS`].
    pub(crate) rows: usize,
    /// From a row to the next.
    pub(crate) row: usize,
    pub(crate) runs: usize,
    /// From a run to the next.
    pub(crate) run: usize,
    pub(crate) len: usize,
}

/// `out[i * stride + j] = sum over k of left[i][k] * right[k * 16 + j]`, j = 0 .. 16.
#[inline]
pub(crate) fn product(left: &Left<'_>, right: &[f32], out: &mut [f32], stride: usize) {
    assert!((1..=ROWS).contains(&left.rows) && left.runs > 0);
    assert!((left.rows - 1) * left.row + (left.runs - 1) * left.run + left.len <= left.data.len());
    assert!(left.runs * left.len * COLUMNS <= right.len());
    assert!((left.rows - 1) * stride + COLUMNS <= out.len());
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: the features were just found; the asserts above bound every access of the block.
        unsafe {
            let (right, out) = (right.as_ptr(), out.as_mut_ptr());
            match left.rows {
                6 => avx2::<6>(left, right, out, stride),
                5 => avx2::<5>(left, right, out, stride),
                4 => avx2::<4>(left, right, out, stride),
                3 => avx2::<3>(left, right, out, stride),
                2 => avx2::<2>(left, right, out, stride),
                _ => avx2::<1>(left, right, out, stride),
            }
        }
        return;
    }
    portable(left, right, out, stride);
}

/// The definition, and what runs where there is no AVX2.
pub(crate) fn portable(left: &Left<'_>, right: &[f32], out: &mut [f32], stride: usize) {
    let right = right.as_chunks::<COLUMNS>().0;
    for i in 0..left.rows {
        let mut sums = [0.0f32; COLUMNS];
        for s in 0..left.runs {
            let run = &left.data[i * left.row + s * left.run..][..left.len];
            for (a, b) in run.iter().zip(&right[s * left.len..]) {
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum += *a * *b;
                }
            }
        }
        out[i * stride..][..COLUMNS].copy_from_slice(&sums);
    }
}

/// # Safety
/// The machine has AVX2 and FMA; `left` has R rows and lies in its data; `right` holds `runs * len * 16` floats;
/// `out` has R rows of 16 floats at `stride`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const R: usize>(
    left: &Left<'_>,
    mut right: *const f32,
    out: *mut f32,
    stride: usize,
) {
    use std::arch::x86_64::*;
    // SAFETY: by this function's contract every address below lies in its operand.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; R];
        for s in 0..left.runs {
            let run = left.data.as_ptr().add(s * left.run);
            for k in 0..left.len {
                let b0 = _mm256_loadu_ps(right);
                let b1 = _mm256_loadu_ps(right.add(8));
                right = right.add(COLUMNS);
                for (i, sum) in sums.iter_mut().enumerate() {
                    let a = _mm256_broadcast_ss(&*run.add(i * left.row + k));
                    sum[0] = _mm256_fmadd_ps(a, b0, sum[0]);
                    sum[1] = _mm256_fmadd_ps(a, b1, sum[1]);
                }
            }
        }
        for (i, sum) in sums.iter().enumerate() {
            _mm256_storeu_ps(out.add(i * stride), sum[0]);
            _mm256_storeu_ps(out.add(i * stride + 8), sum[1]);
        }
    }
}
