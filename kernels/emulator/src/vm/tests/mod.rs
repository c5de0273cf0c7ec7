//! Kernels in PTX written by hand, with what they must compute by Rust's own arithmetic.

mod asynchronous;
mod basics;
mod control;
mod convert;
mod coverage;
mod faults;
mod floats;
mod integers;
mod logic;
mod memory;
mod speed;
mod synchronise;
mod tensor;
mod warps;

use super::{Device, Launch, Program, Report, Settings, launch};
use crate::card::{Card, RTX_5090};
use crate::fault::{Cause, Fault};
use crate::memory::Global;
use crate::ptx::Module;

/// A device and a program with one entry, `k`, that takes pointers.
struct Bench {
    memory: Global,
    program: Program,
    settings: Settings,
    card: Card,
}

impl Bench {
    /// A whole module without its head.
    fn module(body: &str) -> Self {
        let text = format!(".version 8.8\n.target sm_120a\n.address_size 64\n{body}");
        let module = Module::parse(&text).unwrap();
        let (program, memory) = (Program::new(&module).unwrap(), Global::new(1 << 30));
        program.load(&memory).unwrap();
        Self {
            memory,
            program,
            settings: Settings::default(),
            card: RTX_5090,
        }
    }

    /// An entry with `pointers` parameters `p0`, `p1`, ... loaded as global addresses to `%a0`, `%a1`, ... and the
    /// linear index of the thread in `%t`.
    fn kernel(pointers: usize, body: &str) -> Self {
        let parameters: Vec<String> = (0..pointers).map(|p| format!(".param .u64 p{p}")).collect();
        let loads: String = (0..pointers)
            .map(|p| format!("ld.param.u64 %a{p}, [p{p}];\ncvta.to.global.u64 %a{p}, %a{p};\n"))
            .collect();
        Self::module(&format!(
            ".visible .entry k({})\n{{\n.reg .pred %p<20>;\n.reg .b16 %h<20>;\n.reg .b32 %r<40>;\n.reg .f32 %f<20>;\n\
             .reg .b64 %d<20>;\n.reg .f64 %e<20>;\n.reg .b64 %a<8>;\n.reg .b32 %t, %c, %n;\n.reg .b64 %o;\n\
             {loads}mov.u32 %t, %tid.x;\nmov.u32 %c, %ctaid.x;\nmov.u32 %n, %ntid.x;\nmad.lo.s32 %t, %c, %n, %t;\n\
             mul.wide.u32 %o, %t, 4;\n{body}\nret;\n}}",
            parameters.join(", ")
        ))
    }

    fn upload(&self, words: &[u32]) -> u64 {
        let address = self.memory.allocate(4 * words.len() as u64).unwrap();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.memory.write(address, &bytes).unwrap();
        address
    }

    fn room(&self, words: usize) -> u64 {
        self.memory.allocate(4 * words as u64).unwrap()
    }

    fn download(&self, address: u64, words: usize) -> Vec<u32> {
        let mut bytes = vec![0; 4 * words];
        self.memory.read(address, &mut bytes).unwrap();
        bytes
            .chunks(4)
            .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
            .collect()
    }

    fn run(&self, grid: u32, block: u32, pointers: &[u64]) -> Result<Report, Fault> {
        self.run_shaped([grid, 1, 1], [block, 1, 1], (0, pointers))
    }

    fn run_shaped(
        &self,
        grid: [u32; 3],
        block: [u32; 3],
        (dynamic_shared, pointers): (u32, &[u64]),
    ) -> Result<Report, Fault> {
        let params = pointers
            .iter()
            .flat_map(|pointer| pointer.to_le_bytes())
            .collect();
        let configuration = Launch {
            grid,
            block,
            dynamic_shared,
            params,
            blocks: None,
        };
        let device = Device {
            memory: &self.memory,
            settings: &self.settings,
            card: &self.card,
        };
        launch(self.program.entry("k").unwrap(), &configuration, &device)
    }

