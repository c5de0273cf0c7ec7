//! One weight to NVFP4 or FP8, read in chunks of whole rows, once per question that its numbers must answer.
//!
//! A weight that is E4M3 already answers all of them in one pass, as counts of byte pairs, and is then translated by
//! tables. Any other is widened: its largest number, the errors of all candidate scales at once, its codes.

use rayon::prelude::*;
use safetensors::Dtype;

use super::error::ConvertError;
use super::execute::{CHUNK, Work};
use super::report::LayerReport;
use crate::checkpoint::TensorView;
use crate::numerics::e4m3_source::{DoubleQuantization, FourSix, Histogram, Split, Tables};
use crate::numerics::error::ErrorStats;
use crate::numerics::nvfp4::{self, BLOCK};
use crate::numerics::search::{self, Candidate, Format, Method, Search};
use crate::numerics::widen::{self, widen};
use crate::numerics::{fp8, swizzle};

/// A weight to be quantized.
pub(super) struct Quantizer<'a> {
    work: &'a Work<'a>,
    view: &'a TensorView,
    weight_scale: f32,
    layer: usize,
    rows: usize,
    k: usize,
    /// Rows per chunk.
    tall: usize,
}

/// A chunk of rows: bytes as stored, and room for their numbers.
#[derive(Default)]
struct Buffers {
    stored: Vec<u8>,
    numbers: Vec<f32>,
    codes: Vec<u8>,
}

impl<'a> Quantizer<'a> {
    pub fn new(work: &'a Work<'a>, view: &'a TensorView, weight_scale: f32, layer: usize) -> Self {
        let (rows, k) = (view.shape()[0], view.shape()[1]);
        let row_bytes = (view.byte_len() / rows.max(1)).max(1);
        Self {
            work,
            view,
            weight_scale,
            layer,
            rows,
            k,
            tall: (CHUNK / row_bytes).max(1),
        }
    }

    fn is_e4m3(&self) -> bool {
        self.view.dtype() == Dtype::F8_E4M3
    }

    fn method(&self) -> Method {
        self.work.plan.method
    }

    /// Codes, block scales and `weight_scale_2` to the outputs `to`.
    pub fn nvfp4(&self, to: &[usize; 3]) -> Result<LayerReport, ConvertError> {
        let mut scales = vec![0u8; self.rows * self.k / BLOCK];
        let (best, mut report) = match self.is_e4m3() {
            true => self.nvfp4_from_e4m3(to[0], &mut scales)?,
            false => self.nvfp4_from_numbers(to[0], &mut scales)?,
        };
        let columns = self.k / BLOCK;
        let [height, width] = swizzle::padded(self.rows, columns);
        let mut blocked = vec![0u8; height * width];
        swizzle::to_blocked(&scales, columns, &mut blocked);
        self.work.put(to[1], 0, &blocked)?;
        self.work.put(to[2], 0, &best.scale.to_le_bytes())?;
        self.name(&mut report, best);
        Ok(report)
    }

    /// Codes and `weight_scale` to the outputs `to`.
    pub fn fp8(&self, to: &[usize; 2]) -> Result<LayerReport, ConvertError> {
        let (best, mut report) = match self.is_e4m3() {
            true => self.fp8_from_e4m3(to[0])?,
            false => self.fp8_from_numbers(to[0])?,
        };
        self.work.put(to[1], 0, &best.scale.to_le_bytes())?;
        self.name(&mut report, best);
        Ok(report)
    }

    fn name(&self, report: &mut LayerReport, best: Candidate) {
        let plan = &self.work.plan.layers[self.layer];
        report.layer.clone_from(&plan.name);
        (report.from, report.to) = (plan.from, plan.to);
        (report.scale, report.ratio) = (best.scale, best.ratio);
    }

