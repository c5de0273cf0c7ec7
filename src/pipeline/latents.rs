//! Latents: their shape, their packing into tokens, and their files.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::PipelineError;
use super::noise::TorchGenerator;
use crate::checkpoint::{CheckpointError, SafetensorsFile, write_whole};

/// Name of the one tensor in a file of latents.
const NAME: &str = "latents";

/// The shape of one picture's latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatentShape {
    /// Channels (16).
    pub channels: usize,
    /// Rows: the picture's height / 8.
    pub height: usize,
    /// Columns: the picture's width / 8.
    pub width: usize,
}

impl LatentShape {
    /// Rows and columns of packed tokens.
    pub fn grid(&self) -> (usize, usize) {
        (self.height / 2, self.width / 2)
    }

    /// Packed tokens.
    pub fn tokens(&self) -> usize {
        self.height / 2 * (self.width / 2)
    }

    /// Starting noise `[seeds, channels, height, width]`: row i is what `torch.randn` gives for the i-th seed, so
    /// that a picture does not depend on the batch that it is made in.
    ///
    /// # Errors
    /// None on the CPU.
    pub fn noise(&self, seeds: &[u64]) -> candle_core::Result<Tensor> {
        let n = self.channels * self.height * self.width;
        let rows: Vec<f32> = seeds
            .iter()
            .flat_map(|seed| TorchGenerator::new(*seed).randn(n))
            .collect();
        let shape = (seeds.len(), self.channels, self.height, self.width);
        Tensor::from_vec(rows, shape, &Device::Cpu)
    }

    /// `[B, C, h, w]` to tokens `[B, h/2 * w/2, C * 4]`: channel-major, then the 2 x 2 patch.
    ///
    /// # Errors
    /// Where the shape is another.
    pub fn pack(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (b, (h, w)) = (x.dim(0)?, self.grid());
        x.reshape(vec![b, self.channels, h, 2, w, 2])?
            .permute(vec![0, 2, 4, 1, 3, 5])?
            .reshape((b, h * w, self.channels * 4))
    }

    /// The inverse of [`Self::pack`].
    ///
    /// # Errors
    /// Where the shape is another.
    pub fn unpack(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (b, (h, w)) = (x.dim(0)?, self.grid());
        x.reshape(vec![b, h, w, self.channels, 2, 2])?
            .permute(vec![0, 3, 1, 4, 2, 5])?
            .reshape((b, self.channels, self.height, self.width))
    }
}

/// `z * std + mean` per channel: from the transformer's normalised space to the VAE's.
///
/// # Errors
/// Where `z` is not `[B, C, h, w]` with as many channels as there are statistics.
pub fn denormalise(z: &Tensor, mean: &[f32], std: &[f32]) -> candle_core::Result<Tensor> {
    let column = |v: &[f32]| Tensor::new(v, z.device())?.reshape((1, v.len(), 1, 1));
    z.broadcast_mul(&column(std)?)?
        .broadcast_add(&column(mean)?)
}

/// Writes `latents` `[B, C, h, w]` as safetensors; the file appears whole or not at all.
///
/// # Errors
/// [`PipelineError::Write`].
pub fn save(latents: &Tensor, path: &Path) -> Result<(), PipelineError> {
    let values = latents.flatten_all()?.to_vec1::<f32>()?;
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let refuse = |reason: String| PipelineError::Latents {
        path: path.to_owned(),
        reason,
    };
    let view = safetensors::tensor::TensorView::new(
        safetensors::Dtype::F32,
        latents.dims().to_vec(),
        &bytes,
    )
    .map_err(|e| refuse(e.to_string()))?;
    let file = safetensors::serialize([(NAME, view)], None).map_err(|e| refuse(e.to_string()))?;
    Ok(write_whole(path, &file)?)
}

/// Reads latents for `batch` pictures.
///
/// # Errors
/// A file that is none, holds another tensor or another shape, or values that are not finite.
pub fn load(path: &Path, shape: LatentShape, batch: usize) -> Result<Tensor, PipelineError> {
    let refuse = |reason: String| PipelineError::Latents {
        path: path.to_owned(),
        reason,
    };
    let file = SafetensorsFile::open(path).map_err(CheckpointError::given("--latents"))?;
    let view = file.view(NAME).ok_or_else(|| {
        refuse(format!(
            "it has no tensor `{NAME}`, so it is no file of latents; give one that --save-latents wrote"
        ))
    })?;
    let expected = [batch, shape.channels, shape.height, shape.width];
    if view.shape() != expected {
        return Err(refuse(format!(
            "`{NAME}` has shape {:?}, {expected:?} was expected; give the --size and --batch that it was made with",
            view.shape()
        )));
    }
    let values = view.to_f32()?;
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        return Err(refuse(format!(
            "value {at} of `{NAME}` is {}; make the file again with --save-latents",
            values[at]
        )));
    }
    Ok(Tensor::from_vec(values, &expected[..], &Device::Cpu)?.to_dtype(DType::F32)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// diffusers' `_pack_latents`: feature = channel * 4 + dy * 2 + dx, token = row * columns + column.
    #[test]
    fn packing_follows_its_definition_and_back() {
        let shape = LatentShape {
            channels: 3,
            height: 4,
            width: 6,
        };
        let values: Vec<f32> = (0..2 * 3 * 4 * 6).map(|v| v as f32).collect();
        let x = Tensor::from_vec(values, (2, 3, 4, 6), &Device::Cpu).unwrap();
        let packed = shape.pack(&x).unwrap();
        assert_eq!(packed.dims(), [2, 6, 12]);
        let at = |t: &Tensor, i: &[usize]| {
            i.iter()
                .fold(t.clone(), |t, i| t.get(*i).unwrap())
                .to_scalar::<f32>()
                .unwrap()
        };
        for (b, c, y, column) in [(0, 0, 0, 0), (1, 2, 3, 5), (0, 1, 2, 3), (1, 0, 1, 4)] {
            let (token, feature) = (y / 2 * 3 + column / 2, c * 4 + y % 2 * 2 + column % 2);
            assert_eq!(
                at(&packed, &[b, token, feature]),
                at(&x, &[b, c, y, column])
            );
        }
        let back = shape.unpack(&packed).unwrap();
        assert_eq!(
            back.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            x.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        );
    }

    #[test]
    fn files_round_trip_and_refuse_what_does_not_fit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("l.safetensors");
        let shape = LatentShape {
            channels: 4,
            height: 2,
            width: 6,
        };
        let noise = shape.noise(&[3, 4]).unwrap();
        save(&noise, &path).unwrap();
        let back = load(&path, shape, 2).unwrap();
        assert_eq!(
            back.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            noise.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        );
        let error = load(&path, shape, 1).unwrap_err().to_string();
        assert!(
            error.contains("[2, 4, 2, 6]") && error.contains("[1, 4, 2, 6]"),
            "{error}"
        );
        save(&(noise * f64::NAN).unwrap(), &path).unwrap();
        assert!(
            load(&path, shape, 2)
                .unwrap_err()
                .to_string()
                .contains("NaN")
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
