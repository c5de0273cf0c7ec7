//! Whole small kernels.

use super::Bench;

#[test]
fn vectors_are_added_by_many_blocks_the_last_one_ragged() {
    let bench = Bench::module(
        ".visible .entry k(.param .u64 x, .param .u64 y, .param .u64 z, .param .u32 n)\n{\n\
         .reg .pred %p<2>; .reg .b32 %r<6>; .reg .f32 %f<4>; .reg .b64 %d<12>;\n\
         ld.param.u64 %d1, [x]; ld.param.u64 %d2, [y]; ld.param.u64 %d3, [z]; ld.param.u32 %r1, [n];\n\
         mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;\n\
         mad.lo.s32 %r5, %r2, %r3, %r4;\nsetp.ge.u32 %p1, %r5, %r1;\n@%p1 bra DONE;\n\
         cvta.to.global.u64 %d4, %d1; cvta.to.global.u64 %d5, %d2; cvta.to.global.u64 %d6, %d3;\n\
         mul.wide.u32 %d7, %r5, 4;\nadd.s64 %d8, %d4, %d7; add.s64 %d9, %d5, %d7; add.s64 %d10, %d6, %d7;\n\
         ld.global.f32 %f1, [%d8]; ld.global.f32 %f2, [%d9]; add.f32 %f3, %f1, %f2;\n\
         st.global.f32 [%d10], %f3;\nDONE:\nret;\n}",
    );
    let count = 1000;
    let x: Vec<u32> = (0..count).map(|i| (i as f32 * 0.37).to_bits()).collect();
    let y: Vec<u32> = (0..count)
        .map(|i| (1e-3 * i as f32 - 2.0).to_bits())
        .collect();
    let (dx, dy, dz) = (bench.upload(&x), bench.upload(&y), bench.room(count));
    // The fourth parameter is 4 bytes of the 8 handed over.
    let report = bench.run(8, 128, &[dx, dy, dz, count as u64]).unwrap();
    assert_eq!(report.blocks, 8);
    let sums: Vec<u32> = x
        .iter()
        .zip(&y)
        .map(|(x, y)| (f32::from_bits(*x) + f32::from_bits(*y)).to_bits())
        .collect();
    assert_eq!(bench.download(dz, count), sums);
}

/// A tree in shared memory, then a butterfly within the first warp.
const REDUCE: &str = "
    .shared .align 4 .b8 tree[1024];
    mov.u32 %r1, %tid.x;
    add.s64 %d1, %a0, %o;
    ld.global.u32 %r2, [%d1];
    shl.b32 %r3, %r1, 2;
    mov.u32 %r4, tree;
    add.u32 %r5, %r4, %r3;
    st.shared.u32 [%r5], %r2;
    mov.u32 %r6, 128;
LOOP:
    bar.sync 0;
    setp.ge.u32 %p1, %r1, %r6;
    @%p1 bra NEXT;
    shl.b32 %r7, %r6, 2;
    add.u32 %r8, %r5, %r7;
    ld.shared.u32 %r9, [%r8];
    ld.shared.u32 %r10, [%r5];
    add.u32 %r10, %r10, %r9;
    st.shared.u32 [%r5], %r10;
NEXT:
    shr.u32 %r6, %r6, 1;
    setp.ge.u32 %p2, %r6, 32;
    @%p2 bra LOOP;
    bar.sync 0;
    setp.ge.u32 %p3, %r1, 32;
    @%p3 bra END;
    ld.shared.u32 %r11, [%r5];
    mov.u32 %r12, 16;
BUTTERFLY:
    shfl.sync.bfly.b32 %r13|%p4, %r11, %r12, 31, -1;
    add.u32 %r11, %r11, %r13;
    shr.u32 %r12, %r12, 1;
    setp.ne.u32 %p5, %r12, 0;
    @%p5 bra BUTTERFLY;
    setp.ne.u32 %p6, %r1, 0;
    @%p6 bra END;
    mul.wide.u32 %d2, %c, 4;
    add.s64 %d2, %a1, %d2;
    st.global.u32 [%d2], %r11;
END:";

