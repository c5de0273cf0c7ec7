//! SSIMULACRA 2, the metric of Jon Sneyers (Cloudinary): multi-scale SSIM and edge differences in the colour space XYB,
//! weighted to agree with what people say about pictures.

use fast_ssim2::{PixelDescriptor, PixelSlice, compute_ssimulacra2};

use super::{MetricsError, Pair, Picture};

/// SSIMULACRA 2.1 of a pair of sRGB pictures, by the crate `fast-ssim2`. 100: equal; 90: hard to tell apart; 70: high
/// quality; 50: medium; 30: low; below 0: very different. It is not symmetric in its two pictures.
///
/// # Errors
/// If a picture has more than 2^28 pixels.
pub fn ssimulacra2(pair: &Pair) -> Result<f64, MetricsError> {
    let (reference, picture) = (view(pair.reference())?, view(pair.picture())?);
    compute_ssimulacra2(&reference, &picture).map_err(refused)
}

/// The picture in the crate's words.
fn view(picture: Picture<'_>) -> Result<PixelSlice<'_>, MetricsError> {
    let [width, height] = [picture.width(), picture.height()].map(u32::try_from);
    let (width, height) = (width.map_err(refused)?, height.map_err(refused)?);
    let stride = 3 * picture.width();
    PixelSlice::new(
        picture.rgb(),
        width,
        height,
        stride,
        PixelDescriptor::RGB8_SRGB,
    )
    .map_err(refused)
}

fn refused(error: impl std::fmt::Display) -> MetricsError {
    MetricsError::Ssimulacra2(error.to_string())
}
