//! Launches.

use std::sync::Arc;

use super::card::{BLOCK_LIMIT, GRID_LIMIT};
use super::device::{Device, in_context};
use super::ffi::{Bytes, In, api};
use super::graph::Node;
use super::module::Function;
use super::program::Launch;
use super::settings::{LOG, settings};
use super::status::{Error, INVALID_VALUE, LAUNCH_OUT_OF_RESOURCES, Outcome, answer};
use super::stream::submit;

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

fn within(what: &str, size: [u32; 3], limit: [u32; 3]) -> Outcome {
    match size
        .iter()
        .zip(limit)
        .all(|(size, limit)| (1..=limit).contains(size))
    {
        true => Ok(()),
        false => Err(Error::new(
            INVALID_VALUE,
            format!("{what} of {size:?}, allowed are 1 to {limit:?}"),
        )),
    }
}

/// Refuses what the card would refuse.
fn check(function: &Function, grid: [u32; 3], block: [u32; 3], dynamic: u32) -> Outcome {
    let name = &function.entry.name;
    within(&format!("{name}: a grid"), grid, GRID_LIMIT)?;
    within(&format!("{name}: a block"), block, BLOCK_LIMIT)?;
    let threads: u32 = block.iter().product();
    if threads > function.threads() {
        let text = format!(
            "{name}: blocks of {threads} threads, the kernel allows {}",
            function.threads()
        );
        return Err(Error::new(
            if threads > 1024 {
                INVALID_VALUE
            } else {
                LAUNCH_OUT_OF_RESOURCES
            },
            text,
        ));
    }
    let allowed = function
        .dynamic_shared
        .load(std::sync::atomic::Ordering::SeqCst);
    if dynamic > allowed {
        let fixed = function.entry.static_shared;
        let text = format!(
            "{name}: {dynamic} bytes of dynamic and {fixed} of static shared memory, {allowed} dynamic \
            are allowed: cuFuncSetAttribute(MAX_DYNAMIC_SHARED_SIZE_BYTES)"
        );
        return Err(Error::new(INVALID_VALUE, text));
    }
    Ok(())
}

/// The parameters as one buffer, laid out as the entry wants them.
fn parameters(function: &Function, each: In<Bytes>, extra: In<usize>) -> Result<Vec<u8>, Error> {
    let layout = &function.entry.parameters;
    let bytes = layout.last().map_or(0, |(offset, bytes)| offset + bytes);
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
    for (index, (offset, bytes)) in layout.iter().enumerate() {
        buffer[*offset..*offset + *bytes].copy_from_slice(each.at(index)?.read(*bytes)?);
    }
    Ok(buffer)
}

struct Shape {
    grid: [u32; 3],
    block: [u32; 3],
    dynamic: u32,
    stream: usize,
}

fn launch(function: usize, shape: &Shape, each: In<Bytes>, extra: In<usize>) -> Outcome {
    let device = in_context()?;
    let function = device.functions.get(function)?;
    let Shape {
        grid,
        block,
        dynamic,
        stream,
    } = *shape;
    check(&function, grid, block, dynamic)?;
    let parameters = parameters(&function, each, extra)?;
    submit(
        device,
        stream,
        Node::new(move |device| run(device, &function, (grid, block, dynamic), &parameters)),
    )
}

fn run(
    device: &Device,
    function: &Arc<Function>,
    shape: ([u32; 3], [u32; 3], u32),
    parameters: &[u8],
) -> Outcome {
    let settings = settings();
    let (grid, block, dynamic_shared) = shape;
    let launch = Launch {
        grid,
        block,
        dynamic_shared,
        parameters,
        settings: &settings,
    };
    let start = std::time::Instant::now();
    let outcome = function
        .module
        .program
        .run(&function.entry, &launch, &device.memory);
    if *LOG {
        let (name, seconds) = (&function.entry.name, start.elapsed().as_secs_f64());
        eprintln!(
            "ptx-emulator: {name} {grid:?} x {block:?}, {dynamic_shared} bytes: {seconds:.6} s"
        );
    }
    Ok(outcome?)
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
        launch(function, &Shape { grid, block, dynamic, stream }, each, extra)
    }

    fn cuLaunchKernelEx(config: In<Config>, function: usize, each: In<Bytes>, extra: In<usize>) {
        let config = config.get()?;
        for index in 0..config.count as usize {
            check_attribute(&config.attributes.at(index)?)?;
        }
        let Config { grid, block, shared: dynamic, stream, .. } = config;
        launch(function, &Shape { grid, block, dynamic, stream }, each, extra)
    }
}