    fn nvfp4_from_e4m3(
        &self,
        to: usize,
        scales: &mut [u8],
    ) -> Result<(Candidate, LayerReport), ConvertError> {
        let histogram = self.count()?;
        let best = self.choose_e4m3(Format::Nvfp4, &histogram);
        let tables = Tables::new(best.scale, self.weight_scale);
        let stats = if self.method() == Method::FourSix {
            let four_six = FourSix::new(best.scale, self.weight_scale);
            let parts = self.translate(to, scales, |bytes, codes, scales| {
                let mut split = Split::default();
                four_six.quantize(bytes, codes, scales, &mut split)?;
                Ok(split)
            })?;
            let mut whole = Split::default();
            parts.iter().for_each(|part| whole.merge(part));
            four_six.stats(&whole)
        } else {
            self.translate(to, scales, |bytes, codes, scales| {
                tables.quantize(bytes, codes, scales)
            })?;
            tables.stats(&histogram)
        };
        let mut report = LayerReport::of(&stats);
        report.double_quantization_db =
            Some(DoubleQuantization::model(&histogram, &tables).added_db());
        Ok((best, report))
    }

    /// Every chunk of E4M3 rows through `quantize(bytes, codes, scales)`.
    fn translate<T: Send>(
        &self,
        to: usize,
        scales: &mut [u8],
        quantize: impl Fn(
            &[u8],
            &mut [u8],
            &mut [u8],
        ) -> Result<T, crate::numerics::e4m3_source::NanByte>
        + Sync,
    ) -> Result<Vec<T>, ConvertError> {
        scales
            .par_chunks_mut(self.tall * self.k / BLOCK)
            .enumerate()
            .map_init(Buffers::default, |b, (chunk, scales)| {
                self.read(chunk, b)?;
                b.codes.resize(b.stored.len() / 2, 0);
                let result = quantize(&b.stored, &mut b.codes, scales)
                    .map_err(|nan| self.not_finite(chunk, nan.index))?;
                self.work
                    .put(to, (chunk * self.tall * self.k / 2) as u64, &b.codes)?;
                Ok(result)
            })
            .collect()
    }

    fn nvfp4_from_numbers(
        &self,
        to: usize,
        scales: &mut [u8],
    ) -> Result<(Candidate, LayerReport), ConvertError> {
        let best = self.choose(Format::Nvfp4)?;
        let rule = self.method().block_rule();
        let parts = scales
            .par_chunks_mut(self.tall * self.k / BLOCK)
            .enumerate()
            .map_init(Buffers::default, |b, (chunk, scales)| {
                self.numbers(chunk, b)?;
                b.codes.resize(b.numbers.len() / 2, 0);
                nvfp4::quantize(&b.numbers, best.scale, rule, &mut b.codes, scales);
                self.work
                    .put(to, (chunk * self.tall * self.k / 2) as u64, &b.codes)?;
                Ok(ErrorStats::nvfp4(&b.numbers, &b.codes, scales, best.scale))
            })
            .collect::<Result<Vec<_>, ConvertError>>()?;
        Ok((best, LayerReport::of(&sum(&parts))))
    }

    fn fp8_from_e4m3(&self, to: usize) -> Result<(Candidate, LayerReport), ConvertError> {
        let histogram = self.count()?;
        let best = self.choose_e4m3(Format::Fp8, &histogram);
        let table = fp8::requantize(self.weight_scale, best.scale);
        self.each(|chunk, b| {
            self.read(chunk, b)?;
            let codes: Vec<u8> = b.stored.iter().map(|c| table[usize::from(*c)]).collect();
            self.work
                .put(to, (chunk * self.tall * self.k) as u64, &codes)
        })?;
        let stats = search::fp8_stats(&histogram, self.weight_scale, best.scale);
        Ok((best, LayerReport::of(&stats)))
    }

    fn fp8_from_numbers(&self, to: usize) -> Result<(Candidate, LayerReport), ConvertError> {
        let best = self.choose(Format::Fp8)?;
        let parts = self.each(|chunk, b| {
            self.numbers(chunk, b)?;
            b.codes.resize(b.numbers.len(), 0);
            fp8::quantize(&b.numbers, best.scale, &mut b.codes);
            self.work
                .put(to, (chunk * self.tall * self.k) as u64, &b.codes)?;
            Ok(ErrorStats::fp8(&b.numbers, &b.codes, best.scale))
        })?;
        Ok((best, LayerReport::of(&sum(&parts))))
    }

