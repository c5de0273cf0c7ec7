//! The figures of a row, each with its name, its meaning and how it is written: one list for both reports.

use super::text::{bytes, number, percent, seconds};
use crate::bench::results::{Results, Variant};

/// Which way a figure is better.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Better {
    /// As with SSIM.
    Higher,
    /// As with seconds.
    Lower,
    /// As with counts, of which none is better.
    Neither,
}

/// A figure.
pub(super) struct Column {
    /// What stands above it.
    pub name: &'static str,
    /// A sentence about it.
    pub meaning: &'static str,
    /// Which way is better.
    pub better: Better,
    /// The figure, if it is known and finite.
    value: fn(&Variant) -> Option<f64>,
    /// Its name in `Quality::spread`, or `speedup`.
    key: &'static str,
    /// How it is written.
    show: fn(f64) -> String,
}

impl Column {
    /// The figure of a row, if it is known and finite.
    pub(super) fn value(&self, row: &Variant) -> Option<f64> {
        (self.value)(row).filter(|v| v.is_finite())
    }

    /// Its 95 % interval.
    pub(super) fn interval(&self, row: &Variant) -> Option<[f64; 2]> {
        self.value(row)?;
        let interval = match self.key {
            "speedup" => row.speedup_interval,
            key => row.quality.spread.get(key).map(|s| [s.low, s.high]),
        };
        interval.filter(|i| i.iter().all(|v| v.is_finite()))
    }

    /// The figure in words.
    pub(super) fn text(&self, row: &Variant) -> Option<String> {
        self.value(row).map(self.show)
    }

    /// Its interval in words.
    pub(super) fn interval_text(&self, row: &Variant) -> Option<String> {
        let [low, high] = self.interval(row)?;
        let plain = |v| {
            let text = (self.show)(v);
            text.trim_end_matches(|c: char| !c.is_ascii_digit())
                .to_owned()
        };
        Some(format!("{} … {}", plain(low), plain(high)))
    }

    /// The best row that did not fail and is not the baseline.
    pub(super) fn best<'a>(&self, results: &'a Results) -> Option<(&'a str, &'a Variant)> {
        let sign = match self.better {
            Better::Higher => -1.0,
            Better::Lower => 1.0,
            Better::Neither => return None,
        };
        rows(results)
            .filter(|(name, row)| row.error.is_none() && *name != results.baseline)
            .filter_map(|(name, row)| Some((self.value(row)? * sign, name, row)))
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, name, row)| (name, row))
    }

    /// Whether a row is as good as the best, as far as it is written; not where all are the same.
    pub(super) fn is_best(&self, (name, row): (&str, &Variant), results: &Results) -> bool {
        let best = self.best(results).and_then(|(_, best)| self.text(best));
        let texts = rows(results).filter_map(|(_, row)| self.text(row));
        best.is_some()
            && self.text(row) == best
            && row.error.is_none()
            && name != results.baseline
            && texts.into_iter().any(|t| Some(t) != best)
    }
}

/// The rows in order; those that `order` forgets follow by name.
pub(super) fn rows(results: &Results) -> impl Iterator<Item = (&str, &Variant)> {
    let known = results.order.iter().filter_map(|name| {
        let (name, row) = results.variants.get_key_value(name)?;
        Some((name.as_str(), row))
    });
    let forgotten = results.variants.iter();
    let forgotten = forgotten.filter(|(name, _)| !results.order.contains(name));
    known.chain(forgotten.map(|(name, row)| (name.as_str(), row)))
}

/// `value`, where the row has a picture.
fn drawn(row: &Variant, value: f64) -> Option<f64> {
    (row.images > 0).then_some(value)
}

const fn column(
    name: &'static str,
    better: Better,
    value: fn(&Variant) -> Option<f64>,
    show: fn(f64) -> String,
    meaning: &'static str,
) -> Column {
    Column {
        name,
        meaning,
        better,
        value,
        key: "",
        show,
    }
}

impl Column {
    const fn spread(mut self, key: &'static str) -> Self {
        self.key = key;
        self
    }
}

/// Baseline's time over the row's.
pub(super) const SPEEDUP: Column = column(
    "speedup",
    Better::Higher,
    |v| v.speedup,
    |v| format!("{v:.2}×"),
    "Mean seconds of the baseline over those of the row, prompt by prompt; above 1 is faster.",
)
.spread("speedup");
/// Mean seconds of a picture.
pub(super) const AVERAGE: Column = column(
    "average s",
    Better::Lower,
    |v| drawn(v, v.avg_s),
    seconds,
    "Mean seconds from prompt to pixels, the model being loaded.",
);
/// Bytes of a checkpoint.
pub(super) const SIZE: Column = column(
    "file size",
    Better::Lower,
    |v| (v.file_bytes > 0).then_some(v.file_bytes as f64),
    bytes,
    "Bytes of the checkpoint, text encoder and VAE included where it is an all-in-one.",
);
/// Error of the velocity.
pub(super) const VELOCITY: Column = column("velocity error", Better::Lower, |v| v.quality.velocity_rel_err, |v| number(v, 4),
    "Length of the difference of the two velocities over the length of the baseline's, both models being given the baseline's \
     latents at each step: what quantization does to the model itself, without the drift of the picture.").spread("velocity_rel_err");
