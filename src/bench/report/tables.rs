//! Tables of the page: the summary, then all that is text by row.

use std::collections::BTreeMap;

use super::columns::{Better, Column, ORIGINAL, QUALITY, SPACE, learned, rows};
use super::commands::{against_f32, formats, parts, recipe};
use super::text::{NONE, escape, number, seconds};
use crate::bench::results::{Results, Variant};

/// Speed and size of all rows, the best of each in bold.
pub(super) fn speed(results: &Results) -> String {
    let groups: [(&str, &[Column]); 5] = [
        ("Layers", &ORIGINAL[..2]),
        ("Pictures", &ORIGINAL[2..4]),
        ("Speed", &ORIGINAL[4..]),
        ("Spread", &SPACE[..2]),
        ("Space", &SPACE[2..]),
    ];
    figures("Speed and size", &groups, results)
}

/// Quality of all rows.
pub(super) fn quality(results: &Results) -> String {
    let mut groups: Vec<(&str, &[Column])> = vec![
        ("Pictures against the baseline's", &QUALITY[..5]),
        ("Model", &QUALITY[5..6]),
        ("Prompt", &QUALITY[6..]),
    ];
    let learned = learned(results);
    if !learned.is_empty() {
        groups.insert(1, ("Learned", learned));
    }
    figures("Quality", &groups, results)
}

fn figures(title: &str, groups: &[(&str, &[Column])], results: &Results) -> String {
    let heads = groups.iter().map(|(name, columns)| {
        let n = columns.len();
        format!("<th colspan=\"{n}\" scope=\"colgroup\" class=\"edge\">{name}</th>")
    });
    let heads: String = heads.collect();
    let names = groups.iter().flat_map(|(_, columns)| {
        columns.iter().enumerate().map(|(i, c)| {
            let arrow = match c.better {
                Better::Higher => " <span class=\"way\" title=\"higher is better\">↑</span>",
                Better::Lower => " <span class=\"way\" title=\"lower is better\">↓</span>",
                Better::Neither => "",
            };
            let (edge, meaning) = (edge(i), escape(c.meaning));
            format!(
                "<th scope=\"col\"{edge} title=\"{meaning}\">{}{arrow}</th>",
                c.name
            )
        })
    });
    let names: String = names.collect();
    let body = rows(results).map(|(name, row)| {
        let cells = groups.iter().flat_map(|(_, columns)| {
            columns
                .iter()
                .enumerate()
                .map(|(i, c)| cell(c, i, (name, row), results))
        });
        let cells: String = cells.collect();
        let class = match (name == results.baseline, row.error.is_some()) {
            (_, true) => " class=\"failed\"",
            (true, _) => " class=\"baseline\"",
            _ => "",
        };
        let note = match (name == results.baseline, row.error.is_some()) {
            (_, true) => " <small class=\"bad\">failed</small>",
            (true, _) => " <small>baseline</small>",
            _ => "",
        };
        format!(
            "<tr{class}><th scope=\"row\" title=\"{}\">{}{note}</th>{cells}</tr>\n",
            escape(&recipe(row)),
            escape(name)
        )
    });
    let body: String = body.collect();
    scroll(
        title,
        &format!(
            "<table class=\"figures\"><caption class=\"hidden\">{title} by variant</caption><thead>\
             <tr><th rowspan=\"2\" scope=\"col\">variant</th>{heads}</tr><tr>{names}</tr></thead><tbody>\n{body}</tbody></table>"
        ),
    )
}

fn edge(i: usize) -> &'static str {
    if i == 0 { " class=\"edge\"" } else { "" }
}

fn cell(c: &Column, i: usize, (name, row): (&str, &Variant), results: &Results) -> String {
    let edge = edge(i);
    let (Some(text), Some(value)) = (c.text(row), c.value(row)) else {
        return format!("<td{edge}>{NONE}</td>");
    };
    let interval = c.interval_text(row);
    let interval = interval.map_or(String::new(), |i| format!("<small>{}</small>", escape(&i)));
    let text = match c.is_best((name, row), results) {
        true => format!("<b>{}</b>", escape(&text)),
        false => escape(&text),
    };
    format!("<td{edge} data-value=\"{value}\">{text}{interval}</td>")
}

