//! The header of a safetensors file that is about to be written, and where each tensor goes.
//!
//! Order and padding are the reference implementation's (`serialize` of the safetensors crate, `save_file` in Python):
//! types by descending alignment, then names ascending; compact JSON padded with spaces to a multiple of 8.

use std::collections::BTreeMap;
use std::fmt::Write;

use safetensors::Dtype;

use super::WriteError;

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
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by(|a, b| {
            let (a, b) = (&tensors[*a], &tensors[*b]);
            b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name))
        });
        let mut json = String::from("{");
        if !metadata.is_empty() {
            let _ = write!(json, "\"__metadata__\":{}", text(metadata));
        }
        let mut offsets = vec![(0, 0); tensors.len()];
        let mut end = 0u64;
        for index in order {
            let tensor = &tensors[index];
            let size = bytes(tensor).ok_or_else(|| WriteError::Layout {
                tensor: tensor.name.clone(),
                reason: format!(
                    "shape {:?} of {:?} has no size in whole bytes",
                    tensor.shape, tensor.dtype
                ),
            })?;
            let stop = end.checked_add(size).ok_or_else(|| WriteError::Layout {
                tensor: tensor.name.clone(),
                reason: "the file would be larger than can be addressed".to_owned(),
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
        let mut header = (padded as u64).to_le_bytes().to_vec();
        header.extend(json.as_bytes());
        header.resize(8 + padded, b' ');
        let start = header.len() as u64;
        let mut names: Vec<String> = tensors.into_iter().map(|t| t.name).collect();
        let mut sorted: Vec<&String> = names.iter().collect();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(WriteError::Layout {
                tensor: pair[0].clone(),
                reason: "two tensors have this name".to_owned(),
            });
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
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use proptest::prelude::*;
    use safetensors::tensor::TensorView;

    use super::*;

    const DTYPES: [Dtype; 8] = [
        Dtype::U8,
        Dtype::F8_E4M3,
        Dtype::F8_E5M2,
        Dtype::F16,
        Dtype::BF16,
        Dtype::F32,
        Dtype::I64,
        Dtype::BOOL,
    ];

    proptest! {
        /// Byte for byte what the safetensors crate writes.
        #[test]
        fn headers_are_the_reference_implementations(
            set in prop::collection::btree_map("[a-z0-9_.\"\\\\é]{1,12}", (0usize..8, prop::collection::vec(0usize..4, 0..3)), 0..20),
            note in prop::option::of("[ -~é\n]{0,20}"),
        ) {
            let metadata: BTreeMap<String, String> = note.into_iter().map(|n| ("note".to_owned(), n)).collect();
            let tensors: Vec<NewTensor> = set.iter().map(|(name, (dtype, shape))| NewTensor {
                name: name.clone(),
                dtype: DTYPES[*dtype],
                shape: shape.clone(),
            }).collect();
            let layout = Layout::of(tensors.clone(), &metadata).unwrap();
            let zeros = vec![0u8; 4096];
            let views: Vec<(String, TensorView)> = tensors.iter().map(|t| {
                let n = bytes(t).unwrap() as usize;
                (t.name.clone(), TensorView::new(t.dtype, t.shape.clone(), &zeros[..n]).unwrap())
            }).collect();
            let plain: Option<HashMap<String, String>> = (!metadata.is_empty()).then(|| metadata.clone().into_iter().collect());
            let reference = safetensors::serialize(views, plain).unwrap();
            prop_assert_eq!(layout.file_len() as usize, reference.len());
            prop_assert_eq!(layout.header(), &reference[..layout.header().len()]);
        }
    }

    #[test]
    fn impossible_tensors_are_refused() {
        let tensor = |name: &str, dtype, shape: &[usize]| NewTensor {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
        };
        let none = BTreeMap::new();
        for tensors in [
            vec![tensor("a", Dtype::F4, &[3])],
            vec![tensor("a", Dtype::F32, &[usize::MAX, 4])],
            vec![tensor("a", Dtype::U8, &[1]), tensor("a", Dtype::F32, &[1])],
        ] {
            assert!(Layout::of(tensors, &none).is_err());
        }
    }
}
