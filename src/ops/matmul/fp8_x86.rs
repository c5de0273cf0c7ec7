//! FP8 tiles by BF16 dot products.

use std::arch::x86_64::*;
use std::ops::Range;

use super::driver::{CHUNK, Kernel, by_rows};
use super::float_x86::{Line32, add512};
use super::fp8::bf16_bits;
use super::transpose::turn16;
use crate::checkpoint::CheckpointError;
use crate::numerics::machine::{Level, Machine};

/// 12 rows by 32 columns, two columns of K a step.
pub(crate) struct Bf16<'w> {
    /// E4M3 `[n, k]`.
    codes: &'w [u8],
    k: usize,
}

impl<'w> Bf16<'w> {
    /// # Panics
    /// Where `machine` has no BF16 dot product.
    pub(crate) fn new(codes: &'w [u8], k: usize, machine: Machine) -> Self {
        assert!(machine.level() >= Level::Avx512Bf16);
        Self { codes, k }
    }
}

/// A pair of columns of K for 32 rows of the weight, the earlier one in the high half.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Pairs([u32; 32]);

impl Kernel for Bf16<'_> {
    const ROWS: usize = 12;
    const COLUMNS: usize = 32;
    const STEP: usize = 2;
    const STRETCH: usize = 4 * CHUNK;
    type Left = [u32; 12];
    type Right = Pairs;

    fn zero(&self) -> Pairs {
        Pairs([0; 32])
    }

    fn decode(
        &self,
        rows: Range<usize>,
        ks: Range<usize>,
        panel: &mut [Pairs],
    ) -> Result<(), CheckpointError> {
        let Self { codes, k } = *self;
        assert!(codes.len() >= rows.end * k && ks.end <= k && panel.len() * 2 >= ks.len());
        for half in 0..2 {
            let from = (rows.start + 16 * half).min(rows.end);
            let rows = from..(from + 16).min(rows.end);
            // SAFETY: `new` found the features.
            unsafe { decode16(codes, k, rows, ks.clone(), (half, panel)) };
        }
        Ok(())
    }

    fn multiply(&self, rows: usize, left: &[[u32; 12]], right: &[Pairs], sums: &mut [f32]) {
        assert!(left.len() == right.len() && sums.len() == 12 * 32 && rows <= 12);
        // SAFETY: `new` found the features.
        unsafe { by_rows!(rows, tile(left, right, sums), 12 11 10 9 8 7 6 5 4 3 2 1) }
    }
}

/// Byte `at` of the BF16 numbers of the 128 codes without a sign.
const fn table(at: u32) -> [u8; 128] {
    let mut bytes = [0; 128];
    let mut code = 0;
    while code < 128 {
        bytes[code] = (bf16_bits(code as u8) >> (8 * at)) as u8;
        code += 1;
    }
    bytes
}
static LOW: [u8; 128] = table(0);
static HIGH: [u8; 128] = table(1);

/// From (low bytes, high bytes) of four columns a lane to a lane's bytes, given by their columns.
const fn order(low_half: usize, high_half: usize) -> [u8; 64] {
    let mut order = [0; 64];
    let mut lane = 0;
    while lane < 16 {
        let (low, high) = ((4 * lane + low_half) as u8, (4 * lane + high_half) as u8);
        // Bit 6 of an index picks the second operand.
        order[4 * lane] = low;
        order[4 * lane + 1] = 64 | low;
        order[4 * lane + 2] = high;
        order[4 * lane + 3] = 64 | high;
        lane += 1;
    }
    order
}
/// Pairs of columns, the earlier one in the high half.
static PAIRS: [[u8; 64]; 2] = [order(1, 0), order(3, 2)];
/// Single columns in the high half; the low half is masked out, which makes F32 of BF16.
static SINGLES: [[u8; 64]; 4] = [order(0, 0), order(1, 1), order(2, 2), order(3, 3)];

/// Up to 16 rows of codes into lanes `16 * half ..` of the panel's pairs; rows that are not there become 0.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn decode16(
    codes: &[u8],
    k: usize,
    rows: Range<usize>,
    ks: Range<usize>,
    to: (usize, &mut [Pairs]),
) {
    // SAFETY: an order has 64 bytes.
    let orders = PAIRS
        .each_ref()
        .map(|o| unsafe { _mm512_loadu_si512(o.as_ptr().cast()) });
    let (half, panel) = to;
    for (at, steps) in (ks.start..ks.end).step_by(64).zip(panel.chunks_mut(32)) {
        let lines = lines(codes, k, &rows, at..ks.end);
        for (quad, steps) in turn16(lines).into_iter().zip(steps.chunks_mut(2)) {
            let (lows, highs) = bf16_bytes(quad);
            for (step, order) in steps.iter_mut().zip(orders) {
                let pairs = _mm512_permutex2var_epi8(lows, order, highs);
                // SAFETY: half a step is 16 lanes.
                unsafe { _mm512_storeu_si512(step.0.as_mut_ptr().add(16 * half).cast(), pairs) };
            }
        }
    }
}

