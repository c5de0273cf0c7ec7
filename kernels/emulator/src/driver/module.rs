//! Modules and functions: `cuModule*`, `cuFunc*`, `cuOccupancy*`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use super::device::{Device, in_context, initialised};
use super::fatbin;
use super::ffi::{Out, Text, api};
use super::settings::settings;
use super::status::{
    Error, FILE_NOT_FOUND, INVALID_IMAGE, INVALID_PTX, INVALID_VALUE, NO_BINARY_FOR_GPU, NOT_FOUND,
    NOT_SUPPORTED, Outcome, answer,
};
use crate::card::RESERVED_SHARED;
use crate::ptx::Module;
use crate::vm::{Entry, Needs, Program};

/// A loaded module.
#[derive(Debug)]
pub(super) struct Loaded {
    program: Program,
    /// `.version`.
    version: (u32, u32),
}

impl Loaded {
    /// Whether the memory at `address` is a variable of the module.
    pub fn owns(&self, address: u64) -> bool {
        self.program.addresses().contains(&address)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        for address in self.program.addresses() {
            if let Err(cause) = super::device::device().memory.free(*address) {
                eprintln!("ptx-emulator: a module frees its variables: {cause}");
            }
        }
    }
}

/// An entry of a module, with what the host has set for it.
#[derive(Debug)]
pub(super) struct Function {
    /// The module's handle: a function goes with its module.
    module: usize,
    version: (u32, u32),
    pub entry: Arc<Entry>,
    pub needs: Needs,
    /// Most bytes of dynamic shared memory that a launch may ask for.
    pub dynamic_shared: AtomicU32,
}

impl Function {
    /// Most threads of a block.
    fn threads(&self) -> u32 {
        let declared = self.entry.reqntid.or(self.entry.maxntid);
        let most = settings().card.threads_per_block;
        declared.map_or(most, |sizes| sizes.iter().product::<u32>().min(most))
    }

    fn shared(&self, dynamic: usize) -> u32 {
        u32::try_from(self.needs.static_shared as usize + dynamic).unwrap_or(u32::MAX)
    }
}

/// Loads PTX; the module's handle.
pub(super) fn load_text(device: &Device, text: &str) -> Result<usize, Error> {
    let tree = Module::parse(text).map_err(|error| Error::new(INVALID_PTX, error.to_string()))?;
    let accepted = settings().card.accepts(&tree.target);
    accepted.map_err(|text| Error::new(NO_BINARY_FOR_GPU, text))?;
    let loaded = Loaded {
        program: Program::new(&tree)?,
        version: tree.version,
    };
    loaded.program.load(&device.memory)?;
    Ok(device.modules.add(Arc::new(loaded)))
}

fn load(module: Out<usize>, text: &str) -> Outcome {
    module.set(load_text(in_context()?, text)?)
}

fn load_image(module: Out<usize>, image: Text) -> Outcome {
    match image.magic()? {
        [0x7f, b'E', b'L', b'F'] => Err(Error::unsupported(
            "a cubin (machine code) as module; load PTX",
        )),
        fatbin::MAGIC => load(module, &fatbin::ptx_at(image.address())?),
        _ => load(
            module,
            &image
                .get()
                .map_err(|error| Error::new(INVALID_IMAGE, error.text))?,
        ),
    }
}

fn attribute(function: &Function, attribute: u32) -> Result<i32, Error> {
    let (major, minor) = settings().card.capability;
    let value = match attribute {
        0 => function.threads(),
        1 => function.shared(0),
        2 => 0,
        3 => function.needs.local,
        5 => function.version.0 * 10 + function.version.1,
        6 => major * 10 + minor,
        7 => 0,
        8 => function.dynamic_shared.load(SeqCst),
        // Carve-out: no preference.
        9 => return Ok(-1),
        4 => {
            return Err(Error::unsupported(
                "the number of registers, which ptxas decides",
            ));
        }
        _ => {
            return Err(Error::unsupported(&format!(
                "function attribute {attribute}"
            )));
        }
    };
    Ok(i32::try_from(value).unwrap_or(i32::MAX))
}

/// `cuFuncSetAttribute`.
pub(super) fn set_attribute(function: &Function, attribute: u32, value: i32) -> Outcome {
    let card = settings().card;
    match (attribute, u32::try_from(value)) {
        (8, Ok(bytes)) if function.shared(bytes as usize) <= card.shared_per_block_optin => {
            function.dynamic_shared.store(bytes, SeqCst);
            Ok(())
        }
        (8, _) => {
            let (most, fixed) = (card.shared_per_block_optin, function.needs.static_shared);
            let text = format!(
                "{value} bytes of dynamic and {fixed} of static shared memory, the card has {most}"
            );
            Err(Error::new(INVALID_VALUE, text))
        }
        // A preference for the carve-out, cluster hints.
        (9, _) => Ok(()),
        _ => Err(Error::unsupported(&format!(
            "setting function attribute {attribute}"
        ))),
    }
}

/// Blocks of the function that a multiprocessor holds.
pub(super) fn blocks(function: usize, threads: i32, dynamic: usize) -> Result<i32, Error> {
    let function = initialised()?.functions.get(function)?;
    let threads =
        u32::try_from(threads).map_err(|_| Error::new(INVALID_VALUE, "a negative block size"))?;
    Ok(settings().card.occupancy(threads, function.shared(dynamic)) as i32)
}

/// `CUoccupancyB2DSize`: dynamic shared memory of a block of so many threads.
type SharedOfBlock = extern "C" fn(i32) -> usize;

