//! Number formats as pure functions on slices: no tensor names, no files.

pub mod widen;
