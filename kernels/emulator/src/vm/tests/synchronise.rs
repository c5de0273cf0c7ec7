//! Barriers of all kinds.

use super::{Bench, cause};
use crate::fault::Cause;

#[test]
fn barriers_reduce_what_threads_say() {
    let bench = Bench::kernel(
        1,
        "rem.u32 %r1, %t, 5;\nsetp.eq.u32 %p1, %r1, 0;\nbar.red.popc.u32 %r2, 0, %p1;\nbar.red.or.pred %p2, 1, %p1;\n\
         bar.red.and.pred %p3, 0, !%p1;\nselp.u32 %r3, 1000, 0, %p2;\nselp.u32 %r4, 100000, 0, %p3;\n\
         add.u32 %r2, %r2, %r3;\nadd.u32 %r2, %r2, %r4;\nadd.s64 %d1, %a0, %o;\nst.global.u32 [%d1], %r2;",
    );
    assert_eq!(bench.map(96, &[]), vec![20 + 1000; 96]);
}

#[test]
fn a_producer_arrives_and_a_consumer_waits() {
    // Warp 0 writes, arrives at barrier 1; warp 1 waits there and reads; warp 2 takes no part.
    let body = |arrive: &str| {
        format!(
            ".shared .align 4 .b8 s[128];\nmov.u32 %r1, s;\nand.b32 %r2, %t, 31;\nmad.lo.u32 %r3, %r2, 4, %r1;\n\
             setp.ge.u32 %p1, %t, 64;\n@%p1 bra END;\nsetp.ge.u32 %p2, %t, 32;\n@%p2 bra READ;\n\
             mul.lo.u32 %r4, %t, 11;\nst.shared.u32 [%r3], %r4;\n{arrive}\nbra END;\n\
             READ:\nbar.sync 1, 64;\nld.shared.u32 %r5, [%r3];\nmul.wide.u32 %d1, %r2, 4;\nadd.s64 %d1, %a0, %d1;\n\
             st.global.u32 [%d1], %r5;\nEND:"
        )
    };
    for seed in 0..20 {
        let mut bench = Bench::kernel(1, &body("bar.arrive 1, 64;"));
        bench.settings.seed = seed;
        let out = bench.room(32);
        bench.run(1, 96, &[out]).unwrap();
        assert_eq!(
            bench.download(out, 32),
            (0..32).map(|t| t * 11).collect::<Vec<u32>>()
        );
    }
    let without = Bench::kernel(1, &body(""));
    let out = without.room(32);
    assert!(matches!(
        cause(without.run(1, 96, &[out])),
        Cause::DivergentBarrier(_)
    ));
}

#[test]
fn a_missing_barrier_is_a_race_in_every_order() {
    for seed in 0..10 {
        let mut bench = Bench::kernel(
            0,
            ".shared .align 4 .b8 s[256];\nmov.u32 %r1, s;\nmad.lo.u32 %r2, %t, 4, %r1;\nst.shared.u32 [%r2], %t;\n\
             xor.b32 %r3, %t, 32;\nmad.lo.u32 %r3, %r3, 4, %r1;\nst.shared.u32 [%r3], %t;",
        );
        bench.settings.seed = seed;
        assert!(
            matches!(cause(bench.run(1, 64, &[])), Cause::Race { .. }),
            "seed {seed}"
        );
        bench.settings.checks.shared_races = false;
        assert!(bench.run(1, 64, &[]).is_ok());
    }
}

#[test]
fn mbarriers_hand_over_what_was_written() {
    // Warp 1 waits in a loop for 32 arrivals of warp 0, by parity, twice.
    let bench = Bench::kernel(
        1,
        ".shared .align 8 .b8 m[8];\n.shared .align 4 .b8 s[128];\nsetp.ne.u32 %p1, %t, 0;\n@%p1 bra READY;\n\
         mbarrier.init.shared.b64 [m], 32;\nREADY:\nbar.sync 0;\nand.b32 %r2, %t, 31;\nmov.u32 %r1, s;\n\
         mad.lo.u32 %r3, %r2, 4, %r1;\nsetp.ge.u32 %p2, %t, 32;\n@%p2 bra READ;\n\
         mul.lo.u32 %r4, %t, 3;\nst.shared.u32 [%r3], %r4;\nmbarrier.arrive.shared.b64 _, [m];\nbra END;\n\
         READ:\n{\n.reg .pred P;\nWAIT:\nmbarrier.try_wait.parity.shared::cta.b64 P, [m], 0;\n@P bra DONE;\nbra WAIT;\nDONE:\n}\n\
         ld.shared.u32 %r5, [%r3];\nmul.wide.u32 %d1, %r2, 4;\nadd.s64 %d1, %a0, %d1;\nst.global.u32 [%d1], %r5;\nEND:",
    );
    let out = bench.room(32);
    bench.run(1, 64, &[out]).unwrap();
    assert_eq!(
        bench.download(out, 32),
        (0..32).map(|t| t * 3).collect::<Vec<u32>>()
    );
}

#[test]
fn an_mbarrier_that_nobody_completes_is_found() {
    let bench = Bench::kernel(
        0,
        ".shared .align 8 .b8 m[8];\nsetp.ne.u32 %p1, %t, 0;\n@%p1 bra R;\nmbarrier.init.shared.b64 [m], 5;\nR:\nbar.sync 0;\n\
         WAIT:\nmbarrier.test_wait.parity.shared.b64 %p2, [m], 0;\n@!%p2 bra WAIT;",
    );
    assert!(matches!(
        cause(bench.run(1, 64, &[])),
        Cause::DivergentBarrier(_)
    ));
}
