//! From the journal to the rows of `results.json`.

use std::collections::BTreeMap;

use super::journal::{Cold, Entry, Journal, Line, Taught};
use super::results::{Picture, Quality, Spread, Variant};
use super::statistics::{Interval, bootstrap_mean, mean, median, percentile};

/// Resamples of a bootstrap, its seed and its level.
const RESAMPLES: usize = 4000;
const SEED: u64 = 1;
const LEVEL: f64 = 0.95;

/// What the journal has of a row.
struct Seen<'a> {
    entries: Vec<&'a Entry>,
    cold: Option<Cold>,
    taught: Option<&'a Taught>,
}

fn seen<'a>(journal: &'a Journal, row: &str) -> Seen<'a> {
    let mut seen = Seen {
        entries: Vec::new(),
        cold: None,
        taught: None,
    };
    for line in &journal.lines {
        match line {
            Line::Picture(entry) if entry.variant == row => seen.entries.push(entry),
            Line::Cold(of, cold) if of == row => seen.cold = Some(*cold),
            Line::Taught(of, taught) if of == row => seen.taught = Some(taught),
            _ => {}
        }
    }
    seen.entries.sort_by_key(|entry| entry.prompt);
    // A picture whose file was lost was made again.
    seen.entries.reverse();
    seen.entries.dedup_by_key(|entry| entry.prompt);
    seen.entries.reverse();
    seen
}

/// Fills in what the journal knows of `row`; what it does not know stays as it is.
pub fn fill(variant: &mut Variant, row: &str, baseline: &str, journal: &Journal) {
    let (mine, base) = (seen(journal, row), seen(journal, baseline));
    let seconds: Vec<f64> = mine.entries.iter().map(|e| e.picture.seconds).collect();
    variant.images = seconds.len();
    if seconds.is_empty() {
        return;
    }
    variant.total_s = seconds.iter().sum();
    variant.avg_s = mean(&seconds);
    variant.median_s = median(&seconds);
    variant.p95_s = percentile(&seconds, 95.0);
    variant.cold_start_s = mine.cold.map(|cold| cold.seconds);
    variant.peak_rss_bytes = mine.cold.and_then(|cold| cold.peak_rss_bytes);
    let pairs = pairs(&base, &mine);
    if !pairs.is_empty() {
        let [base, mine] = pairs
            .iter()
            .fold([0.0, 0.0], |[a, b], (x, y)| [a + x, b + y]);
        let ratio = base / mine;
        variant.speedup = Some(ratio);
        // What each picture adds to the ratio of the sums, to first order: their mean is the ratio.
        let mean = mine / pairs.len() as f64;
        let adds = |(base, mine): &(f64, f64)| ratio + (base - ratio * mine) / mean;
        let interval = bootstrap(&pairs.iter().map(adds).collect::<Vec<_>>());
        variant.speedup_interval = Some([interval.low, interval.high]);
    }
    variant.parts_s = parts(&mine.entries);
    variant.pictures = mine.entries.iter().map(|e| e.picture.clone()).collect();
    variant.quality = quality(&variant.pictures, mine.taught);
}

/// Seconds of the same prompts.
fn pairs(base: &Seen<'_>, mine: &Seen<'_>) -> Vec<(f64, f64)> {
    let seconds = |e: &&Entry| (e.prompt, e.picture.seconds);
    let base: BTreeMap<usize, f64> = base.entries.iter().map(seconds).collect();
    let mine = mine.entries.iter().map(seconds);
    mine.filter_map(|(i, s)| Some((*base.get(&i)?, s)))
        .collect()
}

fn parts(entries: &[&Entry]) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::<String, f64>::new();
    for (part, seconds) in entries.iter().flat_map(|e| &e.parts) {
        *sums.entry(part.clone()).or_default() += seconds;
    }
    sums.values_mut()
        .for_each(|s| *s /= entries.len().max(1) as f64);
    sums
}

