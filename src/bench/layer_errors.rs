//! How far each layer of converted models is off the baseline's layer on the same input, without keeping any input.
//!
//! The baseline runs once more through a [`Lesson`]; whenever one of its linears is called, the same layer of every variant
//! computes too, and only two sums are kept. Biases are left out: they are no part of the product.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;

use super::teacher::{Lesson, Powers};
use crate::checkpoint::{CheckpointError, Weights};
use crate::context::{Cx, Observer};
use crate::ops::Linear;
use crate::pipeline::{Engine, PipelineError};

/// Signal and noise of every layer that ran, by its name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerErrors {
    /// Sums over all calls.
    pub sums: BTreeMap<String, Powers>,
}

impl LayerErrors {
    /// Each of `variants` (weights of transformers with the baseline's layers) on what the baseline's layers see in `lesson`.
    ///
    /// # Errors
    /// Those of the layers, of the baseline and of the variants.
    pub fn measure(
        baseline: &Engine,
        lesson: &Lesson,
        variants: &[&Weights],
        cx: &Cx,
    ) -> Result<Vec<Self>, PipelineError> {
        let beside = Arc::new(Beside {
            baseline: baseline.checkpoint().transformer.clone(),
            variants: variants.iter().map(|w| (*w).clone()).collect(),
            // Nobody watches the layers beside, else they would be watched for ever.
            cx: cx.observed_by(Cx::default().observer),
            state: Mutex::new(State {
                layers: BTreeMap::new(),
                errors: vec![Self::default(); variants.len()],
                fault: None,
            }),
        });
        let watched = cx.observed_by(beside.clone());
        let transformer = baseline.transformer();
        for input in lesson.inputs(transformer, &watched)? {
            transformer.forward(&input, &watched)?;
            if let Some(fault) = beside.lock().fault.take() {
                return Err(fault);
            }
        }
        Ok(std::mem::take(&mut beside.lock().errors))
    }

    /// Adds what another lesson showed.
    pub fn merge(&mut self, other: &Self) {
        for (layer, powers) in &other.sums {
            let mine = self.sums.entry(layer.clone()).or_default();
            *mine = mine.plus(*powers);
        }
    }

    /// dB by layer. Nothing for a layer that is the baseline's bit for bit.
    pub fn db(&self) -> BTreeMap<String, Option<f64>> {
        let sums = self.sums.iter();
        sums.map(|(layer, p)| (layer.clone(), p.db())).collect()
    }

    /// Mean dB by type of layer and third of the depth, as [`Quality::layer_sqnr_db`](super::results::Quality::layer_sqnr_db)
    /// has it: nothing where no layer ran or all are the baseline's bit for bit, which are left out of means too. Layers
    /// outside of the blocks are left out.
    pub fn by_third(&self) -> BTreeMap<String, [Option<f64>; 3]> {
        let blocks = depth(self.sums.keys().map(String::as_str));
        let mut cells = BTreeMap::<String, [Vec<f64>; 3]>::new();
        for (layer, powers) in &self.sums {
            if let Some((block, layer_type)) = place(layer) {
                let cells = cells.entry(layer_type.to_owned()).or_default();
                cells[third(block, blocks)].extend(powers.db());
            }
        }
        let mean = |v: Vec<f64>| (!v.is_empty()).then(|| v.iter().sum::<f64>() / v.len() as f64);
        let means = cells.into_iter().map(|(of, cells)| (of, cells.map(mean)));
        means.collect()
    }
}

/// Block and type of a layer of the blocks: `transformer_blocks.3.attn.to_q` is (3, `attn.to_q`).
pub fn place(layer: &str) -> Option<(usize, &str)> {
    let (block, layer_type) = layer.strip_prefix("transformer_blocks.")?.split_once('.')?;
    Some((block.parse().ok()?, layer_type))
}

/// How many blocks `layers` are of.
pub fn depth<'a>(layers: impl Iterator<Item = &'a str>) -> usize {
    let blocks = layers.filter_map(|layer| Some(place(layer)?.0 + 1));
    blocks.max().unwrap_or(0)
}

