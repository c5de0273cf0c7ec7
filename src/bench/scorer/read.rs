//! Reads a picture back: its objects (colour, shape, size, place) and its background.

use super::fit::{Fit, fit};
use super::picture::{Mask, Pixels, bounds};
use super::scene::{Back, Color, Size, Style};
use super::shape::Shape;

/// An object that was found.
#[derive(Clone, Debug)]
pub struct Object {
    /// The nearest colour of the palette.
    pub color: Color,
    /// The shape that overlaps best.
    pub shape: Shape,
    /// Intersection over union with that shape.
    pub iou: f64,
    /// Small below a radius of 0.2 of the side.
    pub size: Size,
    /// Centre of its box, columns, in units of the width.
    pub cx: f64,
    /// Centre of its box, rows, in units of the height.
    pub cy: f64,
}

/// What a picture shows.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The objects, in scan order.
    pub objects: Vec<Object>,
    /// The background's colour.
    pub back: Back,
    /// The background's fill.
    pub style: Style,
}

/// Parts smaller than this share of the picture are specks.
const SPECK: f64 = 0.006;
/// A part this much longer than wide is two objects that touch.
const TWO_OBJECTS: f64 = 1.55;

/// Reads `picture` without knowing its caption.
pub fn read(picture: &Pixels) -> Reading {
    let back = nearest_background(picture);
    let [main, second] = back.rgb();
    let objects_mask = Mask {
        width: picture.width,
        height: picture.height,
        set: pixels(picture)
            .map(|(x, y)| {
                let px = picture.at(x, y);
                let object = Color::ALL.iter().map(|c| distance(px, c.rgb()));
                object.fold(f32::INFINITY, f32::min) < segment_distance(px, main, second)
            })
            .collect(),
    };
    let least = SPECK * (picture.width * picture.height) as f64;
    let objects = objects_mask
        .components()
        .into_iter()
        .filter(|part| part.len() as f64 >= least)
        .flat_map(|part| split(picture.width, part))
        .filter(|part| part.len() as f64 >= least)
        .filter_map(|part| object(picture, &Mask::of(picture.width, picture.height, &part)))
        .collect();
    let style = style(picture, &objects_mask, back);
    Reading {
        objects,
        back,
        style,
    }
}

/// Every (x, y), row-major.
fn pixels(picture: &Pixels) -> impl Iterator<Item = (usize, usize)> {
    let width = picture.width;
    (0..width * picture.height).map(move |i| (i % width, i / width))
}

/// The background whose colours the picture's rim is nearest to, by the median over the rim.
fn nearest_background(picture: &Pixels) -> Back {
    let (w, h) = (picture.width, picture.height);
    let rim = (h / 24).max(2);
    let inside = |at: usize, side: usize| at >= rim && at + rim < side;
    let mut best = (f32::INFINITY, Back::Pink);
    for back in Back::ALL {
        let [main, second] = back.rgb();
        let distances = pixels(picture)
            .filter(|(x, y)| !(inside(*x, w) && inside(*y, h)))
            .map(|(x, y)| segment_distance(picture.at(x, y), main, second))
            .collect();
        let middle = median(distances);
        if middle < best.0 {
            best = (middle, *back);
        }
    }
    best.1
}

/// Two touching objects make one long part: cut it in the middle.
fn split(width: usize, part: Vec<usize>) -> Vec<Vec<usize>> {
    let b = bounds(width, part.iter().copied());
    let (tall, wide) = ((b.y1 - b.y0) as f64, (b.x1 - b.x0) as f64);
    if tall > TWO_OBJECTS * wide {
        let middle = b.y0 as f64 + tall / 2.0;
        let (a, b) = part
            .into_iter()
            .partition(|i| ((i / width) as f64) < middle);
        vec![a, b]
    } else if wide > TWO_OBJECTS * tall {
        let middle = b.x0 as f64 + wide / 2.0;
        let (a, b) = part
            .into_iter()
            .partition(|i| ((i % width) as f64) < middle);
        vec![a, b]
    } else {
        vec![part]
    }
}

fn object(picture: &Pixels, mask: &Mask) -> Option<Object> {
    let Fit { shape, iou, radius } = fit(mask)?;
    // Anti-aliased edges would blur the colour; specks of six pixels have no inside.
    let inner = mask.inner();
    let seen = match inner.points().count() >= 6 {
        true => &inner,
        false => mask,
    };
    let channel = |c: usize| {
        let values = seen
            .points()
            .map(|i| picture.at(i % mask.width, i / mask.width)[c]);
        median(values.collect())
    };
    let rgb = [channel(0), channel(1), channel(2)];
    let color = Color::ALL
        .iter()
        .copied()
        .min_by(|a, b| distance(rgb, a.rgb()).total_cmp(&distance(rgb, b.rgb())))?;
    let b = mask.bounds();
    Some(Object {
        color,
        shape,
        iou,
        size: if radius < 0.20 {
            Size::Small
        } else {
            Size::Large
        },
        cx: (b.x0 + b.x1) as f64 / 2.0 / picture.width as f64,
        cy: (b.y0 + b.y1) as f64 / 2.0 / picture.height as f64,
    })
}

/// The fill whose ideal picture is nearest to the pixels that belong to no object.
fn style(picture: &Pixels, objects: &Mask, back: Back) -> Style {
    let [main, second] = back.rgb();
    let mut best = (f64::INFINITY, Style::Plain);
    for style in Style::ALL {
        let (mut sum, mut n) = (0.0, 0usize);
        for (x, y) in pixels(picture) {
            if objects.set[y * picture.width + x] {
                continue;
            }
            let t = match style {
                Style::Plain => 0.0,
                Style::Striped => ((x as f64 + 0.5) / picture.width as f64 * 8.0).floor() % 2.0,
                Style::Gradient => (y as f64 + 0.5) / picture.height as f64,
            };
            let px = picture.at(x, y);
            for c in 0..3 {
                let ideal = f64::from(main[c]) * (1.0 - t) + f64::from(second[c]) * t;
                sum += (f64::from(px[c]) - ideal).abs();
                n += 1;
            }
        }
        let mean = sum / n as f64;
        if mean < best.0 {
            best = (mean, *style);
        }
    }
    best.1
}

fn distance(a: [f32; 3], b: [f32; 3]) -> f32 {
    (0..3)
        .map(|c| (a[c] - b[c]) * (a[c] - b[c]))
        .sum::<f32>()
        .sqrt()
}

/// Distance of a colour to the segment from `a` to `b`.
fn segment_distance(px: [f32; 3], a: [f32; 3], b: [f32; 3]) -> f32 {
    let dot = |u: [f32; 3], v: [f32; 3]| u[0] * v[0] + u[1] * v[1] + u[2] * v[2];
    let ab = [b[0] - a[0], b[1] - a[1], b[2] - a[2]];
    let ap = [px[0] - a[0], px[1] - a[1], px[2] - a[2]];
    let t = (dot(ap, ab) / dot(ab, ab)).clamp(0.0, 1.0);
    distance(px, [a[0] + t * ab[0], a[1] + t * ab[1], a[2] + t * ab[2]])
}

/// The middle value; the mean of the two middle ones where their number is even.
fn median(mut values: Vec<f32>) -> f32 {
    if values.is_empty() {
        return f32::NAN;
    }
    values.sort_by(f32::total_cmp);
    let half = values.len() / 2;
    match values.len() % 2 {
        1 => values[half],
        _ => (values[half - 1] + values[half]) / 2.0,
    }
}
