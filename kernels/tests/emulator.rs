//! The emulator behind cudarc: the driver's calls without kernels.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::emulator;
use cudarc::driver::sys::{CUresult, CUstreamCaptureMode};
use cudarc::driver::{DriverError, result};

#[test]
fn cards_say_who_they_are() {
    let context = emulator::context();
    assert_eq!(context.name().unwrap(), "NVIDIA GeForce RTX 5090");
    assert_eq!(context.compute_capability().unwrap(), (12, 0));
    assert_eq!(context.total_mem().unwrap(), 32 << 30);
    for (card, capability) in [
        ("h100", (9, 0)),
        ("a100", (8, 0)),
        ("rtx4090", (8, 9)),
        ("b200", (10, 0)),
    ] {
        let _card = emulator::settings(&[("card", card)]);
        assert_eq!(context.compute_capability().unwrap(), capability);
    }
    assert_eq!(
        context.compute_capability().unwrap(),
        (12, 0),
        "settings end with their guard"
    );
}

#[test]
fn memory_goes_there_and_back() {
    let stream = emulator::context().new_stream().unwrap();
    let data: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let there = stream.clone_htod(&data).unwrap();
    let copy = stream.clone_dtod(&there).unwrap();
    assert_eq!(stream.clone_dtoh(&copy).unwrap(), data);
    let zeros = stream.alloc_zeros::<u8>(33).unwrap();
    assert_eq!(stream.clone_dtoh(&zeros).unwrap(), [0; 33]);
}

#[test]
fn reading_what_nobody_wrote_is_a_fault() {
    let stream = emulator::context().new_stream().unwrap();
    // SAFETY: the emulator refuses the read.
    let fresh = unsafe { stream.alloc::<u32>(8) }.unwrap();
    assert_eq!(
        stream.clone_dtoh(&fresh).unwrap_err(),
        DriverError(CUresult::CUDA_ERROR_LAUNCH_FAILED)
    );
    assert!(
        emulator::last_fault().contains("read before anything was written"),
        "{}",
        emulator::last_fault()
    );
    let _unchecked = emulator::settings(&[("uninitialised", "0")]);
    stream.clone_dtoh(&fresh).unwrap();
}

#[test]
fn copies_out_of_bounds_and_stale_pointers_are_faults() {
    let context = emulator::context();
    // SAFETY: the emulator refuses what is wrong.
    unsafe {
        let address = result::malloc_sync(100).unwrap();
        let error = result::memcpy_htod_sync(address, &[0u8; 101]).unwrap_err();
        assert_eq!(error, DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS));
        assert!(
            emulator::last_fault().contains("has 100 bytes"),
            "{}",
            emulator::last_fault()
        );
        assert!(emulator::leaks().contains(&format!("100 bytes at {address:#x}")));
        result::free_sync(address).unwrap();
        assert!(!emulator::leaks().contains(&format!("{address:#x}")));
        result::free_sync(address).unwrap_err();
        assert!(
            emulator::last_fault().contains("was freed"),
            "{}",
            emulator::last_fault()
        );
    }
    drop(context);
}

#[test]
fn a_card_that_is_full_says_so() {
    let stream = emulator::context().new_stream().unwrap();
    let _small = emulator::settings(&[("memory", "1000000000")]);
    // SAFETY: nothing is read.
    let error = unsafe { stream.alloc::<u8>(1_000_000_001) }.unwrap_err();
    assert_eq!(error, DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY));
}

#[test]
fn graphs_replay_what_was_captured() {
    let context = emulator::context();
    // SAFETY: one stream uses all of it.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let mut data = stream.clone_htod(&[1u32; 4]).unwrap();
    stream
        .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    stream.memset_zeros(&mut data).unwrap();
    let graph = stream
        .end_capture(cudarc::driver::sys::CUgraphInstantiate_flags(0))
        .unwrap()
        .unwrap();
    assert_eq!(
        stream.clone_dtoh(&data).unwrap(),
        [1; 4],
        "a captured call has run"
    );
    for _ in 0..2 {
        stream.memcpy_htod(&[2u32; 4], &mut data).unwrap();
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&data).unwrap(), [0; 4]);
    }
}

#[test]
fn what_a_capture_forbids_spoils_it() {
    let stream = emulator::context().new_stream().unwrap();
    stream
        .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    let error = stream.synchronize().unwrap_err();
    assert_eq!(
        error,
        DriverError(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
    );
    let flags = cudarc::driver::sys::CUgraphInstantiate_flags(0);
    let Err(error) = stream.end_capture(flags) else {
        panic!("a spoilt capture ended well")
    };
    assert_eq!(
        error,
        DriverError(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
    );
}

#[test]
fn captured_streams_fork_and_must_join() {
    for joins in [true, false] {
        let context = emulator::context();
        // SAFETY: the events below order the streams.
        unsafe { context.disable_event_tracking() };
        let (main, side) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let (mut a, mut b) = (
            main.clone_htod(&[1u8; 4]).unwrap(),
            main.clone_htod(&[1u8; 4]).unwrap(),
        );
        main.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .unwrap();
        side.wait(&main.record_event(None).unwrap()).unwrap();
        side.memset_zeros(&mut a).unwrap();
        main.memset_zeros(&mut b).unwrap();
        if joins {
            main.wait(&side.record_event(None).unwrap()).unwrap();
        }
        match main.end_capture(cudarc::driver::sys::CUgraphInstantiate_flags(0)) {
            Ok(graph) => {
                assert!(joins);
                assert_eq!(main.clone_dtoh(&a).unwrap(), [1; 4]);
                graph.unwrap().launch().unwrap();
                assert_eq!(
                    (main.clone_dtoh(&a).unwrap(), main.clone_dtoh(&b).unwrap()),
                    (vec![0; 4], vec![0; 4])
                );
            }
            Err(error) => {
                assert!(!joins);
                assert_eq!(
                    error,
                    DriverError(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED)
                );
            }
        }
    }
}

#[test]
fn events_say_how_long_it_took() {
    let context = emulator::context();
    let stream = context.new_stream().unwrap();
    let timed = Some(cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT);
    let start = stream.record_event(timed).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let end = stream.record_event(timed).unwrap();
    let milliseconds = start.elapsed_ms(&end).unwrap();
    assert!((20.0..2000.0).contains(&milliseconds), "{milliseconds} ms");
}

#[test]
fn what_the_emulator_does_not_do_it_says() {
    let context = emulator::context();
    // SAFETY: the call is refused.
    let error = unsafe {
        result::malloc_managed(
            16,
            cudarc::driver::sys::CUmemAttach_flags::CU_MEM_ATTACH_GLOBAL,
        )
    };
    assert_eq!(error, Err(DriverError(CUresult::CUDA_ERROR_NOT_SUPPORTED)));
    assert!(emulator::last_fault().contains("cuMemAllocManaged"));
    drop(context);
}