/// The same as F32, one column a step.
///
/// # Panics
/// Where `machine` has no VBMI, or the rows do not lie in `codes`.
pub(super) fn widen16(
    machine: Machine,
    (codes, k): (&[u8], usize),
    rows: Range<usize>,
    ks: Range<usize>,
    to: (usize, &mut [Line32]),
) {
    assert!(machine.level() >= Level::Avx512Bf16);
    assert!(codes.len() >= rows.end * k && ks.end <= k && to.1.len() == ks.len());
    // SAFETY: the features and the sizes were just checked.
    unsafe { widen(codes, k, rows, ks, to) };
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn widen(codes: &[u8], k: usize, rows: Range<usize>, ks: Range<usize>, to: (usize, &mut [Line32])) {
    // SAFETY: an order has 64 bytes.
    let orders = SINGLES
        .each_ref()
        .map(|o| unsafe { _mm512_loadu_si512(o.as_ptr().cast()) });
    let (half, panel) = to;
    for (at, steps) in (ks.start..ks.end).step_by(64).zip(panel.chunks_mut(64)) {
        let lines = lines(codes, k, &rows, at..ks.end);
        for (quad, steps) in turn16(lines).into_iter().zip(steps.chunks_mut(4)) {
            let (lows, highs) = bf16_bytes(quad);
            for (step, order) in steps.iter_mut().zip(orders) {
                let upper = 0xcccc_cccc_cccc_cccc;
                let floats = _mm512_maskz_permutex2var_epi8(upper, lows, order, highs);
                // SAFETY: half a step is 16 lanes.
                unsafe { _mm512_storeu_si512(step.0.as_mut_ptr().add(16 * half).cast(), floats) };
            }
        }
    }
}

/// Bytes ahead that are asked for.
const PREFETCH: usize = 512;

/// 64 columns of 16 rows, or those up to the end of `ks`; 0 where there is nothing.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn lines(codes: &[u8], k: usize, rows: &Range<usize>, ks: Range<usize>) -> [__m512i; 16] {
    let mask = u64::MAX >> (64 - ks.len().min(64));
    std::array::from_fn(|n| match rows.start + n < rows.end {
        // SAFETY: the mask ends with the row's columns `ks`, and the callers checked that the row lies in the codes.
        true => unsafe {
            let line = codes.as_ptr().add((rows.start + n) * k + ks.start);
            // Sixteen rows at once are more streams than the machine follows by itself.
            _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(PREFETCH).cast());
            _mm512_maskz_loadu_epi8(mask, line.cast())
        },
        false => _mm512_setzero_si512(),
    })
}

/// The low and the high bytes of the BF16 numbers of 64 codes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn bf16_bytes(codes: __m512i) -> (__m512i, __m512i) {
    let table = |bytes: &[u8; 128]| {
        // SAFETY: 128 bytes.
        let (first, second) = unsafe {
            let at = bytes.as_ptr();
            (
                _mm512_loadu_si512(at.cast()),
                _mm512_loadu_si512(at.add(64).cast()),
            )
        };
        _mm512_permutex2var_epi8(first, codes, second)
    };
    // An index uses the seven bits below the sign, which is added to the high byte.
    let sign = _mm512_and_si512(codes, _mm512_set1_epi8(-128));
    (table(&LOW), _mm512_or_si512(table(&HIGH), sign))
}

/// R rows by 32 columns; `left` and `right` are the same steps, `sums` is 12 x 32.
#[target_feature(enable = "avx512f,avx512bf16")]
fn tile<const R: usize>(left: &[[u32; 12]], right: &[Pairs], sums: &mut [f32]) {
    // SAFETY: vectors of the same size without invalid values.
    let pairs = |v: __m512i| unsafe { std::mem::transmute::<__m512i, __m512bh>(v) };
    for (left, right) in left.chunks(CHUNK / 2).zip(right.chunks(CHUNK / 2)) {
        let mut chunk = [[_mm512_setzero_ps(); 2]; R];
        for (a, b) in left.iter().zip(right) {
            // SAFETY: a step is 32 lanes.
            let (b0, b1) = unsafe {
                let at = b.0.as_ptr();
                (
                    _mm512_load_si512(at.cast()),
                    _mm512_load_si512(at.add(16).cast()),
                )
            };
            for (sum, a) in chunk.iter_mut().zip(a) {
                let a = pairs(_mm512_set1_epi32(*a as i32));
                sum[0] = _mm512_dpbf16_ps(sum[0], a, pairs(b0));
                sum[1] = _mm512_dpbf16_ps(sum[1], a, pairs(b1));
            }
        }
        add512(&chunk, sums);
    }
}
