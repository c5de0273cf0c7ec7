//! Exchange within a warp.

use super::{Bench, apply, cause};
use crate::fault::Cause;

fn values() -> Vec<u32> {
    (0..32).map(|lane| lane * lane + 7).collect()
}

#[test]
fn shuffles_move_values_and_say_whether_the_source_was_there() {
    let v = values();
    let run = |text: &str| {
        apply(
            &format!(
                "shfl.sync.{text}, -1;\nselp.u32 %r9, 100000, 0, %p1;\nadd.u32 {{d}}, %r8, %r9;"
            ),
            &[&v],
        )
    };
    let flagged = |from: u32, inside: bool| v[from as usize] + if inside { 100_000 } else { 0 };
    let lanes = 0..32u32;
    let up: Vec<u32> = lanes
        .clone()
        .map(|l| {
            if l >= 3 {
                flagged(l - 3, true)
            } else {
                flagged(l, false)
            }
        })
        .collect();
    assert_eq!(run("up.b32 %r8|%p1, {a}, 3, 0"), up);
    let down: Vec<u32> = lanes
        .clone()
        .map(|l| {
            if l + 5 < 32 {
                flagged(l + 5, true)
            } else {
                flagged(l, false)
            }
        })
        .collect();
    assert_eq!(run("down.b32 %r8|%p1, {a}, 5, 31"), down);
    let bfly: Vec<u32> = lanes.clone().map(|l| flagged(l ^ 9, true)).collect();
    assert_eq!(run("bfly.b32 %r8|%p1, {a}, 9, 31"), bfly);
    // Segments of 8: `c` is 0x1800 + 31, as `__shfl_sync(.., width = 8)` writes it.
    let idx: Vec<u32> = lanes.map(|l| flagged(l / 8 * 8 + 2, true)).collect();
    assert_eq!(run("idx.b32 %r8|%p1, {a}, 2, 6175"), idx);
}

#[test]
fn votes_count_those_who_take_part() {
    let v = values();
    let ballot = v
        .iter()
        .enumerate()
        .fold(0u32, |m, (lane, x)| m | u32::from(x % 3 == 0) << lane);
    let text = "rem.u32 %r1, {a}, 3;\nsetp.eq.u32 %p1, %r1, 0;\nvote.sync.ballot.b32 {d}, %p1, -1;";
    let text = text
        .replace("%r1, {a}", "%r9, {a}")
        .replace("%p1, %r1", "%p1, %r9");
    assert_eq!(apply(&text, &[&v]), vec![ballot; 32]);
    let text = "setp.gt.u32 %p1, {a}, 7;\nvote.sync.all.pred %p2, %p1, -1;\nvote.sync.any.pred %p3, !%p1, -1;\n\
                vote.sync.uni.pred %p4, %p1, -1;\nselp.u32 %r8, 1, 0, %p2;\nselp.u32 %r9, 2, 0, %p3;\nselp.u32 %r7, 4, 0, %p4;\n\
                or.b32 {d}, %r8, %r9;\nor.b32 {d}, {d}, %r7;";
    // Lane 0 alone has 7.
    assert_eq!(apply(text, &[&v]), vec![2; 32]);
}

#[test]
fn reductions_and_matches_and_the_elected() {
    let v: Vec<u32> = values().iter().map(|x| x.wrapping_sub(20)).collect();
    let sum = v.iter().fold(0u32, |s, x| s.wrapping_add(*x));
    assert_eq!(
        apply("redux.sync.add.s32 {d}, {a}, -1;", &[&v]),
        vec![sum; 32]
    );
    let min = v.iter().map(|x| *x as i32).min().unwrap() as u32;
    assert_eq!(
        apply("redux.sync.min.s32 {d}, {a}, -1;", &[&v]),
        vec![min; 32]
    );
    let same = apply(
        "and.b32 %r9, {a}, 3;\nmatch.any.sync.b32 {d}, %r9, -1;",
        &[&v],
    );
    for lane in 0..32 {
        let expected = (0..32)
            .filter(|other| v[*other] & 3 == v[lane] & 3)
            .fold(0u32, |m, other| m | 1 << other);
        assert_eq!(same[lane], expected);
    }
    let elected = apply(
        "elect.sync %r9|%p1, 0xffffffff;\nselp.u32 %r8, 50, 0, %p1;\nadd.u32 {d}, %r8, %r9;",
        &[&v],
    );
    assert_eq!((elected[0], &elected[1..]), (50, &[0; 31][..]));
}

#[test]
fn halves_of_a_warp_shuffle_apart_with_masks_of_their_own() {
    let bench = Bench::kernel(
        1,
        "setp.lt.u32 %p1, %t, 16;\n@%p1 bra LOW;\nshfl.sync.idx.b32 %r1, %t, 20, 31, 0xffff0000;\nbra END;\n\
         LOW:\nshfl.sync.idx.b32 %r1, %t, 3, 31, 0x0000ffff;\nEND:\nadd.s64 %d1, %a0, %o;\nst.global.u32 [%d1], %r1;",
    );
    let expected: Vec<u32> = (0..32).map(|t| if t < 16 { 3 } else { 20 }).collect();
    assert_eq!(bench.map(32, &[]), expected);
}

#[test]
fn a_shuffle_from_an_absent_lane_is_a_fault() {
    let bench = Bench::kernel(0, "shfl.sync.idx.b32 %r1, %t, 20, 31, -1;");
    assert!(matches!(
        cause(bench.run(1, 16, &[])),
        Cause::Instruction(_)
    ));
    let bench = Bench::kernel(0, "shfl.sync.idx.b32 %r1, %t, 0, 31, 0xffff0000;");
    let fault = bench.run(1, 32, &[]).unwrap_err();
    assert!(fault.to_string().contains("member mask"), "{fault}");
}
