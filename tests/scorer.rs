//! The picture reader against its Python original (`tests/fixtures/scorer/make_scorer.py`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use qwen_nvfp4::bench::scorer::{Pixels, Scene, Verdict, compare, read};
use serde_json::Value;

const SIDE: usize = 64;

/// The pictures of a sheet and their rows.
fn fixture(name: &str) -> (Vec<Pixels>, Vec<Value>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/scorer");
    let rows: Vec<Value> =
        serde_json::from_slice(&std::fs::read(dir.join(format!("{name}.json"))).unwrap()).unwrap();
    let sheet = image::open(dir.join(format!("{name}.png")))
        .unwrap()
        .to_rgb8();
    let columns = sheet.width() as usize / SIDE;
    let cut = |k: usize| {
        let (x, y) = ((k % columns) * SIDE, (k / columns) * SIDE);
        let tile = image::imageops::crop_imm(&sheet, x as u32, y as u32, SIDE as u32, SIDE as u32);
        Pixels {
            width: SIDE,
            height: SIDE,
            rgb: tile.to_image().into_raw(),
        }
    };
    ((0..rows.len()).map(cut).collect(), rows)
}

fn check(name: &str) {
    let (pictures, rows) = fixture(name);
    let scenes: Vec<Scene> = rows
        .iter()
        .map(|row| row["caption"].as_str().unwrap().parse().unwrap())
        .collect();
    let (mut wrong, mut verdicts) = (0, 0);
    for (k, row) in rows.iter().enumerate() {
        let reading = read(&pictures[k]);
        let expected = &row["reading"];
        assert_eq!(reading.back.word(), expected["back"], "row {k}");
        assert_eq!(reading.style.word(), expected["style"], "row {k}");
        let objects = expected["objs"].as_array().unwrap();
        assert_eq!(reading.objects.len(), objects.len(), "row {k}");
        for (got, want) in reading.objects.iter().zip(objects) {
            assert_eq!(got.color.word(), want["color"], "row {k}");
            assert_eq!(got.shape.word(), want["shape"], "row {k}");
            assert_eq!(got.size.word(), want["size"], "row {k}");
            for (value, key) in [(got.iou, "iou"), (got.cx, "cx"), (got.cy, "cy")] {
                let difference = (value - want[key].as_f64().unwrap()).abs();
                assert!(difference < 2e-5, "row {k}: {key} differs by {difference}");
            }
        }
        for (scene, key) in [(k, "own"), ((k + 1) % rows.len(), "next")] {
            let verdict: Verdict = compare(&scenes[scene], &reading);
            for (field, right) in verdict.fields() {
                assert_eq!(
                    right, row[key][field],
                    "row {k}: {field} against the {key} caption"
                );
            }
            assert_eq!(
                verdict.all(),
                row[key]["all"],
                "row {k} against the {key} caption"
            );
            verdicts += 1;
            wrong += usize::from(!verdict.all());
        }
    }
    println!(
        "{name}: {} pictures, {verdicts} verdicts ({wrong} of them not right), all as in Python",
        rows.len()
    );
    assert!(
        wrong > 0,
        "the fixture must show that wrong pictures are found wrong"
    );
}

#[test]
fn drawn_scenes_read_as_in_python() {
    check("drawn");
}

#[test]
fn generated_pictures_read_as_in_python() {
    check("generated");
}

#[test]
fn captions_outside_of_the_grammar_are_refused() {
    for caption in [
        "",
        "a cat",
        "a large red star on a plain yellow background",
        "a large red star above on a plain pink background",
    ] {
        assert!(caption.parse::<Scene>().is_err(), "{caption}");
    }
}
