//! Streams and events.
//!
//! Work runs in the calling thread before the call returns. That is one of the orders that streams allow: nothing is
//! held back, so an event is always over when it is recorded. What a second stream does without waiting for the first
//! is not seen to be wrong.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::device::{Device, in_context};
use super::ffi::{Out, api};
use super::graph::{Capture, Node};
use super::handles::lock;
use super::status::{
    CAPTURED_EVENT, Error, INVALID_HANDLE, Outcome, STREAM_CAPTURE_ISOLATION,
    STREAM_CAPTURE_UNSUPPORTED, answer,
};

/// The legacy and the per-thread default stream have no handle of their own.
const LAST_DEFAULT: usize = 2;

/// A stream, as far as it differs from others: what it is captured into.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub capture: Mutex<Option<Arc<Capture>>>,
}

/// An event.
#[derive(Debug, Default)]
pub(super) struct Event {
    recorded: Mutex<Option<Record>>,
}

#[derive(Debug, Clone)]
enum Record {
    At(Instant),
    /// In a capture, on one of its streams.
    In(Arc<Capture>, usize),
}

/// The capture that a stream is in, if any.
pub(super) fn capture(device: &Device, stream: usize) -> Result<Option<Arc<Capture>>, Error> {
    if stream <= LAST_DEFAULT {
        return Ok(None);
    }
    Ok(lock(&device.streams.get(stream)?.capture).clone())
}

/// Runs `node` now, or keeps it for the graph if the stream is captured.
pub(super) fn submit(device: &'static Device, stream: usize, node: Node) -> Outcome {
    match capture(device, stream)? {
        Some(capture) => capture.push(stream, node),
        None => node.run(device),
    }
}

/// For calls that a captured stream does not allow: they spoil the capture.
pub(super) fn not_captured(device: &Device, stream: usize, call: &str) -> Outcome {
    match capture(device, stream)? {
        Some(capture) => {
            capture.spoil();
            Err(Error::new(
                STREAM_CAPTURE_UNSUPPORTED,
                format!("{call} on a stream that is captured"),
            ))
        }
        None => Ok(()),
    }
}

fn record(device: &Device, event: usize, stream: usize) -> Outcome {
    let event = device.events.get(event)?;
    let record = match capture(device, stream)? {
        Some(capture) => Record::In(capture, stream),
        None => Record::At(Instant::now()),
    };
    *lock(&event.recorded) = Some(record);
    Ok(())
}

/// Time of an event that is over.
fn time(device: &Device, event: usize) -> Result<Option<Instant>, Error> {
    match lock(&device.events.get(event)?.recorded).clone() {
        None => Ok(None),
        Some(Record::At(time)) => Ok(Some(time)),
        Some(Record::In(..)) => Err(Error::new(
            CAPTURED_EVENT,
            "the event was recorded in a capture",
        )),
    }
}

fn create(stream: Out<usize>) -> Outcome {
    stream.set(in_context()?.streams.add(Arc::default()))
}

fn elapsed(milliseconds: Out<f32>, start: usize, end: usize) -> Outcome {
    let device = in_context()?;
    let (Some(start), Some(end)) = (time(device, start)?, time(device, end)?) else {
        return Err(Error::new(INVALID_HANDLE, "an event was never recorded"));
    };
    let after = end.saturating_duration_since(start).as_secs_f32();
    let before = start.saturating_duration_since(end).as_secs_f32();
    milliseconds.set((after - before) * 1e3)
}

api! { table, answer;
    fn cuStreamCreate(stream: Out<usize>, _flags: u32) {
        create(stream)
    }

    fn cuStreamCreateWithPriority(stream: Out<usize>, _flags: u32, _priority: i32) {
        create(stream)
    }

    fn cuStreamDestroy_v2(stream: usize) {
        in_context()?.streams.remove(stream).map(|_| ())
    }

    fn cuStreamSynchronize(stream: usize) {
        not_captured(in_context()?, stream, "cuStreamSynchronize")
    }

    fn cuStreamQuery(stream: usize) {
        not_captured(in_context()?, stream, "cuStreamQuery")
    }

    fn cuStreamGetCtx(stream: usize, context: Out<usize>) {
        capture(in_context()?, stream)?;
        super::device::current_context(context)
    }

    fn cuStreamGetPriority(stream: usize, priority: Out<i32>) {
        capture(in_context()?, stream)?;
        priority.set(0)
    }

    fn cuStreamWaitEvent(stream: usize, event: usize, _flags: u32) {
        let device = in_context()?;
        let recorded = lock(&device.events.get(event)?.recorded).clone();
        match (capture(device, stream)?, recorded) {
            // The stream joins the capture that the event was recorded in.
            (None, Some(Record::In(capture, _))) if capture.is_open() => capture.join(device, stream),
            (Some(mine), Some(Record::In(theirs, recorded_on))) if Arc::ptr_eq(&mine, &theirs) => {
                mine.returned(recorded_on);
                Ok(())
            }
            (Some(_), Some(Record::In(..))) => {
                Err(Error::new(STREAM_CAPTURE_ISOLATION, "the event belongs to another capture"))
            }
            (Some(mine), Some(Record::At(_))) => {
                mine.spoil();
                let text = "a captured stream waits for an event that was recorded outside of its capture";
                Err(Error::new(STREAM_CAPTURE_ISOLATION, text))
            }
            _ => Ok(()),
        }
    }

    fn cuLaunchHostFunc(stream: usize, function: Option<HostFunction>, data: usize) {
        let device = in_context()?;
        let function = function.ok_or_else(|| Error::new(INVALID_HANDLE, "the host function is null"))?;
        submit(device, stream, Node::new(move |_| {
            function(data);
            Ok(())
        }))
    }

    fn cuEventCreate(event: Out<usize>, _flags: u32) {
        event.set(in_context()?.events.add(Arc::default()))
    }

    fn cuEventDestroy_v2(event: usize) {
        in_context()?.events.remove(event).map(|_| ())
    }

    fn cuEventRecord(event: usize, stream: usize) {
        record(in_context()?, event, stream)
    }

    fn cuEventRecordWithFlags(event: usize, stream: usize, _flags: u32) {
        record(in_context()?, event, stream)
    }

    fn cuEventQuery(event: usize) {
        time(in_context()?, event).map(|_| ())
    }

    fn cuEventSynchronize(event: usize) {
        time(in_context()?, event).map(|_| ())
    }

    fn cuEventElapsedTime(milliseconds: Out<f32>, start: usize, end: usize) {
        elapsed(milliseconds, start, end)
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: usize, end: usize) {
        elapsed(milliseconds, start, end)
    }
}

/// `CUhostFn`.
type HostFunction = extern "C" fn(usize);
