//! `kernels/SASS.md`: the numbers of every kernel, and the numbers read back from it.

use std::fmt::Write;

use crate::count::Counts;
use crate::kernel::Kernel;
use crate::limits::Table;
use crate::rules::{kinds, occupancy};

const HEAD: &str = "# What the assembler made of the kernels

Written by `cargo run -p sass-gate`, from the listings of nvcc 13.0.88's `ptxas`; `--check` fails when it no longer
holds. These are counts, not times: nothing here was run.
";

const RESOURCES: &str = "
## Resources

Spills and local memory are 0 everywhere, or the check fails. Blocks: how many a multiprocessor holds, from registers,
threads and shared memory.

| kernel | card | registers | threads | shared, static + dynamic | blocks | instructions |
|---|---|---:|---:|---:|---:|---:|
";

const LOOPS: &str = "
## Main loops

The innermost loop that holds matrix instructions, once round, for one warp. `ldmatrix`: those of 512 bytes (others).
Loads from shared memory and copies into it: count x bytes a lane. Instructions that are predicated off for good are not
counted. `NOP`, which this `ptxas` puts behind most products of cc 12, takes an issue slot and is counted apart:
13.4.92's puts none there and the rest is within 2 % of these counts (`PTXAS=.. kernels/build`). A driver assembles the
PTX with its own.

| kernel | card | products | instructions + NOP | for each product | ldmatrix | shared loads | copies | shuffles | barriers |
|---|---|---|---:|---:|---:|---|---|---:|---:|
";

/// The text of `kernels/SASS.md`.
pub fn markdown(kernels: &[Kernel], table: &Table) -> String {
    let mut text = format!("{HEAD}{RESOURCES}");
    for kernel in kernels {
        let row = table.row(&kernel.entry, &kernel.arch);
        let dynamic = row.map_or(0, |i| table.kernels[i].dynamic_shared);
        let blocks = occupancy(kernel, dynamic).map_or("?".to_owned(), |b| b.to_string());
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} + {} | {} | {} |",
            kernel.entry,
            kernel.arch,
            kernel.usage.registers,
            kernel.bounds.threads,
            kernel.usage.shared,
            dynamic,
            blocks,
            kernel.whole.total
        );
    }
    text += LOOPS;
    for kernel in kernels {
        if let Some(counts) = &kernel.main_loop {
            text += &loop_line(kernel, counts);
        }
    }
    text
}

fn loop_line(kernel: &Kernel, counts: &Counts) -> String {
    format!(
        "| `{}` | {} | {} | {} + {} | {:.2} | {} | {} | {} | {} | {} |\n",
        kernel.entry,
        kernel.arch,
        kinds(&counts.mma),
        counts.total - counts.nops,
        counts.nops,
        counts.per_mma().unwrap_or(0.0),
        match counts.ldsm_other {
            0 => counts.ldsm_full.to_string(),
            other => format!("{} ({other})", counts.ldsm_full),
        },
        widths(&counts.lds),
        widths(&counts.ldgsts),
        counts.of_opcode("SHFL"),
        counts.of_opcode("BAR"),
    )
}

/// `4 x 16, 2 x 4`.
fn widths(by_width: &std::collections::BTreeMap<usize, usize>) -> String {
    let words: Vec<_> = by_width
        .iter()
        .rev()
        .map(|(bytes, count)| format!("{count} x {bytes}"))
        .collect();
    if words.is_empty() {
        "none".to_owned()
    } else {
        words.join(", ")
    }
}

/// What other programs want to know of a main loop.
#[derive(Debug, Clone, PartialEq)]
pub struct LoopLine {
    /// Name of the entry.
    pub entry: String,
    /// As in `sm_120f`.
    pub arch: String,
    /// As in `128 OMMA.SF`.
    pub products: String,
    /// Issue slots for each matrix instruction, those of `NOP` among them.
    pub slots_per_mma: f64,
}

/// Reads the table of main loops of `kernels/SASS.md`.
pub fn read_loops(markdown: &str) -> Vec<LoopLine> {
    let Some((_, loops)) = markdown.split_once("## Main loops") else {
        return Vec::new();
    };
    let rows = loops.lines().filter(|l| l.starts_with("| `"));
    rows.filter_map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        Some(LoopLine {
            entry: cells.get(1)?.trim_matches('`').to_owned(),
            arch: (*cells.get(2)?).to_owned(),
            products: (*cells.get(3)?).to_owned(),
            slots_per_mma: sum(cells.get(4)?)? / sum(cells.get(3)?)?,
        })
    })
    .collect()
}

/// The sum of the numbers in a cell: of `128 OMMA.SF, 4 HMMA`, of `133 + 50`.
fn sum(cell: &str) -> Option<f64> {
    let words = cell.split([' ', ',']);
    let sum: f64 = words.filter_map(|w| w.parse::<f64>().ok()).sum();
    (sum > 0.0).then_some(sum)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sass::parse;
    use crate::usage::{Bounds, Usage};

    #[test]
    fn the_report_says_the_counts_and_can_be_read_back() {
        let listing = "Function : gemm
/*0000*/ LDSM.16.M88.4 R4, [R2] ;
/*0010*/ LDS.128 R8, [R2] ;
/*0020*/ HMMA.16816.F32.BF16 R4, R4, R8, R4 ;
/*0030*/ HMMA.16816.F32.BF16 R4, R4, R8, R4 ;
/*0040*/ NOP ;
/*0050*/ @P0 BRA 0x0 ;
/*0060*/ EXIT ;
";
        let usage = Usage {
            registers: 216,
            shared: 512,
            ..Usage::default()
        };
        let bounds = Bounds {
            threads: 128,
            blocks: 0,
        };
        let kernel = Kernel::of(("gemm", "sm_80"), &parse(listing)[0], usage, bounds);
        let table: Table =
            serde_json::from_str(r#"{"kernels": [{"entry": "gemm", "dynamic_shared": 1024}]}"#)
                .unwrap();
        let text = markdown(&[kernel], &table);
        assert!(
            text.contains("| `gemm` | sm_80 | 216 | 128 | 512 + 1024 | 2 | 7 |\n"),
            "{text}"
        );
        assert!(
            text.contains(
                "| `gemm` | sm_80 | 2 HMMA | 5 + 1 | 2.50 | 1 | 1 x 16 | none | 0 | 0 |\n"
            ),
            "{text}"
        );
        assert_eq!(
            read_loops(&text),
            [LoopLine {
                entry: "gemm".to_owned(),
                arch: "sm_80".to_owned(),
                products: "2 HMMA".to_owned(),
                slots_per_mma: 3.0,
            }]
        );
    }
}
