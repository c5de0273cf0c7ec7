//! `CUresult`: the codes, their names, and how a call answers.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::fault::{Cause, Fault};

/// `CUresult`.
pub(super) type Status = u32;

/// An argument is out of its range.
pub(super) const INVALID_VALUE: Status = 1;
/// The card has not that much memory left.
pub(super) const OUT_OF_MEMORY: Status = 2;
/// `cuInit` was not called.
pub(super) const NOT_INITIALIZED: Status = 3;
/// There is one device, number 0.
pub(super) const INVALID_DEVICE: Status = 101;
/// A module is no PTX.
pub(super) const INVALID_IMAGE: Status = 200;
/// No context is current, or it is gone.
pub(super) const INVALID_CONTEXT: Status = 201;
/// The module is for another card.
pub(super) const NO_BINARY_FOR_GPU: Status = 209;
/// The PTX text is wrong.
pub(super) const INVALID_PTX: Status = 218;
/// No such file.
pub(super) const FILE_NOT_FOUND: Status = 301;
/// No such stream, event, module, ...
pub(super) const INVALID_HANDLE: Status = 400;
/// No such name.
pub(super) const NOT_FOUND: Status = 500;
/// A kernel or a copy touched what is not allocated.
pub(super) const ILLEGAL_ADDRESS: Status = 700;
/// An instruction that the emulator does not know.
pub(super) const ILLEGAL_INSTRUCTION: Status = 715;
/// A misaligned access.
pub(super) const MISALIGNED_ADDRESS: Status = 716;
/// A kernel failed in another way: a race, a read of what nobody wrote, a trap.
pub(super) const LAUNCH_FAILED: Status = 719;
/// The emulator does not do this.
pub(super) const NOT_SUPPORTED: Status = 801;
/// Not allowed while a stream is captured.
pub(super) const STREAM_CAPTURE_UNSUPPORTED: Status = 900;
/// A capture that failed before.
pub(super) const STREAM_CAPTURE_INVALIDATED: Status = 901;
/// The end of a capture that did not begin on this stream.
pub(super) const STREAM_CAPTURE_UNMATCHED: Status = 903;
/// A stream that joined the capture did not come back.
pub(super) const STREAM_CAPTURE_UNJOINED: Status = 904;
/// A captured stream waits for what is outside of its capture.
pub(super) const STREAM_CAPTURE_ISOLATION: Status = 905;
/// The event belongs to a capture.
pub(super) const CAPTURED_EVENT: Status = 907;
/// The emulator itself failed.
pub(super) const UNKNOWN: Status = 999;
/// Done.
pub(super) const SUCCESS: Status = 0;

