//! Faults planted on purpose: each must be found, and at its place.

use super::{Bench, cause};
use crate::fault::Cause;

#[test]
fn a_barrier_that_half_the_block_never_reaches_is_divergent() {
    let bench = Bench::kernel(
        0,
        "setp.ge.u32 %p1, %t, 32;\n@%p1 bra OUT;\nbar.sync 0;\nOUT:",
    );
    let fault = bench.run(1, 64, &[]).unwrap_err();
    assert!(matches!(fault.cause, Cause::DivergentBarrier(_)), "{fault}");
    assert_eq!(fault.at.unwrap().text, "bar.sync 0;");
}

#[test]
fn a_barrier_that_half_a_warp_never_reaches_is_divergent() {
    let bench = Bench::kernel(0, "setp.ge.u32 %p1, %t, 16;\n@%p1 exit;\nbar.sync 0;");
    assert!(matches!(
        cause(bench.run(1, 32, &[])),
        Cause::DivergentBarrier(_)
    ));
}

#[test]
fn an_unknown_instruction_names_its_line_when_its_entry_is_used_and_not_before() {
    let bench = Bench::module(
        ".visible .entry good() {\nret;\n}\n.visible .entry k() {\n.reg .b32 %r<3>;\nfrobnicate.b32 %r1, %r2;\nret;\n}",
    );
    assert!(bench.program.entry("good").unwrap().needs().is_ok());
    let fault = bench.run(1, 1, &[]).unwrap_err();
    let at = fault.at.unwrap();
    assert_eq!((at.line, at.text.as_str()), (9, "frobnicate.b32 %r1, %r2;"));
}

#[test]
fn a_modifier_that_is_not_understood_is_refused() {
    let bench = Bench::kernel(0, "add.mystery.s32 %r1, %r2, %r3;");
    let fault = bench.run(1, 1, &[]).unwrap_err();
    assert!(fault.to_string().contains(".mystery"), "{fault}");
}

#[test]
fn launches_beyond_the_limits_of_the_card_are_refused() {
    let bench = Bench::kernel(0, ".shared .align 4 .b8 x[1024];\nmov.u32 %r1, x;");
    let limit = |outcome| matches!(cause(outcome), Cause::LaunchLimit(_));
    assert!(limit(bench.run(0, 32, &[])));
    assert!(limit(bench.run(1, 0, &[])));
    assert!(limit(bench.run(1, 1025, &[])));
    assert!(limit(bench.run_shaped([1, 1, 1], [32, 8, 8], (0, &[]))));
    assert!(limit(bench.run_shaped([1, 65536, 1], [1, 1, 1], (0, &[]))));
    assert!(
        bench
            .run_shaped([1, 1, 1], [32, 8, 4], (101_376 - 1024, &[]))
            .is_ok()
    );
    assert!(limit(bench.run_shaped(
        [1, 1, 1],
        [32, 8, 4],
        (101_376 - 1023, &[])
    )));
}

#[test]
fn what_the_kernel_was_built_for_bounds_its_blocks() {
    let bench = Bench::module(".visible .entry k() .maxntid 64, 1, 1 {\nret;\n}");
    assert!(bench.run(1, 64, &[]).is_ok());
    assert!(matches!(
        cause(bench.run(1, 65, &[])),
        Cause::LaunchLimit(_)
    ));
    let bench = Bench::module(".visible .entry k() .reqntid 64 {\nret;\n}");
    assert!(matches!(
        cause(bench.run(1, 32, &[])),
        Cause::LaunchLimit(_)
    ));
}

#[test]
fn an_endless_loop_ends() {
    let mut bench = Bench::kernel(0, "L:\nbra L;");
    bench.settings.step_limit = 10_000;
    assert!(matches!(cause(bench.run(1, 64, &[])), Cause::Trap(_)));
}

#[test]
fn a_store_past_the_end_names_block_and_thread() {
    let bench = Bench::kernel(1, "add.s64 %d1, %a0, %o;\nst.global.u32 [%d1], %t;");
    let room = bench.room(96);
    let fault = bench.run(2, 64, &[room]).unwrap_err();
    assert!(matches!(fault.cause, Cause::OutOfBounds { .. }), "{fault}");
    let at = fault.at.unwrap();
    assert_eq!((at.block, at.thread), ([1, 0, 0], [32, 0, 0]));
}

#[test]
fn lanes_that_wait_for_each_other_at_two_shuffles_are_stuck() {
    let bench = Bench::kernel(
        0,
        "setp.lt.u32 %p1, %t, 16;\n@%p1 bra A;\nshfl.sync.idx.b32 %r1, %t, 0, 31, -1;\nbra B;\n\
         A:\nshfl.sync.idx.b32 %r1, %t, 1, 31, -1;\nB:",
    );
    let fault = bench.run(1, 32, &[]).unwrap_err();
    assert!(fault.to_string().contains("wait"), "{fault}");
}

#[test]
fn targets_run_on_their_own_cards() {
    use crate::card::{A100, B200, H100, RTX_4090, RTX_5090};
    let runs = |target: &str| {
        [A100, RTX_4090, H100, B200, RTX_5090].map(|card| card.accepts(target).is_ok())
    };
    assert_eq!(runs("sm_80"), [true; 5]);
    assert_eq!(runs("sm_89"), [false, true, true, true, true]);
    assert_eq!(runs("sm_90a"), [false, false, true, false, false]);
    assert_eq!(runs("sm_100f"), [false, false, false, true, false]);
    assert_eq!(runs("sm_120"), [false, false, false, false, true]);
    assert_eq!(runs("sm_120a"), [false, false, false, false, true]);
    assert_eq!(runs("sm_120f"), [false, false, false, false, true]);
    assert_eq!(runs("sm_121a"), [false; 5]);
}
