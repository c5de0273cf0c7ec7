//! The committed table of what each kernel must keep (`kernels/gate.json`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::count::Mma;

/// The table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// One row per kernel, or per group of kernels alike. The first row that fits a kernel is its row.
    pub kernels: Vec<Row>,
}

/// What is asked of the kernels whose name fits.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Name of the entry; `*` stands for anything.
    pub entry: String,
    /// The architectures it speaks of; all if it names none.
    #[serde(default)]
    pub archs: Vec<String>,
    /// Shared memory that the launch adds to the static, bytes.
    #[serde(default)]
    pub dynamic_shared: usize,
    /// Blocks that a multiprocessor must hold, at least.
    #[serde(default)]
    pub blocks: usize,
    /// The main loop; absent for kernels without matrix instructions.
    #[serde(rename = "loop")]
    pub main_loop: Option<Loop>,
}

/// What the main loop must look like.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loop {
    /// How many matrix instructions of which kind it holds, exactly.
    pub products: Products,
    /// Instructions for each matrix instruction, at most.
    pub per_mma: f64,
    /// Rules that this kernel may break, each with the reason.
    #[serde(default)]
    pub except: BTreeMap<String, String>,
}

/// The number of matrix instructions, stated or derived.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Products {
    /// A tile of a matrix product.
    Tile {
        /// The only kind.
        mma: Mma,
        /// Rows, columns and depth that a block multiplies each time round.
        tile: [usize; 3],
        /// Warps that share the tile.
        warps: usize,
    },
    /// Stated by kind: matrix instructions of a warp each time round.
    Stated(BTreeMap<Mma, usize>),
}

impl Products {
    /// Matrix instructions of one warp each time round the loop. One is m16n8, as deep as its kind.
    pub fn counts(&self) -> BTreeMap<Mma, usize> {
        match self {
            Self::Tile { mma, tile, warps } => {
                let [m, n, k] = *tile;
                let all = (m / 16) * (n / 8) * (k / mma.depth());
                BTreeMap::from([(*mma, all / (*warps).max(1))])
            }
            Self::Stated(mma) => mma.clone(),
        }
    }
}

/// Why the table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// It cannot be read.
    #[error("reading {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no table.
    #[error("{path} is not a table of limits: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

impl Table {
    /// Reads the table.
    ///
    /// # Errors
    /// A file that cannot be read, or is of another form.
    pub fn read(path: &Path) -> Result<Self, TableError> {
        let path_buf = || path.to_owned();
        let text = std::fs::read_to_string(path).map_err(|source| TableError::Read {
            path: path_buf(),
            source,
        })?;
        serde_json::from_str(&text).map_err(|source| TableError::Parse {
            path: path_buf(),
            source,
        })
    }

    /// Which row speaks of `entry` on `arch`.
    pub fn row(&self, entry: &str, arch: &str) -> Option<usize> {
        self.kernels.iter().position(|row| row.fits(entry, arch))
    }
}

impl Row {
    fn fits(&self, entry: &str, arch: &str) -> bool {
        (self.archs.is_empty() || self.archs.iter().any(|a| a == arch)) && fits(&self.entry, entry)
    }
}

/// Whether `name` fits `pattern`, where `*` stands for anything.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|tail| {
            (0..=tail.len()).any(|i| tail.is_char_boundary(i) && fits(rest, &tail[i..]))
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, name, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*_x", "a_x", true),
            ("*_x", "a_xy", false),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abde", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_table_is_read() {
        let table: Table = serde_json::from_str(
            r#"{"kernels": [
                {"entry": "gemm_*", "archs": ["sm_120f"], "dynamic_shared": 73728, "blocks": 1,
                 "loop": {"products": {"mma": "OMMA.SF", "tile": [128, 128, 256], "warps": 4}, "per_mma": 2.4,
                          "except": {"no-shuffles": "why"}}},
                {"entry": "attention", "loop": {"products": {"QMMA.SF": 64, "HMMA": 8}, "per_mma": 6}},
                {"entry": "*"}]}"#,
        )
        .unwrap();
        assert_eq!(table.row("gemm_a", "sm_120f"), Some(0));
        assert_eq!(table.row("gemm_a", "sm_80"), Some(2));
        assert_eq!(table.row("attention", "sm_80"), Some(1));
        let products = |row: usize| {
            let main_loop = table.kernels[row].main_loop.clone().unwrap();
            main_loop.products.counts()
        };
        // 8 m-tiles x 16 n-tiles x 4 k-steps over 4 warps.
        assert_eq!(products(0), BTreeMap::from([(Mma::OmmaSf, 128)]));
        assert_eq!(
            products(1),
            BTreeMap::from([(Mma::QmmaSf, 64), (Mma::Hmma, 8)])
        );
    }

    #[test]
    fn misspelt_limits_are_refused() {
        for json in [
            r#"{"kernels": [{"entry": "a", "dynamic_shard": 1}]}"#,
            r#"{"kernels": [{"entry": "a", "loop": {"products": {"mma": "OMMA", "tile": [1, 1, 1], "warps": 1}, "per_mma": 1}}]}"#,
            r#"{"kernels": [{"entry": "a", "loop": {"products": {"HMMA": 1}}}]}"#,
        ] {
            assert!(serde_json::from_str::<Table>(json).is_err(), "{json}");
        }
    }
}