    /// Runs one block with `inputs` and room for one word per thread; the words.
    fn map(&self, block: u32, inputs: &[&[u32]]) -> Vec<u32> {
        let mut pointers: Vec<u64> = inputs.iter().map(|input| self.upload(input)).collect();
        let out = self.room(block as usize);
        pointers.push(out);
        self.run(1, block, &pointers)
            .unwrap_or_else(|fault| panic!("{fault}"));
        self.download(out, block as usize)
    }
}

/// Applies an instruction to words: `{d}` is the result, `{a}`, `{b}`, `{c}` the inputs, all of 32 bits.
fn apply(instruction: &str, inputs: &[&[u32]]) -> Vec<u32> {
    let mut body = String::new();
    for input in 0..inputs.len() {
        body += &format!(
            "add.s64 %d1, %a{input}, %o;\nld.global.u32 %r{}, [%d1];\n",
            input + 1
        );
    }
    let text = ["d", "a", "b", "c"]
        .iter()
        .enumerate()
        .fold(instruction.to_owned(), |text, (r, name)| {
            text.replace(&format!("{{{name}}}"), &format!("%r{r}"))
        });
    body += &format!(
        "{text}\nadd.s64 %d1, %a{}, %o;\nst.global.u32 [%d1], %r0;",
        inputs.len()
    );
    let lanes = inputs.first().map_or(32, |input| input.len() as u32);
    Bench::kernel(inputs.len() + 1, &body).map(lanes, inputs)
}

/// The same for 64 bits, in registers `%d10` (`{d}`) to `%d13` (`{c}`).
fn apply64(instruction: &str, inputs: &[&[u64]]) -> Vec<u64> {
    let mut body = "mul.wide.u32 %o, %t, 8;\n".to_owned();
    for input in 0..inputs.len() {
        body += &format!(
            "add.s64 %d1, %a{input}, %o;\nld.global.u64 %d{}, [%d1];\n",
            input + 11
        );
    }
    let text = ["d", "a", "b", "c"]
        .iter()
        .enumerate()
        .fold(instruction.to_owned(), |text, (r, name)| {
            text.replace(&format!("{{{name}}}"), &format!("%d{}", r + 10))
        });
    body += &format!(
        "{text}\nadd.s64 %d1, %a{}, %o;\nst.global.u64 [%d1], %d10;",
        inputs.len()
    );
    let bench = Bench::kernel(inputs.len() + 1, &body);
    let split = |words: &[u64]| -> Vec<u32> {
        words
            .iter()
            .flat_map(|w| [*w as u32, (w >> 32) as u32])
            .collect()
    };
    let mut pointers: Vec<u64> = inputs
        .iter()
        .map(|input| bench.upload(&split(input)))
        .collect();
    let lanes = inputs.first().map_or(32, |input| input.len());
    let out = bench.room(2 * lanes);
    pointers.push(out);
    bench
        .run(1, lanes as u32, &pointers)
        .unwrap_or_else(|fault| panic!("{fault}"));
    let words = bench.download(out, 2 * lanes);
    words
        .chunks(2)
        .map(|pair| u64::from(pair[1]) << 32 | u64::from(pair[0]))
        .collect()
}

/// Words that meet the edges: every pair of `edges`, as two lists.
fn pairs<T: Copy>(edges: &[T]) -> (Vec<T>, Vec<T>) {
    edges
        .iter()
        .flat_map(|a| edges.iter().map(move |b| (*a, *b)))
        .unzip()
}

/// Edges of 32-bit integers.
const EDGES: [u32; 12] = [
    0,
    1,
    2,
    3,
    31,
    0x7f,
    0x8000,
    0xffff,
    0x1234_5678,
    i32::MAX as u32,
    1 << 31,
    u32::MAX,
];
/// Edges of 64-bit integers.
const EDGES64: [u64; 11] = [
    0,
    1,
    3,
    63,
    0xffff_ffff,
    1 << 32,
    0x0123_4567_89ab_cdef,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];
/// Edges of f32.
const FLOATS: [f32; 14] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1.5,
    -2.75,
    1e-40,
    -1e-45,
    3.4e38,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    1.000_000_1,
    0.1,
];

/// The fault of a run.
fn cause(outcome: Result<Report, Fault>) -> Cause {
    outcome.unwrap_err().cause
}
