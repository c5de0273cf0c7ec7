//! The one device, its contexts, and everything that lives on it.

use std::cell::RefCell;
use std::ffi::c_char;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};
use std::sync::{Arc, LazyLock};

use super::ffi::{Out, Text, api, at_exit};
use super::graph::{Executable, Graph};
use super::handles::Handles;
use super::module::{Function, Loaded};
use super::settings::{flag, settings};
use super::status::{
    Error, INVALID_CONTEXT, INVALID_DEVICE, INVALID_VALUE, NOT_FOUND, NOT_INITIALIZED, Outcome,
    answer, name,
};
use super::stream::{Event, Stream};
use crate::memory::Global;

/// What `cuDriverGetVersion` says: 13.0.
const VERSION: i32 = 13_000;

/// Everything on the device.
#[derive(Debug)]
pub(super) struct Device {
    pub memory: Global,
    pub modules: Handles<Loaded>,
    pub functions: Handles<Function>,
    pub streams: Handles<Stream>,
    pub events: Handles<Event>,
    pub graphs: Handles<Graph>,
    pub executables: Handles<Executable>,
    contexts: Handles<()>,
    /// The primary context, which lives from the start.
    primary: usize,
    retained: AtomicI32,
    initialised: AtomicBool,
}

static DEVICE: LazyLock<Device> = LazyLock::new(|| {
    let contexts = Handles::new("context", 0x1000_0000);
    let primary = contexts.add(Arc::new(()));
    if flag("PTX_EMULATOR_LEAKS") {
        at_exit(report);
    }
    Device {
        // What a card has is checked at each allocation: it is a setting.
        memory: Global::new(u64::MAX),
        modules: Handles::new("module", 0x2000_0000),
        functions: Handles::new("function", 0x3000_0000),
        streams: Handles::new("stream", 0x4000_0000),
        events: Handles::new("event", 0x5000_0000),
        graphs: Handles::new("graph", 0x6000_0000),
        executables: Handles::new("executable graph", 0x7000_0000),
        contexts,
        primary,
        retained: AtomicI32::new(0),
        initialised: AtomicBool::new(false),
    }
});

/// The device.
pub(super) fn device() -> &'static Device {
    &DEVICE
}

extern "C" fn report() {
    let leaks = device().leaks();
    if !leaks.is_empty() {
        eprintln!("ptx-emulator: not freed at exit:\n{leaks}");
    }
}

impl Device {
    /// What is allocated or not destroyed, a line each; empty if nothing is. Memory of modules is theirs.
    pub fn leaks(&self) -> String {
        let mut lines: Vec<String> = (self.memory.allocations().into_iter())
            .filter(|(address, _)| !self.modules.any(|module| module.owns(*address)))
            .map(|(address, bytes)| format!("{bytes} bytes at {address:#x}"))
            .collect();
        for (count, what) in [
            (self.modules.len(), "modules"),
            (self.streams.len(), "streams"),
            (self.events.len(), "events"),
            (self.graphs.len(), "graphs"),
            (self.executables.len(), "executable graphs"),
        ] {
            if count > 0 {
                lines.push(format!("{count} {what}"));
            }
        }
        lines.join("\n")
    }
}

thread_local! {
    /// Contexts pushed; the last is current.
    static CURRENT: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

fn current() -> usize {
    CURRENT.with_borrow(|stack| stack.last().copied().unwrap_or(0))
}

/// The device, for a call that needs a context.
pub(super) fn in_context() -> Result<&'static Device, Error> {
    let device = initialised()?;
    match device.contexts.get(current()) {
        Ok(_) => Ok(device),
        Err(_) => Err(Error::new(
            INVALID_CONTEXT,
            "no context is current in this thread, or it was destroyed",
        )),
    }
}

/// The current context.
pub(super) fn current_context(context: Out<usize>) -> Outcome {
    context.set(current())
}

/// The device, for a call of the runtime: the primary context is current unless another is.
pub(super) fn runtime_context() -> Result<&'static Device, Error> {
    let device = device();
    device.initialised.store(true, SeqCst);
    if current() == 0 {
        CURRENT.with_borrow_mut(|stack| stack.push(device.primary));
    }
    in_context()
}

/// The device, for a call that names what it is about and needs no context.
pub(super) fn initialised() -> Result<&'static Device, Error> {
    match device().initialised.load(SeqCst) {
        true => Ok(device()),
        false => Err(Error::new(NOT_INITIALIZED, "cuInit was not called")),
    }
}

fn check_device(number: i32) -> Result<&'static Device, Error> {
    match number {
        0 => initialised(),
        _ => Err(Error::new(
            INVALID_DEVICE,
            format!("there is no device {number}, only 0"),
        )),
    }
}

fn uuid() -> [u8; 16] {
    let mut uuid = *b"ptx-emulator----";
    uuid.iter_mut()
        .skip(13)
        .zip(settings().card.key.bytes())
        .for_each(|(byte, key)| *byte = key);
    uuid
}

