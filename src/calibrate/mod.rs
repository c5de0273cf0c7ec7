//! Calibration: `generate` under an observer. `plan -> samples -> [Watch] -> Capture -> calibs/NAME.json`.
//!
//! A sample is one generation without decoding, and depends on its number alone; what it shows is added up in integer counts
//! and maxima. So any order, any interruption and any division of the work give the same file.
//!
//! [Watch]: observer::Watch

pub mod observer;
pub mod plan;
pub mod session;

pub use observer::Watch;
pub use plan::{SamplePlan, Shard};
pub use session::{CalibrateError, Session};
