//! `sensitivity.md`: the ranking for people.

use std::fmt::Write;

use super::greedy::Budget;
use super::groups::By;
use super::results::{Row, Sensitivity, Suggestion};

/// The report as Markdown.
pub fn markdown(found: &Sensitivity) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = head(&mut text, found);
    let _ = table(&mut text, found);
    let _ = original(&mut text, found);
    if let Some(suggestion) = &found.suggestion {
        let _ = suggested(&mut text, found, suggestion);
    }
    text
}

fn head(to: &mut String, found: &Sensitivity) -> std::fmt::Result {
    let environment = found.environment.iter();
    let environment: Vec<String> = environment.map(|(k, v)| format!("{k}: {v}")).collect();
    let [width, height] = found.size;
    writeln!(to, "# Sensitivity of {}\n", found.model)?;
    writeln!(to, "`{}`\n", found.command)?;
    writeln!(
        to,
        "{} prompts, seeds from {}, {width}x{height}, {} evaluations each; {}.\n",
        found.prompts,
        found.seed,
        found.sigmas.len(),
        match &found.calibration {
            Some(name) => format!("calibration {name}"),
            None => "no calibration".to_owned(),
        }
    )?;
    writeln!(
        to,
        "Error is |v - v_base| / |v_base|, teacher-forced, the mean of steps and prompts; base is the source with F32 \
         activations. Every row has its group alone in NVFP4 and the rest of the blocks in FP8; \"added\" is what its error \
         is above that of everything in FP8. Times are of the group's layers for one picture on this machine, each layer \
         measured alone ({}).\n",
        environment.join(", ")
    )?;
    writeln!(
        to,
        "| | error | weighted by step | linears, ms a picture |\n|---|---|---|---|"
    )?;
    for (name, whole) in [("all FP8", &found.fp8), ("v3", &found.v3)] {
        let (error, ms) = (whole.velocity_rel_err, 1e3 * whole.linears_s);
        let weighted = by_length(&whole.by_step, &found.sigmas);
        writeln!(to, "| {name} | {error:.5} | {weighted:.5} | {ms:.2} |")?;
    }
    let (fp8, v3) = (&found.fp8, &found.v3);
    if fp8.linears_s <= v3.linears_s && fp8.velocity_rel_err <= v3.velocity_rel_err {
        writeln!(
            to,
            "\nOn this machine, at these shapes, everything in FP8 is more exact than v3 and no slower: what v3 saves is memory."
        )?;
    }
    writeln!(
        to,
        "\n\"Weighted by step\" is the same error with each step as heavy as it is long. The plain mean, which ranks and which the \
         benchmark uses too, counts the last step as much as any, although its errors are the largest and it hardly moves the \
         picture.\n"
    )
}

/// The mean of `by_step` with each step weighted by the noise that it removes.
fn by_length(by_step: &[f64], sigmas: &[f32]) -> f64 {
    let next = sigmas.iter().skip(1).chain([&0.0]);
    let lengths = sigmas.iter().zip(next);
    let lengths = lengths.map(|(a, b)| f64::from(a - b).max(0.0));
    let (sum, weight) = by_step
        .iter()
        .zip(lengths)
        .fold((0.0, 0.0), |(sum, of), (e, w)| (sum + e * w, of + w));
    sum / weight
}

fn table(to: &mut String, found: &Sensitivity) -> std::fmt::Result {
    let what = match found.by {
        By::Type => "layer type",
        By::TypeThird => "layer type and third of the depth",
    };
    writeln!(to, "## Groups by {what}\n")?;
    writeln!(
        to,
        "| | group | layers | added x 10^-3 | std. error | weighted by step | SQNR dB | FP8 ms | NVFP4 ms | saved ms | added per ms | original |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|"
    )?;
    for (i, row) in found.groups.iter().enumerate() {
        let [ours, fp8] = [&row.by_step, &found.fp8.by_step];
        let [ours, fp8] = [ours, fp8].map(|by_step| by_length(by_step, &found.sigmas));
        writeln!(to, "{}", line(i + 1, row, ours - fp8))?;
    }
    writeln!(to)
}

