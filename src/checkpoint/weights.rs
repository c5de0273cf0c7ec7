//! The tensors of one component under their canonical names, with a record of which were asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Tensor};
use safetensors::tensor::TensorView as Plain;
use safetensors::{Dtype, SafeTensorError};

use super::markers::Record;
use super::{Activations, Adapter, CheckpointError, Component, Lora, SafetensorsFile, TensorView};

/// A tensor's name, stored type, shape and little-endian bytes.
pub type Stored<'a> = (&'a str, Dtype, &'a [usize], Vec<u8>);

struct Store {
    component: Component,
    path: PathBuf,
    device: Device,
    tensors: BTreeMap<String, TensorView>,
    claimed: Mutex<BTreeSet<String>>,
}

/// Records by canonical layer name, where they are no tensors of the component.
type Records = BTreeMap<String, Record>;

/// A prefix into the tensors of one component. Cheap to clone; `pp` goes one level down.
///
/// Canonical names are those of diffusers (`transformer_blocks.0.attn.to_q.weight`,
/// `decoder.mid_block.resnets.0.conv1.weight`) and, for the text encoder, `model.layers.N...` and `visual...`.
#[derive(Clone)]
pub struct Weights {
    store: Arc<Store>,
    adapters: Arc<BTreeMap<String, Vec<Adapter>>>,
    records: Arc<Records>,
    activations: Activations,
    prefix: String,
}

impl Weights {
    /// The component's tensors by canonical name. `path` is what messages name when a tensor is missing.
    pub fn new(
        component: Component,
        path: &Path,
        device: &Device,
        tensors: BTreeMap<String, TensorView>,
    ) -> Self {
        let store = Store {
            component,
            path: path.to_owned(),
            device: device.clone(),
            tensors,
            claimed: Mutex::default(),
        };
        Self {
            store: Arc::new(store),
            adapters: Arc::default(),
            records: Arc::default(),
            activations: Activations::default(),
            prefix: String::new(),
        }
    }

