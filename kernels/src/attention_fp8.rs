//! Attention with both products in E4M3 (`attention_fp8.cu`, `attention_fp8_prepare.cu`).

use cudarc::driver::{CudaViewMut, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg};
use half::bf16;

use crate::attention::{Attention, HEAD, Keys, Operands, push_valid};
use crate::device::{Family, Gpu, Source};
use crate::error::{Doing, KernelError};

/// PTX of the attention.
pub const SOURCE: Source = Source {
    name: "attention_fp8",
    ptx: &[
        (Family::Ada, include_str!("../ptx/attention_fp8.sm_89.ptx")),
        (
            Family::Blackwell,
            include_str!("../ptx/attention_fp8.sm_120f.ptx"),
        ),
    ],
};

/// PTX of what makes codes of its operands.
pub const PREPARE: Source = Source {
    name: "attention_fp8_prepare",
    ptx: &[
        (
            Family::Ada,
            include_str!("../ptx/attention_fp8_prepare.sm_89.ptx"),
        ),
        (
            Family::Blackwell,
            include_str!("../ptx/attention_fp8_prepare.sm_120f.ptx"),
        ),
    ],
};

/// Queries of one block of threads.
const QUERY_TILE: usize = 128;
/// Keys of a tile.
const KEY_TILE: usize = 64;
/// Keys that one block of `statistics` sums up, and how many numbers per channel it leaves.
const STATISTICS: (usize, usize) = (256, 4);

/// Where the parts of a workspace lie: offsets in bytes. "Keys" are those that count, without the padding between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fp8Layout {
    /// Queries, up to a multiple of 128.
    pub query_rows: usize,
    /// Tiles of 64 keys per head.
    pub key_tiles: usize,
    /// `[batch, heads, query_rows, 128]` E4M3.
    pub q: usize,
    /// `[batch, kv_heads, key_tiles, 64 keys, 128]` E4M3, less `k_mean`.
    pub k: usize,
    /// `[batch, kv_heads, key_tiles, 128, 64 keys]` E4M3. Columns 4w..4w+4 are the keys a, a + 1, a + 8, a + 9 with
    /// a = 16 (w / 4) + 2 (w % 4).
    pub v: usize,
    /// `[batch, heads, query_rows]` f32, times the scores' scale and log2(e).
    pub q_scale: usize,
    /// `[batch, kv_heads]` f32.
    pub k_scale: usize,
    /// `[batch, kv_heads, 128]` f32.
    pub v_scale: usize,
    /// `[batch, kv_heads, 128]` f32.
    pub k_mean: usize,
    /// `[batch, kv_heads, blocks of 256 keys, 4, 128]` f32.
    pub partial: usize,
    /// All of it.
    pub bytes: usize,
}

impl Fp8Layout {
    /// Of an attention with these lengths.
    pub fn of(attention: &Attention<'_>) -> Self {
        let query_rows = attention
            .queries
            .div_ceil(QUERY_TILE)
            .saturating_mul(QUERY_TILE);
        let key_tiles = attention.keys.div_ceil(KEY_TILE);
        let heads = attention.batch.saturating_mul(attention.heads);
        let kv_heads = attention.batch.saturating_mul(attention.kv_heads);
        let blocks = attention.keys.div_ceil(STATISTICS.0);
        let mut end = 0usize;
        let mut take = |of: &[usize]| {
            let offset = end;
            let bytes = of.iter().fold(1usize, |all, n| all.saturating_mul(*n));
            end = offset.saturating_add(bytes).saturating_add(255) & !255;
            offset
        };
        let tiles = [kv_heads, key_tiles, KEY_TILE, HEAD];
        let mut layout = Self {
            query_rows,
            key_tiles,
            q: take(&[heads, query_rows, HEAD]),
            k: take(&tiles),
            v: take(&tiles),
            q_scale: take(&[heads, query_rows, 4]),
            k_scale: take(&[kv_heads, 4]),
            v_scale: take(&[kv_heads, HEAD, 4]),
            k_mean: take(&[kv_heads, HEAD, 4]),
            partial: take(&[kv_heads, blocks, STATISTICS.1, HEAD, 4]),
            bytes: 0,
        };
        layout.bytes = end;
        layout
    }
}

