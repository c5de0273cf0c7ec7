//! Planted faults of each kind are found, and the same accesses done right are not reported.

use super::{Checks, Cursor, Global, LaneFault, Shared};
use crate::fault::Cause;

fn shared(threads: u32) -> Shared {
    Shared::new(1024, threads, Checks::default())
}

fn sync(shared: &mut Shared, warps: u32) {
    (0..warps).for_each(|warp| shared.barrier_arrive(0, warp));
    shared.barrier_complete(0, (1 << warps) - 1);
}

fn lanes(first: u64, step: u64) -> [u64; 32] {
    std::array::from_fn(|lane| first + step * lane as u64)
}

mod global {
    use super::*;

    #[test]
    fn allocations_are_aligned_counted_and_never_given_twice() {
        let global = Global::new(10_000);
        let (a, b) = (global.allocate(100).unwrap(), global.allocate(1).unwrap());
        assert!(a % 256 == 0 && b % 256 == 0 && b >= a + 100 + 256);
        assert_eq!((global.used(), global.total()), (101, 10_000));
        assert_eq!(global.allocate(9_900), None);
        global.free(a).unwrap();
        assert_eq!(global.allocations(), [(b, 1)]);
        let c = global.allocate(9_900).unwrap();
        assert!(c > b, "an address was given again");
        assert_eq!(
            (global.range(c + 5), global.range(a)),
            (Some((c, 9_900)), None)
        );
    }

    #[test]
    fn frees_that_are_wrong_are_told() {
        let global = Global::new(1 << 20);
        let a = global.allocate(100).unwrap();
        assert!(matches!(
            global.free(a + 4),
            Err(Cause::OutOfBounds { access: "free", .. })
        ));
        global.free(a).unwrap();
        let Err(Cause::OutOfBounds { nearest, .. }) = global.free(a) else {
            panic!("a second free passed")
        };
        assert!(nearest.contains("was freed"), "{nearest}");
    }

    #[test]
    fn warps_read_what_they_and_the_host_wrote_in_every_width() {
        let global = Global::new(1 << 20);
        let a = global.allocate(1024).unwrap();
        let bytes: Vec<u8> = (0..1024).map(|i| (i * 7 % 251) as u8).collect();
        global.write(a, &bytes).unwrap();
        let view = global.view(Checks::default(), 1);
        let mut cursor = Cursor::new(0);
        for width in [1, 2, 4, 8, 16, 32] {
            let mut out = [[0xdead_beef; 32]; 8];
            view.load_warp(
                &mut cursor,
                0x8000_0101,
                &lanes(a, width as u64),
                width,
                &mut out,
            )
            .unwrap();
            for lane in [0, 8, 31] {
                let got: Vec<u8> = out
                    .iter()
                    .flat_map(|word| word[lane].to_le_bytes())
                    .take(width)
                    .collect();
                assert_eq!(
                    got,
                    bytes[lane * width..][..width],
                    "width {width}, lane {lane}"
                );
            }
            assert_eq!(
                out[0][1], 0xdead_beef,
                "a lane outside of the mask was written"
            );
            let target = global.allocate(1024).unwrap();
            let view = global.view(Checks::default(), 1);
            view.store_warp(
                &mut cursor,
                0x8000_0101,
                &lanes(target, width as u64),
                width,
                &out,
            )
            .unwrap();
            let mut back = vec![0; 1024];
            global.read(target, &mut back).unwrap();
            assert_eq!(back[8 * width..][..width], bytes[8 * width..][..width]);
            assert_eq!(
                back[width..2 * width],
                vec![0; width],
                "a lane outside of the mask was stored"
            );
        }
    }

    #[test]
    fn accesses_out_of_bounds_or_misaligned_are_found_with_their_lane() {
        let global = Global::new(1 << 20);
        let a = global.allocate(100).unwrap();
        global.fill(a, &[1], 100).unwrap();
        let view = global.view(Checks::default(), 1);
        let mut cursor = Cursor::new(0);
        let mut out = [[0; 32]; 4];
        view.load_warp(&mut cursor, (1 << 25) - 1, &lanes(a, 4), 4, &mut out)
            .unwrap();
        let LaneFault { lane, cause } = view
            .load_warp(&mut cursor, u32::MAX, &lanes(a, 4), 4, &mut out)
            .unwrap_err();
        let Cause::OutOfBounds {
            access: "load",
            bytes: 4,
            address,
            nearest,
        } = cause
        else {
            panic!("{cause:?}")
        };
        assert_eq!((lane, address), (25, a + 100));
        assert!(
            nearest.contains("0 bytes behind the end of the 100 bytes"),
            "{nearest}"
        );
        let fault = view
            .store_warp(&mut cursor, 2, &lanes(a, 2), 4, &out)
            .unwrap_err();
        let misaligned = Cause::Misaligned {
            access: "store",
            bytes: 4,
            address: a + 2,
        };
        assert_eq!(
            fault,
            LaneFault {
                lane: 1,
                cause: misaligned
            }
        );
        // Across the end; before the start; nowhere.
        assert!(view.load(&mut cursor, a + 98, &mut [0; 4]).is_err());
        assert!(view.load(&mut cursor, a - 4, &mut [0; 4]).is_err());
        assert!(view.load(&mut cursor, 0, &mut [0; 4]).is_err());
        assert!(view.load(&mut cursor, u64::MAX - 1, &mut [0; 4]).is_err());
    }

