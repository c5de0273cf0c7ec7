//! The rows of a benchmark (`configs/variants.json`), and the checkpoints that they run, converted once.
//!
//! A checkpoint is cached under the hash of everything that it is made of: the model, the policy's and the calibration's text,
//! the statistic, the program's version. So a changed policy makes another file, and an unchanged one none.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};

use crate::checkpoint::Activations;
use crate::checkpoint::fingerprint::hex;
use crate::context::Cancel;
use crate::quantize::plan::{Counts, Options};
use crate::quantize::{Calibration, ConvertError, Monitor, Plan, Policy, Source, execute};

/// The rows that come with the program, and their calibrations.
const BUILT_IN: &str = include_str!("../../configs/variants.json");
const CALIBRATIONS: [(&str, &str); 3] = [
    (
        "tiny-base.json",
        include_str!("../../calibs/tiny-base.json"),
    ),
    ("tiny-v2.json", include_str!("../../calibs/tiny-v2.json")),
    (
        "tiny-p999.json",
        include_str!("../../calibs/tiny-p999.json"),
    ),
];

/// A file of rows.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariantsFile {
    /// What the row of the model itself is called.
    pub baseline: String,
    /// The other rows by name, in the order of the file.
    #[serde(deserialize_with = "in_order")]
    pub variants: Vec<(String, VariantSpec)>,
}

/// A map as it is written.
fn in_order<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(String, VariantSpec)>, D::Error> {
    struct Rows;
    impl<'de> Visitor<'de> for Rows {
        type Value = Vec<(String, VariantSpec)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("rows by name")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut rows = Vec::new();
            while let Some((name, spec)) = map.next_entry::<String, _>()? {
                if rows.iter().any(|(known, _)| *known == name) {
                    return Err(A::Error::custom(format!("the row `{name}` is there twice")));
                }
                rows.push((name, spec));
            }
            Ok(rows)
        }
    }
    from.deserialize_map(Rows)
}

/// How a row's checkpoint is made. Paths are relative to the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariantSpec {
    /// A policy's file, or the name of a built-in one.
    pub policy: String,
    /// A calibration's file.
    #[serde(default)]
    pub calib: Option<String>,
    /// Its statistic.
    #[serde(default)]
    pub stat: Option<String>,
    /// Whether the calibration may be of other weights.
    #[serde(default)]
    pub foreign_calib: bool,
    /// `static`, `dynamic` or `none`.
    #[serde(default)]
    pub activations: Activations,
}

/// Why rows cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum VariantError {
    /// The file of rows, or one that it names.
    #[error("{path}: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// The conversion.
    #[error(transparent)]
    Convert(#[from] ConvertError),
}

/// A file of rows with the texts that its paths lead to.
pub struct Variants {
    /// The rows.
    pub file: VariantsFile,
    /// Where paths begin; nothing for the built-in rows.
    folder: Option<PathBuf>,
}

impl Variants {
    /// The rows that come with the program: V1 to V5 of the tiny model and others.
    ///
    /// # Errors
    /// None that a build which passes its tests can meet.
    pub fn built_in() -> Result<Self, VariantError> {
        Self::parse(Path::new("configs/variants.json"), BUILT_IN, None)
    }

    /// Reads a file of rows.
    ///
    /// # Errors
    /// A file that cannot be read, or is none.
    pub fn open(path: &Path) -> Result<Self, VariantError> {
        let text = read(path)?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Self::parse(path, &text, Some(folder))
    }

    fn parse(path: &Path, text: &str, folder: Option<PathBuf>) -> Result<Self, VariantError> {
        let file = serde_json::from_str(text).map_err(|e| VariantError::File {
            path: path.to_owned(),
            reason: format!("{e}; rows look as in configs/variants.json"),
        })?;
        Ok(Self { file, folder })
    }

