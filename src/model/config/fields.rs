//! A config's fields and a component's dimensions, read with suspicion.

use serde_json::Value;

use super::super::ModelError;
use crate::checkpoint::{Component, Weights};

/// Larger numbers in a configuration are a mistake or an attack.
pub(super) const LARGEST: u64 = 1 << 24;

/// A configuration's fields, with errors that say whose they are.
pub(super) struct Fields<'a> {
    pub component: Component,
    pub json: Option<&'a Value>,
}

impl Fields<'_> {
    pub fn refuse(&self, reason: String) -> ModelError {
        ModelError::Config {
            component: self.component,
            reason,
        }
    }

    /// Refuses the config of another class.
    pub fn class(&self, expected: &str) -> Result<(), ModelError> {
        match self.get("_class_name").and_then(Value::as_str) {
            Some(other) if other != expected => {
                Err(self.refuse(format!("`_class_name` is {other}, {expected} was expected")))
            }
            _ => Ok(()),
        }
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.json?.get(name).filter(|v| !v.is_null())
    }

    pub fn size(&self, name: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.as_u64() {
            Some(n @ 1..=LARGEST) => Ok(Some(n as usize)),
            _ => Err(self.refuse(format!(
                "`{name}` is {value}, a size from 1 to {LARGEST} was expected"
            ))),
        }
    }

    pub fn number(&self, name: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(v) if v.is_finite() => Ok(Some(v)),
            _ => Err(self.refuse(format!("`{name}` is {value}, a number was expected"))),
        }
    }

    pub fn list<T>(
        &self,
        name: &str,
        item: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, ModelError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let items = value
            .as_array()
            .and_then(|items| items.iter().map(item).collect());
        match items {
            Some(items) => Ok(Some(items)),
            None => Err(self.refuse(format!(
                "`{name}` is {value}, which cannot be read as a list of its kind"
            ))),
        }
    }

    pub fn flag(&self, name: &str) -> Result<bool, ModelError> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => {
                Err(self.refuse(format!("`{name}` is {value}, true or false was expected")))
            }
        }
    }

    /// The size that the tensors tell, which the configuration must not contradict.
    pub fn agree(&self, name: &str, told: usize) -> Result<usize, ModelError> {
        match self.size(name)? {
            Some(stated) if stated != told => Err(self.refuse(format!(
                "`{name}` is {stated} but its tensors say {told}; config and weights are of different models"
            ))),
            _ => Ok(told),
        }
    }

    /// The dimension `axis` of tensor `name`, in numbers: a packed weight has two in a byte.
    pub fn dim(&self, weights: &Weights, name: &str, axis: usize) -> Result<usize, ModelError> {
        let shape = weights.shape(name).ok_or_else(|| weights.missing(name))?;
        match shape.get(axis) {
            Some(n @ 1..) if axis == 1 && weights.is_packed(name) => Ok(n.saturating_mul(2)),
            Some(n @ 1..) => Ok(*n),
            _ => Err(self.refuse(format!(
                "tensor `{name}` has shape {shape:?}, which is of no use here"
            ))),
        }
    }
}

/// How many of `prefix.0`, `prefix.1`, ... there are, without a gap.
pub(super) fn count(weights: &Weights, prefix: &str) -> usize {
    let start = format!("{prefix}.");
    let index = |name: &str| {
        name.strip_prefix(&start)?
            .split('.')
            .next()?
            .parse::<u32>()
            .ok()
    };
    weights
        .names()
        .filter_map(index)
        .max()
        .map_or(0, |last| last as usize + 1)
}
