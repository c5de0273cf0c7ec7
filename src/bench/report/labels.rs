//! Where names go so that they cover neither each other nor a point.

/// Left, top, right and bottom.
pub(super) type Area = [i32; 4];

/// How far from its point a name may be, in steps outwards; the first needs no line to its point.
pub(super) const NEAR: i32 = 18;
const DISTANCES: [i32; 5] = [NEAR, 44, 72, 104, 140];
/// Directions in the order in which they are tried.
const DIRECTIONS: [(f64, f64); 8] = [
    (1.0, 0.0),
    (0.5, -1.1),
    (0.5, 1.1),
    (-1.0, 0.0),
    (-0.5, -1.1),
    (-0.5, 1.1),
    (0.0, -1.0),
    (0.0, 1.0),
];

/// A place for each name: its left end, halfway up, and how far it is from its point.
///
/// `points` are the points with the names' widths; `height` is theirs; names are within the first of `areas` and off the others.
pub(super) fn place(
    points: &[((i32, i32), i32)],
    height: i32,
    areas: &[Area],
) -> Vec<((i32, i32), i32)> {
    let dots = points
        .iter()
        .map(|((x, y), _)| [x - 9, y - 9, x + 9, y + 9]);
    let (bounds, others) = areas
        .split_first()
        .map_or(([0; 4], areas), |(b, o)| (*b, o));
    let mut taken: Vec<Area> = dots.chain(others.iter().copied()).collect();
    let mut places = Vec::with_capacity(points.len());
    for &((x, y), width) in points {
        let tries = DISTANCES.iter().flat_map(|&d| {
            DIRECTIONS.iter().map(move |&(dx, dy)| {
                let anchor = (
                    x + (dx * f64::from(d)) as i32,
                    y + (dy * f64::from(d)) as i32,
                );
                let left = match dx {
                    dx if dx > 0.0 => anchor.0,
                    dx if dx < 0.0 => anchor.0 - width,
                    _ => anchor.0 - width / 2,
                };
                ((left, anchor.1), d)
            })
        });
        let area = |(left, middle): (i32, i32)| {
            [left, middle - height / 2, left + width, middle + height / 2]
        };
        let free = |place: &((i32, i32), i32)| {
            let a = area(place.0);
            within(a, bounds) && !taken.iter().any(|t| overlap(a, *t))
        };
        let first = ((x + NEAR, y), NEAR);
        let place = tries.into_iter().find(free).unwrap_or(first);
        taken.push(area(place.0));
        places.push(place);
    }
    places
}

fn within(a: Area, b: Area) -> bool {
    a[0] >= b[0] && a[1] >= b[1] && a[2] <= b[2] && a[3] <= b[3]
}

fn overlap(a: Area, b: Area) -> bool {
    a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]
}

/// Areas along a line, which a name should not cover.
pub(super) fn along(from: (i32, i32), to: (i32, i32)) -> impl Iterator<Item = Area> {
    const STEP: i32 = 8;
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let n = (dx.abs().max(dy.abs()) / STEP).max(1);
    (0..=n).map(move |i| {
        let (x, y) = (from.0 + dx * i / n, from.1 + dy * i / n);
        [x - 3, y - 3, x + 3, y + 3]
    })
}

/// Heights near those wanted, at least `gap` apart, none below `top`.
pub(super) fn stack(wanted: &[i32], gap: i32, (top, bottom): (i32, i32)) -> Vec<i32> {
    let mut order: Vec<_> = (0..wanted.len()).collect();
    order.sort_by_key(|&i| wanted[i]);
    let mut places = wanted.to_vec();
    let mut least = top;
    for &i in &order {
        places[i] = places[i].max(least);
        least = places[i] + gap;
    }
    let mut most = bottom;
    for &i in order.iter().rev() {
        places[i] = places[i].min(most);
        most = places[i] - gap;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_points_have_names_apart() {
        let places = place(&[((200, 200), 60); 6], 26, &[[0, 0, 400, 400]]);
        for (i, a) in places.iter().enumerate() {
            for b in &places[..i] {
                let (dx, dy) = (a.0.0 - b.0.0, a.0.1 - b.0.1);
                assert!(dx.abs() >= 60 || dy.abs() >= 26, "{places:?}");
            }
        }
    }

    #[test]
    fn stacked_names_keep_their_order_and_their_distance() {
        assert_eq!(stack(&[50, 10, 48], 20, (0, 100)), [68, 10, 48]);
        assert_eq!(stack(&[99, 98, 97], 20, (0, 100)), [100, 80, 60]);
    }
}
