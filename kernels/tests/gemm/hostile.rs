//! Zeros, largest codes, NaN, infinities; and calls that must be refused.

use crate::case::{Case, assert_close};
use crate::run::bf16_of;
use cudarc::driver::sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MOST_SHARED;
use qwen_nvfp4_kernels::KernelError;
use qwen_nvfp4_kernels::gemm::{
    Epilogue, FP8_SOURCE, Format, Operand, Product, Shape, Tile, Workspace, gemm,
};

const TILES: [Tile; 4] = Tile::ALL;

/// Zero block scales make zero blocks whatever the codes are; the largest codes and scales stay finite.
#[test]
fn zero_and_largest_scales() {
    let gpu = crate::card("rtx5090");
    for tile in TILES {
        let mut case = Case::random(
            Format::Nvfp4,
            Shape {
                m: 40,
                n: 24,
                k: 192,
            },
            101,
        );
        for (i, scale) in case.a.scales.iter_mut().enumerate() {
            if i % 3 == 0 {
                *scale = 0;
            }
        }
        case.b.scales[..12].fill(0x7e);
        case.b.codes[..96].fill(0x7f);
        case.a.codes[..96].fill(0xf7);
        case.a.scales[..12].fill(0x7e);
        let got = bf16_of(&gpu, &case, (tile, 1)).unwrap();
        assert_close(&got, &case.reference(), 24, &format!("{tile}"));
        // 192 products of 448 * 6 twice, of alternating signs in A: sums that cancel.
        case.bias = None;
        case.a.scales.fill(0);
        let got = bf16_of(&gpu, &case, (tile, 1)).unwrap();
        assert!(got.iter().all(|x| x.to_f32() == 0.0), "{tile}");
    }
}

/// The largest sum: 192 times (448 * 6)^2.
#[test]
fn largest_everything() {
    let gpu = crate::card("rtx5090");
    for format in [Format::Nvfp4, Format::Fp8] {
        let mut case = Case::random(
            format,
            Shape {
                m: 33,
                n: 8,
                k: 192,
            },
            111,
        );
        for matrix in [&mut case.a, &mut case.b] {
            matrix
                .codes
                .fill(if format == Format::Fp8 { 0x7e } else { 0x77 });
            matrix.scales.fill(0x7e);
        }
        case.bias = None;
        for tile in TILES {
            let got = bf16_of(&gpu, &case, (tile, 1)).unwrap();
            assert_close(&got, &case.reference(), 8, &format!("{format:?} {tile}"));
        }
    }
}

/// 2^22, thirty times 1, then -2^22: the tensor cores of Ada and Hopper would lose the ones if they summed them up.
#[test]
fn small_sums_beside_large_ones() {
    let gpu = crate::card("rtx4090");
    let (m, k) = (33, 32 * 64);
    let mut case = Case::random(Format::Fp8, Shape { m, n: 8, k }, 113);
    case.bias = None;
    for (matrix, last) in [(&mut case.a, 0x78), (&mut case.b, 0xf8)] {
        matrix.scale = 1.0;
        for row in matrix.codes.chunks_mut(k) {
            row.fill(0);
            row[..64].fill(0x78);
            row[64..k - 64]
                .iter_mut()
                .step_by(64)
                .for_each(|code| *code = 0x38);
            row[k - 64..].fill(last);
        }
    }
    for tile in TILES {
        let got = bf16_of(&gpu, &case, (tile, 1)).unwrap();
        assert!(got.iter().all(|x| x.to_f32() == 30.0), "{tile}: {}", got[0]);
    }
}

