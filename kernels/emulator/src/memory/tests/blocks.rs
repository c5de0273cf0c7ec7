//! Races between the blocks of a launch.

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
fn accesses_of_different_widths_conflict() {
    let (global, a) = setting();
    let (mut one, mut two) = (Cursor::new(1), Cursor::new(2));
    let view = global.view(Checks::default(), 3);
    view.store(&mut one, a + 2, &[1]).unwrap();
    view.load(&mut two, a, &mut [0; 2]).unwrap();
    view.load(&mut two, a + 3, &mut [0]).unwrap();
    assert_eq!(
        race(view.load(&mut two, a, &mut [0; 8])),
        (1, "wrote", 2, "read")
    );
    let view = global.view(Checks::default(), 3);
    view.load(&mut one, a + 4, &mut [0; 16]).unwrap();
    view.store(&mut two, a, &[1; 4]).unwrap();
    assert_eq!(
        race(view.store(&mut two, a + 18, &[1; 2])),
        (1, "read", 2, "wrote")
    );
    let view = global.view(Checks::default(), 3);
    view.store(&mut one, a + 1, &[1; 7]).unwrap();
    assert_eq!(
        race(view.store(&mut two, a + 5, &[1])),
        (1, "wrote", 2, "wrote")
    );
    view.store(&mut two, a, &[1]).unwrap();
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