/// A box that scrolls by itself.
fn scroll(label: &str, table: &str) -> String {
    format!(
        "<div class=\"scroll\" role=\"region\" aria-label=\"{label}\" tabindex=\"0\">{table}</div>"
    )
}

/// A row's name and its cells.
type Line<'a> = (&'a str, Vec<String>);

fn table(label: &str, class: &str, head: &[&str], body: &[Line<'_>]) -> String {
    let head = head
        .iter()
        .map(|h| format!("<th scope=\"col\">{}</th>", escape(h)));
    let head: String = head.collect();
    let body = body.iter().map(|(name, cells)| {
        let cells = cells.iter().map(|c| format!("<td>{}</td>", escape(c)));
        let cells: String = cells.collect();
        format!("<tr><th scope=\"row\">{}</th>{cells}</tr>\n", escape(name))
    });
    let body: String = body.collect();
    let table = format!(
        "<table class=\"{class}\"><caption class=\"hidden\">{label}</caption><thead><tr><th scope=\"col\">variant</th>{head}</tr></thead><tbody>\n\
         {body}</tbody></table>"
    );
    scroll(label, &table)
}

/// One cell for each name, `NONE` where `cells` has none.
fn by_name<V>(
    names: &[&str],
    cells: &BTreeMap<String, V>,
    show: impl Fn(&V) -> String,
) -> Vec<String> {
    let cell = |n: &&str| cells.get(*n).map_or(NONE.to_owned(), &show);
    names.iter().map(cell).collect()
}

/// The numbers of the bars.
pub(super) fn time(results: &Results) -> String {
    let parts = parts(results);
    let timed = rows(results).filter(|(_, row)| !row.parts_s.is_empty());
    let body: Vec<Line<'_>> = timed
        .map(|(name, row)| (name, by_name(&parts, &row.parts_s, |v| seconds(*v))))
        .collect();
    table("Seconds of a picture by part", "numbers", &parts, &body)
}

/// Which kernels ran; nothing if that is not known.
pub(super) fn kernels(results: &Results) -> Option<String> {
    let formats = formats(results);
    let known = rows(results).filter(|(_, row)| !row.kernels.is_empty());
    let body: Vec<Line<'_>> = known
        .map(|(name, row)| (name, by_name(&formats, &row.kernels, String::clone)))
        .collect();
    (!body.is_empty()).then(|| table("Kernels by format", "words", &formats, &body))
}

/// How each row was made.
pub(super) fn recipes(results: &Results) -> String {
    let body: Vec<Line<'_>> = rows(results)
        .map(|(name, row)| (name, vec![recipe(row)]))
        .collect();
    table("How each variant is made", "words", &["made of"], &body)
}

/// Figures against the F32 model's pictures, if there are any.
pub(super) fn f32_table(results: &Results) -> Option<String> {
    let names = against_f32(results);
    let known = rows(results).filter(|(_, row)| !row.quality.against_f32.is_empty());
    let body: Vec<Line<'_>> = known
        .map(|(name, row)| {
            (
                name,
                by_name(&names, &row.quality.against_f32, |v| number(*v, 3)),
            )
        })
        .collect();
    (!body.is_empty()).then(|| table("Against the F32 model", "numbers", &names, &body))
}

/// Settings or environment.
pub(super) fn pairs(map: &BTreeMap<String, String>) -> String {
    let pairs = map
        .iter()
        .map(|(k, v)| format!("<dt>{}</dt><dd>{}</dd>", escape(k), escape(v)));
    format!(
        "<dl class=\"pairs-of-text\">{}</dl>",
        pairs.collect::<String>()
    )
}