/// A NaN of A spoils its row, a NaN of B its column, and nothing else.
#[test]
fn nan_stays_where_it_is() {
    let gpu = crate::card("rtx5090");
    for format in [Format::Nvfp4, Format::Fp8] {
        let clean = Case::random(
            format,
            Shape {
                m: 40,
                n: 24,
                k: 320,
            },
            121,
        );
        let mut case = clean.clone();
        match format {
            Format::Nvfp4 => {
                // UE4M3 0x7F in the last block of row 17 and the 7th of column 5.
                case.a.scales[17 * 20 + 19] = 0x7f;
                case.b.scales[5 * 20 + 6] = 0x7f;
            }
            Format::Fp8 => {
                case.a.codes[17 * 320 + 319] = 0x7f;
                case.b.codes[5 * 320 + 100] = 0xff;
            }
        }
        for tile in TILES {
            let (got, before) = (
                bf16_of(&gpu, &case, (tile, 2)).unwrap(),
                bf16_of(&gpu, &clean, (tile, 2)).unwrap(),
            );
            for (i, (got, before)) in got.iter().zip(before).enumerate() {
                if i / 24 == 17 || i % 24 == 5 {
                    assert!(got.is_nan(), "{format:?} {tile} {i}");
                } else {
                    assert_eq!(*got, before, "{format:?} {tile} {i}");
                }
            }
        }
    }
}

/// An infinite bias or scale goes through.
#[test]
fn infinities_go_through() {
    let gpu = crate::card("rtx5090");
    let mut case = Case::random(Format::Fp8, Shape { m: 3, n: 8, k: 16 }, 131);
    case.bias = Some(vec![
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        0.0,
        0.0,
        0.0,
        0.0,
        1e38,
    ]);
    let got = bf16_of(&gpu, &case, (Tile::Rows32, 1)).unwrap();
    for row in got.chunks(8) {
        assert_eq!(row[0].to_f32(), f32::INFINITY);
        assert_eq!(row[1].to_f32(), f32::NEG_INFINITY);
        assert!(row[2].is_nan());
        assert!(row[3..].iter().all(|x| x.is_finite()));
    }
}

