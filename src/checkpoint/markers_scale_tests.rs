#![allow(clippy::unwrap_used)]

use safetensors::tensor::TensorView as Plain;

use super::*;
use crate::checkpoint::SafetensorsFile;

#[test]
fn a_companion_is_told_by_its_last_part() {
    assert_eq!(companion("a.b.scale_weight"), Some(("a.b", "scale_weight")));
    assert_eq!(companion("a.weight_scale_2"), Some(("a", "weight_scale_2")));
    for name in [
        "weight_scale",
        "a.weight",
        "a.weight_scale_inv",
        "a.my_input_scale",
    ] {
        assert_eq!(companion(name), None, "{name}");
    }
    assert!(is_legacy("scaled_fp8") && is_legacy("model.diffusion_model.scaled_fp8"));
    assert!(!is_legacy("unscaled_fp8") && !is_legacy("scaled_fp8.weight"));
}

/// One reader for the engine and the converter: neither may guess where the other refuses.
#[test]
fn a_scale_is_one_positive_number_under_one_name() {
    let one = |v: f32| v.to_le_bytes().to_vec();
    let read = |tensors: &[(&str, Dtype, &[usize], Vec<u8>)]| {
        let plain = tensors.iter().map(|(name, dtype, shape, bytes)| {
            (*name, Plain::new(*dtype, shape.to_vec(), bytes).unwrap())
        });
        let bytes = safetensors::serialize(plain, None).unwrap().leak();
        let file = SafetensorsFile::from_static("memory", bytes).unwrap();
        scale(&INPUT_SCALE, |part| file.view(part))
    };
    assert_eq!(read(&[]), Ok(None));
    for name in INPUT_SCALE {
        assert_eq!(read(&[(name, Dtype::F32, &[1], one(0.5))]), Ok(Some(0.5)));
    }
    let [new, old] = INPUT_SCALE.map(|name| (name, Dtype::F32, &[][..], one(1.0)));
    for (tensors, word) in [
        (vec![new, old], "both `input_scale` and `scale_input`"),
        (
            vec![(
                "input_scale",
                Dtype::F32,
                &[2],
                [one(1.0), one(1.0)].concat(),
            )],
            "shape [2]",
        ),
        (
            vec![("input_scale", Dtype::U8, &[1], vec![1])],
            "is stored as U8",
        ),
        (
            vec![("input_scale", Dtype::F32, &[], one(f32::INFINITY))],
            "is inf",
        ),
        (vec![("input_scale", Dtype::F32, &[], one(0.0))], "is 0"),
    ] {
        let error = read(&tensors).unwrap_err();
        assert!(error.contains(word) && error.contains("again"), "{error}");
    }
}
