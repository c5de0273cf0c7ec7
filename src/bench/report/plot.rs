//! What all plots share: a canvas that becomes inline SVG whose colours are the page's.
//!
//! The drawing library writes colours as numbers. Each role has a number that nothing else has; it becomes a CSS variable, so
//! that one SVG serves light and dark pages.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::ReportError;
use super::text::escape;

/// Where plots are drawn. Its whole numbers are half units of the page, as the library rounds to them.
pub(super) type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// What drawing may end with.
pub(super) type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Colours that series have before they repeat.
pub(super) const SERIES: usize = 12;
/// Height of letters; `style.css` makes them smaller where plots are shown larger.
pub(super) const FONT: i32 = 28;

/// Text.
pub(super) const INK: RGBColor = role(0);
/// Text of less weight.
pub(super) const MUTED: RGBColor = role(1);
/// Lines behind the data.
pub(super) const GRID: RGBColor = role(2);
/// What to look at.
pub(super) const ACCENT: RGBColor = role(3);
/// The page.
pub(super) const PAPER: RGBColor = role(4);
const ROLES: [&str; 5] = ["ink", "muted", "grid", "accent", "paper"];

const fn role(number: u8) -> RGBColor {
    RGBColor(1, 2, number)
}

/// The colour of series `i`; in CSS `var(--s{i})`.
pub(super) fn series(i: usize) -> RGBColor {
    role((ROLES.len() + i % SERIES) as u8)
}

/// A plot of `width x height` units.
///
/// # Errors
/// [`ReportError::Plot`] if the library finds a coordinate that it cannot draw.
pub(super) fn draw(
    title: &'static str,
    (width, height): (u32, u32),
    paint: impl FnOnce(&Canvas<'_>) -> Drawn,
) -> Result<String, ReportError> {
    let mut svg = String::new();
    let canvas = SVGBackend::with_string(&mut svg, (2 * width, 2 * height)).into_drawing_area();
    let painted = paint(&canvas).and_then(|()| Ok(canvas.present()?));
    drop(canvas);
    painted.map_err(|e| ReportError::Plot {
        plot: title,
        reason: e.to_string(),
    })?;
    Ok(inline(&svg, title, (2 * width, 2 * height)))
}

/// The document without its head, with the page's colours. Quotes in texts are escaped, so that only attributes match.
fn inline(svg: &str, title: &str, (width, height): (u32, u32)) -> String {
    let body = svg.split_once('>').map_or("", |(_, body)| body);
    let title = escape(title);
    let mut out =
        format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{title}\">{body}");
    for (i, name) in ROLES.iter().enumerate() {
        out = out.replace(&attribute(i), &format!("=\"var(--{name})\""));
    }
    for i in 0..SERIES {
        out = out.replace(&attribute(ROLES.len() + i), &format!("=\"var(--s{i})\""));
    }
    out
}

fn attribute(number: usize) -> String {
    format!("=\"#0102{number:02X}\"")
}

/// Letters in a colour, hung at `h` and `v`.
pub(super) fn letters(color: RGBColor, h: HPos, v: VPos) -> TextStyle<'static> {
    // The library takes the height of a line, which it holds to be 1.24 letters.
    let font = ("sans-serif", f64::from(FONT) * 1.24).into_font();
    TextStyle {
        color: color.to_backend_color(),
        pos: Pos::new(h, v),
        ..TextStyle::from(font)
    }
}

/// How wide a text will be, roughly: the page's font is not known here.
pub(super) fn width(text: &str) -> i32 {
    text.chars().count() as i32 * FONT * 57 / 100
}

/// The range of `values` with some air; of some width in any case.
pub(super) fn range(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
        (l.min(v), h.max(v))
    });
    if !(low.is_finite() && high.is_finite()) {
        return 0.0..1.0;
    }
    let air = match high - low {
        d if d > 1e-9 * high.abs().max(1e-9) => d * 0.09,
        _ => high.abs().max(1e-3) * 0.1,
    };
    low - air..high + air
}

/// A number at an axis: as few digits as tell neighbours apart.
pub(super) fn tick(value: f64, span: f64) -> String {
    let digits = (0.8 - span.log10()).ceil().clamp(0.0, 4.0) as usize;
    let text = format!("{value:.digits$}");
    match text.trim_start_matches(['-', '0', '.']).is_empty() {
        true => "0".to_owned(),
        false => text,
    }
}
