//! From what a user names (a file, a folder, the embedded model) to the components of a [`Checkpoint`].

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::names::Names;
use super::{CheckpointError, Component, SafetensorsFile, TensorView, Weights};

/// The embedded model: an all-in-one FP8 file.
static TINY: &[u8] = include_bytes!("../../models/tiny/qwen-tiny-aio-fp8.safetensors");
/// Its tokenizer.
static TINY_TOKENIZER: &[u8] = include_bytes!("../../models/tiny/tokenizer/tokenizer.json");

/// Metadata key under which a file may carry the configurations that its shapes cannot tell.
const CONFIG_KEY: &str = "qwen_nvfp4.config";
/// Metadata key under which a file may carry its tokenizer (`tokenizer.json`).
const TOKENIZER_KEY: &str = "qwen_nvfp4.tokenizer";
/// Bytes of each end of a tensor that the fingerprint reads.
const SAMPLE: usize = 4096;

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// The tiny model inside of the program.
    Embedded,
    /// Files: an all-in-one, a diffusers folder, a sharded checkpoint, or a transformer with the rest beside it.
    Files {
        /// The transformer, or everything.
        model: PathBuf,
        /// A text encoder that replaces or completes it.
        text_encoder: Option<PathBuf>,
        /// A VAE that replaces or completes it.
        vae: Option<PathBuf>,
    },
}

/// Where the token ids come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerSource {
    /// A `tokenizer.json`.
    Json(Vec<u8>),
    /// A folder as transformers writes it.
    Folder(PathBuf),
    /// The checkpoint brings none: Qwen2.5's own, if its vocabulary has that size.
    Unstated,
}

/// Configurations that came with a checkpoint, as parsed JSON.
#[derive(Clone, Debug, Default)]
pub struct Configs {
    /// `transformer/config.json`.
    pub transformer: Option<Value>,
    /// `text_encoder/config.json`.
    pub text_encoder: Option<Value>,
    /// `vae/config.json`.
    pub vae: Option<Value>,
    /// `scheduler/scheduler_config.json`.
    pub scheduler: Option<Value>,
}

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
    files: Vec<Arc<SafetensorsFile>>,
}

impl Checkpoint {
    /// Opens every file, reads every header, and sorts the tensors into components. No weight is read.
    ///
    /// # Errors
    /// A file that is missing, cut short or of another kind; a component that is in none of them.
    pub fn open(source: &ModelSource, device: &Device) -> Result<Self, CheckpointError> {
        let (model, text_encoder, vae) = match source {
            ModelSource::Embedded => {
                let file = SafetensorsFile::from_static("the embedded model", TINY)?;
                let mut opened = Opened::of_file(file)?;
                opened.tokenizer = TokenizerSource::Json(TINY_TOKENIZER.to_vec());
                return opened.assemble("tiny".to_owned(), Path::new("the embedded model"), device);
            }
            ModelSource::Files {
                model,
                text_encoder,
                vae,
            } => (model, text_encoder, vae),
        };
        let mut opened = Opened::open(model)?;
        for (path, component) in [
            (text_encoder, Component::TextEncoder),
            (vae, Component::Vae),
        ] {
            if let Some(path) = path {
                opened.replace(component, Opened::open(path)?, path)?;
            }
        }
        let name = model.file_stem().unwrap_or(model.as_os_str());
        opened.assemble(name.to_string_lossy().into_owned(), model, device)
    }

    /// SHA-256 over every file's header, its length, and the first and last 4 KiB of every tensor, in hex.
    ///
    /// It tells checkpoints apart at the cost of a few MB of reads where hashing 28 GB would take minutes.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for file in &self.files {
            hash.update(file.header_bytes());
            hash.update((file.len() as u64).to_le_bytes());
            for view in file.names().filter_map(|name| file.view(name)) {
                let bytes = view.bytes();
                hash.update(&bytes[..bytes.len().min(SAMPLE)]);
                hash.update(&bytes[bytes.len().saturating_sub(SAMPLE)..]);
            }
        }
        hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Bytes of all files, as stored.
    pub fn stored_bytes(&self) -> usize {
        self.files.iter().map(|file| file.len()).sum()
    }
}

/// What one path holds.
struct Opened {
    tensors: BTreeMap<Component, BTreeMap<String, TensorView>>,
    configs: Configs,
    tokenizer: TokenizerSource,
    diffusers: bool,
    files: Vec<Arc<SafetensorsFile>>,
}

