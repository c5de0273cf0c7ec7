//! `mma.sync` with block scales.

use super::accumulate::Width;
use super::dot::{Blocks, Products, Rule, Tile, multiply, multiply_blocks};
use super::fragment::{a_words, b_words, scale_lane_a, scale_lane_b};
use super::mma::{Accumulator, Eight, accumulators, by_k, bytes, results};
use crate::Lanes;
use crate::convert::{Minifloat, decode};

/// How many scales a row has in one instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScaleVec {
    /// `.scale_vec::1X`
    X1,
    /// `.scale_vec::2X`
    X2,
    /// `.scale_vec::4X`
    X4,
}

/// Type of the scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScaleFormat {
    /// `.ue4m3`
    Ue4m3,
    /// `.ue8m0`
    Ue8m0,
}

/// Qualifiers of `kind::mxf4nvf4` (and `kind::mxf4`, which is `X2` with `Ue8m0`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mxf4 {
    /// `X2` or `X4`.
    pub vec: ScaleVec,
    /// `Ue4m3` only with `X4`.
    pub scale: ScaleFormat,
    /// How the sum is rounded.
    pub accumulator: Accumulator,
}

/// The scale operands `{scale-a}, {byte-id-a, thread-id-a}, {scale-b}, {byte-id-b, thread-id-b}`.
#[derive(Debug, Clone, Copy)]
pub struct BlockScales<'a> {
    /// Register with the scales of A.
    pub a: &'a Lanes,
    /// Register with the scales of B.
    pub b: &'a Lanes,
    /// Byte at which A's scales begin.
    pub byte_a: u16,
    /// Which pair of each four lanes supplies A's scales: 0 or 1.
    pub thread_a: u16,
    /// Byte at which B's scales begin.
    pub byte_b: u16,
    /// Which lane of each four supplies B's scales: 0 to 3.
    pub thread_b: u16,
}

impl BlockScales<'_> {
    /// Selectors that `ptxas` refuses for `vec` are an error.
    fn check(&self, vec: ScaleVec) -> Result<(), String> {
        let step = match vec {
            ScaleVec::X1 => 1,
            ScaleVec::X2 => 2,
            ScaleVec::X4 => 4,
        };
        for (operand, byte, thread, threads) in [
            ("a", self.byte_a, self.thread_a, 2),
            ("b", self.byte_b, self.thread_b, 4),
        ] {
            if byte > 3 || byte % step != 0 {
                return Err(format!(
                    "mma: byte-id-{operand} {byte} is reserved with scale_vec::{vec:?}"
                ));
            }
            if thread >= threads {
                return Err(format!(
                    "mma: thread-id-{operand} {thread} is reserved, there are {threads}"
                ));
            }
        }
        Ok(())
    }

    /// The N bytes that scale A's `row`.
    fn bytes_a<const N: usize>(&self, row: usize) -> [u8; N] {
        pick(
            self.a[scale_lane_a(row, usize::from(self.thread_a))],
            self.byte_a,
        )
    }

    /// The N bytes that scale B's `column`.
    fn bytes_b<const N: usize>(&self, column: usize) -> [u8; N] {
        pick(
            self.b[scale_lane_b(column, usize::from(self.thread_b))],
            self.byte_b,
        )
    }
}

fn pick<const N: usize>(word: u32, byte: u16) -> [u8; N] {
    let bytes = word.to_le_bytes();
    std::array::from_fn(|j| bytes[usize::from(byte) + j])
}

fn scale_value(format: ScaleFormat, byte: u8) -> Result<f64, String> {
    match format {
        ScaleFormat::Ue8m0 => Ok(f64::from(decode(Minifloat::Ue8m0, byte))),
        ScaleFormat::Ue4m3 if byte & 0x80 != 0 => Err(format!(
            "mma: scale {byte:#04x} is not ue4m3, its sign bit is set"
        )),
        ScaleFormat::Ue4m3 => Ok(f64::from(decode(Minifloat::E4m3, byte))),
    }
}

