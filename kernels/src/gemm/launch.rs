//! Launches the kernels of a product.

use cudarc::driver::sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MOST_SHARED;
use cudarc::driver::{
    CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceRepr,
    LaunchConfig, PushKernelArg, SyncOnDrop,
};

use super::check::{check, k_bytes};
use super::operand::{Epilogue, Format, Product};
use super::plan::Plan;
use crate::device::{Family, Gpu, Source};
use crate::error::{Doing, KernelError};

/// The PTX of the NVFP4 products.
pub const NVFP4_SOURCE: Source = Source {
    name: "nvfp4_gemm",
    ptx: &[(
        Family::Blackwell,
        include_str!("../../ptx/nvfp4_gemm.sm_120f.ptx"),
    )],
};

/// The PTX of the FP8 products.
pub const FP8_SOURCE: Source = Source {
    name: "fp8_gemm",
    ptx: &[
        (Family::Ada, include_str!("../../ptx/fp8_gemm.sm_89.ptx")),
        (
            Family::Blackwell,
            include_str!("../../ptx/fp8_gemm.sm_120f.ptx"),
        ),
    ],
};

/// The PTX that adds the parts of split products.
pub const REDUCE_SOURCE: Source = Source {
    name: "splitk_reduce",
    ptx: &[
        (
            Family::Ada,
            include_str!("../../ptx/splitk_reduce.sm_89.ptx"),
        ),
        (
            Family::Blackwell,
            include_str!("../../ptx/splitk_reduce.sm_120f.ptx"),
        ),
    ],
};

/// `struct Gemm` of `include/gemm_shape.cuh`; addresses are 0 where there is nothing.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Arguments {
    pub a: u64,
    pub b: u64,
    pub a_scales: u64,
    pub b_scales: u64,
    pub a_scale: u64,
    pub b_scale: u64,
    pub bias: u64,
    pub out: u64,
    pub out_scales: u64,
    pub out_scale: u64,
    pub residual: u64,
    pub gate: u64,
    pub non_finite: u64,
    pub partial: u64,
    pub m: u32,
    pub n: u32,
    pub k_bytes: u32,
    pub splits: u32,
}

// SAFETY: it is plain numbers in the order and with the alignment of the C struct.
unsafe impl DeviceRepr for Arguments {}

/// Memory for the partial sums of split products, kept from call to call.
#[derive(Default)]
pub struct Workspace {
    partial: Option<CudaSlice<f32>>,
}

impl Workspace {
    /// Sees to room for `len` numbers, so that later calls need not allocate.
    ///
    /// # Errors
    /// The driver's refusal.
    pub fn reserve(&mut self, gpu: &Gpu, len: usize) -> Result<&mut CudaSlice<f32>, KernelError> {
        let fits = |slice: &CudaSlice<f32>| slice.len() >= len;
        let partial = match self.partial.take().filter(fits) {
            Some(partial) => partial,
            // SAFETY: each number is written by the product before its reduction reads it.
            None => unsafe { gpu.stream().alloc(len.max(1)) }
                .doing(format!("allocating {len} numbers for partial sums"))?,
        };
        Ok(self.partial.insert(partial))
    }
}

/// Computes `product` and its `epilogue` as [`Plan::of`] says; returns the plan.
///
/// # Errors
/// Sizes that do not fit each other or the kernels, a format that the card has no kernel for, the driver's refusal.
pub fn gemm(
    gpu: &Gpu,
    product: &Product<'_>,
    epilogue: Epilogue<'_, '_>,
    workspace: &mut Workspace,
) -> Result<Plan, KernelError> {
    let plan = Plan::of(product.a.format(), product.shape, gpu.multiprocessors());
    gemm_planned(gpu, product, epilogue, (plan, workspace))?;
    Ok(plan)
}

/// [`gemm`] with a plan of one's own (from [`Plan::with`] for this product).
///
/// # Errors
/// As [`gemm`].
pub fn gemm_planned(
    gpu: &Gpu,
    product: &Product<'_>,
    epilogue: Epilogue<'_, '_>,
    how: (Plan, &mut Workspace),
) -> Result<(), KernelError> {
    let (plan, workspace) = how;
    let (format, shape) = (product.a.format(), product.shape);
    check(product, &epilogue)?;
    let of_shape = Plan::with(plan.tile, plan.splits, (format, shape, 1));
    let items = plan.tile.count(shape) * of_shape.splits as usize;
    if plan.splits != of_shape.splits || items >= 1 << 31 {
        return Err(KernelError::shape(
            format.kernel(),
            format!("{} parts of K are no plan for {shape:?}", plan.splits),
        ));
    }
    let word = epilogue.word();
    if matches!(epilogue, Epilogue::GeluNvfp4 { .. }) && gpu.family() < Family::Blackwell {
        return Err(KernelError::NotBuilt {
            kernel: "gelu_nvfp4",
            family: gpu.family().word(),
        });
    }
    if shape.m == 0 || shape.n == 0 {
        return Ok(());
    }

    let mut pointers = Pointers {
        stream: gpu.stream(),
        kernel: format.kernel(),
        held: Vec::new(),
    };
    let mut arguments = Arguments {
        m: shape.m as u32,
        n: shape.n as u32,
        k_bytes: k_bytes(format, shape.k) as u32,
        splits: plan.splits,
        ..Arguments::default()
    };
    pointers.product(product, &mut arguments)?;
    pointers.epilogue(epilogue, &mut arguments)?;
    let source = match format {
        Format::Fp8 => &FP8_SOURCE,
        Format::Nvfp4 => &NVFP4_SOURCE,
    };
    let (tile, shared) = (plan.tile, plan.tile.shared_bytes(format) as u32);
    if !tile.splits() {
        let name = format!("{}_{tile}_{word}", source.name);
        return launch(
            gpu,
            source,
            &name,
            (&arguments, [plan.blocks, tile.threads(), shared]),
        );
    }
    let partial = workspace.reserve(gpu, plan.workspace_len(shape))?;
    let (address, _partial) = partial.device_ptr_mut(gpu.stream());
    arguments.partial = address;
    let name = format!("{}_{tile}_splitk", source.name);
    launch(
        gpu,
        source,
        &name,
        (&arguments, [plan.blocks, tile.threads(), shared]),
    )?;
    let name = format!("{}_{tile}_{word}", REDUCE_SOURCE.name);
    let tiles = tile.count(shape) as u32;
    launch(
        gpu,
        &REDUCE_SOURCE,
        &name,
        (&arguments, [tiles, tile.threads(), 0]),
    )
}

