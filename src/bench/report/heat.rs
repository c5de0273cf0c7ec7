//! The heat map of layers: a table, so that it can be read as numbers and by screen readers.

use std::collections::BTreeSet;

use super::columns::rows;
use super::text::{NONE, escape, number};
use crate::bench::results::{Results, Variant};

const THIRDS: [(&str, &str); 3] = [("first", "1st"), ("middle", "2nd"), ("last", "3rd")];

/// SQNR by layer type and third of the depth for each row that has any; else nothing.
pub(super) fn heat(results: &Results) -> Option<String> {
    let measured = rows(results).filter(|(_, row)| !row.quality.layer_sqnr_db.is_empty());
    let measured: Vec<_> = measured.collect();
    let all = measured
        .iter()
        .flat_map(|(_, row)| row.quality.layer_sqnr_db.values());
    let all: Vec<f64> = all
        .flatten()
        .flatten()
        .copied()
        .filter(|v| v.is_finite())
        .collect();
    let low = all.iter().copied().reduce(f64::min)?;
    let high = all.iter().copied().fold(low, f64::max);
    let types: BTreeSet<&String> = measured
        .iter()
        .flat_map(|(_, row)| row.quality.layer_sqnr_db.keys())
        .collect();
    let heads = measured.iter().map(|(name, _)| {
        format!(
            "<th colspan=\"3\" scope=\"colgroup\" class=\"edge\">{}</th>",
            escape(name)
        )
    });
    let heads: String = heads.collect();
    let thirds = THIRDS.iter().enumerate().map(|(i, (long, short))| {
        let edge = if i == 0 { " class=\"edge\"" } else { "" };
        format!(
            "<th scope=\"col\"{edge}><abbr title=\"{long} third of the blocks\">{short}</abbr></th>"
        )
    });
    let thirds = thirds.collect::<String>().repeat(measured.len());
    let body = types.iter().map(|kind| {
        let cells: String = measured
            .iter()
            .map(|(_, row)| cells(row, kind, (low, high)))
            .collect();
        format!("<tr><th scope=\"row\">{}</th>{cells}</tr>\n", escape(kind))
    });
    let body: String = body.collect();
    Some(format!(
        "<p class=\"scale\"><span>{} dB</span><i></i><span>{} dB</span> <small>more is better</small></p>\
         <div class=\"scroll\" role=\"region\" aria-label=\"SQNR by layer type\" tabindex=\"0\"><table class=\"heat\">\
         <caption class=\"hidden\">SQNR in dB by layer type and third of the depth</caption>\
         <thead><tr><th rowspan=\"2\" scope=\"col\">layer</th>{heads}</tr><tr>{thirds}</tr></thead><tbody>\n{body}</tbody></table></div>",
        number(low, 1),
        number(high, 1),
    ))
}

fn cells(row: &Variant, kind: &str, (low, high): (f64, f64)) -> String {
    let values = row
        .quality
        .layer_sqnr_db
        .get(kind)
        .copied()
        .unwrap_or_default();
    let cells = values.iter().enumerate().map(|(i, value)| {
        let edge = if i == 0 { " class=\"edge\"" } else { "" };
        match value.filter(|v| v.is_finite()) {
            None => format!("<td{edge}>{NONE}</td>"),
            Some(v) => {
                let warm = (high - v) / (high - low).max(1e-9) * 100.0;
                format!(
                    "<td{edge} style=\"--warm:{warm:.0}%\">{}</td>",
                    number(v, 1)
                )
            }
        }
    });
    cells.collect()
}
