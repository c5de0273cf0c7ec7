//! Prompt accuracy of the tiny model: a picture is read back without looking at its caption, then compared
//! with what the caption asks for.
//!
//! `caption -> `[`Scene`], `pixels -> `[`Reading`], both `-> `[`Verdict`]. The vocabulary is that of the tiny
//! model's training scenes (`models/tiny`): one or two coloured shapes on a pastel background.

mod compare;
mod fit;
mod picture;
mod read;
mod scene;
mod shape;

pub use compare::{Verdict, compare, table};
pub use picture::Pixels;
pub use read::{Object, Reading, read};
pub use scene::{Back, Color, Scene, SceneError, SceneObject, Size, Style};
pub use shape::Shape;
