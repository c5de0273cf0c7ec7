//! Files that belong together on disk: folders, shard indices, configs.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::gather::Strictness;
use super::{CheckpointError, SafetensorsFile};

/// Longest JSON file that is read. The index of a full-size checkpoint has about 200 KB.
const MAX_JSON: u64 = 64 << 20;

/// The weights of a folder: by its index where there is one, else all safetensors files in it.
pub(super) fn weights_in(
    folder: &Path,
    strictness: Strictness,
) -> Result<Vec<Arc<SafetensorsFile>>, CheckpointError> {
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
        return shards(index, strictness);
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
        .map(|path| strictness.open(path))
        .collect()
}

/// The files that an index (`*.safetensors.index.json`) names.
pub(super) fn shards(
    index: &Path,
    strictness: Strictness,
) -> Result<Vec<Arc<SafetensorsFile>>, CheckpointError> {
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
        .map(|name| strictness.open(&folder.join(name)))
        .collect::<Result<Vec<_>, _>>()?;
    let missing = map.iter().find(|(tensor, file)| {
        let here = files
            .iter()
            .find(|f| f.path().file_name().and_then(|n| n.to_str()) == file.as_str());
        here.is_none_or(|f| !f.contains(tensor))
    });
    match missing {
        // A shard that is cut lacks tensors for that reason, which inspection reports by itself.
        _ if strictness == Strictness::Lenient => Ok(files),
        None => Ok(files),
        Some((tensor, file)) => Err(refuse(&format!(
            "it says that `{tensor}` is in {file}, which does not hold it; the shards are of different versions"
        ))),
    }
}

/// Reads a JSON object from a file of at most [`MAX_JSON`] bytes.
pub(super) fn read_json(path: &Path) -> Result<Value, CheckpointError> {
    let io = |source| CheckpointError::Io {
        path: path.to_owned(),
        source,
    };
    let refuse = |reason: String| CheckpointError::Json {
        path: path.to_owned(),
        reason,
    };
    let mut text = Vec::new();
    let file = fs::File::open(path).map_err(io)?;
    file.take(MAX_JSON + 1).read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > MAX_JSON {
        return Err(refuse(format!(
            "it is longer than {MAX_JSON} bytes, which no config or index is"
        )));
    }
    let json: Value = serde_json::from_slice(&text)
        .map_err(|e| refuse(format!("it is not valid JSON ({e}); download it again")))?;
    match json.is_object() {
        true => Ok(json),
        false => Err(refuse(
            "it is not a JSON object; download it again".to_owned(),
        )),
    }
}

/// The diffusers class that a config is for.
pub(super) fn class_name(json: &Value) -> Option<&str> {
    json.get("_class_name")?.as_str()
}
