//! Memory: allocation, copies, memset.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

use super::device::{Device, in_context};
use super::ffi::{Bytes, Out, api};
use super::graph::{Node, allowed_now};
use super::handles::lock;
use super::settings::settings;
use super::status::{Error, INVALID_VALUE, NOT_FOUND, OUT_OF_MEMORY, Outcome, answer};
use super::stream::{capture, submit};
use crate::fault::Cause;
use crate::memory::{GLOBAL_BASE, GLOBAL_END};

/// Pinned host memory starts at multiples of a page.
const PAGE: usize = 4096;

/// Pinned host memory: address and bytes of each piece.
static PINNED: LazyLock<Mutex<HashMap<usize, Layout>>> = LazyLock::new(Mutex::default);

/// Memory of the card that the settings name.
pub(super) fn allocate(device: &Device, bytes: usize) -> Result<u64, Error> {
    if bytes == 0 {
        return Err(Error::new(INVALID_VALUE, "an allocation of no bytes"));
    }
    let total = settings().memory();
    let free = total.saturating_sub(device.memory.used());
    let full = || {
        Error::new(
            OUT_OF_MEMORY,
            format!("{bytes} bytes wanted, {free} of {total} are free"),
        )
    };
    if bytes as u64 > free {
        return Err(full());
    }
    device.memory.allocate(bytes as u64).ok_or_else(full)
}

/// What the host may read: bytes that a kernel forgot to write are a fault of that kernel.
fn read(device: &Device, from: u64, to: Bytes, bytes: usize) -> Outcome {
    if settings().checks.uninitialised
        && let Some(address) = device.memory.unwritten(from, bytes)?
    {
        return Err(Cause::Uninitialised {
            space: "global",
            address,
        }
        .into());
    }
    let mut copy = vec![0; bytes];
    device.memory.read(from, &mut copy)?;
    to.write(&copy)
}

fn to_device(to: u64, from: Bytes, bytes: usize) -> Node {
    Node::new(move |device| Ok(device.memory.write(to, from.read(bytes)?)?))
}

fn to_host(to: Bytes, from: u64, bytes: usize) -> Node {
    Node::new(move |device| read(device, from, to, bytes))
}

fn on_device(to: u64, from: u64, bytes: usize) -> Node {
    Node::new(move |device| Ok(device.memory.copy(to, from, bytes)?))
}

/// Repeats `pattern` `count` times.
pub(super) fn memset<const N: usize>(to: u64, pattern: [u8; N], count: usize) -> Node {
    Node::new(move |device| Ok(device.memory.fill(to, &pattern, count)?))
}

/// A copy between unified addresses.
fn unified(to: u64, from: u64, bytes: usize) -> Node {
    let on_card = |address| (GLOBAL_BASE..GLOBAL_END).contains(&address);
    match (on_card(to), on_card(from)) {
        (true, true) => on_device(to, from, bytes),
        (true, false) => to_device(to, Bytes::at(from), bytes),
        (false, true) => to_host(Bytes::at(to), from, bytes),
        (false, false) => Node::new(move |_| Bytes::at(to).write(Bytes::at(from).read(bytes)?)),
    }
}

/// Runs now; not while a stream is captured, because it waits for the device.
fn now(call: &str, node: Node) -> Outcome {
    let device = in_context()?;
    allowed_now(device, call)?;
    node.run(device)
}

fn later(stream: usize, node: Node) -> Outcome {
    submit(in_context()?, stream, node)
}

fn pin(target: Out<usize>, bytes: usize) -> Outcome {
    in_context()?;
    let bad = |_| Error::new(INVALID_VALUE, format!("{bytes} bytes of host memory"));
    let layout = Layout::from_size_align(bytes.max(1), PAGE).map_err(bad)?;
    // SAFETY: the layout is not of size zero.
    let address = unsafe { alloc_zeroed(layout) } as usize;
    if address == 0 {
        return Err(Error::new(
            OUT_OF_MEMORY,
            format!("{bytes} bytes of host memory"),
        ));
    }
    lock(&PINNED).insert(address, layout);
    target.set(address)
}

