#![allow(clippy::unwrap_used)]
use super::comfy::{Captured, Form};
use super::*;

fn amax(calibration: &Calibration, layer: &str) -> f32 {
    calibration.ranges[layer].nvfp4.amax
}

#[test]
fn three_forms_one_meaning() {
    let flat = Calibration::parse("a", r#"{"b.attn.to_q": 284.0}"#, MAX).unwrap();
    let imported = r#"{"version": 1, "layers": {"b.attn.to_q": {"amax": 284, "percentiles": {"p99.9": 71.5}}}}"#;
    let captured = r#"{"layers": {"b.attn.to_q_bin0": {"amax": 2, "p99_9": 1, "count": 3}, "b.attn.to_q_bin5": {"amax": 284, "p99_9": 71.5, "count": 2}}}"#;
    for json in [imported, captured] {
        let max = Calibration::parse("a", json, MAX).unwrap();
        assert_eq!(max.ranges, flat.ranges);
        let p = Calibration::parse("a", json, "p99.9").unwrap();
        assert_eq!(amax(&p, "b.attn.to_q"), 71.5);
    }
    let prefixed = r#"{"model.diffusion_model.b.attn.to_q": 284.0}"#;
    let prefixed = Calibration::parse("a", prefixed, MAX).unwrap();
    assert_eq!(prefixed.ranges, flat.ranges);
}

#[test]
fn values_are_not_guessed() {
    for (json, stat, words) in [
        ("nonsense", MAX, "not JSON"),
        ("[1]", MAX, "no layers"),
        ("{}", MAX, "no layer"),
        (r#"{"a": 0.0}"#, MAX, "positive"),
        (r#"{"a": -1}"#, MAX, "positive"),
        (r#"{"a": 1e300}"#, MAX, "positive"),
        (r#"{"a": "1"}"#, MAX, "no number"),
        (r#"{"a": 1}"#, "p99.9", "flat"),
        (r#"{"a": 1, "diffusion_model.a": 2}"#, MAX, "twice"),
        (
            r#"{"layers": {"a": {"amax": 1, "percentiles": {"p50": 2}}}}"#,
            "p99.9",
            "it has max, p50",
        ),
        (r#"{"layers": {"a": 3}}"#, MAX, "no number"),
        (
            r#"{"layers": {"a": {"tap": 0}}, "taps": [], "version": 1}"#,
            MAX,
            "no calibration with counts",
        ),
    ] {
        let error = Calibration::parse("c.json", json, stat)
            .unwrap_err()
            .to_string();
        assert!(error.contains(words) && error.contains("c.json"), "{error}");
    }
}

/// What the first version of ComfyUI's patch does: everything is added up but `count`.
fn capture(layers: &[(&str, usize)], calls: u32, sums: bool) -> String {
    let entries = layers.iter().enumerate().map(|(i, (layer, numel))| {
        // BF16 numbers, another one for each call.
        let values = (0..calls).map(|c| f64::from(half::bf16::from_f32(3.1 + i as f32 + 0.77 * c as f32)));
        let amax = match sums {
            true => values.sum::<f64>(),
            false => values.fold(0.0, f64::max),
        };
        let count = match (sums, *numel > 524_288) {
            (false, _) => f64::from(calls),
            (true, false) => 1.0,
            (true, true) => *numel as f64 / 131_072.0,
        };
        format!(r#""{layer}_bin0": {{"amax": {amax}, "p99_9": {}, "std": 1.0, "min": 0.0, "max": {amax}, "count": {count}}}"#, amax / 2.0)
    });
    let entries: Vec<String> = entries.collect();
    format!(
        r#"{{"layers": {{{}}}, "sigma_ranges": {{}}}}"#,
        entries.join(", ")
    )
}

#[test]
fn sums_are_told_from_maxima() {
    let mixed = [
        ("a.img_mod.1", 3072),
        ("a.attn.to_q", 4096 * 3072),
        ("a.img_mlp.net.2", 4096 * 12_288),
    ];
    let odd = [("a.attn.to_q", 4097 * 3072)];
    let alike = [("a.attn.to_q", 4096 * 3072), ("a.attn.to_k", 4096 * 3072)];
    let small = [("a.attn.to_q", 1000), ("a.attn.to_k", 1000)];
    for (layers, name) in [
        (&mixed[..], "mixed"),
        (&odd, "odd"),
        (&alike, "alike"),
        (&small, "small"),
    ] {
        for sums in [false, true] {
            let json = capture(layers, 20, sums);
            let read = Captured::parse("CALIB_DATA.json", &json).unwrap();
            println!("{name}: {:?}, {}", read.form, read.why);
            let expected = match (name, sums) {
                // Counts of 96 each: twenty calls would look the same, and only the numbers speak against it.
                ("alike", true) => None,
                (_, true) => Some(Form::Sums),
                (_, false) => Some(Form::Maxima),
            };
            assert_eq!(read.form, expected, "{name}");
            let used = Calibration::parse("CALIB_DATA.json", &json, MAX);
            assert_eq!(used.is_ok(), !sums, "{used:?}");
        }
    }
}

#[test]
fn sums_become_means_only_on_request() {
    let json = capture(&[("a.attn.to_q", 4097 * 3072)], 20, true);
    let read = Captured::parse("CALIB_DATA.json", &json).unwrap();
    let error = read.import(None, None).unwrap_err().to_string();
    assert!(
        error.contains("sums") && error.contains("--calls"),
        "{error}"
    );
    let error = read
        .import(Some(Form::Maxima), None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("said to hold maxima"), "{error}");
    let text = read.import(None, Some([20, 0, 0, 0, 0, 0])).unwrap();
    assert!(text.contains("the mean over calls"), "{text}");
    let imported = Calibration::parse("means.json", &text, MAX).unwrap();
    let mean = (0..20)
        .map(|c| f32::from(half::bf16::from_f32(3.1 + 0.77 * c as f32)))
        .sum::<f32>()
        / 20.0;
    assert!((amax(&imported, "a.attn.to_q") - mean).abs() < 1e-4);
    let error = read.import(None, Some([0; 6])).unwrap_err().to_string();
    assert!(error.contains("says 0"), "{error}");

    let json = capture(
        &[("a.attn.to_q", 4096 * 3072), ("a.attn.to_k", 4096 * 3072)],
        20,
        true,
    );
    let open = Captured::parse("CALIB_DATA.json", &json).unwrap();
    let error = open.import(None, None).unwrap_err().to_string();
    assert!(error.contains("--form"), "{error}");
    assert!(open.import(Some(Form::Sums), Some([20; 6])).is_ok());
}

/// A calibration of two layers with one input and one with another.
fn small() -> CalibrationFile {
    let mut taps = vec![Tap::default(); 2];
    for (i, tap) in taps.iter_mut().enumerate() {
        let x: Vec<f32> = (1..=64).map(|n| n as f32 * 0.37 * (i + 1) as f32).collect();
        let level = tap.levels[i].get_or_insert_default();
        level.add(&x, 32, 0, &mut Default::default());
        tap.samples.insert(2000 + i, 3);
    }
    let layers = [("a.img_mod.1", 0), ("b.attn.to_k", 1), ("b.attn.to_q", 1)];
    let mut done = samples::Samples::default();
    [0, 1, 2, 5].into_iter().for_each(|i| done.insert(i));
    let label = ModelLabel {
        name: "model".to_owned(),
        fingerprint: "00ff".to_owned(),
        weights: "3 bf16".to_owned(),
    };
    CalibrationFile {
        engine: "0".to_owned(),
        model: label.clone(),
        observed: label,
        activations: "none".to_owned(),
        parts: vec![file::Part {
            recipe: file::Recipe {
                prompts_sha256: "11".to_owned(),
                prompts: 2,
                sizes: vec!["32x32".to_owned()],
                steps: vec![2],
                cfg: vec![1.0, 2.5],
                seed: 7,
                plan: "cycle".to_owned(),
                settings: String::new(),
            },
            done,
        }],
        never_ran: vec!["c.to_add_out".to_owned()],
        capture: Capture {
            taps,
            layers: layers.map(|(name, tap)| (name.to_owned(), tap)).into(),
        },
    }
}

#[test]
fn a_file_comes_back() {
    let file = small();
    for statistics in [false, true] {
        let read = CalibrationFile::parse("a", &file.to_json(statistics)).unwrap();
        assert_eq!(read, file);
    }
}

#[test]
fn numbers_that_no_run_makes_are_refused() {
    let text = small().to_json(false);
    for (from, to) in [
        (
            r#""done":[[0,2],[5,5]]"#,
            r#""done":[[0,18446744073709551615]]"#,
        ),
        (r#""done":[[0,2],[5,5]]"#, r#""done":[[5,5],[0,2]]"#),
        (
            r#""samples":{"2000":3}"#,
            r#""samples":{"2000":18446744073709551615,"7":1}"#,
        ),
        (r#""samples":{"2000":3}"#, r#""samples":{"9999":3}"#),
        (r#"{"amax":23.68"#, r#"{"amax":-23.68"#),
        (r#"{"amax":23.68"#, r#"{"amax":24.68"#),
        (r#""tap":1"#, r#""tap":2"#),
        (r#""version":1"#, r#""version":2"#),
    ] {
        assert!(text.contains(from), "no {from} in {text}");
        let error = CalibrationFile::parse("c.json", &text.replace(from, to));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("c.json"), "{error}");
    }
    // The largest counts that a varint holds, twice.
    let huge = counts::encode(&[0, u64::MAX, u64::MAX]);
    let at = text.find(r#""elements":""#).unwrap() + 12;
    let end = at + text[at..].find('"').unwrap();
    let harmed = format!("{}{huge}{}", &text[..at], &text[end..]);
    assert!(CalibrationFile::parse("c.json", &harmed).is_err());
}

proptest::proptest! {
    /// A byte changed, or a piece cut out: read or refused, whatever is asked of it.
    #[test]
    fn damaged_files_do_no_harm(at in 0usize..4000, byte in 32u8..127, cut in 0usize..40) {
        let mut bytes = small().to_json(true).into_bytes();
        let at = at * bytes.len() / 4000;
        bytes[at] = byte;
        bytes.drain(at..(at + cut).min(bytes.len()).max(at));
        if let Ok(text) = String::from_utf8(bytes) {
            for stat in ["max", "p99.9", "run-p50", "mse", "headroom"] {
                let _ = Calibration::parse("c.json", &text, stat);
            }
            if let (Ok(mut file), other) = (CalibrationFile::parse("c.json", &text), small()) {
                let _ = file.merge(&other);
                let _ = file.to_json(true);
            }
        }
    }
}
