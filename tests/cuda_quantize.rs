//! The quantizers of the CUDA kernels against those of the engine's CPU path, byte by byte.

#![allow(clippy::unwrap_used)]

#[path = "../kernels/tests/common/mod.rs"]
mod common;

use common::emulator;
use half::bf16;
use qwen_nvfp4::numerics::{fp8, nvfp4};
use qwen_nvfp4_kernels::amax::{Format, SCRATCH, dynamic_scale};
use qwen_nvfp4_kernels::operand::{E4m3Out, Matrix, Nvfp4Out};
use qwen_nvfp4_kernels::quantize_e4m3::quantize_e4m3;
use qwen_nvfp4_kernels::quantize_nvfp4::quantize_nvfp4;
use qwen_nvfp4_kernels::{Gpu, layout};

/// A scale that is given, or that of the tensor's largest magnitude.
#[derive(Debug, Clone, Copy)]
enum Scale {
    Static(f32),
    Dynamic,
}

/// The scale that was used, and the codes; for NVFP4 row-major block scales, too.
type Quantized = (f32, Vec<u8>, Vec<u8>);

fn on_the_gpu(gpu: &Gpu, x: &[bf16], k: usize, (format, by): (Format, Scale)) -> Quantized {
    let stream = gpu.stream();
    let values = stream.clone_htod(x).unwrap();
    let x = Matrix {
        values: &values.as_view(),
        width: k,
    };
    let rows = values.len() / k;
    let given = match by {
        Scale::Static(scale) => scale,
        Scale::Dynamic => f32::NAN,
    };
    let mut scale = stream.clone_htod(&[given]).unwrap();
    if let Scale::Dynamic = by {
        let mut scratch = stream.alloc_zeros::<u32>(SCRATCH).unwrap();
        let (scale, scratch) = (&mut scale.as_view_mut(), &mut scratch.as_view_mut());
        dynamic_scale(gpu, x, format, scale, scratch).unwrap();
    }
    let mut word = stream.alloc_zeros::<u32>(1).unwrap();
    let lanes = layout::lane_order_len(rows, k).unwrap();
    let mut scales = stream.alloc_zeros::<u8>(lanes).unwrap();
    let bytes = match format {
        Format::E4m3 => values.len(),
        Format::Nvfp4 => values.len() / 2,
    };
    let mut codes = stream.alloc_zeros::<u8>(bytes).unwrap();
    match format {
        Format::E4m3 => {
            let mut out = E4m3Out {
                scale: &scale.as_view(),
                codes: codes.as_view_mut(),
            };
            quantize_e4m3(gpu, x, &mut out, &mut word.as_view_mut()).unwrap();
        }
        Format::Nvfp4 => {
            let mut out = Nvfp4Out {
                scale: &scale.as_view(),
                codes: codes.as_view_mut(),
                scales: scales.as_view_mut(),
            };
            quantize_nvfp4(gpu, x, &mut out, &mut word.as_view_mut()).unwrap();
        }
    }
    assert_eq!(stream.clone_dtoh(&word).unwrap(), [0], "all is finite");
    let blocks = match format {
        Format::E4m3 => Vec::new(),
        Format::Nvfp4 => {
            let scales = stream.clone_dtoh(&scales).unwrap();
            layout::rows_from_lane_order(&scales, rows, k).unwrap()
        }
    };
    let codes = stream.clone_dtoh(&codes).unwrap();
    (stream.clone_dtoh(&scale).unwrap()[0], codes, blocks)
}

fn on_the_cpu(x: &[bf16], (format, by): (Format, Scale)) -> Quantized {
    let x: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
    let amax = x.iter().fold(0f32, |amax, x| amax.max(x.abs()));
    match format {
        Format::E4m3 => {
            let scale = match by {
                Scale::Static(scale) => scale,
                Scale::Dynamic => fp8::scale_of(amax),
            };
            let mut codes = vec![0; x.len()];
            fp8::quantize(&x, scale, &mut codes);
            (scale, codes, Vec::new())
        }
        Format::Nvfp4 => {
            let scale = match by {
                Scale::Static(scale) => scale,
                Scale::Dynamic => nvfp4::scale_2_of(amax),
            };
            let (mut codes, mut scales) = (vec![0; x.len() / 2], vec![0; x.len() / 16]);
            nvfp4::quantize(&x, scale, nvfp4::BlockRule::Six, &mut codes, &mut scales);
            (scale, codes, scales)
        }
    }
}

/// Every finite bf16 number, in order and out of order, and rows whose numbers have about the same size.
#[test]
fn bytes_are_those_of_the_cpu() {
    let finite: Vec<bf16> = (0..=u16::MAX)
        .map(bf16::from_bits)
        .filter(|x| x.is_finite())
        .collect();
    let mixed: Vec<bf16> = (0..finite.len())
        .map(|i| finite[i * 7919 % finite.len()])
        .collect();
    // Magnitudes from 2^-8 to 2^8.
    let middling: Vec<bf16> = (0..77 * 192u32)
        .map(|i| i.wrapping_mul(2_654_435_761) >> 8)
        .map(|i| bf16::from_bits((i as u16 & 0x87ff) + (119 << 7)))
        .collect();
    let gpu = Gpu::of_context(emulator::context()).unwrap();
    for (x, k) in [(&finite, 256), (&mixed, 256), (&middling, 192)] {
        for format in [Format::E4m3, Format::Nvfp4] {
            for by in [
                Scale::Static(0.003),
                Scale::Static(0.25),
                Scale::Static(7e-12),
                Scale::Dynamic,
            ] {
                let (scale, codes, blocks) = on_the_gpu(&gpu, x, k, (format, by));
                let expected = on_the_cpu(x, (format, by));
                assert_eq!(scale.to_bits(), expected.0.to_bits(), "{format:?} {by:?}");
                assert!(codes == expected.1, "codes of {format:?} {by:?}");
                assert!(blocks == expected.2, "scales of {format:?} {by:?}");
            }
        }
    }
}
