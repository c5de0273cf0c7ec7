//! Why a kernel did not run.

use cudarc::driver::DriverError;

/// Everything that can go wrong between a call and its kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No driver, or none that works.
    #[error(
        "no CUDA driver was found: install NVIDIA's driver (libcuda.so.1), or use --device cpu"
    )]
    NoDriver,
    /// A card that no kernel here is built for.
    #[error("{card} (compute capability {major}.{minor}) is not supported: {reason}")]
    Unsupported {
        /// The card's name.
        card: String,
        /// Compute capability.
        major: i32,
        /// Compute capability.
        minor: i32,
        /// What there is instead.
        reason: &'static str,
    },
    /// A kernel that this card's family lacks.
    #[error("the kernel {kernel} is not built for {family}")]
    NotBuilt {
        /// Name of the source.
        kernel: &'static str,
        /// The card's family.
        family: &'static str,
    },
    /// Shapes that do not fit the kernel, or each other.
    #[error("{kernel}: {message}")]
    Shape {
        /// Name of the kernel.
        kernel: &'static str,
        /// What was given and what was expected.
        message: String,
    },
    /// The driver refused.
    #[error("{doing}: {source}")]
    Driver {
        /// What was being done.
        doing: String,
        /// The driver's answer.
        source: DriverError,
    },
}

impl KernelError {
    /// A [`KernelError::Shape`].
    pub fn shape(kernel: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::Shape { kernel, message }
    }
}

/// Says what was being done when the driver refused.
pub(crate) trait Doing<T> {
    /// `doing`, as in "launching gate_residual_bf16".
    fn doing(self, doing: impl Into<String>) -> Result<T, KernelError>;
}

impl<T> Doing<T> for Result<T, DriverError> {
    fn doing(self, doing: impl Into<String>) -> Result<T, KernelError> {
        self.map_err(|source| KernelError::Driver {
            doing: doing.into(),
            source,
        })
    }
}
