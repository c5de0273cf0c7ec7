//! Capture of streams into graphs, and their replay.
//!
//! A graph is the list of what was captured, in the order of the calls, which is one of the orders that its edges allow.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};

use super::device::{Device, in_context};
use super::ffi::{Out, api};
use super::handles::lock;
use super::status::{
    Error, INVALID_VALUE, Outcome, STREAM_CAPTURE_INVALIDATED, STREAM_CAPTURE_UNJOINED,
    STREAM_CAPTURE_UNMATCHED, STREAM_CAPTURE_UNSUPPORTED, answer,
};
use super::stream::{capture, submit};

/// `CU_STREAM_CAPTURE_MODE_RELAXED`: nothing outside of the captured streams is forbidden.
const RELAXED: u32 = 2;
/// Flags of `cuGraphInstantiateWithFlags` that do not matter here: freeing before a launch, upload, priorities.
const KNOWN_FLAGS: u64 = 1 | 2 | 8;

type Work = dyn Fn(&'static Device) -> Outcome + Send + Sync;

/// One piece of work of a stream.
#[derive(Clone)]
pub(super) struct Node(Arc<Work>);

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Node")
    }
}

impl Node {
    pub fn new(work: impl Fn(&'static Device) -> Outcome + Send + Sync + 'static) -> Self {
        Self(Arc::new(work))
    }

    pub fn run(&self, device: &'static Device) -> Outcome {
        (self.0)(device)
    }
}

/// A capture that goes on, or is over.
#[derive(Debug)]
pub(super) struct Capture {
    /// The thread that a call outside of the capture is forbidden to; none in relaxed mode.
    thread: Option<ThreadId>,
    origin: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    nodes: Vec<Node>,
    /// Streams that joined by waiting for an event, and whether others have waited for all that they did since.
    joined: Vec<(usize, bool)>,
    /// Memory that was allocated in it, which the graph owns.
    allocations: Vec<u64>,
    spoilt: bool,
    over: bool,
}

/// Memory that a graph allocates, given back with the last of the graph and its executables.
#[derive(Debug, Default)]
struct Owned(Vec<u64>);

impl Drop for Owned {
    fn drop(&mut self) {
        for address in &self.0 {
            if let Err(cause) = super::device::device().memory.free(*address) {
                eprintln!("ptx-emulator: a graph frees its memory: {cause}");
            }
        }
    }
}

/// `CUgraph`.
#[derive(Debug, Clone)]
pub(super) struct Graph {
    nodes: Arc<[Node]>,
    _owned: Arc<Owned>,
}

/// `CUgraphExec`.
pub(super) type Executable = Graph;

impl Capture {
    pub fn push(&self, stream: usize, node: Node) -> Outcome {
        let mut state = lock(&self.state);
        state
            .joined
            .iter_mut()
            .filter(|joined| joined.0 == stream)
            .for_each(|joined| joined.1 = false);
        if state.spoilt {
            return Err(Error::new(
                STREAM_CAPTURE_INVALIDATED,
                "the capture failed before",
            ));
        }
        state.nodes.push(node);
        Ok(())
    }

    pub fn spoil(&self) {
        lock(&self.state).spoilt = true;
    }

    pub fn is_open(&self) -> bool {
        !lock(&self.state).over
    }

    /// The stream is captured from now on.
    pub fn join(self: &Arc<Self>, device: &Device, stream: usize) -> Outcome {
        let joined = device.streams.get(stream)?;
        *lock(&joined.capture) = Some(self.clone());
        lock(&self.state).joined.push((stream, false));
        Ok(())
    }

    /// Another stream of the capture waits for what `stream` did so far.
    pub fn returned(&self, stream: usize) {
        lock(&self.state)
            .joined
            .iter_mut()
            .filter(|joined| joined.0 == stream)
            .for_each(|joined| joined.1 = true);
    }

    /// Memory allocated by the captured stream: its address stays while the graph lives.
    pub fn own(&self, address: u64) {
        lock(&self.state).allocations.push(address);
    }

