//! Shared memory is free of bank conflicts: every access of the products and of attention takes one wavefront a phase, as
//! counted over the addresses of real launches.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attention;
#[path = "gemm/case.rs"]
mod case;
mod common;
#[path = "gemm/numbers.rs"]
mod numbers;
#[path = "gemm/run.rs"]
mod run;

use attention::data::normal;
use common::emulator;
use cudarc::driver::LaunchConfig;
use cudarc::nvrtc::Ptx;
use half::bf16;
use qwen_nvfp4_kernels::Gpu;
use qwen_nvfp4_kernels::dequant_gemm::{DequantPlan, DequantProduct, Weight, dequant_gemm_planned};
use qwen_nvfp4_kernels::gemm::{Epilogue, Format, Shape, Tile, Workspace};
use qwen_nvfp4_kernels::layout::swizzled_len;

/// Runs `with` on a card; the accesses of what it launched.
fn counted(card: &str, with: impl FnOnce(&Gpu)) -> Vec<emulator::Banks> {
    let context = emulator::context();
    let _settings = emulator::settings(&[("card", card), ("banks", "1")]);
    with(&Gpu::of_context(context).unwrap());
    emulator::banks()
}

/// Whether `entry` was counted and how many of its accesses took more wavefronts than phases.
fn assert_free(banks: &[emulator::Banks], entry: &str) {
    let of_entry: Vec<_> = banks.iter().filter(|b| b.entry == entry).collect();
    assert!(
        of_entry.iter().any(|b| b.accesses > 0),
        "{entry} never touched shared memory"
    );
    for b in of_entry {
        assert_eq!(
            b.wavefronts, b.phases,
            "{entry}, PTX line {}: {} accesses of warps take {} wavefronts for {} phases",
            b.line, b.accesses, b.wavefronts, b.phases
        );
    }
}

fn products(format: Format, card: &str) {
    for (tile, m) in [
        (Tile::Rows32, 40),
        (Tile::Rows64, 70),
        (Tile::Rows128, 150),
        (Tile::Rows256, 260),
    ] {
        let case = case::Case::random(format, Shape { m, n: 136, k: 640 }, 1);
        let banks = counted(card, |gpu| {
            run::bf16_of(gpu, &case, (tile, 1)).unwrap();
        });
        let word = if tile.splits() { "splitk" } else { "bf16" };
        assert_free(&banks, &format!("{}_{tile}_{word}", format.kernel()));
    }
}

#[test]
fn nvfp4_products() {
    products(Format::Nvfp4, "rtx5090");
}

#[test]
fn fp8_products() {
    products(Format::Fp8, "rtx5090");
    products(Format::Fp8, "rtx4090");
}

#[test]
fn attention_in_bf16() {
    let case = attention::Case::square(150, 2);
    let inputs = normal(&case, 1.0, 1);
    let banks = counted("rtx5090", |gpu| {
        attention::run::bf16(gpu, &case, &inputs).unwrap();
    });
    assert_free(&banks, "attention_bf16_d128");
}

#[test]
fn attention_in_fp8() {
    let case = attention::Case::square(260, 2);
    let inputs = normal(&case, 1.0, 1);
    let banks = counted("rtx5090", |gpu| {
        attention::run::fp8(gpu, &case, &inputs).unwrap();
    });
    assert_free(&banks, "attention_fp8_d128");
}

#[test]
fn products_with_widened_weights() {
    let (m, n, k) = (130, 136, 416);
    for plan in [DequantPlan::Large, DequantPlan::Small { splits: 1 }] {
        for (format, word) in [(Format::Fp8, "e4m3"), (Format::Nvfp4, "nvfp4")] {
            let banks = counted("a100", |gpu| {
                let stream = gpu.stream();
                let a = stream.alloc_zeros::<bf16>(m * k).unwrap();
                let codes = match format {
                    Format::Fp8 => n * k,
                    Format::Nvfp4 => n * k / 2,
                };
                let codes = stream.alloc_zeros::<u8>(codes).unwrap();
                let scales = stream
                    .alloc_zeros::<u8>(swizzled_len(n, k).unwrap())
                    .unwrap();
                let (codes, scales) = (codes.as_view(), scales.as_view());
                let product = DequantProduct {
                    a: &a.as_view(),
                    weight: match format {
                        Format::Fp8 => Weight::fp8(&codes, None),
                        Format::Nvfp4 => Weight::nvfp4(&codes, &scales, None),
                    },
                    bias: None,
                    shape: Shape { m, n, k },
                };
                let mut out = stream.alloc_zeros::<bf16>(m * n).unwrap();
                let epilogue = Epilogue::Bf16 {
                    out: &mut out.as_view_mut(),
                };
                let how = (plan, &mut Workspace::default());
                dequant_gemm_planned(gpu, &product, epilogue, how).unwrap();
            });
            let tile = if plan == DequantPlan::Large {
                "128x128_bf16"
            } else {
                "32x128_splitk"
            };
            assert_free(&banks, &format!("dequant_{word}_{tile}"));
        }
    }
}

/// Lanes 8 bytes apart store a word each: two lanes to a bank, two wavefronts. Half of the lanes: one.
#[test]
fn conflicts_are_counted() {
    const TEXT: &str = r"
.version 8.7
.target sm_80
.address_size 64
.visible .entry strided()
{
    .reg .pred %p;
    .reg .b32 %r<3>;
    .shared .align 4 .b8 room[256];
    mov.u32 %r1, %tid.x;
    shl.b32 %r2, %r1, 3;
    st.shared.u32 [%r2], %r1;
    setp.lt.u32 %p, %r1, 16;
    @%p st.shared.u32 [%r2], %r1;
    ret;
}
";
    let banks = counted("a100", |gpu| {
        let module = gpu
            .stream()
            .context()
            .load_module(Ptx::from_src(TEXT))
            .unwrap();
        let function = module.load_function("strided").unwrap();
        let one_warp = LaunchConfig {
            grid_dim: (3, 1, 1),
            block_dim: (32, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: it has no parameters and 256 bytes for 32 lanes 8 bytes apart.
        unsafe { gpu.stream().launch_builder(&function).launch(one_warp) }.unwrap();
        gpu.stream().synchronize().unwrap();
    });
    let told: Vec<_> = banks
        .iter()
        .map(|b| (b.line, b.accesses, b.phases, b.wavefronts))
        .collect();
    assert_eq!(told, [(12, 3, 3, 6), (14, 3, 3, 3)]);
}
