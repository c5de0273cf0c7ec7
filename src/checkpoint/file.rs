//! One safetensors file: its bytes stay where they are, its header becomes an index.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::Dtype;

use super::CheckpointError;
use super::foreign;
use super::header::{Entry, Header};
use super::reader::{Identity, Reader};
use crate::numerics::widen;

/// Where the bytes of a file live.
enum Bytes {
    Mapped(Mmap, Identity),
    Static(&'static [u8]),
    Owned(Vec<u8>),
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Self::Mapped(map, _) => map,
            Self::Static(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// An opened safetensors file: a memory map (or bytes of the program itself) and its validated index.
pub struct SafetensorsFile {
    path: PathBuf,
    bytes: Bytes,
    header: Range<usize>,
    metadata: BTreeMap<String, String>,
    /// How long the header says the file is.
    described: usize,
    tensors: BTreeMap<String, Entry>,
    /// Tensors that the file is too short for.
    beyond: BTreeMap<String, Entry>,
}

impl SafetensorsFile {
    /// Maps `path` and checks the whole header: offsets tile the data exactly, no tensor is cut.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] where the file cannot be read, [`CheckpointError::Container`] where it is
    /// truncated, longer than its header says, or no safetensors file at all.
    pub fn open(path: &Path) -> Result<Arc<Self>, CheckpointError> {
        Self::index(path.to_owned(), Self::map(path)?)
    }

    /// As [`Self::open`], but a file that is cut short is opened with the tensors that are whole, for
    /// [`inspect`](crate::inspect); [`Self::cut`] says so.
    ///
    /// # Errors
    /// As [`Self::open`], save for the length.
    pub fn open_lenient(path: &Path) -> Result<Arc<Self>, CheckpointError> {
        Self::index_lenient(path.to_owned(), Self::map(path)?)
    }

    fn map(path: &Path) -> Result<Bytes, CheckpointError> {
        let io = |source| CheckpointError::Io {
            path: path.to_owned(),
            source,
        };
        // Looked at before it is opened: opening a pipe waits for a writer.
        let kind = std::fs::metadata(path).map_err(io)?;
        if !kind.is_file() {
            let found = match kind.is_dir() {
                true => "is a folder",
                false => "is no ordinary file",
            };
            return Err(CheckpointError::Foreign {
                path: path.to_owned(),
                found: found.to_owned(),
                hint: "give a `.safetensors` file".to_owned(),
            });
        }
        let file = File::open(path).map_err(io)?;
        let kind = file.metadata().map_err(io)?;
        if kind.len() == 0 {
            return Err(CheckpointError::Container {
                path: path.to_owned(),
                reason: "it is empty".to_owned(),
            });
        }
        // SAFETY: the map is read-only. Another process that truncates the file while it is mapped would
        // end this one with SIGBUS; every loader that maps weights accepts that.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Bytes::Mapped(map, Identity::of(&kind)))
    }

    /// Indexes bytes that are part of the program. `name` stands for the path in messages.
    ///
    /// # Errors
    /// [`CheckpointError::Container`] where the bytes are no safetensors file.
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Arc<Self>, CheckpointError> {
        Self::index(PathBuf::from(name), Bytes::Static(bytes))
    }

    /// Indexes bytes that were made in memory. `name` stands for the path in messages.
    ///
    /// # Errors
    /// [`CheckpointError::Container`] where the bytes are no safetensors file.
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Arc<Self>, CheckpointError> {
        Self::index(PathBuf::from(name), Bytes::Owned(bytes))
    }

    fn index(path: PathBuf, bytes: Bytes) -> Result<Arc<Self>, CheckpointError> {
        let file = Self::index_lenient(path, bytes)?;
        match file.cut() {
            None => Ok(file),
            Some(reason) => Err(CheckpointError::Container {
                path: file.path.clone(),
                reason,
            }),
        }
    }

    /// The index of a file whose header is sound, though it may not be as long as the header says.
    fn index_lenient(path: PathBuf, bytes: Bytes) -> Result<Arc<Self>, CheckpointError> {
        let header = match Header::parse(bytes.get()) {
            Ok(header) => header,
            Err(reason) => return Err(foreign::explain(path, bytes.get(), reason)),
        };
        let here = bytes.get().len();
        let (tensors, beyond) = header
            .tensors
            .into_iter()
            .partition(|(_, entry): &(String, Entry)| entry.range.end <= here);
        Ok(Arc::new(Self {
            header: header.range,
            metadata: header.metadata,
            described: header.file_len,
            tensors,
            beyond,
            bytes,
            path,
        }))
    }

    /// What is wrong with the length, if anything: the file ends early, or goes on after its last tensor.
    pub fn cut(&self) -> Option<String> {
        let (described, here) = (self.described, self.len());
        if described == here {
            return None;
        }
        let first = self
            .beyond
            .iter()
            .min_by_key(|(_, entry)| entry.range.start);
        Some(match first {
            Some((name, _)) => format!(
                "its header describes {described} bytes, the file has {here}: {} tensors are cut, the first is `{name}`",
                self.beyond.len()
            ),
            None => format!("its header describes {described} bytes, the file has {here}"),
        })
    }

    /// Bytes that follow the last tensor and belong to none.
    pub fn trailing(&self) -> Option<usize> {
        match self.len().checked_sub(self.described) {
            None | Some(0) => None,
            more => more,
        }
    }

    /// Where the file lies (for embedded bytes: the name given).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file for bulk reads by position.
    ///
    /// # Errors
    /// [`CheckpointError::Changed`] where it is not the file that was opened first.
    pub fn reader(&self) -> Result<Reader, CheckpointError> {
        let known = match &self.bytes {
            Bytes::Mapped(_, identity) => Some(*identity),
            Bytes::Static(_) | Bytes::Owned(_) => None,
        };
        Reader::open(&self.path, known)
    }

    /// The strings of `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The header as stored, with its length prefix.
    pub fn header_bytes(&self) -> &[u8] {
        &self.bytes.get()[self.header.clone()]
    }

    /// Everything after the header: the bytes of all tensors.
    pub fn data(&self) -> &[u8] {
        &self.bytes.get()[self.header.end..]
    }

    /// Length of the whole file in bytes.
    pub fn len(&self) -> usize {
        self.bytes.get().len()
    }

    /// Whether the file holds no tensor.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// All tensor names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether the file has the tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// All tensors, sorted by name.
    pub fn views(self: &Arc<Self>) -> Vec<TensorView> {
        self.names().filter_map(|name| self.view(name)).collect()
    }

    /// The tensor `name`, if the file has it.
    pub fn view(self: &Arc<Self>, name: &str) -> Option<TensorView> {
        let entry = self.tensors.get(name)?;
        Some(TensorView {
            file: Arc::clone(self),
            name: name.to_owned(),
            dtype: entry.dtype,
            shape: entry.shape.clone(),
            range: entry.range.clone(),
        })
    }
}

/// A tensor as stored: name, type, shape, and its bytes in the file (never copied).
#[derive(Clone)]
pub struct TensorView {
    file: Arc<SafetensorsFile>,
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

impl TensorView {
    /// The name in the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The stored type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The shape, row-major.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Where its bytes begin in the file.
    pub fn offset(&self) -> usize {
        self.range.start
    }

    /// Its length in bytes.
    pub fn byte_len(&self) -> usize {
        self.range.len()
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The little-endian bytes, borrowed from the file.
    pub fn bytes(&self) -> &[u8] {
        &self.file.bytes.get()[self.range.clone()]
    }

    /// The file that holds it.
    pub fn file(&self) -> &Arc<SafetensorsFile> {
        &self.file
    }

    /// Elements `range` (in row-major order) as F32, exactly, into `out`.
    ///
    /// # Errors
    /// [`CheckpointError::Dtype`] where the stored type is not a float that F32 can hold.
    ///
    /// # Panics
    /// Where `range` lies outside of the tensor or is not as long as `out`: the caller's arithmetic is wrong.
    pub fn widen(&self, range: Range<usize>, out: &mut [f32]) -> Result<(), CheckpointError> {
        let width = widen::width(self.dtype).ok_or_else(|| self.unreadable())?;
        let bytes = &self.bytes()[range.start * width..range.end * width];
        assert_eq!(range.len(), out.len(), "range and output differ in length");
        match widen::widen(self.dtype, bytes, out) {
            true => Ok(()),
            false => Err(self.unreadable()),
        }
    }

    /// The numbers themselves, borrowed from the file, where they are stored as aligned F32.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match self.dtype {
            Dtype::F32 if cfg!(target_endian = "little") => {
                bytemuck::try_cast_slice(self.bytes()).ok()
            }
            _ => None,
        }
    }

    /// The whole tensor as F32.
    ///
    /// # Errors
    /// As [`Self::widen`].
    pub fn to_f32(&self) -> Result<Vec<f32>, CheckpointError> {
        let mut out = vec![0.0; self.elements()];
        self.widen(0..out.len(), &mut out)?;
        Ok(out)
    }

    fn unreadable(&self) -> CheckpointError {
        CheckpointError::Dtype {
            path: self.file.path.clone(),
            tensor: self.name.clone(),
            dtype: self.dtype,
            purpose: "a model computed in F32",
        }
    }
}
