//! Files that people give by mistake, recognised by their first bytes so that the message can say what they are.

use std::path::PathBuf;

use super::CheckpointError;

/// First bytes, what such a file is, what to do.
const KNOWN: &[(&[u8], &str, &str)] = &[
    (b"\x89PNG", "is a PNG picture", "give a `.safetensors` file"),
    (
        b"\xff\xd8\xff",
        "is a JPEG picture",
        "give a `.safetensors` file",
    ),
    (
        b"PK\x03\x04",
        "is a zip archive, perhaps a PyTorch `.pt` or `.ckpt` file",
        "only safetensors are read: download that version, or convert it with torch",
    ),
    (
        b"\x80\x02",
        "is a Python pickle",
        "only safetensors are read: download that version, or convert it with torch",
    ),
    (
        b"GGUF",
        "is a GGUF file",
        "only safetensors are read: download that version",
    ),
    (
        b"version https://git-lfs",
        "is a git-lfs pointer, not the file itself",
        "run `git lfs pull` where it lies",
    ),
    (
        b"<",
        "is a web page, perhaps of a failed download",
        "download it again",
    ),
    (
        b"{",
        "is a JSON file",
        "give the `.safetensors` file, the `*.safetensors.index.json` of a sharded checkpoint, or the folder",
    ),
];

/// The error for a file whose header could not be read: what it is instead, if that can be told.
pub(super) fn explain(path: PathBuf, bytes: &[u8], reason: String) -> CheckpointError {
    // The ninth byte of a safetensors file is `{`: then its first bytes are a length, whatever they look like.
    if bytes.get(8) != Some(&b'{') {
        for (magic, found, hint) in KNOWN {
            if bytes.starts_with(magic) {
                return CheckpointError::Foreign {
                    path,
                    found: (*found).to_owned(),
                    hint: (*hint).to_owned(),
                };
            }
        }
    }
    // Eight printable bytes would be a header of a million terabytes.
    if bytes.len() > 8
        && bytes[..8]
            .iter()
            .all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace())
    {
        return CheckpointError::Foreign {
            path,
            found: "is text".to_owned(),
            hint: "give a `.safetensors` file".to_owned(),
        };
    }
    CheckpointError::Container { path, reason }
}