/// Codes and names of the driver API, version 13.
#[rustfmt::skip]
const NAMES: &[(Status, &str)] = &[
    (0, "CUDA_SUCCESS\0"),
    (1, "CUDA_ERROR_INVALID_VALUE\0"),
    (2, "CUDA_ERROR_OUT_OF_MEMORY\0"),
    (3, "CUDA_ERROR_NOT_INITIALIZED\0"),
    (4, "CUDA_ERROR_DEINITIALIZED\0"),
    (5, "CUDA_ERROR_PROFILER_DISABLED\0"),
    (6, "CUDA_ERROR_PROFILER_NOT_INITIALIZED\0"),
    (7, "CUDA_ERROR_PROFILER_ALREADY_STARTED\0"),
    (8, "CUDA_ERROR_PROFILER_ALREADY_STOPPED\0"),
    (34, "CUDA_ERROR_STUB_LIBRARY\0"),
    (36, "CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER\0"),
    (46, "CUDA_ERROR_DEVICE_UNAVAILABLE\0"),
    (47, "CUDA_ERROR_MULTICAST_RESOURCE_FULL\0"),
    (100, "CUDA_ERROR_NO_DEVICE\0"),
    (101, "CUDA_ERROR_INVALID_DEVICE\0"),
    (102, "CUDA_ERROR_DEVICE_NOT_LICENSED\0"),
    (200, "CUDA_ERROR_INVALID_IMAGE\0"),
    (201, "CUDA_ERROR_INVALID_CONTEXT\0"),
    (202, "CUDA_ERROR_CONTEXT_ALREADY_CURRENT\0"),
    (205, "CUDA_ERROR_MAP_FAILED\0"),
    (206, "CUDA_ERROR_UNMAP_FAILED\0"),
    (207, "CUDA_ERROR_ARRAY_IS_MAPPED\0"),
    (208, "CUDA_ERROR_ALREADY_MAPPED\0"),
    (209, "CUDA_ERROR_NO_BINARY_FOR_GPU\0"),
    (210, "CUDA_ERROR_ALREADY_ACQUIRED\0"),
    (211, "CUDA_ERROR_NOT_MAPPED\0"),
    (212, "CUDA_ERROR_NOT_MAPPED_AS_ARRAY\0"),
    (213, "CUDA_ERROR_NOT_MAPPED_AS_POINTER\0"),
    (214, "CUDA_ERROR_ECC_UNCORRECTABLE\0"),
    (215, "CUDA_ERROR_UNSUPPORTED_LIMIT\0"),
    (216, "CUDA_ERROR_CONTEXT_ALREADY_IN_USE\0"),
    (217, "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED\0"),
    (218, "CUDA_ERROR_INVALID_PTX\0"),
    (219, "CUDA_ERROR_INVALID_GRAPHICS_CONTEXT\0"),
    (220, "CUDA_ERROR_NVLINK_UNCORRECTABLE\0"),
    (221, "CUDA_ERROR_JIT_COMPILER_NOT_FOUND\0"),
    (222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION\0"),
    (223, "CUDA_ERROR_JIT_COMPILATION_DISABLED\0"),
    (224, "CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY\0"),
    (225, "CUDA_ERROR_UNSUPPORTED_DEVSIDE_SYNC\0"),
    (226, "CUDA_ERROR_CONTAINED\0"),
    (227, "CUDA_ERROR_INSUFFICIENT_LOADER_VERSION\0"),
    (300, "CUDA_ERROR_INVALID_SOURCE\0"),
    (301, "CUDA_ERROR_FILE_NOT_FOUND\0"),
    (302, "CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND\0"),
    (303, "CUDA_ERROR_SHARED_OBJECT_INIT_FAILED\0"),
    (304, "CUDA_ERROR_OPERATING_SYSTEM\0"),
    (400, "CUDA_ERROR_INVALID_HANDLE\0"),
    (401, "CUDA_ERROR_ILLEGAL_STATE\0"),
    (402, "CUDA_ERROR_LOSSY_QUERY\0"),
    (500, "CUDA_ERROR_NOT_FOUND\0"),
    (600, "CUDA_ERROR_NOT_READY\0"),
    (700, "CUDA_ERROR_ILLEGAL_ADDRESS\0"),
    (701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES\0"),
    (702, "CUDA_ERROR_LAUNCH_TIMEOUT\0"),
    (703, "CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING\0"),
    (704, "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED\0"),
    (705, "CUDA_ERROR_PEER_ACCESS_NOT_ENABLED\0"),
    (708, "CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE\0"),
    (709, "CUDA_ERROR_CONTEXT_IS_DESTROYED\0"),
    (710, "CUDA_ERROR_ASSERT\0"),
    (711, "CUDA_ERROR_TOO_MANY_PEERS\0"),
    (712, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED\0"),
    (713, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED\0"),
    (714, "CUDA_ERROR_HARDWARE_STACK_ERROR\0"),
    (715, "CUDA_ERROR_ILLEGAL_INSTRUCTION\0"),
    (716, "CUDA_ERROR_MISALIGNED_ADDRESS\0"),
    (717, "CUDA_ERROR_INVALID_ADDRESS_SPACE\0"),
    (718, "CUDA_ERROR_INVALID_PC\0"),
    (719, "CUDA_ERROR_LAUNCH_FAILED\0"),
    (720, "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE\0"),
    (721, "CUDA_ERROR_TENSOR_MEMORY_LEAK\0"),
    (800, "CUDA_ERROR_NOT_PERMITTED\0"),
    (801, "CUDA_ERROR_NOT_SUPPORTED\0"),
    (802, "CUDA_ERROR_SYSTEM_NOT_READY\0"),
    (803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH\0"),
    (804, "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE\0"),
    (805, "CUDA_ERROR_MPS_CONNECTION_FAILED\0"),
    (806, "CUDA_ERROR_MPS_RPC_FAILURE\0"),
    (807, "CUDA_ERROR_MPS_SERVER_NOT_READY\0"),
    (808, "CUDA_ERROR_MPS_MAX_CLIENTS_REACHED\0"),
    (809, "CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED\0"),
    (810, "CUDA_ERROR_MPS_CLIENT_TERMINATED\0"),
    (811, "CUDA_ERROR_CDP_NOT_SUPPORTED\0"),
    (812, "CUDA_ERROR_CDP_VERSION_MISMATCH\0"),
    (900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED\0"),
    (901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED\0"),
    (902, "CUDA_ERROR_STREAM_CAPTURE_MERGE\0"),
    (903, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED\0"),
    (904, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED\0"),
    (905, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION\0"),
    (906, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT\0"),
    (907, "CUDA_ERROR_CAPTURED_EVENT\0"),
    (908, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD\0"),
    (909, "CUDA_ERROR_TIMEOUT\0"),
    (910, "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE\0"),
    (911, "CUDA_ERROR_EXTERNAL_DEVICE\0"),
    (912, "CUDA_ERROR_INVALID_CLUSTER_SIZE\0"),
    (913, "CUDA_ERROR_FUNCTION_NOT_LOADED\0"),
    (914, "CUDA_ERROR_INVALID_RESOURCE_TYPE\0"),
    (915, "CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION\0"),
    (916, "CUDA_ERROR_KEY_ROTATION\0"),
    (917, "CUDA_ERROR_STREAM_DETACHED\0"),
    (918, "CUDA_ERROR_GRAPH_RECAPTURE_FAILURE\0"),
    (919, "CUDA_ERROR_FABRIC_NOT_READY\0"),
    (999, "CUDA_ERROR_UNKNOWN\0"),
];

/// Name of a code, with a zero at the end.
pub(super) fn name(status: Status) -> Option<&'static str> {
    NAMES
        .iter()
        .find(|(code, _)| *code == status)
        .map(|(_, name)| *name)
}

/// Why a call fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Error {
    pub status: Status,
    pub text: String,
}

/// What a call gives.
pub(super) type Outcome = Result<(), Error>;

impl Error {
    pub fn new(status: Status, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
        }
    }

    pub fn unsupported(what: &str) -> Self {
        Self::new(
            NOT_SUPPORTED,
            format!("{what}: the emulator does not do this"),
        )
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let status = match fault.cause {
            Cause::OutOfBounds { .. } => ILLEGAL_ADDRESS,
            Cause::Misaligned { .. } => MISALIGNED_ADDRESS,
            Cause::LaunchLimit(_) => INVALID_VALUE,
            Cause::Instruction(_) => ILLEGAL_INSTRUCTION,
            _ => LAUNCH_FAILED,
        };
        Self::new(status, fault.to_string())
    }
}

impl From<Cause> for Error {
    fn from(cause: Cause) -> Self {
        Fault::from(cause).into()
    }
}

thread_local! {
    static LAST_FAULT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Text of the last failed call of this thread.
pub(super) fn last_fault() -> String {
    LAST_FAULT.with_borrow(Clone::clone)
}

/// Runs a call of the C interface: an error is printed and remembered, a panic becomes one.
pub(super) fn answer(call: &str, body: impl FnOnce() -> Outcome) -> Status {
    let panicked = |_| Err(Error::new(UNKNOWN, "the emulator panicked; see above"));
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(panicked);
    let Err(error) = outcome else { return SUCCESS };
    eprintln!("ptx-emulator: {call}: {}", error.text);
    LAST_FAULT.set(error.text);
    error.status
}
