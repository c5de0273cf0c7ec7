//! Holds kernels against the rules.
//!
//! | rule | what it asks |
//! |---|---|
//! | `spills` | nothing spilled, no local memory |
//! | `bounds` | the source states its threads (`__launch_bounds__`) |
//! | `shared` | static and dynamic shared memory fit a block |
//! | `blocks` | as many blocks fit a multiprocessor as the row and `__launch_bounds__` ask |
//! | `row` | a kernel with matrix instructions has a row with a loop |
//! | `half-rate` | on cc 12 no FP8 product without block scales (half rate on GeForce) |
//! | `products` | the loop holds exactly the matrix instructions that its tile needs |
//! | `full-ldmatrix` | every `ldmatrix` in the loop brings 512 bytes |
//! | `wide-shared-loads` | other loads from shared memory in the loop are 16 bytes a lane |
//! | `wide-copies` | copies into shared memory in the loop are 16 bytes a lane |
//! | `no-global-loads`, `no-shuffles`, `no-conversions` | none of these in the loop |
//! | `density` | instructions for each matrix instruction in the loop |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::card::Card;
use crate::count::{Counts, Mma};
use crate::kernel::Kernel;
use crate::limits::{Loop, Row, Table};

/// A rule that a kernel breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Entry and architecture.
    pub kernel: String,
    /// Name of the rule.
    pub rule: &'static str,
    /// What was found and what was expected.
    pub found: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.kernel, self.rule, self.found)
    }
}

/// Every broken rule of `kernels`, and every row of the table that speaks of no kernel.
pub fn check(kernels: &[Kernel], table: &Table) -> Vec<Broken> {
    let mut broken = Vec::new();
    let mut used = BTreeSet::new();
    for kernel in kernels {
        let row = table.row(&kernel.entry, &kernel.arch);
        used.extend(row);
        let row = row.map(|i| &table.kernels[i]);
        let mut tell = |rule, found: String| {
            let waived = row
                .and_then(|r| r.main_loop.as_ref())
                .is_some_and(|l| l.except.contains_key(rule));
            if !waived {
                broken.push(Broken {
                    kernel: format!("{} ({})", kernel.entry, kernel.arch),
                    rule,
                    found,
                });
            }
        };
        resources(kernel, row, &mut tell);
        products(kernel, row, &mut tell);
    }
    for (i, row) in table.kernels.iter().enumerate() {
        if !used.contains(&i) {
            broken.push(Broken {
                kernel: row.entry.clone(),
                rule: "row",
                found: "no kernel fits this row of the table".to_owned(),
            });
        }
    }
    broken
}

/// Blocks that a multiprocessor holds; nothing for an unknown card or unknown threads.
pub fn occupancy(kernel: &Kernel, dynamic_shared: usize) -> Option<usize> {
    let card = Card::of(&kernel.arch)?;
    let threads = kernel.bounds.threads;
    let shared = kernel.usage.shared + dynamic_shared;
    (threads > 0).then(|| card.blocks(kernel.usage.registers, threads, shared))
}

