//! What this program writes has no faults, whatever it is asked.

use super::*;
use crate::context::Cancel;
use crate::quantize::plan::{Keys, Marker, Options};
use crate::quantize::{Monitor, Plan, Policy, Source, execute};

/// Converts the tiny model; the report of what came out.
fn converted(policy: &str, options: Options) -> Report {
    let source = Source::embedded().unwrap();
    let policy = Policy::built_in(policy).unwrap().unwrap();
    let options = Options {
        assume_unscaled: true,
        ..options
    };
    let plan = Plan::new(&source, &policy, None, &options).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("converted.safetensors");
    let monitor = Monitor {
        cancel: Cancel::default(),
        done: &|_| {},
    };
    execute(&plan, &source, (&path, false), &monitor).unwrap();
    let report = inspect_to(Some(&path), &Depth::Weights(Cancel::default())).unwrap();
    assert_eq!(report.quantized.nvfp4, plan.counts.nvfp4);
    report
}

#[test]
fn every_policy() {
    for policy in Policy::names() {
        let report = converted(policy, Options::default());
        assert_eq!(kinds(&report), [], "{policy}");
        assert_eq!(report.quantized.nvfp4 > 0, policy != "fp8", "{policy}");
        // Nothing was calibrated, and that is all that could be better.
        let others: Vec<_> = advice(&report)
            .into_iter()
            .filter(|(_, kind)| *kind != FaultKind::NoInputScale)
            .collect();
        assert_eq!(others, [], "{policy}");
    }
}

#[test]
fn every_marker_and_every_spelling() {
    for marker in [Marker::ComfyQuant, Marker::Metadata, Marker::Both] {
        for keys in [Keys::Keep, Keys::Diffusers, Keys::Comfy] {
            let report = converted(
                "v3",
                Options {
                    marker,
                    keys,
                    ..Options::default()
                },
            );
            assert_eq!(kinds(&report), [], "{marker:?} {keys:?}");
        }
    }
}

#[test]
fn requantized_and_in_parts() {
    let requantized = Options {
        requantize_fp8: true,
        ..Options::default()
    };
    assert_eq!(kinds(&converted("v4", requantized)), []);
    for component in crate::checkpoint::Component::ALL {
        let part = Options {
            components: vec![component],
            keys: Keys::Diffusers,
            ..Options::default()
        };
        assert_eq!(kinds(&converted("v3", part)), [], "{component}");
    }
}
