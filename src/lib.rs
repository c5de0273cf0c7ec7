//! Native inference and quantization of Qwen-Image.
//!
//! Two flows, in the order in which the modules build on each other:
//! * generate: `checkpoint -> model (ops) -> pipeline -> image`
//! * convert: `checkpoint -> quantize::plan -> quantize::execute (numerics) -> checkpoint::writer`
//!
//! * [`numerics`]: number formats as pure functions on slices.
//! * [`checkpoint`]: files on disk to named tensors with a stated format.
//! * [`quantize`]: one checkpoint to a mixed NVFP4/FP8 one, by a plan.
//! * [`ops`]: the only door to kernels.
//! * [`model`]: Qwen-Image as it is drawn on paper.
//! * [`pipeline`]: prompt to image.
//! * [`calibrate`]: generations under an observer, to a calibration file.
//! * [`inspect`]: what a checkpoint holds, and what is wrong with it.
//! * [`bench`]: rows of converted models side by side, for speed and for quality.
//! * [`cli`]: the command line.

pub mod bench;
pub mod calibrate;
pub mod checkpoint;
pub mod cli;
pub mod context;
pub mod inspect;
pub mod model;
pub mod numerics;
pub mod ops;
pub mod pipeline;
pub mod quantize;
