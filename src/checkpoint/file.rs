//! One safetensors file: its bytes stay where they are, its header becomes an index.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use super::CheckpointError;
use crate::numerics::widen;

/// Where the bytes of a file live.
enum Bytes {
    Mapped(Mmap),
    Static(&'static [u8]),
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
        }
    }
}

struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// An opened safetensors file: a memory map (or bytes of the program itself) and its validated index.
pub struct SafetensorsFile {
    path: PathBuf,
    bytes: Bytes,
    header: Range<usize>,
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, Entry>,
}

impl SafetensorsFile {
    /// Maps `path` and checks the whole header: offsets tile the data exactly, no tensor is cut.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] where the file cannot be read, [`CheckpointError::Container`] where it is
    /// truncated, longer than its header says, or no safetensors file at all.
    pub fn open(path: &Path) -> Result<Arc<Self>, CheckpointError> {
        let io = |source| CheckpointError::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        let kind = file.metadata().map_err(io)?;
        if kind.len() < 8 || !kind.is_file() {
            return Err(CheckpointError::Container {
                path: path.to_owned(),
                reason: match kind.is_file() {
                    true => format!("it has {} bytes, a header length alone takes 8", kind.len()),
                    false => "it is not a regular file".to_owned(),
                },
            });
        }
        // SAFETY: the map is read-only. Another process that truncates the file while it is mapped would
        // end this one with SIGBUS; every loader that maps weights accepts that.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Self::index(path.to_owned(), Bytes::Mapped(map))
    }

    /// Indexes bytes that are part of the program. `name` stands for the path in messages.
    ///
    /// # Errors
    /// [`CheckpointError::Container`] where the bytes are no safetensors file.
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Arc<Self>, CheckpointError> {
        Self::index(PathBuf::from(name), Bytes::Static(bytes))
    }

    fn index(path: PathBuf, bytes: Bytes) -> Result<Arc<Self>, CheckpointError> {
        let refuse = |reason: String| CheckpointError::Container {
            path: path.clone(),
            reason,
        };
        let (length, header) =
            SafeTensors::read_metadata(bytes.get()).map_err(|e| refuse(e.to_string()))?;
        let start = 8 + length;
        let described = start + header.data_len();
        if described != bytes.get().len() {
            return Err(refuse(format!(
                "its header describes {described} bytes, the file has {}",
                bytes.get().len()
            )));
        }
        let tensors = header
            .tensors()
            .into_iter()
            .map(|(name, info)| {
                let (begin, end) = info.data_offsets;
                let entry = Entry {
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                    range: start + begin..start + end,
                };
                (name, entry)
            })
            .collect();
        let metadata = header.metadata().clone().unwrap_or_default();
        Ok(Arc::new(Self {
            header: 0..start,
            metadata: metadata.into_iter().collect(),
            tensors,
            bytes,
            path,
        }))
    }

    /// Where the file lies (for embedded bytes: the name given).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The strings of `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The header as stored, with its length prefix.
    pub fn header_bytes(&self) -> &[u8] {
        &self.bytes.get()[self.header.clone()]
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
