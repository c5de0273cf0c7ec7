//! `sensitivity.json`: all that was measured. Seconds are the machine's; all other numbers of a ranking are the same on every
//! run, whatever the number of threads. A suggestion follows from both.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::greedy::Budget;
use super::groups::By;
use super::original::Tier;

/// The schema that this program writes.
pub const VERSION: u32 = 1;

/// A ranking of groups, and what was suggested after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sensitivity {
    /// [`VERSION`].
    pub version: u32,
    /// The program's version.
    pub engine: String,
    /// Name of the model.
    pub model: String,
    /// `Checkpoint::transformer_fingerprint` of it.
    pub fingerprint: String,
    /// The command that makes this file.
    pub command: String,
    /// Name of the calibration and its statistic, where there is one.
    pub calibration: Option<String>,
    /// Generations that were looked at, one for each prompt.
    pub prompts: usize,
    /// Seed of the first; the following count up.
    pub seed: u64,
    /// Width and height in pixels.
    pub size: [usize; 2],
    /// Noise levels of the transformer's evaluations.
    pub sigmas: Vec<f32>,
    /// Where times were measured: threads, and the kernels by format.
    pub environment: BTreeMap<String, String>,
    /// What makes a group.
    pub by: By,
    /// The model with every linear of the blocks in FP8: the row from which groups are told.
    pub fp8: Whole,
    /// The model by policy v3, put together in the same way.
    pub v3: Whole,
    /// The most damage first.
    pub groups: Vec<Row>,
    /// Spearman's rank correlation of `added` and of the original's tiers, over groups that have one.
    pub rank_correlation: Option<f64>,
    /// What `--suggest` found.
    pub suggestion: Option<Suggestion>,
}

/// A whole model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Whole {
    /// |v - v_base| / |v_base|, the mean of steps and prompts.
    pub velocity_rel_err: f64,
    /// The same by step.
    pub by_step: Vec<f64>,
    /// Seconds of a picture in those linears that are in groups, at the first prompt's shapes: the sum of what was measured
    /// layer by layer.
    pub linears_s: f64,
}

/// A group alone in NVFP4, everything else in FP8.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// As `attn.to_q 2/3`.
    pub name: String,
    /// As `attn.to_q`.
    pub layer_type: String,
    /// The third of the depth, from 1.
    pub third: Option<usize>,
    /// How many layers it has.
    pub layers: usize,
    /// Mean of steps and prompts.
    pub velocity_rel_err: f64,
    /// The same by step.
    pub by_step: Vec<f64>,
    /// What this is above FP8's: the damage.
    pub added: f64,
    /// Standard error of `added` over prompts; nothing for one prompt.
    pub added_std_err: Option<f64>,
    /// Mean output SQNR in dB of its layers in NVFP4, on the first prompt.
    pub sqnr_db: Option<f64>,
    /// Seconds of a picture in its layers, at the first prompt's shapes.
    pub fp8_s: f64,
    /// The same in NVFP4.
    pub nvfp4_s: f64,
    /// What the original held of the type.
    pub original: Option<Tier>,
}

impl Row {
    /// Seconds of a picture that NVFP4 saves; negative where it costs some.
    pub fn saved_s(&self) -> f64 {
        self.fp8_s - self.nvfp4_s
    }
}

/// A policy that was chosen on the first half of the prompts and checked on the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Suggestion {
    /// What was asked.
    pub budget: Budget,
    /// Prompts on which it was chosen.
    pub chosen_on: usize,
    /// Prompts on which it was checked.
    pub checked_on: usize,
    /// Groups in NVFP4, in the order in which they were taken.
    pub groups: Vec<String>,
    /// Groups that were taken at first and given back, since together they cost more than their squares add up to.
    pub given_back: Vec<String>,
    /// Layers in NVFP4.
    pub nvfp4_layers: usize,
    /// Layers that v3 has in NVFP4.
    pub v3_layers: usize,
    /// Its velocity error on the first half as predicted from its groups.
    pub predicted: f64,
    /// The same as measured.
    pub on_first: f64,
    /// Velocity error of v3 on the first half.
    pub v3_on_first: f64,
    /// The limit that its error had to keep on the first half; nothing where the budget is seconds.
    pub limit: Option<f64>,
    /// Seconds of its linears as predicted from its groups.
    pub predicted_s: f64,
    /// Whether the budget is kept on the first half. It may be out of reach: below FP8's error, or faster than NVFP4 is here.
    pub budget_kept: bool,
    /// Converted and checked on the second half.
    pub checked: Checked,
    /// The policy, as comfy-dit-quantizer and `convert --policy` read it.
    pub policy: String,
}

/// Converted files on prompts on which nothing was chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// Of the suggested policy.
    pub suggested: Whole,
    /// Of v3.
    pub v3: Whole,
    /// Of everything in FP8, which the suggestion should better be faster than.
    pub fp8: Whole,
    /// Of all prompts, those on which the suggested policy's error is below v3's.
    pub better_on: usize,
    /// Less error in no more time, or less time at no more error.
    pub beats_v3: bool,
}
