//! How a picture is judged.

use std::collections::BTreeMap;
use std::path::Path;

use super::metrics;
use super::results::Results;
use super::run::load;
use super::scorer::{Pixels, Scene, compare, read};
use crate::pipeline::image::Picture;

/// What equal pictures count as, whose ratio is infinite.
const EQUAL_DB: f64 = 100.0;

/// Figures of `picture` against `base`, by name, LPIPS among them if there are weights for it; those that are no finite number are left out, and none are given for
/// pictures of different sizes or below 11 pixels a side.
pub fn scores(
    base: &Picture,
    picture: &Picture,
    lpips: Option<&metrics::Lpips>,
) -> BTreeMap<String, f64> {
    let view = |p| {
        let Picture { width, height, rgb }: &Picture = p;
        metrics::Picture::new(*width, *height, rgb)
    };
    let pair = view(base).and_then(|base| metrics::Pair::new(base, view(picture)?));
    let both = pair.and_then(|pair| Ok((metrics::Quality::of(&pair)?, pair)));
    let Ok((quality, pair)) = both else {
        return BTreeMap::new();
    };
    let distance = lpips.and_then(|lpips| lpips.distance(&pair).ok());
    let figures = [
        ("lpips", distance.unwrap_or(f64::NAN)),
        ("psnr_db", quality.psnr_db.min(EQUAL_DB)),
        ("ssim", quality.ssim),
        ("ms_ssim", quality.ms_ssim),
        ("ssimulacra2", quality.ssimulacra2),
        ("detail_ratio", quality.detail_ratio),
    ];
    let finite = figures.into_iter().filter(|(_, value)| value.is_finite());
    finite
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
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

/// Fills in how far every row is off the row `reference`, means over the pictures that both have.
pub fn against(results: &mut Results, dir: &Path, reference: &str, lpips: Option<&metrics::Lpips>) {
    let Some(of_reference) = results.variants.get(reference) else {
        return;
    };
    let files: Vec<String> = of_reference
        .pictures
        .iter()
        .map(|p| p.file.clone())
        .collect();
    for (_, variant) in results
        .variants
        .iter_mut()
        .filter(|(name, _)| *name != reference)
    {
        let mut sums = BTreeMap::<String, (f64, f64)>::new();
        for (file, picture) in files.iter().zip(&variant.pictures) {
            // A picture that is gone is missing from the mean, not from the benchmark.
            let (Ok(base), Ok(mine)) = (load(&dir.join(file)), load(&dir.join(&picture.file)))
            else {
                continue;
            };
            for (name, value) in scores(&base, &mine, lpips) {
                let sum = sums.entry(name).or_default();
                *sum = (sum.0 + value, sum.1 + 1.0);
            }
        }
        let means = sums.into_iter().map(|(name, (sum, n))| (name, sum / n));
        variant.quality.against_f32 = means.collect();
    }
}
