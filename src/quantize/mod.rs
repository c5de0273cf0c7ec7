//! One FP8 or BF16 checkpoint to a mixed NVFP4/FP8 one.
//!
//! `Policy + Source (+ Calibration) -> Plan`, and the plan is all that [`execute`](execute()) and
//! [`verify`](execute::verify) know: no second opinion in the writer.

mod audit;
pub mod calibration;
mod companions;
mod draft;
pub mod error;
pub mod execute;
pub mod plan;
pub mod policy;
mod quantizer;
pub mod report;
pub mod source;

pub use calibration::Calibration;
pub use error::ConvertError;
pub use execute::{Monitor, execute};
pub use plan::Plan;
pub use policy::Policy;
pub use source::Source;
