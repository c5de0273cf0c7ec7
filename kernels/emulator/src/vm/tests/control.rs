//! Branches, comparisons, special registers.

use super::{Bench, EDGES, FLOATS, apply, pairs};

#[test]
fn relations_of_integers_and_floats() {
    let (a, b) = pairs(&EDGES);
    let run = |relation: &str, a: &[u32], b: &[u32]| {
        apply(
            &format!("setp.{relation} %p1, {{a}}, {{b}};\nselp.u32 {{d}}, 1, 0, %p1;"),
            &[a, b],
        )
    };
    let cases: [(&str, fn(u32, u32) -> bool); 8] = [
        ("eq.s32", |a, b| a == b),
        ("ne.b32", |a, b| a != b),
        ("lt.s32", |a, b| (a as i32) < (b as i32)),
        ("le.u32", |a, b| a <= b),
        ("hi.u32", |a, b| a > b),
        ("lo.u32", |a, b| a < b),
        ("gt.s32", |a, b| (a as i32) > (b as i32)),
        ("ge.u32", |a, b| a >= b),
    ];
    for (relation, f) in cases {
        let expected: Vec<u32> = a
            .iter()
            .zip(&b)
            .map(|(a, b)| u32::from(f(*a, *b)))
            .collect();
        assert_eq!(run(relation, &a, &b), expected, "{relation}");
    }
    let (a, b) = pairs(&FLOATS);
    let (x, y): (Vec<u32>, Vec<u32>) = (
        a.iter().map(|v| v.to_bits()).collect(),
        b.iter().map(|v| v.to_bits()).collect(),
    );
    let cases: [(&str, fn(f32, f32) -> bool); 9] = [
        ("eq.f32", |a, b| a == b),
        ("ne.f32", |a, b| a != b && !a.is_nan() && !b.is_nan()),
        ("lt.f32", |a, b| a < b),
        ("gt.f32", |a, b| a > b),
        ("geu.f32", |a, b| a >= b || a.is_nan() || b.is_nan()),
        ("neu.f32", |a, b| a != b),
        ("equ.f32", |a, b| a == b || a.is_nan() || b.is_nan()),
        ("num.f32", |a, b| !a.is_nan() && !b.is_nan()),
        ("nan.f32", |a, b| a.is_nan() || b.is_nan()),
    ];
    for (relation, f) in cases {
        let expected: Vec<u32> = a
            .iter()
            .zip(&b)
            .map(|(a, b)| u32::from(f(*a, *b)))
            .collect();
        assert_eq!(run(relation, &x, &y), expected, "{relation}");
    }
}

