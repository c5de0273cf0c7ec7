//! The header of a safetensors file: untrusted JSON in, an index of byte ranges out.
//!
//! The rules are those of the `safetensors` crate (a length of at most 100 MB, tensors that tile the data
//! without gap or overlap, sizes that fit shape and type). They are checked here so that a refusal can name
//! the tensor and so that a file that is cut short can still be inspected; tests hold the two readers against
//! each other.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{Error, MapAccess, Visitor};

/// Bytes of the length prefix.
const PREFIX: usize = 8;

/// Longest header that is read, as in the reference implementation: JSON bombs end here.
pub(super) const MAX_HEADER: usize = 100_000_000;

/// Type, shape and place of one tensor.
pub(super) struct Entry {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// In bytes of the file.
    pub range: Range<usize>,
}

/// A header that is consistent in itself; whether the file is as long as it says is another question.
pub(super) struct Header {
    /// `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// By name.
    pub tensors: BTreeMap<String, Entry>,
    /// The header's own bytes, length prefix included.
    pub range: Range<usize>,
    /// How long a complete file is.
    pub file_len: usize,
}

impl Header {
    /// Reads the header at the front of `file`. The reason for a refusal names the tensor.
    pub fn parse(file: &[u8]) -> Result<Self, String> {
        let Some((prefix, rest)) = file.split_first_chunk::<PREFIX>() else {
            return Err(format!(
                "it has {} bytes, a header length alone takes {PREFIX}",
                file.len()
            ));
        };
        let length = u64::from_le_bytes(*prefix);
        let length = match usize::try_from(length) {
            Ok(length) if length <= MAX_HEADER => length,
            _ => {
                return Err(format!(
                    "its header would be {length} bytes long, at most {MAX_HEADER} are read"
                ));
            }
        };
        let Some(json) = rest.get(..length) else {
            return Err(format!(
                "its header is {length} bytes long but only {} follow",
                rest.len()
            ));
        };
        let raw: RawHeader = serde_json::from_slice(json)
            .map_err(|e| format!("its header is not a safetensors header ({e})"))?;
        let start = PREFIX + length;
        let (tensors, file_len) = place(raw.tensors, start)?;
        Ok(Self {
            metadata: raw.metadata,
            tensors,
            range: 0..start,
            file_len,
        })
    }
}

/// Checks that the tensors tile the data from `start` on; gives their places and the end of the last.
fn place(
    raw: BTreeMap<String, RawTensor>,
    start: usize,
) -> Result<(BTreeMap<String, Entry>, usize), String> {
    let mut by_offset: Vec<(String, RawTensor)> = raw.into_iter().collect();
    by_offset.sort_by_key(|(_, tensor)| tensor.data_offsets);
    let mut end = start;
    let mut tensors = BTreeMap::new();
    for (name, tensor) in by_offset {
        let (begin, stop) = tensor.data_offsets;
        let size = bytes(tensor.dtype, &tensor.shape).ok_or_else(|| {
            format!(
                "tensor `{name}` with shape {:?} has no size in whole bytes that fits memory",
                tensor.shape
            )
        })?;
        if begin != end - start || stop.checked_sub(begin) != Some(size) {
            return Err(format!(
                "tensor `{name}` ({:?} {:?}, {size} bytes) claims bytes {begin}..{stop} of the data, which must go on at {}",
                tensor.dtype,
                tensor.shape,
                end - start
            ));
        }
        let stop = end
            .checked_add(size)
            .ok_or_else(|| format!("tensor `{name}` ends beyond what can be addressed"))?;
        tensors.insert(
            name,
            Entry {
                dtype: tensor.dtype,
                shape: tensor.shape,
                range: end..stop,
            },
        );
        end = stop;
    }
    Ok((tensors, end))
}

/// Bytes of a tensor, if they are a whole number and can be counted.
fn bytes(dtype: Dtype, shape: &[usize]) -> Option<usize> {
    let elements = shape
        .iter()
        .try_fold(1usize, |n, side| n.checked_mul(*side))?;
    let bits = elements.checked_mul(dtype.bitsize())?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

struct RawHeader {
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, RawTensor>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use std::collections::btree_map::Entry;
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader {
                    metadata: BTreeMap::new(),
                    tensors: BTreeMap::new(),
                };
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        header.metadata = map.next_value::<Option<_>>()?.unwrap_or_default();
                        continue;
                    }
                    let tensor = map
                        .next_value()
                        .map_err(|e| A::Error::custom(format!("tensor `{name}`: {e}")))?;
                    match header.tensors.entry(name) {
                        Entry::Vacant(slot) => slot.insert(tensor),
                        Entry::Occupied(slot) => {
                            let name = slot.key();
                            return Err(A::Error::custom(format!(
                                "tensor `{name}` is listed twice"
                            )));
                        }
                    };
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Map)
    }
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
