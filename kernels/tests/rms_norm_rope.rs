//! Head norms and rotations against the same formulas in f64, and where their rows go.
//!
//! Bound of an f32 result: 2^-19 of the pair's length (about 20 roundings in a row), then half a bf16 step, at most 2^-8 |y|.

#![allow(clippy::unwrap_used, clippy::panic)]

mod rows;

use half::bf16;
use qwen_nvfp4_kernels::rms_norm_rope::{HeadNorm, Strides};
use qwen_nvfp4_kernels::{Gpu, KernelError};

use rows::{Random, down, gpu, same, up};

/// What is turned, on the host; the buffer is `[batch, sequence, groups, heads, head_dim]`.
struct Case {
    x: Vec<bf16>,
    weights: Vec<bf16>,
    cos: Vec<f32>,
    sin: Vec<f32>,
    head_dim: usize,
    heads: usize,
    groups: usize,
    batch: usize,
    sequence: usize,
}

impl Case {
    fn new(
        seed: u64,
        [head_dim, heads, groups]: [usize; 3],
        [batch, sequence]: [usize; 2],
    ) -> Self {
        let mut random = Random(seed);
        let angles: Vec<f64> = (0..sequence * head_dim / 2)
            .map(|_| random.uniform() * 40.0)
            .collect();
        Self {
            x: random.bf16s(batch * sequence * groups * heads * head_dim, 2.0),
            weights: random.bf16s(2 * head_dim, 1.0),
            cos: angles.iter().map(|a| a.cos() as f32).collect(),
            sin: angles.iter().map(|a| a.sin() as f32).collect(),
            head_dim,
            heads,
            groups,
            batch,
            sequence,
        }
    }

    fn width(&self) -> usize {
        self.groups * self.heads * self.head_dim
    }

    /// Strides of rows without gaps.
    fn dense(&self) -> Strides {
        Strides {
            row: self.width(),
            batch: self.sequence * self.width(),
        }
    }

    /// From `x` (or in place, where `x` is the buffer) into `buffer` from `start` on.
    fn run(
        &self,
        gpu: &Gpu,
        buffer: &[bf16],
        (start, to): (usize, Strides),
        in_place: bool,
    ) -> Result<Vec<bf16>, KernelError> {
        let stream = gpu.stream();
        let (x, weights) = (up(stream, &self.x), up(stream, &self.weights));
        let (cos, sin) = (up(stream, &self.cos), up(stream, &self.sin));
        let mut out = up(stream, buffer);
        let norm = HeadNorm {
            weights: &weights.as_view(),
            cos: &cos.as_view(),
            sin: &sin.as_view(),
            head_dim: self.head_dim,
            heads: self.heads,
            groups: self.groups,
            batch: self.batch,
            sequence: self.sequence,
            eps: 1e-6,
        };
        let x = x.as_view();
        let input = (!in_place).then(|| (&x, self.dense()));
        norm.run(gpu, input, (&mut out.slice_mut(start..), to))?;
        Ok(down(stream, &out.as_view()))
    }

    /// Row `(b, s)` of the result.
    fn check_row(&self, (b, s): (usize, usize), got: &[bf16]) {
        let (head, width) = (self.head_dim, self.width());
        let row = &self.x[(b * self.sequence + s) * width..][..width];
        for (h, (x, got)) in row.chunks(head).zip(got.chunks(head)).enumerate() {
            let group = h / self.heads;
            if group >= 2 {
                same("a copied head", got, x);
                continue;
            }
            let x: Vec<f64> = x.iter().map(|x| x.to_f64()).collect();
            let square = x.iter().map(|x| x * x).sum::<f64>() / head as f64;
            for pair in 0..head / 2 {
                let at = s * head / 2 + pair;
                let (c, n) = (f64::from(self.cos[at]), f64::from(self.sin[at]));
                let [a, b] = [0, 1].map(|i| {
                    let weight = self.weights[group * head + 2 * pair + i].to_f64();
                    x[2 * pair + i] / (square + 1e-6).sqrt() * weight
                });
                for (i, exact) in [(0, a * c - b * n), (1, a * n + b * c)] {
                    let got = got[2 * pair + i].to_f64();
                    let bound = a.hypot(b) * 2f64.powi(-19) + exact.abs() * 2f64.powi(-8);
                    let error = (got - exact).abs();
                    assert!(
                        error <= bound,
                        "head {h}, pair {pair}: {got}, exactly {exact}"
                    );
                }
            }
        }
    }
}

