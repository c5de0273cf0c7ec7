//! Speed against quality: a point for each row, and the front that no row beats in both.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::ReportError;
use super::columns::{Better, Column, SPEEDUP, rows};
use super::labels::{Area, NEAR, along, place};
use super::plot::{
    ACCENT, Canvas, Drawn, FONT, GRID, INK, MUTED, PAPER, draw, letters, range, tick, width,
};
use crate::bench::results::{Results, Variant};

/// Units of the page.
const SIZE: (u32, u32) = (480, 380);

/// A row.
struct Point<'a> {
    name: &'a str,
    at: (f64, f64),
    /// 95 % intervals of both.
    spread: [Option<[f64; 2]>; 2],
    baseline: bool,
}

/// Speedup across, `figure` up; nothing if fewer than two rows have it.
pub(super) fn scatter(
    title: &'static str,
    figure: &Column,
    results: &Results,
) -> Result<Option<String>, ReportError> {
    let points = points(figure, results);
    if points.iter().filter(|p| !p.baseline).count() < 2 {
        return Ok(None);
    }
    draw(title, SIZE, |canvas| paint(canvas, &points, figure)).map(Some)
}

/// What the baseline has in `figure`, if that is known without measuring.
fn own(figure: &Column) -> Option<f64> {
    match figure.better {
        Better::Lower => Some(0.0),
        Better::Higher => Some(100.0),
        Better::Neither => None,
    }
}

fn points<'a>(figure: &Column, results: &'a Results) -> Vec<Point<'a>> {
    let done = rows(results).filter(|(_, row)| row.error.is_none());
    let point = |(name, row): (&'a str, &Variant)| {
        let baseline = name == results.baseline;
        let x = SPEEDUP.value(row).or(baseline.then_some(1.0))?;
        let y = figure.value(row).or(own(figure).filter(|_| baseline))?;
        Some(Point {
            name,
            at: (x, y),
            spread: [SPEEDUP.interval(row), figure.interval(row)],
            baseline,
        })
    };
    done.filter_map(point).collect()
}

/// Which points no other beats in both, from slow to fast.
fn front(points: &[Point<'_>], better: Better) -> Vec<usize> {
    let sign = if better == Better::Higher { -1.0 } else { 1.0 };
    let mut order: Vec<_> = (0..points.len()).collect();
    let cost = |i: usize| (-points[i].at.0, sign * points[i].at.1);
    order.sort_by(|&a, &b| {
        let (a, b) = (cost(a), cost(b));
        a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
    });
    let mut best = f64::INFINITY;
    order.retain(|&i| {
        let y = cost(i).1;
        let kept = y < best;
        best = best.min(y);
        kept
    });
    order.reverse();
    order
}

/// The ends of the lines for both intervals.
fn whiskers(p: &Point<'_>) -> impl Iterator<Item = [(f64, f64); 2]> {
    let (x, y) = p.at;
    let across = p.spread[0].map(|[low, high]| [(low, y), (high, y)]);
    let up = p.spread[1].map(|[low, high]| [(x, low), (x, high)]);
    across.into_iter().chain(up)
}

fn paint(canvas: &Canvas<'_>, points: &[Point<'_>], figure: &Column) -> Drawn {
    let all = |axis: usize| {
        let own = move |p: &Point<'_>| [p.at.0, p.at.1][axis];
        points
            .iter()
            .flat_map(move |p| p.spread[axis].into_iter().flatten().chain([own(p)]))
    };
    let (xs, ys) = (range(all(0)), range(all(1)));
    let (x_span, y_span) = (xs.end - xs.start, ys.end - ys.start);
    let mut chart = ChartBuilder::on(canvas)
        .margin_top(2 * FONT)
        .margin_right(20)
        .x_label_area_size(3 * FONT)
        .y_label_area_size(4 * FONT)
        .build_cartesian_2d(xs, ys)?;
    chart
        .configure_mesh()
        .x_labels(6)
        .y_labels(6)
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .label_style(letters(MUTED, HPos::Left, VPos::Top))
        .x_label_formatter(&|v| format!("{}×", tick(*v, x_span)))
        .y_label_formatter(&|v| tick(*v, y_span))
        .draw()?;
    titles(canvas, figure)?;

    let front = front(points, figure.better);
    let area = chart.plotting_area();
    let line: Vec<_> = front.iter().map(|&i| points[i].at).collect();
    let whiskers: Vec<_> = points.iter().flat_map(whiskers).collect();
    area.draw(&PathElement::new(line.clone(), ACCENT.stroke_width(4)))?;
    for [from, to] in &whiskers {
        area.draw(&PathElement::new(vec![*from, *to], MUTED.stroke_width(2)))?;
    }
    for (i, p) in points.iter().enumerate() {
        let color = if front.contains(&i) { ACCENT } else { MUTED };
        area.draw(&Circle::new(p.at, 9, color.filled()))?;
        if p.baseline {
            area.draw(&Circle::new(p.at, 5, PAPER.filled()))?;
        }
    }
    let at = points
        .iter()
        .map(|p| (chart.backend_coord(&p.at), width(p.name)));
    let drawn = line
        .windows(2)
        .map(|ends| [ends[0], ends[1]])
        .chain(whiskers);
    let drawn = drawn.map(|ends| ends.map(|end| chart.backend_coord(&end)));
    let covered: Vec<_> = drawn.flat_map(|[from, to]| along(from, to)).collect();
    names(canvas, points, &at.collect::<Vec<_>>(), covered)
}

