//! How a picture is judged.

use std::collections::BTreeMap;

use super::scorer::{Pixels, Scene, compare, read};
use crate::pipeline::image::Picture;

/// Figures of `picture` against `base`, by name.
pub fn scores(base: &Picture, picture: &Picture) -> BTreeMap<String, f64> {
    let _ = (base, picture);
    BTreeMap::new()
}

/// Whether a picture of the tiny model shows all that its prompt says; nothing for a prompt that is not of its language.
pub fn right(prompt: &str, picture: &Picture) -> Option<bool> {
    let scene: Scene = prompt.parse().ok()?;
    let reading = read(&Pixels {
        width: picture.width,
        height: picture.height,
        rgb: picture.rgb.clone(),
    });
    Some(compare(&scene, &reading).all())
}
