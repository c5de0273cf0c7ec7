//! FP8 attention of queries and keys that have yet to be normalised and rotated (`qk_norm_rope_fp8.cu`).

use cudarc::driver::{CudaView, CudaViewMut, DevicePtr, DeviceRepr, PushKernelArg, SyncOnDrop};
use half::bf16;

use crate::attention::{Attention, HEAD, HeadRows, push_valid};
use crate::attention_fp8::Call;
use crate::device::{Family, Gpu, Source};
use crate::error::{Doing, KernelError};
use crate::operand::{aligned, sized};

/// The kernels' PTX.
pub const SOURCE: Source = Source {
    name: "qk_norm_rope_fp8",
    ptx: &[
        (
            Family::Ada,
            include_str!("../ptx/qk_norm_rope_fp8.sm_89.ptx"),
        ),
        (
            Family::Blackwell,
            include_str!("../ptx/qk_norm_rope_fp8.sm_120f.ptx"),
        ),
    ],
};

/// Heads as a projection has left them, and the weight of their RMSNorm.
#[derive(Clone, Copy)]
pub struct NormedHeads<'a> {
    /// `[batch, rows, heads, 128]`.
    pub heads: HeadRows<'a>,
    /// `[128]`; 16-byte aligned.
    pub weight: &'a CudaView<'a, bf16>,
}

/// One part of a joint sequence: text or image. Its q, k and v may lie in one fused projection or in several.
#[derive(Clone, Copy)]
pub struct Stream<'a> {
    /// Tokens of each batch row.
    pub rows: usize,
    /// Queries; none if these tokens only give keys and values, as the text of the last block.
    pub q: Option<NormedHeads<'a>>,
    /// Keys, `kv_heads` of them.
    pub k: NormedHeads<'a>,
    /// Values, `kv_heads` of them.
    pub v: HeadRows<'a>,
    /// Cosines of the angles, `[rows, 64]`; 16-byte aligned.
    pub cos: &'a CudaView<'a, f32>,
    /// Sines of the angles, `[rows, 64]`; 16-byte aligned.
    pub sin: &'a CudaView<'a, f32>,
}

/// The sequence: one stream, or two of which the second stands behind the first.
#[derive(Clone, Copy)]
pub struct Joint<'a> {
    /// One or two. Only the first of two may lack queries.
    pub streams: &'a [Stream<'a>],
    /// Added to the mean square of a head: 1e-6.
    pub eps: f32,
}

impl Attention<'_> {
    /// [`Attention::fp8`] of the normalised and rotated queries and keys of `joint`, which is only read.
    ///
    /// The result is that of [`HeadNorm::run`] into a joint sequence and [`Attention::fp8`] of that, bit for bit, as is what
    /// the workspace holds: normalised queries and keys are rounded to bf16, though in registers. `queries` and `keys` are
    /// the rows of all streams, or of those with queries.
    ///
    /// [`HeadNorm::run`]: crate::rms_norm_rope::HeadNorm::run
    ///
    /// # Errors
    /// Those of [`Attention::fp8`], and streams that do not fit it.
    pub fn fp8_normed(
        &self,
        gpu: &Gpu,
        out: &mut CudaViewMut<'_, bf16>,
        joint: &Joint<'_>,
        workspace: &mut CudaViewMut<'_, u8>,
    ) -> Result<(), KernelError> {
        if !self.check_form(SOURCE.name, out.len())? {
            return Ok(());
        }
        let rows = joint.rows(self, gpu)?;
        let _read: Vec<_> = joint.streams.iter().flat_map(|s| s.reads(gpu)).collect();
        let call = Call::of(self, gpu, ([0; 3], [0; 3]), workspace)?;
        let [queries, blocks, tiles] = call.tiles();
        call.of_joint(
            "qk_norm_rope_fp8_statistics",
            (queries + blocks, self.heads),
            &rows,
            workspace,
        )?;
        call.scales(workspace)?;
        call.of_joint(
            "qk_norm_rope_fp8_operands",
            (2 * tiles, self.kv_heads),
            &rows,
            workspace,
        )?;
        call.attend(out, workspace)
    }
}

impl Call<'_> {
    fn of_joint(
        &self,
        name: &'static str,
        (x, y): (usize, usize),
        joint: &JointRows,
        workspace: &mut CudaViewMut<'_, u8>,
    ) -> Result<(), KernelError> {
        let function = self.gpu.function(&SOURCE, name)?;
        let mut launch = self.gpu.stream().launch_builder(&function);
        launch.arg(workspace);
        push_valid(&mut launch, &self.attention.sees);
        launch.arg(&self.shape).arg(joint);
        // SAFETY: the arguments are those of the kernels' signature, and `Joint::rows` compared strides and lengths.
        unsafe { launch.launch(self.grid(x, y, 256)) }.doing(format!("launching {name}"))?;
        Ok(())
    }
}

