//! What the noise level alone decides: the timestep embedding and every modulation of the model.
//!
//! A third of the transformer's weights make modulations, and neither picture nor prompt plays a part in them. So
//! they are computed for many noise levels at once, which reads each of those weights once for all of them.

use std::sync::Arc;

use candle_core::Tensor;

use super::embed::Modulated;

/// The transformer at one noise level, made by [`QwenImageTransformer::conditioning`]. It serves any prompt,
/// picture and batch, and is cheap to clone: levels that were made together share their memory.
///
/// [`QwenImageTransformer::conditioning`]: super::QwenImageTransformer::conditioning
#[derive(Clone)]
pub struct Conditioning {
    levels: Arc<Levels>,
    row: usize,
}

/// M noise levels, one row for each.
pub(super) struct Levels {
    /// `[M, D]`.
    pub temb: Tensor,
    /// Image's and text's, of each block.
    pub blocks: Vec<[Modulated<6>; 2]>,
    /// Scale and shift.
    pub norm_out: Modulated<2>,
}

impl Conditioning {
    /// One for each row.
    pub(super) fn rows(levels: Levels) -> candle_core::Result<Vec<Self>> {
        let (rows, _) = levels.temb.dims2()?;
        let levels = Arc::new(levels);
        let row = |row| Self {
            levels: levels.clone(),
            row,
        };
        Ok((0..rows).map(row).collect())
    }

    /// The timestep embedding `[batch, D]`.
    pub(super) fn temb(&self, batch: usize) -> candle_core::Result<Tensor> {
        let temb = &self.levels.temb;
        temb.narrow(0, self.row, 1)?.expand((batch, temb.dim(1)?))
    }

    /// Shift, scale and gate of attention, then of the MLP, `[batch, D]` each; for image and text of block `index`.
    pub(super) fn block(
        &self,
        index: usize,
        batch: usize,
    ) -> candle_core::Result<[[Tensor; 6]; 2]> {
        let [img, txt] = &self.levels.blocks[index];
        Ok([img.at(self.row, batch)?, txt.at(self.row, batch)?])
    }

    /// Scale and shift of the last norm, `[batch, D]` each.
    pub(super) fn norm_out(&self, batch: usize) -> candle_core::Result<[Tensor; 2]> {
        self.levels.norm_out.at(self.row, batch)
    }
}
