//! From what a user names (a file, a folder, the embedded model) to the components of a [`Checkpoint`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use safetensors::Dtype;

use super::fingerprint;
use super::gather::{Opened, Strictness};
use super::markers::Markers;
use super::{
    Activations, CheckpointError, Component, Configs, Lora, LoraLabel, ModelSource,
    SafetensorsFile, TokenizerSource, Weights,
};

/// The embedded model: an all-in-one FP8 file.
static TINY: &[u8] = include_bytes!("../../models/tiny/qwen-tiny-aio-fp8.safetensors");
/// Its tokenizer.
static TINY_TOKENIZER: &[u8] = include_bytes!("../../models/tiny/tokenizer/tokenizer.json");
/// How the titles of the tiny models begin.
const TINY_TITLE: &str = "Qwen-Image tiny";
/// What messages call it.
const EMBEDDED: &str = "the embedded model";

/// An opened model: three components and what says how to run them.
pub struct Checkpoint {
    /// What to call it in messages and pictures: the file's or folder's name.
    pub name: String,
    /// The MMDiT.
    pub transformer: Weights,
    /// Qwen2.5-VL.
    pub text_encoder: Weights,
    /// The VAE.
    pub vae: Weights,
    /// Configurations, where the checkpoint has some.
    pub configs: Configs,
    /// The tokenizer.
    pub tokenizer: TokenizerSource,
    /// Whether it is laid out as diffusers writes it, rather than as ComfyUI does.
    pub diffusers: bool,
    /// Adapters beside the transformer.
    pub loras: Vec<LoraLabel>,
    files: Vec<Arc<SafetensorsFile>>,
}

impl Opened {
    /// The model inside of the program.
    pub(crate) fn embedded() -> Result<Self, CheckpointError> {
        let file = SafetensorsFile::from_static(EMBEDDED, TINY)?;
        let mut opened = Self::of_files(vec![file], Strictness::Whole)?;
        opened.tokenizer = TokenizerSource::Json(TINY_TOKENIZER.to_vec());
        Ok(opened)
    }
}

impl Checkpoint {
    /// Opens every file, reads every header, and sorts the tensors into components. No weight is read.
    ///
    /// # Errors
    /// A file that is missing, cut short or of another kind; a component that is in none of them.
    pub fn open(source: &ModelSource, device: &Device) -> Result<Self, CheckpointError> {
        let (model, text_encoder, vae) = match source {
            ModelSource::Embedded => {
                let opened = Opened::embedded()?;
                return assemble(opened, "tiny".to_owned(), Path::new(EMBEDDED), device);
            }
            ModelSource::Files {
                model,
                text_encoder,
                vae,
            } => (model, text_encoder, vae),
        };
        let mut opened = Opened::open(model, Strictness::Whole)?;
        for (path, component, flag) in [
            (text_encoder, Component::TextEncoder, "--text-encoder"),
            (vae, Component::Vae, "--vae"),
        ] {
            if let Some(path) = path {
                let part = Opened::open(path, Strictness::Whole);
                opened.replace(component, part.map_err(CheckpointError::given(flag))?, path)?;
            }
        }
        let name = model.file_stem().unwrap_or(model.as_os_str());
        assemble(opened, name.to_string_lossy().into_owned(), model, device)
    }

    /// Puts the adapters of a LoRA file beside the transformer's weights, which stay as they are stored.
    ///
    /// # Errors
    /// Those of [`Lora::open`].
    pub fn adapt(&mut self, path: &Path, scale: f32) -> Result<(), CheckpointError> {
        let lora =
            Lora::open(path, scale, &self.transformer).map_err(CheckpointError::given("--lora"))?;
        self.transformer = self.transformer.adapted_by(&lora);
        self.loras.push(lora.label);
        Ok(())
    }

    /// Decides how the transformer's activations are quantized. The text encoder's never are, as in ComfyUI.
    pub fn quantize_activations(&mut self, activations: Activations) {
        self.transformer = self.transformer.with_activations(activations);
    }

