//! The pixels that the reader looks at.

/// An RGB picture, row-major, three bytes a pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pixels {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height x width x 3` bytes.
    pub rgb: Vec<u8>,
}

impl Pixels {
    /// The pixel at column `x`, row `y`.
    pub(super) fn at(&self, x: usize, y: usize) -> [f32; 3] {
        let start = 3 * (y * self.width + x);
        [0, 1, 2].map(|c| f32::from(self.rgb[start + c]))
    }
}

/// A set of pixels of a `width x height` picture, with its bounding box.
#[derive(Clone)]
pub(super) struct Mask {
    pub width: usize,
    pub height: usize,
    /// Row-major, one per pixel.
    pub set: Vec<bool>,
}

/// The box of a mask: columns `x0..x1`, rows `y0..y1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub x0: usize,
    pub x1: usize,
    pub y0: usize,
    pub y1: usize,
}

impl Mask {
    /// The mask of `points` (indices into the picture).
    pub fn of(width: usize, height: usize, points: &[usize]) -> Self {
        let mut set = vec![false; width * height];
        for point in points {
            set[*point] = true;
        }
        Self { width, height, set }
    }

    /// The pixels that are set, in row-major order.
    pub fn points(&self) -> impl Iterator<Item = usize> {
        (0..self.set.len()).filter(|i| self.set[*i])
    }

    /// The smallest box around the set pixels; empty for an empty mask.
    pub fn bounds(&self) -> Bounds {
        bounds(self.width, self.points())
    }

    /// The set pixels whose four neighbours are set too; pixels on the picture's edge count as they are.
    pub fn inner(&self) -> Self {
        let (w, h) = (self.width, self.height);
        let mut set = self.set.clone();
        for y in 1..h.saturating_sub(1) {
            for x in 1..w.saturating_sub(1) {
                let i = y * w + x;
                set[i] = [i, i - w, i + w, i - 1, i + 1].iter().all(|n| self.set[*n]);
            }
        }
        Self { set, ..*self }
    }

    /// The 4-connected parts, each a list of indices, in the order in which a row-major scan meets them.
    pub fn components(&self) -> Vec<Vec<usize>> {
        let (w, h) = (self.width, self.height);
        let mut seen = vec![false; w * h];
        let mut parts = Vec::new();
        for start in self.points() {
            if seen[start] {
                continue;
            }
            seen[start] = true;
            let (mut part, mut next) = (Vec::new(), vec![start]);
            while let Some(i) = next.pop() {
                part.push(i);
                let (x, y) = (i % w, i / w);
                let neighbours = [
                    (y + 1 < h).then(|| i + w),
                    (y > 0).then(|| i - w),
                    (x + 1 < w).then(|| i + 1),
                    (x > 0).then(|| i - 1),
                ];
                for n in neighbours.into_iter().flatten() {
                    if self.set[n] && !seen[n] {
                        seen[n] = true;
                        next.push(n);
                    }
                }
            }
            parts.push(part);
        }
        parts
    }
}

/// The smallest box around `points` of a picture `width` wide.
pub(super) fn bounds(width: usize, points: impl Iterator<Item = usize>) -> Bounds {
    let start = Bounds {
        x0: usize::MAX,
        x1: 0,
        y0: usize::MAX,
        y1: 0,
    };
    points.fold(start, |b, i| Bounds {
        x0: b.x0.min(i % width),
        x1: b.x1.max(i % width + 1),
        y0: b.y0.min(i / width),
        y1: b.y1.max(i / width + 1),
    })
}