/// SSIMULACRA 2.
pub(super) const SSIMULACRA2: Column = column("SSIMULACRA2", Better::Higher, |v| v.quality.ssimulacra2, |v| number(v, 1),
    "Likeness of pictures as people see it: 100 is equal, 90 hard to tell apart, 70 good, 50 middling.").spread("ssimulacra2");
/// The share of right pictures.
pub(super) const ACCURACY: Column = column("prompt accuracy", Better::Higher, |v| v.quality.prompt_accuracy, percent,
    "Share of pictures that show all that the prompt says, read back from the pixels by a program; tiny model only.").spread("prompt_accuracy");

/// The columns that the original project's table had, after the row's name.
pub(super) const ORIGINAL: [Column; 7] = [
    column(
        "NVFP4 layers",
        Better::Neither,
        |v| Some(v.layers.nvfp4 as f64),
        |v| number(v, 0),
        "Linear layers whose weights and activations are in NVFP4 (4 bits, a scale for every 16 numbers).",
    ),
    column(
        "FP8 layers",
        Better::Neither,
        |v| Some(v.layers.float8_e4m3fn as f64),
        |v| number(v, 0),
        "Linear layers whose weights and activations are in FP8 (E4M3).",
    ),
    column(
        "images",
        Better::Neither,
        |v| Some(v.images as f64),
        |v| number(v, 0),
        "Pictures that were made.",
    ),
    column(
        "total s",
        Better::Lower,
        |v| drawn(v, v.total_s),
        seconds,
        "Seconds of all pictures together.",
    ),
    AVERAGE,
    SPEEDUP,
    column(
        "cold start",
        Better::Lower,
        |v| v.cold_start_s,
        |v| format!("{} s", seconds(v)),
        "Seconds of a whole process that starts, loads the model and makes one picture.",
    ),
];

/// More of time and space.
pub(super) const SPACE: [Column; 4] = [
    column(
        "median s",
        Better::Lower,
        |v| drawn(v, v.median_s),
        seconds,
        "Half of the pictures took less.",
    ),
    column(
        "p95 s",
        Better::Lower,
        |v| drawn(v, v.p95_s),
        seconds,
        "95 % of the pictures took less.",
    ),
    SIZE,
    column(
        "peak memory",
        Better::Lower,
        |v| v.peak_rss_bytes.map(|b| b as f64),
        bytes,
        "The most memory that the process of the cold start had in use, mapped pages of the checkpoint included.",
    ),
];

/// Quality against the baseline.
pub(super) const QUALITY: [Column; 7] = [
    column(
        "PSNR",
        Better::Higher,
        |v| v.quality.psnr_db,
        |v| format!("{} dB", number(v, 2)),
        "Peak signal-to-noise ratio of the pixels; equal pictures count as 100 dB.",
    )
    .spread("psnr_db"),
    column(
        "SSIM",
        Better::Higher,
        |v| v.quality.ssim,
        |v| number(v, 4),
        "Structural similarity, 1 is equal.",
    )
    .spread("ssim"),
    column(
        "MS-SSIM",
        Better::Higher,
        |v| v.quality.ms_ssim,
        |v| number(v, 4),
        "The same at several scales.",
    )
    .spread("ms_ssim"),
    SSIMULACRA2,
    column(
        "detail ratio",
        Better::Neither,
        |v| v.quality.detail_ratio,
        |v| number(v, 3),
        "Energy of the high frequencies over the baseline's: below 1 is smoother, above 1 noisier.",
    )
    .spread("detail_ratio"),
    VELOCITY,
    ACCURACY,
];

/// What is measured with weights that the user brings.
const LPIPS: [Column; 1] = [column(
    "LPIPS",
    Better::Lower,
    |v| v.quality.lpips,
    |v| number(v, 4),
    "Learned distance of two pictures, 0 is equal; the weights were the user's.",
)
.spread("lpips")];

/// [`LPIPS`], where a row has it.
pub(super) fn learned(results: &Results) -> &'static [Column] {
    const WITH: &[Column] = &LPIPS;
    match rows(results).any(|(_, row)| row.quality.lpips.is_some()) {
        true => WITH,
        false => &[],
    }
}
