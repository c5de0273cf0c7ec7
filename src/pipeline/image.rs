//! Decoded pixels to PNG files that say how they were made.

use std::path::Path;

use candle_core::Tensor;
use png::text_metadata::{ITXtChunk, TEXtChunk};

use super::PipelineError;
use super::request::Settings;
use crate::checkpoint::{Activations, LoraLabel, write_whole};

/// A picture as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height * width * 3` bytes, RGB.
    pub rgb: Vec<u8>,
}

impl Picture {
    /// Row `row` of decoded pixels `[B, 3, H, W]` in [-1, 1], rounded as diffusers' `VaeImageProcessor` does: half to even.
    ///
    /// # Errors
    /// Where the shape is another.
    pub fn of(pixels: &Tensor, row: usize) -> candle_core::Result<Self> {
        let (_, _, height, width) = pixels.dims4()?;
        let planes = pixels.get(row)?.flatten_all()?.to_vec1::<f32>()?;
        let byte = |v: f32| ((v / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
        let rgb = (0..height * width)
            .flat_map(|p| [0, 1, 2].map(|c| byte(planes[c * height * width + p])))
            .collect();
        Ok(Self { width, height, rgb })
    }

    /// Writes a PNG with `parameters` as its text of that name; the file appears whole or not at all.
    ///
    /// # Errors
    /// [`PipelineError::Encode`] and [`PipelineError::Write`].
    pub fn save(&self, path: &Path, parameters: &str) -> Result<(), PipelineError> {
        let mut bytes = Vec::new();
        self.encode(&mut bytes, parameters)
            .map_err(|e| PipelineError::Encode {
                path: path.to_owned(),
                reason: e.to_string(),
            })?;
        Ok(write_whole(path, &bytes)?)
    }

    fn encode(&self, out: &mut Vec<u8>, parameters: &str) -> Result<(), png::EncodingError> {
        let mut encoder = png::Encoder::new(out, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        // tEXt holds Latin-1 only.
        match parameters.chars().all(|c| u32::from(c) < 256 && c != '\0') {
            true => writer.write_text_chunk(&TEXtChunk::new("parameters", parameters))?,
            false => writer.write_text_chunk(&ITXtChunk::new("parameters", parameters))?,
        }
        writer.write_image_data(&self.rgb)
    }
}

/// How a picture was made, for [`parameters`].
pub struct Provenance<'a> {
    /// Its prompt.
    pub prompt: &'a str,
    /// Its seed.
    pub seed: u64,
    /// Steps really taken.
    pub steps: usize,
    /// Settings.
    pub settings: &'a Settings,
    /// The model's name.
    pub model: &'a str,
    /// The checkpoint's fingerprint.
    pub fingerprint: &'a str,
    /// Adapters beside the transformer.
    pub loras: &'a [LoraLabel],
    /// Formats of the transformer's linear layers, as "336 float8_e4m3fn".
    pub policy: &'a str,
    /// How activations were quantized.
    pub activations: Activations,
}

/// The text that the A1111 web UI began and others read: prompt, negative prompt, then `Key: value` pairs.
pub fn parameters(made: &Provenance<'_>) -> String {
    let s = made.settings;
    let negative = match s.cfg == 1.0 {
        true => String::new(),
        false => format!("\nNegative prompt: {}", s.negative),
    };
    let shift = s.shift.map_or(String::new(), |a| format!("Shift: {a}, "));
    let loras = loras(made.loras);
    let activations = match made.activations {
        Activations::Static => "",
        Activations::Dynamic => "Activations: dynamic, ",
        Activations::None => "Activations: none, ",
    };
    let schedule = match s.sigmas {
        Some(_) => "explicit",
        None => s.schedule.name(),
    };
    format!(
        "{}{negative}\nSteps: {}, Sampler: {}, Schedule type: {schedule}, {shift}CFG scale: {}, Seed: {}, \
         Size: {}x{}, Model: {}, Model hash: {}, {loras}Policy: {}, {activations}Version: qwen-nvfp4 {}",
        made.prompt,
        made.steps,
        s.sampler.name(),
        s.cfg,
        made.seed,
        s.width,
        s.height,
        made.model,
        &made.fingerprint[..made.fingerprint.len().min(10)],
        made.policy,
        env!("CARGO_PKG_VERSION"),
    )
}

/// The adapters with their scales, and their hashes as A1111 writes them: `Lora hashes: "name: hash, name: hash", `.
fn loras(loras: &[LoraLabel]) -> String {
    if loras.is_empty() {
        return String::new();
    }
    let scaled: Vec<_> = loras
        .iter()
        .map(|l| format!("{}:{}", l.name, l.scale))
        .collect();
    let hashed: Vec<_> = loras
        .iter()
        .map(|l| format!("{}: {}", l.name, &l.hash[..l.hash.len().min(12)]))
        .collect();
    // Its reader takes a quoted value for JSON.
    let hashes = serde_json::Value::from(hashed.join(", "));
    format!("Lora: {}, Lora hashes: {hashes}, ", scaled.join(" "))
}