    #[test]
    fn use_after_free_is_found_even_after_new_allocations() {
        let global = Global::new(1 << 20);
        let a = global.allocate(64).unwrap();
        global.write(a, &[1; 64]).unwrap();
        global.free(a).unwrap();
        (0..100).for_each(|_| {
            global
                .write(global.allocate(64).unwrap(), &[2; 64])
                .unwrap()
        });
        let view = global.view(Checks::default(), 1);
        let Err(Cause::OutOfBounds { nearest, .. }) =
            view.load(&mut Cursor::new(0), a, &mut [0; 4])
        else {
            panic!("a freed allocation was read")
        };
        assert!(nearest.contains("was freed"), "{nearest}");
    }

    #[test]
    fn bytes_that_nobody_wrote_are_found_also_through_copies() {
        let global = Global::new(1 << 20);
        let (a, b) = (global.allocate(64).unwrap(), global.allocate(64).unwrap());
        global.write(a, &[1; 30]).unwrap();
        global.copy(b, a, 64).unwrap();
        for base in [a, b] {
            let view = global.view(Checks::default(), 1);
            let mut cursor = Cursor::new(0);
            view.load(&mut cursor, base, &mut [0; 16]).unwrap();
            view.load(&mut cursor, base + 28, &mut [0; 2]).unwrap();
            let fault = view.load(&mut cursor, base + 16, &mut [0; 16]).unwrap_err();
            assert_eq!(
                fault,
                Cause::Uninitialised {
                    space: "global",
                    address: base + 30
                }
            );
            assert_eq!(global.unwritten(base, 64).unwrap(), Some(base + 30));
            let fault = view
                .atomic(&mut cursor, base + 32, 4, &mut |old| old + 1)
                .unwrap_err();
            assert_eq!(
                fault,
                Cause::Uninitialised {
                    space: "global",
                    address: base + 32
                }
            );
            view.store(&mut cursor, base + 30, &[9; 34]).unwrap();
            view.load(&mut cursor, base + 16, &mut [0; 16]).unwrap();
        }
        let unchecked = Checks {
            uninitialised: false,
            ..Checks::default()
        };
        let fresh = global.allocate(4).unwrap();
        global
            .view(unchecked, 1)
            .load(&mut Cursor::new(0), fresh, &mut [0; 4])
            .unwrap();
    }

    #[test]
    fn memset_repeats_its_pattern_and_checks_it() {
        let global = Global::new(1 << 20);
        let a = global.allocate(16).unwrap();
        global.fill(a, &[1, 2, 3, 4], 4).unwrap();
        let mut out = [0; 16];
        global.read(a, &mut out).unwrap();
        assert_eq!(out, [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4]);
        assert!(matches!(
            global.fill(a + 2, &[0; 4], 1),
            Err(Cause::Misaligned { .. })
        ));
        assert!(matches!(
            global.fill(a, &[0; 4], 5),
            Err(Cause::OutOfBounds { .. })
        ));
    }

    #[test]
    fn atomics_of_many_threads_lose_nothing() {
        let global = Global::new(1 << 20);
        let a = global.allocate(16).unwrap();
        global.fill(a, &[0], 16).unwrap();
        let view = global.view(Checks::default(), 4);
        std::thread::scope(|scope| {
            for block in 0..4 {
                let view = &view;
                scope.spawn(move || {
                    let mut cursor = Cursor::new(block);
                    for _ in 0..1000 {
                        view.atomic(&mut cursor, a, 4, &mut |old| old + 1).unwrap();
                        view.atomic(&mut cursor, a + 8, 8, &mut |old| old + (1 << 40))
                            .unwrap();
                        view.atomic(&mut cursor, a + 4, 2, &mut |old| old + 1)
                            .unwrap();
                    }
                });
            }
        });
        let mut out = [0; 16];
        global.read(a, &mut out).unwrap();
        assert_eq!(u32::from_le_bytes(out[..4].try_into().unwrap()), 4000);
        assert_eq!(u16::from_le_bytes(out[4..6].try_into().unwrap()), 4000);
        assert_eq!(u64::from_le_bytes(out[8..].try_into().unwrap()), 4000 << 40);
    }
}

