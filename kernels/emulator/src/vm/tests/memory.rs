//! Loads, stores, atomics, generic addresses.

use super::{Bench, cause};
use crate::fault::Cause;

#[test]
fn vectors_and_narrow_types_find_their_bytes() {
    let words: Vec<u32> = (0..8 * 32u32)
        .map(|i| i.wrapping_mul(0x9e37_79b9))
        .collect();
    // Thread t reads 32 bytes at 32 t.
    let cases: [(&str, fn(&[u32]) -> u32); 7] = [
        (
            "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%d1+16];\nmov.u32 %r0, %r3;",
            |w| w[6],
        ),
        (
            "ld.global.v8.b32 {%r1, %r2, %r3, %r4, %r5, %r6, %r7, %r8}, [%d1];\nxor.b32 %r0, %r1, %r8;",
            |w| w[0] ^ w[7],
        ),
        (
            "ld.global.nc.L1::no_allocate.L2::128B.v2.b64 {%d2, %d3}, [%d1];\nmov.b64 {_, %r0}, %d3;",
            |w| w[3],
        ),
        ("ld.global.s8 %r0, [%d1+5];", |w| {
            i32::from((w[1] >> 8) as i8) as u32
        }),
        (
            "ld.global.v2.u8 {%h1, %h2}, [%d1+6];\ncvt.u32.u16 %r0, %h2;",
            |w| w[1] >> 24,
        ),
        (
            "ld.global.v4.u16 {%h1, %h2, %h3, %h4}, [%d1+8];\ncvt.u32.u16 %r0, %h4;",
            |w| w[3] >> 16,
        ),
        ("ld.global.s16 %d2, [%d1+2];\nmov.b64 {_, %r0}, %d2;", |w| {
            (i64::from((w[0] >> 16) as i16) >> 32) as u32
        }),
    ];
    for (text, f) in cases {
        let bench = Bench::kernel(
            2,
            &format!(
                "mul.wide.u32 %d1, %t, 32;\nadd.s64 %d1, %a0, %d1;\n{text}\nadd.s64 %d4, %a1, %o;\nst.global.u32 [%d4], %r0;"
            ),
        );
        let expected: Vec<u32> = words.chunks(8).map(f).collect();
        assert_eq!(bench.map(32, &[&words]), expected, "{text}");
    }
}

#[test]
fn narrow_stores_leave_their_neighbours() {
    let bench = Bench::kernel(
        2,
        "add.s64 %d1, %a0, %o;\nst.global.u8 [%d1+1], %t;\nmov.u16 %h1, 0xBEEF;\nst.global.b16 [%d1+2], %h1;\n\
         ld.global.u32 %r1, [%d1];\nadd.s64 %d1, %a1, %o;\nst.global.u32 [%d1], %r1;",
    );
    let expected: Vec<u32> = (0..32).map(|t| 0xbeef_0011 | t << 8).collect();
    assert_eq!(bench.map(32, &[&[0x4433_2211; 32]]), expected);
}

#[test]
fn generic_addresses_reach_shared_local_and_global_memory() {
    // Even threads go through shared memory, odd ones through their own; both by generic addresses in one instruction.
    let bench = Bench::kernel(
        1,
        ".shared .align 8 .b8 s[256];\n.local .align 8 .b8 l[16];\n\
         mov.u64 %d1, s;\ncvta.shared.u64 %d1, %d1;\nadd.s64 %d1, %d1, %o;\n\
         mov.u64 %d2, l;\ncvta.local.u64 %d2, %d2;\n\
         and.b32 %r1, %t, 1;\nsetp.eq.u32 %p1, %r1, 0;\nselp.b64 %d3, %d1, %d2, %p1;\n\
         mad.lo.u32 %r2, %t, 3, 5;\nst.u32 [%d3], %r2;\nld.u32 %r3, [%d3];\n\
         isspacep.shared %p2, %d3;\nisspacep.local %p3, %d3;\nisspacep.global %p4, %a0;\n\
         selp.u32 %r4, 100, 0, %p2;\nselp.u32 %r5, 1000, 0, %p3;\nselp.u32 %r6, 10000, 0, %p4;\n\
         add.u32 %r3, %r3, %r4;\nadd.u32 %r3, %r3, %r5;\nadd.u32 %r3, %r3, %r6;\n\
         add.s64 %d4, %a0, %o;\nst.u32 [%d4], %r3;",
    );
    let expected: Vec<u32> = (0..40)
        .map(|t| 3 * t + 5 + 10000 + if t % 2 == 0 { 100 } else { 1000 })
        .collect();
    assert_eq!(bench.map(40, &[]), expected);
}

