//! What works but could be better, counted per component.

use std::collections::BTreeMap;

use safetensors::Dtype;

use super::fault::{FaultKind, Findings};
use crate::checkpoint::gather::Opened;
use crate::checkpoint::markers::{Carrier, INPUT_SCALE, Markers, Record};
use crate::checkpoint::{Component, Names, TensorView};

/// Advises about every component.
pub(super) fn check(opened: &Opened, markers: &Markers, found: &mut Findings) {
    for (component, tensors) in &opened.tensors {
        let part = Part {
            component: *component,
            tensors,
            markers,
        };
        part.unrecorded_fp8(found);
        part.e5m2(found);
        part.fp8_biases(found);
        if *component == Component::Transformer {
            part.no_input_scale(found);
            if opened.tensors.len() == 1 {
                part.metadata_only(found);
            }
        }
    }
}

struct Part<'a> {
    component: Component,
    /// By canonical name.
    tensors: &'a BTreeMap<String, TensorView>,
    markers: &'a Markers,
}

impl Part<'_> {
    fn record(&self, view: &TensorView) -> Option<&Record> {
        self.markers.record(view.name().strip_suffix(".weight")?)
    }

    /// Whether any layer of the component has a record: then ComfyUI builds it for mixed formats.
    fn is_mixed(&self) -> bool {
        self.tensors
            .values()
            .any(|view| self.record(view).is_some())
    }

    /// How many of the tensors `is_meant` holds for, and the first of them; nothing where there is none.
    fn advise(
        &self,
        kind: FaultKind,
        is_meant: impl Fn(&str, &TensorView) -> bool,
        message: impl Fn(usize, Component) -> String,
        found: &mut Findings,
    ) {
        let mut meant = self
            .tensors
            .iter()
            .filter(|(name, view)| is_meant(name, view));
        if let Some((_, first)) = meant.next() {
            let count = 1 + meant.count();
            found.advise(first.name(), kind, message(count, self.component));
        }
    }

    /// FP8 linears without a record are right but take twice the memory, once others have records.
    fn unrecorded_fp8(&self, found: &mut Findings) {
        if !self.is_mixed() {
            return;
        }
        let is_meant = |name: &str, view: &TensorView| {
            matches!(view.dtype(), Dtype::F8_E4M3 | Dtype::F8_E5M2)
                && view.shape().len() == 2
                && name.ends_with(".weight")
                && !name.ends_with("embed_tokens.weight")
                && self.record(view).is_none()
        };
        let message = |count, component| {
            format!(
                "{count} FP8 linears of the {component} have no record while others have one: ComfyUI widens them to BF16, which takes twice the memory; convert again to record them"
            )
        };
        self.advise(FaultKind::UnrecordedFp8, is_meant, message, found);
    }

    fn e5m2(&self, found: &mut Findings) {
        let is_meant = |_: &str, view: &TensorView| view.dtype() == Dtype::F8_E5M2;
        let message = |count, component| {
            format!(
                "{count} tensors of the {component} are E5M2, which keeps 2 bits of mantissa where E4M3 keeps 3; an E4M3 or BF16 version of the model gives better pictures"
            )
        };
        self.advise(FaultKind::E5m2, is_meant, message, found);
    }

    fn fp8_biases(&self, found: &mut Findings) {
        let is_meant = |name: &str, view: &TensorView| {
            let weight = name
                .strip_suffix(".bias")
                .and_then(|layer| self.tensors.get(&format!("{layer}.weight")));
            matches!(view.dtype(), Dtype::F8_E4M3 | Dtype::F8_E5M2)
                && weight.is_some_and(|weight| self.record(weight).is_some())
        };
        let message = |count, component| {
            format!(
                "{count} quantized layers of the {component} have FP8 biases, and some builds of ComfyUI say `Bias must be BFloat16 or Half`; convert again to store them as BF16"
            )
        };
        self.advise(FaultKind::Fp8Bias, is_meant, message, found);
    }

    /// NVFP4 without `input_scale` measures its input; FP8 takes the scale 1.
    fn no_input_scale(&self, found: &mut Findings) {
        let is_meant = |name: &str, view: &TensorView| {
            let has = |part: &str| {
                let layer = name.strip_suffix("weight").unwrap_or(name);
                self.tensors.contains_key(&format!("{layer}{part}"))
            };
            self.record(view).is_some_and(|record| {
                record.format.starts_with("float8") && !record.full_precision_matrix_mult
            }) && !INPUT_SCALE.iter().any(|part| has(part))
        };
        let message = |count, component| {
            format!(
                "{count} FP8 layers of the {component} have no `input_scale`: ComfyUI then cuts their input off at 448, and Qwen-Image has larger numbers; convert again with --calib"
            )
        };
        self.advise(FaultKind::NoInputScale, is_meant, message, found);
    }

    fn metadata_only(&self, found: &mut Findings) {
        let is_meant = |_: &str, view: &TensorView| {
            Names::has_prefix(view.name())
                && self
                    .record(view)
                    .is_some_and(|record| record.carrier == Carrier::Metadata)
        };
        let message = |count, component| {
            format!(
                "the formats of {count} layers of the {component} stand in the metadata only, and its names have a prefix: Load Diffusion Model of older ComfyUI loses them and fails; convert again with --marker comfy_quant"
            )
        };
        self.advise(FaultKind::MetadataOnly, is_meant, message, found);
    }
}
