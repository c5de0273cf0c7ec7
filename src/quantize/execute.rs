//! Runs a plan: every output tensor comes about once, a chunk of rows at a time, from several threads.
//!
//! Where a byte goes and what it is does not depend on who computes it: the output is the same for any number of
//! threads. Running a plan a second time against the file that it wrote is its verification.

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use safetensors::Dtype;

use super::error::ConvertError;
use super::plan::{Plan, Step};
use super::quantizer::Quantizer;
use super::report::LayerReport;
use super::source::Source;
use crate::checkpoint::{Layout, Reader, SafetensorsFile, TensorView, Writer};
use crate::context::Cancel;
use crate::numerics::widen::{self, first_non_finite};

/// Bytes of the source that are read at a time.
pub(super) const CHUNK: usize = 1 << 20;

/// Who hears how far the work is, and may stop it.
pub struct Monitor<'a> {
    /// Asked between chunks.
    pub cancel: Cancel,
    /// Hears of bytes of the output that are done.
    pub done: &'a (dyn Fn(u64) + Sync),
}

/// Where output bytes go: a file that is written, or one that is compared.
pub(super) trait Sink: Sync {
    /// `bytes` at `offset` of output `index`.
    fn put(&self, index: usize, offset: u64, bytes: &[u8]) -> Result<(), ConvertError>;
}

impl Sink for Writer {
    fn put(&self, index: usize, offset: u64, bytes: &[u8]) -> Result<(), ConvertError> {
        Ok(self.write_at(index, offset, bytes)?)
    }
}

/// The source's files, opened for bulk reads.
pub(super) struct Readers(Vec<(Arc<SafetensorsFile>, Reader)>);

impl Readers {
    fn open(source: &Source) -> Result<Self, ConvertError> {
        let open = |file: &Arc<SafetensorsFile>| Ok((file.clone(), file.reader()?));
        Ok(Self(
            source
                .files()
                .iter()
                .map(open)
                .collect::<Result<_, ConvertError>>()?,
        ))
    }

    /// Bytes of `view` from `offset` on.
    pub fn read(
        &self,
        view: &TensorView,
        offset: usize,
        buf: &mut [u8],
    ) -> Result<(), ConvertError> {
        let found = self
            .0
            .iter()
            .find(|(file, _)| Arc::ptr_eq(file, view.file()));
        match found {
            Some((_, reader)) => Ok(reader.read_at(view, offset, buf)?),
            None => Err(ConvertError::Request(format!(
                "`{}` belongs to a file that is not converted",
                view.name()
            ))),
        }
    }

    fn check_unchanged(&self) -> Result<(), ConvertError> {
        self.0
            .iter()
            .try_for_each(|(_, reader)| Ok(reader.check_unchanged()?))
    }
}

/// Writes what `plan` says to `target`, which appears when it is whole. Gives the error figures of each layer that was
/// quantized, in the plan's order.
///
/// # Errors
/// A target that is one of the source's files, exists (unless `overwrite`) or cannot be written; a source that changes
/// meanwhile; a weight that is not finite; [`ConvertError::Cancelled`].
pub fn execute(
    plan: &Plan,
    source: &Source,
    (target, overwrite): (&Path, bool),
    monitor: &Monitor<'_>,
) -> Result<Vec<LayerReport>, ConvertError> {
    let same = |file: &Arc<SafetensorsFile>| {
        let canonical = |path: &Path| path.canonicalize().ok();
        canonical(target).is_some_and(|t| canonical(file.path()) == Some(t))
    };
    if source.files().iter().any(same) {
        return Err(ConvertError::Request(format!(
            "{} is the input; choose another -o",
            target.display()
        )));
    }
    let readers = Readers::open(source)?;
    let layout = Layout::of(plan.outputs.clone(), &plan.metadata)?;
    let writer = Writer::create(target, layout, overwrite)?;
    let reports = run(plan, &readers, &writer, monitor)?;
    readers.check_unchanged()?;
    writer.finish()?;
    Ok(reports)
}

/// Proves every tensor of `target`: the plan is run again, and each byte that it gives must stand there.
///
/// # Errors
/// [`ConvertError::Verify`] at the first difference, and those of [`execute`].
pub fn verify(
    plan: &Plan,
    source: &Source,
    target: &Path,
    monitor: &Monitor<'_>,
) -> Result<(), ConvertError> {
    let file = SafetensorsFile::open(target)?;
    let layout = Layout::of(plan.outputs.clone(), &plan.metadata)?;
    if file.header_bytes() != layout.header() {
        return Err(ConvertError::Verify {
            path: target.to_owned(),
            tensor: "header".to_owned(),
            at: 0,
        });
    }
    let views = plan
        .outputs
        .iter()
        .map(|o| {
            file.view(&o.name).ok_or_else(|| ConvertError::Verify {
                path: target.to_owned(),
                tensor: o.name.clone(),
                at: 0,
            })
        })
        .collect::<Result<_, _>>()?;
    let comparison = Comparison {
        reader: file.reader()?,
        views,
    };
    run(plan, &Readers::open(source)?, &comparison, monitor)?;
    Ok(())
}

