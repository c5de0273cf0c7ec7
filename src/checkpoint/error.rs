//! What can be wrong with a checkpoint.

use std::io;
use std::path::PathBuf;

use safetensors::Dtype;

/// A fault of a file or of what it holds. Each message names the file, the tensor, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot be opened or mapped.
    #[error("cannot read {path}: {source}{}", next_step(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is not a whole safetensors file.
    #[error("{path} is not a complete safetensors file: {reason}; download or copy it again")]
    Container {
        /// The file.
        path: PathBuf,
        /// What the container check found.
        reason: String,
    },
    /// The file was cut, replaced or rewritten while it was read.
    #[error("{path} changed while it was read; wait until nobody writes it, then start again")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A JSON file of a diffusers folder cannot be used.
    #[error("{path}: {reason}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is sound but is not what was asked for.
    #[error("{path} {found}; {hint}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it holds instead.
        found: String,
        /// What to do.
        hint: String,
    },
    /// A component (transformer, text encoder, VAE) is in none of the files.
    #[error("{path} holds no {component}; {hint}")]
    MissingComponent {
        /// The file or folder that was opened.
        path: PathBuf,
        /// The component that is missing.
        component: super::Component,
        /// What to do.
        hint: String,
    },
    /// A tensor that the model needs is not there.
    #[error("{path}: the {component} has no tensor `{tensor}`; {hint}")]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The component that needs it.
        component: super::Component,
        /// Its name in the component.
        tensor: String,
        /// What to do.
        hint: String,
    },
    /// A tensor has another shape than the model needs.
    #[error(
        "{path}: tensor `{tensor}` has shape {found:?}, the model needs {expected:?}; the file does not fit this architecture"
    )]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the rest of the model asks for.
        expected: Vec<usize>,
    },
    /// A tensor has a type that cannot be read as numbers here.
    #[error("{path}: tensor `{tensor}` is stored as {dtype:?}, which {purpose} cannot use")]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// Its stored type.
        dtype: Dtype,
        /// What wanted to read it.
        purpose: &'static str,
    },
    /// A quantized layer's scales or marker are missing or unusable.
    #[error("{path}: layer `{layer}`: {reason}")]
    Quantization {
        /// The file.
        path: PathBuf,
        /// The layer's name in the component.
        layer: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A file that was given for a purpose of its own, beside the model.
    #[error("{flag}: {source}")]
    Given {
        /// The flag that it was given with.
        flag: &'static str,
        /// What is wrong with it.
        source: Box<CheckpointError>,
    },
    /// A tensor could not be put on the device.
    #[error("cannot place a tensor on the device: {0}")]
    Device(#[from] candle_core::Error),
}

impl CheckpointError {
    /// Says with which flag the file was given, where there are several.
    pub(crate) fn given(flag: &'static str) -> impl Fn(Self) -> Self {
        move |e| Self::Given {
            flag,
            source: Box::new(e),
        }
    }
}

/// What to do where the system's reason does not say it.
fn next_step(reason: &io::Error) -> &'static str {
    match reason.kind() {
        io::ErrorKind::NotFound => "; check its name and folder",
        io::ErrorKind::PermissionDenied => "; make it readable for you",
        _ => "",
    }
}
