//! What only reading every weight tells.

use super::*;
use crate::context::Cancel;

fn deep(tiny: &Tiny) -> Report {
    assert_eq!(kinds(&tiny.report()), [], "told without reading weights");
    tiny.report_to(&Depth::Weights(Cancel::default()))
}

#[test]
fn the_tiny_model_has_no_faults_at_any_depth() {
    let report = inspect_to(None, &Depth::Weights(Cancel::default())).unwrap();
    assert_eq!(kinds(&report), []);
    assert_eq!(advice(&report), []);
}

#[test]
fn weights_with_nan() {
    let weight = format!("{LAYER}.weight");
    for (dtype, bytes) in [
        (Dtype::F8_E4M3, &[0x7f][..]),
        (Dtype::F8_E4M3, &[0xff]),
        (Dtype::F8_E5M2, &[0x7c]),
        (Dtype::BF16, &[0x80, 0xff]),
        (Dtype::F32, &[1, 0, 0x80, 0x7f]),
    ] {
        let mut tiny = Tiny::new();
        let mut all = vec![0; 128 * 128 * bytes.len()];
        all[777 * bytes.len()..778 * bytes.len()].copy_from_slice(bytes);
        tiny.put(&weight, dtype, &[128, 128], &all);
        let report = deep(&tiny);
        assert_eq!(kinds(&report), [(weight.as_str(), FaultKind::NanWeight)]);
        assert!(report.faults[0].message.starts_with("number 777 "));
    }
    let conv = "vae.decoder.conv1.weight";
    let mut tiny = Tiny::new();
    let tensor = tiny.tensors.get_mut(conv).unwrap();
    tensor.2[2..4].copy_from_slice(&[0xc0, 0x7f]);
    assert_eq!(kinds(&deep(&tiny)), [(conv, FaultKind::NanWeight)]);
}

/// A tensor of several chunks.
#[test]
fn the_place_of_a_nan_in_a_large_weight() {
    let weight = format!("{LAYER}.weight");
    let mut tiny = Tiny::new();
    let mut all = vec![0; 4 << 20];
    all[(3 << 20) + 5] = 0x80;
    all[(3 << 20) + 4] = 0x80;
    all[(3 << 20) + 7] = 0x7f;
    all[(3 << 20) + 6] = 0x80;
    tiny.put(&weight, Dtype::BF16, &[1 << 10, 2 << 10], &all);
    let report = tiny.report_to(&Depth::Weights(Cancel::default()));
    let fault = report.faults.last().unwrap();
    assert_eq!(fault.kind, FaultKind::NanWeight);
    let at = (3 << 19) + 3;
    assert!(fault.message.starts_with(&format!("number {at} ")));
}

/// `amax / 448` of numbers that were not divided by it.
#[test]
fn scales_that_nothing_was_divided_by() {
    let weight = format!("{LAYER}.weight");
    let name = format!("{LAYER}.weight_scale");
    // 0x2c is 0.375.
    for (largest, scale, is_fault) in [
        (0x2c, 0.375 / 448.0, true),
        (0xac, 0.375 / 448.0, true),
        (0x2c, 1.0, false),
        (0x7e, 0.375 / 448.0, false),
        (0x7e, 1.0, false),
    ] {
        let mut tiny = Tiny::new();
        tiny.fp8(LAYER);
        tiny.scale(&name, scale);
        tiny.tensors.get_mut(&weight).unwrap().2.fill(0x10);
        tiny.tensors.get_mut(&weight).unwrap().2[5] = largest;
        let fault = is_fault.then_some((name.as_str(), FaultKind::UndividedWeight));
        let expected: Vec<_> = fault.into_iter().collect();
        assert_eq!(kinds(&deep(&tiny)), expected, "{largest:#x} {scale}");
    }
}

#[test]
fn numbers_that_fill_the_range_without_a_scale() {
    let weight = format!("{LAYER}.weight");
    let mut tiny = Tiny::new();
    tiny.tensors.get_mut(&weight).unwrap().2[5] = 0xfe;
    let report = deep(&tiny);
    assert_eq!(kinds(&report), []);
    assert_eq!(advice(&report), [(weight.as_str(), FaultKind::LostScale)]);
    tiny.fp8(LAYER);
    let report = deep(&tiny);
    assert!(!advice(&report).contains(&(&weight, FaultKind::LostScale)));
}

/// A NaN that cannot be reached any more is not told; what was found before is.
#[test]
fn a_request_to_stop() {
    let mut tiny = Tiny::new();
    tiny.tensors.get_mut(&format!("{LAYER}.weight")).unwrap().2[0] = 0x7f;
    let cancel = Cancel::default();
    cancel.cancel();
    assert_eq!(kinds(&tiny.report_to(&Depth::Weights(cancel))), []);
}