impl Opened {
    fn open(path: &Path) -> Result<Self, CheckpointError> {
        if path.is_dir() {
            if path.join("model_index.json").is_file() {
                return Self::of_diffusers(path);
            }
            let files = weights_in(path)?;
            return Self::of_files(files);
        }
        if path.to_string_lossy().ends_with(".json") {
            return Self::of_files(shards(path)?);
        }
        Self::of_file(SafetensorsFile::open(path)?)
    }

    fn of_file(file: Arc<SafetensorsFile>) -> Result<Self, CheckpointError> {
        Self::of_files(vec![file])
    }

    fn of_files(files: Vec<Arc<SafetensorsFile>>) -> Result<Self, CheckpointError> {
        let names = Names::of(files.iter().flat_map(|file| file.names()));
        let mut tensors = BTreeMap::<_, BTreeMap<_, _>>::new();
        let mut unknown = Vec::new();
        for file in &files {
            for view in file.names().filter_map(|name| file.view(name)) {
                match names.place(view.name()) {
                    Some((component, name)) => {
                        tensors.entry(component).or_default().insert(name, view);
                    }
                    None => unknown.push(view),
                }
            }
        }
        if let Some(adapter) = unknown.iter().find(|view| is_adapter(view.name())) {
            return Err(CheckpointError::Foreign {
                path: adapter.file().path().to_owned(),
                found: format!("is a LoRA (it has `{}`), not a model", adapter.name()),
                hint: "give it with --lora, beside a --model".to_owned(),
            });
        }
        if let (true, Some(file)) = (tensors.is_empty(), files.first()) {
            let example = unknown.first().map_or("nothing", |view| view.name());
            return Err(CheckpointError::Foreign {
                path: file.path().to_owned(),
                found: format!("holds no part of Qwen-Image (its first tensor is `{example}`)"),
                hint: "give a Qwen-Image checkpoint".to_owned(),
            });
        }
        let mut opened = Self {
            tensors,
            configs: Configs::default(),
            tokenizer: TokenizerSource::Unstated,
            diffusers: false,
            files,
        };
        opened.read_metadata()?;
        Ok(opened)
    }

    /// Configurations and tokenizer that a file carries in its metadata.
    fn read_metadata(&mut self) -> Result<(), CheckpointError> {
        for file in &self.files {
            if let Some(text) = file.metadata().get(CONFIG_KEY) {
                let json: Value =
                    serde_json::from_str(text).map_err(|e| CheckpointError::Json {
                        path: file.path().to_owned(),
                        reason: format!("its metadata `{CONFIG_KEY}` is not JSON ({e})"),
                    })?;
                let part = |name: &str| json.get(name).cloned();
                self.configs = Configs {
                    transformer: part("transformer"),
                    text_encoder: part("text_encoder"),
                    vae: part("vae"),
                    scheduler: part("scheduler"),
                };
            }
            if let Some(text) = file.metadata().get(TOKENIZER_KEY) {
                self.tokenizer = TokenizerSource::Json(text.clone().into_bytes());
            }
        }
        Ok(())
    }

    /// A folder as `QwenImagePipeline.save_pretrained` writes it.
    fn of_diffusers(folder: &Path) -> Result<Self, CheckpointError> {
        let mut files = Vec::new();
        for part in ["transformer", "text_encoder", "vae"] {
            let part = folder.join(part);
            if part.is_dir() {
                files.extend(weights_in(&part)?);
            }
        }
        let mut opened = Self::of_files(files)?;
        let config = |part: &str, file: &str| {
            let path = folder.join(part).join(file);
            path.is_file().then(|| read_json(&path)).transpose()
        };
        opened.configs = Configs {
            transformer: config("transformer", "config.json")?,
            text_encoder: config("text_encoder", "config.json")?,
            vae: config("vae", "config.json")?,
            scheduler: config("scheduler", "scheduler_config.json")?,
        };
        opened.diffusers = true;
        let tokenizer = folder.join("tokenizer");
        if tokenizer.is_dir() {
            opened.tokenizer = TokenizerSource::Folder(tokenizer);
        }
        Ok(opened)
    }

    /// Takes `component` from another path.
    fn replace(
        &mut self,
        component: Component,
        mut other: Self,
        path: &Path,
    ) -> Result<(), CheckpointError> {
        let Some(tensors) = other.tensors.remove(&component) else {
            return Err(CheckpointError::MissingComponent {
                path: path.to_owned(),
                component,
                hint: "it was given for that part; check which file is which".to_owned(),
            });
        };
        self.tensors.insert(component, tensors);
        match component {
            Component::TextEncoder => {
                self.configs.text_encoder = other.configs.text_encoder;
                self.tokenizer = other.tokenizer;
            }
            Component::Vae => self.configs.vae = other.configs.vae,
            Component::Transformer => self.configs.transformer = other.configs.transformer,
        }
        self.files.append(&mut other.files);
        Ok(())
    }

