//! The velocity error of each row, step by step.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::ReportError;
use super::columns::rows;
use super::labels::stack;
use super::plot::{Canvas, Drawn, FONT, GRID, INK, MUTED, draw, letters, series, tick, width};
use crate::bench::results::Results;

/// Units of the page.
const SIZE: (u32, u32) = (480, 380);
/// Names longer than this many half units are let out of the picture.
const WIDEST: i32 = 240;

/// A row's name, its colour and its errors from step 1 on.
type Curve<'a> = (&'a str, usize, &'a [f64]);

/// A line for each row; nothing if none has errors.
pub(super) fn curves(
    title: &'static str,
    results: &Results,
) -> Result<Option<String>, ReportError> {
    let done = rows(results).enumerate();
    let curves = done.filter_map(|(i, (name, row))| {
        let steps = row.quality.velocity_by_step.as_slice();
        let drawn = steps.iter().any(|v| v.is_finite());
        drawn.then_some((name, i, steps))
    });
    let curves: Vec<Curve<'_>> = curves.collect();
    match curves.is_empty() {
        true => Ok(None),
        false => draw(title, SIZE, |canvas| paint(canvas, &curves)).map(Some),
    }
}

fn points(steps: &[f64]) -> Vec<(f64, f64)> {
    let numbered = steps.iter().enumerate();
    let points = numbered.map(|(i, v)| ((i + 1) as f64, *v));
    points.filter(|p| p.1.is_finite()).collect()
}

fn paint(canvas: &Canvas<'_>, curves: &[Curve<'_>]) -> Drawn {
    let steps = curves.iter().map(|c| c.2.len()).max().unwrap_or(1);
    let all = curves.iter().flat_map(|c| c.2).filter(|v| v.is_finite());
    let top = all.fold(1e-6, |a: f64, v| a.max(*v)) * 1.06;
    let names = curves.iter().map(|c| width(c.0)).max().unwrap_or(0);
    let mut chart = ChartBuilder::on(canvas)
        .margin_top(2 * FONT)
        .margin_right(names.min(WIDEST) + 2 * FONT)
        .x_label_area_size(3 * FONT)
        .y_label_area_size(4 * FONT)
        .build_cartesian_2d(1.0..(steps as f64).max(1.001), 0.0..top)?;
    chart
        .configure_mesh()
        .x_labels(steps.clamp(2, 9))
        .y_labels(6)
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .label_style(letters(MUTED, HPos::Left, VPos::Top))
        .x_label_formatter(&|v| match v.fract() == 0.0 {
            true => format!("{v:.0}"),
            false => String::new(),
        })
        .y_label_formatter(&|v| tick(*v, top))
        .draw()?;
    let area = chart.plotting_area();
    for (_, i, steps) in curves {
        let points = points(steps);
        area.draw(&PathElement::new(
            points.clone(),
            series(*i).stroke_width(4),
        ))?;
        for p in points {
            area.draw(&Circle::new(p, 5, series(*i).filled()))?;
        }
    }
    let ends = curves.iter().filter_map(|c| points(c.2).last().copied());
    let ends: Vec<_> = ends.map(|p| chart.backend_coord(&p)).collect();
    ends_named(canvas, curves, &ends)
}

/// Names at the right, as near to the ends of their lines as there is room.
fn ends_named(canvas: &Canvas<'_>, curves: &[Curve<'_>], ends: &[(i32, i32)]) -> Drawn {
    let (w, h) = canvas.dim_in_pixel();
    let (w, h) = (w as i32, h as i32);
    let ink = |h| letters(INK, h, VPos::Center);
    canvas.draw(&Text::new(
        "velocity error (lower is better)",
        (0, FONT / 2),
        ink(HPos::Left),
    ))?;
    let wanted: Vec<_> = ends.iter().map(|e| e.1).collect();
    let room = (2 * FONT, h - 3 * FONT);
    let gap = (FONT * 5 / 4).min((room.1 - room.0) / wanted.len().max(1) as i32);
    let heights = stack(&wanted, gap, room);
    let right = ends.iter().map(|e| e.0).max().unwrap_or(0);
    for ((name, i, _), (end, y)) in curves.iter().zip(ends.iter().zip(heights)) {
        let line = vec![*end, (right + FONT, y)];
        canvas.draw(&PathElement::new(line, series(*i).stroke_width(2)))?;
        canvas.draw(&Text::new(
            (*name).to_owned(),
            (right + FONT + 8, y),
            ink(HPos::Left),
        ))?;
    }
    Ok(canvas.draw(&Text::new("step", (w - 20, h - FONT / 2), ink(HPos::Right)))?)
}
