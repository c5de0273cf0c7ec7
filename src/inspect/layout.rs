//! Faults of files as containers, and of the names in them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::components::unknown;
use super::fault::{FaultKind, Findings};
use super::markers;
use crate::checkpoint::gather::Opened;
use crate::checkpoint::{Component, Names, SafetensorsFile, TensorView};

/// Lengths and places.
pub(super) fn check_files(opened: &Opened, found: &mut Findings) {
    for file in &opened.files {
        let path = file.path().display();
        if let Some(more) = file.trailing() {
            let end = file.len() - more;
            found.fault(
                "",
                FaultKind::TrailingBytes,
                format!(
                    "{path}: its last tensor ends at byte {end}, {more} bytes follow; other readers refuse it: download it again, or cut it with `truncate -s {end}`"
                ),
            );
        } else if let Some(cut) = file.cut() {
            found.fault(
                "",
                FaultKind::Truncated,
                format!("{path}: {cut}; download or copy it again"),
            );
        }
        for view in file.views() {
            misaligned(&view, found);
        }
    }
}

fn misaligned(view: &TensorView, found: &mut Findings) {
    let width = (view.dtype().bitsize() / 8).max(1);
    if !view.offset().is_multiple_of(width) {
        found.fault(
            view.name(),
            FaultKind::Misaligned,
            format!(
                "its {:?} numbers begin at byte {}, which is no multiple of {width}; save the file again",
                view.dtype(),
                view.offset()
            ),
        );
    }
}

/// Names of no component, of one tensor twice, and prefixes.
pub(super) fn check_names(opened: &Opened, found: &mut Findings) {
    for name in &opened.unknown {
        match markers::is_foreign(name) {
            true => markers::foreign(name, found),
            false => unknown(name, "the model", found),
        }
    }
    for [kept, other] in &opened.duplicates {
        found.fault(
            other.name(),
            FaultKind::DuplicateTensor,
            format!(
                "it is the same tensor as `{}` of {}; two checkpoints are mixed up, remove one of them",
                kept.name(),
                kept.file().path().display()
            ),
        );
    }
    let mut prefixed = false;
    for file in &opened.files {
        prefixed |= check_prefixes(opened, file, found);
    }
    check_complete(opened, prefixed, found);
}

/// A file's components must all carry their prefixes, or none of them. Tells whether any does.
fn check_prefixes(opened: &Opened, file: &Arc<SafetensorsFile>, found: &mut Findings) -> bool {
    let (mut with, mut without) = (BTreeSet::new(), Vec::new());
    for (component, tensors) in &opened.tensors {
        let mut here = tensors
            .values()
            .filter(|view| Arc::ptr_eq(view.file(), file))
            .peekable();
        let Some(first) = here.peek().map(|view| view.name().to_owned()) else {
            continue;
        };
        match here.any(|view| Names::has_prefix(view.name())) {
            true => {
                with.insert(*component);
            }
            false => without.push((*component, first)),
        }
    }
    for (component, first) in without.iter().filter(|_| !with.is_empty()) {
        let consequence = match component {
            Component::Transformer => {
                "ComfyUI's checkpoint loader finds no model config and loads no CLIP and no VAE"
            }
            Component::TextEncoder => "ComfyUI's checkpoint loader loads no CLIP",
            Component::Vae => "ComfyUI's checkpoint loader loads no VAE",
        };
        found.fault(
            first,
            FaultKind::StrippedPrefix,
            format!(
                "the {component} has no prefix, other components of the file have theirs: {consequence}; convert with --keys comfy"
            ),
        );
    }
    !with.is_empty()
}

/// Two components, or a transformer named as in an all-in-one, are most of one.
fn check_complete(opened: &Opened, prefixed: bool, found: &mut Findings) {
    let here = |component: &Component| opened.tensors.contains_key(component);
    let lacking: Vec<String> = Component::ALL
        .iter()
        .filter(|component| !here(component))
        .map(ToString::to_string)
        .collect();
    let alone = lacking.len() == 2 && prefixed && here(&Component::Transformer);
    if lacking.len() == 1 || alone {
        let lacking = lacking.join(" and no ");
        found.advise(
            "",
            FaultKind::IncompleteAllInOne,
            format!(
                "it has no {lacking}: ComfyUI's checkpoint loader gives none; load it with Load Diffusion Model and give the rest apart"
            ),
        );
    }
}