/// Queries and keys of a fused projection, in place, and the values behind them copied.
#[test]
fn a_fused_projection_is_turned_in_place() {
    for (i, (shape, rows)) in [
        ([128, 2, 3], [1, 5]),
        ([128, 1, 2], [2, 3]),
        ([64, 3, 3], [1, 20]),
        ([32, 5, 2], [3, 7]),
        ([32, 1, 2], [1, 1]),
        ([128, 24, 2], [1, 2]),
    ]
    .into_iter()
    .enumerate()
    {
        let case = Case::new(i as u64, shape, rows);
        for card in ["rtx5090", "a100"] {
            let gpu = gpu(card);
            let got = case.run(&gpu, &case.x, (0, case.dense()), true).unwrap();
            for (row, got) in got.chunks(case.width()).enumerate() {
                case.check_row((row / case.sequence, row % case.sequence), got);
            }
        }
    }
}

/// Text and image go to their places of a joint sequence, and nothing else is touched.
#[test]
fn streams_go_to_their_places_in_the_joint_sequence() {
    let gpu = gpu("rtx5090");
    let (text, image) = (
        Case::new(7, [64, 2, 2], [2, 5]),
        Case::new(8, [64, 2, 2], [2, 11]),
    );
    let row = 3 * 128 + 8;
    let to = Strides {
        row,
        batch: 16 * row,
    };
    let empty = vec![bf16::from_f32(-7.0); 2 * 16 * row];
    let joint = text.run(&gpu, &empty, (0, to), false).unwrap();
    let joint = image.run(&gpu, &joint, (5 * row, to), false).unwrap();
    for (at, got) in joint.chunks(row).enumerate() {
        let (b, s) = (at / 16, at % 16);
        match s.checked_sub(5) {
            None => text.check_row((b, s), &got[..256]),
            Some(s) => image.check_row((b, s), &got[..256]),
        }
        same("behind the row", &got[256..], &empty[256..row]);
    }
}

#[test]
fn results_do_not_depend_on_where_they_go() {
    let gpu = gpu("rtx5090");
    let case = Case::new(9, [128, 2, 2], [2, 9]);
    let in_place = case.run(&gpu, &case.x, (0, case.dense()), true).unwrap();
    let empty = vec![bf16::ZERO; case.x.len()];
    let apart = case.run(&gpu, &empty, (0, case.dense()), false).unwrap();
    same("in place and apart", &in_place, &apart);
}

#[test]
fn what_does_not_fit_is_refused() {
    let gpu = gpu("rtx5090");
    let told = |case: &Case, to: Strides| {
        case.run(&gpu, &case.x, (0, to), true)
            .unwrap_err()
            .to_string()
    };
    let mut case = Case::new(10, [64, 2, 2], [2, 3]);
    let dense = case.dense();
    assert!(
        told(
            &case,
            Strides {
                batch: dense.batch + 8,
                ..dense
            }
        )
        .contains("the output")
    );
    assert!(told(&case, Strides { row: 248, ..dense }).contains("strides 768 and 248"));
    assert!(
        told(
            &case,
            Strides {
                batch: 248,
                ..dense
            }
        )
        .contains("strides 248 and 256")
    );
    // The second sequence would begin within the first one's last row.
    let batch = 2 * dense.row + 8;
    assert!(told(&case, Strides { batch, ..dense }).contains("strides 520 and 256"));
    case.cos.pop();
    assert!(told(&case, dense).contains("the cosines"));
    case.head_dim = 96;
    assert!(told(&case, dense).contains("heads of 96"));
    let mut case = Case::new(11, [64, 2, 1], [1, 3]);
    case.groups = 1;
    assert!(told(&case, case.dense()).contains("2 weights for 1 groups"));
}