    pub fn owns(&self, address: u64) -> bool {
        lock(&self.state).allocations.contains(&address)
    }
}

/// For calls that are unsafe while this thread captures a stream (in any mode but relaxed).
pub(super) fn allowed_now(device: &Device, call: &str) -> Outcome {
    let me = thread::current().id();
    let forbids = |stream: &super::stream::Stream| {
        lock(&stream.capture)
            .as_ref()
            .is_some_and(|capture| capture.thread == Some(me) && capture.is_open())
    };
    match device.streams.any(forbids) {
        true => Err(Error::new(
            STREAM_CAPTURE_UNSUPPORTED,
            format!("{call} while this thread captures a stream"),
        )),
        false => Ok(()),
    }
}

fn end(device: &'static Device, stream: usize) -> Result<Graph, Error> {
    let unmatched = || Error::new(STREAM_CAPTURE_UNMATCHED, "no capture began on this stream");
    let ending = capture(device, stream)?
        .filter(|capture| capture.origin == stream)
        .ok_or_else(unmatched)?;
    let (nodes, owned, joined, spoilt) = {
        let mut state = lock(&ending.state);
        state.over = true;
        let owned = Owned(std::mem::take(&mut state.allocations));
        (
            std::mem::take(&mut state.nodes),
            owned,
            std::mem::take(&mut state.joined),
            state.spoilt,
        )
    };
    for (stream, _) in joined.iter().chain([&(stream, true)]) {
        if let Ok(stream) = device.streams.get(*stream) {
            *lock(&stream.capture) = None;
        }
    }
    let away = joined.iter().any(|(_, returned)| !returned);
    match (spoilt, away) {
        (true, _) => Err(Error::new(
            STREAM_CAPTURE_INVALIDATED,
            "the capture failed before",
        )),
        (false, true) => {
            let text = "a stream joined the capture, and no other waits for what it did last";
            Err(Error::new(STREAM_CAPTURE_UNJOINED, text))
        }
        (false, false) => Ok(Graph {
            nodes: nodes.into(),
            _owned: Arc::new(owned),
        }),
    }
}

fn instantiate(executable: Out<usize>, graph: usize, flags: u64) -> Outcome {
    if flags & !KNOWN_FLAGS != 0 {
        return Err(Error::new(
            INVALID_VALUE,
            format!("flags {flags:#x} of a graph: launches by the device are not done"),
        ));
    }
    let device = in_context()?;
    let graph = device.graphs.get(graph)?;
    executable.set(device.executables.add(Arc::new((*graph).clone())))
}

api! { table, answer;
    fn cuStreamBeginCapture_v2(stream: usize, mode: u32) {
        let device = in_context()?;
        if capture(device, stream)?.is_some() {
            return Err(Error::new(STREAM_CAPTURE_UNMATCHED, "the stream is captured already"));
        }
        let default = |_| Error::new(STREAM_CAPTURE_UNSUPPORTED, "the default stream cannot be captured");
        let begun = device.streams.get(stream).map_err(default)?;
        let thread = (mode != RELAXED).then(|| thread::current().id());
        *lock(&begun.capture) = Some(Arc::new(Capture { thread, origin: stream, state: Mutex::default() }));
        Ok(())
    }

    fn cuStreamEndCapture(stream: usize, graph: Out<usize>) {
        let device = in_context()?;
        match end(device, stream) {
            Ok(captured) => graph.set(device.graphs.add(Arc::new(captured))),
            Err(error) => {
                graph.set(0)?;
                Err(error)
            }
        }
    }

    fn cuStreamIsCapturing(stream: usize, status: Out<u32>) {
        let capture = capture(in_context()?, stream)?;
        status.set(capture.map_or(0, |capture| 1 + u32::from(lock(&capture.state).spoilt)))
    }

    fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) {
        mode.set(RELAXED)?;
        Err(Error::unsupported("cuThreadExchangeStreamCaptureMode"))
    }

    fn cuGraphInstantiateWithFlags(executable: Out<usize>, graph: usize, flags: u64) {
        instantiate(executable, graph, flags)
    }

    fn cuGraphGetNodes(graph: usize, nodes: Out<usize>, count: Out<usize>) {
        let _ = nodes;
        count.set(in_context()?.graphs.get(graph)?.nodes.len())
    }

    fn cuGraphUpload(executable: usize, _stream: usize) {
        in_context()?.executables.get(executable).map(|_| ())
    }

    fn cuGraphLaunch(executable: usize, stream: usize) {
        let device = in_context()?;
        let graph = device.executables.get(executable)?;
        let kept = (*graph).clone();
        submit(device, stream, Node::new(move |device| kept.nodes.iter().try_for_each(|node| node.run(device))))
    }

    fn cuGraphExecDestroy(executable: usize) {
        in_context()?.executables.remove(executable).map(|_| ())
    }

    fn cuGraphDestroy(graph: usize) {
        in_context()?.graphs.remove(graph).map(|_| ())
    }
}
