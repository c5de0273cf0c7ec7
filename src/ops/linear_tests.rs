//! Linear layers of every stored type against candle's plain product.
#![allow(clippy::unwrap_used)]

use candle_core::Device;
use safetensors::Dtype;

use super::*;

fn bytes_of(dtype: Dtype, codes: &[u8]) -> Vec<u8> {
    let values = codes
        .iter()
        .map(|c| crate::numerics::widen::E4M3_TO_F32[usize::from(*c)]);
    match dtype {
        Dtype::F8_E4M3 => codes.to_vec(),
        Dtype::F32 => values.flat_map(f32::to_le_bytes).collect(),
        Dtype::BF16 => values
            .flat_map(|v| half::bf16::from_f32(v).to_le_bytes())
            .collect(),
        _ => values
            .flat_map(|v| half::f16::from_f32(v).to_le_bytes())
            .collect(),
    }
}

/// Every stored type of the same numbers gives candle's own product of them, at odd sizes.
#[test]
fn every_format_equals_a_plain_product() {
    let cx = Cx::default();
    for (m, n, k) in [(1, 1, 1), (3, 65, 17), (70, 130, 33)] {
        let codes: Vec<u8> = (0..n * k)
            .map(|i| ((i * 37 + i / 7) % 120) as u8 | ((i % 2) << 7) as u8)
            .collect();
        let bias: Vec<f32> = (0..n).map(|i| i as f32 * 0.25).collect();
        let x: Vec<f32> = (0..m * k)
            .map(|i| ((i * 13) % 29) as f32 * 0.125 - 1.5)
            .collect();
        let x = Tensor::from_vec(x, (1, m, k), &Device::Cpu).unwrap();
        let mut outputs = Vec::new();
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F8_E4M3] {
            let w = Weights::in_memory(&[
                ("l.weight", dtype, &[n, k], bytes_of(dtype, &codes)),
                (
                    "l.bias",
                    Dtype::F32,
                    &[n],
                    bias.iter().flat_map(|b| b.to_le_bytes()).collect(),
                ),
            ])
            .unwrap();
            let linear = Linear::load(&w.pp("l"), n, k, true).unwrap();
            assert_eq!(linear.name(), "l");
            outputs.push(
                linear
                    .forward(&x, &cx)
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .to_vec1::<f32>()
                    .unwrap(),
            );
            let gelu = linear.forward_gelu(&x, &cx).unwrap();
            let expected = linear.forward(&x, &cx).unwrap().gelu().unwrap();
            let difference = (gelu - expected)
                .unwrap()
                .abs()
                .unwrap()
                .flatten_all()
                .unwrap();
            assert!(difference.max(0).unwrap().to_scalar::<f32>().unwrap() < 1e-4);
            assert!(w.unclaimed().is_empty());
        }
        assert!(
            outputs.iter().all(|o| o == &outputs[0]),
            "formats differ at {m}x{n}x{k}"
        );
        let dense: Vec<f32> = codes
            .iter()
            .map(|c| crate::numerics::widen::E4M3_TO_F32[usize::from(*c)])
            .collect();
        let dense = Tensor::from_vec(dense, (n, k), &Device::Cpu).unwrap();
        let expected = x.squeeze(0).unwrap().matmul(&dense.t().unwrap()).unwrap();
        let expected = expected
            .broadcast_add(&Tensor::new(bias.as_slice(), &Device::Cpu).unwrap())
            .unwrap();
        let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (a, b) in outputs[0].iter().zip(&expected) {
            assert!(
                (a - b).abs() <= 1e-5 * (1.0 + b.abs()) * k as f32,
                "{a} {b}"
            );
        }
    }
}

#[test]
fn fp8_scales_are_applied_and_never_guessed() {
    let one = |v: f32| v.to_le_bytes().to_vec();
    let code = (Dtype::F8_E4M3, &[1usize, 2][..], vec![0x38, 0xb8]);
    let run = |extra: &[(&str, Dtype, &[usize], Vec<u8>)]| {
        let mut all = vec![("l.weight", code.0, code.1, code.2.clone())];
        all.extend_from_slice(extra);
        let linear = Linear::load(&Weights::in_memory(&all).unwrap().pp("l"), 1, 2, false)?;
        let x = Tensor::new(&[[3.0f32, 1.0]], &Device::Cpu).unwrap();
        let y = linear.forward(&x, &Cx::default()).unwrap();
        Ok::<f32, CheckpointError>(y.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0])
    };
    let record = |json: &str| {
        (
            "l.comfy_quant",
            Dtype::U8,
            json.len(),
            json.as_bytes().to_vec(),
        )
    };
    assert_eq!(run(&[]).unwrap(), 2.0);
    assert_eq!(
        run(&[("l.weight_scale", Dtype::F32, &[], one(0.5))]).unwrap(),
        1.0
    );
    assert_eq!(
        run(&[("l.scale_weight", Dtype::F32, &[1], one(0.25))]).unwrap(),
        0.5
    );
    for (scale, found) in [(0.0, "is 0"), (f32::NAN, "is NaN"), (-1.0, "is -1")] {
        let error = run(&[("l.weight_scale", Dtype::F32, &[], one(scale))]).unwrap_err();
        assert!(error.to_string().contains(found), "{error}");
    }
    let (name, dtype, len, bytes) = record(r#"{"format": "float8_e4m3fn"}"#);
    let error = run(&[(name, dtype, &[len], bytes)]).unwrap_err();
    assert!(error.to_string().contains("no `weight_scale`"), "{error}");
    let (name, dtype, len, bytes) = record(r#"{"format": "nvfp4"}"#);
    let error = run(&[(name, dtype, &[len], bytes)]).unwrap_err();
    assert!(error.to_string().contains("nvfp4"), "{error}");
}
