//! What there is to convert: every two-dimensional weight with its format and scales, and every other tensor.
//!
//! Companions of a weight (scales, records, the legacy marker) are taken in here under every spelling and written anew
//! by the plan; nothing else is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use safetensors::Dtype;

use super::calibration::Calibration;
use super::companions::Companions;
use super::error::ConvertError;
use crate::checkpoint::fingerprint;
use crate::checkpoint::gather::{Opened, Strictness};
use crate::checkpoint::markers::{self, METADATA, Markers};
use crate::checkpoint::{Component, SafetensorsFile, TensorView};

/// How a weight is stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// F32, F16 or BF16.
    Dense(Dtype),
    /// FP8 E4M3.
    E4m3,
    /// FP8 E5M2.
    E5m2,
    /// NVFP4.
    Nvfp4,
}

impl Format {
    /// The word for it in plans and records.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Dense(Dtype::F32) => "f32",
            Self::Dense(Dtype::F16) => "f16",
            Self::Dense(_) => "bf16",
            Self::E4m3 => "float8_e4m3fn",
            Self::E5m2 => "float8_e5m2",
            Self::Nvfp4 => "nvfp4",
        }
    }
}

/// A two-dimensional weight and what stands beside it.
pub struct Layer {
    /// Where it belongs.
    pub component: Component,
    /// Its stored name without `.weight`.
    pub stored: String,
    /// Its name in the component.
    pub canonical: String,
    /// The numbers.
    pub weight: TensorView,
    /// How they are stored.
    pub format: Format,
    /// Multiplies FP8 numbers, where the file says so.
    pub weight_scale: Option<f32>,
    /// Static activation scale, where the file brings one.
    pub input_scale: Option<f32>,
    /// NVFP4: block scales and the tensor's scale.
    pub nvfp4: Option<(TensorView, f32)>,
    /// Whether its record forbids quantized products (`full_precision_matrix_mult`).
    pub full_precision: bool,
}

impl Layer {
    /// `[out, in]`, unpacked.
    pub fn shape(&self) -> Vec<usize> {
        let mut shape = self.weight.shape().to_vec();
        if let (Format::Nvfp4, Some(last)) = (&self.format, shape.last_mut()) {
            *last *= 2;
        }
        shape
    }

    /// The error that this layer cannot be converted as asked.
    pub fn refuse(&self, reason: String) -> ConvertError {
        ConvertError::Layer {
            path: self.weight.file().path().to_owned(),
            layer: self.stored.clone(),
            reason,
        }
    }
}

/// Any other tensor.
pub struct Other {
    /// Where it belongs, if its name is known.
    pub component: Option<Component>,
    /// Its name in the component; its stored name where it belongs to none.
    pub canonical: String,
    /// Its bytes.
    pub view: TensorView,
}

/// A checkpoint as something to convert. It may lack components.
pub struct Source {
    /// What was opened.
    pub path: PathBuf,
    /// Two-dimensional weights, sorted by stored name.
    pub layers: Vec<Layer>,
    /// All other tensors but companions, sorted by stored name.
    pub others: Vec<Other>,
    files: Vec<std::sync::Arc<SafetensorsFile>>,
    /// What lay beside the weights, see `Opened::carried`.
    carried: BTreeMap<String, String>,
}

impl Source {
    /// Opens a file, a folder or an index of shards and reads every header, marker and scale.
    ///
    /// # Errors
    /// What cannot be opened; markers that cannot be read or contradict each other; scales that are not positive numbers.
    pub fn open(path: &Path) -> Result<Self, ConvertError> {
        Self::of(Opened::open(path, Strictness::Whole)?, path)
    }

    /// The model inside of the program.
    ///
    /// # Errors
    /// None that a build which passes its tests can meet.
    pub fn embedded() -> Result<Self, ConvertError> {
        Self::of(Opened::embedded()?, Path::new("tiny"))
    }

    fn of(opened: Opened, path: &Path) -> Result<Self, ConvertError> {
        let stored: BTreeMap<&str, &TensorView> = opened
            .tensors
            .values()
            .flat_map(BTreeMap::values)
            .map(|view| (view.name(), view))
            .collect();
        let markers = Markers::read(&opened);
        let (mut layers, mut others) = (Vec::new(), Vec::new());
        for (component, tensors) in &opened.tensors {
            for (canonical, view) in tensors {
                if is_companion(view.name(), &stored) {
                    continue;
                }
                let layer = view.name().strip_suffix(".weight");
                let record = layer.and_then(|layer| markers.record(layer));
                match (layer, canonical.strip_suffix(".weight")) {
                    (Some(layer), Some(canonical))
                        if view.shape().len() == 2 && (is_float(view) || record.is_some()) =>
                    {
                        let found = Companions {
                            stored: &stored,
                            layer,
                            view,
                        };
                        layers.push(found.layer(*component, canonical, record)?);
                    }
                    _ => others.push(Other {
                        component: Some(*component),
                        canonical: canonical.clone(),
                        view: view.clone(),
                    }),
                }
            }
        }
        for file in &opened.files {
            for view in opened.unknown.iter().filter_map(|name| file.view(name)) {
                others.push(Other {
                    component: None,
                    canonical: view.name().to_owned(),
                    view,
                });
            }
        }
        layers.sort_by(|a, b| a.stored.cmp(&b.stored));
        others.sort_by(|a, b| a.view.name().cmp(b.view.name()));
        Ok(Self {
            path: path.to_owned(),
            layers,
            others,
            carried: opened.carried()?,
            files: opened.files,
        })
    }