#[test]
fn variables_of_the_module_have_their_values_and_addresses() {
    let bench = Bench::module(
        ".const .align 4 .u32 table[4] = {10, 20, 30, 40};\n.global .align 8 .b64 pointer = generic(bytes);\n\
         .global .align 1 .b8 bytes[5] = {1, 2, 3, 4, 5};\n\
         .visible .entry k(.param .u64 out)\n{\n.reg .b32 %r<9>; .reg .b64 %d<9>;\n\
         ld.param.u64 %d1, [out]; mov.u32 %r1, %tid.x; mul.wide.u32 %d2, %r1, 4; add.s64 %d1, %d1, %d2;\n\
         mov.u64 %d3, table; add.s64 %d3, %d3, %d2; ld.const.u32 %r2, [%d3];\n\
         ld.global.u64 %d4, [pointer]; cvt.u64.u32 %d5, %r1; add.s64 %d4, %d4, %d5; ld.u8 %r3, [%d4];\n\
         ld.const.u32 %r4, [table+12];\n\
         mad.lo.u32 %r2, %r3, 100, %r2; add.u32 %r2, %r2, %r4; st.global.u32 [%d1], %r2; ret;\n}",
    );
    assert_eq!(
        bench.map(4, &[]),
        [10 + 100 + 40, 20 + 200 + 40, 30 + 300 + 40, 40 + 400 + 40]
    );
}

#[test]
fn parameters_of_several_sizes_lie_aligned() {
    let bench = Bench::module(
        ".visible .entry k(.param .u8 a, .param .align 8 .b8 s[12], .param .u64 out)\n{\n.reg .b32 %r<9>; .reg .b64 %d<9>;\n\
         ld.param.u8 %r1, [a]; ld.param.u32 %r2, [s+8]; ld.param.u64 %d1, [out];\n\
         add.u32 %r3, %r1, %r2; st.global.u32 [%d1], %r3; ret;\n}",
    );
    let entry = bench.program.entry("k").unwrap();
    let places: Vec<(usize, usize)> = entry
        .parameters
        .iter()
        .map(|p| (p.offset, p.size))
        .collect();
    assert_eq!(
        (places, entry.parameter_bytes),
        (vec![(0, 1), (8, 12), (24, 8)], 32)
    );
    let out = bench.room(1);
    bench.run(1, 1, &[7, 0, 35, out]).unwrap();
    assert_eq!(bench.download(out, 1), [42]);
}

#[test]
fn atomics_of_many_blocks_lose_nothing() {
    // Words: sum, float sum, max, exclusive or, compare-and-swap, half pair.
    let bench = Bench::kernel(
        1,
        "red.global.add.u32 [%a0], %t;\natom.global.add.f32 %f1, [%a0+4], 0f3E800000;\natom.global.max.s32 %r1, [%a0+8], %t;\n\
         red.global.xor.b32 [%a0+12], %t;\nred.relaxed.gpu.global.add.noftz.f16x2 [%a0+20], %r3;\n\
         AGAIN:\nld.volatile.global.u32 %r4, [%a0+16];\nmul.lo.u32 %r5, %r4, 3;\nadd.u32 %r5, %r5, 1;\n\
         atom.global.cas.b32 %r6, [%a0+16], %r4, %r5;\nsetp.ne.u32 %p1, %r6, %r4;\n@%p1 bra AGAIN;",
    );
    let words = bench.upload(&[0, 0, 0x8000_0000, 0, 0, 0]);
    bench.run(8, 64, &[words]).unwrap();
    let found = bench.download(words, 6);
    let steps = (0..512).fold(0u32, |x, _| x.wrapping_mul(3).wrapping_add(1));
    let xor = (0..512).fold(0, |x, t| x ^ t);
    assert_eq!(found, [512 * 511 / 2, 128f32.to_bits(), 511, xor, steps, 0]);
}

#[test]
fn unwritten_and_misaligned_memory_is_not_read() {
    let bench = Bench::kernel(1, "ld.global.u32 %r1, [%a0];");
    let room = bench.room(4);
    assert!(matches!(
        cause(bench.run(1, 1, &[room])),
        Cause::Uninitialised { .. }
    ));
    let words = bench.upload(&[1, 2]);
    assert!(matches!(
        cause(bench.run(1, 1, &[words + 2])),
        Cause::Misaligned { .. }
    ));
    assert!(matches!(
        cause(bench.run(1, 1, &[0])),
        Cause::OutOfBounds { .. }
    ));
    let local = Bench::kernel(0, ".local .align 4 .b8 l[16];\nst.local.u32 [l+16], %t;");
    assert!(matches!(
        cause(local.run(1, 1, &[])),
        Cause::OutOfBounds { .. }
    ));
}

#[test]
fn dynamic_shared_memory_follows_the_static() {
    let bench = Bench::module(
        ".extern .shared .align 16 .b8 dynamic[];\n.visible .entry k(.param .u64 out)\n{\n\
         .shared .align 4 .b8 fixed[20];\n.reg .b32 %r<9>; .reg .b64 %d<9>;\n\
         ld.param.u64 %d1, [out]; mov.u32 %r1, dynamic; mov.u32 %r2, fixed; sub.u32 %r3, %r1, %r2;\n\
         st.shared.u32 [%r1+60], %r3; ld.shared.u32 %r4, [dynamic+60]; mov.u32 %r5, %dynamic_smem_size;\n\
         st.global.v2.u32 [%d1], {%r4, %r5}; ret;\n}",
    );
    let out = bench.room(2);
    bench
        .run_shaped([1, 1, 1], [1, 1, 1], (64, &[out]))
        .unwrap();
    assert_eq!(bench.download(out, 2), [32, 64]);
    let short = bench.run_shaped([1, 1, 1], [1, 1, 1], (60, &[out]));
    assert!(matches!(cause(short), Cause::OutOfBounds { .. }));
}
