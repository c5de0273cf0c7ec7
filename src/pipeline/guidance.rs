//! True classifier-free guidance with the norm put back, as diffusers' `QwenImagePipeline` does.

use candle_core::Tensor;

/// `c = negative + scale (positive - negative)`, each token rescaled to the length of its positive velocity.
/// All `[B, S, C]` packed.
///
/// # Errors
/// Where the shapes differ.
pub fn guide(positive: &Tensor, negative: &Tensor, scale: f64) -> candle_core::Result<Tensor> {
    let combined = (negative + ((positive - negative)? * scale)?)?;
    let length = |x: &Tensor| x.sqr()?.sum_keepdim(2)?.sqrt();
    let ratio = (length(positive)? / length(&combined)?)?;
    combined.broadcast_mul(&ratio)
}
