//! `report.html`: one file with everything in it, from the headline to the exact commands.

use std::path::Path;

use super::ReportError;
use super::bars::bars;
use super::columns::{
    Column, ORIGINAL, QUALITY, SIZE, SPACE, SPEEDUP, SSIMULACRA2, VELOCITY, learned, rows,
};
use super::commands::{commands, failures};
use super::curves::curves;
use super::gallery::{Gallery, gallery};
use super::heat::heat;
use super::scatter::scatter;
use super::tables::{f32_table, kernels, pairs, quality, recipes, speed, time};
use super::text::{escape, percent};
use crate::bench::results::Results;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");
/// Whatever a text may say, a browser fetches nothing for this page.
const POLICY: &str =
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

/// The report as one page; its pictures are read from below `dir`, the folder of `results.json`. A picture that is missing
/// or broken leaves a box that says so.
///
/// # Errors
/// [`ReportError::Plot`].
pub fn html(results: &Results, dir: &Path) -> Result<String, ReportError> {
    let pictures = gallery(results, dir);
    let body: String = [
        header(results),
        headline(results),
        said(results),
        section(
            "Speed and size",
            "speed",
            &(note(results) + &speed(results)),
        ),
        section(
            "Quality",
            "quality",
            &(quality(results) + &meanings(results)),
        ),
        trade(results)?,
        format!(
            "<div class=\"halves\">{}{}</div>\n",
            steps(results)?,
            time_split(results)?
        ),
        layers(results),
        shots(&pictures, results),
        provenance(results),
    ]
    .concat();
    let title = escape(&results.model);
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>Benchmark of {title}</title>\n\
         <style>\n{STYLE}{}</style>\n</head>\n<body>\n{body}<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        pictures.css
    ))
}

fn section(title: &str, id: &str, body: &str) -> String {
    match body.is_empty() {
        true => String::new(),
        false => format!("<section id=\"{id}\"><h2>{title}</h2>\n{body}</section>\n"),
    }
}

fn header(results: &Results) -> String {
    let settings = results.settings.iter();
    let settings =
        settings.map(|(k, v)| format!("<li><span>{}</span> {}</li>", escape(k), escape(v)));
    format!(
        "<header><p class=\"over-title\">qwen-nvfp4 {} · benchmark</p><h1>{}</h1>\
         <p>{} prompts, {} variants, compared with <b>{}</b>.</p>\
         <ul class=\"chips\">{}</ul></header>\n",
        escape(&results.engine),
        escape(&results.model),
        results.prompts.len(),
        results.variants.len(),
        escape(&results.baseline),
        settings.collect::<String>(),
    )
}

/// A card for the best row in each of a few figures.
fn headline(results: &Results) -> String {
    let baseline = results.variants.get(&results.baseline);
    let card = |title: &str, column: &Column| {
        let (name, row) = column.best(results)?;
        let value = column.text(row)?;
        let own = baseline.and_then(|b| column.value(b)).filter(|v| *v > 0.0);
        let note = match (column.interval_text(row), own, column.value(row)) {
            (Some(interval), _, _) => format!("95 %: {interval}"),
            (None, Some(own), Some(v)) => format!("{} of the baseline's", percent(v / own)),
            _ => String::new(),
        };
        Some(format!(
            "<div class=\"card\"><p>{title}</p><p class=\"figure\">{}</p><p><b>{}</b></p>\
             <p><small>{}</small></p></div>",
            escape(&value),
            escape(name),
            escape(&note)
        ))
    };
    let cards = [
        card("Fastest", &SPEEDUP),
        card("Least velocity error", &VELOCITY),
        card("Most alike to look at: SSIMULACRA2", &SSIMULACRA2),
        card("Smallest file", &SIZE),
    ];
    let cards: String = cards.into_iter().flatten().collect();
    let cards = match cards.is_empty() {
        true => "<p>No variant beside the baseline has been measured.</p>".to_owned(),
        false => cards,
    };
    format!("<div class=\"cards\">{cards}</div>\n")
}

/// Findings, and what failed.
fn said(results: &Results) -> String {
    let failed = failures(results)
        .map(|(name, why)| format!("<li><b>{}</b>: {}</li>", escape(name), escape(why)));
    let failed: String = failed.collect();
    let failed = match failed.is_empty() {
        true => failed,
        false => format!("<div class=\"alert\"><ul>{failed}</ul></div>"),
    };
    let findings = results
        .findings
        .iter()
        .map(|f| format!("<li>{}</li>", escape(f)));
    let findings: String = findings.collect();
    let findings = match findings.is_empty() {
        true => findings,
        false => format!("<ul class=\"findings\">{findings}</ul>"),
    };
    format!(
        "{}{}",
        section("Findings", "findings", &findings),
        section("Failures", "failures", &failed)
    )
}

/// What is to be known of both tables.
fn note(results: &Results) -> String {
    format!(
        "<p>Small figures are 95 % intervals by bootstrap over prompts; the best of each column, \
         <b>{}</b> aside, is coloured.</p>",
        escape(&results.baseline)
    )
}

