//! What may use what: the modules build on each other in one direction.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

/// Each module and what it may name after `crate::`, besides itself. What is missing here may use everything.
const MAY_USE: [(&str, &[&str]); 8] = [
    ("numerics", &[]),
    ("context", &["numerics"]),
    ("checkpoint", &["numerics"]),
    ("ops", &["numerics", "checkpoint", "context"]),
    ("model", &["numerics", "checkpoint", "context", "ops"]),
    ("quantize", &["numerics", "checkpoint", "context"]),
    (
        "pipeline",
        &["numerics", "checkpoint", "context", "ops", "model"],
    ),
    (
        "calibrate",
        &[
            "numerics",
            "checkpoint",
            "context",
            "ops",
            "model",
            "pipeline",
            "quantize",
        ],
    ),
];

fn rust_files(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            rust_files(&entry.unwrap().path(), files);
        }
    } else if path.extension().is_some_and(|e| e == "rs") {
        files.push(path.to_owned());
    }
}

/// The modules that a source names after `crate::`, in `use` lines and paths alike, with their line numbers;
/// comments and `pub(in crate::..)` aside.
fn named(source: &str) -> Vec<(usize, String)> {
    let code = source.lines().enumerate().filter(|(_, line)| {
        let line = line.trim_start();
        !line.starts_with("//") && !line.contains("pub(in ")
    });
    let mut found = Vec::new();
    for (n, line) in code {
        for rest in line.split("crate::").skip(1) {
            // `use crate::{a::b, c};` names several.
            let (list, rest) = match rest.strip_prefix('{') {
                Some(list) => (true, list),
                None => (false, rest),
            };
            let parts: Vec<&str> = if list {
                rest.split(',').collect()
            } else {
                vec![rest]
            };
            found.extend(parts.into_iter().filter_map(|part| {
                let word: String = part
                    .trim_start()
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                    .collect();
                (!word.is_empty()).then_some((n + 1, word))
            }));
        }
    }
    found
}

#[test]
fn modules_use_only_what_lies_below_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for (module, allowed) in MAY_USE {
        let mut files = Vec::new();
        let folder = src.join(module);
        if folder.is_dir() {
            rust_files(&folder, &mut files);
        }
        let file = src.join(format!("{module}.rs"));
        if file.exists() {
            files.push(file);
        }
        assert!(!files.is_empty(), "no module `{module}`");
        for file in files {
            for (line, used) in named(&fs::read_to_string(&file).unwrap()) {
                seen += 1;
                // Macros and the like at the root are not modules.
                let is_module = src.join(&used).exists() || src.join(format!("{used}.rs")).exists();
                if is_module && used != module && !allowed.contains(&used.as_str()) {
                    wrong.push(format!("{}:{line}: {module} uses {used}", file.display()));
                }
            }
        }
    }
    assert!(seen > 50, "only {seen} uses were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_way_to_name_a_module_is_seen() {
    let source =
        "use crate::a::b;\n// crate::c\n    let x = crate::d::e();\npub use crate::{f::g, h};\n";
    let names: Vec<String> = named(source).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["a", "d", "f", "h"]);
}