    fn assemble(
        mut self,
        name: String,
        path: &Path,
        device: &Device,
    ) -> Result<Checkpoint, CheckpointError> {
        let mut component = |component: Component, flag: &str| match self.tensors.remove(&component)
        {
            Some(tensors) => {
                let path = tensors
                    .values()
                    .next()
                    .map_or(path, |view| view.file().path());
                Ok(Weights::new(component, &path.to_owned(), device, tensors))
            }
            None => Err(CheckpointError::MissingComponent {
                path: path.to_owned(),
                component,
                hint: match component {
                    Component::Transformer => "give the transformer as --model".to_owned(),
                    _ => format!("name its file with {flag}"),
                },
            }),
        };
        Ok(Checkpoint {
            name,
            transformer: component(Component::Transformer, "--model")?,
            text_encoder: component(Component::TextEncoder, "--text-encoder")?,
            vae: component(Component::Vae, "--vae")?,
            configs: self.configs,
            tokenizer: self.tokenizer,
            diffusers: self.diffusers,
            files: self.files,
        })
    }
}

/// Whether a name belongs to a low-rank adapter, in any of the usual spellings.
fn is_adapter(name: &str) -> bool {
    [
        ".lora_A.",
        ".lora_B.",
        ".lora_up.",
        ".lora_down.",
        "lora_unet_",
        ".alpha",
    ]
    .iter()
    .any(|part| name.contains(part))
}

/// The weights of a folder: by its index where there is one, else all safetensors files in it.
fn weights_in(folder: &Path) -> Result<Vec<Arc<SafetensorsFile>>, CheckpointError> {
    let io = |source| CheckpointError::Io {
        path: folder.to_owned(),
        source,
    };
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .map_err(io)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()
        .map_err(io)?;
    paths.sort();
    let ends_with = |end: &str| {
        let end = end.to_owned();
        move |path: &&PathBuf| path.to_string_lossy().ends_with(&end)
    };
    if let Some(index) = paths.iter().find(ends_with(".safetensors.index.json")) {
        return shards(index);
    }
    let files: Vec<_> = paths.iter().filter(ends_with(".safetensors")).collect();
    if files.is_empty() {
        return Err(CheckpointError::Foreign {
            path: folder.to_owned(),
            found: "is a folder without `model_index.json` or safetensors files".to_owned(),
            hint: "give a diffusers folder, or the checkpoint file itself".to_owned(),
        });
    }
    files
        .into_iter()
        .map(|path| SafetensorsFile::open(path))
        .collect()
}

/// The files that an index (`*.safetensors.index.json`) names.
fn shards(index: &Path) -> Result<Vec<Arc<SafetensorsFile>>, CheckpointError> {
    let refuse = |reason: &str| CheckpointError::Json {
        path: index.to_owned(),
        reason: reason.to_owned(),
    };
    let json = read_json(index)?;
    let map = json
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| {
            refuse("it has no `weight_map`; a checkpoint's index ends in `.safetensors.index.json`")
        })?;
    let mut names: Vec<&str> = map.values().filter_map(Value::as_str).collect();
    names.sort_unstable();
    names.dedup();
    // A shard lies beside its index: a name with a path in it is not one of ours.
    if names
        .iter()
        .any(|n| Path::new(n).components().count() != 1 || n.contains(".."))
    {
        return Err(refuse("its `weight_map` names files outside of its folder"));
    }
    let folder = index.parent().unwrap_or(Path::new("."));
    let files = names
        .iter()
        .map(|name| SafetensorsFile::open(&folder.join(name)))
        .collect::<Result<Vec<_>, _>>()?;
    let missing = map.iter().find(|(tensor, file)| {
        let here = files
            .iter()
            .find(|f| f.path().file_name().and_then(|n| n.to_str()) == file.as_str());
        here.is_none_or(|f| f.view(tensor).is_none())
    });
    match missing {
        None => Ok(files),
        Some((tensor, file)) => Err(refuse(&format!(
            "it says that `{tensor}` is in {file}, which does not hold it; the shards are of different versions"
        ))),
    }
}

fn read_json(path: &Path) -> Result<Value, CheckpointError> {
    let text = fs::read(path).map_err(|source| CheckpointError::Io {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|e| CheckpointError::Json {
        path: path.to_owned(),
        reason: format!("it is not valid JSON ({e})"),
    })
}
