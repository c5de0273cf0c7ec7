//! `softmax(q k^T * scale) v` for heads of 128, bf16 (`attention_bf16.cu`).

use cudarc::driver::{
    CudaView, CudaViewMut, DevicePtr, DeviceRepr, LaunchArgs, LaunchConfig, PushKernelArg,
};
use half::bf16;

use crate::device::{Family, Gpu, Source};
use crate::error::{Doing, KernelError};

/// The kernel's PTX.
pub const SOURCE: Source = Source {
    name: "attention_bf16",
    ptx: &[
        (
            Family::Ampere,
            include_str!("../ptx/attention_bf16.sm_80.ptx"),
        ),
        (
            Family::Blackwell,
            include_str!("../ptx/attention_bf16.sm_120f.ptx"),
        ),
    ],
};

/// Numbers of a head.
pub const HEAD: usize = 128;
/// Queries of one block of threads.
const QUERY_TILE: usize = 64;

/// Which keys a query sees.
#[derive(Clone, Copy)]
pub enum Keys<'a> {
    /// All of them.
    All,
    /// Those up to its own position.
    Causal,
    /// All but padding: in batch row b the keys `valid[b]..padded` are padding (the joint sequence is text, then
    /// image). Values above `padded` count as `padded`.
    PaddedPrefix {
        /// Valid text tokens, `[batch]`.
        valid: &'a CudaView<'a, u32>,
        /// Length that the texts were padded to; at most `keys`.
        padded: usize,
    },
}

/// The form of an attention. A query that sees no key at all gives zeros.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// Rows of the batch.
    pub batch: usize,
    /// Query rows per batch row.
    pub queries: usize,
    /// Key and value rows per batch row.
    pub keys: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads in a row.
    pub kv_heads: usize,
    /// Factor of the scores before the softmax, positive: `1 / sqrt(128)` as a rule.
    pub scale: f32,
    /// Which keys a query sees.
    pub sees: Keys<'a>,
}

/// Rows of heads, `[batch, rows, heads, 128]` with a stride, so that they may lie in a fused projection.
#[derive(Clone, Copy)]
pub struct HeadRows<'a> {
    /// From the first head of the first row on; 16-byte aligned.
    pub data: &'a CudaView<'a, bf16>,
    /// Numbers from one row to the next, a multiple of 8.
    pub row: usize,
    /// Numbers from one batch row to the next, a multiple of 8.
    pub batch: usize,
}

impl HeadRows<'_> {
    /// Refuses data that do not hold `shape` = `[batch, rows, heads]`, none of them 0.
    pub(crate) fn check(
        &self,
        gpu: &Gpu,
        kernel: &'static str,
        (what, shape): (&str, [usize; 3]),
    ) -> Result<(), KernelError> {
        let [batch, rows, heads] = shape;
        let last = (batch - 1).saturating_mul(self.batch);
        let end = last
            .saturating_add((rows - 1).saturating_mul(self.row))
            .saturating_add(heads * HEAD);
        let address = self.data.device_ptr(gpu.stream()).0;
        let fits = end <= self.data.len() && self.row >= heads * HEAD;
        if fits
            && self.row.is_multiple_of(8)
            && self.batch.is_multiple_of(8)
            && address.is_multiple_of(16)
        {
            return Ok(());
        }
        Err(KernelError::shape(
            kernel,
            format!(
                "{what}: {batch} x {rows} rows of {heads} heads of 128 with strides {} and {} in {} numbers at \
                 {address:#x}; strides must be multiples of 8, the address one of 16",
                self.batch,
                self.row,
                self.data.len()
            ),
        ))
    }
}

/// What an attention reads.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    /// Queries, `[batch, queries, heads, 128]`.
    pub q: HeadRows<'a>,
    /// Keys, `[batch, keys, kv_heads, 128]`.
    pub k: HeadRows<'a>,
    /// Values, `[batch, keys, kv_heads, 128]`.
    pub v: HeadRows<'a>,
}