mod blocks {
    use super::*;

    fn setting() -> (Global, u64) {
        let global = Global::new(1 << 20);
        let a = global.allocate(64).unwrap();
        global.fill(a, &[0], 64).unwrap();
        (global, a)
    }

    fn race(cause: Result<(), Cause>) -> (u32, &'static str, u32, &'static str) {
        match cause {
            Err(Cause::BlockRace {
                first,
                first_did,
                second,
                second_did,
                ..
            }) => (first, first_did, second, second_did),
            other => panic!("no race between blocks was found, but {other:?}"),
        }
    }

    #[test]
    fn conflicts_between_blocks_are_found() {
        let (global, a) = setting();
        let (mut one, mut two) = (Cursor::new(1), Cursor::new(2));
        let view = global.view(Checks::default(), 3);
        view.store(&mut one, a, &[1; 4]).unwrap();
        assert_eq!(
            race(view.store(&mut two, a + 3, &[2])),
            (1, "wrote", 2, "wrote")
        );
        let view = global.view(Checks::default(), 3);
        view.store(&mut one, a, &[1; 4]).unwrap();
        assert_eq!(
            race(view.load(&mut two, a, &mut [0; 2])),
            (1, "wrote", 2, "read")
        );
        let view = global.view(Checks::default(), 3);
        view.load(&mut one, a, &mut [0; 4]).unwrap();
        assert_eq!(
            race(view.store(&mut two, a, &[1; 4])),
            (1, "read", 2, "wrote")
        );
        let view = global.view(Checks::default(), 3);
        view.load(&mut one, a, &mut [0; 4]).unwrap();
        view.load(&mut two, a, &mut [0; 4]).unwrap();
        assert_eq!(race(view.store(&mut two, a, &[1; 4])).3, "wrote");
        let view = global.view(Checks::default(), 3);
        view.atomic(&mut one, a, 4, &mut |old| old + 1).unwrap();
        assert_eq!(
            race(view.store(&mut two, a, &[1; 4])),
            (1, "wrote", 2, "wrote")
        );
    }

    #[test]
    fn neighbours_same_blocks_launches_and_atomics_do_not_conflict() {
        let (global, a) = setting();
        let (mut one, mut two) = (Cursor::new(1), Cursor::new(2));
        let view = global.view(Checks::default(), 3);
        view.store(&mut one, a, &[1; 2]).unwrap();
        view.store(&mut two, a + 2, &[1; 2]).unwrap();
        view.store(&mut one, a, &[2; 2]).unwrap();
        view.load(&mut one, a, &mut [0; 2]).unwrap();
        view.load(&mut one, a + 8, &mut [0; 8]).unwrap();
        view.load(&mut two, a + 8, &mut [0; 8]).unwrap();
        view.atomic(&mut one, a + 16, 4, &mut |old| old + 1)
            .unwrap();
        view.atomic(&mut two, a + 16, 4, &mut |old| old + 1)
            .unwrap();
        // The next launch comes after this one.
        global
            .view(Checks::default(), 3)
            .store(&mut two, a, &[1; 8])
            .unwrap();
        let unchecked = Checks {
            global_races: false,
            ..Checks::default()
        };
        let view = global.view(unchecked, 3);
        view.store(&mut one, a, &[1; 4]).unwrap();
        view.store(&mut two, a, &[1; 4]).unwrap();
    }

    #[test]
    fn a_fence_and_a_counter_order_blocks() {
        let (global, a) = setting();
        let (mut one, mut two) = (Cursor::new(1), Cursor::new(2));
        for fenced in [true, false] {
            let view = global.view(Checks::default(), 3);
            view.store(&mut one, a, &[1; 4]).unwrap();
            if fenced {
                view.release(&one);
            }
            view.atomic(&mut one, a + 32, 4, &mut |old| old + 1)
                .unwrap();
            view.atomic(&mut two, a + 32, 4, &mut |old| old + 1)
                .unwrap();
            assert_eq!(view.load(&mut two, a, &mut [0; 4]).is_ok(), fenced);
        }
    }
}

mod shared_memory {
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
                (raw.unwrap(), waw.unwrap(), war.unwrap());
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
}

mod asynchronous {
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
}