    /// A transformer's weights from (name, type, shape, little-endian bytes), for checks, benches and tests.
    ///
    /// # Errors
    /// Bytes that do not have the size that type and shape ask for.
    pub fn in_memory(tensors: &[Stored<'_>]) -> Result<Self, CheckpointError> {
        const NAME: &str = "weights in memory";
        let refuse = |e: SafeTensorError| CheckpointError::Container {
            path: NAME.into(),
            reason: e.to_string(),
        };
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            Ok((*name, Plain::new(*dtype, shape.to_vec(), bytes)?))
        });
        let views: Result<Vec<_>, SafeTensorError> = views.collect();
        let bytes = views.and_then(|views| safetensors::serialize(views, None));
        let file = SafetensorsFile::from_bytes(NAME, bytes.map_err(refuse)?)?;
        let views = file.views().into_iter().map(|v| (v.name().to_owned(), v));
        let (component, device) = (Component::Transformer, &Device::Cpu);
        Ok(Self::new(component, NAME.as_ref(), device, views.collect()))
    }

    /// The same tensors under `prefix.part`.
    pub fn pp(&self, part: impl Display) -> Self {
        Self {
            store: Arc::clone(&self.store),
            adapters: Arc::clone(&self.adapters),
            records: Arc::clone(&self.records),
            activations: self.activations,
            prefix: self.full(&part.to_string()),
        }
    }

    /// The same tensors with what markers of the file say of their layers, by canonical layer name.
    pub(crate) fn marked(self, records: BTreeMap<String, Record>) -> Self {
        Self {
            records: Arc::new(records),
            ..self
        }
    }

    /// The same tensors, but all of `layers` (canonical names) as `other` stores them: what a conversion of these layers alone
    /// would have given. Adapters and the way of activations stay.
    pub fn with_layers_of(&self, other: &Self, layers: &BTreeSet<String>) -> Self {
        let of_layers = |name: &str| {
            let layer = name.rsplit_once('.').map_or(name, |(layer, _)| layer);
            layers.contains(layer)
        };
        let mine = self.store.tensors.iter().filter(|(n, _)| !of_layers(n));
        let theirs = other.store.tensors.iter().filter(|(n, _)| of_layers(n));
        let tensors = mine.chain(theirs);
        let tensors = tensors.map(|(name, view)| (name.clone(), view.clone()));
        let mine = self.records.iter().filter(|(l, _)| !layers.contains(*l));
        let theirs = other.records.iter().filter(|(l, _)| layers.contains(*l));
        let records = mine.chain(theirs).map(|(l, r)| (l.clone(), r.clone()));
        let store = Store {
            component: self.store.component,
            path: self.store.path.clone(),
            device: self.store.device.clone(),
            tensors: tensors.collect(),
            claimed: Mutex::default(),
        };
        Self {
            store: Arc::new(store),
            records: Arc::new(records.collect()),
            ..self.clone()
        }
    }

    /// What a marker says of the layer whose prefix this is.
    pub(crate) fn record(&self) -> Option<&Record> {
        self.records.get(&self.prefix)
    }

    /// Whether the weight `name` is NVFP4 by its marker: two numbers of a row are one byte.
    pub fn is_packed(&self, name: &str) -> bool {
        let name = self.full(name);
        let record = name
            .strip_suffix(".weight")
            .and_then(|layer| self.records.get(layer));
        let stored = self.store.tensors.get(&name).map(TensorView::dtype);
        record.is_some_and(|r| r.format == "nvfp4") && stored == Some(Dtype::U8)
    }

    /// The same tensors, their layers' activations quantized in this way.
    pub fn with_activations(&self, activations: Activations) -> Self {
        Self {
            activations,
            ..self.clone()
        }
    }

    /// How the layers' activations are quantized.
    pub fn activations(&self) -> Activations {
        self.activations
    }

    /// Whether the activations of the layer whose prefix this is are quantized, where its record `allows` it.
    /// ComfyUI's rules: never those of text encoders.
    pub fn quantizes_input(&self, allows: bool) -> bool {
        let component = self.component();
        allows && self.activations != Activations::None && component != Component::TextEncoder
    }

    /// The same tensors with adapters beside them, added to those that are there.
    pub fn adapted_by(&self, lora: &Lora) -> Self {
        let mut adapters = BTreeMap::clone(&self.adapters);
        for (layer, adapter) in &lora.adapters {
            adapters
                .entry(layer.clone())
                .or_default()
                .push(adapter.clone());
        }
        Self {
            adapters: Arc::new(adapters),
            ..self.clone()
        }
    }

    /// The adapters of the layer whose prefix this is; their shapes fit the layer's weight.
    pub fn adapters(&self) -> &[Adapter] {
        self.adapters.get(&self.prefix).map_or(&[], Vec::as_slice)
    }

    /// The name that `name` has in the component.
    pub fn full(&self, name: &str) -> String {
        match (self.prefix.is_empty(), name.is_empty()) {
            (true, _) => name.to_owned(),
            (false, true) => self.prefix.clone(),
            (false, false) => format!("{}.{name}", self.prefix),
        }
    }

    /// Which component this is.
    pub fn component(&self) -> Component {
        self.store.component
    }

    /// The file or folder that messages name.
    pub fn path(&self) -> &Path {
        &self.store.path
    }

    /// The file that holds the layer of this canonical name; [`Self::path`] where there is none.
    pub fn path_of(&self, layer: &str) -> &Path {
        let from = self.store.tensors.range(layer.to_owned()..);
        let own = from
            .take_while(|(name, _)| name.starts_with(layer))
            .find(|(name, _)| name.as_bytes().get(layer.len()) == Some(&b'.'));
        own.map_or(self.path(), |(_, view)| view.file().path())
    }

    /// Where tensors are put.
    pub fn device(&self) -> &Device {
        &self.store.device
    }

    /// Whether the tensor is there. Does not claim it.
    pub fn contains(&self, name: &str) -> bool {
        self.store.tensors.contains_key(&self.full(name))
    }

    /// The tensor's shape, if it is there. Does not claim it.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.store
            .tensors
            .get(&self.full(name))
            .map(TensorView::shape)
    }

    /// The tensor's stored type, if it is there. Does not claim it.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.store
            .tensors
            .get(&self.full(name))
            .map(TensorView::dtype)
    }

    /// All canonical names of the component, whatever the prefix.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.store.tensors.keys().map(String::as_str)
    }

    /// The tensor if it is there, claimed, its shape unchecked.
    pub fn get(&self, name: &str) -> Option<TensorView> {
        let name = self.full(name);
        let view = self.store.tensors.get(&name)?.clone();
        self.store
            .claimed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name);
        Some(view)
    }

    /// The tensor as stored, claimed, with the shape the model needs.
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensor`] and [`CheckpointError::Shape`].
    pub fn view(&self, name: &str, shape: &[usize]) -> Result<TensorView, CheckpointError> {
        let view = self.get(name).ok_or_else(|| self.missing(name))?;
        if view.shape() == shape {
            return Ok(view);
        }
        Err(CheckpointError::Shape {
            path: view.file().path().to_owned(),
            tensor: view.name().to_owned(),
            found: view.shape().to_vec(),
            expected: shape.to_vec(),
        })
    }

    /// A small tensor (bias, norm) as F32 on the device, claimed.
    ///
    /// # Errors
    /// As [`Self::view`], and [`CheckpointError::Dtype`] where it does not hold floats.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, CheckpointError> {
        let values = self.view(name, shape)?.to_f32()?;
        Ok(Tensor::from_vec(values, shape, self.device())?)
    }

    /// The error for a tensor that is not there.
    pub fn missing(&self, name: &str) -> CheckpointError {
        CheckpointError::MissingTensor {
            path: self.store.path.clone(),
            component: self.store.component,
            tensor: self.full(name),
            hint:
                "the file is incomplete or of another architecture; `inspect` lists what it holds"
                    .to_owned(),
        }
    }

    /// Canonical names that nobody asked for so far.
    pub fn unclaimed(&self) -> Vec<&str> {
        let claimed = self
            .store
            .claimed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.names()
            .filter(|name| !claimed.contains(*name))
            .collect()
    }
}
