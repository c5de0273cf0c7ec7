//! The eight shapes as signed distances, as the training scenes draw them.

use super::scene::words;

words! {
    /// What an object is.
    Shape {
        /// A filled disc.
        Circle = "circle",
        /// An upright square.
        Square = "square",
        /// An upright triangle.
        Triangle = "triangle",
        /// A five-pointed star.
        Star = "star",
        /// A square on its corner.
        Diamond = "diamond",
        /// A plus sign.
        Cross = "cross",
        /// A disc with a hole.
        Ring = "ring",
        /// A heart.
        Heart = "heart",
    }
}

impl Shape {
    /// The (approximate) signed distance to the outline, negative inside, in units of the radius; `u` goes
    /// right, `v` down, the origin is the centre.
    pub(super) fn sdf(self, u: f64, v: f64) -> f64 {
        let (au, av) = (u.abs(), v.abs());
        match self {
            Self::Circle => u.hypot(v) - 0.95,
            Self::Square => au.max(av) - 0.82,
            Self::Diamond => (au + av - 1.1) / 1.2,
            Self::Cross => {
                let (upright, level) = ((au - 0.32).max(av - 1.0), (au - 1.0).max(av - 0.32));
                upright.min(level)
            }
            Self::Ring => (u.hypot(v) - 0.72).abs() - 0.26,
            Self::Triangle => (au * 0.866 - v * 0.5 - 0.5).max(v - 0.75),
            Self::Star => star(u, v),
            Self::Heart => {
                let (x, y) = (au, -v);
                let lobe = (x - 0.48).hypot(y - 0.38) - 0.52;
                let point = (x * 0.78 - y * 0.62 - 0.62).max((y - 0.42).max(x - 0.98));
                lobe.min(point)
            }
        }
    }

    /// The box of the unit shape, sampled on a grid of 0.01: (left, right, top, bottom).
    pub(super) fn extent(self) -> (f64, f64, f64, f64) {
        let step = 2.6 / 260.0;
        let at = |i: i32| f64::from(i) * step - 1.3;
        let mut extent = (f64::MAX, f64::MIN, f64::MAX, f64::MIN);
        for row in 0..261 {
            for column in 0..261 {
                let (u, v) = (at(column), at(row));
                if self.sdf(u, v) < 0.0 {
                    extent.0 = extent.0.min(u);
                    extent.1 = extent.1.max(u);
                    extent.2 = extent.2.min(v);
                    extent.3 = extent.3.max(v);
                }
            }
        }
        extent
    }
}

/// Distance to the edge from a tip to a notch, after folding the plane to one half point.
fn star(u: f64, v: f64) -> f64 {
    let wedge = 2.0 * std::f64::consts::PI / 5.0;
    let folded = ((u.atan2(-v) + wedge / 2.0).rem_euclid(wedge) - wedge / 2.0).abs();
    let radius = u.hypot(v);
    let (x, y) = (radius * folded.cos(), radius * folded.sin());
    let (tip_x, tip_y) = (1.12, 0.0);
    let (notch_x, notch_y) = (0.48 * (wedge / 2.0).cos(), 0.48 * (wedge / 2.0).sin());
    let (edge_x, edge_y) = (notch_x - tip_x, notch_y - tip_y);
    ((y - tip_y) * -edge_x + (x - tip_x) * edge_y) / edge_x.hypot(edge_y)
}
