//! What every `forward` may need besides its input: who watches, and whether to stop.
//!
//! [`Observer`] is declared here, at the bottom, and implemented higher up (calibration, parity tests,
//! the search for the first non-finite layer), so that `ops` depends on none of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use candle_core::Tensor;

use crate::numerics::machine::Machine;

/// What the transformer's time goes into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Linear layers whose activations and weights are NVFP4, quantization and a fused norm included.
    LinearNvfp4,
    /// The same in FP8.
    LinearFp8,
    /// Linear layers with F32 activations, whatever their weights are stored in.
    LinearF32,
    /// Attention without its linear layers.
    Attention,
    /// Norms, rotary positions, gates and residuals.
    Norm,
}

/// Watches a forward pass. Every method has an empty default.
pub trait Observer: Send + Sync {
    /// The noise levels (sigmas in [0, 1]) to which what comes next belongs: one for all, or one for each row.
    fn noise_levels(&self, sigmas: &[f32]) {
        let _ = sigmas;
    }

    /// Whether [`Self::spent`] wants to be called.
    fn times(&self) -> bool {
        false
    }

    /// A part of the transformer took so long.
    fn spent(&self, part: Part, time: Duration) {
        let _ = (part, time);
    }

    /// Whether [`Self::linear_input`] wants to be called: where nobody does, some inputs never exist.
    fn watches_linears(&self) -> bool {
        true
    }

    /// The input of a linear layer, `[.., K]` in F32, just before it is used. `layer` is the layer's
    /// checkpoint name without the component prefix (`transformer_blocks.0.attn.to_q`).
    fn linear_input(&self, layer: &str, input: &Tensor) {
        let _ = (layer, input);
    }

    /// The output of the same layer, `[.., N]` in F32, activation included.
    fn linear_output(&self, layer: &str, output: &Tensor) {
        let _ = (layer, output);
    }

    /// Some rows of what a convolution or a block of the VAE gave, channels last.
    fn map_output(&self, layer: &str, output: &[f32]) {
        let _ = (layer, output);
    }

    /// A named stage of a model: `transformer_blocks.N` is seen twice (`.txt`, `.img`), and so on.
    fn stage(&self, name: &str, value: &Tensor) {
        let _ = (name, value);
    }
}

/// The observer that sees nothing.
pub struct Unobserved;

impl Observer for Unobserved {
    fn watches_linears(&self) -> bool {
        false
    }
}

/// A request to stop, shared between the signal handler and the loops that honour it.
#[derive(Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the work to stop at the next step or block.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether someone asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The context of a forward pass.
#[derive(Clone)]
pub struct Cx {
    /// Sees the values that flow by.
    pub observer: Arc<dyn Observer>,
    /// Tells when to stop.
    pub cancel: Cancel,
    /// Which kernels may run.
    pub machine: Machine,
}

impl Default for Cx {
    fn default() -> Self {
        Self {
            observer: Arc::new(Unobserved),
            cancel: Cancel::default(),
            machine: Machine::detect(),
        }
    }
}

impl Cx {
    /// Does `work`, and tells the observer how long it took, if it wants to know.
    pub fn timed<T>(&self, part: Part, work: impl FnOnce() -> T) -> T {
        if !self.observer.times() {
            return work();
        }
        let start = Instant::now();
        let done = work();
        self.observer.spent(part, start.elapsed());
        done
    }

    /// The same context under other eyes.
    pub fn observed_by(&self, observer: Arc<dyn Observer>) -> Self {
        Self {
            observer,
            cancel: self.cancel.clone(),
            machine: self.machine,
        }
    }
}