    /// SHA-256 over every file's header, its length, and the first and last 4 KiB of every tensor, in hex.
    ///
    /// It tells checkpoints apart at the cost of a few MB of reads where hashing 28 GB would take minutes.
    pub fn fingerprint(&self) -> String {
        fingerprint::of_files(self.files.iter())
    }

    /// The same over the transformer's two-dimensional weights alone, in whatever files and under whatever prefix they lie:
    /// what a calibration belongs to.
    pub fn transformer_fingerprint(&self) -> String {
        let weights = &self.transformer;
        let layers = self.transformer_layers().into_iter();
        fingerprint::of_weights(layers.filter_map(|layer| {
            let name = format!("{layer}.weight");
            weights.get(&name).map(|view| (layer, view))
        }))
    }

    /// Names of the transformer's layers with a two-dimensional weight, in order.
    pub fn transformer_layers(&self) -> Vec<String> {
        let weights = &self.transformer;
        let layers = weights.names().filter_map(|name| {
            let layer = name.strip_suffix(".weight")?;
            (weights.shape(name)?.len() == 2).then(|| layer.to_owned())
        });
        let mut layers: Vec<String> = layers.collect();
        layers.sort_unstable();
        layers
    }

    /// Whether this is one of the tiny models that come with the project, or made of one: by the title that they carry.
    pub fn is_tiny(&self) -> bool {
        let title = |file: &Arc<SafetensorsFile>| file.metadata().get("modelspec.title").cloned();
        let mut titles = self.files.iter().filter_map(title);
        titles.any(|title| title.starts_with(TINY_TITLE))
    }

    /// Whether the transformer is stored in FP8.
    pub fn is_fp8(&self) -> bool {
        let dtype = self
            .transformer
            .dtype("transformer_blocks.0.attn.to_q.weight");
        matches!(dtype, Some(Dtype::F8_E4M3 | Dtype::F8_E5M2))
    }

    /// How many of the transformer's two-dimensional weights are stored in which type, most first.
    pub fn policy(&self) -> String {
        let mut counts = BTreeMap::<String, usize>::new();
        let weights = self
            .transformer
            .names()
            .filter(|name| name.ends_with(".weight"));
        for name in
            weights.filter(|name| self.transformer.shape(name).is_some_and(|s| s.len() == 2))
        {
            let dtype = match self.transformer.dtype(name) {
                Some(Dtype::F8_E4M3) => "float8_e4m3fn".to_owned(),
                Some(Dtype::F8_E5M2) => "float8_e5m2".to_owned(),
                dtype => format!("{dtype:?}")
                    .replace("Some(", "")
                    .replace(')', "")
                    .to_lowercase(),
            };
            *counts.entry(dtype).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let counts: Vec<_> = counts
            .iter()
            .map(|(dtype, n)| format!("{n} {dtype}"))
            .collect();
        counts.join(" + ")
    }

    /// Bytes of all files, as stored.
    pub fn stored_bytes(&self) -> usize {
        self.files.iter().map(|file| file.len()).sum()
    }
}

/// The three components as weights; a component that is nowhere is an error that says what there is.
fn assemble(
    mut opened: Opened,
    name: String,
    path: &Path,
    device: &Device,
) -> Result<Checkpoint, CheckpointError> {
    for component in Component::ALL {
        opened.recognise(component, path)?;
    }
    let markers = Markers::read(&opened);
    let mut take = |component| {
        let tensors = opened.tensors.remove(&component).unwrap_or_default();
        let first = tensors.values().next();
        let path = first.map_or(path, |view| view.file().path()).to_owned();
        let records = markers.canonical(&tensors);
        Weights::new(component, &path, device, tensors).marked(records)
    };
    Ok(Checkpoint {
        name,
        transformer: take(Component::Transformer),
        text_encoder: take(Component::TextEncoder),
        vae: take(Component::Vae),
        configs: opened.configs,
        tokenizer: opened.tokenizer,
        diffusers: opened.diffusers,
        loras: Vec::new(),
        files: opened.files,
    })
}
