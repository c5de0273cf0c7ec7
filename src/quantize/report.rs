//! What quantization did to each layer, as figures.

use serde::Serialize;

use crate::numerics::error::ErrorStats;

/// One quantized layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerReport {
    /// Its name in the output.
    pub layer: String,
    /// The source's format.
    pub from: &'static str,
    /// The output's.
    pub to: &'static str,
    /// `weight_scale_2` (NVFP4) or `weight_scale` (FP8).
    pub scale: f32,
    /// That over the scale which the largest number asks for.
    pub ratio: f32,
    /// Signal over noise in dB; nothing where no number changed.
    pub sqnr_db: Option<f64>,
    /// Cosine between the weight and what it decodes to.
    pub cosine: f64,
    /// The largest difference of a number.
    pub max_error: f64,
    /// Share of numbers beyond the largest code of their block.
    pub clipped: f64,
    /// Share of numbers that were not zero and became zero.
    pub flushed: f64,
    /// dB that the way through the source's FP8 adds to the noise. For NVFP4 modelled: the lost original is taken to be
    /// spread evenly over each FP8 number's rounding cell. For FP8 to FP8 all noise is added, and this is nothing.
    pub double_quantization_db: Option<f64>,
}

impl LayerReport {
    /// The shares and ratios of `stats`; the caller fills in the rest.
    pub(super) fn of(stats: &ErrorStats) -> Self {
        let share = |n: u64| n as f64 / stats.elements.max(1) as f64;
        Self {
            layer: String::new(),
            from: "",
            to: "",
            scale: 1.0,
            ratio: 1.0,
            sqnr_db: Some(stats.sqnr_db()).filter(|db| db.is_finite()),
            cosine: stats.cosine(),
            max_error: stats.max_error,
            clipped: share(stats.clipped),
            flushed: share(stats.flushed),
            double_quantization_db: None,
        }
    }
}
