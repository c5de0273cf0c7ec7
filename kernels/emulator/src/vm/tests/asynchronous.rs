//! `cp.async` and bulk copies.

use super::{Bench, cause};
use crate::fault::Cause;

/// Each of 64 threads copies 16 bytes and, after `wait`, thread t reads the first word of thread t ^ 32.
fn copied(copy: &str, wait: &str) -> Bench {
    Bench::kernel(
        2,
        &format!(
            ".shared .align 16 .b8 s[1024];\nmov.u32 %r1, s;\nmad.lo.u32 %r2, %t, 16, %r1;\nmul.wide.u32 %d1, %t, 16;\n\
             add.s64 %d1, %a0, %d1;\n{copy}\ncp.async.commit_group;\n{wait}\nxor.b32 %r3, %t, 32;\nmad.lo.u32 %r3, %r3, 16, %r1;\n\
             ld.shared.u32 %r4, [%r3+4];\nadd.s64 %d2, %a1, %o;\nst.global.u32 [%d2], %r4;"
        ),
    )
}

const WAIT: &str = "cp.async.wait_group 0;\nbar.sync 0;";

fn words() -> Vec<u32> {
    (0..256).map(|i| i * 5 + 1).collect()
}

#[test]
fn copies_arrive_after_the_wait_and_the_barrier() {
    let bench = copied("cp.async.cg.shared.global.L2::128B [%r2], [%d1], 16;", WAIT);
    let expected: Vec<u32> = (0..64usize).map(|t| words()[(t ^ 32) * 4 + 1]).collect();
    assert_eq!(bench.map(64, &[&words()]), expected);
}

#[test]
fn what_is_not_copied_is_zero() {
    // Even threads copy 4 bytes only, odd ones 8: the word read is zero or what it was.
    let copy = "and.b32 %r5, %t, 1;\nmad.lo.u32 %r5, %r5, 4, 4;\ncp.async.ca.shared.global [%r2], [%d1], 16, %r5;";
    let expected: Vec<u32> = (0..64usize)
        .map(|t| {
            if t % 2 == 0 {
                0
            } else {
                words()[(t ^ 32) * 4 + 1]
            }
        })
        .collect();
    assert_eq!(copied(copy, WAIT).map(64, &[&words()]), expected);
    // A source of no bytes may lie anywhere.
    let copy = "mov.u64 %d1, 16;\ncp.async.ca.shared.global [%r2], [%d1], 16, 0;";
    assert_eq!(copied(copy, WAIT).map(64, &[&words()]), vec![0; 64]);
}

#[test]
fn a_read_too_early_is_found() {
    let copy = "cp.async.cg.shared.global [%r2], [%d1], 16;";
    for wait in [
        "",
        "bar.sync 0;",
        "cp.async.wait_group 1;\nbar.sync 0;",
        "cp.async.wait_all;",
    ] {
        let bench = copied(copy, wait);
        let (input, out) = (bench.upload(&words()), bench.room(64));
        let found = cause(bench.run(1, 64, &[input, out]));
        assert!(
            matches!(
                found,
                Cause::NotYetVisible { .. } | Cause::Race { .. } | Cause::Uninitialised { .. }
            ),
            "{wait}: {found}"
        );
    }
}

#[test]
fn bulk_copies_complete_their_mbarrier_and_come_back() {
    let bench = Bench::kernel(
        2,
        ".shared .align 16 .b8 s[512];\n.shared .align 8 .b8 m[8];\nmov.u32 %r1, s;\nmov.u32 %r2, m;\nsetp.ne.u32 %p1, %t, 0;\n\
         @%p1 bra READY;\nmbarrier.init.shared::cta.b64 [%r2], 1;\nfence.proxy.async.shared::cta;\n\
         mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 512;\n\
         cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%a0], 512, [%r2];\nREADY:\nbar.sync 0;\n\
         WAIT:\nmbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], 0;\n@!%p2 bra WAIT;\n\
         mad.lo.u32 %r3, %t, 4, %r1;\nld.shared.u32 %r4, [%r3];\nadd.u32 %r4, %r4, 1;\nst.shared.u32 [%r3], %r4;\n\
         fence.proxy.async.shared::cta;\nbar.sync 0;\n@%p1 bra END;\n\
         cp.async.bulk.global.shared::cta.bulk_group [%a1], [%r1], 512;\ncp.async.bulk.commit_group;\n\
         cp.async.bulk.wait_group.read 0;\nEND:",
    );
    let expected: Vec<u32> = words()[..128].iter().map(|x| x + 1).collect();
    assert_eq!(bench.map(128, &[&words()[..128]]), expected);
}
