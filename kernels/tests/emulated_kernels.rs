//! The emulator behind cudarc: kernels, what they compute and how they fail.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::emulator;
use cudarc::driver::sys::{self, CUfunction_attribute, CUresult, CUstreamCaptureMode};
use cudarc::driver::{
    CudaFunction, CudaStream, DevicePtr, DriverError, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use std::ffi::{CString, c_void};
use std::sync::Arc;

/// `out[i] = a * x[i] + out[i]` for i < n, and a kernel with a barrier that can be left out.
const TEXT: &str = r"
.version 8.7
.target sm_120a
.address_size 64

.visible .global .align 4 .b8 table[8] = {1, 0, 0, 0, 2, 0, 0, 0};

.visible .entry saxpy(
    .param .u64 out, .param .u64 x, .param .f32 a, .param .u32 n
)
.maxntid 256, 1, 1
{
    .reg .pred %p;
    .reg .f32 %f<4>;
    .reg .b32 %r<5>;
    .reg .b64 %rd<6>;
    ld.param.u64 %rd1, [out];
    ld.param.u64 %rd2, [x];
    ld.param.f32 %f1, [a];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r2, %r2, %r3, %r4;
    setp.ge.u32 %p, %r2, %r1;
    @%p bra done;
    mul.wide.u32 %rd3, %r2, 4;
    add.s64 %rd4, %rd1, %rd3;
    add.s64 %rd5, %rd2, %rd3;
    ld.global.f32 %f2, [%rd5];
    ld.global.f32 %f3, [%rd4];
    fma.rn.f32 %f3, %f1, %f2, %f3;
    st.global.f32 [%rd4], %f3;
done:
    ret;
}

.extern .shared .align 4 .b8 pool[];

.visible .entry reverse(.param .u64 out, .param .u32 barrier)
{
    .reg .pred %p;
    .reg .b32 %r<8>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [barrier];
    mov.u32 %r2, %tid.x;
    mov.u32 %r3, pool;
    shl.b32 %r4, %r2, 2;
    add.u32 %r5, %r3, %r4;
    st.shared.u32 [%r5], %r2;
    setp.eq.u32 %p, %r1, 0;
    @%p bra read;
    bar.sync 0;
read:
    mov.u32 %r6, %ntid.x;
    sub.u32 %r6, %r6, %r2;
    sub.u32 %r6, %r6, 1;
    shl.b32 %r6, %r6, 2;
    add.u32 %r6, %r6, %r3;
    ld.shared.u32 %r7, [%r6];
    mul.wide.u32 %rd2, %r4, 1;
    add.s64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], %r7;
    ret;
}

.visible .entry same(.param .u64 out)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [out];
    mov.u32 %r1, %ctaid.x;
    st.global.u32 [%rd1], %r1;
    ret;
}
";

fn setting(name: &str) -> (Arc<CudaStream>, CudaFunction) {
    let context = emulator::context();
    let module = context.load_module(Ptx::from_src(TEXT)).unwrap();
    (
        context.default_stream(),
        module.load_function(name).unwrap(),
    )
}

fn shape(grid: u32, block: u32, shared_mem_bytes: u32) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (grid, 1, 1),
        block_dim: (block, 1, 1),
        shared_mem_bytes,
    }
}

fn status(error: DriverError) -> CUresult {
    error.0
}

#[test]
fn a_kernel_computes() {
    let (stream, saxpy) = setting("saxpy");
    let x = stream.clone_htod(&[1.0f32, 2.0, 3.0, 4.0, 5.0]).unwrap();
    let mut out = stream.clone_htod(&[10.0f32; 5]).unwrap();
    // SAFETY: the arguments are those of the kernel.
    unsafe {
        let mut launch = stream.launch_builder(&saxpy);
        launch
            .arg(&mut out)
            .arg(&x)
            .arg(&2.0f32)
            .arg(&5u32)
            .launch(shape(2, 4, 0))
            .unwrap();
    }
    assert_eq!(
        stream.clone_dtoh(&out).unwrap(),
        [12.0, 14.0, 16.0, 18.0, 20.0]
    );
}