impl Joint<'_> {
    /// Checks the streams against the attention.
    fn rows(&self, attention: &Attention<'_>, gpu: &Gpu) -> Result<JointRows, KernelError> {
        let refuse = |message: String| Err(KernelError::shape(SOURCE.name, message));
        let (first, second) = match self.streams {
            [only] => (None, only),
            [first, second] => (Some(first), second),
            other => return refuse(format!("{} streams: there are one or two", other.len())),
        };
        let skip = first.map_or(0, |s| if s.q.is_none() { s.rows } else { 0 });
        let before = first.map_or(0, |s| s.rows);
        let keys = before.checked_add(second.rows);
        let queries = keys.map(|keys| keys - skip);
        if keys != Some(attention.keys)
            || queries != Some(attention.queries)
            || (second.q.is_none() && second.rows > 0)
        {
            return refuse(format!(
                "{before} and {} rows, those with queries last, for {} queries and {} keys",
                second.rows, attention.queries, attention.keys
            ));
        }
        let first = first.map_or(Ok(StreamRows::default()), |s| s.address(attention, gpu))?;
        Ok(JointRows {
            first,
            second: second.address(attention, gpu)?,
            eps: self.eps,
            skip: skip as u32,
        })
    }
}

impl Stream<'_> {
    /// Guards of all that is read, to be held until the launches: other streams wait for what they record.
    fn reads<'s>(&'s self, gpu: &'s Gpu) -> Vec<SyncOnDrop<'s>> {
        let on = gpu.stream();
        let heads = [self.q.as_ref(), Some(&self.k)].into_iter().flatten();
        let mut read: Vec<_> = heads
            .flat_map(|normed| [normed.heads.data, normed.weight])
            .map(|view| view.device_ptr(on).1)
            .collect();
        read.push(self.v.data.device_ptr(on).1);
        read.extend([self.cos, self.sin].map(|table| table.device_ptr(on).1));
        read
    }

    /// Where its numbers lie, if all do.
    fn address(&self, attention: &Attention<'_>, gpu: &Gpu) -> Result<StreamRows, KernelError> {
        let (rows, name) = (self.rows, SOURCE.name);
        if rows == 0 {
            return Ok(StreamRows::default());
        }
        for (what, table) in [("the cosines", self.cos), ("the sines", self.sin)] {
            sized(name, what, table.len(), rows.saturating_mul(HEAD / 2))?;
            aligned(gpu, name, (what, table), 16)?;
        }
        let weight = |what: &str, weight: &CudaView<'_, bf16>| {
            sized(name, what, weight.len(), HEAD)?;
            aligned(gpu, name, (what, weight), 16)?;
            Ok(weight.device_ptr(gpu.stream()).0)
        };
        let place = |what: &str, heads: usize, at: &HeadRows<'_>| {
            at.check(gpu, name, (what, [attention.batch, rows, heads]))?;
            // A single row has no stride.
            let stride = u32::try_from(if rows > 1 { at.row } else { 0 })
                .map_err(|_| KernelError::shape(name, format!("a row stride of {}", at.row)))?;
            Ok((at.data.device_ptr(gpu.stream()).0, at.batch as u64, stride))
        };
        let q = match &self.q {
            Some(q) => (
                place("q", attention.heads, &q.heads)?,
                weight("numbers of q's weight", q.weight)?,
            ),
            None => Default::default(),
        };
        let k = place("k", attention.kv_heads, &self.k.heads)?;
        let v = place("v", attention.kv_heads, &self.v)?;
        Ok(StreamRows {
            data: [q.0.0, k.0, v.0],
            weights: [q.1, weight("numbers of k's weight", self.k.weight)?],
            angles: [self.cos, self.sin].map(|table| table.device_ptr(gpu.stream()).0),
            batches: [q.0.1, k.1, v.1],
            strides: [q.0.2, k.2, v.2],
            rows: rows as u32,
        })
    }
}

/// `Stream` of `qk_norm_rope_fp8.cu`: addresses and strides of q, k and v.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct StreamRows {
    data: [u64; 3],
    /// Of q and k.
    weights: [u64; 2],
    angles: [u64; 2],
    batches: [u64; 3],
    strides: [u32; 3],
    rows: u32,
}

/// `Joint` of `qk_norm_rope_fp8.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct JointRows {
    first: StreamRows,
    second: StreamRows,
    eps: f32,
    skip: u32,
}

// SAFETY: numbers and device addresses only, in the order and with the alignment of the C struct; there is no padding.
unsafe impl DeviceRepr for JointRows {}