api! { table, answer;
    fn cuInit(flags: u32) {
        if flags != 0 {
            return Err(Error::new(INVALID_VALUE, "cuInit takes no flags"));
        }
        device().initialised.store(true, SeqCst);
        Ok(())
    }

    fn cuDriverGetVersion(version: Out<i32>) {
        version.set(VERSION)
    }

    fn cuDeviceGet(device: Out<i32>, ordinal: i32) {
        check_device(ordinal)?;
        device.set(ordinal)
    }

    fn cuDeviceGetCount(count: Out<i32>) {
        initialised()?;
        count.set(1)
    }

    fn cuDeviceGetName(name: Out<c_char>, len: i32, device: i32) {
        check_device(device)?;
        name.set_text(settings().card.name, usize::try_from(len).unwrap_or(0))
    }

    fn cuDeviceGetUuid(id: Out<[u8; 16]>, device: i32) {
        check_device(device)?;
        id.set(uuid())
    }

    fn cuDeviceGetUuid_v2(id: Out<[u8; 16]>, device: i32) {
        check_device(device)?;
        id.set(uuid())
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: i32) {
        check_device(device)?;
        bytes.set(settings().memory() as usize)
    }

    fn cuDeviceGetAttribute(value: Out<i32>, attribute: u32, device: i32) {
        check_device(device)?;
        let known = settings().card.attribute(attribute);
        let unknown = || Error::new(INVALID_VALUE, format!("the emulator has no device attribute {attribute}"));
        value.set(known.ok_or_else(unknown)? as i32)
    }

    fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: i32) {
        check_device(device)?;
        major.set(settings().card.capability.0 as i32)?;
        minor.set(settings().card.capability.1 as i32)
    }

    fn cuDeviceCanAccessPeer(can: Out<i32>, device: i32, peer: i32) {
        check_device(device)?;
        check_device(peer)?;
        can.set(0)
    }

    fn cuDevicePrimaryCtxRetain(context: Out<usize>, device: i32) {
        let device = check_device(device)?;
        device.retained.fetch_add(1, SeqCst);
        context.set(device.primary)
    }

    fn cuDevicePrimaryCtxRelease_v2(device: i32) {
        // The primary context's memory stays: in one process, tests come and go while others still run.
        let device = check_device(device)?;
        if device.retained.fetch_sub(1, SeqCst) <= 0 {
            device.retained.fetch_add(1, SeqCst);
            return Err(Error::new(INVALID_CONTEXT, "the primary context is released more often than retained"));
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) {
        let device = check_device(device)?;
        flags.set(0)?;
        active.set(i32::from(device.retained.load(SeqCst) > 0))
    }

    fn cuCtxCreate_v2(context: Out<usize>, _flags: u32, device: i32) {
        create(context, device)
    }

    fn cuCtxCreate_v4(context: Out<usize>, _parameters: usize, _flags: u32, device: i32) {
        create(context, device)
    }

    fn cuCtxDestroy_v2(context: usize) {
        let device = initialised()?;
        if context == device.primary {
            return Err(Error::new(INVALID_CONTEXT, "the primary context is released, not destroyed"));
        }
        device.contexts.remove(context)?;
        CURRENT.with_borrow_mut(|stack| stack.retain(|held| *held != context));
        Ok(())
    }

    fn cuCtxGetCurrent(context: Out<usize>) {
        initialised()?;
        context.set(current())
    }

    fn cuCtxSetCurrent(context: usize) {
        let device = initialised()?;
        if context != 0 {
            device.contexts.get(context)?;
        }
        CURRENT.with_borrow_mut(|stack| {
            stack.pop();
            if context != 0 {
                stack.push(context);
            }
        });
        Ok(())
    }

    fn cuCtxPushCurrent_v2(context: usize) {
        initialised()?.contexts.get(context)?;
        CURRENT.with_borrow_mut(|stack| stack.push(context));
        Ok(())
    }

    fn cuCtxPopCurrent_v2(context: Out<usize>) {
        let popped = CURRENT.with_borrow_mut(Vec::pop);
        context.set_if_wanted(popped.ok_or_else(|| Error::new(INVALID_CONTEXT, "no context is current"))?);
        Ok(())
    }

    fn cuCtxGetDevice(device: Out<i32>) {
        in_context()?;
        device.set(0)
    }

    fn cuCtxSynchronize() {
        in_context().map(|_| ())
    }

    fn cuCtxSetFlags(_flags: u32) {
        in_context().map(|_| ())
    }

    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) {
        in_context()?;
        least.set_if_wanted(0);
        greatest.set_if_wanted(0);
        Ok(())
    }

    fn cuGetErrorName(status: u32, text: Out<*const c_char>) {
        text.set(error_name(status)?)
    }

    fn cuGetErrorString(status: u32, text: Out<*const c_char>) {
        text.set(error_name(status)?)
    }

    fn cuGetProcAddress_v2(symbol: Text, address: Out<usize>, _version: i32, _flags: u64, found: Out<u32>) {
        let symbol = symbol.get()?;
        let all = super::symbols();
        // The caller asks for the base name and gets its newest version.
        let known = ["_v4", "_v3", "_v2", ""].iter().find_map(|suffix| {
            let name = format!("{symbol}{suffix}");
            all.iter().find(|(known, _)| *known == name)
        });
        found.set_if_wanted(u32::from(known.is_none()));
        match known {
            Some((_, function)) => address.set(*function),
            None => Err(Error::new(NOT_FOUND, format!("the emulator has no {symbol}"))),
        }
    }

    fn cuCtxGetApiVersion(context: usize, version: Out<u32>) {
        initialised()?.contexts.get(context)?;
        version.set(VERSION as u32)
    }

    fn cuProfilerStart() {
        in_context().map(|_| ())
    }

    fn cuProfilerStop() {
        in_context().map(|_| ())
    }
}

fn create(context: Out<usize>, device: i32) -> Outcome {
    let device = check_device(device)?;
    let made = device.contexts.add(Arc::new(()));
    CURRENT.with_borrow_mut(|stack| stack.push(made));
    context.set(made)
}

/// Name of an error for C.
pub(super) fn error_name(status: u32) -> Result<*const c_char, Error> {
    let known = name(status)
        .ok_or_else(|| Error::new(INVALID_VALUE, format!("there is no error {status}")))?;
    Ok(known.as_ptr().cast())
}
