//! A policy under a budget: chosen on the first half of the prompts, converted, and checked against v3 on the second half.

use super::greedy::{Budget, Candidate, Limit, choose, predict};
use super::groups::{Group, policy_json};
use super::results::{Checked, Suggestion, Whole};
use super::study::{Errors, Measured, Study, by_step, layers, mean, v3, v3_layers};
use super::{SensitivityError, timing};
use crate::bench::teacher::Lesson;

/// Chooses and checks.
pub(super) fn suggest(
    study: &Study<'_>,
    measured: &Measured,
    budget: Budget,
) -> Result<Suggestion, SensitivityError> {
    let half = measured.lessons.len().div_ceil(2);
    let (first, second) = measured.lessons.split_at(half);
    let choice = Choice {
        study,
        measured,
        first,
        fp8: by_step(&measured.fp8_errors[..half]),
        candidates: candidates(measured, half),
        v3: mean_error(&measured.v3_errors[..half]),
    };
    let (mut taken, limit) = choice.by_prediction(budget);
    let at_first = taken.clone();
    let on_first = choice.keep_limit(&mut taken, limit)?;
    let names = |of: &[usize]| of.iter().map(|i| measured.groups[*i].name()).collect();
    let given_back: Vec<usize> = at_first.into_iter().skip(taken.len()).collect();
    let chosen = taken.iter().map(|i| &choice.candidates[*i]);
    let nvfp4 = choice.layers(&taken);
    let policy = policy_json(&nvfp4, study.blocks());
    let predicted_s = measured.time(&nvfp4);
    Ok(Suggestion {
        budget,
        chosen_on: first.len(),
        checked_on: second.len(),
        groups: names(&taken),
        given_back: names(&given_back),
        nvfp4_layers: nvfp4.len(),
        v3_layers: v3_layers(&measured.groups)?.len(),
        predicted: predict(&choice.fp8, chosen),
        on_first,
        v3_on_first: choice.v3,
        limit,
        predicted_s,
        budget_kept: match budget {
            Budget::TimesV3(_) => limit.is_none_or(|most| on_first <= most),
            Budget::Seconds(most) => predicted_s <= most,
        },
        checked: choice.check(&nvfp4, second)?,
        policy,
    })
}

fn candidates(measured: &Measured, half: usize) -> Vec<Candidate> {
    let groups = measured.groups.iter().zip(&measured.errors);
    let candidates = groups.map(|(group, errors)| Candidate {
        by_step: by_step(&errors[..half]),
        saved_s: measured.saved(group),
    });
    candidates.collect()
}

/// Mean of steps and lessons.
fn mean_error(errors: &[Vec<f64>]) -> f64 {
    mean(&by_step(errors))
}

struct Choice<'a> {
    study: &'a Study<'a>,
    measured: &'a Measured,
    /// The lessons on which it is chosen.
    first: &'a [Lesson],
    /// On them, by step.
    fp8: Vec<f64>,
    /// On them.
    candidates: Vec<Candidate>,
    /// On them.
    v3: f64,
}

impl<'a> Choice<'a> {
    /// What is taken if errors add up as predicted, and the most error that is allowed, where a budget says so.
    fn by_prediction(&self, budget: Budget) -> (Vec<usize>, Option<f64>) {
        let (limit, most) = match budget {
            Budget::TimesV3(x) => (Limit::Error(x * self.v3), Some(x * self.v3)),
            Budget::Seconds(s) => (Limit::Saved(self.measured.time(&[]) - s), None),
        };
        (choose(&self.fp8, &self.candidates, limit), most)
    }

    /// Gives back what was taken last until the error as measured keeps the limit; that error comes back.
    fn keep_limit(
        &self,
        taken: &mut Vec<usize>,
        limit: Option<f64>,
    ) -> Result<f64, SensitivityError> {
        loop {
            let layers = self.layers(taken);
            let weights = self.measured.mixed(layers.into_iter());
            let error = mean_error(&self.study.errors(&weights, self.first)?);
            if limit.is_none_or(|most| error <= most) || taken.pop().is_none() {
                return Ok(error);
            }
        }
    }

    fn layers(&self, taken: &[usize]) -> Vec<&'a str> {
        let groups = taken.iter().map(|i| &self.measured.groups[*i]);
        groups
            .flat_map(|group: &Group| &group.layers)
            .map(String::as_str)
            .collect()
    }

    /// The suggested policy and v3, really converted, on lessons on which nothing was chosen.
    fn check(&self, nvfp4: &[&str], second: &[Lesson]) -> Result<Checked, SensitivityError> {
        let study = self.study;
        (study.hears)("checking the suggestion", 0, 1);
        let suggested = study.convert("suggested", &study.policy(nvfp4)?)?;
        let v3 = study.convert("v3", &v3()?)?;
        // What is checked is what was measured.
        let expected = [nvfp4.len(), v3_layers(&self.measured.groups)?.len()];
        for (weights, expected) in [&suggested, &v3].into_iter().zip(expected) {
            let packed = layers(&self.measured.groups)
                .filter(|layer| weights.is_packed(&format!("{layer}.weight")));
            if packed.count() != expected {
                return Err(SensitivityError::Request(format!(
                    "{} does not have the {expected} NVFP4 layers that its policy names; the source's names are not known",
                    weights.path().display()
                )));
            }
        }
        let errors: [Errors; 2] = [
            study.errors(&suggested, second)?,
            study.errors(&v3, second)?,
        ];
        let all = layers(&self.measured.groups);
        let first = &self.measured.lessons[0];
        let seconds =
            timing::seconds_of(first, all, [&suggested, &v3, &self.measured.fp8], study.cx)?;
        let total = |i: usize| seconds.values().map(|s| s[i]).sum::<f64>();
        let [ours, theirs] = &errors;
        let pairs = ours.iter().zip(theirs);
        let suggested = Whole::of(ours, total(0));
        let v3 = Whole::of(theirs, total(1));
        let fp8 = &self.measured.fp8_errors[self.first.len()..];
        Ok(Checked {
            fp8: Whole::of(fp8, total(2)),
            better_on: pairs.filter(|(a, b)| mean(a) < mean(b)).count(),
            beats_v3: beats(&suggested, &v3),
            suggested,
            v3,
        })
    }
}

/// Less error in no more time, or less time at no more error.
fn beats(a: &Whole, b: &Whole) -> bool {
    let (error, time) = (
        [a.velocity_rel_err, b.velocity_rel_err],
        [a.linears_s, b.linears_s],
    );
    let below = |[a, b]: [f64; 2]| a < b;
    let not_above = |[a, b]: [f64; 2]| a <= b;
    (below(error) && not_above(time)) || (below(time) && not_above(error))
}
