//! `cp.async`, bulk copies and mbarriers.

use super::*;

fn missing(cause: Result<(), Cause>) -> &'static str {
    match cause {
        Err(Cause::NotYetVisible { missing, .. }) => missing,
        other => panic!("bytes on their way were not told, but {other:?}"),
    }
}

#[test]
fn copies_are_seen_after_the_wait_and_by_others_after_a_barrier() {
    let mut s = shared(64);
    s.copy_async(0, 0, &[1; 16]).unwrap();
    s.commit_group(0);
    s.copy_async(0, 16, &[2; 16]).unwrap();
    s.commit_group(0);
    assert!(missing(s.load(0, 0, &mut [0; 4])).starts_with("the wait"));
    s.wait_group(0, 1);
    let mut out = [0; 4];
    s.load(0, 0, &mut out).unwrap();
    assert_eq!(out, [1; 4]);
    assert!(
        missing(s.load(0, 16, &mut [0; 4])).starts_with("the wait"),
        "the latest group may be pending"
    );
    assert!(missing(s.load(32, 0, &mut [0; 4])).starts_with("a barrier"));
    sync(&mut s, 2);
    s.load(32, 0, &mut [0; 4]).unwrap();
    assert!(
        missing(s.load(32, 16, &mut [0; 4])).starts_with("the wait"),
        "a barrier is no wait"
    );
    s.wait_group(0, 0);
    sync(&mut s, 2);
    s.load(32, 16, &mut [0; 4]).unwrap();
}

#[test]
fn a_wait_by_another_thread_does_not_count() {
    let mut s = shared(64);
    s.copy_async(0, 0, &[1; 16]).unwrap();
    s.commit_group(0);
    s.wait_all(1);
    s.wait_all(32);
    sync(&mut s, 2);
    assert!(missing(s.load(1, 0, &mut [0; 4])).starts_with("the wait"));
}

#[test]
fn wait_all_needs_no_commit_but_wait_group_does() {
    let mut s = shared(32);
    s.copy_async(0, 0, &[1; 4]).unwrap();
    s.wait_group(0, 0);
    assert!(s.load(0, 0, &mut [0; 4]).is_err());
    s.wait_all(0);
    s.load(0, 0, &mut [0; 4]).unwrap();
}

#[test]
fn a_copy_over_what_another_warp_still_reads_is_a_race() {
    for barrier in [false, true] {
        let mut s = shared(64);
        s.store(0, 0, &[1; 16]).unwrap();
        sync(&mut s, 2);
        s.load(40, 4, &mut [0; 4]).unwrap();
        if barrier {
            sync(&mut s, 2);
        }
        match s.copy_async(0, 0, &[2; 16]) {
            Ok(()) => assert!(barrier, "the race was missed"),
            Err(Cause::Race {
                address: 4,
                first: 40,
                first_did: "read",
                second: 0,
                ..
            }) => assert!(!barrier),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn nobody_may_write_where_a_copy_is_on_its_way() {
    let mut s = shared(32);
    s.copy_async(0, 0, &[1; 16]).unwrap();
    assert!(matches!(
        s.store(0, 8, &[1; 4]),
        Err(Cause::Race { address: 8, .. })
    ));
    assert!(matches!(
        s.copy_async(1, 0, &[1; 16]),
        Err(Cause::Race { .. })
    ));
    assert!(matches!(
        s.copy_async(1, 8, &[1; 16]),
        Err(Cause::Misaligned { .. })
    ));
}

#[test]
fn bulk_copies_are_seen_by_those_who_wait_for_the_phase() {
    let mut s = shared(96);
    s.mbarrier_init(0, 0, 1).unwrap();
    assert!(
        matches!(s.mbarrier_test_parity(32, 0, 0), Err(Cause::Race { .. })),
        "the initialisation is not seen"
    );
    sync(&mut s, 3);
    assert_eq!(s.mbarrier_test_parity(32, 0, 0), Ok(false));
    assert_eq!(
        s.mbarrier_test_parity(32, 0, 1),
        Ok(true),
        "the phase before the first counts as over"
    );
    let state = s.mbarrier_arrive(0, 0, 1, 32).unwrap();
    s.bulk_async(0, 64, &[5; 16], 0).unwrap();
    assert_eq!(
        s.mbarrier_test(32, 0, state),
        Ok(false),
        "bytes are missing"
    );
    assert!(missing(s.load(0, 64, &mut [0; 4])).starts_with("the wait"));
    s.bulk_async(0, 80, &[6; 16], 0).unwrap();
    assert!(
        missing(s.load(0, 64, &mut [0; 4])).starts_with("a barrier"),
        "who issued it must wait as well"
    );
    assert_eq!(s.mbarrier_test_parity(32, 0, 0), Ok(true));
    let mut out = [0; 4];
    s.load(32, 80, &mut out).unwrap();
    assert_eq!(out, [6; 4]);
    assert!(
        missing(s.load(64, 80, &mut [0; 4])).starts_with("a barrier"),
        "warp 2 did not wait"
    );
    assert_eq!(s.mbarrier_test(64, 0, state), Ok(true));
    s.load(64, 80, &mut [0; 4]).unwrap();
}

#[test]
fn an_mbarrier_hands_on_what_those_who_arrive_did() {
    // Consumers arrive when a buffer is read; the producer waits before it fills it again.
    for waits in [true, false] {
        let mut s = shared(96);
        s.mbarrier_init(0, 0, 2).unwrap();
        s.store(0, 16, &[1; 16]).unwrap();
        sync(&mut s, 3);
        for consumer in [32, 64] {
            s.load(consumer, 16, &mut [0; 4]).unwrap();
            s.mbarrier_arrive(consumer, 0, 1, 0).unwrap();
        }
        if waits {
            assert_eq!(s.mbarrier_test_parity(0, 0, 0), Ok(true));
        }
        assert_eq!(s.store(0, 16, &[2; 16]).is_ok(), waits);
    }
}

#[test]
fn copies_that_arrive_at_an_mbarrier_are_seen_by_those_who_wait() {
    let mut s = shared(64);
    s.mbarrier_init(0, 0, 1).unwrap();
    sync(&mut s, 2);
    s.copy_async(0, 16, &[3; 16]).unwrap();
    s.mbarrier_arrive_copies(0, 0, true).unwrap();
    assert!(missing(s.load(0, 16, &mut [0; 4])).starts_with("a barrier"));
    for thread in [0, 32] {
        assert_eq!(s.mbarrier_test_parity(thread, 0, 0), Ok(true));
        s.load(thread, 16, &mut [0; 4]).unwrap();
    }
}

#[test]
fn an_mbarrier_that_is_none_or_gets_too_much_is_told() {
    let mut s = shared(32);
    s.store(0, 0, &[0; 8]).unwrap();
    assert!(matches!(
        s.mbarrier_arrive(0, 0, 1, 0),
        Err(Cause::Instruction(_))
    ));
    s.mbarrier_init(0, 0, 2).unwrap();
    assert!(matches!(
        s.mbarrier_arrive(0, 0, 3, 0),
        Err(Cause::Instruction(_))
    ));
    s.mbarrier_inval(0, 0).unwrap();
    assert!(matches!(
        s.mbarrier_expect(0, 0, 1),
        Err(Cause::Instruction(_))
    ));
}
