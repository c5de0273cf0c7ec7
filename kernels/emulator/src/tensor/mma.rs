//! `mma.sync` without scales.

use std::sync::LazyLock;

use super::accumulate::Width;
use super::dot::{Factor, Products, Rule, Tile, integers, multiply};
use super::fragment::{a_words, b_words, c_half_registers, c_halves, c_registers, c_words};
use crate::Lanes;
use crate::convert::float::{Float, FloatMode, from_bits, to_bits};
use crate::convert::{Minifloat, decode};

/// How the sum of one instruction is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Accumulator {
    /// Terms are cut to about 22 bits when they are aligned to the largest, as was measured on an RTX 5090 for FP8 and
    /// bf16. For NVFP4 no measurement is known; it is treated as FP8.
    #[default]
    Truncated,
    /// The exact sum, rounded once to nearest even. No hardware does it; it tells errors of a kernel from rounding.
    Exact,
}

/// 16-bit inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sixteen {
    /// `.f16`
    F16,
    /// `.bf16`
    Bf16,
}

/// Types of an m16n8k32 instruction on inputs of 8 bits (or fewer, in containers of 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Eight {
    /// Elements of A.
    pub a: Minifloat,
    /// Elements of B.
    pub b: Minifloat,
    /// How the sum is rounded.
    pub accumulator: Accumulator,
}

/// Types of an m16n8k32 instruction on integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Integer {
    /// A is `.s8` rather than `.u8`.
    pub a_signed: bool,
    /// B is `.s8` rather than `.u8`.
    pub b_signed: bool,
    /// `.satfinite`: clamp rather than wrap.
    pub satfinite: bool,
}

impl Eight {
    /// Decoded bytes of A and of B.
    pub(super) fn tables(self) -> Result<(&'static [f32; 256], &'static [f32; 256]), String> {
        Ok((table(self.a)?, table(self.b)?))
    }

    pub(super) fn rule(self) -> Rule {
        Rule {
            width: Width::EIGHT,
            accumulator: self.accumulator,
        }
    }
}

/// Value of each byte of a container: PTX puts e2m1 into its middle four bits and the formats of six bits into its low
/// six; the other bits are padding and ignored.
fn table(format: Minifloat) -> Result<&'static [f32; 256], String> {
    const FORMATS: [Minifloat; 5] = [
        Minifloat::E4m3,
        Minifloat::E5m2,
        Minifloat::E2m1,
        Minifloat::E2m3,
        Minifloat::E3m2,
    ];
    static TABLES: LazyLock<[[f32; 256]; 5]> = LazyLock::new(|| {
        FORMATS.map(|format| {
            let shift = if format == Minifloat::E2m1 { 2 } else { 0 };
            std::array::from_fn(|byte| decode(format, (byte >> shift) as u8))
        })
    });
    let place = FORMATS.iter().position(|&f| f == format);
    place
        .map(|i| &TABLES[i])
        .ok_or_else(|| format!("mma: {format:?} is no element type"))
}

/// Numbers of bytes, four to a word.
pub(super) fn bytes<const ROWS: usize>(
    words: &[[u32; 8]; ROWS],
    table: &[f32; 256],
) -> [[f32; 32]; ROWS] {
    let mut rows = [[0.0; 32]; ROWS];
    for (row, words) in rows.iter_mut().zip(words) {
        for (numbers, word) in row.chunks_exact_mut(4).zip(words) {
            for (number, byte) in numbers.iter_mut().zip(word.to_le_bytes()) {
                *number = table[usize::from(byte)];
            }
        }
    }
    rows
}

/// Columns of B to rows of equal k.
pub(super) fn by_k<T: Copy + Default, const K: usize>(columns: &[[T; K]; 8]) -> [[T; 8]; K] {
    let mut rows = [[T::default(); 8]; K];
    for (n, column) in columns.iter().enumerate() {
        for (row, element) in rows.iter_mut().zip(column) {
            row[n] = *element;
        }
    }
    rows
}

/// C of f32.
pub(super) fn accumulators(c: &[Lanes; 4]) -> Tile {
    c_words(c).map(|row| row.map(|bits| f64::from(f32::from_bits(bits))))
}

/// D of f32, rounded to nearest even where [`Accumulator::Exact`] left more bits.
pub(super) fn results(d: Tile) -> [Lanes; 4] {
    c_registers(&d.map(|row| {
        row.map(|x| {
            if x.is_nan() {
                0x7fff_ffff
            } else {
                (x as f32).to_bits()
            }
        })
    }))
}

fn half_accumulators(c: &[Lanes; 2]) -> Tile {
    c_halves(c).map(|row| row.map(|bits| from_bits(u64::from(bits), Float::F16)))
}

/// D of f16, rounded to nearest even.
fn half_results(d: Tile) -> [Lanes; 2] {
    c_half_registers(&d.map(|row| row.map(|x| to_bits(x, Float::F16, FloatMode::default()) as u16)))
}

/// A * B + C without scales.
fn plain<T: Factor + Default, const K: usize>(
    a: &[[T; K]; 16],
    b: &[[T; K]; 8],
    c: &Tile,
    rule: Rule,
) -> Tile {
    multiply(
        &Products {
            a,
            b: &by_k(b),
            scale_a: &[1.0; 16],
            scale_b: &[1.0; 8],
        },
        c,
        rule,
    )
}

