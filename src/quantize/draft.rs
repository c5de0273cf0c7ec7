//! A plan in the making: one weight after the other finds its format, its companions and its names.

use std::collections::BTreeMap;

use safetensors::Dtype;
use serde_json::json;

use super::audit::Audit;
use super::calibration::Calibration;
use super::error::ConvertError;
use super::plan::{Keys, LayerPlan, Marker, Options, Plan, Step};
use super::policy::{Decision, Policy, Target};
use super::source::{Format, Layer, Other, Source};
use crate::checkpoint::markers::{INPUT_SCALE, METADATA, RECORD, WEIGHT_SCALE, WEIGHT_SCALE_2};
use crate::checkpoint::{ComfyNames, Component, Layout, NewTensor, TensorView};
use crate::numerics::nvfp4::BLOCK;
use crate::numerics::swizzle;

/// Metadata key under which an output says how it was made.
const PROVENANCE: &str = "qwen_nvfp4.convert";
/// The largest number of FP8 E4M3.
const FP8_MAX: f64 = 448.0;
/// The largest number of NVFP4: the largest block scale times the largest code.
const NVFP4_MAX: f64 = 448.0 * 6.0;

/// The state between [`Draft::new`] and [`Draft::finish`].
pub(super) struct Draft<'a> {
    policy: &'a Policy,
    calibration: Option<&'a Calibration>,
    options: &'a Options,
    comfy: ComfyNames,
    /// Format by output layer name, for the metadata.
    formats: BTreeMap<String, &'static str>,
    audit: Audit,
    plan: Plan,
}

impl<'a> Draft<'a> {
    pub fn new(
        source: &Source,
        policy: &'a Policy,
        calibration: Option<&'a Calibration>,
        options: &'a Options,
    ) -> Self {
        let vae = source.others.iter().map(|o| o.canonical.as_str());
        Self {
            policy,
            calibration,
            options,
            comfy: ComfyNames::of(vae),
            formats: BTreeMap::new(),
            audit: Audit::default(),
            plan: Plan {
                method: options.method,
                layers: Vec::new(),
                counts: Default::default(),
                outputs: Vec::new(),
                steps: Vec::new(),
                metadata: source.metadata(),
                bytes_in: source.bytes(),
                bytes_out: 0,
                notes: Vec::new(),
            },
        }
    }

    /// Decides about a two-dimensional weight.
    pub fn layer(&mut self, layer: &Layer) -> Result<(), ConvertError> {
        let decision = self.policy.decide(layer.weight.name());
        let to = match (&decision.target, &layer.format) {
            (Target::Foreign(word), _) => {
                return Err(layer.refuse(format!(
                    "{} asks for `{word}`, which cannot be written; keep, float8_e4m3fn and nvfp4 can",
                    decision.rule.as_deref().unwrap_or_default()
                )));
            }
            (Target::Fp8, Format::Nvfp4) => {
                return Err(layer.refuse(
                    "the policy asks for FP8 but it is NVFP4; convert the file that this one was made of".to_owned(),
                ));
            }
            (_, Format::Nvfp4) => self.keep_nvfp4(layer),
            (Target::Nvfp4, _) => self.make_nvfp4(layer)?,
            (Target::Fp8, Format::E4m3) if !self.options.requantize_fp8 => self.keep_fp8(layer),
            (Target::Fp8, _) => self.make_fp8(layer),
            (Target::Keep, Format::E4m3 | Format::E5m2) => self.keep_fp8(layer),
            (Target::Keep, Format::Dense(_)) => {
                self.copy(&layer.weight, self.name(layer, "weight"));
                layer.format.word()
            }
        };
        self.count(layer, &decision, to);
        Ok(())
    }

    /// Any other tensor goes over as it is, but for FP8: biases, norms and convolutions become BF16, which ComfyUI makes
    /// of them anyway and which holds them exactly.
    pub fn other(&mut self, other: &Other) {
        let name = match (self.options.keys, other.component) {
            (Keys::Keep, _) | (_, None) => other.view.name().to_owned(),
            (Keys::Diffusers, Some(_)) => other.canonical.clone(),
            (Keys::Comfy, Some(component)) => self.comfy.name(component, &other.canonical),
        };
        let name = self.policy.rename(&name);
        if !matches!(other.view.dtype(), Dtype::F8_E4M3 | Dtype::F8_E5M2) {
            return self.copy(&other.view, name);
        }
        let to = self.output(name, Dtype::BF16, other.view.shape());
        let view = other.view.clone();
        self.plan.steps.push(Step::Widen { view, to });
    }

