//! What the tests of the row kernels share: numbers, buffers, and the quantizers by their definitions.

#![allow(dead_code)]

#[path = "../common/mod.rs"]
mod common;

use std::ops::Deref;
use std::sync::Arc;

use common::emulator;
use cudarc::driver::{CudaSlice, CudaStream, CudaView, DeviceRepr, ValidAsZeroBits};
use half::bf16;
use qwen_nvfp4_kernels::{Gpu, layout};

/// A card of the emulator. One at a time in a test: the card is a setting of the thread.
pub struct Card {
    gpu: Gpu,
    _until_dropped: emulator::Settings,
}

impl Deref for Card {
    type Target = Gpu;

    fn deref(&self) -> &Gpu {
        &self.gpu
    }
}

pub fn gpu(card: &str) -> Card {
    gpu_with_seed(card, 0)
}

/// The seed sets the order in which warps run.
pub fn gpu_with_seed(card: &str, seed: u64) -> Card {
    let context = emulator::context();
    let settings = emulator::settings(&[("card", card), ("seed", &seed.to_string())]);
    Card {
        gpu: Gpu::of_context(context).unwrap(),
        _until_dropped: settings,
    }
}

/// Splitmix64: numbers that look random and are the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [-1, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// About normal, variance 1: the sum of twelve uniform numbers, halved.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() / 2.0
    }

    pub fn bf16s(&mut self, len: usize, scale: f64) -> Vec<bf16> {
        (0..len)
            .map(|_| bf16::from_f64(self.normal() * scale))
            .collect()
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.bits() as u8).collect()
    }
}

pub fn up<T: DeviceRepr + Clone>(stream: &Arc<CudaStream>, values: &[T]) -> CudaSlice<T> {
    stream.clone_htod(values).unwrap()
}

pub fn down<T: DeviceRepr + Default + Clone>(
    stream: &Arc<CudaStream>,
    values: &CudaView<'_, T>,
) -> Vec<T> {
    stream.clone_dtoh(values).unwrap()
}

pub fn zeros<T: DeviceRepr + ValidAsZeroBits>(
    stream: &Arc<CudaStream>,
    len: usize,
) -> CudaSlice<T> {
    stream.alloc_zeros(len).unwrap()
}

/// The numbers of E4M3 without sign, by code, from the definition (OCP FP8: four exponent bits with bias 7, three bits of
/// mantissa, no infinities).
pub fn e4m3_values() -> [f64; 127] {
    std::array::from_fn(|code| minifloat(code, 3, 7))
}

/// The numbers of E2M1 without sign, by code, from the definition (OCP MX: two exponent bits with bias 1, one bit of
/// mantissa).
pub fn e2m1_values() -> [f64; 8] {
    std::array::from_fn(|code| minifloat(code, 1, 1))
}

fn minifloat(code: usize, mantissa_bits: u32, bias: i32) -> f64 {
    let (exponent, mantissa) = (code >> mantissa_bits, code % (1 << mantissa_bits));
    let fraction = mantissa as f64 / f64::from(1 << mantissa_bits);
    match exponent {
        0 => fraction * 2f64.powi(1 - bias),
        _ => (1.0 + fraction) * 2f64.powi(exponent as i32 - bias),
    }
}

/// The code nearest to `x`, of two the even one, the last one beyond the end; the sign above all value bits.
pub fn nearest(values: &[f64], x: f32) -> u8 {
    let a = f64::from(x.abs());
    let above = values.partition_point(|v| *v < a);
    let code = match above {
        0 => 0,
        _ if above == values.len() => above - 1,
        _ => {
            let (low, high) = (a - values[above - 1], values[above] - a);
            if low < high || (low == high && above % 2 == 1) {
                above - 1
            } else {
                above
            }
        }
    };
    let sign = if values.len() == 8 { 8 } else { 0x80 };
    code as u8 | if x.is_sign_negative() { sign } else { 0 }
}

/// E4M3 by its definition: `x * (1 / scale)`, each rounded to f32.
pub fn e4m3(x: &[bf16], scale: f32) -> Vec<u8> {
    let values = e4m3_values();
    let reciprocal = 1.0 / scale;
    x.iter()
        .map(|x| nearest(&values, x.to_f32() * reciprocal))
        .collect()
}

/// NVFP4 of rows of `k` by its definition (comfy-kitchen's order of operations): packed codes, row-major scales.
pub fn nvfp4(x: &[bf16], scale: f32) -> (Vec<u8>, Vec<u8>) {
    let (e4m3, e2m1) = (e4m3_values(), e2m1_values());
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for block in x.chunks(16) {
        let most = block
            .iter()
            .fold(0f32, |most, x| most.max(x.to_f32().abs()));
        let code = nearest(&e4m3, (most / 6.0 / scale).min(448.0));
        let total = scale * e4m3[usize::from(code)] as f32;
        scales.push(code);
        let code = |x: &bf16| match total {
            0.0 => 0,
            _ => nearest(&e2m1, x.to_f32() / total),
        };
        codes.extend(
            block
                .chunks(2)
                .map(|pair| code(&pair[0]) << 4 | code(&pair[1])),
        );
    }
    (codes, scales)
}

/// [`nvfp4`] with the scales in lane order.
pub fn nvfp4_lanes(x: &[bf16], k: usize, scale: f32) -> (Vec<u8>, Vec<u8>) {
    let (codes, scales) = nvfp4(x, scale);
    let lanes = layout::lane_order_from_rows(&scales, x.len() / k, k).unwrap();
    (codes, lanes)
}

/// Where two buffers differ first.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: &[T], expected: &[T]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let differ = got.iter().zip(expected).position(|(a, b)| a != b);
    if let Some(at) = differ {
        panic!("{what}: at {at} {:?}, expected {:?}", got[at], expected[at]);
    }
}
