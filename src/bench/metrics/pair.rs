//! Two pictures that can be compared.

/// The least width and height of a picture: the window of SSIM has 11 x 11 pixels.
pub const MIN_SIDE: usize = 11;

/// Why two pictures cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetricsError {
    /// The bytes are not those of an RGB picture of this size.
    #[error(
        "a picture of {width}x{height} has {width} * {height} * 3 bytes, but {bytes} were given; pass 8-bit RGB without padding"
    )]
    Bytes {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
        /// The bytes given.
        bytes: usize,
    },
    /// A side is below [`MIN_SIDE`].
    #[error(
        "a picture of {width}x{height} is too small to compare; use at least {MIN_SIDE}x{MIN_SIDE}"
    )]
    TooSmall {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// The pictures differ in size.
    #[error(
        "the reference is {}x{} and the picture {}x{}; generate both at the same size",
        reference.0, reference.1, picture.0, picture.1
    )]
    Sizes {
        /// Width and height of the reference.
        reference: (usize, usize),
        /// Width and height of the picture.
        picture: (usize, usize),
    },
    /// SSIMULACRA 2 refused the pictures, for example for their number of pixels.
    #[error("SSIMULACRA 2 cannot compare the pictures: {0}; use smaller ones")]
    Ssimulacra2(String),
}

/// An 8-bit sRGB picture, row-major, three bytes a pixel; at least [`MIN_SIDE`] on each side.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    width: usize,
    height: usize,
    rgb: &'a [u8],
}

impl<'a> Picture<'a> {
    /// Takes `width x height x 3` bytes.
    ///
    /// # Errors
    /// If the number of bytes is another, or a side is below [`MIN_SIDE`].
    pub fn new(width: usize, height: usize, rgb: &'a [u8]) -> Result<Self, MetricsError> {
        let bytes = width.checked_mul(height).and_then(|n| n.checked_mul(3));
        if bytes != Some(rgb.len()) {
            let bytes = rgb.len();
            return Err(MetricsError::Bytes {
                width,
                height,
                bytes,
            });
        }
        if width.min(height) < MIN_SIDE {
            return Err(MetricsError::TooSmall { width, height });
        }
        Ok(Self { width, height, rgb })
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// `height x width x 3` bytes.
    pub fn rgb(&self) -> &'a [u8] {
        self.rgb
    }

    /// One of the three channels, as numbers from 0 to 255.
    pub(super) fn channel(&self, channel: usize) -> Plane {
        self.plane(|pixel| f64::from(pixel[channel]))
    }

    /// A number for each pixel.
    pub(super) fn plane(&self, value: impl Fn(&[u8; 3]) -> f64) -> Plane {
        let (pixels, _) = self.rgb.as_chunks::<3>();
        Plane {
            width: self.width,
            height: self.height,
            samples: pixels.iter().map(value).collect(),
        }
    }
}

/// A reference and a picture of the same size.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    reference: Picture<'a>,
    picture: Picture<'a>,
}

impl<'a> Pair<'a> {
    /// Pairs them.
    ///
    /// # Errors
    /// If their sizes differ.
    pub fn new(reference: Picture<'a>, picture: Picture<'a>) -> Result<Self, MetricsError> {
        let [a, b] = [reference, picture].map(|p| (p.width, p.height));
        if a != b {
            return Err(MetricsError::Sizes {
                reference: a,
                picture: b,
            });
        }
        Ok(Self { reference, picture })
    }

    /// What the picture is compared with.
    pub fn reference(&self) -> Picture<'a> {
        self.reference
    }

    /// The picture.
    pub fn picture(&self) -> Picture<'a> {
        self.picture
    }
}

/// One number for each pixel, row-major.
pub(super) struct Plane {
    pub width: usize,
    pub height: usize,
    pub samples: Vec<f64>,
}

impl Plane {
    /// Row `y`.
    pub fn row(&self, y: usize) -> &[f64] {
        &self.samples[y * self.width..][..self.width]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pair_is_refused() {
        let bytes = [0u8; 12 * 13 * 3];
        let picture = Picture::new(12, 13, &bytes).unwrap();
        assert!(Pair::new(picture, picture).is_ok());
        let turned = Picture::new(13, 12, &bytes).unwrap();
        let error = Pair::new(picture, turned).unwrap_err().to_string();
        assert!(
            error.contains("12x13") && error.contains("13x12"),
            "{error}"
        );
        assert!(matches!(
            Picture::new(12, 12, &bytes),
            Err(MetricsError::Bytes { bytes: 468, .. })
        ));
        assert!(matches!(
            Picture::new(usize::MAX, 2, &bytes),
            Err(MetricsError::Bytes { .. })
        ));
        assert!(matches!(
            Picture::new(10, 12, &bytes[..360]),
            Err(MetricsError::TooSmall { .. })
        ));
    }
}
