//! What a calibration does to the layers of a plan: which got a range, which did not, and how harmful the ranges are.

use std::collections::BTreeSet;

use super::calibration::{Calibration, CalibrationError, Harm};

/// Share of a layer's values beyond its range, above which that is said.
const CLIPPED: f64 = 1e-4;
/// Share of an NVFP4 layer's blocks that become zero.
const FLUSHED: f64 = 1e-2;
/// Predicted loss against the largest magnitude as range, in dB.
const LOST: f64 = 1.0;

/// Collects, layer by layer.
#[derive(Default)]
pub(super) struct Audit {
    /// Layers to be quantized for which the calibration has no range.
    without: BTreeSet<String>,
    /// Layers with one.
    with: usize,
    harmed: Vec<(String, Harm)>,
}

impl Audit {
    /// The range of a layer that is quantized, for NVFP4 or FP8.
    pub fn range(&mut self, from: &Calibration, layer: &str, nvfp4: bool) -> Option<f32> {
        let Some(range) = from.ranges.get(layer) else {
            self.without.insert(layer.to_owned());
            return None;
        };
        self.with += 1;
        let bound = if nvfp4 { range.nvfp4 } else { range.fp8 };
        if let Some(harm) = bound.harm
            && (harm.clipped > CLIPPED || (nvfp4 && harm.flushed > FLUSHED) || lost(&harm) > LOST)
        {
            self.harmed.push((layer.to_owned(), harm));
        }
        Some(bound.amax)
    }

    /// What the user should know.
    ///
    /// # Errors
    /// A calibration with counts that lacks layers without saying why: it is of another model.
    pub fn finish(&self, from: &Calibration) -> Result<Vec<String>, CalibrationError> {
        let mut notes = Vec::new();
        let unexplained: Vec<&String> = self.without.difference(&from.never_ran).collect();
        if let (Some(first), Some(model)) = (unexplained.first(), &from.model) {
            return Err(CalibrationError {
                name: from.name.clone(),
                reason: format!(
                    "it has nothing of {} layers that are quantized, the first is `{first}`; it was made for another model ({}): calibrate this one",
                    unexplained.len(),
                    model.name
                ),
            });
        }
        // What no generation runs is not missed either.
        if let Some(first) = unexplained.first() {
            notes.push(format!(
                "calibration {}: {} quantized layers have no range, the first is `{first}`: NVFP4 takes the activations' own amax, FP8 a scale of 1",
                from.name,
                unexplained.len()
            ));
        }
        let worst = self
            .harmed
            .iter()
            .max_by(|(_, a), (_, b)| lost(a).total_cmp(&lost(b)));
        if let Some((layer, harm)) = worst {
            let [sqnr, of_max] = harm.sqnr_db;
            notes.push(format!(
                "calibration {}, {}: it harms {} of {} layers. Worst is `{layer}`: {:.3} % of the values clipped, {:.3} % of the blocks or values flushed to zero, {sqnr:.1} dB predicted where `max` has {of_max:.1}; choose another --calib-stat",
                from.name,
                from.stat,
                self.harmed.len(),
                self.with,
                100.0 * harm.clipped,
                100.0 * harm.flushed,
            ));
        }
        Ok(notes)
    }
}

/// Against the largest magnitude as range, in dB.
fn lost(harm: &Harm) -> f64 {
    let [sqnr, of_max] = harm.sqnr_db;
    match sqnr.is_finite() {
        true => of_max - sqnr,
        false => 0.0,
    }
}
