//! The header of a safetensors file that is about to be written, and where each tensor goes.
//!
//! Order and padding are the reference implementation's (`serialize` of the safetensors crate, `save_file` in Python):
//! types by descending alignment, then names ascending; compact JSON padded with spaces to a multiple of 8.

use std::collections::BTreeMap;
use std::fmt::Write;

use safetensors::Dtype;

use super::WriteError;
use super::header::MAX_HEADER;

/// What the format calls the strings that are no tensors.
const METADATA: &str = "__metadata__";
/// Longest file that system calls can address, less room for the header.
const LARGEST: u64 = i64::MAX as u64 - (1 << 32);

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTensor {
    /// Its name.
    pub name: String,
    /// Its stored type.
    pub dtype: Dtype,
    /// Its shape, row-major.
    pub shape: Vec<usize>,
}

/// Header and places.
#[derive(Clone, Debug)]
pub struct Layout {
    header: Vec<u8>,
    /// Byte range in the file per tensor, in the order in which they were given.
    places: Vec<(u64, u64)>,
    names: Vec<String>,
    len: u64,
}

impl Layout {
    /// Lays the tensors out.
    ///
    /// # Errors
    /// [`WriteError::Layout`] where a size is no whole number of bytes or too large, or a name stands twice.
    pub fn of(
        tensors: Vec<NewTensor>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self, WriteError> {
        let refuse = |tensor: &str, reason: String| WriteError::Layout {
            tensor: tensor.to_owned(),
            reason,
        };
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by(|a, b| {
            let (a, b) = (&tensors[*a], &tensors[*b]);
            b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name))
        });
        let mut json = String::from("{");
        if !metadata.is_empty() {
            let _ = write!(json, "\"{METADATA}\":{}", text(metadata));
        }
        let mut offsets = vec![(0, 0); tensors.len()];
        let mut end = 0u64;
        for index in order {
            let tensor = &tensors[index];
            if tensor.name == METADATA {
                return Err(refuse(
                    &tensor.name,
                    "the format has taken the name".to_owned(),
                ));
            }
            let size = bytes(tensor).ok_or_else(|| {
                let (shape, dtype) = (&tensor.shape, tensor.dtype);
                let reason = format!("shape {shape:?} of {dtype:?} has no size in whole bytes");
                refuse(&tensor.name, reason)
            })?;
            let stop = end.checked_add(size).filter(|stop| *stop < LARGEST);
            let stop = stop.ok_or_else(|| {
                let reason = "the file would be larger than can be addressed".to_owned();
                refuse(&tensor.name, reason)
            })?;
            let comma = if json.len() > 1 { "," } else { "" };
            let _ = write!(
                json,
                "{comma}{}:{{\"dtype\":\"{}\",\"shape\":{},\"data_offsets\":[{end},{stop}]}}",
                text(&tensor.name),
                tensor.dtype,
                text(&tensor.shape),
            );
            offsets[index] = (end, stop);
            end = stop;
        }
        json.push('}');
        let padded = json.len().next_multiple_of(8);
        if padded > MAX_HEADER {
            let reason =
                format!("the header would be {padded} bytes long, {MAX_HEADER} can be read");
            return Err(refuse("the last", reason));
        }
        let mut header = (padded as u64).to_le_bytes().to_vec();
        header.extend(json.as_bytes());
        header.resize(8 + padded, b' ');
        let start = header.len() as u64;
        let mut names: Vec<String> = tensors.into_iter().map(|t| t.name).collect();
        let mut sorted: Vec<&String> = names.iter().collect();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(refuse(pair[0], "two tensors have this name".to_owned()));
        }
        names.shrink_to_fit();
        Ok(Self {
            places: offsets
                .iter()
                .map(|(a, b)| (start + a, start + b))
                .collect(),
            names,
            len: start + end,
            header,
        })
    }

    /// Length prefix, JSON and padding.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Bytes of the whole file.
    pub fn file_len(&self) -> u64 {
        self.len
    }

    /// Where in the file tensor `index` (in the order given) begins and ends.
    pub fn place(&self, index: usize) -> (u64, u64) {
        self.places[index]
    }

    /// The name of tensor `index`.
    pub fn name(&self, index: usize) -> &str {
        &self.names[index]
    }

    /// Number of tensors.
    pub fn tensors(&self) -> usize {
        self.places.len()
    }
}

/// Compact JSON. Strings, numbers and maps of strings always have one.
fn text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn bytes(tensor: &NewTensor) -> Option<u64> {
    let elements = tensor
        .shape
        .iter()
        .try_fold(1u64, |n, side| n.checked_mul(*side as u64))?;
    let bits = elements.checked_mul(tensor.dtype.bitsize() as u64)?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