fn resources(kernel: &Kernel, row: Option<&Row>, tell: &mut impl FnMut(&'static str, String)) {
    let usage = &kernel.usage;
    let local = kernel.whole.of_opcode("LDL") + kernel.whole.of_opcode("STL");
    if usage.spill_stores + usage.spill_loads + usage.stack + local > 0 {
        tell(
            "spills",
            format!(
                "{} bytes stored, {} loaded, stack of {}, {local} accesses to local memory",
                usage.spill_stores, usage.spill_loads, usage.stack
            ),
        );
    }
    let dynamic = row.map_or(0, |r| r.dynamic_shared);
    let shared = usage.shared + dynamic;
    let Some(card) = Card::of(&kernel.arch) else {
        tell("bounds", "nothing is known of this architecture".to_owned());
        return;
    };
    if shared > card.shared_of_block {
        tell(
            "shared",
            format!("{shared} bytes of {}", card.shared_of_block),
        );
    }
    let Some(fit) = occupancy(kernel, dynamic) else {
        tell("bounds", "no __launch_bounds__".to_owned());
        return;
    };
    let asked = row.map_or(0, |r| r.blocks).max(kernel.bounds.blocks).max(1);
    if fit < asked {
        tell(
            "blocks",
            format!("{fit} fit a multiprocessor, {asked} are asked for"),
        );
    }
}

fn products(kernel: &Kernel, row: Option<&Row>, tell: &mut impl FnMut(&'static str, String)) {
    let plain = kernel.whole.mma.get(&Mma::Qmma).copied().unwrap_or(0);
    if plain > 0 && kernel.arch.starts_with("sm_12") {
        tell("half-rate", format!("{plain} QMMA without block scales"));
    }
    let limits = row.and_then(|r| r.main_loop.as_ref());
    match (&kernel.main_loop, limits) {
        (Some(counts), Some(limits)) => loop_rules(counts, limits, tell),
        (None, Some(_)) => tell("products", "no loop holds matrix instructions".to_owned()),
        (_, None) if kernel.whole.all_mma() > 0 => {
            tell(
                "row",
                "matrix instructions but no limits for its loop".to_owned(),
            );
        }
        (_, None) => {}
    }
}

fn loop_rules(counts: &Counts, limits: &Loop, tell: &mut impl FnMut(&'static str, String)) {
    let expected = limits.products.counts();
    if counts.mma != expected {
        tell(
            "products",
            format!("{}, expected {}", kinds(&counts.mma), kinds(&expected)),
        );
    }
    if counts.ldsm_other > 0 {
        tell("full-ldmatrix", format!("{} smaller", counts.ldsm_other));
    }
    for (rule, widths) in [
        ("wide-shared-loads", &counts.lds),
        ("wide-copies", &counts.ldgsts),
    ] {
        let narrow: usize = widths
            .iter()
            .filter(|(b, _)| **b < 16)
            .map(|(_, n)| n)
            .sum();
        if narrow > 0 {
            tell(rule, format!("{narrow} narrower than 16 bytes"));
        }
    }
    for (rule, opcodes) in [
        ("no-global-loads", &["LDG"][..]),
        ("no-shuffles", &["SHFL"]),
        ("no-conversions", &["I2F", "I2FP", "F2I"]),
    ] {
        let count: usize = opcodes.iter().map(|o| counts.of_opcode(o)).sum();
        if count > 0 {
            tell(rule, format!("{count} {}", opcodes[0]));
        }
    }
    if let Some(per_mma) = counts.per_mma().filter(|p| *p > limits.per_mma) {
        tell(
            "density",
            format!(
                "{per_mma:.2} instructions for each product, at most {}",
                limits.per_mma
            ),
        );
    }
}

/// `128 OMMA.SF, 4 HMMA`.
pub fn kinds(mma: &BTreeMap<Mma, usize>) -> String {
    let words: Vec<_> = mma
        .iter()
        .map(|(k, n)| format!("{n} {}", k.word()))
        .collect();
    if words.is_empty() {
        "none".to_owned()
    } else {
        words.join(", ")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sass::parse;
    use crate::usage::{Bounds, Usage};

    const TABLE: &str = r#"{"kernels": [{"entry": "f", "dynamic_shared": 65536, "blocks": 1,
        "loop": {"products": {"mma": "QMMA.SF", "tile": [16, 16, 32], "warps": 1}, "per_mma": 3.0}}]}"#;

    const GOOD: [&str; 6] = [
        "LDSM.16.M88.4 R4, [R2]",
        "LDS.128 R8, [R2]",
        "QMMA.SF.16832.F32.E4M3.E4M3.E8 R4, R4, R8, R4, R3, R3, URZ",
        "QMMA.SF.16832.F32.E4M3.E4M3.E8 R4, R4, R8, R4, R3, R3, URZ",
        "LDGSTS.E.BYPASS.LTC128B.128 [R2], desc[UR4][R4.64]",
        "@P0 BRA 0x0",
    ];

    fn kernel(lines: &[&str], registers: usize) -> Kernel {
        let mut text = "Function : f\n".to_owned();
        for (i, line) in lines.iter().enumerate() {
            text += &format!("/*{:04x}*/ {line} ;\n", i * 16);
        }
        let usage = Usage {
            registers,
            ..Usage::default()
        };
        let bounds = Bounds {
            threads: 128,
            blocks: 1,
        };
        Kernel::of(("f", "sm_120f"), &parse(&text)[0], usage, bounds)
    }

    fn broken(kernel: &Kernel, table: &str) -> Vec<&'static str> {
        let table: Table = serde_json::from_str(table).unwrap();
        let broken = check(std::slice::from_ref(kernel), &table);
        broken.iter().map(|b| b.rule).collect()
    }

    #[test]
    fn a_kernel_that_keeps_every_rule() {
        assert_eq!(broken(&kernel(&GOOD, 128), TABLE), [""; 0]);
    }

    #[test]
    fn each_rule_is_broken_by_one_line() {
        for (replaced, line, rule) in [
            (0, "LDSM.16.M88.2 R4, [R2]", "full-ldmatrix"),
            (1, "LDS.64 R8, [R2]", "wide-shared-loads"),
            (2, "NOP", "products"),
            (4, "LDGSTS.E [R2], desc[UR4][R4.64]", "wide-copies"),
            (4, "LDG.E.128 R4, desc[UR4][R4.64]", "no-global-loads"),
            (4, "SHFL.BFLY PT, R1, R2, 0x1, 0x1f", "no-shuffles"),
            (4, "I2FP.F32.S32 R4, R5", "no-conversions"),
        ] {
            let mut lines = GOOD;
            lines[replaced] = line;
            let told = broken(&kernel(&lines, 128), TABLE);
            assert!(told.contains(&rule), "{line}: {told:?}");
        }
        let mut local = GOOD.to_vec();
        local.push("STL [R1], R2");
        assert_eq!(broken(&kernel(&local, 128), TABLE), ["spills"]);
        let mut plain = GOOD;
        plain[2] = "QMMA.16832.F32.E4M3.E4M3 R4, R4, R8, R4";
        assert_eq!(
            broken(&kernel(&plain, 128), TABLE),
            ["half-rate", "products"]
        );
    }

    #[test]
    fn density_blocks_shared_memory_and_spills() {
        let sparse = TABLE.replace("3.0", "2.9");
        assert_eq!(broken(&kernel(&GOOD, 128), &sparse), ["density"]);
        let crowded = TABLE.replace("\"blocks\": 1", "\"blocks\": 2");
        assert_eq!(broken(&kernel(&GOOD, 128), &crowded), ["blocks"]);
        let large = TABLE.replace("65536", "101377");
        assert_eq!(broken(&kernel(&GOOD, 128), &large), ["shared", "blocks"]);
        let mut spilled = kernel(&GOOD, 128);
        spilled.usage.spill_loads = 4;
        assert_eq!(broken(&spilled, TABLE), ["spills"]);
        let mut unbound = kernel(&GOOD, 128);
        unbound.bounds.threads = 0;
        assert_eq!(broken(&unbound, TABLE), ["bounds"]);
    }

    #[test]
    fn every_kernel_with_products_has_a_row_and_every_row_a_kernel() {
        let other = TABLE.replace("\"f\"", "\"g\"");
        assert_eq!(broken(&kernel(&GOOD, 128), &other), ["row", "row"]);
        let waived = TABLE.replace("3.0", "2.0").replace(
            "\"per_mma\"",
            "\"except\": {\"density\": \"why\"}, \"per_mma\"",
        );
        assert_eq!(broken(&kernel(&GOOD, 128), &waived), [""; 0]);
    }
}