api! { table, answer;
    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let device = in_context()?;
        let all = settings().memory();
        free.set_if_wanted(all.saturating_sub(device.memory.used()) as usize);
        total.set_if_wanted(all as usize);
        Ok(())
    }

    fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) {
        let device = in_context()?;
        allowed_now(device, "cuMemAlloc")?;
        address.set(allocate(device, bytes)?)
    }

    fn cuMemFree_v2(address: u64) {
        let device = in_context()?;
        allowed_now(device, "cuMemFree")?;
        if address == 0 { Ok(()) } else { Ok(device.memory.free(address)?) }
    }

    fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: usize) {
        let device = in_context()?;
        if bytes == 0 {
            // Pools give nothing for nothing, where cuMemAlloc refuses.
            return address.set(0);
        }
        let allocated = allocate(device, bytes)?;
        if let Some(capture) = capture(device, stream)? {
            capture.own(allocated);
        }
        address.set(allocated)
    }

    fn cuMemFreeAsync(address: u64, stream: usize) {
        let device = in_context()?;
        match capture(device, stream)? {
            // The graph keeps the address: it is given back with the graph.
            Some(capture) if capture.owns(address) => Ok(()),
            Some(capture) => {
                capture.spoil();
                Err(Error::unsupported("freeing in a graph what was allocated outside of it"))
            }
            None if address == 0 => Ok(()),
            None => Ok(device.memory.free(address)?),
        }
    }

    fn cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, address: u64) {
        let range = in_context()?.memory.range(address);
        let (start, len) = range.ok_or_else(|| Error::new(NOT_FOUND, format!("{address:#x} is not allocated")))?;
        base.set_if_wanted(start);
        bytes.set_if_wanted(len);
        Ok(())
    }

    fn cuMemHostAlloc(host: Out<usize>, bytes: usize, _flags: u32) {
        pin(host, bytes)
    }

    fn cuMemAllocHost_v2(host: Out<usize>, bytes: usize) {
        pin(host, bytes)
    }

    fn cuMemFreeHost(host: Bytes) {
        in_context()?;
        let wrong = || Error::new(INVALID_VALUE, format!("{:#x} is no pinned host memory", host.address()));
        let layout = lock(&PINNED).remove(&host.address()).ok_or_else(wrong)?;
        // SAFETY: it came from `alloc_zeroed` with this layout, and was just taken off the list.
        unsafe { dealloc(host.address() as *mut u8, layout) };
        Ok(())
    }

    fn cuMemHostGetFlags(flags: Out<u32>, _host: Bytes) {
        in_context()?;
        flags.set(0)
    }

    fn cuMemcpyHtoD_v2(to: u64, from: Bytes, bytes: usize) {
        now("cuMemcpyHtoD", to_device(to, from, bytes))
    }

    fn cuMemcpyDtoH_v2(to: Bytes, from: u64, bytes: usize) {
        now("cuMemcpyDtoH", to_host(to, from, bytes))
    }

    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        now("cuMemcpyDtoD", on_device(to, from, bytes))
    }

    fn cuMemcpy(to: u64, from: u64, bytes: usize) {
        now("cuMemcpy", unified(to, from, bytes))
    }

    fn cuMemcpyHtoDAsync_v2(to: u64, from: Bytes, bytes: usize, stream: usize) {
        later(stream, to_device(to, from, bytes))
    }

    fn cuMemcpyDtoHAsync_v2(to: Bytes, from: u64, bytes: usize, stream: usize) {
        later(stream, to_host(to, from, bytes))
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) {
        later(stream, on_device(to, from, bytes))
    }

    fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: usize) {
        later(stream, unified(to, from, bytes))
    }

    fn cuMemcpyPeerAsync(to: u64, _to_context: usize, from: u64, _from_context: usize, bytes: usize, stream: usize) {
        later(stream, on_device(to, from, bytes))
    }

    fn cuMemcpyPeer(to: u64, _to_context: usize, from: u64, _from_context: usize, bytes: usize) {
        now("cuMemcpyPeer", on_device(to, from, bytes))
    }

    fn cuMemsetD8_v2(to: u64, value: u8, count: usize) {
        now("cuMemsetD8", memset(to, [value], count))
    }

    fn cuMemsetD16_v2(to: u64, value: u16, count: usize) {
        now("cuMemsetD16", memset(to, value.to_le_bytes(), count))
    }

    fn cuMemsetD32_v2(to: u64, value: u32, count: usize) {
        now("cuMemsetD32", memset(to, value.to_le_bytes(), count))
    }

    fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: usize) {
        later(stream, memset(to, [value], count))
    }

    fn cuMemsetD16Async(to: u64, value: u16, count: usize, stream: usize) {
        later(stream, memset(to, value.to_le_bytes(), count))
    }

    fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: usize) {
        later(stream, memset(to, value.to_le_bytes(), count))
    }
}