/// A written file that must hold what it is given.
struct Comparison {
    reader: Reader,
    views: Vec<TensorView>,
}

impl Sink for Comparison {
    fn put(&self, index: usize, offset: u64, bytes: &[u8]) -> Result<(), ConvertError> {
        let view = &self.views[index];
        let mut there = vec![0; bytes.len()];
        self.reader.read_at(view, offset as usize, &mut there)?;
        match there.iter().zip(bytes).position(|(a, b)| a != b) {
            None => Ok(()),
            Some(at) => Err(ConvertError::Verify {
                path: view.file().path().to_owned(),
                tensor: view.name().to_owned(),
                at: offset + at as u64,
            }),
        }
    }
}

/// What a step works with.
pub(super) struct Work<'a> {
    pub plan: &'a Plan,
    pub readers: &'a Readers,
    sink: &'a dyn Sink,
    monitor: &'a Monitor<'a>,
}

impl Work<'_> {
    /// Hands bytes of an output over, unless the user wants to stop.
    pub fn put(&self, index: usize, offset: u64, bytes: &[u8]) -> Result<(), ConvertError> {
        if self.monitor.cancel.is_cancelled() {
            return Err(ConvertError::Cancelled);
        }
        self.sink.put(index, offset, bytes)?;
        (self.monitor.done)(bytes.len() as u64);
        Ok(())
    }
}

fn run(
    plan: &Plan,
    readers: &Readers,
    sink: &dyn Sink,
    monitor: &Monitor<'_>,
) -> Result<Vec<LayerReport>, ConvertError> {
    let work = Work {
        plan,
        readers,
        sink,
        monitor,
    };
    // Thousands of small tensors side by side, large ones one after the other with all threads on each.
    let (small, large): (Vec<&Step>, Vec<&Step>) =
        plan.steps.iter().partition(|s| s.bytes() < CHUNK);
    let mut reports = small
        .into_par_iter()
        .map(|step| work.step(step))
        .collect::<Result<Vec<_>, _>>()?;
    for step in large {
        reports.push(work.step(step)?);
    }
    let mut reports: Vec<_> = reports.into_iter().flatten().collect();
    reports.sort_by_key(|(layer, _)| *layer);
    Ok(reports.into_iter().map(|(_, report)| report).collect())
}

impl Step {
    /// Bytes of its source.
    fn bytes(&self) -> usize {
        match self {
            Self::Bytes { bytes, .. } => bytes.len(),
            Self::Copy { view, .. }
            | Self::Widen { view, .. }
            | Self::Nvfp4 { view, .. }
            | Self::Fp8 { view, .. } => view.byte_len(),
        }
    }
}

impl Work<'_> {
    /// One step; gives the figures of a layer that is quantized, with its place in the plan.
    fn step(&self, step: &Step) -> Result<Option<(usize, LayerReport)>, ConvertError> {
        match step {
            Step::Bytes { bytes, to } => self.put(*to, 0, bytes)?,
            Step::Copy { view, to } => {
                self.chunks(view, |offset, bytes| self.put(*to, offset as u64, bytes))?
            }
            Step::Widen { view, to } => self.chunks(view, |offset, bytes| {
                let wide = to_bf16(view.dtype(), bytes);
                self.put(*to, 2 * offset as u64, &wide)
            })?,
            Step::Nvfp4 {
                view,
                weight_scale,
                layer,
                to,
            } => {
                let quantizer = Quantizer::new(self, view, *weight_scale, *layer);
                return Ok(Some((*layer, quantizer.nvfp4(to)?)));
            }
            Step::Fp8 {
                view,
                weight_scale,
                layer,
                to,
            } => {
                let quantizer = Quantizer::new(self, view, *weight_scale, *layer);
                return Ok(Some((*layer, quantizer.fp8(to)?)));
            }
        }
        Ok(None)
    }

    /// All bytes of `view`, in chunks, as long as they are numbers.
    fn chunks(
        &self,
        view: &TensorView,
        each: impl Fn(usize, &[u8]) -> Result<(), ConvertError> + Sync,
    ) -> Result<(), ConvertError> {
        (0..view.byte_len().div_ceil(CHUNK))
            .into_par_iter()
            .try_for_each_init(Vec::new, |buf, chunk| {
                let offset = chunk * CHUNK;
                buf.resize(CHUNK.min(view.byte_len() - offset), 0);
                self.readers.read(view, offset, buf)?;
                if let Some(at) = first_non_finite(view.dtype(), buf) {
                    let width = widen::width(view.dtype()).unwrap_or(1);
                    return Err(ConvertError::NotFinite {
                        path: view.file().path().to_owned(),
                        tensor: view.name().to_owned(),
                        at: offset / width + at,
                    });
                }
                each(offset, buf)
            })
    }
}

/// FP8 bytes as BF16, exactly: it has more bits in both of its parts.
fn to_bf16(dtype: Dtype, bytes: &[u8]) -> Vec<u8> {
    let mut wide = vec![0.0; bytes.len()];
    widen::widen(dtype, bytes, &mut wide);
    wide.iter()
        .flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes())
        .collect()
}
