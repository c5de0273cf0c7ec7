//! Shared memory: values, bounds, races between warps, barriers.

use super::*;

#[test]
fn values_bounds_alignment_and_unwritten_bytes() {
    let mut s = shared(32);
    let addresses: [u32; 32] = std::array::from_fn(|lane| lane as u32 * 16);
    let values: [[u32; 32]; 4] =
        std::array::from_fn(|w| std::array::from_fn(|l| (w * 100 + l) as u32));
    s.store_warp(0, u32::MAX, &addresses, 16, &values).unwrap();
    let mut out = [[0; 32]; 4];
    s.load_warp(0, u32::MAX, &addresses, 16, &mut out).unwrap();
    assert_eq!(out, values);
    let mut two = [0; 2];
    s.load(5, 16 * 3, &mut two).unwrap();
    assert_eq!(two, [3, 0]);
    let fault = s.load(0, 512, &mut [0; 4]).unwrap_err();
    assert_eq!(
        fault,
        Cause::Uninitialised {
            space: "shared",
            address: 512
        }
    );
    assert!(matches!(
        s.load(0, 2, &mut [0; 4]),
        Err(Cause::Misaligned { .. })
    ));
    assert!(matches!(
        s.store(0, 1024, &[0; 4]),
        Err(Cause::OutOfBounds { .. })
    ));
    assert!(matches!(
        s.store(0, u32::MAX - 3, &[0; 4]),
        Err(Cause::OutOfBounds { .. })
    ));
    s.reset();
    assert!(matches!(
        s.load(0, 0, &mut [0; 4]),
        Err(Cause::Uninitialised { .. })
    ));
}

fn race(cause: Result<(), Cause>) -> (u32, &'static str, u32, &'static str) {
    match cause {
        Err(Cause::Race {
            first,
            first_did,
            second,
            second_did,
            ..
        }) => (first, first_did, second, second_did),
        other => panic!("no race was found, but {other:?}"),
    }
}

#[test]
fn conflicts_between_warps_are_found_and_a_barrier_ends_them() {
    for barrier in [false, true] {
        // Read after write, write after write, write after read.
        let mut s = shared(64);
        s.store(3, 0, &[1; 4]).unwrap();
        s.store(3, 8, &[1; 4]).unwrap();
        s.store(3, 16, &[1; 4]).unwrap();
        sync(&mut s, 2);
        s.load(4, 16, &mut [0; 4]).unwrap();
        s.load(40, 16, &mut [0; 4]).unwrap();
        s.store(5, 0, &[2; 4]).unwrap();
        s.store(5, 8, &[2; 4]).unwrap();
        if barrier {
            sync(&mut s, 2);
        }
        let (raw, waw, war) = (
            s.load(33, 0, &mut [0; 4]),
            s.store(34, 8, &[3; 4]),
            s.store(35, 16, &[3; 4]),
        );
        if barrier {
            raw.unwrap();
            waw.unwrap();
            war.unwrap();
        } else {
            assert_eq!(race(raw), (5, "wrote", 33, "read"));
            assert_eq!(race(waw), (5, "wrote", 34, "wrote"));
            assert_eq!(race(war), (4, "read", 35, "wrote"));
        }
    }
}

#[test]
fn one_warp_is_ordered_and_neighbouring_bytes_are_no_conflict() {
    let mut s = shared(64);
    s.store(0, 0, &[1]).unwrap();
    s.store(32, 1, &[2]).unwrap();
    s.load(31, 0, &mut [0]).unwrap();
    s.store(7, 0, &[3]).unwrap();
    s.load(33, 1, &mut [0]).unwrap();
    let unchecked = Checks {
        shared_races: false,
        ..Checks::default()
    };
    let mut s = Shared::new(16, 64, unchecked);
    s.store(0, 0, &[1]).unwrap();
    s.load(33, 0, &mut [0]).unwrap();
}

#[test]
fn warps_that_write_the_same_do_not_race_until_someone_reads() {
    let mut s = shared(64);
    s.store(0, 0, &[7; 4]).unwrap();
    s.store(32, 0, &[7; 4]).unwrap();
    let other = s.store(32, 2, &[7, 8]);
    assert!(other.is_ok(), "the same warp changes its own");
    assert_eq!(race(s.store(0, 0, &[7; 4])), (32, "wrote", 0, "wrote"));
    assert_eq!(race(s.load(0, 0, &mut [0; 4])), (32, "wrote", 0, "read"));
}

#[test]
fn lanes_of_one_store_that_disagree_race() {
    let mut s = shared(32);
    let mut values = [[7; 32]];
    s.store_warp(0, u32::MAX, &[0; 32], 4, &values).unwrap();
    values[0][4] = 8;
    let fault = s.store_warp(0, u32::MAX, &[0; 32], 4, &values).unwrap_err();
    assert_eq!((fault.lane, race(Err(fault.cause)).2), (4, 31));
}

#[test]
fn a_barrier_orders_only_those_in_it() {
    let mut s = shared(96);
    s.store(0, 0, &[1; 4]).unwrap();
    // Barrier 1 joins warps 0 and 1.
    s.barrier_arrive(1, 0);
    s.barrier_arrive(1, 1);
    s.barrier_complete(1, 0b11);
    s.load(32, 0, &mut [0; 4]).unwrap();
    assert_eq!(race(s.load(64, 0, &mut [0; 4])), (0, "wrote", 64, "read"));
    // Warp 1 hands on what it has seen.
    s.barrier_arrive(2, 1);
    s.barrier_arrive(2, 2);
    s.barrier_complete(2, 0b110);
    s.load(64, 0, &mut [0; 4]).unwrap();
}

#[test]
fn what_follows_bar_arrive_is_not_seen_by_those_who_wait() {
    let mut s = shared(64);
    s.store(0, 0, &[1; 4]).unwrap();
    s.barrier_arrive(1, 0);
    s.store(0, 4, &[1; 4]).unwrap();
    s.barrier_arrive(1, 1);
    s.barrier_complete(1, 0b10);
    s.load(32, 0, &mut [0; 4]).unwrap();
    assert_eq!(race(s.load(32, 4, &mut [0; 4])), (0, "wrote", 32, "read"));
    // The warp that only arrived has seen nothing.
    s.store(32, 8, &[1; 4]).unwrap();
    assert_eq!(race(s.load(0, 8, &mut [0; 4])), (32, "wrote", 0, "read"));
}

#[test]
fn atomics_race_with_plain_accesses_only() {
    let mut s = shared(64);
    s.store(0, 0, &[0; 4]).unwrap();
    assert_eq!(
        race(s.atomic(32, 0, 4, &mut |old| old + 1).map(|_| ())),
        (0, "wrote", 32, "read")
    );
    sync(&mut s, 2);
    assert_eq!(s.atomic(32, 0, 4, &mut |old| old + 1), Ok(0));
    assert_eq!(s.atomic(0, 0, 4, &mut |old| old + 1), Ok(1));
    assert_eq!(race(s.load(33, 0, &mut [0; 4])), (0, "wrote", 33, "read"));
    sync(&mut s, 2);
    let mut out = [0; 4];
    s.load(33, 0, &mut out).unwrap();
    assert_eq!(out, [2, 0, 0, 0]);
}
