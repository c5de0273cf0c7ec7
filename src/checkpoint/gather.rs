//! What lies at one path (a file, a shard index, a folder), sorted into components.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::folder::{class_name, read_json, shards, weights_in};
use super::markers::LEGACY;
use super::names::Names;
use super::{CheckpointError, Component, Configs, SafetensorsFile, TensorView, TokenizerSource};

/// Metadata key under which a file may carry the configurations that its shapes cannot tell.
const CONFIG_KEY: &str = "qwen_nvfp4.config";
/// Metadata key under which a file may carry its tokenizer (`tokenizer.json`).
const TOKENIZER_KEY: &str = "qwen_nvfp4.tokenizer";

/// How strictly a file's length is held against its header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// For use: a file that is cut short is refused.
    Whole,
    /// For inspection: what is left of it is looked at.
    Lenient,
}

impl Strictness {
    pub(super) fn open(self, path: &Path) -> Result<Arc<SafetensorsFile>, CheckpointError> {
        match self {
            Self::Whole => SafetensorsFile::open(path),
            Self::Lenient => SafetensorsFile::open_lenient(path),
        }
    }
}

/// What one path holds, names canonical.
pub(crate) struct Opened {
    pub tensors: BTreeMap<Component, BTreeMap<String, TensorView>>,
    /// Stored names that belong to no component.
    pub unknown: Vec<String>,
    /// The same tensor twice, the second of which is not in `tensors`. Only where it is opened for inspection.
    pub duplicates: Vec<[TensorView; 2]>,
    pub configs: Configs,
    pub tokenizer: TokenizerSource,
    /// Whether it is a folder as diffusers writes it.
    pub diffusers: bool,
    pub files: Vec<Arc<SafetensorsFile>>,
}