    /// The scale for numbers of any type: one pass for the largest, one for the errors of all candidates.
    fn choose(&self, format: Format) -> Result<Candidate, ConvertError> {
        let largest = self.each(|chunk, b| {
            self.numbers(chunk, b)?;
            let amax = search::amax(&b.numbers);
            if amax.is_finite() {
                return Ok(amax);
            }
            let at = b.numbers.iter().position(|x| !x.is_finite());
            Err(self.not_finite(chunk, at.unwrap_or_default()))
        })?;
        let amax = largest.into_iter().fold(0.0, f32::max);
        let mut whole = Search::new(format, self.method(), amax);
        if self.method() == Method::Mse {
            let parts = self.each(|chunk, b| {
                self.numbers(chunk, b)?;
                let mut part = Search::new(format, self.method(), amax);
                part.add(&b.numbers);
                Ok(part)
            })?;
            parts.iter().for_each(|part| whole.merge(part));
        }
        Ok(whole.best())
    }

    /// The same for a weight that was counted.
    fn choose_e4m3(&self, format: Format, histogram: &Histogram) -> Candidate {
        let method = self.method();
        search::best(&search::search_e4m3(
            format,
            method,
            histogram,
            self.weight_scale,
        ))
    }

    fn count(&self) -> Result<Histogram, ConvertError> {
        let parts = self.each(|chunk, b| {
            self.read(chunk, b)?;
            let mut part = Histogram::new();
            part.add(&b.stored)
                .map_err(|nan| self.not_finite(chunk, nan.index))?;
            Ok(part)
        })?;
        let mut whole = Histogram::new();
        parts.iter().for_each(|part| whole.merge(part));
        Ok(whole)
    }

    /// `work` on every chunk, by all threads; results in the order of the rows.
    fn each<T: Send>(
        &self,
        work: impl Fn(usize, &mut Buffers) -> Result<T, ConvertError> + Sync,
    ) -> Result<Vec<T>, ConvertError> {
        (0..self.rows.div_ceil(self.tall))
            .into_par_iter()
            .map_init(Buffers::default, |b, chunk| work(chunk, b))
            .collect()
    }

    /// The stored bytes of a chunk.
    fn read(&self, chunk: usize, b: &mut Buffers) -> Result<(), ConvertError> {
        let row_bytes = self.view.byte_len() / self.rows;
        let first = chunk * self.tall;
        let rows = self.tall.min(self.rows - first);
        b.stored.resize(rows * row_bytes, 0);
        self.work
            .readers
            .read(self.view, first * row_bytes, &mut b.stored)
    }

    /// The numbers of a chunk, scaled.
    fn numbers(&self, chunk: usize, b: &mut Buffers) -> Result<(), ConvertError> {
        self.read(chunk, b)?;
        let width = widen::width(self.view.dtype()).unwrap_or(1);
        b.numbers.resize(b.stored.len() / width, 0.0);
        widen(self.view.dtype(), &b.stored, &mut b.numbers);
        if self.weight_scale != 1.0 {
            b.numbers.iter_mut().for_each(|v| *v *= self.weight_scale);
        }
        Ok(())
    }

    /// The error for number `index` of a chunk.
    fn not_finite(&self, chunk: usize, index: usize) -> ConvertError {
        let row = chunk * self.tall + index / self.k;
        ConvertError::Layer {
            path: self.view.file().path().to_owned(),
            layer: self.work.plan.layers[self.layer].name.clone(),
            reason: format!(
                "its weight is NaN or infinite at row {row}, column {}; get the file again from its source",
                index % self.k
            ),
        }
    }
}

fn sum(parts: &[ErrorStats]) -> ErrorStats {
    let mut whole = ErrorStats::default();
    parts.iter().for_each(|part| whole.merge(part));
    whole
}
