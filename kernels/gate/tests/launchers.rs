//! The table's shared memory and the sources' launch bounds against what the launch code asks for.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use qwen_nvfp4_kernels::dequant_gemm::DequantPlan;
use qwen_nvfp4_kernels::gemm::{Format, Tile};
use sass_gate::limits::Table;
use sass_gate::usage::bounds_of_ptx;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Every entry of a PTX file whose name starts with `prefix`: threads and shared memory in the table.
fn entries(file: &str, arch: &str, prefix: &str) -> Vec<(String, usize, usize)> {
    let table = Table::read(&root().join("gate.json")).unwrap();
    let ptx = std::fs::read_to_string(root().join(format!("ptx/{file}.{arch}.ptx"))).unwrap();
    let bounds = bounds_of_ptx(&ptx);
    let of_prefix = bounds
        .into_iter()
        .filter(|(name, _)| name.starts_with(prefix));
    of_prefix
        .map(|(name, bounds)| {
            let row = &table.kernels[table.row(&name, arch).unwrap()];
            (name, bounds.threads, row.dynamic_shared)
        })
        .collect()
}

#[test]
fn products_of_quantized_matrices() {
    for (format, file, archs) in [
        (Format::Nvfp4, "nvfp4_gemm", &["sm_120f"][..]),
        (Format::Fp8, "fp8_gemm", &["sm_120f", "sm_89"]),
    ] {
        for (tile, arch) in Tile::ALL
            .into_iter()
            .flat_map(|t| archs.iter().map(move |a| (t, a)))
        {
            let entries = entries(file, arch, &format!("{file}_{tile}_"));
            assert!(!entries.is_empty(), "{file} {tile} {arch}");
            for (name, threads, shared) in entries {
                assert_eq!(threads, tile.threads() as usize, "{name} {arch}");
                assert_eq!(shared, tile.shared_bytes(format), "{name} {arch}");
            }
        }
    }
}

#[test]
fn products_with_widened_weights() {
    for (plan, tile) in [
        (DequantPlan::Large, "128x128"),
        (DequantPlan::Small { splits: 1 }, "32x128"),
    ] {
        for (format, word) in [(Format::Fp8, "e4m3"), (Format::Nvfp4, "nvfp4")] {
            let entries = entries("dequant_gemm", "sm_80", &format!("dequant_{word}_{tile}_"));
            assert!(!entries.is_empty(), "{word} {tile}");
            for (name, threads, shared) in entries {
                assert_eq!(threads, plan.threads() as usize, "{name}");
                assert_eq!(shared, plan.shared_bytes(format), "{name}");
            }
        }
    }
}