impl Opened {
    /// Opens what lies at `path`. Which components it must hold is the caller's to decide.
    pub fn open(path: &Path, strictness: Strictness) -> Result<Self, CheckpointError> {
        let is_index = path.file_name().is_some_and(|n| n == "model_index.json");
        let folder = match path.parent() {
            Some(parent) if is_index && parent == Path::new("") => Path::new("."),
            Some(parent) if is_index => parent,
            _ => path,
        };
        if folder.join("model_index.json").is_file() {
            return Self::of_diffusers(folder, strictness);
        }
        if path.is_dir() {
            let mut opened = Self::of_files(weights_in(path, strictness)?, strictness)?;
            opened.read_component_config(path)?;
            return Ok(opened);
        }
        if path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("json"))
        {
            let mut opened = Self::of_files(shards(path, strictness)?, strictness)?;
            opened.read_component_config(path.parent().unwrap_or(Path::new(".")))?;
            return Ok(opened);
        }
        let mut opened = Self::of_files(vec![strictness.open(path)?], strictness)?;
        let beside = path.with_file_name("tokenizer");
        if opened.tokenizer == TokenizerSource::Unstated && beside.join("tokenizer.json").is_file()
        {
            opened.tokenizer = TokenizerSource::Folder(beside);
        }
        Ok(opened)
    }

    /// Sorts the tensors of `files`, which belong together.
    pub fn of_files(
        files: Vec<Arc<SafetensorsFile>>,
        strictness: Strictness,
    ) -> Result<Self, CheckpointError> {
        let names = Names::of(files.iter().flat_map(|file| file.names()));
        let mut tensors = BTreeMap::<_, BTreeMap<String, TensorView>>::new();
        let (mut unknown, mut duplicates) = (Vec::new(), Vec::new());
        for view in files.iter().flat_map(|file| file.views()) {
            refuse_adapter(&view)?;
            // The older marker of a file of one component has no prefix that says which.
            let marker = || {
                let first = view.file().names().find_map(|n| names.place(n));
                let (component, _) = first.filter(|_| view.name() == LEGACY)?;
                Some((component, view.name().to_owned()))
            };
            let Some((component, name)) = names.place(view.name()).or_else(marker) else {
                unknown.push(view.name().to_owned());
                continue;
            };
            let slot = match tensors.entry(component).or_default().entry(name) {
                Entry::Vacant(slot) => {
                    slot.insert(view);
                    continue;
                }
                Entry::Occupied(slot) => slot,
            };
            let other = slot.get();
            if strictness == Strictness::Lenient {
                duplicates.push([other.clone(), view]);
            } else {
                return Err(CheckpointError::Foreign {
                    path: view.file().path().to_owned(),
                    found: format!(
                        "holds `{}`, which is the same tensor of the {component} as `{}` of {}",
                        view.name(),
                        other.name(),
                        other.file().path().display()
                    ),
                    hint: "two checkpoints are mixed up: give one of them".to_owned(),
                });
            }
        }
        let mut opened = Self {
            tensors,
            unknown,
            duplicates,
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

    /// What a folder tells in files beside its weights, as metadata for a single file that is to tell it too.
    ///
    /// Qwen2.5's own tokenizer, which this program has, is left out: it would be 10 MB of the header. Its text encoder
    /// embeds 152064 tokens (the padded vocabulary of `Qwen2.5-VL-7B`).
    pub fn carried(&self) -> Result<BTreeMap<String, String>, CheckpointError> {
        const EMBEDDED_BY_QWEN: usize = 152_064;
        let mut carried = BTreeMap::new();
        let Configs {
            transformer,
            text_encoder,
            vae,
            scheduler,
        } = &self.configs;
        let parts = [
            ("transformer", transformer),
            ("text_encoder", text_encoder),
            ("vae", vae),
            ("scheduler", scheduler),
        ];
        let parts = parts
            .into_iter()
            .filter_map(|(name, config)| Some((name.to_owned(), config.clone()?)));
        let parts: serde_json::Map<String, Value> = parts.collect();
        if !parts.is_empty() {
            carried.insert(CONFIG_KEY.to_owned(), Value::Object(parts).to_string());
        }
        let embedding = self.tensors.get(&Component::TextEncoder);
        let embedding = embedding.and_then(|t| t.get("model.embed_tokens.weight"));
        let rows = embedding.and_then(|t| t.shape().first().copied());
        if let TokenizerSource::Folder(folder) = &self.tokenizer {
            let path = folder.join("tokenizer.json");
            if path.is_file() && rows.is_some_and(|rows| rows != EMBEDDED_BY_QWEN) {
                carried.insert(TOKENIZER_KEY.to_owned(), read_json(&path)?.to_string());
            }
        }
        Ok(carried)
    }

    /// The `config.json` beside the weights of a component that was given by its folder or index.
    fn read_component_config(&mut self, folder: &Path) -> Result<(), CheckpointError> {
        let path = folder.join("config.json");
        if !path.is_file() {
            return Ok(());
        }
        let json = read_json(&path)?;
        let slot = match class_name(&json) {
            Some("AutoencoderKLQwenImage") => &mut self.configs.vae,
            Some(_) => &mut self.configs.transformer,
            None => &mut self.configs.text_encoder,
        };
        *slot = Some(json);
        Ok(())
    }

    /// A folder as `QwenImagePipeline.save_pretrained` writes it.
    fn of_diffusers(folder: &Path, strictness: Strictness) -> Result<Self, CheckpointError> {
        let index = read_json(&folder.join("model_index.json"))?;
        let class = class_name(&index).unwrap_or("no class");
        if !(class.starts_with("QwenImage") && class.ends_with("Pipeline")) {
            return Err(CheckpointError::Foreign {
                path: folder.to_owned(),
                found: format!("is the folder of another pipeline (`_class_name` is {class})"),
                hint: "give the folder of a QwenImagePipeline".to_owned(),
            });
        }
        let mut files = Vec::new();
        for part in ["transformer", "text_encoder", "vae"] {
            let part = folder.join(part);
            if part.is_dir() {
                files.extend(weights_in(&part, strictness)?);
            }
        }
        let mut opened = Self::of_files(files, strictness)?;
        let config = |part: &str| {
            let path = folder.join(part);
            path.is_file().then(|| read_json(&path)).transpose()
        };
        opened.configs = Configs {
            transformer: config("transformer/config.json")?,
            text_encoder: config("text_encoder/config.json")?,
            vae: config("vae/config.json")?,
            scheduler: config("scheduler/scheduler_config.json")?,
        };
        opened.diffusers = true;
        let tokenizer = folder.join("tokenizer");
        if tokenizer.is_dir() {
            opened.tokenizer = TokenizerSource::Folder(tokenizer);
        }
        Ok(opened)
    }

    /// Takes `component` from another path.
    pub fn replace(
        &mut self,
        component: Component,
        mut other: Self,
        path: &Path,
    ) -> Result<(), CheckpointError> {
        let Some(tensors) = other.tensors.remove(&component) else {
            return Err(other.lacks(component, path));
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

    /// Checks that a component is there, and that it is Qwen-Image's by the tensor that tells it from others'.
    pub fn recognise(&self, component: Component, path: &Path) -> Result<(), CheckpointError> {
        let mark = match component {
            Component::Transformer => "txt_norm.weight",
            Component::TextEncoder => "model.embed_tokens.weight",
            Component::Vae => "decoder.mid_block.resnets.0.norm1.gamma",
        };
        let Some(tensors) = self.tensors.get(&component) else {
            return Err(self.lacks(component, path));
        };
        match tensors.values().next() {
            Some(first) if !tensors.contains_key(mark) => Err(CheckpointError::Foreign {
                path: first.file().path().to_owned(),
                found: format!(
                    "holds a {component} that is not Qwen-Image's: it has `{}` but no `{mark}`",
                    first.name()
                ),
                hint: "`inspect` lists what it holds; give a Qwen-Image checkpoint".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    fn lacks(&self, component: Component, path: &Path) -> CheckpointError {
        let here = |c| self.tensors.contains_key(&c);
        let hint = match component {
            Component::TextEncoder if here(Component::Transformer) && !here(Component::Vae) => {
                "it is a transformer only: give --text-encoder FILE and --vae FILE with it"
                    .to_owned()
            }
            _ => {
                let holds: Vec<String> = self.tensors.keys().map(|c| format!("a {c}")).collect();
                let holds = match (holds.is_empty(), self.unknown.first()) {
                    (false, _) => format!("it holds only {}", holds.join(" and ")),
                    (true, Some(name)) => format!("its names are another model's (`{name}`)"),
                    (true, None) => "it holds no tensor".to_owned(),
                };
                let flag = match component {
                    Component::Transformer => "--model",
                    Component::TextEncoder => "--text-encoder",
                    Component::Vae => "--vae",
                };
                format!("{holds}; give a file that has one with {flag} FILE")
            }
        };
        CheckpointError::MissingComponent {
            path: path.to_owned(),
            component,
            hint,
        }
    }
}

/// A low-rank or other adapter, in any of the usual spellings, is not a model.
fn refuse_adapter(view: &TensorView) -> Result<(), CheckpointError> {
    const MARKS: [&str; 9] = [
        ".lora_A.",
        ".lora_B.",
        ".lora_up.",
        ".lora_down.",
        ".lora.up.",
        ".lora.down.",
        ".lokr_",
        ".hada_",
        "lora_unet_",
    ];
    match MARKS.iter().any(|mark| view.name().contains(mark)) {
        false => Ok(()),
        true => Err(CheckpointError::Foreign {
            path: view.file().path().to_owned(),
            found: format!("is a LoRA (it has `{}`), not a model", view.name()),
            hint: "give it with --lora, and the model it was made for with --model".to_owned(),
        }),
    }
}
