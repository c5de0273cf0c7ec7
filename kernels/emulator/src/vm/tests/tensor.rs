//! Matrix instructions reach their functions with the right registers. Their arithmetic has tests of its own.

use half::bf16;

use super::{Bench, cause};
use crate::fault::Cause;

/// Loads `registers` words per lane: word r of lane l is at index r * 32 + l.
fn loads(pointer: usize, registers: std::ops::Range<usize>) -> String {
    registers
        .clone()
        .map(|r| {
            format!(
                "ld.global.u32 %r{r}, [%d{}+{}];\n",
                pointer + 1,
                (r - registers.start) * 128
            )
        })
        .collect()
}

#[test]
fn a_bf16_product_of_whole_matrices() {
    let body = format!(
        "add.s64 %d1, %a0, %o;\nadd.s64 %d2, %a1, %o;\nadd.s64 %d3, %a2, %o;\n{}{}mov.f32 %f1, 0f3F000000;\n\
         mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {{%f2, %f3, %f4, %f5}}, {{%r1, %r2, %r3, %r4}}, {{%r5, %r6}}, \
         {{%f1, %f1, %f1, %f1}};\n\
         st.global.f32 [%d3], %f2;\nst.global.f32 [%d3+128], %f3;\nst.global.f32 [%d3+256], %f4;\nst.global.f32 [%d3+384], %f5;",
        loads(0, 1..5),
        loads(1, 5..7),
    );
    let bench = Bench::kernel(3, &body);
    let a = |row: usize, k: usize| ((row * 3 + k * 7) % 11) as f32 - 5.0;
    let b = |k: usize, column: usize| ((k * 5 + column * 2) % 7) as f32 - 3.0;
    let pack = |low: f32, high: f32| {
        u32::from(bf16::from_f32(high).to_bits()) << 16 | u32::from(bf16::from_f32(low).to_bits())
    };
    // The layout of the PTX manual for m16n8k16 with 16-bit elements.
    let mut fragment_a = vec![0; 4 * 32];
    let mut fragment_b = vec![0; 2 * 32];
    for lane in 0..32 {
        let (group, t) = (lane / 4, lane % 4);
        for r in 0..4 {
            let (row, k) = (group + 8 * (r % 2), 2 * t + 8 * (r / 2));
            fragment_a[r * 32 + lane] = pack(a(row, k), a(row, k + 1));
        }
        for r in 0..2 {
            let k = 2 * t + 8 * r;
            fragment_b[r * 32 + lane] = pack(b(k, group), b(k + 1, group));
        }
    }
    let (pa, pb, pd) = (
        bench.upload(&fragment_a),
        bench.upload(&fragment_b),
        bench.room(128),
    );
    bench.run(1, 32, &[pa, pb, pd]).unwrap();
    let d = bench.download(pd, 128);
    for lane in 0..32 {
        for r in 0..4 {
            let (row, column) = (lane / 4 + 8 * (r / 2), 2 * (lane % 4) + r % 2);
            let expected = 0.5 + (0..16).map(|k| a(row, k) * b(k, column)).sum::<f32>();
            assert_eq!(
                f32::from_bits(d[r * 32 + lane]),
                expected,
                "row {row} column {column}"
            );
        }
    }
}

#[test]
fn an_nvfp4_product_with_a_scale_of_two() {
    // All elements 1.0 (code 2), scales of A 2.0 (0x40 in ue4m3), of B 0.5 (0x30): each sum is 64.
    let bench = Bench::kernel(
        1,
        "mov.u32 %r1, 0x22222222;\nmov.u32 %r2, 0x40404040;\nmov.u32 %r3, 0x30303030;\nmov.f32 %f1, 0f00000000;\nmov.u16 %h1, 0;\n\
         mma.sync.aligned.kind::mxf4nvf4.block_scale.scale_vec::4X.m16n8k64.row.col.f32.e2m1.e2m1.f32.ue4m3 \
         {%f2, %f3, %f4, %f5}, {%r1, %r1, %r1, %r1}, {%r1, %r1}, {%f1, %f1, %f1, %f1}, {%r2}, {0, 0}, {%r3}, {%h1, %h1};\n\
         add.f32 %f2, %f2, %f3;\nadd.f32 %f2, %f2, %f4;\nadd.f32 %f2, %f2, %f5;\nadd.s64 %d1, %a0, %o;\nst.global.f32 [%d1], %f2;",
    );
    assert_eq!(bench.map(32, &[]), vec![256f32.to_bits(); 32]);
}

#[test]
fn matrices_go_through_shared_memory_and_are_turned() {
    // Row r of the 8x8 matrix holds 8 r + column; a transposed load gives lane 4 c + t the elements (2t, c), (2t+1, c).
    let bench = Bench::kernel(
        1,
        ".shared .align 16 .b8 s[128];\nmov.u32 %r1, s;\nmul.lo.u32 %r2, %t, 2;\nadd.u32 %r3, %r2, 1;\nshl.b32 %r3, %r3, 16;\n\
         or.b32 %r2, %r2, %r3;\nmul.lo.u32 %r4, %t, 16;\nadd.u32 %r4, %r4, %r1;\n\
         stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r4], {%r2};\nbar.sync 0;\n\
         ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%r5}, [%r4];\nadd.s64 %d1, %a0, %o;\nst.global.u32 [%d1], %r5;",
    );
    let element = |row: u32, column: u32| 8 * row + column;
    let expected: Vec<u32> = (0..32)
        .map(|lane| {
            let (column, t) = (lane / 4, lane % 4);
            element(2 * t + 1, column) << 16 | element(2 * t, column)
        })
        .collect();
    assert_eq!(bench.map(32, &[]), expected);
}

#[test]
fn a_product_by_half_a_warp_is_a_fault() {
    let product = "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f2, %f3, %f4, %f5}, {%r1, %r1}, {%r1}, {%f1, %f1, %f1, %f1};";
    let bench = Bench::kernel(0, &format!("setp.lt.u32 %p1, %t, 16;\n@%p1 {product}"));
    assert!(matches!(
        cause(bench.run(1, 32, &[])),
        Cause::Instruction(_)
    ));
    let bench = Bench::kernel(0, product);
    assert!(matches!(
        cause(bench.run(1, 16, &[])),
        Cause::Instruction(_)
    ));
    assert!(bench.run(1, 32, &[]).is_ok());
}
