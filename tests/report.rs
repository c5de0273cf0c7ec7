//! The benchmark's reports, made of invented results: some rows failed, some figures and pictures are missing, and texts
//! that would be markup or requests if they were not escaped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;

use image::{Rgb, RgbImage};
use qwen_nvfp4::bench::report::{html, markdown};
use qwen_nvfp4::bench::results::{
    Layers, Picture, Prompt, Quality, Results, Spread, VERSION, Variant,
};

const EVIL: &str = "<script>alert(\"1\")</script> 'a' & | `b` </style><img src=http://x.org/a.png>";
const EVIL_ROW: &str = "v\"9'<i>&";
const PROMPTS: usize = 14;

fn text(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string()));
    owned.collect()
}

fn figures(pairs: &[(&str, f64)]) -> BTreeMap<String, f64> {
    pairs.iter().map(|(k, v)| (k.to_string(), *v)).collect()
}

/// A row whose pictures are `images/{folder}/{i}.png`; the last score is the best.
fn row(folder: &str, speedup: f64) -> Variant {
    let picture = |i: usize| Picture {
        file: format!("images/{folder}/{i:03}.png"),
        scores: figures(&[("ssimulacra2", 60.0 + i as f64), ("psnr_db", f64::NAN)]),
        right: [None, Some(true), Some(false)][i % 3],
        ..Picture::default()
    };
    let spread = Spread {
        median: 0.1,
        low: 0.09,
        high: 0.12,
    };
    let third = [Some(20.5), None, Some(f64::NAN)];
    Variant {
        policy: Some(format!("{folder}.json")),
        activations: "static".to_owned(),
        command: Some(format!("qwen-nvfp4 convert {EVIL} -o {folder}")),
        file_bytes: 12_345_678,
        layers: Layers {
            nvfp4: 72,
            float8_e4m3fn: 91,
        },
        kernels: text(&[("nvfp4", "avx512-vnni"), ("attention", EVIL)]),
        images: PROMPTS,
        total_s: 4.2,
        avg_s: 0.3,
        median_s: 0.29,
        p95_s: 0.4,
        cold_start_s: Some(0.52),
        peak_rss_bytes: Some(61_000_000),
        speedup: Some(speedup),
        speedup_interval: Some([speedup - 0.01, speedup + 0.02]),
        parts_s: figures(&[("linear nvfp4", 0.1), ("a new part", 0.2)]),
        quality: Quality {
            psnr_db: Some(31.25),
            ssim: Some(f64::NAN),
            ssimulacra2: Some(71.5),
            velocity_rel_err: Some(0.1 * speedup),
            velocity_by_step: vec![0.2, f64::NAN, 0.1],
            layer_sqnr_db: [("attn.to_q".to_owned(), third)].into(),
            spread: [("velocity_rel_err".to_owned(), spread)].into(),
            against_f32: figures(&[("psnr_db", 30.0)]),
            ..Quality::default()
        },
        pictures: (0..PROMPTS).map(picture).collect(),
        ..Variant::default()
    }
}

/// Four rows in order, one that failed, and one that the order forgets.
fn results() -> Results {
    let baseline = Variant {
        policy: None,
        speedup: None,
        speedup_interval: None,
        quality: Quality::default(),
        ..row("fp8", 1.0)
    };
    let failed = Variant {
        error: Some(format!("a.safetensors: tensor {EVIL}")),
        ..Variant::default()
    };
    let plain = Variant {
        quality: Quality::default(),
        ..row("plain", 1.1)
    };
    let rows = [
        ("fp8", baseline),
        ("v3", row("v3", 1.3)),
        (EVIL_ROW, row("evil", 1.4)),
        ("plain", plain),
        ("failed", failed),
        ("forgotten", row("forgotten", 1.2)),
    ];
    let order = ["fp8", "v3", EVIL_ROW, "plain", "failed", "unknown"];
    Results {
        version: VERSION,
        engine: "0.1.0".to_owned(),
        baseline: "fp8".to_owned(),
        model: format!("tiny{EVIL}.safetensors"),
        fingerprint: "0123abcd".to_owned(),
        command: "qwen-nvfp4 bench --limit 14".to_owned(),
        settings: text(&[("size", "64x64"), (EVIL, EVIL)]),
        environment: text(&[("cpu", EVIL)]),
        prompts: (0..PROMPTS as u64)
            .map(|seed| Prompt {
                prompt: format!("prompt {seed} {EVIL}"),
                seed,
            })
            .collect(),
        order: order.map(str::to_owned).to_vec(),
        variants: rows.map(|(name, row)| (name.to_owned(), row)).into(),
        findings: vec![EVIL.to_owned()],
    }
}