/// What the axes are, at their ends and level, where they can be read.
fn titles(canvas: &Canvas<'_>, figure: &Column) -> Drawn {
    let (w, h) = canvas.dim_in_pixel();
    let (w, h) = (w as i32, h as i32);
    let up = match figure.better {
        Better::Lower => format!("{} (lower is better)", figure.name),
        _ => format!("{} (higher is better)", figure.name),
    };
    canvas.draw(&Text::new(
        up,
        (0, FONT / 2),
        letters(INK, HPos::Left, VPos::Center),
    ))?;
    let across = "speedup (higher is better)";
    let place = (w - 20, h - FONT / 2);
    Ok(canvas.draw(&Text::new(
        across,
        place,
        letters(INK, HPos::Right, VPos::Center),
    ))?)
}

fn names(
    canvas: &Canvas<'_>,
    points: &[Point<'_>],
    at: &[((i32, i32), i32)],
    covered: Vec<Area>,
) -> Drawn {
    let (w, h) = canvas.dim_in_pixel();
    let mut areas = vec![[4 * FONT, 2 * FONT, w as i32, h as i32 - 3 * FONT]];
    areas.extend(covered);
    for (p, (&(dot, wide), (left, distance))) in
        points.iter().zip(at.iter().zip(place(at, FONT, &areas)))
    {
        if distance > NEAR {
            let half = FONT / 2 * (dot.1 - left.1).signum();
            let end = match left.0 {
                x if x > dot.0 => (x - 4, left.1),
                x if x + wide < dot.0 => (x + wide + 4, left.1),
                _ => (dot.0, left.1 + half),
            };
            let line = vec![dot, end];
            canvas.draw(&PathElement::new(line, MUTED.stroke_width(2)))?;
        }
        let style = letters(INK, HPos::Left, VPos::Center);
        canvas.draw(&Text::new(p.name.to_owned(), left, style))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_is_what_no_row_beats() {
        let point = |x, y| Point {
            name: "",
            at: (x, y),
            spread: [None, None],
            baseline: false,
        };
        let points = [
            point(1.0, 0.0),
            point(1.2, 0.3),
            point(1.3, 0.2),
            point(1.5, 0.2),
            point(1.5, 0.4),
        ];
        assert_eq!(front(&points, Better::Lower), [0, 3]);
        assert_eq!(front(&points, Better::Higher), [4]);
    }
}