/// Halves, two to a word.
fn halves<const W: usize, const K: usize, const ROWS: usize>(
    words: &[[u32; W]; ROWS],
    inputs: Sixteen,
) -> [[f64; K]; ROWS] {
    let format = match inputs {
        Sixteen::F16 => Float::F16,
        Sixteen::Bf16 => Float::Bf16,
    };
    std::array::from_fn(|r| {
        std::array::from_fn(|k| {
            from_bits(
                u64::from(words[r][k / 2] >> (16 * (k % 2)) & 0xffff),
                format,
            )
        })
    })
}

const fn wide(accumulator: Accumulator) -> Rule {
    Rule {
        width: Width::SIXTEEN,
        accumulator,
    }
}

fn k16(a: &[Lanes; 4], b: &[Lanes; 2], c: &Tile, inputs: Sixteen, sum: Accumulator) -> Tile {
    let (a, b) = (a_words::<4, 8>(a), b_words::<2, 8>(b));
    plain::<f64, 16>(&halves(&a, inputs), &halves(&b, inputs), c, wide(sum))
}

fn k8(a: &[Lanes; 2], b: &[Lanes; 1], c: &Tile, inputs: Sixteen, sum: Accumulator) -> Tile {
    let (a, b) = (a_words::<2, 4>(a), b_words::<1, 4>(b));
    plain::<f64, 8>(&halves(&a, inputs), &halves(&b, inputs), c, wide(sum))
}

fn f8(a: &[Lanes; 4], b: &[Lanes; 2], c: &Tile, types: Eight) -> Result<Tile, String> {
    let (table_a, table_b) = types.tables()?;
    let (a, b) = (a_words::<4, 8>(a), b_words::<2, 8>(b));
    Ok(plain::<f32, 32>(
        &bytes(&a, table_a),
        &bytes(&b, table_b),
        c,
        types.rule(),
    ))
}

/// m16n8k16 on f16 or bf16, f32 accumulators.
pub fn mma_k16(
    a: &[Lanes; 4],
    b: &[Lanes; 2],
    c: &[Lanes; 4],
    inputs: Sixteen,
    sum: Accumulator,
) -> [Lanes; 4] {
    results(k16(a, b, &accumulators(c), inputs, sum))
}

/// m16n8k16 on f16, f16 accumulators.
pub fn mma_k16_f16(a: &[Lanes; 4], b: &[Lanes; 2], c: &[Lanes; 2], sum: Accumulator) -> [Lanes; 2] {
    half_results(k16(a, b, &half_accumulators(c), Sixteen::F16, sum))
}

/// m16n8k8 on f16 or bf16, f32 accumulators.
pub fn mma_k8(
    a: &[Lanes; 2],
    b: &[Lanes; 1],
    c: &[Lanes; 4],
    inputs: Sixteen,
    sum: Accumulator,
) -> [Lanes; 4] {
    results(k8(a, b, &accumulators(c), inputs, sum))
}

/// m16n8k8 on f16, f16 accumulators.
pub fn mma_k8_f16(a: &[Lanes; 2], b: &[Lanes; 1], c: &[Lanes; 2], sum: Accumulator) -> [Lanes; 2] {
    half_results(k8(a, b, &half_accumulators(c), Sixteen::F16, sum))
}

/// m16n8k8 on tf32, f32 accumulators. The low 13 bits of an input are ignored, as the hardware does.
pub fn mma_tf32(a: &[Lanes; 4], b: &[Lanes; 2], c: &[Lanes; 4], sum: Accumulator) -> [Lanes; 4] {
    let value = |bits: u32| from_bits(u64::from(bits), Float::Tf32);
    let a = a_words::<4, 8>(a).map(|row| row.map(value));
    let b = b_words::<2, 8>(b).map(|column| column.map(value));
    results(plain(&a, &b, &accumulators(c), wide(sum)))
}

/// m16n8k32 on e4m3, e5m2 (`kind::f8f6f4`: also e2m1, e2m3, e3m2), f32 accumulators. An error for ue8m0.
pub fn mma_f8(
    a: &[Lanes; 4],
    b: &[Lanes; 2],
    c: &[Lanes; 4],
    types: Eight,
) -> Result<[Lanes; 4], String> {
    f8(a, b, &accumulators(c), types).map(results)
}

/// As [`mma_f8`] with f16 accumulators.
pub fn mma_f8_f16(
    a: &[Lanes; 4],
    b: &[Lanes; 2],
    c: &[Lanes; 2],
    types: Eight,
) -> Result<[Lanes; 2], String> {
    f8(a, b, &half_accumulators(c), types).map(half_results)
}

/// m16n8k32 on s8 or u8, s32 accumulators.
pub fn mma_int8(a: &[Lanes; 4], b: &[Lanes; 2], c: &[Lanes; 4], types: Integer) -> [Lanes; 4] {
    let a = small_integers(&a_words::<4, 8>(a), types.a_signed);
    let b = small_integers(&b_words::<2, 8>(b), types.b_signed);
    let mut d = c_words(c);
    for (row, a) in d.iter_mut().zip(&a) {
        for (d, b) in row.iter_mut().zip(&b) {
            // 32 products of 16 bits: no overflow before C.
            let (dot, c) = (integers(a, b), *d as i32);
            *d = if types.satfinite {
                c.saturating_add(dot)
            } else {
                c.wrapping_add(dot)
            } as u32;
        }
    }
    c_registers(&d)
}

fn small_integers<const ROWS: usize>(words: &[[u32; 8]; ROWS], signed: bool) -> [[i16; 32]; ROWS] {
    std::array::from_fn(|r| {
        std::array::from_fn(|k| {
            let byte = (words[r][k / 4] >> (8 * (k % 4))) as u8;
            if signed {
                i16::from(byte as i8)
            } else {
                i16::from(byte)
            }
        })
    })
}
