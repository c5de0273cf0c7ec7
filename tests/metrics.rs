//! Picture metrics and statistics against scikit-image, pytorch-msssim, the program of SSIMULACRA 2's author, numpy and
//! scipy (`tests/fixtures/metrics/make_metrics.py`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::PathBuf;

use image::RgbImage;
use qwen_nvfp4::bench::metrics::{Pair, Picture, Quality, scales};
use qwen_nvfp4::bench::statistics::{bootstrap_mean, mean, median, percentile};
use serde_json::Value;

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/metrics")
        .join(file)
}

fn rows(file: &str) -> Vec<Value> {
    serde_json::from_slice(&fs::read(path(file)).unwrap()).unwrap()
}

/// The two pictures of a row.
fn pictures(row: &Value) -> [RgbImage; 2] {
    ["reference", "picture"].map(|key| {
        let name = row[key].as_str().unwrap();
        image::open(path(&format!("{name}.png"))).unwrap().to_rgb8()
    })
}

fn quality([reference, picture]: &[RgbImage; 2]) -> Quality {
    let [reference, picture] = [reference, picture]
        .map(|p| Picture::new(p.width() as usize, p.height() as usize, p.as_raw()).unwrap());
    Quality::of(&Pair::new(reference, picture).unwrap()).unwrap()
}

fn numbers(row: &Value) -> Vec<f64> {
    let list = row.as_array().unwrap();
    list.iter().map(|v| v.as_f64().unwrap()).collect()
}

#[test]
fn pictures_measure_as_the_published_programs_say() {
    // Each metric and how far it may be off; the program of SSIMULACRA 2 prints eight decimals.
    let mut worst = [
        ("psnr_db", 0.0, 1e-10),
        ("ssim", 0.0, 1e-11),
        ("ms_ssim", 0.0, 1e-11),
        ("ssimulacra2", 0.0, 1e-6),
        ("detail_ratio", 0.0, 1e-11),
    ];
    for row in rows("metrics.json") {
        let pictures = pictures(&row);
        let found = quality(&pictures);
        let size = (pictures[0].width() as usize, pictures[0].height() as usize);
        assert_eq!(scales(size.0, size.1) as u64, row["scales"], "{row}");
        let laplacian = numbers(&row["laplacian"]);
        let expected = [
            // null: infinity.
            row["psnr_db"].as_f64().unwrap_or(f64::INFINITY),
            row["ssim"].as_f64().unwrap(),
            row["ms_ssim"].as_f64().unwrap(),
            row["ssimulacra2"].as_f64().unwrap(),
            laplacian[1] / laplacian[0],
        ];
        let found = [
            found.psnr_db,
            found.ssim,
            found.ms_ssim,
            found.ssimulacra2,
            found.detail_ratio,
        ];
        for ((found, expected), worst) in found.iter().zip(expected).zip(&mut worst) {
            let difference = if *found == expected {
                0.0
            } else {
                (found - expected).abs()
            };
            worst.1 = difference.max(worst.1);
        }
    }
    for (name, difference, tolerance) in worst {
        println!("{name}: differs by at most {difference:.1e}, allowed {tolerance:.0e}");
    }
    for (name, difference, tolerance) in worst {
        assert!(difference <= tolerance, "{name} differs by {difference}");
    }
}

#[test]
fn equal_pictures_are_perfect() {
    for row in rows("metrics.json") {
        let [reference, _] = pictures(&row);
        let found = quality(&[reference.clone(), reference]);
        assert_eq!(found.psnr_db, f64::INFINITY);
        assert_eq!(found.ssimulacra2, 100.0);
        assert_eq!(found.detail_ratio, 1.0);
        assert!((found.ssim - 1.0).abs() < 1e-12 && (found.ms_ssim - 1.0).abs() < 1e-12);
    }
}

#[test]
fn numbers_do_not_depend_on_threads() {
    let rows = rows("metrics.json");
    let row = rows.iter().find(|r| r["picture"] == "photo-jpeg").unwrap();
    let pictures = pictures(row);
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap().install(|| quality(&pictures))
    };
    assert_eq!(on(1), on(7));
}

#[test]
fn pictures_without_detail_have_a_ratio() {
    let flat = RgbImage::from_pixel(64, 64, image::Rgb([13, 77, 201]));
    let other = RgbImage::from_pixel(64, 64, image::Rgb([200, 3, 1]));
    let star = image::open(path("star.png")).unwrap().to_rgb8();
    assert_eq!(quality(&[flat.clone(), other]).detail_ratio, 1.0);
    assert_eq!(quality(&[star.clone(), flat.clone()]).detail_ratio, 0.0);
    assert_eq!(quality(&[flat, star]).detail_ratio, f64::INFINITY);
}

#[test]
fn statistics_are_those_of_numpy() {
    let (mut worst, mut worst_scipy) = (0.0f64, 0.0f64);
    for row in rows("statistics.json") {
        let values = numbers(&row["values"]);
        let near = |found: f64, expected: &Value| {
            let difference = (found - expected.as_f64().unwrap()).abs();
            assert!(difference < 1e-12, "{found} instead of {expected}");
            difference
        };
        worst = worst.max(near(mean(&values), &row["mean"]));
        worst = worst.max(near(median(&values), &row["median"]));
        for pair in row["percentiles"].as_array().unwrap() {
            assert_eq!(percentile(&values, pair[0].as_f64().unwrap()), pair[1]);
        }
        let (level, seed) = (
            row["level"].as_f64().unwrap(),
            row["seed"].as_u64().unwrap(),
        );
        let resamples = row["resamples"].as_u64().unwrap() as usize;
        let found = bootstrap_mean(&values, resamples, seed, level);
        worst = worst.max(near(found.low, &row["interval"][0]));
        worst = worst.max(near(found.high, &row["interval"][1]));

        // Other draws than scipy's, so only as near as chance lets them be: in units of the interval's width.
        if !row["scipy"].is_null() {
            let scipy = numbers(&row["scipy"]);
            let found = bootstrap_mean(&values, 20_000, 1, level);
            for (found, scipy_end) in [(found.low, scipy[0]), (found.high, scipy[1])] {
                let difference = (found - scipy_end).abs() / (scipy[1] - scipy[0]);
                worst_scipy = worst_scipy.max(difference);
            }
        }
    }
    println!("numpy: differs by at most {worst:.1e}; scipy: by {worst_scipy:.4} of the width");
    assert!(worst_scipy < 0.03, "{worst_scipy} of the width");
}