/// The third of `blocks` blocks to which block `block` belongs.
pub fn third(block: usize, blocks: usize) -> usize {
    (block * 3 / blocks.max(1)).min(2)
}

/// The width `[out, in]` of a layer's weight, unpacked.
pub(super) fn sides(weights: &Weights, layer: &str) -> Option<(usize, usize)> {
    let name = format!("{layer}.weight");
    match *weights.shape(&name)? {
        [n, k] if weights.is_packed(&name) => Some((n, 2 * k)),
        [n, k] => Some((n, k)),
        _ => None,
    }
}

/// The baseline's layer and those of the variants.
type Layers = Arc<(Linear, Vec<Linear>)>;

/// The observer that computes beside.
struct Beside {
    baseline: Weights,
    variants: Vec<Weights>,
    cx: Cx,
    state: Mutex<State>,
}

struct State {
    /// Loaded when they are first called.
    layers: BTreeMap<String, Layers>,
    errors: Vec<LayerErrors>,
    fault: Option<PipelineError>,
}

impl Beside {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load(&self, layer: &str, (n, k): (usize, usize)) -> Result<Layers, CheckpointError> {
        let load = |weights: &Weights| Linear::load(&weights.pp(layer), n, k, false);
        let variants = self.variants.iter().map(load);
        let variants = variants.collect::<Result<_, CheckpointError>>()?;
        Ok(Arc::new((load(&self.baseline)?, variants)))
    }

    fn add(&self, state: &mut State, layer: &str, input: &Tensor) -> Result<(), PipelineError> {
        let Some(sides) = sides(&self.baseline, layer) else {
            return Ok(());
        };
        let layers = match state.layers.get(layer) {
            Some(layers) => layers.clone(),
            None => {
                let layers = self.load(layer, sides)?;
                state.layers.insert(layer.to_owned(), layers.clone());
                layers
            }
        };
        let (baseline, variants) = &*layers;
        let base = baseline.forward(input, &self.cx)?;
        for (variant, errors) in variants.iter().zip(&mut state.errors) {
            let powers = Powers::of(&base, &variant.forward(input, &self.cx)?)?;
            let sum = errors.sums.entry(layer.to_owned()).or_default();
            *sum = sum.plus(powers);
        }
        Ok(())
    }
}

impl Observer for Beside {
    fn linear_input(&self, layer: &str, input: &Tensor) {
        let mut state = self.lock();
        if state.fault.is_none()
            && let Err(fault) = self.add(&mut state, layer, input)
        {
            state.fault = Some(fault);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_placed_by_type_and_third() {
        assert_eq!(
            place("transformer_blocks.10.img_mlp.net.0.proj"),
            Some((10, "img_mlp.net.0.proj"))
        );
        assert_eq!(place("img_in"), None);
        let thirds = |blocks| (0..blocks).map(|b| third(b, blocks)).collect::<Vec<_>>();
        assert_eq!(thirds(12), [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
        assert_eq!(thirds(1), [0]);
        assert_eq!(thirds(4), [0, 0, 1, 2]);
    }

    #[test]
    fn equal_layers_are_left_out_of_means() {
        let powers = |noise| Powers { signal: 1.0, noise };
        let name = |block: usize| format!("transformer_blocks.{block}.attn.to_q");
        let sums = [0.1, 0.0, 0.0, 0.01, 0.01, 0.001]
            .into_iter()
            .enumerate()
            .map(|(block, noise)| (name(block), powers(noise)));
        let mut errors = LayerErrors {
            sums: sums.collect(),
        };
        errors.sums.insert("img_in".to_owned(), powers(1.0));
        let cells = errors.by_third();
        let found = cells["attn.to_q"].map(|db| db.map(|db| (10.0 * db).round() / 10.0));
        assert_eq!(found, [Some(10.0), Some(20.0), Some(25.0)]);
        errors.merge(&errors.clone());
        assert_eq!(
            errors.sums["img_in"],
            Powers {
                signal: 2.0,
                noise: 2.0
            }
        );
        assert_eq!(errors.by_third(), cells);
        assert_eq!(errors.db()[&name(1)], None);
    }
}
