//! `Results` -> `report.md` and `report.html`. Both say the same; the page has plots and pictures, too.
//!
//! A report is made of whatever there is: a row that failed, a figure that was not measured and a picture that is missing
//! leave a gap that says so. The page is one file and asks the network for nothing.

mod bars;
mod columns;
mod commands;
mod curves;
mod gallery;
mod heat;
mod html;
mod labels;
mod markdown;
mod pictures;
mod plot;
mod scatter;
mod tables;
mod text;

pub use html::html;
pub use markdown::markdown;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A plot cannot be drawn.
    #[error(
        "report.html: the plot \"{plot}\" cannot be drawn ({reason}); results.json has the figures, report.md the tables"
    )]
    Plot {
        /// Its title.
        plot: &'static str,
        /// What the drawing library says.
        reason: String,
    },
}