    /// Metadata, sizes, and a last look: no two tensors of one name.
    pub fn finish(mut self, source: &Source) -> Result<Plan, ConvertError> {
        if self.plan.outputs.is_empty() {
            return Err(ConvertError::Request(format!(
                "{} has nothing to convert among the components asked for",
                source.path.display()
            )));
        }
        let mut names: Vec<&str> = self.plan.outputs.iter().map(|o| o.name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ConvertError::Request(format!(
                "two tensors would be called `{}`; choose other --keys",
                pair[0]
            )));
        }
        if self.options.marker != Marker::ComfyQuant {
            let layers: serde_json::Map<_, _> = self
                .formats
                .iter()
                .map(|(layer, format)| (layer.clone(), json!({ "format": format })))
                .collect();
            let text = json!({ "format_version": "1.0", "layers": layers }).to_string();
            self.plan.metadata.insert(METADATA.to_owned(), text);
        }
        let name = source.path.file_name().unwrap_or(source.path.as_os_str());
        let provenance = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "source": name.to_string_lossy(),
            "policy": self.policy.name,
            "method": format!("{:?}", self.options.method).to_lowercase(),
            "requantize_fp8": self.options.requantize_fp8,
            "calibration": self.calibration.map(|c| json!({ "name": c.name, "stat": c.stat })),
        });
        self.plan
            .metadata
            .insert(PROVENANCE.to_owned(), provenance.to_string());
        for key in &self.policy.unknown_keys {
            self.plan.notes.push(format!(
                "the policy's `{key}` is not known and does nothing"
            ));
        }
        if let Some(calibration) = self.calibration {
            let said = self.audit.finish(calibration);
            self.plan
                .notes
                .extend(said.map_err(ConvertError::Calibration)?);
        }
        let layout = Layout::of(self.plan.outputs.clone(), &self.plan.metadata)?;
        self.plan.bytes_out = layout.file_len();
        Ok(self.plan)
    }

    fn count(&mut self, layer: &Layer, decision: &Decision, to: &'static str) {
        let counts = &mut self.plan.counts;
        let mut rule = decision.rule.clone();
        match (to, &decision.target, layer.component) {
            ("nvfp4", ..) => counts.nvfp4 += 1,
            ("float8_e4m3fn", Target::Fp8, _) => counts.float8_e4m3fn += 1,
            ("float8_e4m3fn", _, Component::TextEncoder) => counts.float8_e4m3fn += 1,
            ("float8_e4m3fn", ..) => {
                counts.recorded_only += 1;
                rule = rule.or(Some("no rule; recorded so that it stays FP8".to_owned()));
            }
            _ => counts.kept += 1,
        }
        self.plan.layers.push(LayerPlan {
            name: self.name(layer, ""),
            shape: layer.shape(),
            from: layer.format.word(),
            to,
            rule: rule.unwrap_or_else(|| "no rule".to_owned()),
        });
    }

    fn make_nvfp4(&mut self, layer: &Layer) -> Result<&'static str, ConvertError> {
        let (n, k) = (layer.weight.shape()[0], layer.weight.shape()[1]);
        if layer.component == Component::Transformer && layer.canonical == "img_in" {
            return Err(layer.refuse(
                "`img_in` must not be NVFP4: ComfyUI reads the number of channels from its stored shape; give it a keep rule".to_owned(),
            ));
        }
        if n == 0 || k == 0 || !n.is_multiple_of(BLOCK) || !k.is_multiple_of(BLOCK) {
            return Err(layer.refuse(format!(
                "NVFP4 needs both sides to be multiples of 16, it is {n} x {k}; give it a keep or float8_e4m3fn rule"
            )));
        }
        let to = [
            self.output(self.name(layer, "weight"), Dtype::U8, &[n, k / 2]),
            self.output(
                self.name(layer, WEIGHT_SCALE[0]),
                Dtype::F8_E4M3,
                &swizzle::padded(n, k / BLOCK),
            ),
            self.output(self.name(layer, WEIGHT_SCALE_2), Dtype::F32, &[]),
        ];
        self.plan.steps.push(Step::Nvfp4 {
            view: layer.weight.clone(),
            weight_scale: layer.weight_scale.unwrap_or(1.0),
            layer: self.plan.layers.len(),
            to,
        });
        Ok(self.mark(layer, "nvfp4"))
    }

    fn make_fp8(&mut self, layer: &Layer) -> &'static str {
        let to = [
            self.output(
                self.name(layer, "weight"),
                Dtype::F8_E4M3,
                layer.weight.shape(),
            ),
            self.output(self.name(layer, WEIGHT_SCALE[0]), Dtype::F32, &[]),
        ];
        self.plan.steps.push(Step::Fp8 {
            view: layer.weight.clone(),
            weight_scale: layer.weight_scale.unwrap_or(1.0),
            layer: self.plan.layers.len(),
            to,
        });
        self.mark(layer, "float8_e4m3fn")
    }

    fn keep_fp8(&mut self, layer: &Layer) -> &'static str {
        self.copy(&layer.weight, self.name(layer, "weight"));
        self.number(
            self.name(layer, WEIGHT_SCALE[0]),
            layer.weight_scale.unwrap_or(1.0),
        );
        self.mark(layer, layer.format.word())
    }

    fn keep_nvfp4(&mut self, layer: &Layer) -> &'static str {
        self.copy(&layer.weight, self.name(layer, "weight"));
        if let Some((scales, scale_2)) = &layer.nvfp4 {
            self.copy(scales, self.name(layer, WEIGHT_SCALE[0]));
            self.number(self.name(layer, WEIGHT_SCALE_2), *scale_2);
        }
        self.mark(layer, "nvfp4")
    }

    /// Activation scale and record of a layer that is stored in `format`.
    fn mark(&mut self, layer: &Layer, format: &'static str) -> &'static str {
        if let Some(scale) = self.input_scale(layer, format) {
            self.number(self.name(layer, INPUT_SCALE[0]), scale);
        }
        if self.options.marker != Marker::Metadata || layer.full_precision {
            // The separators of Python's json.dumps, as everybody writes it.
            let record = match layer.full_precision {
                true => {
                    format!("{{\"format\": \"{format}\", \"full_precision_matrix_mult\": true}}")
                }
                false => format!("{{\"format\": \"{format}\"}}"),
            };
            let name = self.name(layer, RECORD);
            self.bytes(name, Dtype::U8, &[record.len()], record.into_bytes());
        }
        self.formats.insert(self.name(layer, ""), format);
        format
    }

    /// The calibration's range, else what the source says, for the format that the layer gets.
    fn input_scale(&mut self, layer: &Layer, format: &str) -> Option<f32> {
        let nvfp4 = format == "nvfp4";
        let largest = if nvfp4 { NVFP4_MAX } else { FP8_MAX };
        let calibrated = match (layer.component, self.calibration) {
            (Component::Transformer, Some(c)) => self.audit.range(c, &layer.canonical, nvfp4),
            _ => None,
        };
        let amax = match (calibrated, layer.input_scale, &layer.format) {
            (Some(amax), ..) => f64::from(amax),
            (None, Some(scale), source) if source.word() == format => return Some(scale),
            (None, Some(scale), _) => f64::from(scale) * FP8_MAX,
            (None, None, _) => return None,
        };
        Some((amax / largest) as f32)
    }

    /// The output name of a layer's tensor; with an empty `part`, of the layer.
    fn name(&self, layer: &Layer, part: &str) -> String {
        let dot = if part.is_empty() { "" } else { "." };
        let canonical = format!("{}{dot}{part}", layer.canonical);
        let name = match self.options.keys {
            Keys::Keep => format!("{}{dot}{part}", layer.stored),
            Keys::Diffusers => canonical,
            Keys::Comfy => self.comfy.name(layer.component, &canonical),
        };
        self.policy.rename(&name)
    }

    fn copy(&mut self, view: &TensorView, name: String) {
        let to = self.output(name, view.dtype(), view.shape());
        let view = view.clone();
        self.plan.steps.push(Step::Copy { view, to });
    }

    fn number(&mut self, name: String, value: f32) {
        self.bytes(name, Dtype::F32, &[], value.to_le_bytes().to_vec());
    }

    fn bytes(&mut self, name: String, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) {
        let to = self.output(name, dtype, shape);
        self.plan.steps.push(Step::Bytes { bytes, to });
    }

    fn output(&mut self, name: String, dtype: Dtype, shape: &[usize]) -> usize {
        self.plan.outputs.push(NewTensor {
            name,
            dtype,
            shape: shape.to_vec(),
        });
        self.plan.outputs.len() - 1
    }
}
