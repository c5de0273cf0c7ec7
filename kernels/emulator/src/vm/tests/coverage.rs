//! Instructions as nvcc and inline assembly spell them: each must be understood, to its last modifier.

use super::Bench;

const SPELLINGS: &[&str] = &[
    // Caches, hints, orders.
    "createpolicy.fractional.L2::evict_first.b64 %d1, 1.0;",
    "ld.global.L1::no_allocate.L2::cache_hint.v4.u32 {%r1, %r2, %r3, %r4}, [%d1], %d2;",
    "ld.relaxed.gpu.global.u32 %r1, [%d1];",
    "ld.acquire.sys.global.u64 %d1, [%d2];",
    "st.release.gpu.global.u32 [%d1], %r1;",
    "st.global.L1::no_allocate.v8.b32 [%d1], {%r1, %r2, %r3, %r4, %r5, %r6, %r7, %r8};",
    "st.global.cs.v2.f64 [%d1], {%e1, %e2};",
    "ld.volatile.shared.u32 %r1, [%r2];",
    "ld.shared::cta.v4.b32 {%r1, %r2, %r3, %r4}, [%r5+16];",
    "prefetch.global.L2 [%d1];",
    "prefetch.global.L2::evict_last [%d1];",
    // Atomics.
    "atom.global.add.noftz.bf16x2 %r1, [%d1], %r2;",
    "atom.acq_rel.gpu.global.cas.b64 %d1, [%d2], %d3, %d4;",
    "red.global.add.v2.f32 [%d1], {%f1, %f2};",
    "red.shared.min.s32 [%r1], %r2;",
    "atom.shared.exch.b32 %r1, [%r2], %r3;",
    "atom.global.inc.u32 %r1, [%d1], 7;",
    // Copies and their waits.
    "cp.async.ca.shared.global [%r1], [%d1], 4;",
    "cp.async.cg.shared::cta.global.L2::cache_hint.L2::256B [%r1], [%d1], 16, %r2, %d2;",
    "cp.async.ca.shared.global [%r1], [%d1], 8, %p1;",
    "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%r1];",
    "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes.L2::cache_hint [%r1], [%d1], %r2, [%r3], %d2;",
    "cp.async.bulk.wait_group 1;",
    // Synchronisation.
    "barrier.sync.aligned 3, 128;",
    "barrier.cta.arrive.aligned 3, 128;",
    "bar.warp.sync -1;",
    "barrier.cluster.arrive.release.aligned;",
    "barrier.cluster.wait.acquire.aligned;",
    "fence.acq_rel.gpu;",
    "fence.sc.cta;",
    "fence.proxy.async.shared::cta;",
    "fence.mbarrier_init.release.cluster;",
    "membar.gl;",
    "mbarrier.inval.shared.b64 [%r1];",
    "mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 %d1, [%r1], 64;",
    "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r1], 64;",
    "mbarrier.test_wait.shared.b64 %p1, [%r1], %d1;",
    "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 %p1, [%r1], %r2, 1000;",
    "griddepcontrol.wait;",
    "griddepcontrol.launch_dependents;",
    "setmaxnreg.inc.sync.aligned.u32 232;",
    "nanosleep.u32 100;",
    // Warps.
    "elect.sync _|%p1, -1;",
    "match.all.sync.b64 %r1|%p1, %d1, -1;",
    "redux.sync.max.abs.NaN.f32 %f1, %f2, -1;",
    "mov.u64 %d1, %globaltimer;",
    "mov.u32 %r1, %clock;",
    "mov.u32 %r1, %cluster_ctarank;",
    // Arithmetic.
    "min.ftz.NaN.xorsign.abs.f32 %f1, %f2, %f3;",
    "max.NaN.abs.f32 %f1, %f2, %f3, %f4;",
    "max.NaN.bf16x2 %r1, %r2, %r3;",
    "tanh.approx.bf16x2 %r1, %r2;",
    "fma.rn.ftz.relu.f16x2 %r1, %r2, %r3, %r4;",
    "fma.rn.ftz.f32x2 %d1, %d2, %d3, %d4;",
    "set.gtu.u32.f16x2 %r1, %r2, %r3;",
    "setp.lt.f16x2 %p1|%p2, %r1, %r2;",
    "mul24.lo.u32 %r1, %r2, %r3;",
    "slct.f32.s32 %f1, %f2, %f3, %r1;",
    // Conversions.
    "cvt.rna.tf32.f32 %r1, %f1;",
    "cvt.rn.satfinite.relu.e5m2x2.f16x2 %h1, %r1;",
    "cvt.rz.satfinite.ue8m0x2.bf16x2 %h1, %r1;",
    "cvt.rn.bf16x2.ue8m0x2 %r1, %h1;",
    "cvt.rn.satfinite.e3m2x2.f32 %h1, %f1, %f2;",
    "cvt.rn.relu.f16x2.e2m3x2 %r1, %h1;",
    "cvt.pack.sat.s8.s32.b32 %r1, %r2, %r3, %r4;",
    "cvt.sat.f32.f32 %f1, %f2;",
    "cvt.f32.bf16 %f1, %h1;",
    "cvt.rn.f64.u64 %e1, %d1;",
    // Matrices.
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1, %r2, %r3, %r4}, [%r5];",
    "ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8 {%r1, %r2}, [%r5];",
    "ldmatrix.sync.aligned.m8n16.x2.shared::cta.b8x16.b4x16_p64 {%r1, %r2}, [%r5];",
    "stmatrix.sync.aligned.m16n8.x2.trans.shared.b8 [%r1], {%r2, %r3};",
    "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f1,%f2,%f3,%f4}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%f1,%f2,%f3,%f4};",
    "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%r1,%r2}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%r7,%r8};",
    "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.u8.s32 {%r1,%r2,%r3,%r4}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%r1,%r2,%r3,%r4};",
    "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e5m2.f32 {%f1,%f2,%f3,%f4}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%f1,%f2,%f3,%f4};",
    "mma.sync.aligned.kind::f8f6f4.m16n8k32.row.col.f16.e2m1.e3m2.f16 {%r1,%r2}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%r7,%r8};",
    "mma.sync.aligned.kind::mxf8f6f4.block_scale.scale_vec::1X.m16n8k32.row.col.f32.e4m3.e4m3.f32.ue8m0 \
     {%f1,%f2,%f3,%f4}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%f1,%f2,%f3,%f4}, {%r7}, {0, 1}, {%r8}, {2, 3};",
    "mma.sync.aligned.kind::mxf4.block_scale.scale_vec::2X.m16n8k64.row.col.f32.e2m1.e2m1.f32.ue8m0 \
     {%f1,%f2,%f3,%f4}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%f1,%f2,%f3,%f4}, %r7, {0, 1}, %r8, {2, 3};",
];

#[test]
fn each_spelling_is_decoded() {
    let refused: Vec<String> = SPELLINGS
        .iter()
        .filter_map(|text| {
            let bench = Bench::kernel(0, text);
            let needs = bench.program.entry("k").unwrap().needs();
            needs.err().map(|fault| fault.to_string())
        })
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn what_is_not_implemented_is_refused() {
    for text in [
        "cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes [%r1], [%d1, {%r2, %r3}], [%r4];",
        "mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32 {%r1,%r2,%r3,%r4}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%r1,%r2,%r3,%r4};",
        "wgmma.fence.sync.aligned;",
        "tcgen05.wait::ld.sync.aligned;",
        "add.s32 %r1, %d1, %r2;",
        "add.s32 %r1, %r2;",
        "ld.global.v4.u32 {%r1, %r2}, [%d1];",
    ] {
        assert!(
            Bench::kernel(0, text)
                .program
                .entry("k")
                .unwrap()
                .needs()
                .is_err(),
            "{text}"
        );
    }
}
