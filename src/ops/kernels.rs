//! Which kernels serve a set of weights on a machine, in words.

use safetensors::Dtype;
use serde::Serialize;

use crate::checkpoint::Weights;
use crate::checkpoint::markers::Record;
use crate::numerics::machine::{Level, Machine};

/// The kernels by format, as reports name them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kernels {
    /// FP8 layers, if there are some.
    pub float8_e4m3fn: Option<String>,
    /// The other FP8, if there are such layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub float8_e5m2: Option<String>,
    /// NVFP4 layers, if there are some.
    pub nvfp4: Option<String>,
    /// Attention.
    pub attention: String,
}

/// What multiplies two FP8 operands on `machine`.
pub fn fp8(machine: Machine) -> &'static str {
    match machine.level() {
        Level::Avx512Bf16 => "cpu avx512-bf16: W8A8 by vdpbf16ps",
        Level::Avx512 => "cpu avx512: W8A8 by f32 multiply-adds",
        Level::Avx2 => "cpu avx2: W8A8 by f32 multiply-adds",
        Level::Portable => "cpu portable: W8A8 by f32 loops",
    }
}

/// What multiplies two NVFP4 operands on `machine`.
pub fn nvfp4(machine: Machine) -> &'static str {
    match machine.level() {
        Level::Avx512Bf16 | Level::Avx512 => "cpu avx512-vnni: W4A4 by vpdpbusd",
        Level::Avx2 => "cpu avx2: W4A4 by vpmaddubsw",
        Level::Portable => "cpu portable: W4A4 by f32 loops",
    }
}

/// What multiplies F32 activations with a weight of any format on `machine`.
pub fn weight_only(machine: Machine) -> &'static str {
    match machine.level() {
        Level::Avx512Bf16 | Level::Avx512 => "cpu avx512: weight-only, widened in the cache, f32",
        Level::Avx2 => "cpu avx2: weight-only, widened in the cache, f32",
        Level::Portable => "cpu portable: weight-only, widened in the cache, f32",
    }
}

/// What computes attention and norms.
pub fn attention() -> &'static str {
    match Machine::detect().level() >= Level::Avx2 {
        true => "cpu avx2: tiled online softmax, f32",
        false => "cpu portable: tiled online softmax, f32",
    }
}

/// What computes the convolutions of the VAE.
pub fn convolution() -> &'static str {
    match Machine::detect().level() >= Level::Avx2 {
        true => "cpu avx2: Winograd where it pays, f32",
        false => "cpu portable: Winograd where it pays, f32",
    }
}

impl Kernels {
    /// What is slower here than the format would allow, and why.
    pub fn slower(&self, machine: Machine) -> Vec<&'static str> {
        let mut slower = Vec::new();
        if machine.level() == Level::Portable {
            slower.push(
                "this processor has neither AVX2 nor AVX-512: portable kernels run, which are several times slower",
            );
        }
        if self.float8_e5m2.is_some() {
            slower.push(
                "layers in float8_e5m2 are widened to F32: there is no kernel that multiplies this format",
            );
        }
        slower
    }

    /// Those that serve `weights`: by what their records and [`Activations`] say.
    pub fn of(weights: &Weights, machine: Machine) -> Self {
        let (mut fp8_layers, mut nvfp4_layers) = ([false; 2], [false; 2]);
        let mut e5m2 = false;
        for name in weights.names() {
            let Some(layer) = name.strip_suffix(".weight") else {
                continue;
            };
            let of_layer = weights.pp(layer);
            let record = of_layer.record();
            let quantized = of_layer.quantizes_input(record.is_some_and(Record::quantizes_input));
            let two_dimensional = weights.shape(name).is_some_and(|s| s.len() == 2);
            match weights.dtype(name) {
                _ if weights.is_packed(name) => nvfp4_layers[usize::from(quantized)] = true,
                Some(Dtype::F8_E4M3) if two_dimensional => {
                    fp8_layers[usize::from(quantized)] = true;
                }
                Some(Dtype::F8_E5M2) if two_dimensional => e5m2 = true,
                _ => {}
            }
        }
        let words = |[widened, quantized]: [bool; 2], kernel: &str| {
            let plain = weight_only(machine);
            match (quantized, widened) {
                (true, true) => Some(format!("{kernel}; without a record {plain}")),
                (true, false) => Some(kernel.to_owned()),
                (false, true) => Some(plain.to_owned()),
                (false, false) => None,
            }
        };
        Self {
            float8_e4m3fn: words(fp8_layers, fp8(machine)),
            float8_e5m2: e5m2.then(|| weight_only(machine).to_owned()),
            nvfp4: words(nvfp4_layers, nvfp4(machine)),
            attention: attention().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::checkpoint::Activations;
    use crate::checkpoint::markers::Carrier;

    #[test]
    fn what_runs_follows_records_and_the_users_word() {
        let machine = Machine::at(Level::Portable).unwrap();
        let plain = Weights::in_memory(&[
            ("a.weight", Dtype::F8_E4M3, &[2, 2], vec![0; 4]),
            ("b.weight", Dtype::F8_E5M2, &[2, 2], vec![0; 4]),
            ("c.weight", Dtype::BF16, &[2, 2], vec![0; 8]),
        ])
        .unwrap();
        let found = Kernels::of(&plain, machine);
        assert_eq!(found.float8_e4m3fn.as_deref(), Some(weight_only(machine)));
        assert_eq!(found.nvfp4, None);
        assert_eq!(found.slower(machine).len(), 2);
        let mut records = std::collections::BTreeMap::new();
        let record = Record {
            format: "float8_e4m3fn".to_owned(),
            full_precision_matrix_mult: false,
            carrier: Carrier::Metadata,
        };
        records.insert("a".to_owned(), record);
        let marked = plain.marked(records);
        let found = Kernels::of(&marked, machine);
        assert_eq!(found.float8_e4m3fn.as_deref(), Some(fp8(machine)));
        let found = Kernels::of(&marked.with_activations(Activations::None), machine);
        assert_eq!(found.float8_e4m3fn.as_deref(), Some(weight_only(machine)));
    }
}
