//! Global memory: bounds, alignment, lifetimes, values.

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
    let Err(Cause::OutOfBounds { nearest, .. }) = view.load(&mut Cursor::new(0), a, &mut [0; 4])
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
