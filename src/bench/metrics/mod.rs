//! How close a picture is to a reference picture of the same size.
//!
//! Both go into a [`Pair`]; [`Quality::of`] measures everything, or call one of:
//!
//! | function | range | equal pictures | source |
//! |---|---|---|---|
//! | [`psnr_db`] | 0 to infinity, dB | infinity | the mean squared error, peak 255 |
//! | [`ssim`] | -1 to 1 | 1 | Wang, Bovik, Sheikh, Simoncelli 2004; scikit-image's numbers |
//! | [`ms_ssim`] | 0 to 1 | 1 | Wang, Simoncelli, Bovik 2003; pytorch-msssim's numbers |
//! | [`ssimulacra2`] | below 0 to 100 | 100 | SSIMULACRA 2.1 (Cloudinary), crate `fast-ssim2` |
//! | [`detail_ratio`] | 0 to infinity | 1 | energy of the Laplacian, Subbarao, Choi, Nikzad 1993 |
//!
//! [`Lpips`] is measured beside them if the user has its weights.
//!
//! The numbers do not depend on the number of threads.

mod detail;
mod lpips;
mod ms_ssim;
mod pair;
mod perceptual;
mod psnr;
mod ssim;

pub use detail::detail_ratio;
pub use lpips::{Lpips, LpipsError};
pub use ms_ssim::{ms_ssim, scales};
pub use pair::{MIN_SIDE, MetricsError, Pair, Picture};
pub use perceptual::ssimulacra2;
pub use psnr::psnr_db;
pub use ssim::ssim;

/// Every metric of one pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// See [`psnr_db`]; infinite for equal pictures, which JSON cannot hold.
    pub psnr_db: f64,
    /// See [`ssim`].
    pub ssim: f64,
    /// See [`ms_ssim`].
    pub ms_ssim: f64,
    /// See [`ssimulacra2`].
    pub ssimulacra2: f64,
    /// See [`detail_ratio`]; infinite if only the reference has no detail.
    pub detail_ratio: f64,
}

impl Quality {
    /// Measures a pair.
    ///
    /// # Errors
    /// Only if SSIMULACRA 2 cannot be had, see [`ssimulacra2`].
    pub fn of(pair: &Pair) -> Result<Self, MetricsError> {
        Ok(Self {
            psnr_db: psnr_db(pair),
            ssim: ssim(pair),
            ms_ssim: ms_ssim(pair),
            ssimulacra2: ssimulacra2(pair)?,
            detail_ratio: detail_ratio(pair),
        })
    }
}