fn quality(pictures: &[Picture], taught: Option<&Taught>) -> Quality {
    let mut quality = Quality::default();
    let mut figure = |name: &str| {
        let values: Vec<f64> = pictures
            .iter()
            .filter_map(|p| p.scores.get(name).copied())
            .collect();
        if values.is_empty() {
            return None;
        }
        let Spread { median, low, high } = spread(&values);
        let of = Spread { median, low, high };
        quality.spread.insert(name.to_owned(), of);
        Some(mean(&values))
    };
    let figures = [
        "psnr_db",
        "ssim",
        "ms_ssim",
        "ssimulacra2",
        "detail_ratio",
        "lpips",
    ]
    .map(&mut figure);
    [
        quality.psnr_db,
        quality.ssim,
        quality.ms_ssim,
        quality.ssimulacra2,
        quality.detail_ratio,
        quality.lpips,
    ] = figures;
    let right: Vec<f64> = pictures
        .iter()
        .filter_map(|p| p.right)
        .map(|right| f64::from(u8::from(right)))
        .collect();
    if !right.is_empty() {
        quality.prompt_accuracy = Some(mean(&right));
        quality
            .spread
            .insert("prompt_accuracy".to_owned(), spread(&right));
    }
    if let Some(taught) = taught.filter(|t| !t.velocity.is_empty()) {
        let of_prompts: Vec<f64> = taught.velocity.iter().map(|steps| mean(steps)).collect();
        quality.velocity_rel_err = Some(mean(&of_prompts));
        quality
            .spread
            .insert("velocity_rel_err".to_owned(), spread(&of_prompts));
        let steps = taught.velocity.iter().map(Vec::len).min().unwrap_or(0);
        quality.velocity_by_step = (0..steps)
            .map(|step| mean(&taught.velocity.iter().map(|v| v[step]).collect::<Vec<_>>()))
            .collect();
        quality.layer_sqnr_db.clone_from(&taught.layers);
    }
    quality
}

fn spread(values: &[f64]) -> Spread {
    let interval = bootstrap(values);
    Spread {
        median: median(values),
        low: interval.low,
        high: interval.high,
    }
}

/// What a figure says where more of it is better, and where less is.
const FIGURES: [(&str, &str, bool); 4] = [
    ("ssimulacra2", "SSIMULACRA 2", true),
    ("psnr_db", "PSNR", true),
    ("lpips", "LPIPS", false),
    ("velocity_rel_err", "velocity error", false),
];

/// For neighbouring rows, best first, whether they differ by more than noise: paired over prompts.
pub fn findings(
    order: &[String],
    variants: &BTreeMap<String, Variant>,
    journal: &Journal,
) -> Vec<String> {
    let mut said = Vec::new();
    for (name, word, more_is_better) in FIGURES {
        let mut rows: Vec<(&String, BTreeMap<usize, f64>)> = order
            .iter()
            .filter(|row| variants.get(*row).is_some_and(|v| v.error.is_none()))
            .map(|row| (row, values(journal, row, name)))
            .filter(|(_, values)| !values.is_empty())
            .collect();
        let middle = |v: &BTreeMap<usize, f64>| mean(&v.values().copied().collect::<Vec<_>>());
        rows.sort_by(|(_, a), (_, b)| middle(b).total_cmp(&middle(a)));
        if !more_is_better {
            rows.reverse();
        }
        let mut sentence = String::new();
        for (i, (row, values)) in rows.iter().enumerate() {
            let sign = match i.checked_sub(1).map(|before| &rows[before]) {
                None => "",
                Some((_, before)) if differ(before, values) => " > ",
                Some(_) => " ≈ ",
            };
            sentence.push_str(sign);
            sentence.push_str(row);
        }
        if rows.len() > 1 {
            said.push(format!(
                "{word}, best first (≈: not more than noise): {sentence}"
            ));
        }
    }
    said
}

/// A figure by prompt.
fn values(journal: &Journal, row: &str, name: &str) -> BTreeMap<usize, f64> {
    let seen = seen(journal, row);
    match name {
        "velocity_rel_err" => {
            let taught = seen
                .taught
                .map(|t| t.velocity.as_slice())
                .unwrap_or_default();
            taught.iter().map(|steps| mean(steps)).enumerate().collect()
        }
        _ => {
            let entries = seen.entries.iter();
            let value = |e: &&Entry| Some((e.prompt, *e.picture.scores.get(name)?));
            entries.filter_map(value).collect()
        }
    }
}

/// Whether the mean of the paired differences is not zero, at 95 %.
fn differ(a: &BTreeMap<usize, f64>, b: &BTreeMap<usize, f64>) -> bool {
    let differences: Vec<f64> = a
        .iter()
        .filter_map(|(prompt, a)| Some(a - b.get(prompt)?))
        .collect();
    bootstrap(&differences).excludes(0.0)
}

fn bootstrap(values: &[f64]) -> Interval {
    bootstrap_mean(values, RESAMPLES, SEED, LEVEL)
}
