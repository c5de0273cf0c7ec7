//! Everything known of one kernel on one architecture, gathered from the build's products.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::count::Counts;
use crate::loops::main_loop;
use crate::sass::{self, Function};
use crate::usage::{self, Bounds, Usage};

/// One kernel as the assembler left it.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The source, without its ending.
    pub source: String,
    /// As in `sm_120f`.
    pub arch: String,
    /// Name of the entry.
    pub entry: String,
    /// Registers, spills, static shared memory.
    pub usage: Usage,
    /// Launch bounds.
    pub bounds: Bounds,
    /// Counts over the whole kernel.
    pub whole: Counts,
    /// Counts over the main loop, if there is one.
    pub main_loop: Option<Counts>,
}

impl Kernel {
    /// A kernel of its listing, its usage and its bounds.
    pub fn of(file: (&str, &str), function: &Function, usage: Usage, bounds: Bounds) -> Self {
        let main_loop = main_loop(function).map(|r| Counts::of(&function.instructions[r]));
        Self {
            source: file.0.to_owned(),
            arch: file.1.to_owned(),
            entry: function.name.clone(),
            usage,
            bounds,
            whole: Counts::of(&function.instructions),
            main_loop,
        }
    }
}

/// Where the build put things, and the tool that lists them.
#[derive(Debug, Clone)]
pub struct Products {
    /// Machine code and logs: `NAME.ARCH.cubin`, `NAME.ARCH.log`.
    pub binaries: PathBuf,
    /// `NAME.ARCH.ptx`.
    pub ptx: PathBuf,
    /// `cuobjdump`.
    pub cuobjdump: PathBuf,
}

impl Products {
    /// Reads every kernel, in the order of source, architecture and entry.
    ///
    /// # Errors
    /// Products that are missing or do not fit each other, or a tool that fails.
    pub fn kernels(&self) -> Result<Vec<Kernel>> {
        let mut files = Vec::new();
        let folder = std::fs::read_dir(&self.binaries)
            .with_context(|| format!("reading {} (run kernels/build)", self.binaries.display()))?;
        for file in folder {
            let path = file?.path();
            if path.extension().is_some_and(|e| e == "cubin") {
                files.push(path);
            }
        }
        ensure!(
            !files.is_empty(),
            "{} holds no .cubin: run kernels/build",
            self.binaries.display()
        );
        files.sort();
        let mut kernels = Vec::new();
        for file in files {
            let of_file = self.of_file(&file);
            kernels.extend(of_file.with_context(|| format!("reading {}", file.display()))?);
        }
        kernels.sort_by(|a, b| (&a.source, &a.arch, &a.entry).cmp(&(&b.source, &b.arch, &b.entry)));
        Ok(kernels)
    }

    fn of_file(&self, cubin: &Path) -> Result<Vec<Kernel>> {
        let stem = cubin
            .file_stem()
            .and_then(|s| s.to_str())
            .unwrap_or_default();
        let (source, arch) = stem
            .rsplit_once('.')
            .with_context(|| format!("{stem} is not NAME.ARCH"))?;
        let ptx = self.ptx.join(format!("{stem}.ptx"));
        let ptx =
            std::fs::read_to_string(&ptx).with_context(|| format!("reading {}", ptx.display()))?;
        let log = std::fs::read_to_string(cubin.with_extension("log"))
            .context("reading the log of ptxas beside it")?;
        let usages = usage::of_log(&log);
        let bounds = usage::bounds_of_ptx(&ptx);
        let registers = usage::registers_of_binary(&self.list(cubin, "-res-usage")?);
        let functions = sass::parse(&self.list(cubin, "-sass")?);
        let mut kernels = Vec::new();
        for function in &functions {
            let name = &function.name;
            let Some(usage) = usages.get(name) else {
                bail!("the log does not speak of {name}");
            };
            ensure!(
                registers.get(name) == Some(&usage.registers),
                "the log and the binary differ about {name}: run kernels/build"
            );
            let bounds = of_entry(&bounds, name)?;
            kernels.push(Kernel::of((source, arch), function, *usage, bounds));
        }
        Ok(kernels)
    }

    fn list(&self, cubin: &Path, flag: &str) -> Result<String> {
        let output = Command::new(&self.cuobjdump)
            .arg(flag)
            .arg(cubin)
            .output()
            .with_context(|| format!("running {}", self.cuobjdump.display()))?;
        ensure!(
            output.status.success(),
            "{} {flag} failed: {}",
            self.cuobjdump.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8(output.stdout)?)
    }
}

fn of_entry(bounds: &BTreeMap<String, Bounds>, name: &str) -> Result<Bounds> {
    let found = bounds.get(name).copied();
    found.with_context(|| format!("the PTX does not hold {name}: run kernels/build"))
}
