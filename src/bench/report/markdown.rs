//! `report.md`: tables that also read well as plain text.

use super::columns::{Column, ORIGINAL, QUALITY, SPACE, learned, rows};
use super::commands::{against_f32, commands, failures, formats, parts, recipe};
use super::text::{NONE, block, line, number, seconds};
use crate::bench::results::Results;

/// The report as GitHub's Markdown. Needs no pictures.
pub fn markdown(results: &Results) -> String {
    let mut out = format!(
        "# Benchmark of {}\n\nqwen-nvfp4 {}, {} prompts, compared with `{}`; checkpoint {}.\n\n",
        line(&results.model),
        line(&results.engine),
        results.prompts.len(),
        results.baseline.replace('`', "'"),
        line(&results.fingerprint),
    );
    section(&mut out, "Summary", summary(results, &ORIGINAL));
    section(&mut out, "Time and space", summary(results, &SPACE));
    section(&mut out, "Quality", quality(results));
    section(&mut out, "Findings", list(&results.findings));
    let failed = failures(results).map(|(name, why)| format!("**{}**: {}", line(name), line(why)));
    section(&mut out, "Failures", bullets(failed));
    section(&mut out, "Where the time goes", time(results));
    section(&mut out, "Against the F32 model", f32_table(results));
    section(&mut out, "Kernels that ran", kernels(results));
    let recipes = rows(results).map(|(name, row)| vec![line(name), line(&recipe(row))]);
    section(&mut out, "Rows", table(&["variant", "made of"], recipes));
    section(&mut out, "Settings", pairs(&results.settings));
    section(&mut out, "Environment", pairs(&results.environment));
    section(&mut out, "Commands", run(results));
    section(&mut out, "What the figures mean", meanings(results));
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn section(out: &mut String, title: &str, body: String) {
    if !body.is_empty() {
        *out += &format!("## {title}\n\n{body}\n");
    }
}

/// A table whose first column is text and whose others are numbers.
fn table<S: AsRef<str>>(head: &[S], body: impl Iterator<Item = Vec<String>>) -> String {
    let head: Vec<_> = head.iter().map(|h| line(h.as_ref())).collect();
    let rule: String = (0..head.len())
        .map(|i| if i == 0 { "---|" } else { "---:|" })
        .collect();
    let body: String = body.map(|r| format!("| {} |\n", r.join(" | "))).collect();
    match body.is_empty() {
        true => body,
        false => format!("| {} |\n|{rule}\n{body}", head.join(" | ")),
    }
}

fn summary<'a>(results: &Results, columns: impl IntoIterator<Item = &'a Column>) -> String {
    let columns: Vec<_> = columns.into_iter().collect();
    let names = columns.iter().map(|c| c.name);
    let head: Vec<_> = std::iter::once("variant").chain(names).collect();
    let body = rows(results).map(|(name, row)| {
        let failed = if row.error.is_some() { " (failed)" } else { "" };
        let cell = |c: &Column| match (c.text(row), c.interval_text(row)) {
            (Some(text), Some(interval)) => format!("{text} [{interval}]"),
            (text, _) => text.unwrap_or_else(|| NONE.to_owned()),
        };
        let first = format!("{}{failed}", line(name));
        std::iter::once(first)
            .chain(columns.iter().map(|c| cell(c)))
            .collect()
    });
    table(&head, body)
}

fn quality(results: &Results) -> String {
    format!(
        "Means over prompts against `{}`, with 95 % intervals.\n\n{}",
        results.baseline.replace('`', "'"),
        summary(results, QUALITY.iter().chain(learned(results)))
    )
}

fn bullets(items: impl Iterator<Item = String>) -> String {
    items.map(|item| format!("* {item}\n")).collect()
}

fn list(items: &[String]) -> String {
    bullets(items.iter().map(|item| line(item)))
}

fn time(results: &Results) -> String {
    let parts = parts(results);
    if parts.is_empty() {
        return String::new();
    }
    let head: Vec<_> = std::iter::once("seconds of a picture")
        .chain(parts.iter().copied())
        .collect();
    let body = rows(results).filter(|(_, row)| !row.parts_s.is_empty());
    let body = body.map(|(name, row)| {
        let part = |p: &&str| row.parts_s.get(*p).map_or(NONE.to_owned(), |v| seconds(*v));
        std::iter::once(line(name))
            .chain(parts.iter().map(part))
            .collect()
    });
    table(&head, body)
}

fn f32_table(results: &Results) -> String {
    let names = against_f32(results);
    let head: Vec<_> = std::iter::once("variant")
        .chain(names.iter().copied())
        .collect();
    let body = rows(results).filter(|(_, row)| !row.quality.against_f32.is_empty());
    let body = body.map(|(name, row)| {
        let figures = &row.quality.against_f32;
        let cell = |n: &&str| figures.get(*n).map_or(NONE.to_owned(), |v| number(*v, 4));
        std::iter::once(line(name))
            .chain(names.iter().map(cell))
            .collect()
    });
    table(&head, body)
}

fn kernels(results: &Results) -> String {
    let formats = formats(results);
    let head: Vec<_> = std::iter::once("variant")
        .chain(formats.iter().copied())
        .collect();
    let body = rows(results).filter(|(_, row)| !row.kernels.is_empty());
    let body = body.map(|(name, row)| {
        let cell = |f: &&str| row.kernels.get(*f).map_or(NONE.to_owned(), |k| line(k));
        std::iter::once(line(name))
            .chain(formats.iter().map(cell))
            .collect()
    });
    table(&head, body)
}

fn pairs(map: &std::collections::BTreeMap<String, String>) -> String {
    bullets(map.iter().map(|(k, v)| format!("{}: {}", line(k), line(v))))
}

fn run(results: &Results) -> String {
    let commands = commands(results).into_iter();
    let commands =
        commands.map(|(name, command)| format!("{}:\n\n{}", line(&name), block(command)));
    commands.collect::<Vec<_>>().join("\n")
}

fn meanings(results: &Results) -> String {
    let columns = ORIGINAL.iter().chain(&SPACE).chain(&QUALITY);
    let columns = columns.chain(learned(results));
    bullets(columns.map(|c| format!("**{}**: {}", c.name, c.meaning)))
}