/// m16n8k64 on e2m1, f32 accumulators. Selectors that PTX reserves, combinations of types that `ptxas` refuses and a
/// ue4m3 scale with its top bit set are errors. A NaN scale makes its whole row, or column, NaN.
pub fn mma_mxf4nvf4(
    a: &[Lanes; 4],
    b: &[Lanes; 2],
    c: &[Lanes; 4],
    scales: &BlockScales<'_>,
    types: Mxf4,
) -> Result<[Lanes; 4], String> {
    scales.check(types.vec)?;
    match (types.vec, types.scale) {
        (ScaleVec::X4, ScaleFormat::Ue4m3) => {
            let (a, b) = (
                nibbles::<16, 4, 16>(&a_words::<4, 8>(a)),
                nibbles::<16, 4, 8>(&b_words::<2, 8>(b)),
            );
            four_bit(&a, &b, &accumulators(c), scales, types)
        }
        (ScaleVec::X2, ScaleFormat::Ue8m0) => {
            let (a, b) = (
                nibbles::<32, 2, 16>(&a_words::<4, 8>(a)),
                nibbles::<32, 2, 8>(&b_words::<2, 8>(b)),
            );
            four_bit(&a, &b, &accumulators(c), scales, types)
        }
        (vec, scale) => Err(format!(
            "mma: scale_vec::{vec:?} does not go with {scale:?}"
        )),
    }
}

/// N scales per row and column, each for K elements.
fn four_bit<const K: usize, const N: usize>(
    a: &[[[f32; K]; N]; 16],
    b: &[[[f32; K]; N]; 8],
    c: &Tile,
    scales: &BlockScales<'_>,
    types: Mxf4,
) -> Result<[Lanes; 4], String> {
    let mut scale_a = [[0.0; N]; 16];
    for (row, values) in scale_a.iter_mut().enumerate() {
        for (to, byte) in values.iter_mut().zip(scales.bytes_a::<N>(row)) {
            *to = scale_value(types.scale, byte)?;
        }
    }
    let mut scale_b = [[0.0; 8]; N];
    for column in 0..8 {
        for (values, byte) in scale_b.iter_mut().zip(scales.bytes_b::<N>(column)) {
            values[column] = scale_value(types.scale, byte)?;
        }
    }
    let mut by_k = [[[0.0; 8]; K]; N];
    for (n, column) in b.iter().enumerate() {
        for (to, from) in by_k
            .as_flattened_mut()
            .iter_mut()
            .zip(column.as_flattened())
        {
            to[n] = *from;
        }
    }
    // Products are multiples of 1/4 up to 36, sums of 32 below 2^11: exact in f32. Times two scales: 20 bits.
    let input = Blocks {
        a,
        b: &by_k,
        scale_a: &scale_a,
        scale_b: &scale_b,
    };
    let rule = Rule {
        width: Width::EIGHT,
        accumulator: types.accumulator,
    };
    Ok(results(multiply_blocks(&input, c, rule)))
}

/// e2m1 numbers in N blocks of K, low nibble first.
fn nibbles<const K: usize, const N: usize, const ROWS: usize>(
    words: &[[u32; 8]; ROWS],
) -> [[[f32; K]; N]; ROWS] {
    const VALUES: [f32; 16] = [
        0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
    ];
    let mut rows = [[[0.0; K]; N]; ROWS];
    for (row, words) in rows.iter_mut().zip(words) {
        for (numbers, word) in row.as_flattened_mut().chunks_exact_mut(8).zip(words) {
            for (i, number) in numbers.iter_mut().enumerate() {
                *number = VALUES[(word >> (4 * i) & 0xf) as usize];
            }
        }
    }
    rows
}

/// m16n8k32 on formats of 8, 6 and 4 bits in containers of 8, one ue8m0 scale per row, f32 accumulators.
pub fn mma_mxf8f6f4(
    a: &[Lanes; 4],
    b: &[Lanes; 2],
    c: &[Lanes; 4],
    scales: &BlockScales<'_>,
    types: Eight,
) -> Result<[Lanes; 4], String> {
    scales.check(ScaleVec::X1)?;
    let (table_a, table_b) = types.tables()?;
    let value = |[byte]: [u8; 1]| f64::from(decode(Minifloat::Ue8m0, byte));
    let input = Products {
        a: &bytes(&a_words::<4, 8>(a), table_a),
        b: &by_k(&bytes(&b_words::<2, 8>(b), table_b)),
        scale_a: &std::array::from_fn(|row| value(scales.bytes_a(row))),
        scale_b: &std::array::from_fn(|column| value(scales.bytes_b(column))),
    };
    Ok(results(multiply(&input, &accumulators(c), types.rule())))
}
