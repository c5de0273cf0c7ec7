//! `libcudart`, as far as code that nvcc compiled calls it: `<<<...>>>` and what stands around it.
//!
//! Such code registers its fat binaries before `main`. They must hold PTX (`code=compute_...`); a module is loaded when
//! its first kernel is launched. `cudaError_t` has the numbers of `CUresult`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::c_char;
use std::sync::{LazyLock, Mutex};

use super::device::{Device, error_name, runtime_context};
use super::fatbin::{self, Wrapper};
use super::ffi::{Bytes, In, Out, Text, api};
use super::handles::lock;
use super::launch::{shape, submit_launch};
use super::memory::{allocate, memset};
use super::module::{blocks, function, load_text, set_attribute};
use super::settings::settings;
use super::status::{self, Error, INVALID_VALUE, Outcome};
use super::stream::{not_captured, submit};

/// `cudaErrorInvalidDeviceFunction`.
const INVALID_FUNCTION: u32 = 98;

/// `dim3`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Dim3 {
    x: u32,
    y: u32,
    z: u32,
}

impl Dim3 {
    fn sizes(self) -> [u32; 3] {
        [self.x, self.y, self.z]
    }
}

/// What was registered. A handle of a fat binary is its index + 1.
#[derive(Debug, Default)]
struct Registry {
    binaries: Vec<Wrapper>,
    modules: HashMap<usize, usize>,
    /// Binary and name of each kernel, by the address of its stub on the host.
    kernels: HashMap<usize, (usize, String)>,
    functions: HashMap<usize, usize>,
}

static REGISTRY: LazyLock<Mutex<Registry>> = LazyLock::new(Mutex::default);

thread_local! {
    static LAST_ERROR: Cell<u32> = const { Cell::new(0) };
    /// What `<<<...>>>` says, until the stub takes it.
    static CONFIGURATIONS: RefCell<Vec<(Dim3, Dim3, usize, usize)>> = const { RefCell::new(Vec::new()) };
}

fn answer(call: &str, body: impl FnOnce() -> Outcome) -> u32 {
    let status = status::answer(call, body);
    if status != 0 {
        LAST_ERROR.set(status);
    }
    status
}

/// The driver's function for a stub of the host.
fn resolve(device: &'static Device, stub: usize) -> Result<usize, Error> {
    let mut registry = lock(&REGISTRY);
    if let Some(function) = registry.functions.get(&stub) {
        return Ok(*function);
    }
    let unknown = || {
        Error::new(
            INVALID_FUNCTION,
            format!("{stub:#x} is no registered kernel"),
        )
    };
    let (binary, name) = registry.kernels.get(&stub).cloned().ok_or_else(unknown)?;
    let module = match registry.modules.get(&binary) {
        Some(module) => *module,
        None => {
            let wrapper = registry
                .binaries
                .get(binary.wrapping_sub(1))
                .copied()
                .ok_or_else(unknown)?;
            let module = load_text(device, &fatbin::ptx(wrapper)?)?;
            registry.modules.insert(binary, module);
            module
        }
    };
    let found = function(device, module, &name)?;
    registry.functions.insert(stub, found);
    Ok(found)
}

fn launch(
    stub: usize,
    sizes: (Dim3, Dim3),
    shared: usize,
    (stream, each): (usize, In<Bytes>),
) -> Outcome {
    let function = resolve(runtime_context()?, stub)?;
    let shared =
        u32::try_from(shared).map_err(|_| Error::new(INVALID_VALUE, "too much shared memory"))?;
    submit_launch(
        function,
        shape(sizes.0.sizes(), sizes.1.sizes(), shared),
        stream,
        (each, In::from_address(0)),
    )
}

fn malloc(address: Out<u64>, bytes: usize) -> Outcome {
    let device = runtime_context()?;
    address.set(if bytes == 0 {
        0
    } else {
        allocate(device, bytes)?
    })
}

fn free(address: u64) -> Outcome {
    let device = runtime_context()?;
    if address == 0 {
        Ok(())
    } else {
        Ok(device.memory.free(address)?)
    }
}

fn fill(address: u64, value: i32, count: usize, stream: usize) -> Outcome {
    submit(
        runtime_context()?,
        stream,
        memset(address, [value as u8], count),
    )
}

fn error_text(status: u32) -> *const c_char {
    error_name(status).unwrap_or(c"unrecognized error code".as_ptr())
}

/// Keeps a fat binary; its handle.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn __cudaRegisterFatBinary(wrapper: In<Wrapper>) -> usize {
    let mut registry = lock(&REGISTRY);
    if let Ok(wrapper) = wrapper.get() {
        registry.binaries.push(wrapper);
    }
    registry.binaries.len()
}

/// Name of an error.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn cudaGetErrorName(status: u32) -> *const c_char {
    error_text(status)
}