#[test]
fn a_comparison_joins_a_predicate_and_gives_its_complement_too() {
    let (a, b) = pairs(&[0, 1, 2]);
    let found = apply(
        "setp.eq.u32 %p3, {b}, 1;\nsetp.lt.and.u32 %p1|%p2, {a}, {b}, !%p3;\n\
         selp.u32 %r8, 1, 0, %p1;\nselp.u32 %r9, 2, 0, %p2;\nor.b32 {d}, %r8, %r9;",
        &[&a, &b],
    );
    let expected: Vec<u32> = a
        .iter()
        .zip(&b)
        .map(|(a, b)| {
            if *b == 1 {
                0
            } else if a < b {
                1
            } else {
                2
            }
        })
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn classes_of_floats() {
    let bits = FLOATS.map(f32::to_bits);
    let run = |class: &str| {
        apply(
            &format!("testp.{class}.f32 %p1, {{a}};\nselp.u32 {{d}}, 1, 0, %p1;"),
            &[&bits],
        )
    };
    assert_eq!(
        run("subnormal"),
        FLOATS.map(|a| u32::from(a.is_subnormal()))
    );
    assert_eq!(run("notanumber"), FLOATS.map(|a| u32::from(a.is_nan())));
    assert_eq!(run("normal"), FLOATS.map(|a| u32::from(a.is_normal())));
    assert_eq!(run("infinite"), FLOATS.map(|a| u32::from(a.is_infinite())));
}

#[test]
fn a_table_of_branches_sends_each_lane_its_way() {
    let bench = Bench::kernel(
        1,
        "and.b32 %r1, %t, 3;\nmov.u32 %r2, 0;\nways: .branchtargets A, B, C, A;\nbrx.idx %r1, ways;\n\
         C:\nadd.u32 %r2, %r2, 300;\nbra END;\nA:\nadd.u32 %r2, %r2, 100;\nbra END;\nB:\nadd.u32 %r2, %r2, 200;\n\
         END:\nactivemask.b32 %r3;\nsetp.ne.u32 %p1, %r3, -1;\n@%p1 add.u32 %r2, %r2, 1;\n\
         add.s64 %d1, %a0, %o;\nst.global.u32 [%d1], %r2;",
    );
    let expected: Vec<u32> = (0..32).map(|t| [100, 200, 300, 100][t % 4]).collect();
    assert_eq!(
        bench.map(32, &[]),
        expected,
        "and all lanes are together again at the end"
    );
}

#[test]
fn labels_in_braces_are_their_own() {
    // Two loops of inline assembly with one label name.
    let one = "{\n.reg .pred P;\nLOOP:\nadd.u32 %r1, %r1, 1;\nsetp.lt.u32 P, %r1, LIMIT;\n@P bra LOOP;\n}\n";
    let body = format!(
        "mov.u32 %r1, 0;\n{}{}mov.u32 {{d}}, %r1;",
        one.replace("LIMIT", "5"),
        one.replace("LIMIT", "9")
    );
    assert_eq!(apply(&body, &[&[0]]), [9]);
}

#[test]
fn special_registers_say_where_a_thread_is() {
    let bench = Bench::kernel(
        1,
        "mov.u32 %r1, %tid.y;\nmov.u32 %r2, %tid.z;\nmov.u32 %r3, %laneid;\nmov.u32 %r4, %warpid;\nmov.u32 %r5, %ctaid.y;\n\
         mov.u32 %r6, %nctaid.y;\nmov.u32 %r7, %ntid.z;\nmov.u32 %r8, %lanemask_le;\npopc.b32 %r8, %r8;\n\
         mov.u32 %r9, %tid.x;\nmov.u32 %r10, %ntid.x;\nmov.u32 %r11, %ntid.y;\n\
         mad.lo.u32 %r12, %r2, %r11, %r1;\nmad.lo.u32 %r12, %r12, %r10, %r9;\nmad.lo.u32 %r13, %r5, 60, %r12;\n\
         mul.wide.u32 %d1, %r13, 32;\nadd.s64 %d1, %a0, %d1;\n\
         st.global.v4.u32 [%d1], {%r1, %r2, %r3, %r4};\nst.global.v4.u32 [%d1+16], {%r5, %r6, %r7, %r8};",
    );
    let out = bench.room(8 * 120);
    bench.run_shaped([1, 2, 1], [5, 4, 3], (0, &[out])).unwrap();
    for (index, words) in bench.download(out, 8 * 120).chunks(8).enumerate() {
        let (block, thread) = (index as u32 / 60, index as u32 % 60);
        let expected = [
            thread / 5 % 4,
            thread / 20,
            thread % 32,
            thread / 32,
            block,
            2,
            3,
            thread % 32 + 1,
        ];
        assert_eq!(words, expected, "{index}");
    }
}

#[test]
fn one_block_of_a_large_grid_runs_alone() {
    use crate::vm::{Device, Launch, launch};
    let bench = Bench::kernel(
        1,
        "mov.u32 %r1, %nctaid.x;\nst.global.v2.u32 [%a0], {%c, %r1};",
    );
    let out = bench.room(2);
    let configuration = Launch {
        grid: [1_000_000, 1, 1],
        block: [1, 1, 1],
        params: out.to_le_bytes().to_vec(),
        blocks: Some(777_777..777_778),
        ..Launch::default()
    };
    let device = Device {
        memory: &bench.memory,
        settings: &bench.settings,
        card: &bench.card,
    };
    let report = launch(bench.program.entry("k").unwrap(), &configuration, &device).unwrap();
    assert_eq!(
        (report.blocks, bench.download(out, 2)),
        (1, vec![777_777, 1_000_000])
    );
}

#[test]
fn a_lock_within_a_warp_is_handed_on() {
    // Each lane takes a lock in turn: the loser spins at a lower step than the holder's release.
    let bench = Bench::kernel(
        1,
        "SPIN:\natom.global.cas.b32 %r1, [%a0], 0, 1;\nsetp.ne.u32 %p1, %r1, 0;\n@%p1 bra SPIN;\n\
         ld.volatile.global.u32 %r2, [%a0+4];\nadd.u32 %r2, %r2, 1;\nst.volatile.global.u32 [%a0+4], %r2;\n\
         atom.global.exch.b32 %r3, [%a0], 0;",
    );
    let words = bench.upload(&[0, 0]);
    bench.run(1, 64, &[words]).unwrap();
    assert_eq!(bench.download(words, 2), [0, 64]);
}