fn meanings(results: &Results) -> String {
    let columns = ORIGINAL.iter().chain(&SPACE).chain(&QUALITY);
    let columns = columns.chain(learned(results));
    let items = columns.map(|c| format!("<dt>{}</dt><dd>{}</dd>", c.name, escape(c.meaning)));
    format!(
        "<details><summary>What the figures mean</summary><dl class=\"meanings\">{}</dl></details>",
        items.collect::<String>()
    )
}

fn plot(title: &str, note: &str, svg: &str) -> String {
    format!("<figure class=\"plot\"><figcaption><b>{title}</b> {note}</figcaption>{svg}</figure>")
}

fn trade(results: &Results) -> Result<String, ReportError> {
    let velocity = scatter("Speedup and velocity error", &VELOCITY, results)?;
    let likeness = scatter("Speedup and SSIMULACRA2", &SSIMULACRA2, results)?;
    let velocity = velocity.map(|s| {
        plot(
            "What the model computes.",
            "Error of its velocity, without drift.",
            &s,
        )
    });
    let likeness = likeness.map(|s| {
        plot(
            "What people see.",
            "Likeness of the pictures to the baseline's.",
            &s,
        )
    });
    let plots: String = velocity.into_iter().chain(likeness).collect();
    let body = match plots.is_empty() {
        true => plots,
        false => format!(
            "<p>The line joins the variants that no other beats in both speed and quality. \
             Whiskers are 95 % intervals, the ring is the baseline.</p>\
             <div class=\"plots\">{plots}</div>"
        ),
    };
    Ok(section("Speed against quality", "trade", &body))
}

fn steps(results: &Results) -> Result<String, ReportError> {
    let drawn = curves("Velocity error by step", results)?;
    let body = drawn.map(|svg| {
        let note = "Every step starts from the baseline's latents, so that errors do not add up.";
        format!(
            "<div class=\"plots\">{}</div>",
            plot("Mean over prompts.", note, &svg)
        )
    });
    Ok(section("Error by step", "steps", &body.unwrap_or_default()))
}

fn time_split(results: &Results) -> Result<String, ReportError> {
    let drawn = bars("Seconds of a picture by part", results)?;
    let body = drawn.map(|svg| {
        format!(
            "<div class=\"plots\">{}</div><details><summary>The same in numbers</summary>{}</details>",
            plot("Mean seconds of a picture.", "", &svg),
            time(results)
        )
    });
    Ok(section(
        "Where the time goes",
        "time",
        &body.unwrap_or_default(),
    ))
}

fn layers(results: &Results) -> String {
    let body = heat(results).map(|table| {
        format!(
            "<p>Signal over quantization noise in the output of each type of layer, \
             by third of the depth, on the baseline's input.</p>{table}"
        )
    });
    section("Layer by layer", "layers", &body.unwrap_or_default())
}

/// Both galleries below one switch, which is CSS alone: radio buttons before what they change.
fn shots(pictures: &Gallery, results: &Results) -> String {
    if pictures.prompts.is_empty() {
        return String::new();
    }
    let missing = match pictures.missing {
        0 => String::new(),
        n => format!(
            "<p class=\"alert\">{n} pictures cannot be shown; their boxes say why. Run the benchmark again with --resume.</p>"
        ),
    };
    let switch = [
        ("view-plain", "pictures", " checked"),
        ("view-difference", "difference ×4", ""),
        ("view-amplified", "difference ×16", ""),
    ];
    let buttons =
        switch.map(|(id, _, on)| format!("<input type=\"radio\" name=\"view\" id=\"{id}\"{on}>"));
    let labels = switch.map(|(id, name, _)| format!("<label for=\"{id}\">{name}</label>"));
    let worst = match pictures.worst.is_empty() {
        true => String::new(),
        false => format!(
            "<h2 id=\"worst\">The worst of each variant</h2>\
             <p>Least like the baseline's picture (left), lowest score first.</p>{}",
            pictures.worst
        ),
    };
    format!(
        "<section id=\"pictures\"><h2>Side by side</h2>{missing}\
         <p>The first {} of {} prompts. Point at a picture to see the baseline's in its place; \
         differences are to the baseline's.</p>\
         {}<div class=\"switch\" role=\"group\" aria-label=\"What is shown of a picture\">{}</div>\
         <div class=\"views\">{}{worst}</div></section>\n",
        pictures.shown,
        results.prompts.len(),
        buttons.concat(),
        labels.concat(),
        pictures.prompts,
    )
}

fn provenance(results: &Results) -> String {
    let commands = commands(results).into_iter();
    let commands = commands.map(|(name, c)| {
        format!(
            "<h3>{}</h3><pre tabindex=\"0\"><code>{}</code></pre>",
            escape(&name),
            escape(c)
        )
    });
    let commands: String = commands.collect();
    let mut settings = results.settings.clone();
    settings.insert("fingerprint".to_owned(), results.fingerprint.clone());
    let made = match rows(results).next() {
        Some(_) => recipes(results),
        None => String::new(),
    };
    [
        section(
            "Against the F32 model",
            "f32",
            &f32_table(results).unwrap_or_default(),
        ),
        section(
            "Kernels that ran",
            "kernels",
            &kernels(results).unwrap_or_default(),
        ),
        section("Variants", "variants", &made),
        section("Environment", "environment", &pairs(&results.environment)),
        section("Settings", "settings", &pairs(&settings)),
        section("Exact commands", "commands", &commands),
    ]
    .concat()
}