impl Attention<'_> {
    /// The scores' factor for a softmax in powers of two.
    pub(crate) fn scale_log2(&self) -> f32 {
        (f64::from(self.scale) * std::f64::consts::LOG2_E) as f32
    }

    /// `padded`, 0 if all keys count.
    pub(crate) fn padded(&self) -> usize {
        match self.sees {
            Keys::PaddedPrefix { padded, .. } => padded,
            Keys::All | Keys::Causal => 0,
        }
    }

    /// Row strides of q, k and v as kernels take them; a single row has none.
    pub(crate) fn row_strides(
        &self,
        kernel: &'static str,
        of: &Operands<'_>,
    ) -> Result<[u32; 3], KernelError> {
        let mut strides = [0; 3];
        let rows = [(of.q, self.queries), (of.k, self.keys), (of.v, self.keys)];
        for (stride, (heads, rows)) in strides.iter_mut().zip(rows) {
            if rows > 1 {
                *stride = u32::try_from(heads.row).map_err(|_| {
                    KernelError::shape(kernel, format!("a row stride of {}", heads.row))
                })?;
            }
        }
        Ok(strides)
    }

    /// Refuses what does not fit; `Ok(false)` if there is nothing to do.
    pub(crate) fn check(
        &self,
        gpu: &Gpu,
        kernel: &'static str,
        operands: &Operands<'_>,
        out: usize,
    ) -> Result<bool, KernelError> {
        if !self.check_form(kernel, out)? {
            return Ok(false);
        }
        let [batch, queries, keys] = [self.batch, self.queries, self.keys];
        operands
            .q
            .check(gpu, kernel, ("q", [batch, queries, self.heads]))?;
        if keys > 0 {
            let shape = [batch, keys, self.kv_heads];
            operands.k.check(gpu, kernel, ("k", shape))?;
            operands.v.check(gpu, kernel, ("v", shape))?;
        }
        Ok(true)
    }

    /// [`Self::check`] but for the operands.
    pub(crate) fn check_form(&self, kernel: &'static str, out: usize) -> Result<bool, KernelError> {
        let [batch, queries, keys] = [self.batch, self.queries, self.keys];
        let refuse = |message: String| Err(KernelError::shape(kernel, message));
        if self.heads == 0 || self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            return refuse(format!(
                "{} query heads cannot share {} key heads",
                self.heads, self.kv_heads
            ));
        }
        if !(self.scale > 0.0 && self.scale_log2().is_finite()) {
            return refuse(format!(
                "a scale of {}: it must be positive and finite",
                self.scale
            ));
        }
        if queries.max(keys) > i32::MAX as usize / 2 || self.heads.max(batch) > 0xffff {
            return refuse(format!(
                "{batch} x {queries} queries of {} heads and {keys} keys are too many",
                self.heads
            ));
        }
        if out != (batch * self.heads * HEAD).saturating_mul(queries) {
            return refuse(format!(
                "an output of {out} numbers for {batch} x {queries} rows of {} heads of 128",
                self.heads
            ));
        }
        if let Keys::PaddedPrefix { valid, padded } = self.sees
            && (valid.len() != batch || padded > keys)
        {
            return refuse(format!(
                "{} text lengths, padded to {padded}, for {batch} x {keys} keys",
                valid.len()
            ));
        }
        Ok(out > 0)
    }

    /// Computes it in bf16 with f32 sums: `out` `[batch, queries, heads * 128]`.
    ///
    /// The weights of the softmax are rounded to bf16 before they multiply the values. The order of every sum is fixed.
    ///
    /// # Errors
    /// Shapes that do not fit each other, strides or addresses that are not multiples of 16 bytes, or the driver's
    /// refusal.
    pub fn bf16(
        &self,
        gpu: &Gpu,
        out: &mut CudaViewMut<'_, bf16>,
        operands: &Operands<'_>,
    ) -> Result<(), KernelError> {
        if !self.check(gpu, SOURCE.name, operands, out.len())? {
            return Ok(());
        }
        let Operands { q, k, v } = operands;
        let shape = Shape {
            queries: self.queries as u32,
            keys: self.keys as u32,
            padded: self.padded() as u32,
            group: (self.heads / self.kv_heads) as u32,
            rows: self.row_strides(SOURCE.name, operands)?,
            scale_log2: self.scale_log2(),
            batches: [q.batch as u64, k.batch as u64, v.batch as u64],
        };
        let name = match self.sees {
            Keys::Causal => "attention_bf16_d128_causal",
            Keys::All | Keys::PaddedPrefix { .. } => "attention_bf16_d128",
        };
        let function = gpu.function(&SOURCE, name)?;
        let mut launch = gpu.stream().launch_builder(&function);
        launch.arg(out).arg(q.data).arg(k.data).arg(v.data);
        push_valid(&mut launch, &self.sees);
        launch.arg(&shape);
        // SAFETY: the arguments are those of the kernel's signature, and `check` compared strides and lengths.
        unsafe {
            launch.launch(LaunchConfig {
                grid_dim: (
                    self.queries.div_ceil(QUERY_TILE) as u32,
                    self.heads as u32,
                    self.batch as u32,
                ),
                block_dim: (128, 1, 1),
                shared_mem_bytes: 0,
            })
        }
        .doing(format!("launching {name}"))?;
        Ok(())
    }
}

/// The argument `valid`, null if there is none.
pub(crate) fn push_valid<'a>(launch: &mut LaunchArgs<'a>, sees: &'a Keys<'a>) {
    match sees {
        Keys::PaddedPrefix { valid, .. } => launch.arg(*valid),
        Keys::All | Keys::Causal => launch.arg(&0u64),
    };
}

/// `AttentionShape` of `attention_bf16.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Shape {
    queries: u32,
    keys: u32,
    padded: u32,
    group: u32,
    /// Of q, k and v.
    rows: [u32; 3],
    scale_log2: f32,
    /// Of q, k and v.
    batches: [u64; 3],
}

// SAFETY: numbers only, in the order and with the alignment of the C struct; there is no padding.
unsafe impl DeviceRepr for Shape {}