/// Pictures of `side` pixels for all rows but `forgotten`; one of v3 is cut off.
fn pictures(dir: &Path, side: u32) {
    for folder in ["fp8", "v3", "evil", "plain"] {
        let folder = dir.join("images").join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        for i in 0..PROMPTS {
            let shade = |x, y| Rgb([x as u8, y as u8, 10 * i as u8]);
            let picture = RgbImage::from_fn(side, side, shade);
            picture.save(folder.join(format!("{i:03}.png"))).unwrap();
        }
    }
    let cut = dir.join("images/v3/001.png");
    let bytes = std::fs::read(&cut).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
}

fn page(results: &Results, side: u32) -> String {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path(), side);
    html(results, dir.path()).unwrap()
}

/// The tags of a page, without the text between them.
fn tags(page: &str) -> Vec<&str> {
    let pieces = page.split('<').skip(1);
    pieces.filter_map(|p| p.split('>').next()).collect()
}

#[test]
fn the_page_asks_the_network_for_nothing() {
    let page = page(&results(), 16);
    assert!(page.contains("content=\"default-src 'none'; img-src data:;"));
    for (at, found) in page.match_indices("url(") {
        let rest = &page[at + found.len()..];
        assert!(
            rest.starts_with("data:image/png;base64,"),
            "{}",
            &rest[..40]
        );
    }
    for tag in tags(&page) {
        // Without the values, which are in quotes that no text can end.
        let tag: String = tag.split('"').step_by(2).collect();
        for attribute in [" src=", " href=", " srcset=", " action="] {
            assert!(!tag.contains(attribute), "{tag}");
        }
        assert!(
            !tag.starts_with("link") && !tag.starts_with("base"),
            "{tag}"
        );
    }
    for way in ["@import", "fetch(", "XMLHttpRequest", "xmlns"] {
        assert!(!page.contains(way), "{way}");
    }
}

#[test]
fn text_stays_text() {
    let page = page(&results(), 16);
    for markup in ["<script>alert", "<img", "<i>&", "\"9'"] {
        assert!(!page.contains(markup), "{markup}");
    }
    assert_eq!(page.matches("<script").count(), 1);
    assert_eq!(page.matches("</style").count(), 1);
    assert!(
        page.contains(
            "prompt 3 &lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &#39;a&#39; &amp;"
        )
    );
    // The drawing library has its own way to write an apostrophe.
    assert!(
        page.contains("v&quot;9&apos;&lt;i&gt;&amp;"),
        "no name in a plot"
    );
}

#[test]
fn tags_are_balanced() {
    let page = page(&results(), 16);
    let kinds = [
        "section", "div", "table", "tr", "figure", "svg", "text", "details", "dl", "ul", "h3",
    ];
    for kind in kinds {
        let opened = tags(&page).into_iter();
        let opened = opened.filter(|t| t.split([' ', '\n']).next() == Some(kind));
        let opened = opened.filter(|t| !t.ends_with('/')).count();
        let closed = page.matches(&format!("</{kind}>")).count();
        assert!(opened > 0, "no {kind}");
        assert_eq!(opened, closed, "{kind}");
    }
}

