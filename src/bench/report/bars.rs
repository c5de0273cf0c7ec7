//! Where the time of a picture goes: a bar for each row, a piece for each part.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::ReportError;
use super::columns::rows;
use super::commands::parts;
use super::plot::{Canvas, Drawn, FONT, GRID, INK, MUTED, draw, letters, series, width};
use super::text::{escape, seconds};
use crate::bench::results::{Results, Variant};

/// Units of the page: width, height of a bar with its gap, height of the rest.
const WIDTH: u32 = 480;
const BAR: u32 = 27;
const REST: u32 = 40;
/// Names longer than this many half units run out of the picture.
const WIDEST: i32 = 300;

/// Bars with their legend; nothing if no row has parts.
pub(super) fn bars(title: &'static str, results: &Results) -> Result<Option<String>, ReportError> {
    let parts = parts(results);
    let timed: Vec<_> = rows(results).filter(|(_, row)| total(row) > 0.0).collect();
    if timed.is_empty() {
        return Ok(None);
    }
    let height = BAR * timed.len() as u32 + REST;
    let svg = draw(title, (WIDTH, height), |canvas| {
        paint(canvas, &timed, &parts)
    })?;
    let legend = parts.iter().enumerate().map(|(i, part)| {
        let i = i % super::plot::SERIES;
        format!(
            "<li><i style=\"background:var(--s{i})\"></i>{}</li>",
            escape(part)
        )
    });
    let legend: String = legend.collect();
    Ok(Some(format!("<ul class=\"legend\">{legend}</ul>{svg}")))
}

fn total(row: &Variant) -> f64 {
    row.parts_s.values().filter(|v| v.is_finite()).sum()
}

fn paint(canvas: &Canvas<'_>, timed: &[(&str, &Variant)], parts: &[&str]) -> Drawn {
    let longest = timed.iter().map(|(_, row)| total(row)).fold(0.0, f64::max);
    let names = timed.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
    let mut chart = ChartBuilder::on(canvas)
        .margin_right(4 * FONT)
        .x_label_area_size(2 * FONT)
        .y_label_area_size(names.min(WIDEST) + 16)
        .build_cartesian_2d(0.0..longest, 0.0..timed.len() as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_labels(5)
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .label_style(letters(MUTED, HPos::Left, VPos::Top))
        .x_label_formatter(&|v| match *v == 0.0 {
            true => "0".to_owned(),
            false => format!(
                "{} s",
                seconds(*v).trim_end_matches('0').trim_end_matches('.')
            ),
        })
        .draw()?;
    let area = chart.plotting_area();
    for (i, (name, row)) in timed.iter().enumerate() {
        let middle = timed.len() as f64 - i as f64 - 0.5;
        let mut from = 0.0;
        for (s, part) in parts.iter().enumerate() {
            let took = row.parts_s.get(*part).copied().unwrap_or(0.0);
            if !(took.is_finite() && took > 0.0) {
                continue;
            }
            let corners = [(from, middle - 0.36), (from + took, middle + 0.36)];
            area.draw(&Rectangle::new(corners, series(s).filled()))?;
            from += took;
        }
        let (x0, y) = chart.backend_coord(&(0.0, middle));
        let (x1, _) = chart.backend_coord(&(from, middle));
        let left = letters(INK, HPos::Right, VPos::Center);
        canvas.draw(&Text::new((*name).to_owned(), (x0 - 12, y), left))?;
        let right = letters(INK, HPos::Left, VPos::Center);
        canvas.draw(&Text::new(seconds(from), (x1 + 8, y), right))?;
    }
    Ok(())
}