#[test]
fn blocks_of_256_are_summed_in_shared_memory_and_by_shuffles() {
    for seed in 0..8 {
        let mut bench = Bench::kernel(2, REDUCE);
        bench.settings.seed = seed;
        let values: Vec<u32> = (0..1024u32)
            .map(|i| i.wrapping_mul(2_654_435_761))
            .collect();
        let (input, out) = (bench.upload(&values), bench.room(4));
        bench.run(4, 256, &[input, out]).unwrap();
        let sums: Vec<u32> = values
            .chunks(256)
            .map(|part| part.iter().fold(0u32, |sum, x| sum.wrapping_add(*x)))
            .collect();
        assert_eq!(bench.download(out, 4), sums, "seed {seed}");
    }
}

#[test]
fn loops_of_different_length_and_early_exits_leave_each_lane_its_own() {
    // Lane t: the steps of the Collatz sequence from t + 1; lanes divisible by 7 leave at once.
    let bench = Bench::kernel(
        1,
        "rem.u32 %r1, %t, 7;\nsetp.eq.u32 %p1, %r1, 0;\nadd.s64 %d1, %a0, %o;\n\
         mov.u32 %r9, 12345;\n@%p1 st.global.u32 [%d1], %r9;\n@%p1 exit;\n\
         add.u32 %r2, %t, 1;\nmov.u32 %r3, 0;\n\
         AGAIN:\nsetp.eq.u32 %p2, %r2, 1;\n@%p2 bra OUT;\nadd.u32 %r3, %r3, 1;\nand.b32 %r4, %r2, 1;\n\
         setp.ne.u32 %p3, %r4, 0;\n@%p3 bra ODD;\nshr.u32 %r2, %r2, 1;\nbra.uni AGAIN;\n\
         ODD:\nmad.lo.u32 %r2, %r2, 3, 1;\nbra AGAIN;\nOUT:\nst.global.u32 [%d1], %r3;",
    );
    let expected: Vec<u32> = (0..100u32)
        .map(|t| {
            let (mut n, mut steps) = (t + 1, 0);
            while n != 1 {
                n = if n % 2 == 0 { n / 2 } else { 3 * n + 1 };
                steps += 1;
            }
            if t % 7 == 0 { 12345 } else { steps }
        })
        .collect();
    assert_eq!(bench.map(100, &[]), expected);
}

#[test]
fn functions_are_called_with_parameters_and_results() {
    let bench = Bench::module(
        ".func (.param .b32 result) power(.param .b32 base, .param .b64 exponent)\n{\n\
         .reg .pred %p<2>; .reg .b32 %r<4>; .reg .b64 %d<2>;\n\
         ld.param.u32 %r1, [base]; ld.param.u64 %d1, [exponent]; mov.u32 %r2, 1;\n\
         L:\nsetp.eq.u64 %p1, %d1, 0;\n@%p1 bra E;\nmul.lo.u32 %r2, %r2, %r1;\nsub.u64 %d1, %d1, 1;\nbra L;\n\
         E:\nst.param.b32 [result], %r2;\nret;\n}\n\
         .visible .entry k(.param .u64 out)\n{\n.reg .b32 %r<9>; .reg .b64 %d<9>;\n\
         ld.param.u64 %d1, [out]; mov.u32 %r1, %tid.x; mul.wide.u32 %d2, %r1, 4; add.s64 %d1, %d1, %d2;\n\
         cvt.u64.u32 %d3, %r1;\n\
         {\n.param .b32 a;\nst.param.b32 [a], 3;\n.param .b64 b;\nst.param.b64 [b], %d3;\n.param .b32 back;\n\
         call.uni (back), power, (a, b);\nld.param.b32 %r2, [back];\n}\n\
         {\n.param .b32 a;\nst.param.b32 [a], %r1;\n.param .b64 b;\nst.param.b64 [b], 2;\n.param .b32 back;\n\
         call (back), power, (a, b);\nld.param.b32 %r3, [back];\n}\n\
         add.u32 %r4, %r2, %r3; st.global.u32 [%d1], %r4; ret;\n}",
    );
    let expected: Vec<u32> = (0..32u32)
        .map(|t| 3u32.wrapping_pow(t).wrapping_add(t * t))
        .collect();
    assert_eq!(bench.map(32, &[]), expected);
}
