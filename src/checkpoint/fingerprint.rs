//! What tells checkpoints apart, at the cost of a few MB of reads where hashing 28 GB would take minutes.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{SafetensorsFile, TensorView};

/// Bytes of each end of a tensor that are read.
const SAMPLE: usize = 4096;

/// SHA-256 over files: every header, its length, and the first and last 4 KiB of every tensor, in hex.
pub(super) fn of_files<'a>(files: impl Iterator<Item = &'a Arc<SafetensorsFile>>) -> String {
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.header_bytes());
        hash.update((file.len() as u64).to_le_bytes());
        for view in file.views() {
            sample(&mut hash, &view);
        }
    }
    hex(&hash.finalize())
}

/// SHA-256 over weights `[out, in]` by name, wherever they lie: name, type, shape and both ends of each, in hex. `weights`
/// come in the order of their names.
pub(crate) fn of_weights(weights: impl Iterator<Item = (String, TensorView)>) -> String {
    let mut hash = Sha256::new();
    for (name, view) in weights {
        hash.update(format!("{name} {:?} {:?}\n", view.dtype(), view.shape()));
        sample(&mut hash, &view);
    }
    hex(&hash.finalize())
}

fn sample(hash: &mut Sha256, view: &TensorView) {
    let bytes = view.bytes();
    hash.update(&bytes[..bytes.len().min(SAMPLE)]);
    hash.update(&bytes[bytes.len().saturating_sub(SAMPLE)..]);
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