    /// What a calibration of the transformer belongs to: `Checkpoint::transformer_fingerprint`.
    pub fn transformer_fingerprint(&self) -> String {
        let layers = self.transformer_layers();
        let weights: BTreeMap<_, _> = layers
            .map(|l| (l.canonical.clone(), l.weight.clone()))
            .collect();
        fingerprint::of_weights(weights.into_iter())
    }

    /// Layers of the transformer.
    pub fn transformer_layers(&self) -> impl Iterator<Item = &Layer> {
        let layers = self.layers.iter();
        layers.filter(|l| l.component == Component::Transformer)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.len() as u64).sum()
    }

    /// The files.
    pub fn files(&self) -> &[std::sync::Arc<SafetensorsFile>] {
        &self.files
    }

    /// Metadata of all files and what lay beside them (configurations, a tokenizer of its own), without what describes the
    /// source's formats, which are not the output's.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        let beside = self.carried.clone().into_iter();
        let all = beside.chain(self.files.iter().flat_map(|file| file.metadata().clone()));
        all.filter(|(key, _)| key != METADATA).collect()
    }

    /// Whether it has FP8 weights and none of them has a scale, as in Qwen-Rapid-AIO: then they are the weights themselves. Where
    /// only some lack one, those were lost.
    pub fn is_unscaled(&self) -> bool {
        let fp8 = |l: &&Layer| matches!(l.format, Format::E4m3 | Format::E5m2);
        let mut fp8 = self.layers.iter().filter(fp8).peekable();
        fp8.peek().is_some() && fp8.all(|l| l.weight_scale.is_none())
    }

    /// Refuses FP8 weights without a scale: whether that means 1 is for the user to say.
    pub fn refuse_unscaled(&self) -> Result<(), ConvertError> {
        let fp8 = |l: &&Layer| matches!(l.format, Format::E4m3 | Format::E5m2);
        let all = self.layers.iter().filter(fp8).count();
        let missing: Vec<&Layer> = self
            .layers
            .iter()
            .filter(fp8)
            .filter(|l| l.weight_scale.is_none())
            .collect();
        let Some(first) = missing.first() else {
            return Ok(());
        };
        Err(ConvertError::Unscaled {
            path: first.weight.file().path().to_owned(),
            layer: first.stored.clone(),
            missing: missing.len(),
            all,
            hint: match missing.len() == all {
                true => {
                    "the whole file is unscaled, as Qwen-Rapid-AIO is (its FP8 numbers are the weights themselves): say so with --assume-unscaled"
                }
                false => {
                    "some scales were lost: get the file again, or say --assume-unscaled if those weights really are unscaled"
                }
            },
        })
    }

    /// Refuses a calibration of another model: one that names layers which are not here, or was made for other weights,
    /// unless that is `wanted`.
    pub fn covers(&self, calibration: &Calibration, wanted: bool) -> Result<(), ConvertError> {
        let here: BTreeSet<&str> = self
            .transformer_layers()
            .map(|l| l.canonical.as_str())
            .collect();
        let named = calibration.ranges.keys().chain(&calibration.never_ran);
        let absent: Vec<&String> = named.filter(|n| !here.contains(n.as_str())).collect();
        if let Some(first) = absent.first() {
            return Err(ConvertError::Request(format!(
                "calibration {} names {} layers that {} does not have, the first is `{first}`; it was made for another model: make one of this with `qwen-nvfp4 calibrate --model ..` and give --calib",
                calibration.name,
                absent.len(),
                self.path.display()
            )));
        }
        match &calibration.model {
            Some(model) if !wanted && model.fingerprint != self.transformer_fingerprint() => {
                Err(ConvertError::Request(format!(
                    "calibration {} was made for {}, whose weights are not those of {}; calibrate this model, or say --foreign-calib if it is meant",
                    calibration.name,
                    model.name,
                    self.path.display()
                )))
            }
            _ => Ok(()),
        }
    }
}

fn is_float(view: &TensorView) -> bool {
    matches!(
        view.dtype(),
        Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F8_E4M3 | Dtype::F8_E5M2
    )
}

/// Whether `name` stands beside a weight that is there, or is the legacy marker of a whole component.
fn is_companion(name: &str, stored: &BTreeMap<&str, &TensorView>) -> bool {
    let beside = |layer: &str| stored.contains_key(format!("{layer}.weight").as_str());
    markers::is_legacy(name) || markers::companion(name).is_some_and(|(layer, _)| beside(layer))
}
