//! Which part of a kernel is its main loop.

use std::ops::Range;

use crate::count::is_mma;
use crate::sass::Function;

/// The innermost loop that holds matrix instructions, as a range of instruction indices; of several, the one with the
/// most. A loop is what lies between a backward branch and its target. Nothing if no loop holds any.
pub fn main_loop(function: &Function) -> Option<Range<usize>> {
    let found = loops(function);
    let holding: Vec<(Range<usize>, usize)> = found
        .into_iter()
        .map(|range| {
            let inside = &function.instructions[range.clone()];
            let count = inside.iter().filter(|i| i.executes() && is_mma(i)).count();
            (range, count)
        })
        .filter(|(_, count)| *count > 0)
        .collect();
    let innermost = holding.iter().filter(|(range, _)| {
        !holding.iter().any(|(other, _)| {
            other != range && range.start <= other.start && other.end <= range.end
        })
    });
    innermost
        .max_by_key(|(range, count)| (*count, std::cmp::Reverse(range.len())))
        .map(|(range, _)| range.clone())
}

/// All loops. Branches back to one head are one loop.
fn loops(function: &Function) -> Vec<Range<usize>> {
    let instructions = &function.instructions;
    let mut found: Vec<Range<usize>> = Vec::new();
    for (end, branch) in instructions.iter().enumerate() {
        // The endless branch to itself after a kernel's end is padding.
        let Some(target) = branch.target().filter(|t| *t < branch.address) else {
            continue;
        };
        let start = instructions.partition_point(|i| i.address < target);
        match found.iter_mut().find(|range| range.start == start) {
            Some(same) => same.end = same.end.max(end + 1),
            None => found.push(start..end + 1),
        }
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sass::parse;

    fn function(lines: &[&str]) -> Function {
        let mut text = "Function : f\n".to_owned();
        for (i, line) in lines.iter().enumerate() {
            text += &format!("/*{:04x}*/ {line} ;\n", i * 16);
        }
        parse(&text).remove(0)
    }

    #[test]
    fn the_innermost_loop_with_products() {
        let f = function(&[
            "MOV R1, R2",
            "LDS R4, [R5]",                       // 1: the outer loop
            "LDGSTS.E.128 [R1], [R2]",            // 2: the inner loop
            "HMMA.16816.F32.BF16 R8, R4, R6, R8", // 3
            "@P0 BRA 0x20",                       // 4
            "LDG R1, [R2]",                       // 5: an inner loop without products
            "@P1 BRA 0x50",                       // 6
            "@P2 BRA 0x10",                       // 7
            "EXIT",
            "BRA 0x90",
        ]);
        assert_eq!(main_loop(&f), Some(2..5));
    }

    #[test]
    fn of_two_loops_the_one_with_more_products() {
        let f = function(&[
            "HMMA.16816.F32 R8, R4, R6, R8",
            "@P0 BRA 0x0",
            "HMMA.16816.F32 R8, R4, R6, R8",
            "HMMA.16816.F32 R8, R4, R6, R8",
            "@P0 BRA 0x20",
        ]);
        assert_eq!(main_loop(&f), Some(2..5));
    }

    #[test]
    fn two_ways_back_to_one_head_are_one_loop() {
        let f = function(&[
            "HMMA.16816.F32 R8, R4, R6, R8",
            "@P0 BRA 0x0",
            "HMMA.16816.F32 R8, R4, R6, R8",
            "@P0 BRA 0x0",
        ]);
        assert_eq!(main_loop(&f), Some(0..4));
    }

    #[test]
    fn products_that_never_execute_or_stand_outside_do_not_count() {
        let f = function(&[
            "HMMA.16816.F32 R8, R4, R6, R8",
            "@!PT HMMA.16816.F32 R8, R4, R6, R8",
            "@P0 BRA 0x10",
        ]);
        assert_eq!(main_loop(&f), None);
    }
}
