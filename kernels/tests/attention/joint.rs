//! A joint sequence before its norms and rotations, and what becomes of it.

use cudarc::driver::{CudaSlice, CudaView};
use half::bf16;
use qwen_nvfp4_kernels::attention::{HeadRows, Operands};
use qwen_nvfp4_kernels::attention_fp8::Fp8Layout;
use qwen_nvfp4_kernels::qk_norm_rope_fp8::{Joint, NormedHeads, Stream};
use qwen_nvfp4_kernels::rms_norm_rope::{HeadNorm, Strides};
use qwen_nvfp4_kernels::{Gpu, KernelError};

use super::data::Random;
use super::run::{output, with_form};
use super::{Case, HEAD, Inputs};

pub const EPS: f32 = 1e-6;
/// Numbers behind each row that nobody may touch.
const GAP: usize = 8;

/// One stream on the host: q, k and v side by side, `[batch, rows, heads + 2 kv_heads, 128]` and a gap behind each row.
#[derive(Clone)]
pub struct Raw {
    pub rows: usize,
    pub qkv: Vec<bf16>,
    /// Of queries and of keys.
    pub weights: [Vec<bf16>; 2],
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
}

fn columns(case: &Case) -> usize {
    (case.heads + 2 * case.kv_heads) * HEAD
}

fn row(case: &Case) -> usize {
    columns(case) + GAP
}

impl Raw {
    /// Numbers with an offset in each channel, and angles of a few turns; NaN in the gaps.
    pub fn random(case: &Case, rows: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut qkv = random.normals(case.batch * rows * row(case), 1.5);
        for (i, x) in qkv.iter_mut().enumerate() {
            let column = i % row(case);
            let offset = ((column % HEAD) as f32).sin();
            let shifted = bf16::from_f32(x.to_f32() + offset);
            *x = if column < columns(case) {
                shifted
            } else {
                bf16::NAN
            };
        }
        let mut weight = || {
            let normals = random.normals(HEAD, 0.3);
            let near_one = normals.iter().map(|x| bf16::from_f32(1.0 + x.to_f32()));
            near_one.collect::<Vec<_>>()
        };
        let weights = [weight(), weight()];
        let angles: Vec<f64> = (0..rows * HEAD / 2)
            .map(|_| random.uniform() * 40.0)
            .collect();
        Self {
            rows,
            qkv,
            weights,
            cos: angles.iter().map(|a| a.cos() as f32).collect(),
            sin: angles.iter().map(|a| a.sin() as f32).collect(),
        }
    }

    /// NaN in keys and values of the rows from `valid[b]` on.
    pub fn poison(&mut self, case: &Case, valid: &[u32]) {
        for (batch, valid) in valid.iter().enumerate() {
            for s in *valid as usize..self.rows {
                let from = (batch * self.rows + s) * row(case);
                self.qkv[from + case.heads * HEAD..from + columns(case)].fill(bf16::NAN);
            }
        }
    }

    /// Head `head` of the queries (`part` 0), keys (1) or values (2), normalised and rotated in f64, rounded once.
    fn head(
        &self,
        case: &Case,
        (batch, s): (usize, usize),
        (part, head): (usize, usize),
    ) -> Vec<bf16> {
        let before = [0, case.heads, case.heads + case.kv_heads][part];
        let from = (batch * self.rows + s) * row(case) + (before + head) * HEAD;
        let x = &self.qkv[from..from + HEAD];
        if part == 2 {
            return x.to_vec();
        }
        let x: Vec<f64> = x.iter().map(|x| x.to_f64()).collect();
        let square = x.iter().map(|x| x * x).sum::<f64>() / HEAD as f64;
        let inverse = (square + f64::from(EPS)).sqrt().recip();
        let mut to = vec![];
        for pair in 0..HEAD / 2 {
            let [a, b] = [0, 1]
                .map(|i| x[2 * pair + i] * inverse * self.weights[part][2 * pair + i].to_f64());
            let at = s * HEAD / 2 + pair;
            let (c, n) = (f64::from(self.cos[at]), f64::from(self.sin[at]));
            to.extend([a * c - b * n, a * n + b * c].map(bf16::from_f64));
        }
        to
    }
}

/// The operands of attention, contiguous, by the definition.
pub fn normed(case: &Case, streams: &[Raw]) -> Inputs {
    let part = |part: usize, heads: usize| {
        let mut to = vec![];
        for batch in 0..case.batch {
            for stream in streams {
                for s in 0..stream.rows {
                    (0..heads).for_each(|h| to.extend(stream.head(case, (batch, s), (part, h))));
                }
            }
        }
        to
    };
    Inputs {
        q: part(0, case.heads),
        k: part(1, case.kv_heads),
        v: part(2, case.kv_heads),
    }
}

/// A stream on the card.
struct Device {
    rows: usize,
    qkv: CudaSlice<bf16>,
    weights: [CudaSlice<bf16>; 2],
    angles: [CudaSlice<f32>; 2],
}