impl Attention<'_> {
    /// Computes it with E4M3 products and f32 sums: `out` `[batch, queries, heads * 128]`. `workspace` has
    /// [`Fp8Layout::bytes`] bytes, 256-byte aligned.
    ///
    /// Queries have a scale per row, keys one per head after their mean is taken off, values one per channel; the softmax's
    /// weights are rounded to E4M3 and normalised by the sum of what they were rounded to. The order of every sum is fixed.
    /// Of normal operands the output is off by 0.04 relatively where the softmax is flat, 0.05 where scores have a
    /// deviation of 1 and 0.09 where it is 2 (root mean square): three bits of significand for each of q, k, v and weights.
    ///
    /// # Errors
    /// Shapes that do not fit each other, causal attention, strides or addresses that are not multiples of 16 bytes, a
    /// card without FP8 or the driver's refusal.
    pub fn fp8(
        &self,
        gpu: &Gpu,
        out: &mut CudaViewMut<'_, bf16>,
        operands: &Operands<'_>,
        workspace: &mut CudaViewMut<'_, u8>,
    ) -> Result<(), KernelError> {
        if !self.check(gpu, SOURCE.name, operands, out.len())? {
            return Ok(());
        }
        let strides = (
            self.row_strides(SOURCE.name, operands)?,
            [operands.q.batch, operands.k.batch, operands.v.batch],
        );
        let call = Call::of(self, gpu, strides, workspace)?;
        if self.keys > 0 {
            call.statistics(operands, workspace)?;
        }
        call.scales(workspace)?;
        call.operands(operands, workspace)?;
        call.attend(out, workspace)
    }
}

/// One attention's launches.
pub(crate) struct Call<'a> {
    pub(crate) attention: &'a Attention<'a>,
    pub(crate) gpu: &'a Gpu,
    pub(crate) shape: Shape,
    pub(crate) layout: Fp8Layout,
}

impl<'a> Call<'a> {
    /// With strides of q, k and v from row to row and from batch row to batch row; refuses a workspace that does not do.
    pub(crate) fn of(
        attention: &'a Attention<'a>,
        gpu: &'a Gpu,
        strides: ([u32; 3], [usize; 3]),
        workspace: &CudaViewMut<'_, u8>,
    ) -> Result<Self, KernelError> {
        let layout = Fp8Layout::of(attention);
        let address = workspace.device_ptr(gpu.stream()).0;
        if matches!(attention.sees, Keys::Causal) {
            return Err(KernelError::shape(
                SOURCE.name,
                "there is no causal form of it",
            ));
        }
        if workspace.len() < layout.bytes || !address.is_multiple_of(256) {
            return Err(KernelError::shape(
                SOURCE.name,
                format!(
                    "a workspace of {} bytes at {address:#x}: {} are needed, at a multiple of 256",
                    workspace.len(),
                    layout.bytes
                ),
            ));
        }
        Ok(Self {
            attention,
            gpu,
            shape: Shape::of(attention, strides, &layout),
            layout,
        })
    }

    /// Tiles of 64 queries, blocks of 256 keys, tiles of 64 keys.
    pub(crate) fn tiles(&self) -> [usize; 3] {
        [
            self.layout.query_rows / KEY_TILE,
            self.attention.keys.div_ceil(STATISTICS.0),
            self.layout.key_tiles,
        ]
    }

    pub(crate) fn grid(&self, x: usize, y: usize, threads: u32) -> LaunchConfig {
        LaunchConfig {
            grid_dim: (x as u32, y as u32, self.attention.batch as u32),
            block_dim: (threads, 1, 1),
            shared_mem_bytes: 0,
        }
    }

    fn statistics(
        &self,
        operands: &Operands<'_>,
        workspace: &mut CudaViewMut<'_, u8>,
    ) -> Result<(), KernelError> {
        let name = "attention_fp8_prepare_statistics";
        let function = self.gpu.function(&PREPARE, name)?;
        let mut launch = self.gpu.stream().launch_builder(&function);
        launch
            .arg(operands.k.data)
            .arg(operands.v.data)
            .arg(workspace);
        push_valid(&mut launch, &self.attention.sees);
        launch.arg(&self.shape);
        let [_, blocks, _] = self.tiles();
        // SAFETY: the arguments are those of the kernel's signature, and `fp8` compared strides and lengths.
        unsafe { launch.launch(self.grid(blocks, self.attention.kv_heads, 256)) }
            .doing(format!("launching {name}"))?;
        Ok(())
    }

