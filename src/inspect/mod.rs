//! What a checkpoint holds, and what is wrong with it.
//!
//! A path goes in, a [`Report`] comes out: components with their sizes, quantization markers counted, faults
//! by tensor, and advice that is no fault. Headers, markers, scales, norms and biases are read, so a 28 GB file takes
//! seconds; [`Depth::Weights`] reads every byte of it.

mod advice;
mod components;
mod fault;
mod layout;
mod markers;
mod render;
mod scales;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::checkpoint::gather::{Opened, Strictness};
use crate::checkpoint::markers::Markers;
use crate::checkpoint::{CheckpointError, TensorView};
use crate::context::Cancel;

use fault::Findings;
pub use fault::{Fault, FaultKind};
pub use render::render_text;

/// One component of a checkpoint.
#[derive(Clone, Debug, Serialize)]
pub struct ComponentReport {
    /// Who writes names like these: `comfyui-aio`, `diffusers`, ...
    pub key_style: String,
    /// Repeated blocks: transformer blocks, language-model layers, VAE stages.
    pub blocks: usize,
    /// Tensors, quantization companions included.
    pub tensors: usize,
    /// Bytes as stored.
    pub bytes: usize,
    /// Tensors by stored type.
    pub dtypes: BTreeMap<String, usize>,
    /// The sizes by their config names, as far as they could be told.
    pub sizes: BTreeMap<&'static str, serde_json::Value>,
    /// Stored shape by canonical name.
    pub shapes: BTreeMap<String, Vec<usize>>,
}

/// Layers that carry a quantization marker, by format.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quantized {
    /// NVFP4.
    pub nvfp4: usize,
    /// FP8 E4M3.
    pub float8_e4m3fn: usize,
}

impl Quantized {
    fn of(markers: &Markers) -> Self {
        let count = |format: &str| {
            let all = markers.records().values();
            all.filter(|record| record.format == format).count()
        };
        Self {
            nvfp4: count("nvfp4"),
            float8_e4m3fn: count("float8_e4m3fn"),
        }
    }
}

/// What was found at a path.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was looked at.
    pub path: PathBuf,
    /// `transformer`, `text_encoder`, `vae`: those that are there.
    pub components: BTreeMap<&'static str, ComponentReport>,
    /// Marked layers.
    pub quantized: Quantized,
    /// Everything that is wrong, in the order of the checks.
    pub faults: Vec<Fault>,
    /// What works but could be better. The tensor is the first of those that the message counts.
    pub advice: Vec<Fault>,
}

/// How much of a file is read.
#[derive(Clone, Default)]
pub enum Depth {
    /// Headers, markers, scales, norms and biases.
    #[default]
    Scales,
    /// Every weight too: as long as reading the whole file takes. Stops where it is asked to.
    Weights(Cancel),
}

/// Looks at a file, a shard index or a folder.
///
/// # Errors
/// Where nothing can be said about it at all: unreadable, no safetensors header, an adapter instead of a model.
pub fn inspect(path: &Path) -> Result<Report, CheckpointError> {
    inspect_to(Some(path), &Depth::Scales)
}

/// Looks at what lies at `path`, or where that is `None` at the model inside of the program, as deep as asked.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_to(path: Option<&Path>, depth: &Depth) -> Result<Report, CheckpointError> {
    let Some(path) = path else {
        return Ok(report(&Opened::embedded()?, Path::new("tiny"), depth));
    };
    let opened = Opened::open(path, Strictness::Lenient)?;
    if opened
        .files
        .iter()
        .all(|f| f.is_empty() && f.cut().is_none())
    {
        return Err(CheckpointError::Foreign {
            path: path.to_owned(),
            found: "holds no tensor".to_owned(),
            hint: "download or convert it again".to_owned(),
        });
    }
    Ok(report(&opened, path, depth))
}

/// All tensors of the model by stored name.
type Stored<'a> = BTreeMap<&'a str, &'a TensorView>;

/// A weight among all tensors of its checkpoint.
struct Layer<'a> {
    /// The weight's stored name without `.weight`.
    name: &'a str,
    weight: &'a TensorView,
    stored: &'a Stored<'a>,
}

impl<'a> Layer<'a> {
    /// The stored name of a companion.
    fn tensor(&self, part: &str) -> String {
        format!("{}.{part}", self.name)
    }

    /// A companion, if it is there.
    fn find(&self, part: &str) -> Option<&'a TensorView> {
        self.stored.get(self.tensor(part).as_str()).copied()
    }
}

fn report(opened: &Opened, path: &Path, depth: &Depth) -> Report {
    let stored: Stored = opened
        .tensors
        .values()
        .flat_map(BTreeMap::values)
        .map(|view| (view.name(), view))
        .collect();
    let markers = Markers::read(opened);
    let mut found = Findings::default();
    layout::check_files(opened, &mut found);
    let whole = !found.faults.iter().any(|f| f.kind == FaultKind::Truncated);
    let mut rest = Findings::default();
    layout::check_names(opened, &mut rest);
    markers::check(opened, &markers, &stored, &mut rest);
    let components = components::check(opened, path, &markers, &mut rest);
    advice::check(opened, &markers, &mut rest);
    values::check_small(&stored, &mut rest);
    // What a file lacks because it was cut short is no news.
    if whole {
        found.append(rest);
    }
    if let Depth::Weights(cancel) = depth {
        values::check_weights(&stored, cancel, &mut found);
    }
    Report {
        path: path.to_owned(),
        components,
        quantized: Quantized::of(&markers),
        faults: found.faults,
        advice: found.advice,
    }
}
