//! Fragments against the layouts that CUTLASS states.

use std::sync::LazyLock;

use ptx_emulator::Lanes;
use ptx_emulator::tensor::fragment::{
    a_registers, a_words, b_registers, b_words, c_half_registers, c_halves, c_registers, c_words,
    scale_lane_a, scale_lane_b,
};

const TABLES: &str = include_str!("../fixtures/cutlass_layouts/mma.txt");

/// A layout: for each thread, the place of each value.
pub struct Table {
    pub name: &'static str,
    pub operand: &'static str,
    pub threads: Vec<Vec<usize>>,
}

pub fn tables(text: &'static str) -> Vec<Table> {
    text.split("layout ")
        .skip(1)
        .map(|part| {
            let mut lines = part.lines();
            let mut head = lines.next().unwrap().split(' ');
            let (name, operand) = (head.next().unwrap(), head.next().unwrap());
            let numbers = |line: &str| line.split(' ').map(|x| x.parse().unwrap()).collect();
            let threads: Vec<Vec<usize>> = lines.map(numbers).collect();
            assert_eq!(threads.len(), 32);
            Table {
                name,
                operand,
                threads,
            }
        })
        .collect()
}

fn bits_of(name: &str) -> usize {
    match name {
        "bf16_k16" | "f16_k16" | "bf16_k8" => 16,
        "tf32_k8" => 32,
        "s8_k32" | "e4m3_k32" => 8,
        "mxf4nvf4_k64" => 4,
        other => panic!("{other}"),
    }
}

/// Registers in which only value `value` of thread `thread` has all bits set.
fn marked<const R: usize>(thread: usize, value: usize, bits: usize) -> [Lanes; R] {
    let per_register = 32 / bits;
    let mut registers = [[0; 32]; R];
    let ones = if bits == 32 {
        u32::MAX
    } else {
        (1 << bits) - 1
    };
    registers[value / per_register][thread] = ones << (bits * (value % per_register));
    registers
}

/// Where the mark is: index row + rows * k, as the tables count.
fn place<const W: usize>(rows: &[[u32; W]], bits: usize) -> usize {
    let mut found = Vec::new();
    for (r, words) in rows.iter().enumerate() {
        for (w, word) in words.iter().enumerate().filter(|(_, word)| **word != 0) {
            let k = w * (32 / bits) + word.trailing_zeros() as usize / bits;
            found.push(r + rows.len() * k);
        }
    }
    assert_eq!(found.len(), 1);
    found[0]
}