    pub(crate) fn scales(&self, workspace: &mut CudaViewMut<'_, u8>) -> Result<(), KernelError> {
        let name = "attention_fp8_prepare_scales";
        let function = self.gpu.function(&PREPARE, name)?;
        let blocks = self.tiles()[1] as u32;
        let mut launch = self.gpu.stream().launch_builder(&function);
        launch.arg(workspace);
        push_valid(&mut launch, &self.attention.sees);
        launch.arg(&self.shape).arg(&blocks);
        // SAFETY: as in `statistics`.
        unsafe { launch.launch(self.grid(self.attention.kv_heads, 1, HEAD as u32)) }
            .doing(format!("launching {name}"))?;
        Ok(())
    }

    fn operands(
        &self,
        operands: &Operands<'_>,
        workspace: &mut CudaViewMut<'_, u8>,
    ) -> Result<(), KernelError> {
        let name = "attention_fp8_prepare_operands";
        let function = self.gpu.function(&PREPARE, name)?;
        let mut launch = self.gpu.stream().launch_builder(&function);
        launch
            .arg(operands.q.data)
            .arg(operands.k.data)
            .arg(operands.v.data)
            .arg(workspace);
        push_valid(&mut launch, &self.attention.sees);
        launch.arg(&self.shape);
        let [queries, _, keys] = self.tiles();
        // SAFETY: as in `statistics`.
        unsafe { launch.launch(self.grid(queries + 2 * keys, self.attention.heads, 256)) }
            .doing(format!("launching {name}"))?;
        Ok(())
    }

    pub(crate) fn attend(
        &self,
        out: &mut CudaViewMut<'_, bf16>,
        workspace: &mut CudaViewMut<'_, u8>,
    ) -> Result<(), KernelError> {
        let name = "attention_fp8_d128";
        let function = self.gpu.function(&SOURCE, name)?;
        let mut launch = self.gpu.stream().launch_builder(&function);
        launch.arg(out).arg(workspace);
        push_valid(&mut launch, &self.attention.sees);
        launch.arg(&self.shape);
        let blocks = self.layout.query_rows / QUERY_TILE;
        // SAFETY: as in `statistics`.
        unsafe { launch.launch(self.grid(blocks, self.attention.heads, 256)) }
            .doing(format!("launching {name}"))?;
        Ok(())
    }
}

/// `Fp8Shape` of `include/attention_fp8.cuh`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Shape {
    queries: u32,
    keys: u32,
    padded: u32,
    group: u32,
    /// Of q, k and v.
    rows: [u32; 3],
    scale_log2: f32,
    /// Of q, k and v.
    batches: [u64; 3],
    query_rows: u32,
    key_tiles: u32,
    /// q, k, v, q_scale, k_scale, v_scale, k_mean, partial.
    offsets: [u64; 8],
}

// SAFETY: numbers only, in the order and with the alignment of the C struct; there is no padding.
unsafe impl DeviceRepr for Shape {}

impl Shape {
    fn of(
        attention: &Attention<'_>,
        (rows, batches): ([u32; 3], [usize; 3]),
        layout: &Fp8Layout,
    ) -> Self {
        let offsets = [
            layout.q,
            layout.k,
            layout.v,
            layout.q_scale,
            layout.k_scale,
            layout.v_scale,
            layout.k_mean,
            layout.partial,
        ];
        Self {
            queries: attention.queries as u32,
            keys: attention.keys as u32,
            padded: attention.padded() as u32,
            group: (attention.heads / attention.kv_heads) as u32,
            rows,
            scale_log2: attention.scale_log2(),
            batches: batches.map(|b| b as u64),
            query_rows: layout.query_rows as u32,
            key_tiles: layout.key_tiles as u32,
            offsets: offsets.map(|o| o as u64),
        }
    }
}