#[test]
fn wrong_calls_are_refused() {
    let gpu = crate::card("rtx5090");
    let stream = gpu.stream();
    let bytes = stream.alloc_zeros::<u8>(4096).unwrap();
    let mut out = stream.alloc_zeros::<half::bf16>(4096).unwrap();
    let mut told = |m, n, k, a: usize, b: usize, scales: Option<(usize, usize)>| {
        let (a, b) = (bytes.slice(..a), bytes.slice(..b));
        let scales = scales.map(|(a, b)| (bytes.slice(..a), bytes.slice(..b)));
        let (a, b) = match &scales {
            Some((of_a, of_b)) => (
                Operand::nvfp4(&a, of_a, None),
                Operand::nvfp4_weight(&b, of_b, None),
            ),
            None => (Operand::fp8(&a, None), Operand::fp8(&b, None)),
        };
        let product = Product {
            a,
            b,
            bias: None,
            shape: Shape { m, n, k },
        };
        let mut out = out.slice_mut(..m * n);
        let epilogue = Epilogue::Bf16 { out: &mut out };
        match gemm(&gpu, &product, epilogue, &mut Workspace::default()) {
            Err(error @ KernelError::Shape { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert!(told(2, 8, 40, 80, 320, None).contains("K = 40 is no multiple of 16"));
    assert!(told(2, 8, 0, 0, 0, None).contains("K = 0"));
    assert!(told(2, 8, 32, 32, 256, Some((512, 512))).contains("K = 32 is no multiple of 64"));
    assert!(told(2, 12, 16, 32, 192, None).contains("N = 12 is no multiple of 8"));
    assert!(told(2, 8, 16, 33, 128, None).contains("A has 33 elements"));
    assert!(told(2, 8, 16, 32, 127, None).contains("B has 127 elements"));
    assert!(told(2, 8, 64, 64, 256, Some((511, 512))).contains("A has 511 elements"));
    assert!(told(2, 8, 64, 64, 256, Some((512, 1024))).contains("B has 1024 elements"));

    // A weight in the order of activations, an operand in another format, a view that begins where it must not.
    let (a, b, scales) = (bytes.slice(..64), bytes.slice(..256), bytes.slice(..512));
    let (off, fp8) = (bytes.slice(8..72), bytes.slice(..512));
    let shape = Shape { m: 2, n: 8, k: 64 };
    let plain = Operand::nvfp4(&a, &scales, None);
    let mut refused = |a: Operand<'_>, b: Operand<'_>| {
        let product = Product {
            a,
            b,
            bias: None,
            shape,
        };
        let epilogue = Epilogue::Bf16 {
            out: &mut out.slice_mut(..16),
        };
        gemm(&gpu, &product, epilogue, &mut Workspace::default())
            .unwrap_err()
            .to_string()
    };
    assert!(refused(plain, Operand::nvfp4(&b, &scales, None)).contains("order of Activation"));
    assert!(refused(plain, Operand::fp8(&fp8, None)).contains("the weight is in Fp8"));
    let weight = Operand::nvfp4_weight(&b, &scales, None);
    assert!(refused(Operand::nvfp4(&off, &scales, None), weight).contains("8 bytes after"));
}

#[test]
fn nvfp4_needs_blackwell() {
    let gpu = crate::card("rtx4090");
    let case = Case::random(Format::Nvfp4, Shape { m: 1, n: 8, k: 64 }, 1);
    let error = bf16_of(&gpu, &case, (Tile::Rows32, 1)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("nvfp4_gemm is not built for sm_89"),
        "{error}"
    );
}

/// A thread that has no context yet may be the one that asks for a kernel: it has the card's from then on, which drivers may
/// want for the function's attributes.
#[test]
fn kernels_are_found_from_any_thread() {
    let gpu = crate::card("rtx5090");
    let gpu: &qwen_nvfp4_kernels::Gpu = &gpu;
    let find = || {
        let before = cudarc::driver::result::ctx::get_current().unwrap();
        let function = gpu.function(&FP8_SOURCE, "fp8_gemm_128x128_bf16").unwrap();
        function.set_attribute(MOST_SHARED, 72 * 1024).unwrap();
        let after = cudarc::driver::result::ctx::get_current().unwrap();
        (before.is_some(), after.is_some())
    };
    assert_eq!(find(), (true, true));
    let elsewhere = std::thread::scope(|scope| scope.spawn(find).join().unwrap());
    assert_eq!(elsewhere, (false, true));
}

/// The plan that the card gets, end to end.
#[test]
fn the_plan_runs() {
    let gpu = crate::card("rtx5090");
    let stream = gpu.stream();
    let case = Case::random(
        Format::Fp8,
        Shape {
            m: 20,
            n: 24,
            k: 1024,
        },
        141,
    );
    let (a, b) = (
        stream.clone_htod(&case.a.codes).unwrap(),
        stream.clone_htod(&case.b.codes).unwrap(),
    );
    let (a, b) = (a.as_view(), b.as_view());
    let scale = stream.clone_htod(&[case.a.scale * case.b.scale]).unwrap();
    let bias = stream.clone_htod(case.bias.as_ref().unwrap()).unwrap();
    let (scale, bias) = (scale.as_view(), bias.as_view());
    let product = Product {
        a: Operand::fp8(&a, None),
        b: Operand::fp8(&b, Some(&scale)),
        bias: Some(&bias),
        shape: case.shape(),
    };
    let mut out = stream.alloc_zeros::<half::bf16>(20 * 24).unwrap();
    let epilogue = Epilogue::Bf16 {
        out: &mut out.as_view_mut(),
    };
    let plan = gemm(&gpu, &product, epilogue, &mut Workspace::default()).unwrap();
    assert_eq!(plan.to_string(), "tiles of 32x128, K in 2 parts");
    assert_close(
        &stream.clone_dtoh(&out).unwrap(),
        &case.reference(),
        24,
        "planned",
    );
}
