//! One card: its family, its stream, and the modules loaded on it so far.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::CUdevice_attribute as Attribute;
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream};
use cudarc::nvrtc::Ptx;

use crate::error::{Doing, KernelError};

/// Cards that are served by the same PTX.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// Compute capability 8.0 to 8.8: bf16 products only, FP8 and NVFP4 weights are widened on the fly.
    Ampere,
    /// 8.9 and 9.0: FP8 products with the plain `mma`.
    Ada,
    /// 12.x: block-scaled FP8 and NVFP4 products.
    Blackwell,
}

impl Family {
    /// The family of a compute capability.
    ///
    /// # Errors
    /// [`KernelError::Unsupported`] below 8.0, and for data-centre Blackwell (10.x), whose FP4 needs other kernels.
    pub fn of(card: &str, major: i32, minor: i32) -> Result<Self, KernelError> {
        let refuse = |reason| {
            Err(KernelError::Unsupported {
                card: card.to_owned(),
                major,
                minor,
                reason,
            })
        };
        match (major, minor) {
            (12, _) => Ok(Self::Blackwell),
            (9, 0) | (8, 9) => Ok(Self::Ada),
            (8, _) => Ok(Self::Ampere),
            (10 | 11, _) => refuse(
                "data-centre Blackwell needs tcgen05 kernels, which are not written yet; use --device cpu",
            ),
            _ if major < 8 => refuse("kernels need bf16 tensor cores (8.0 or newer)"),
            _ => refuse("no kernel was built for it; a newer release may have one"),
        }
    }

    /// The word of messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ampere => "sm_80",
            Self::Ada => "sm_89",
            Self::Blackwell => "sm_120f",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The PTX of one `kernels/NAME.cu`, per family. A card takes its own, or that of an older family.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// `NAME`.
    pub name: &'static str,
    /// PTX texts, each with the oldest family that runs it.
    pub ptx: &'static [(Family, &'static str)],
}

impl Source {
    /// The newest PTX that `family` runs.
    pub fn of(&self, family: Family) -> Option<&'static str> {
        let fits = self.ptx.iter().filter(|(oldest, _)| *oldest <= family);
        fits.max_by_key(|(oldest, _)| *oldest).map(|(_, ptx)| *ptx)
    }
}

/// A card that is in use.
pub struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    family: Family,
    multiprocessors: u32,
    modules: Mutex<HashMap<&'static str, Arc<CudaModule>>>,
}

impl Gpu {
    /// Opens card number `ordinal`.
    ///
    /// # Errors
    /// No driver, no such card, or one of no supported family.
    pub fn open(ordinal: usize) -> Result<Self, KernelError> {
        // SAFETY: it only tries to open the library.
        if !unsafe { cudarc::driver::sys::is_culib_present() } {
            return Err(KernelError::NoDriver);
        }
        let context = CudaContext::new(ordinal).doing(format!("opening GPU {ordinal}"))?;
        Self::of_context(context)
    }

    /// The card of a context.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of_context(context: Arc<CudaContext>) -> Result<Self, KernelError> {
        let name = context.name().doing("asking for the GPU's name")?;
        let (major, minor) = context
            .compute_capability()
            .doing("asking for the GPU's compute capability")?;
        let multiprocessors = context
            .attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .doing("asking for the GPU's multiprocessors")?;
        Ok(Self {
            family: Family::of(&name, major, minor)?,
            stream: context.default_stream(),
            context,
            multiprocessors: multiprocessors.max(1).unsigned_abs(),
            modules: Mutex::default(),
        })
    }

    /// The stream that everything here runs on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The card's family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// How many multiprocessors it has.
    pub fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    /// A kernel of `source`, loading its module the first time.
    ///
    /// # Errors
    /// [`KernelError::NotBuilt`] if the family has none, or the driver's refusal of the module or the name.
    pub fn function(&self, source: &Source, name: &str) -> Result<CudaFunction, KernelError> {
        // cudarc asks for functions, and sets their attributes, in whatever context this thread has.
        self.context
            .bind_to_thread()
            .doing("taking the GPU's context")?;
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let module = match modules.get(source.name) {
            Some(module) => module.clone(),
            None => {
                let text = source.of(self.family).ok_or(KernelError::NotBuilt {
                    kernel: source.name,
                    family: self.family.word(),
                })?;
                let module = self
                    .context
                    .load_module(Ptx::from_src(text))
                    .doing(format!(
                        "loading the module {} (its PTX is that of CUDA 13: driver 580 or newer)",
                        source.name
                    ))?;
                modules.insert(source.name, module.clone());
                module
            }
        };
        module
            .load_function(name)
            .doing(format!("finding {name} in the module {}", source.name))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_card_takes_the_newest_ptx_it_runs() {
        let source = Source {
            name: "x",
            ptx: &[(Family::Ampere, "old"), (Family::Blackwell, "new")],
        };
        assert_eq!(source.of(Family::Ampere), Some("old"));
        assert_eq!(source.of(Family::Ada), Some("old"));
        assert_eq!(source.of(Family::Blackwell), Some("new"));
        let only_new = Source {
            name: "y",
            ptx: &[(Family::Blackwell, "new")],
        };
        assert_eq!(only_new.of(Family::Ada), None);
    }

    #[test]
    fn families_of_cards() {
        for (cc, family) in [
            ((12, 0), Family::Blackwell),
            ((12, 1), Family::Blackwell),
            ((9, 0), Family::Ada),
            ((8, 9), Family::Ada),
            ((8, 6), Family::Ampere),
        ] {
            assert_eq!(Family::of("card", cc.0, cc.1).unwrap(), family);
        }
        let told = |major, minor| Family::of("card", major, minor).unwrap_err().to_string();
        assert!(told(10, 0).contains("tcgen05"), "{}", told(10, 0));
        assert!(told(7, 5).contains("8.0 or newer"));
    }
}
