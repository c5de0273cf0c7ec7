//! Draws the first held-out prompts with the embedded model and lays them out on one sheet, none left out.
//!
//!     cargo run --release --example contact_sheet -- models/tiny/sheet.png
//!
//! 25 pictures, seeds 0 to 24, each at twice its size.

use std::path::PathBuf;

use anyhow::Context;
use image::{Rgb, RgbImage, imageops};
use qwen_nvfp4::checkpoint::ModelSource;
use qwen_nvfp4::context::Cx;
use qwen_nvfp4::pipeline::request::Request;
use qwen_nvfp4::pipeline::{Engine, Silent};

const COLUMNS: u32 = 5;
const PICTURES: usize = 25;
const ENLARGE: u32 = 2;
const GAP: u32 = 6;

fn main() -> anyhow::Result<()> {
    let path = std::env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .context("name the PNG to write")?;
    let engine = Engine::load(&ModelSource::Embedded)?;
    let settings = engine.defaults();
    let prompts = include_str!("../models/tiny/held_out_prompts.txt").lines();
    let prompts = prompts
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .take(PICTURES);
    let (w, h) = (
        settings.width as u32 * ENLARGE,
        settings.height as u32 * ENLARGE,
    );
    let rows = PICTURES as u32 / COLUMNS;
    let size = (COLUMNS * (w + GAP) - GAP, rows * (h + GAP) - GAP);
    let mut sheet = RgbImage::from_pixel(size.0, size.1, Rgb([255; 3]));
    for (i, prompt) in prompts.enumerate() {
        println!("{i:2}  {prompt}");
        let request = Request {
            prompts: vec![prompt.to_owned()],
            negatives: None,
            seeds: vec![i as u64],
            settings: settings.clone(),
            latents: None,
        };
        let generated = engine.generate(&request, &Cx::default(), &mut Silent)?;
        let picture = generated
            .pictures
            .into_iter()
            .next()
            .context("no picture")?;
        let (width, height) = (picture.width as u32, picture.height as u32);
        let picture = RgbImage::from_raw(width, height, picture.rgb).context("picture size")?;
        let picture = imageops::resize(&picture, w, h, imageops::FilterType::Nearest);
        let (x, y) = (
            i as u32 % COLUMNS * (w + GAP),
            i as u32 / COLUMNS * (h + GAP),
        );
        imageops::replace(&mut sheet, &picture, i64::from(x), i64::from(y));
    }
    sheet
        .save(&path)
        .with_context(|| format!("cannot write {}", path.display()))
}