#[test]
fn a_fault_is_told_with_its_place() {
    let (stream, saxpy) = setting("saxpy");
    let x = stream.clone_htod(&[1.0f32; 40]).unwrap();
    let mut out = stream.clone_htod(&[10.0f32; 35]).unwrap();
    // SAFETY: the emulator refuses what is wrong.
    let error = unsafe {
        let mut launch = stream.launch_builder(&saxpy);
        launch
            .arg(&mut out)
            .arg(&x)
            .arg(&2.0f32)
            .arg(&40u32)
            .launch(shape(2, 32, 0))
            .unwrap_err()
    };
    assert_eq!(status(error), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    let fault = emulator::last_fault();
    let line = TEXT
        .lines()
        .position(|line| line.contains("ld.global.f32 %f3"))
        .unwrap()
        + 1;
    for part in [
        "load of 4 bytes",
        "0 bytes behind the end of the 140 bytes",
        "kernel saxpy",
        &format!("line {line}"),
        "block (1, 0, 0), thread (3, 0, 0)",
    ] {
        assert!(fault.contains(part), "{part} is not in: {fault}");
    }
}

#[test]
fn a_missing_barrier_is_a_race_whatever_the_seed() {
    for seed in 0..4 {
        let _seed = emulator::settings(&[("seed", &seed.to_string())]);
        let (stream, reverse) = setting("reverse");
        let mut out = stream.alloc_zeros::<u32>(64).unwrap();
        // SAFETY: the arguments are those of the kernel; the emulator refuses what is wrong.
        let mut run = |barrier: u32| unsafe {
            let mut launch = stream.launch_builder(&reverse);
            launch
                .arg(&mut out)
                .arg(&barrier)
                .launch(shape(1, 64, 256))
                .map(|_| ())
        };
        run(1).unwrap();
        assert_eq!(
            status(run(0).unwrap_err()),
            CUresult::CUDA_ERROR_LAUNCH_FAILED
        );
        let fault = emulator::last_fault();
        // Which comes first depends on the seed: a read of what is not there yet, or the race itself.
        assert!(
            fault.contains("race at shared") || fault.contains("before anything was written"),
            "{fault}"
        );
        assert_eq!(
            stream.clone_dtoh(&out).unwrap(),
            (0..64).rev().collect::<Vec<u32>>()
        );
    }
}

#[test]
fn blocks_that_write_the_same_are_a_race() {
    let (stream, same) = setting("same");
    let mut out = stream.alloc_zeros::<u32>(1).unwrap();
    // SAFETY: the argument is that of the kernel.
    let mut run = |blocks| unsafe {
        stream
            .launch_builder(&same)
            .arg(&mut out)
            .launch(shape(blocks, 1, 0))
            .map(|_| ())
    };
    run(1).unwrap();
    run(2).unwrap_err();
    assert!(
        emulator::last_fault().contains("race at global"),
        "{}",
        emulator::last_fault()
    );
    let _one = emulator::settings(&[("block", "1")]);
    run(2).unwrap();
    assert_eq!(
        stream.clone_dtoh(&out).unwrap(),
        [1],
        "only block 1 has run"
    );
}

#[test]
fn launches_that_the_card_refuses() {
    let (stream, reverse) = setting("reverse");
    let mut out = stream.alloc_zeros::<u32>(64).unwrap();
    // SAFETY: the arguments are those of the kernel.
    let mut run = |shape| unsafe {
        stream
            .launch_builder(&reverse)
            .arg(&mut out)
            .arg(&1u32)
            .launch(shape)
            .map(|_| ())
    };
    for (shape, text) in [
        (shape(1, 64, 49 << 10), "49152 are allowed"),
        (shape(1, 1025, 0), "1025"),
        (shape(0, 64, 256), "grid"),
    ] {
        assert_eq!(
            status(run(shape).unwrap_err()),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
        assert!(
            emulator::last_fault().contains(text),
            "{}",
            emulator::last_fault()
        );
    }
    let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    reverse.set_attribute(most, 100 << 10).unwrap_err();
    reverse.set_attribute(most, 99 << 10).unwrap();
    run(shape(1, 64, 99 << 10)).unwrap();
    assert_eq!(
        reverse
            .occupancy_max_active_blocks_per_multiprocessor(64, 40 << 10, None)
            .unwrap(),
        2
    );
    let (_, saxpy) = setting("saxpy");
    assert_eq!(saxpy.max_threads_per_block().unwrap(), 256);
}

#[test]
fn modules_that_are_none_or_for_another_card() {
    let context = emulator::context();
    let load = |text: &str| {
        context
            .load_module(Ptx::from_src(text))
            .map(|_| ())
            .map_err(status)
    };
    assert_eq!(
        load(&TEXT.replace("ret;", "ret")),
        Err(CUresult::CUDA_ERROR_INVALID_PTX)
    );
    assert!(
        emulator::last_fault().contains("PTX line"),
        "{}",
        emulator::last_fault()
    );
    assert_eq!(
        load(&TEXT.replace("sm_120a", "sm_100a")),
        Err(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU)
    );
    assert_eq!(load("\x7fELF"), Err(CUresult::CUDA_ERROR_NOT_SUPPORTED));
    assert_eq!(load(&TEXT.replace("sm_120a", "sm_80")), Ok(()));
    let module = context.load_module(Ptx::from_src(TEXT)).unwrap();
    assert_eq!(
        module.load_function("absent").map(|_| ()).map_err(status),
        Err(CUresult::CUDA_ERROR_NOT_FOUND)
    );
    let _card = emulator::settings(&[("card", "h100")]);
    assert_eq!(load(TEXT), Err(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU));
}

#[test]
fn variables_of_a_module_have_their_values() {
    let context = emulator::context();
    let stream = context.default_stream();
    let module = context.load_module(Ptx::from_src(TEXT)).unwrap();
    let table = module.get_global("table", &stream).unwrap();
    assert_eq!(stream.clone_dtoh(&table).unwrap(), [1, 0, 0, 0, 2, 0, 0, 0]);
}

#[test]
fn graphs_replay_kernels_with_the_arguments_of_the_capture() {
    let (_, saxpy) = setting("saxpy");
    let context = emulator::context();
    // SAFETY: one stream uses all of it.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let x = stream.clone_htod(&[1.0f32; 4]).unwrap();
    let mut out = stream.clone_htod(&[0.0f32; 4]).unwrap();
    stream
        .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    // SAFETY: the arguments are those of the kernel.
    unsafe {
        let mut launch = stream.launch_builder(&saxpy);
        launch
            .arg(&mut out)
            .arg(&x)
            .arg(&3.0f32)
            .arg(&4u32)
            .launch(shape(1, 4, 0))
            .unwrap();
    }
    let graph = stream
        .end_capture(cudarc::driver::sys::CUgraphInstantiate_flags(0))
        .unwrap()
        .unwrap();
    (0..3).for_each(|_| graph.launch().unwrap());
    assert_eq!(stream.clone_dtoh(&out).unwrap(), [9.0; 4]);
}

/// `cuLaunchKernelEx`, which takes attributes: `id` and the words of its value.
fn launch_with(id: sys::CUlaunchAttributeID, words: [u32; 3]) -> CUresult {
    let stream = emulator::context().default_stream();
    let x = stream.clone_htod(&[1.0f32; 4]).unwrap();
    let out = stream.clone_htod(&[1.0f32; 4]).unwrap();
    let (out_address, x_address) = (out.device_ptr(&stream).0, x.device_ptr(&stream).0);
    let (a, n) = (2.0f32, 4u32);
    let parameters: [*const c_void; 4] = [
        (&raw const out_address).cast(),
        (&raw const x_address).cast(),
        (&raw const a).cast(),
        (&raw const n).cast(),
    ];
    // SAFETY: all of it may be zero; the arguments are those of the kernel and live through the call.
    unsafe {
        let mut attribute: sys::CUlaunchAttribute = std::mem::zeroed();
        attribute.id = id;
        (&raw mut attribute.value).cast::<[u32; 3]>().write(words);
        let mut config: sys::CUlaunchConfig = std::mem::zeroed();
        (config.gridDimX, config.gridDimY, config.gridDimZ) = (1, 1, 1);
        (config.blockDimX, config.blockDimY, config.blockDimZ) = (4, 1, 1);
        (config.attrs, config.numAttrs) = (&raw mut attribute, 1);
        let text = CString::new(TEXT).unwrap();
        let (mut module, mut function) = (std::ptr::null_mut(), std::ptr::null_mut());
        sys::cuModuleLoadData(&mut module, text.as_ptr().cast())
            .result()
            .unwrap();
        sys::cuModuleGetFunction(&mut function, module, c"saxpy".as_ptr())
            .result()
            .unwrap();
        let status = sys::cuLaunchKernelEx(
            &config,
            function,
            parameters.as_ptr().cast_mut().cast(),
            std::ptr::null_mut(),
        );
        if status == CUresult::CUDA_SUCCESS {
            assert_eq!(stream.clone_dtoh(&out).unwrap(), [3.0; 4]);
        }
        status
    }
}

#[test]
fn attributes_of_a_launch_are_heeded_or_refused() {
    use sys::CUlaunchAttributeID_enum as Id;
    let serial = Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    assert_eq!(launch_with(serial, [1, 0, 0]), CUresult::CUDA_SUCCESS);
    assert_eq!(
        launch_with(Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, [1, 1, 1]),
        CUresult::CUDA_SUCCESS
    );
    assert_eq!(
        launch_with(Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, [2, 1, 1]),
        CUresult::CUDA_ERROR_NOT_SUPPORTED
    );
    assert!(
        emulator::last_fault().contains("cluster of 2 x 1 x 1"),
        "{}",
        emulator::last_fault()
    );
}