/// Name of an error.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn cudaGetErrorString(status: u32) -> *const c_char {
    error_text(status)
}

/// The last error of this thread, which is forgotten.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn cudaGetLastError() -> u32 {
    LAST_ERROR.replace(0)
}

/// The last error of this thread.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn cudaPeekAtLastError() -> u32 {
    LAST_ERROR.get()
}

api! { _table, answer;
    fn __cudaRegisterFatBinaryEnd(_binary: usize) {
        Ok(())
    }

    fn __cudaUnregisterFatBinary(_binary: usize) {
        Ok(())
    }

    fn __cudaRegisterFunction(
        binary: usize, stub: usize, _device_stub: usize, name: Text, _threads: i32, _tid: usize, _bid: usize,
        _block: usize, _grid: usize, _warp: usize,
    ) {
        lock(&REGISTRY).kernels.insert(stub, (binary, name.get()?));
        Ok(())
    }

    // Variables are the module's; symbols of the host are not looked up.
    fn __cudaRegisterVar() {
        Ok(())
    }

    fn __cudaPushCallConfiguration(grid: Dim3, block: Dim3, shared: usize, stream: usize) {
        CONFIGURATIONS.with_borrow_mut(|stack| stack.push((grid, block, shared, stream)));
        Ok(())
    }

    fn __cudaPopCallConfiguration(grid: Out<Dim3>, block: Out<Dim3>, shared: Out<usize>, stream: Out<usize>) {
        let last = CONFIGURATIONS.with_borrow_mut(Vec::pop);
        let last = last.ok_or_else(|| Error::new(INVALID_VALUE, "a stub was called without <<<...>>>"))?;
        grid.set(last.0)?;
        block.set(last.1)?;
        shared.set(last.2)?;
        stream.set(last.3)
    }

    fn __cudaGetKernel(kernel: Out<usize>, stub: usize) {
        kernel.set(stub)
    }

    fn __cudaLaunchKernel(
        kernel: usize, grid: Dim3, block: Dim3, each: In<Bytes>, shared: usize, stream: usize,
    ) {
        launch(kernel, (grid, block), shared, (stream, each))
    }

    fn __cudaLaunchKernel_ptsz(
        kernel: usize, grid: Dim3, block: Dim3, each: In<Bytes>, shared: usize, stream: usize,
    ) {
        launch(kernel, (grid, block), shared, (stream, each))
    }

    fn cudaLaunchKernel(
        stub: usize, grid: Dim3, block: Dim3, each: In<Bytes>, shared: usize, stream: usize,
    ) {
        launch(stub, (grid, block), shared, (stream, each))
    }

    fn cudaFuncSetAttribute(stub: usize, attribute: u32, value: i32) {
        let device = runtime_context()?;
        set_attribute(&*device.functions.get(resolve(device, stub)?)?, attribute, value)
    }

    fn cudaFuncGetAttributes() {
        Err(Error::unsupported("cudaFuncGetAttributes"))
    }

    fn cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        count: Out<i32>, stub: usize, threads: i32, shared: usize, _flags: u32,
    ) {
        count.set(blocks(resolve(runtime_context()?, stub)?, threads, shared)?)
    }

    fn cudaGetDevice(device: Out<i32>) {
        device.set(0)
    }

    fn cudaSetDevice(device: i32) {
        if device == 0 { Ok(()) } else { Err(Error::new(status::INVALID_DEVICE, "there is one device, number 0")) }
    }

    fn cudaGetDeviceCount(count: Out<i32>) {
        count.set(1)
    }

    fn cudaDeviceGetAttribute(value: Out<i32>, attribute: u32, _device: i32) {
        let known = settings().card.attribute(attribute);
        let unknown = || Error::new(INVALID_VALUE, format!("the emulator has no device attribute {attribute}"));
        value.set(known.ok_or_else(unknown)? as i32)
    }

    fn cudaMalloc(address: Out<u64>, bytes: usize) {
        malloc(address, bytes)
    }

    fn cudaMallocAsync_ptsz(address: Out<u64>, bytes: usize, stream: usize) {
        not_captured(runtime_context()?, stream, "cudaMallocAsync")?;
        malloc(address, bytes)
    }

    fn cudaFree(address: u64) {
        free(address)
    }

    fn cudaFreeAsync_ptsz(address: u64, stream: usize) {
        not_captured(runtime_context()?, stream, "cudaFreeAsync")?;
        free(address)
    }

    fn cudaMemsetAsync_ptsz(address: u64, value: i32, count: usize, stream: usize) {
        fill(address, value, count, stream)
    }

    fn cudaStreamSynchronize_ptsz(stream: usize) {
        not_captured(runtime_context()?, stream, "cudaStreamSynchronize")
    }
}
