//! Launches.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use super::device::{Device, in_context};
use super::ffi::{Bytes, In, api};
use super::graph::Node;
use super::module::Function;
use super::settings::{LOG, settings};
use super::status::{Error, INVALID_VALUE, Outcome, answer};
use super::stream::submit;
use crate::vm::{self, Launch};

/// `CU_LAUNCH_PARAM_BUFFER_POINTER` and `CU_LAUNCH_PARAM_BUFFER_SIZE`.
const BUFFER_POINTER: usize = 1;
const BUFFER_SIZE: usize = 2;

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Config {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: usize,
    attributes: In<Attribute>,
    count: u32,
}

/// `CUlaunchAttribute`.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
pub struct Attribute {
    id: u32,
    padding: u32,
    value: [u32; 16],
}

/// Checks an attribute of a launch: those that only hint at scheduling are heeded by doing nothing.
fn check_attribute(attribute: &Attribute) -> Outcome {
    match (attribute.id, attribute.value) {
        // Ignore, access policy, synchronisation policy, scheduling policy, programmatic serialisation (the launch
        // comes after all of the one before, which is allowed), priority, memory domains, carve-out.
        (0 | 1 | 3 | 5 | 6 | 8 | 9 | 10 | 14, _) => Ok(()),
        (2, [0, ..]) | (4, [0 | 1, 0 | 1, 0 | 1, ..]) => Ok(()),
        (2, _) => Err(Error::unsupported("a cooperative launch")),
        (4, [x, y, z, ..]) => Err(Error::unsupported(&format!(
            "a cluster of {x} x {y} x {z} blocks"
        ))),
        (id, _) => Err(Error::unsupported(&format!("launch attribute {id}"))),
    }
}

/// Refuses more dynamic shared memory than the host has asked for. Other limits are checked where the kernel runs.
fn check(function: &Function, dynamic: u32) -> Outcome {
    let allowed = function.dynamic_shared.load(SeqCst);
    if dynamic <= allowed {
        return Ok(());
    }
    let (name, fixed) = (&function.entry.name, function.needs.static_shared);
    let text = format!(
        "{name}: {dynamic} bytes of dynamic shared memory beside {fixed} static ones, {allowed} are allowed; \
         cuFuncSetAttribute(MAX_DYNAMIC_SHARED_SIZE_BYTES) allows more"
    );
    Err(Error::new(INVALID_VALUE, text))
}

/// The parameters as one buffer, laid out as the entry wants them.
fn parameters(function: &Function, each: In<Bytes>, extra: In<usize>) -> Result<Vec<u8>, Error> {
    let (layout, bytes) = (&function.entry.parameters, function.entry.parameter_bytes);
    let mut buffer = vec![0; bytes];
    if bytes == 0 {
        return Ok(buffer);
    }
    if !extra.is_null() {
        let (mut pointer, mut size) = (0, 0);
        for pair in (0..).step_by(2) {
            match extra.at(pair)? {
                0 => break,
                BUFFER_POINTER => pointer = extra.at(pair + 1)?,
                BUFFER_SIZE => size = In::<usize>::from_address(extra.at(pair + 1)?).get()?,
                other => {
                    return Err(Error::unsupported(&format!(
                        "extra launch argument {other}"
                    )));
                }
            }
        }
        if size < bytes {
            return Err(Error::new(
                INVALID_VALUE,
                format!("{size} bytes of parameters, {bytes} are wanted"),
            ));
        }
        buffer.copy_from_slice(Bytes::at(pointer as u64).read(bytes)?);
        return Ok(buffer);
    }
    for (index, parameter) in layout.iter().enumerate() {
        let (start, end) = (parameter.offset, parameter.offset + parameter.size);
        buffer[start..end].copy_from_slice(each.at(index)?.read(parameter.size)?);
    }
    Ok(buffer)
}

/// Launches `function` now, or in the graph if the stream is captured.
pub(super) fn submit_launch(
    function: usize,
    launch: Launch,
    stream: usize,
    (each, extra): (In<Bytes>, In<usize>),
) -> Outcome {
    let device = in_context()?;
    let function = device.functions.get(function)?;
    check(&function, launch.dynamic_shared)?;
    let launch = Launch {
        params: parameters(&function, each, extra)?,
        ..launch
    };
    submit(
        device,
        stream,
        Node::new(move |device| run(device, &function, &launch)),
    )
}

/// Runs it under the settings of the calling thread.
fn run(device: &Device, function: &Function, launch: &Launch) -> Outcome {
    let settings = settings();
    let blocks = settings.block.map(|block| block..block.saturating_add(1));
    let launch = &Launch {
        blocks,
        ..launch.clone()
    };
    let how = vm::Settings {
        seed: settings.seed,
        checks: settings.checks,
        ..vm::Settings::default()
    };
    let on = vm::Device {
        memory: &device.memory,
        settings: &how,
        card: settings.card,
    };
    let start = Instant::now();
    let outcome = vm::launch(&function.entry, launch, &on);
    if *LOG {
        let (name, seconds) = (&function.entry.name, start.elapsed().as_secs_f64());
        let Launch {
            grid,
            block,
            dynamic_shared,
            ..
        } = launch;
        eprintln!(
            "ptx-emulator: {name} {grid:?} x {block:?}, {dynamic_shared} bytes: {seconds:.6} s"
        );
    }
    outcome.map(|_| ()).map_err(Error::from)
}

/// A launch of that shape, without parameters yet.
pub(super) fn shape(grid: [u32; 3], block: [u32; 3], dynamic_shared: u32) -> Launch {
    Launch {
        grid,
        block,
        dynamic_shared,
        ..Launch::default()
    }
}

api! { table, answer;
    fn cuLaunchKernel(
        function: usize,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        dynamic: u32,
        stream: usize,
        each: In<Bytes>,
        extra: In<usize>,
    ) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        submit_launch(function, shape(grid, block, dynamic), stream, (each, extra))
    }

    fn cuLaunchKernelEx(config: In<Config>, function: usize, each: In<Bytes>, extra: In<usize>) {
        let config = config.get()?;
        for index in 0..config.count as usize {
            check_attribute(&config.attributes.at(index)?)?;
        }
        let Config { grid, block, shared: dynamic, stream, .. } = config;
        submit_launch(function, shape(grid, block, dynamic), stream, (each, extra))
    }
}
