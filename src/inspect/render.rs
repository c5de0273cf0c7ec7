//! A [`Report`] as text for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Fault, FaultKind, Report};

/// Faults of one kind that are shown before the rest is only counted.
const SHOWN: usize = 5;

/// What was found, a few lines per component, then the faults, then the advice.
pub fn render_text(report: &Report) -> String {
    let mut text = format!("{}\n", report.path.display());
    // Writing to a String cannot fail.
    let _ = render(report, &mut text);
    text
}

fn render(report: &Report, text: &mut String) -> std::fmt::Result {
    for (name, part) in &report.components {
        let dtypes: Vec<String> = part
            .dtypes
            .iter()
            .map(|(dtype, n)| format!("{n} {dtype}"))
            .collect();
        let sizes: Vec<String> = part
            .sizes
            .iter()
            .map(|(size, value)| format!("{size} {value}"))
            .collect();
        writeln!(
            text,
            "  {name}: {} blocks, {} tensors ({}), {}, names as {}",
            part.blocks,
            part.tensors,
            dtypes.join(", "),
            size(part.bytes),
            part.key_style
        )?;
        if !sizes.is_empty() {
            writeln!(text, "    {}", sizes.join(", "))?;
        }
    }
    let quantized = &report.quantized;
    match (quantized.nvfp4, quantized.float8_e4m3fn) {
        (0, 0) => writeln!(text, "  no layer carries a quantization marker")?,
        (nvfp4, fp8) => writeln!(text, "  marked layers: {nvfp4} nvfp4, {fp8} float8_e4m3fn")?,
    }
    match report.faults.len() {
        0 => writeln!(text, "  no faults")?,
        n => writeln!(text, "  {n} faults:")?,
    }
    list(&report.faults, text)?;
    if !report.advice.is_empty() {
        writeln!(text, "  advice:")?;
    }
    list(&report.advice, text)
}

/// A line for each, but only so many of a kind.
fn list(faults: &[Fault], text: &mut String) -> std::fmt::Result {
    let mut seen: BTreeMap<FaultKind, usize> = BTreeMap::new();
    for fault in faults {
        let n = seen.entry(fault.kind).or_default();
        *n += 1;
        if *n <= SHOWN {
            let tensor = if fault.tensor.is_empty() { "" } else { ": " };
            writeln!(text, "    {}{tensor}{}", fault.tensor, fault.message)?;
        }
    }
    for (kind, n) in seen.iter().filter(|(_, n)| **n > SHOWN) {
        writeln!(
            text,
            "    ... and {} more of kind {kind:?} (all with --json)",
            n - SHOWN
        )?;
    }
    Ok(())
}

/// Bytes in the unit in which download pages give them.
fn size(bytes: usize) -> String {
    match bytes as f64 {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.1} kB", b / 1e3),
    }
}