/// Views of it.
pub struct Views<'a> {
    pub rows: usize,
    pub parts: [CudaView<'a, bf16>; 3],
    pub weights: [CudaView<'a, bf16>; 2],
    pub angles: [CudaView<'a, f32>; 2],
}

impl Device {
    fn new(gpu: &Gpu, raw: &Raw) -> Self {
        let up = |x: &Vec<f32>| gpu.stream().clone_htod(x).unwrap();
        Self {
            rows: raw.rows,
            qkv: gpu.stream().clone_htod(&raw.qkv).unwrap(),
            weights: [0, 1].map(|i| gpu.stream().clone_htod(&raw.weights[i]).unwrap()),
            angles: [up(&raw.cos), up(&raw.sin)],
        }
    }

    fn views(&self, case: &Case) -> Views<'_> {
        let starts = [0, case.heads, case.heads + case.kv_heads];
        Views {
            rows: self.rows,
            parts: starts.map(|heads| self.qkv.slice((heads * HEAD).min(self.qkv.len())..)),
            weights: [0, 1].map(|i| self.weights[i].as_view()),
            angles: [0, 1].map(|i| self.angles[i].as_view()),
        }
    }
}

impl Views<'_> {
    pub fn stream(&self, case: &Case) -> Stream<'_> {
        let place = |part: usize| HeadRows {
            data: &self.parts[part],
            row: row(case),
            batch: self.rows * row(case),
        };
        let normed = |part: usize| NormedHeads {
            heads: place(part),
            weight: &self.weights[part],
        };
        Stream {
            rows: self.rows,
            q: Some(normed(0)),
            k: normed(1),
            v: place(2),
            cos: &self.angles[0],
            sin: &self.angles[1],
        }
    }

    /// Through `rms_norm_rope.cu` into a joint sequence `[batch, keys, columns]`, behind `before` rows of it.
    fn turn(
        &self,
        (gpu, case): (&Gpu, &Case),
        joint: &mut CudaSlice<bf16>,
        before: usize,
    ) -> Result<(), KernelError> {
        let (strides, columns) = (row(case), columns(case));
        let from = Strides {
            row: strides,
            batch: self.rows * strides,
        };
        let to = Strides {
            row: columns,
            batch: case.keys * columns,
        };
        // Queries, then keys with the values behind them.
        for (part, heads, groups) in [(0, case.heads, 1), (1, case.kv_heads, 2)] {
            let norm = HeadNorm {
                weights: &self.weights[part],
                cos: &self.angles[0],
                sin: &self.angles[1],
                head_dim: HEAD,
                heads,
                groups,
                batch: case.batch,
                sequence: self.rows,
                eps: EPS,
            };
            let start = before * columns + part * case.heads * HEAD;
            let out = (&mut joint.slice_mut(start..), to);
            norm.run(gpu, Some((&self.parts[part], from)), out)?;
        }
        Ok(())
    }
}

/// What came out, and what lies in the workspace.
#[derive(PartialEq)]
pub struct Ran {
    pub out: Vec<bf16>,
    pub workspace: Vec<u8>,
}

/// Each of a workspace's bytes before a run.
const BEFORE: u8 = 0x5a;

/// `call` with the streams; `queries` are those of the last streams of the sequence.
pub fn fused_with(
    gpu: &Gpu,
    case: &Case,
    raw: &[Raw],
    change: impl FnOnce(&mut Vec<Stream<'_>>),
) -> Result<Ran, KernelError> {
    let streams: Vec<Device> = raw.iter().map(|r| Device::new(gpu, r)).collect();
    let views: Vec<Views<'_>> = streams.iter().map(|s| s.views(case)).collect();
    let mut streams: Vec<Stream<'_>> = views.iter().map(|v| v.stream(case)).collect();
    change(&mut streams);
    let joint = Joint {
        streams: &streams,
        eps: EPS,
    };
    let mut out = output(gpu, case);
    with_form(gpu, case, |form| {
        let bytes = vec![BEFORE; Fp8Layout::of(form).bytes];
        let mut workspace = gpu.stream().clone_htod(&bytes).unwrap();
        form.fp8_normed(
            gpu,
            &mut out.as_view_mut(),
            &joint,
            &mut workspace.as_view_mut(),
        )?;
        Ok(Ran {
            out: gpu.stream().clone_dtoh(&out).unwrap(),
            workspace: gpu.stream().clone_dtoh(&workspace).unwrap(),
        })
    })
}

/// `qk_norm_rope_fp8.cu` and attention.
pub fn fused(gpu: &Gpu, case: &Case, raw: &[Raw]) -> Result<Ran, KernelError> {
    fused_with(gpu, case, raw, |_| ())
}

/// The same through bf16 operands: `rms_norm_rope.cu`, `attention_fp8_prepare.cu` and attention.
pub fn separate(gpu: &Gpu, case: &Case, raw: &[Raw]) -> Ran {
    let columns = columns(case);
    let empty = vec![bf16::NAN; case.batch * case.keys * columns];
    let mut joint = gpu.stream().clone_htod(&empty).unwrap();
    let mut before = 0;
    for raw in raw {
        let stream = Device::new(gpu, raw);
        stream
            .views(case)
            .turn((gpu, case), &mut joint, before)
            .unwrap();
        before += raw.rows;
    }
    let starts = [0, case.heads, case.heads + case.kv_heads];
    let parts = starts.map(|heads| joint.slice(heads * HEAD..));
    let [q, k, v] = [0, 1, 2].map(|i| HeadRows {
        data: &parts[i],
        row: columns,
        batch: case.keys * columns,
    });
    let mut out = output(gpu, case);
    with_form(gpu, case, |form| {
        let bytes = vec![BEFORE; Fp8Layout::of(form).bytes];
        let mut workspace = gpu.stream().clone_htod(&bytes).unwrap();
        let (to, workspace_view) = (&mut out.as_view_mut(), &mut workspace.as_view_mut());
        form.fp8(gpu, to, &Operands { q, k, v }, workspace_view)
            .unwrap();
        Ran {
            out: gpu.stream().clone_dtoh(&out).unwrap(),
            workspace: gpu.stream().clone_dtoh(&workspace).unwrap(),
        }
    })
}
