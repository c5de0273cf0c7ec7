//! Every kernel against its definition, in well under a second: what `doctor` runs on a user's machine.
//!
//! Where the definition fixes every rounding the kernel has to give the same bits ([`exact`]); elsewhere the definition is
//! computed in F64 and the difference is held against the size of what was added ([`close`]).

mod close;
mod exact;

use candle_core::{Device, Tensor};

use super::kernels;
use super::linear::Linear;
use crate::checkpoint::{Stored, Weights};
use crate::context::Cx;
use crate::numerics::machine::Machine;

/// Why a kernel gave no result.
type Failure = Box<dyn std::error::Error + Send + Sync>;
/// The largest difference from the definition: 0 for the same bits.
type Outcome = Result<f64, Failure>;

/// What became of one kernel.
#[derive(Clone, Debug)]
pub struct Check {
    /// What it computes.
    pub operation: &'static str,
    /// What computes it on this machine.
    pub kernel: &'static str,
    /// The largest difference from the definition, relative to the sum of magnitudes; or why there is none.
    pub difference: Result<f64, String>,
    /// The largest that is sound: 0 for the same bits.
    pub allowed: f64,
}

impl Check {
    fn of(operation: &'static str, kernel: &'static str, allowed: f64, outcome: Outcome) -> Self {
        Self {
            operation,
            kernel,
            difference: outcome.map_err(|e| e.to_string()),
            allowed,
        }
    }

    /// Whether the kernel computes what it should.
    pub fn is_sound(&self) -> bool {
        // A NaN is not below anything.
        matches!(self.difference, Ok(d) if d <= self.allowed)
    }
}

/// Rows, outputs and inputs of the layers that are tried: tile edges in every direction, several chunks of K.
const M: usize = 29;
const N: usize = 97;
const K: usize = 624;

/// Checks every kernel that `machine` uses.
pub fn all(machine: Machine) -> Vec<Check> {
    let (fp8, nvfp4) = (kernels::fp8(machine), kernels::nvfp4(machine));
    let (plain, attention) = (kernels::weight_only(machine), kernels::attention());
    let compiled = "cpu: vectors of the compiler";
    vec![
        Check::of("NVFP4 linear", nvfp4, 0.0, exact::nvfp4_linear(machine)),
        Check::of("FP8 linear", fp8, 0.0, exact::fp8_linear(machine)),
        Check::of("NVFP4 quantizer", compiled, 0.0, exact::nvfp4_quantizer()),
        Check::of("FP8 quantizer", compiled, 0.0, exact::fp8_quantizer()),
        Check::of(
            "linear of F32 activations",
            plain,
            2e-6,
            close::weight_only(machine),
        ),
        Check::of("attention", attention, 2e-6, close::attention()),
        Check::of(
            "convolution",
            kernels::convolution(),
            2e-6,
            close::convolution(),
        ),
        Check::of(
            "layer norm and modulation",
            compiled,
            1e-5,
            close::layer_norm(),
        ),
        Check::of("GELU", compiled, 1e-5, close::gelu()),
    ]
}

/// Numbers between -1 and 1 without a pattern.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mixed = (0..n as u32).map(|i| (i ^ seed).wrapping_mul(2_654_435_761) >> 8);
    mixed.map(|v| v as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// E4M3 codes without a pattern and without NaN.
fn codes(n: usize, seed: u32) -> Vec<u8> {
    let mixed = (0..n as u32).map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 16) as u8);
    mixed
        .map(|c| if c & 0x7f == 0x7f { 0 } else { c })
        .collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// What a layer of `tensors` makes of `x`.
fn layer(tensors: &[Stored<'_>], x: &[f32], machine: Machine) -> Result<Vec<f32>, Failure> {
    let layer = Linear::load(&Weights::in_memory(tensors)?.pp("l"), N, K, false)?;
    let cx = Cx {
        machine,
        ..Cx::default()
    };
    let x = Tensor::from_slice(x, (M, K), &Device::Cpu)?;
    Ok(layer.forward(&x, &cx)?.flatten_all()?.to_vec1()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics::machine::Level;

    #[test]
    fn every_kernel_of_this_machine_is_sound() {
        for machine in Level::ALL.into_iter().filter_map(Machine::at) {
            let checks = all(machine);
            assert_eq!(checks.len(), 9);
            for check in checks {
                assert!(check.is_sound(), "{}: {check:?}", machine.level());
            }
        }
    }

    /// A check that cannot fail proves nothing.
    #[test]
    fn a_difference_and_a_nan_are_seen() {
        assert!(exact::difference_of_bits(&[1.0, 2.0], &[1.0, 2.000_001]) > 0.0);
        assert!(exact::difference_of_bits(&[0.0], &[-0.0]) > 0.0);
        let nan = close::largest(&[1.0, f32::NAN, 1.0], [(1.0, 1.0); 3].into_iter());
        let check = |outcome| Check::of("", "", 1.0, outcome);
        assert!(nan.is_nan() && !check(Ok(nan)).is_sound());
        assert!(check(Ok(1.0)).is_sound() && !check(Err("no memory".into())).is_sound());
        assert!(close::largest(&[1.0, 1.1], [(1.0, 1.0); 2].into_iter()) > 0.09);
    }
}