fn place_of(table: &Table, thread: usize, value: usize) -> usize {
    if table.operand == "C" {
        return place(&c_words(&marked(thread, value, 32)), 32);
    }
    let bits = bits_of(table.name);
    match (table.operand, table.name) {
        ("A", "bf16_k8") => place(&a_words::<2, 4>(&marked(thread, value, bits)), bits),
        ("B", "bf16_k8") => place(&b_words::<1, 4>(&marked(thread, value, bits)), bits),
        ("A", _) => place(&a_words::<4, 8>(&marked(thread, value, bits)), bits),
        ("B", _) => place(&b_words::<2, 8>(&marked(thread, value, bits)), bits),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_value_of_every_thread_lies_where_cutlass_says() {
    let mut checked = 0;
    for table in tables(TABLES)
        .iter()
        .filter(|table| !table.operand.starts_with("SF"))
    {
        for (thread, values) in table.threads.iter().enumerate() {
            for (value, &expected) in values.iter().enumerate() {
                let ours = place_of(table, thread, value);
                assert_eq!(
                    ours, expected,
                    "{} {} thread {thread} value {value}",
                    table.name, table.operand
                );
                checked += 1;
            }
        }
    }
    // All elements of A, B and C: 16 x k, 8 x k and 16 x 8, of two k16, two k8, two k32; k64 has no C here.
    assert_eq!(
        checked,
        2 * (24 * 16 + 128) + 2 * (24 * 8 + 128) + 2 * (24 * 32 + 128) + 24 * 64
    );
}

#[test]
fn scales_come_from_lanes_that_hold_them_in_cutlass() {
    let mut checked = 0;
    for table in tables(TABLES)
        .iter()
        .filter(|table| table.operand.starts_with("SF"))
    {
        let of_a = table.operand == "SFA";
        let (rows, selectors) = if of_a { (16, 2) } else { (8, 4) };
        // CUTLASS gives every thread a row, so that each of the selectors finds its lanes filled.
        let mut named = [false; 32];
        for row in 0..rows {
            for thread in 0..selectors {
                let lane = if of_a {
                    scale_lane_a(row, thread)
                } else {
                    scale_lane_b(row, thread)
                };
                for (k, &index) in table.threads[lane].iter().enumerate() {
                    assert_eq!(
                        index,
                        row + rows * k,
                        "{} {} row {row}",
                        table.name,
                        table.operand
                    );
                    checked += 1;
                }
                named[lane] = true;
            }
        }
        assert_eq!(named, [true; 32]);
        // Selector 0 of A is the lower two lanes of each four, of B the lowest.
        let lane = if of_a {
            scale_lane_a(rows - 1, 0)
        } else {
            scale_lane_b(rows - 1, 0)
        };
        assert_eq!(lane, if of_a { 29 } else { 28 });
    }
    assert_eq!(checked, 2 * 32 * (64 + 32));
}

#[test]
fn registers_are_the_inverse_of_rows() {
    let mut n = 0;
    let mut count = || {
        n += 1;
        n
    };
    let four: [Lanes; 4] = std::array::from_fn(|_| std::array::from_fn(|_| count()));
    let two: [Lanes; 2] = std::array::from_fn(|_| std::array::from_fn(|_| count() * 0x1_0001));
    let one: [Lanes; 1] = [std::array::from_fn(|_| count())];
    assert_eq!(a_registers::<4, 8>(&a_words(&four)), four);
    assert_eq!(a_registers::<2, 4>(&a_words(&two)), two);
    assert_eq!(b_registers::<2, 8>(&b_words(&two)), two);
    assert_eq!(b_registers::<1, 4>(&b_words(&one)), one);
    assert_eq!(c_registers(&c_words(&four)), four);
    assert_eq!(c_half_registers(&c_halves(&two)), two);
}

/// Halves of C share a register where f32 takes two: the PTX ISA's table for f16 accumulators.
#[test]
fn f16_accumulators_pack_neighbouring_columns() {
    for (lane, register, half, row, column) in [
        (0, 0, 0, 0, 0),
        (0, 0, 1, 0, 1),
        (3, 0, 1, 0, 7),
        (4, 0, 0, 1, 0),
        (0, 1, 0, 8, 0),
        (31, 1, 1, 15, 7),
    ] {
        let mut registers = [[0; 32]; 2];
        registers[register][lane] = 0x3c00 << (16 * half);
        let rows = c_halves(&registers);
        assert_eq!(rows[row][column], 0x3c00);
        assert_eq!(rows.as_flattened().iter().filter(|x| **x != 0).count(), 1);
    }
}

/// The table of an operand of an instruction.
pub fn table(name: &str, operand: &str) -> Table {
    tables(TABLES)
        .into_iter()
        .find(|table| table.name == name && table.operand == operand)
        .unwrap()
}

/// Registers that hold `element(row, k)` where CUTLASS says, not where this crate does.
pub fn scatter<const R: usize>(
    table: &Table,
    rows: usize,
    bits: usize,
    element: impl Fn(usize, usize) -> u32,
) -> [Lanes; R] {
    let mut registers = [[0; 32]; R];
    for (thread, values) in table.threads.iter().enumerate() {
        for (value, index) in values.iter().enumerate() {
            let code = element(index % rows, index / rows);
            registers[value * bits / 32][thread] |= code << (value * bits % 32);
        }
    }
    registers
}

/// The 16 rows of D, by CUTLASS's layout of C.
pub fn gather(d: &[Lanes; 4]) -> [[u32; 8]; 16] {
    static C: LazyLock<Table> = LazyLock::new(|| table("e4m3_k32", "C"));
    let mut rows = [[0; 8]; 16];
    for (thread, values) in C.threads.iter().enumerate() {
        for (value, index) in values.iter().enumerate() {
            rows[index % 16][index / 16] = d[value][thread];
        }
    }
    rows
}
