//! Matrix products of activations with a stored weight, in the arithmetic of the weight's format.
//!
//! [`driver`] has the loops, each format its definition, its activations and its portable kernel ([`float`], [`fp8`],
//! [`nvfp4`]), each `_x86` the same kernel in AVX2 and AVX-512. [`fp8`] on machines without BF16 products is [`float`] over
//! the numbers that its codes stand for.

pub(crate) mod driver;
pub(crate) mod float;
#[cfg(target_arch = "x86_64")]
mod float_x86;
pub mod fp8;
#[cfg(target_arch = "x86_64")]
mod fp8_x86;
pub mod nvfp4;
#[cfg(target_arch = "x86_64")]
mod nvfp4_x86;
mod transpose;

/// An activation that is no number.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("its input is {value} in row {row}, column {column}")]
pub struct NonFinite {
    /// NaN or an infinity.
    pub value: f32,
    /// Row of the activations.
    pub row: usize,
    /// Column of K.
    pub column: usize,
}

#[cfg(test)]
mod tests;