    /// Rows that name a calibration take `calibration` instead; their statistics stay.
    pub fn calibrate_by(&mut self, calibration: &Path) {
        let path = std::path::absolute(calibration).unwrap_or_else(|_| calibration.to_owned());
        let rows = self.file.variants.iter_mut();
        for (_, row) in rows.filter(|(_, row)| row.calib.is_some()) {
            row.calib = Some(path.display().to_string());
            row.foreign_calib = false;
        }
    }

    /// The text of a file that a row names.
    fn text(&self, name: &str) -> Result<String, VariantError> {
        if Path::new(name).is_absolute() {
            return read(Path::new(name));
        }
        if let Some(folder) = &self.folder {
            return read(&folder.join(name));
        }
        let base = Path::new(name).file_name().unwrap_or_default();
        let found = CALIBRATIONS.iter().find(|(known, _)| base == *known);
        found
            .map(|(_, text)| (*text).to_owned())
            .ok_or_else(|| VariantError::File {
                path: name.into(),
                reason: "it is not inside of this program".to_owned(),
            })
    }

    fn policy(&self, name: &str) -> Result<(Policy, String), VariantError> {
        let stem = name.strip_suffix(".json").unwrap_or(name);
        let path = self.folder.as_ref().map(|folder| folder.join(name));
        match path.filter(|path| path.is_file()) {
            Some(path) => {
                let text = read(&path)?;
                let policy = Policy::parse(name, &text).map_err(ConvertError::from)?;
                Ok((policy, text))
            }
            None => match Policy::built_in(stem) {
                Some(policy) => Ok((policy.map_err(ConvertError::from)?, stem.to_owned())),
                None => Err(VariantError::File {
                    path: name.into(),
                    reason:
                        "there is no such policy; name a file beside the rows, or a built-in one"
                            .to_owned(),
                }),
            },
        }
    }

    /// The checkpoint of a row in `cache`, converted unless it is there, and its layers by format.
    ///
    /// # Errors
    /// Files that cannot be read, a conversion that fails.
    pub fn checkpoint(
        &self,
        spec: &VariantSpec,
        source: &Source,
        cache: &Path,
        cancel: &Cancel,
    ) -> Result<(PathBuf, Counts), VariantError> {
        let (policy, policy_text) = self.policy(&spec.policy)?;
        let calibration_text = spec
            .calib
            .as_deref()
            .map(|name| self.text(name))
            .transpose()?;
        let stat = spec.stat.as_deref().unwrap_or("max");
        let name = spec.calib.as_deref().unwrap_or_default();
        let calibration = calibration_text
            .as_deref()
            .map(|text| Calibration::parse(name, text, stat))
            .transpose()
            .map_err(ConvertError::from)?;
        let options = Options {
            // A file that lost some of its scales is refused, row by row.
            assume_unscaled: source.is_unscaled(),
            foreign_calibration: spec.foreign_calib,
            ..Options::default()
        };
        let plan = Plan::new(source, &policy, calibration.as_ref(), &options)?;
        plan.notes.iter().for_each(|note| tracing::info!("{note}"));
        let mut hash = Sha256::new();
        for part in [
            env!("CARGO_PKG_VERSION"),
            &source.transformer_fingerprint(),
            &policy_text,
            calibration_text.as_deref().unwrap_or_default(),
            stat,
        ] {
            hash.update(part.as_bytes());
            hash.update(b"\0");
        }
        let hash = hex(&hash.finalize()[..8]);
        let path = cache.join(format!(
            "{}-{hash}.safetensors",
            policy.name.trim_end_matches(".json")
        ));
        if !path.exists() {
            let monitor = Monitor {
                cancel: cancel.clone(),
                done: &|_| {},
            };
            execute(&plan, source, (&path, false), &monitor)?;
        }
        Ok((path, plan.counts))
    }
}

fn read(path: &Path) -> Result<String, VariantError> {
    std::fs::read_to_string(path).map_err(|e| VariantError::File {
        path: path.to_owned(),
        reason: format!("it cannot be read ({e}); give --variants a file like configs/variants.json, or names of its rows"),
    })
}
