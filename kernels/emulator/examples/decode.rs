//! Decodes every entry of the PTX files named, and says what is not implemented: `decode a.ptx b.ptx`.

use std::collections::BTreeMap;
use std::time::Instant;

use ptx_emulator::ptx::Module;
use ptx_emulator::vm::Program;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut refused = 0;
    for path in std::env::args().skip(1) {
        let text = std::fs::read_to_string(&path)?;
        let start = Instant::now();
        let module = Module::parse(&text)?;
        let parsed = start.elapsed();
        let program = Program::new(&module)?;
        let mut problems: BTreeMap<String, usize> = BTreeMap::new();
        for entry in program.entries() {
            if let Err(fault) = entry.needs() {
                *problems.entry(fault.to_string()).or_default() += 1;
            }
        }
        let entries = program.entries().len();
        let refusals: usize = problems.values().sum();
        refused += refusals;
        println!(
            "{path}: {entries} entries, {refusals} refused; parsed in {parsed:.2?}, all in {:.2?}",
            start.elapsed()
        );
        for (problem, times) in problems {
            println!("  {times} x {problem}");
        }
    }
    if refused > 0 {
        Err(format!("{refused} entries are refused").into())
    } else {
        Ok(())
    }
}
