//! Which shape a mask is: the one whose ideal mask overlaps best over a few radii and shifts.

use std::sync::LazyLock;

use super::picture::Mask;
use super::shape::Shape;

/// The best fit of a mask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fit {
    /// The shape.
    pub shape: Shape,
    /// Intersection over union with its ideal mask.
    pub iou: f64,
    /// Its radius in units of the picture's width.
    pub radius: f64,
}

/// A shape drawn at a place.
struct Ideal {
    shape: Shape,
    cx: f64,
    cy: f64,
    r: f64,
}

/// Left, right, top and bottom of a shape of radius 1.
type Extent = (f64, f64, f64, f64);

static EXTENTS: LazyLock<Vec<(Shape, Extent)>> =
    LazyLock::new(|| Shape::ALL.iter().map(|s| (*s, s.extent())).collect());

/// Tries every shape at three radii and nine shifts around the mask's box.
pub(super) fn fit(mask: &Mask) -> Option<Fit> {
    let area = mask.points().count();
    let b = mask.bounds();
    if area == 0 {
        return None;
    }
    let (x0, x1, y0, y1) = (b.x0 as f64, b.x1 as f64, b.y0 as f64, b.y1 as f64);
    let mut best: Option<Fit> = None;
    for &(shape, (left, right, top, bottom)) in EXTENTS.iter() {
        let r0 = ((x1 - x0) / (right - left) + (y1 - y0) / (bottom - top)) / 2.0;
        for r in [r0 * 0.92, r0, r0 * 1.08] {
            let cx = (x0 + x1) / 2.0 - r * (left + right) / 2.0;
            let cy = (y0 + y1) / 2.0 - r * (top + bottom) / 2.0;
            for dx in [-0.7, 0.0, 0.7] {
                for dy in [-0.7, 0.0, 0.7] {
                    let ideal = Ideal {
                        shape,
                        cx: cx + dx,
                        cy: cy + dy,
                        r,
                    };
                    let iou = overlap(mask, area, &ideal);
                    if best.is_none_or(|f| iou > f.iou) {
                        let radius = r / mask.width as f64;
                        best = Some(Fit { shape, iou, radius });
                    }
                }
            }
        }
    }
    best
}

/// Intersection over union of the mask (of `area` pixels) and the ideal shape.
fn overlap(mask: &Mask, area: usize, ideal: &Ideal) -> f64 {
    // No unit shape reaches beyond 1.3, hence pixels further away need no look.
    let reach = 1.3 * ideal.r + 1.0;
    let span = |centre: f64, side: usize| {
        let first = (centre - reach).floor().max(0.0) as usize;
        let last = ((centre + reach).ceil().max(0.0) as usize).min(side);
        first.min(last)..last
    };
    let (mut both, mut drawn) = (0usize, 0usize);
    for y in span(ideal.cy, mask.height) {
        let v = (y as f64 + 0.5 - ideal.cy) / ideal.r;
        for x in span(ideal.cx, mask.width) {
            let u = (x as f64 + 0.5 - ideal.cx) / ideal.r;
            if ideal.shape.sdf(u, v) < 0.0 {
                drawn += 1;
                both += usize::from(mask.set[y * mask.width + x]);
            }
        }
    }
    both as f64 / (area + drawn - both).max(1) as f64
}
