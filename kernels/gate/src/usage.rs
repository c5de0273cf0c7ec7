//! Registers, spills and shared memory: the log of `ptxas -v`, `cuobjdump -res-usage`, and the bounds in the PTX.

use std::collections::BTreeMap;

/// What a kernel takes, as `ptxas -v` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Registers of a thread.
    pub registers: usize,
    /// Bytes stored by spills, of a thread.
    pub spill_stores: usize,
    /// Bytes loaded by spills, of a thread.
    pub spill_loads: usize,
    /// Stack, bytes of a thread: spills and arrays with computed indices.
    pub stack: usize,
    /// Static shared memory, bytes of a block.
    pub shared: usize,
}

/// What the source promises of launches: `__launch_bounds__`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Threads of a block at most; 0 if the source does not say.
    pub threads: usize,
    /// Blocks of a multiprocessor at least; 0 if the source does not say.
    pub blocks: usize,
}

/// The number right before `words`, as in `38 registers`.
fn before(text: &str, words: &str) -> Option<usize> {
    let (head, _) = text.split_once(words)?;
    head.trim_end()
        .rsplit(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

/// Reads a log of `ptxas -v`: each entry's usage.
pub fn of_log(log: &str) -> BTreeMap<String, Usage> {
    let mut all = BTreeMap::new();
    let mut entry: Option<String> = None;
    // Properties of other functions than the entry (calls that were not inlined) count towards it.
    for line in log.lines() {
        if let Some(rest) = line.split_once("Compiling entry function '") {
            entry = rest.1.split('\'').next().map(str::to_owned);
            continue;
        }
        let Some(name) = &entry else { continue };
        let usage: &mut Usage = all.entry(name.clone()).or_default();
        if let Some(stack) = before(line, " bytes stack frame") {
            usage.stack = usage.stack.max(stack);
            usage.spill_stores += before(line, " bytes spill stores").unwrap_or(0);
            usage.spill_loads += before(line, " bytes spill loads").unwrap_or(0);
        } else if let Some(registers) = before(line, " registers") {
            usage.registers = registers;
            usage.shared = before(line, " bytes smem").unwrap_or(0);
        }
    }
    all
}

/// Reads `cuobjdump -res-usage`: each function's registers.
pub fn registers_of_binary(listing: &str) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    let mut function = None;
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("Function ") {
            function = Some(name.trim_end_matches(':').to_owned());
        } else if let (Some(name), Some(rest)) = (&function, line.strip_prefix("REG:")) {
            let registers = rest.split(' ').next().and_then(|r| r.parse().ok());
            if let Some(registers) = registers {
                all.insert(name.clone(), registers);
            }
        }
    }
    all
}

/// Reads PTX: each entry's launch bounds.
pub fn bounds_of_ptx(ptx: &str) -> BTreeMap<String, Bounds> {
    let mut all = BTreeMap::new();
    let mut entry: Option<String> = None;
    for line in ptx.lines().map(str::trim) {
        if let Some((_, name)) = line.split_once(".entry ") {
            let name = name.trim_end_matches(['(', ')', ' ']).to_owned();
            all.insert(name.clone(), Bounds::default());
            entry = Some(name);
        }
        let Some(bounds) = entry.as_ref().and_then(|name| all.get_mut(name)) else {
            continue;
        };
        if let Some(sizes) = [".maxntid", ".reqntid"]
            .iter()
            .find_map(|word| line.strip_prefix(word))
        {
            let sizes = sizes
                .split(',')
                .map_while(|n| n.trim().parse::<usize>().ok());
            bounds.threads = sizes.product();
        } else if let Some(blocks) = line.strip_prefix(".minnctapersm") {
            bounds.blocks = blocks.trim().parse().unwrap_or(0);
        } else if line.starts_with('{') {
            entry = None;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_of_ptxas() {
        let log = "ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'a' for 'sm_120f'
ptxas info    : Function properties for a
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 38 registers, used 0 barriers
ptxas info    : Compile time = 17.792 ms
ptxas info    : Compiling entry function 'b' for 'sm_80'
ptxas info    : Function properties for b
    64 bytes stack frame, 56 bytes spill stores, 60 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 64 bytes cumulative stack size, 37888 bytes smem, 392 bytes cmem[0]
";
        let a = Usage {
            registers: 38,
            ..Usage::default()
        };
        let b = Usage {
            registers: 168,
            spill_stores: 56,
            spill_loads: 60,
            stack: 64,
            shared: 37888,
        };
        assert_eq!(
            of_log(log),
            BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)])
        );
    }

    #[test]
    fn registers_of_a_binary() {
        let listing = "Resource usage:\n Common:\n  GLOBAL:0\n Function a:\n  REG:27 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:392\n";
        assert_eq!(
            registers_of_binary(listing),
            BTreeMap::from([("a".to_owned(), 27)])
        );
    }

    #[test]
    fn bounds_stand_between_the_parameters_and_the_body() {
        let ptx = ".visible .entry a(
	.param .u64 .ptr .align 1 a_param_0
)
.maxntid 128, 2
.minnctapersm 2
{
	ret;
}
.visible .entry b()
{
	mov.u32 %r1, %tid.x;
}
";
        let a = Bounds {
            threads: 256,
            blocks: 2,
        };
        assert_eq!(
            bounds_of_ptx(ptx),
            BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), Bounds::default())])
        );
    }
}
