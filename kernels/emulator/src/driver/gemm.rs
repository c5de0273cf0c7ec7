//! Matrix products as cuBLAS defines them: C = alpha op(A) op(B) + beta C, column by column.
//!
//! Sums are kept in f64 and rounded once, to the type of C. A card keeps them in f32 (or f16) in an order of its own:
//! results agree within rounding, not in every bit.

use half::{bf16, f16};
use rayon::prelude::*;

use super::status::{Error, NOT_SUPPORTED};
use crate::fault::{Cause, Fault};
use crate::memory::Global;

/// Element types, by their `cudaDataType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    F16,
    Bf16,
    F32,
    F64,
}

impl Kind {
    pub fn from_code(code: u32) -> Result<Self, Error> {
        Ok(match code {
            2 => Self::F16,
            14 => Self::Bf16,
            0 => Self::F32,
            1 => Self::F64,
            _ => {
                return Err(Error::new(
                    NOT_SUPPORTED,
                    format!("matrices of cudaDataType {code}"),
                ));
            }
        })
    }

    pub fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// The number in the first [`Kind::bytes`] of `bytes`.
    pub fn decode(self, bytes: &[u8]) -> f64 {
        match (self, bytes) {
            (Self::F16, [a, b, ..]) => f16::from_le_bytes([*a, *b]).to_f64(),
            (Self::Bf16, [a, b, ..]) => bf16::from_le_bytes([*a, *b]).to_f64(),
            (Self::F32, [a, b, c, d, ..]) => f64::from(f32::from_le_bytes([*a, *b, *c, *d])),
            (Self::F64, [a, b, c, d, e, f, g, h, ..]) => {
                f64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h])
            }
            _ => f64::NAN,
        }
    }

    fn encode(self, value: f64, to: &mut [u8]) {
        match self {
            Self::F16 => to.copy_from_slice(&f16::from_f64(value).to_le_bytes()),
            Self::Bf16 => to.copy_from_slice(&bf16::from_f64(value).to_le_bytes()),
            Self::F32 => to.copy_from_slice(&(value as f32).to_le_bytes()),
            Self::F64 => to.copy_from_slice(&value.to_le_bytes()),
        }
    }
}

/// A batch of matrices in the device's memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix {
    pub address: u64,
    pub kind: Kind,
    /// Elements from one column to the next.
    pub leading: usize,
    /// Elements from one matrix to the next.
    pub stride: i64,
    /// Whether the product takes it transposed.
    pub transposed: bool,
}

/// A batch of products of m x k by k x n.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gemm {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Matrix,
    pub b: Matrix,
    pub c: Matrix,
    pub alpha: f64,
    pub beta: f64,
    pub batch: usize,
    /// Reads of what nobody wrote are faults.
    pub check: bool,
}

/// Columns of a matrix of `rows` rows, one behind the other.
fn columns(
    memory: &Global,
    matrix: Matrix,
    index: usize,
    (rows, count): (usize, usize),
    check: bool,
) -> Result<Vec<f64>, Fault> {
    let bytes = matrix.kind.bytes();
    let mut values = Vec::with_capacity(rows * count);
    let mut column = vec![0; rows * bytes];
    for i in 0..count {
        let address = matrix.at(index, i);
        if check && let Some(address) = memory.unwritten(address, column.len())? {
            return Err(Cause::Uninitialised {
                space: "global",
                address,
            }
            .into());
        }
        memory.read(address, &mut column)?;
        values.extend(
            column
                .chunks_exact(bytes)
                .map(|element| matrix.kind.decode(element)),
        );
    }
    Ok(values)
}

/// `rows` x `count` values, column by column, to row by row.
fn transpose(values: &[f64], rows: usize, count: usize) -> Vec<f64> {
    (0..rows)
        .flat_map(|row| (0..count).map(move |column| values[column * rows + row]))
        .collect()
}

impl Matrix {
    fn at(&self, index: usize, column: usize) -> u64 {
        let elements = self
            .stride
            .wrapping_mul(index as i64)
            .wrapping_add((self.leading * column) as i64);
        self.address
            .wrapping_add(elements.wrapping_mul(self.kind.bytes() as i64) as u64)
    }
}

impl Gemm {
    /// Does it.
    pub fn run(&self, memory: &Global) -> Result<(), Fault> {
        (0..self.batch).try_for_each(|index| self.product(memory, index))
    }