/// The block size with most threads on a multiprocessor (the largest of those), and a grid that fills the card.
fn best_block(
    function: usize,
    shared: impl Fn(u32) -> usize,
    limit: i32,
) -> Result<(i32, i32), Error> {
    let function = initialised()?.functions.get(function)?;
    let card = settings().card;
    let limit = u32::try_from(limit)
        .ok()
        .filter(|limit| *limit > 0)
        .unwrap_or(card.threads_per_block);
    let most = function.threads().min(limit);
    let best = (1..=most.div_ceil(32))
        .map(|warps| (warps * 32).min(most))
        .map(|threads| {
            (
                card.occupancy(threads, function.shared(shared(threads))),
                threads,
            )
        })
        .max_by_key(|(blocks, threads)| (blocks * threads, *threads))
        .unwrap_or((0, 0));
    Ok(((best.0 * card.multiprocessors) as i32, best.1 as i32))
}

fn potential(
    (grid, block): (Out<i32>, Out<i32>),
    function: usize,
    (size, dynamic): (Option<SharedOfBlock>, usize),
    limit: i32,
) -> Outcome {
    let shared = |threads: u32| size.map_or(dynamic, |size| size(threads as i32));
    let (best_grid, best) = best_block(function, shared, limit)?;
    grid.set(best_grid)?;
    block.set(best)
}

/// An entry of a module; the function's handle.
pub(super) fn function(device: &Device, module: usize, name: &str) -> Result<usize, Error> {
    let loaded = device.modules.get(module)?;
    let unknown = || Error::new(NOT_FOUND, format!("the module has no entry {name}"));
    let entry = loaded.program.entry(name).ok_or_else(unknown)?.clone();
    // Decodes it: what the emulator does not know is told here, not at the launch.
    let needs = entry
        .needs()
        .map_err(|fault| Error::new(NOT_SUPPORTED, fault.to_string()))?;
    let room = settings()
        .card
        .shared_per_block
        .saturating_sub(needs.static_shared);
    let dynamic_shared = AtomicU32::new(room);
    let function = Function {
        module,
        version: loaded.version,
        entry,
        needs,
        dynamic_shared,
    };
    Ok(device.functions.add(Arc::new(function)))
}

api! { table, answer;
    fn cuModuleLoadData(module: Out<usize>, image: Text) {
        load_image(module, image)
    }

    fn cuModuleLoadDataEx(module: Out<usize>, image: Text, _count: u32, _options: usize, _values: usize) {
        load_image(module, image)
    }

    fn cuModuleLoad(module: Out<usize>, path: Text) {
        let path = path.get()?;
        let image = std::fs::read(&path).map_err(|error| Error::new(FILE_NOT_FOUND, format!("{path}: {error}")))?;
        let text = String::from_utf8(image).map_err(|_| Error::unsupported("a module that is no PTX text"))?;
        load(module, &text)
    }

    fn cuModuleUnload(module: usize) {
        let device = initialised()?;
        device.functions.retain(|function| function.module != module);
        device.modules.remove(module).map(|_| ())
    }

    fn cuModuleGetFunction(handle: Out<usize>, module: usize, name: Text) {
        handle.set(function(initialised()?, module, &name.get()?)?)
    }

    fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, module: usize, name: Text) {
        let (module, name) = (initialised()?.modules.get(module)?, name.get()?);
        let unknown = || Error::new(NOT_FOUND, format!("the module has no variable {name}"));
        let (start, len) = module.program.variable(&name).ok_or_else(unknown)?;
        address.set_if_wanted(start);
        bytes.set_if_wanted(len);
        Ok(())
    }

    fn cuModuleGetLoadingMode(mode: Out<u32>) {
        mode.set(1)
    }

    fn cuFuncGetAttribute(value: Out<i32>, number: u32, function: usize) {
        let function = initialised()?.functions.get(function)?;
        value.set(attribute(&function, number)?)
    }

    fn cuFuncSetAttribute(function: usize, number: u32, value: i32) {
        set_attribute(&*initialised()?.functions.get(function)?, number, value)
    }

    fn cuFuncSetCacheConfig(function: usize, _preference: u32) {
        initialised()?.functions.get(function).map(|_| ())
    }

    fn cuFuncLoad(function: usize) {
        initialised()?.functions.get(function).map(|_| ())
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(count: Out<i32>, function: usize, threads: i32, dynamic: usize) {
        count.set(blocks(function, threads, dynamic)?)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        count: Out<i32>,
        function: usize,
        threads: i32,
        dynamic: usize,
        _flags: u32,
    ) {
        count.set(blocks(function, threads, dynamic)?)
    }

    fn cuOccupancyMaxPotentialBlockSize(
        grid: Out<i32>,
        block: Out<i32>,
        function: usize,
        size: Option<SharedOfBlock>,
        dynamic: usize,
        limit: i32,
    ) {
        potential((grid, block), function, (size, dynamic), limit)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: Out<i32>,
        block: Out<i32>,
        function: usize,
        size: Option<SharedOfBlock>,
        dynamic: usize,
        limit: i32,
        _flags: u32,
    ) {
        potential((grid, block), function, (size, dynamic), limit)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(bytes: Out<usize>, function: usize, blocks: i32, _threads: i32) {
        let function = initialised()?.functions.get(function)?;
        let card = settings().card;
        let blocks = u32::try_from(blocks).ok().filter(|blocks| *blocks > 0);
        let blocks = blocks.ok_or_else(|| Error::new(INVALID_VALUE, "a number of blocks below 1"))?;
        let each = card.shared_per_multiprocessor / blocks;
        let taken = function.shared(0) + RESERVED_SHARED;
        bytes.set(each.saturating_sub(taken).min(card.shared_per_block_optin.saturating_sub(function.shared(0))) as usize)
    }
}
