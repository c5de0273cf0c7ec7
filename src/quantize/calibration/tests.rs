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