    fn product(&self, memory: &Global, index: usize) -> Result<(), Fault> {
        let Self {
            m,
            n,
            k,
            a,
            b,
            c,
            check,
            ..
        } = *self;
        // Rows of op(A) and columns of op(B), each with its k values in a row.
        let rows = match a.transposed {
            true => columns(memory, a, index, (k, m), check)?,
            false => transpose(&columns(memory, a, index, (m, k), check)?, m, k),
        };
        let cols = match b.transposed {
            false => columns(memory, b, index, (k, n), check)?,
            true => transpose(&columns(memory, b, index, (n, k), check)?, n, k),
        };
        let before = match self.beta == 0.0 {
            true => Vec::new(),
            false => columns(memory, c, index, (m, n), check)?,
        };
        let bytes = c.kind.bytes();
        (0..n).into_par_iter().try_for_each(|j| {
            let column = &cols[j * k..][..k];
            let mut out = vec![0; m * bytes];
            for (i, element) in out.chunks_exact_mut(bytes).enumerate() {
                let old = before.get(j * m + i).map_or(0.0, |old| self.beta * old);
                c.kind
                    .encode(self.alpha * dot(&rows[i * k..][..k], column) + old, element);
            }
            memory.write(c.at(index, j), &out).map_err(Fault::from)
        })
    }
}

/// Eight sums beside each other, for the vector unit.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (mut sums, tail) = ([0.0; 8], a.len() / 8 * 8);
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        (0..8).for_each(|i| sums[i] += a[i] * b[i]);
    }
    let rest: f64 = a[tail..].iter().zip(&b[tail..]).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn put(memory: &Global, kind: Kind, values: &[f64]) -> u64 {
        let mut bytes = vec![0; values.len() * kind.bytes()];
        bytes
            .chunks_exact_mut(kind.bytes())
            .zip(values)
            .for_each(|(to, value)| kind.encode(*value, to));
        let address = memory.allocate(bytes.len() as u64).unwrap();
        memory.write(address, &bytes).unwrap();
        address
    }

    fn get(memory: &Global, kind: Kind, address: u64, count: usize) -> Vec<f64> {
        let mut bytes = vec![0; count * kind.bytes()];
        memory.read(address, &mut bytes).unwrap();
        bytes
            .chunks_exact(kind.bytes())
            .map(|element| kind.decode(element))
            .collect()
    }

    /// A = [1 2 3; 4 5 6], B = [7 8; 9 10; 11 12]: the product of the textbook, [58 64; 139 154].
    #[test]
    fn all_transpositions_and_types_give_the_product_of_the_textbook() {
        let memory = Global::new(1 << 20);
        for kind in [Kind::F16, Kind::Bf16, Kind::F32, Kind::F64] {
            for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
                let a = if ta {
                    [1., 2., 3., 4., 5., 6.]
                } else {
                    [1., 4., 2., 5., 3., 6.]
                };
                let b = if tb {
                    [7., 8., 9., 10., 11., 12.]
                } else {
                    [7., 9., 11., 8., 10., 12.]
                };
                let matrix = |address, leading, transposed| Matrix {
                    address,
                    kind,
                    leading,
                    stride: 0,
                    transposed,
                };
                let c = put(&memory, kind, &[1., 2., 3., 4.]);
                let gemm = Gemm {
                    m: 2,
                    n: 2,
                    k: 3,
                    a: matrix(put(&memory, kind, &a), if ta { 3 } else { 2 }, ta),
                    b: matrix(put(&memory, kind, &b), if tb { 2 } else { 3 }, tb),
                    c: matrix(c, 2, false),
                    alpha: 0.5,
                    beta: 2.0,
                    batch: 1,
                    check: true,
                };
                gemm.run(&memory).unwrap();
                assert_eq!(
                    get(&memory, kind, c, 4),
                    [31., 73.5, 38., 85.],
                    "{kind:?} {ta} {tb}"
                );
            }
        }
    }

    #[test]
    fn strides_leading_dimensions_and_wide_sums() {
        let memory = Global::new(1 << 20);
        let kind = Kind::F32;
        // Two 1 x 20 rows times one 20 x 1 column of ones, in columns of three elements.
        let values: Vec<f64> = (0..120)
            .map(|i| {
                if i % 3 == 0 {
                    f64::from(i / 3)
                } else {
                    f64::NAN
                }
            })
            .collect();
        let (a, b) = (put(&memory, kind, &values), put(&memory, kind, &[1.0; 20]));
        let c = put(&memory, kind, &[f64::NAN; 2]);
        let matrix = |address, leading, stride| Matrix {
            address,
            kind,
            leading,
            stride,
            transposed: false,
        };
        let gemm = Gemm {
            m: 1,
            n: 1,
            k: 20,
            a: matrix(a, 3, 60),
            b: matrix(b, 20, 0),
            c: matrix(c, 1, 1),
            alpha: 1.0,
            beta: 0.0,
            batch: 2,
            check: true,
        };
        gemm.run(&memory).unwrap();
        assert_eq!(get(&memory, kind, c, 2), [190.0, 590.0]);
        let short = Gemm { k: 21, ..gemm };
        assert!(matches!(
            short.run(&memory),
            Err(Fault {
                cause: Cause::OutOfBounds { .. },
                ..
            })
        ));
    }
}