/// Launches `name` of `source` with so many blocks, threads and bytes of shared memory.
pub(crate) fn launch(
    gpu: &Gpu,
    source: &Source,
    name: &str,
    with: (&Arguments, [u32; 3]),
) -> Result<(), KernelError> {
    let (arguments, [blocks, threads, shared]) = with;
    let function = gpu.function(source, name)?;
    if shared > 48 * 1024 {
        // What a block may have without asking.
        function
            .set_attribute(MOST_SHARED, shared as i32)
            .doing(format!(
                "asking for {shared} bytes of shared memory for {name}"
            ))?;
    }
    let mut builder = gpu.stream().launch_builder(&function);
    builder.arg(arguments);
    // SAFETY: the argument is the kernel's struct; the addresses in it are of memory that is borrowed until the launch is
    // in the stream, and whose sizes were checked.
    unsafe {
        builder.launch(LaunchConfig {
            grid_dim: (blocks, 1, 1),
            block_dim: (threads, 1, 1),
            shared_mem_bytes: shared,
        })
    }
    .doing(format!("launching {name}"))?;
    Ok(())
}

/// Addresses of what the kernels read and write, held until they are launched.
pub(crate) struct Pointers<'s> {
    pub stream: &'s CudaStream,
    pub kernel: &'static str,
    pub held: Vec<SyncOnDrop<'s>>,
}

impl<'s> Pointers<'s> {
    pub fn read<T>(&mut self, view: &'s CudaView<'_, T>) -> Result<u64, KernelError> {
        let (address, held) = view.device_ptr(self.stream);
        self.held.push(held);
        self.aligned(address)
    }

    fn write<T>(&mut self, view: &'s mut CudaViewMut<'_, T>) -> Result<u64, KernelError> {
        let (address, held) = view.device_ptr_mut(self.stream);
        self.held.push(held);
        self.aligned(address)
    }

    pub fn number(&mut self, view: Option<&'s CudaView<'_, f32>>) -> u64 {
        view.map_or(0, |view| {
            let (address, held) = view.device_ptr(self.stream);
            self.held.push(held);
            address
        })
    }

    fn aligned(&self, address: u64) -> Result<u64, KernelError> {
        match address % 16 {
            0 => Ok(address),
            by => Err(KernelError::shape(
                self.kernel,
                format!("a view begins {by} bytes after a multiple of 16 bytes"),
            )),
        }
    }

    fn product(&mut self, product: &Product<'s>, to: &mut Arguments) -> Result<(), KernelError> {
        to.a = self.read(product.a.codes)?;
        to.b = self.read(product.b.codes)?;
        if let Some(scales) = product.a.block_scales {
            to.a_scales = self.read(scales.bytes)?;
        }
        if let Some(scales) = product.b.block_scales {
            to.b_scales = self.read(scales.bytes)?;
        }
        if let Some(bias) = product.bias {
            to.bias = self.read(bias)?;
        }
        to.a_scale = self.number(product.a.scale);
        to.b_scale = self.number(product.b.scale);
        Ok(())
    }

    pub fn epilogue(
        &mut self,
        epilogue: Epilogue<'s, '_>,
        to: &mut Arguments,
    ) -> Result<(), KernelError> {
        match epilogue {
            Epilogue::Bf16 { out } => to.out = self.write(out)?,
            Epilogue::Gated {
                out,
                residual,
                gate,
            } => {
                to.out = self.write(out)?;
                to.residual = match residual {
                    Some(residual) => self.read(residual)?,
                    None => to.out,
                };
                to.gate = self.read(gate)?;
            }
            Epilogue::GeluE4m3 {
                out,
                scale,
                non_finite,
            } => {
                to.out = self.write(out)?;
                to.out_scale = self.number(Some(scale));
                to.non_finite = self.flag(non_finite);
            }
            Epilogue::GeluNvfp4 {
                out,
                block_scales,
                scale,
                non_finite,
            } => {
                to.out = self.write(out)?;
                to.out_scales = self.write(block_scales)?;
                to.out_scale = self.number(Some(scale));
                to.non_finite = self.flag(non_finite);
            }
        }
        Ok(())
    }

    fn flag(&mut self, view: Option<&'s mut CudaViewMut<'_, u32>>) -> u64 {
        view.map_or(0, |view| {
            let (address, held) = view.device_ptr_mut(self.stream);
            self.held.push(held);
            address
        })
    }
}