#[test]
fn every_row_and_every_plot_is_there() {
    let page = page(&results(), 16);
    for name in [
        "fp8",
        "v3",
        "v&quot;9&#39;&lt;i&gt;&amp;",
        "plain",
        "failed",
        "forgotten",
    ] {
        assert!(page.contains(&format!(">{name}")), "{name}");
    }
    for plot in [
        "Speedup and velocity error",
        "Speedup and SSIMULACRA2",
        "Velocity error by step",
        "Seconds of a picture by part",
    ] {
        assert!(page.contains(&format!("aria-label=\"{plot}\">")), "{plot}");
    }
    assert_eq!(page.matches("<svg").count(), 4);
    assert!(!page.contains("#0102"), "a colour that is not the page's");
    assert!(!page.contains(">NaN") && !page.contains("NaN "));
    for part in [
        "class=\"heat\"",
        "id=\"worst\"",
        "id=\"failures\"",
        "a new part",
        "1.30×",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn the_first_twelve_and_the_worst_five_are_shown() {
    let page = page(&results(), 16);
    assert_eq!(page.matches("<section class=\"prompt\">").count(), 12);
    assert!(page.contains("The first 12 of 14 prompts"));
    // v3, evil and forgotten have scores, and plain's pictures, too; of each the first five are worst.
    assert_eq!(page.matches("<div class=\"two\">").count(), 4 * 5);
    let worst = &page[page.find("id=\"worst\"").unwrap()..];
    assert!(worst.contains("prompt 4 ") && !worst.contains("prompt 5 "));
}

#[test]
fn a_missing_or_broken_picture_leaves_a_box_that_says_so() {
    let mut some = results();
    some.variants.get_mut("plain").unwrap().pictures[0].file = "../secret.png".to_owned();
    some.variants.get_mut("plain").unwrap().pictures.truncate(3);
    let page = page(&some, 16);
    assert!(page.contains("images/forgotten/000.png: missing"));
    assert!(page.contains("images/v3/001.png: not a whole PNG"));
    assert!(page.contains("../secret.png: not a path below the results&#39; folder"));
    assert!(page.contains("<span>not made</span>"));
    assert!(page.contains("pictures cannot be shown"));
    let nowhere = html(&results(), Path::new("/nowhere")).unwrap();
    assert!(nowhere.contains("images/v3/000.png: missing"));
}

#[test]
fn large_pictures_are_scaled_down() {
    let mut one = results();
    one.prompts.truncate(1);
    let page = page(&one, 300);
    assert!(page.contains("aspect-ratio:192/192"));
    assert!(!page.contains("aspect-ratio:300"));
}

#[test]
fn nothing_at_all_makes_a_report() {
    let mut empty = results();
    empty.variants.clear();
    empty.prompts.clear();
    let dir = tempfile::tempdir().unwrap();
    let page = html(&empty, dir.path()).unwrap();
    assert!(page.contains("No variant beside the baseline has been measured"));
    assert!(markdown(&empty).starts_with("# Benchmark of tiny"));
}

#[test]
fn markdown_has_all_rows() {
    let report = markdown(&results());
    assert!(report.contains(
        "| variant | NVFP4 layers | FP8 layers | images | total s | average s | speedup | cold start |"
    ));
    assert!(
        report.contains("| v3 | 72 | 91 | 14 | 4.200 | 0.300 | 1.30× [1.29 … 1.32] | 0.520 s |")
    );
    assert!(report.contains("| v3 | 31.25 dB | – | – | 71.5 | – | 0.1300 [0.0900 … 0.1200] | – |"));
    assert!(report.contains("| failed (failed) | 0 | 0 | 0 | – | – | – | – |"));
    for name in ["fp8", "v3", "v\"9'&lt;i&gt;&amp;", "plain", "forgotten"] {
        let rows = report
            .lines()
            .filter(|l| l.starts_with(&format!("| {name} |")));
        assert!(rows.count() >= 3, "{name}");
    }
    for title in [
        "Summary",
        "Time and space",
        "Quality",
        "Findings",
        "Failures",
        "Where the time goes",
        "Against the F32 model",
        "Kernels that ran",
        "Settings",
        "Environment",
        "Commands",
    ] {
        assert!(report.contains(&format!("\n## {title}\n")), "{title}");
    }
    let head = report
        .lines()
        .find(|l| l.starts_with("| variant | attention"))
        .unwrap();
    let row = report.lines().find(|l| l.contains("avx512-vnni")).unwrap();
    let cells = |l: &str| l.replace("\\|", "").matches('|').count();
    assert_eq!(cells(head), cells(row), "{row}");
    assert!(!report.contains("NaN"));
}

#[test]
fn the_same_results_make_the_same_reports() {
    assert_eq!(page(&results(), 16), page(&results(), 16));
    assert_eq!(markdown(&results()), markdown(&results()));
}