/// `weighted` is what the row adds to FP8's error, weighted by step.
fn line(rank: usize, row: &Row, weighted: f64) -> String {
    let optional = |v: Option<f64>| v.map_or_else(String::new, |v| format!("{v:.2}"));
    let saved_ms = 1e3 * row.saved_s();
    let price = (saved_ms > 0.0).then(|| 1e3 * row.added / saved_ms);
    format!(
        "| {rank} | {} | {} | {:.2} | {} | {:.2} | {} | {:.3} | {:.3} | {saved_ms:.3} | {} | {} |",
        row.name,
        row.layers,
        1e3 * row.added,
        optional(row.added_std_err.map(|e| 1e3 * e)),
        1e3 * weighted,
        optional(row.sqnr_db),
        1e3 * row.fp8_s,
        1e3 * row.nvfp4_s,
        optional(price),
        row.original.map_or("", |tier| tier.word())
    )
}

fn original(to: &mut String, found: &Sensitivity) -> std::fmt::Result {
    writeln!(to, "## Against the original\n")?;
    writeln!(
        to,
        "The original's policies imply a ranking: critical is what no version puts into NVFP4, high what v4 \
         moves back to FP8 first, medium what v5 moves back next, low what stays NVFP4. Types without a rule have none.\n"
    )?;
    match found.rank_correlation {
        Some(r) => writeln!(
            to,
            "Spearman's rank correlation of \"added\" with these: **{r:.2}** (1: the same order, 0: none, -1: the opposite).\n"
        ),
        None => writeln!(to, "There is no rank correlation to be had.\n"),
    }
}

fn suggested(to: &mut String, found: &Sensitivity, s: &Suggestion) -> std::fmt::Result {
    let budget = match s.budget {
        Budget::TimesV3(x) => format!("{x} times the error of v3"),
        Budget::Seconds(x) => format!("{:.3} ms a picture", 1e3 * x),
    };
    writeln!(to, "## Suggested policy\n")?;
    writeln!(
        to,
        "Budget: {budget}. Chosen on the first {} prompts, checked on the other {}; in the check both policies were converted \
         and timed anew beside all FP8, one after the other layer by layer.\n",
        s.chosen_on, s.checked_on
    )?;
    writeln!(
        to,
        "{} layers in NVFP4 (v3 has {}): {}.{}\n",
        s.nvfp4_layers,
        s.v3_layers,
        list(&s.groups),
        match s.given_back.is_empty() {
            true => String::new(),
            false => format!(
                " Given back, since the error was above what was predicted: {}.",
                list(&s.given_back)
            ),
        }
    )?;
    writeln!(
        to,
        "| | error, chosen on | error, checked on | weighted by step | ms, chosen by | ms, checked |\n|---|---|---|---|---|---|"
    )?;
    let (ours, v3) = (&s.checked.suggested, &s.checked.v3);
    let [ours_weighted, v3_weighted] =
        [ours, v3].map(|whole| by_length(&whole.by_step, &found.sigmas));
    writeln!(
        to,
        "| suggested | {:.5} (predicted {:.5}) | {:.5} | {ours_weighted:.5} | {:.2} | {:.2} |",
        s.on_first,
        s.predicted,
        ours.velocity_rel_err,
        1e3 * s.predicted_s,
        1e3 * ours.linears_s
    )?;
    writeln!(
        to,
        "| v3 | {:.5} | {:.5} | {v3_weighted:.5} | {:.2} | {:.2} |",
        s.v3_on_first,
        v3.velocity_rel_err,
        1e3 * found.v3.linears_s,
        1e3 * v3.linears_s
    )?;
    let fp8 = &s.checked.fp8;
    writeln!(
        to,
        "| all FP8 | | {:.5} | {:.5} | {:.2} | {:.2} |\n",
        fp8.velocity_rel_err,
        by_length(&fp8.by_step, &found.sigmas),
        1e3 * found.fp8.linears_s,
        1e3 * fp8.linears_s
    )?;
    if !s.budget_kept {
        writeln!(
            to,
            "**The budget cannot be kept**: no choice of groups is as exact, or as fast, on this machine.\n"
        )?;
    }
    let percent = |a: f64, b: f64| 100.0 * (a / b - 1.0);
    writeln!(
        to,
        "{}: error {:+.1} %, time {:+.1} % of v3's; less error on {} of {} prompts. Against all FP8: error {:+.1} %, time {:+.1} %.\n",
        match s.checked.beats_v3 {
            true => "It beats v3",
            false => "**It does not beat v3**",
        },
        percent(ours.velocity_rel_err, v3.velocity_rel_err),
        percent(ours.linears_s, v3.linears_s),
        s.checked.better_on,
        s.checked_on,
        percent(ours.velocity_rel_err, fp8.velocity_rel_err),
        percent(ours.linears_s, fp8.linears_s)
    )
}

fn list(names: &[String]) -> String {
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}
