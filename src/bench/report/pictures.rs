//! Pictures as `data:` URIs, small enough that a page of them stays small.

use std::fs;
use std::io::Cursor;
use std::path::{Component, Path};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{DynamicImage, ImageFormat, ImageReader, imageops};

/// Most columns or rows of an embedded picture, which the page shows about 100 units wide.
const LARGEST: u32 = 192;
/// Files above this are no pictures of ours: 4096x4096 pixels take 50 MB.
const MOST_BYTES: u64 = 64 << 20;

/// A picture in the page.
pub(super) struct Embedded {
    /// `data:image/png;base64,...`: letters, digits and `+/=:;,` only.
    pub uri: String,
    /// Columns, as embedded.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// Reads the picture `file` below `dir`, scaled down if it is large.
///
/// # Errors
/// A few words on why it cannot be shown.
pub(super) fn embed(dir: &Path, file: &str) -> Result<Embedded, String> {
    let relative = Path::new(file);
    let inside = relative
        .components()
        .all(|c| matches!(c, Component::Normal(_)));
    if file.is_empty() || !inside {
        return Err("not a path below the results' folder".to_owned());
    }
    let path = dir.join(relative);
    let length = fs::metadata(&path).map_err(|e| reason(&e))?.len();
    if length > MOST_BYTES {
        return Err(format!("{length} bytes are too many"));
    }
    let bytes = fs::read(&path).map_err(|e| reason(&e))?;
    let picture = ImageReader::with_format(Cursor::new(&bytes), ImageFormat::Png).decode();
    let picture = picture.map_err(|e| format!("not a whole PNG: {e}"))?;
    let (width, height) = (picture.width(), picture.height());
    if width.max(height) <= LARGEST {
        return Ok(Embedded {
            uri: uri(&bytes),
            width,
            height,
        });
    }
    let small = shrink(&picture);
    let (width, height) = (small.width(), small.height());
    let mut bytes = Vec::new();
    let encoder =
        PngEncoder::new_with_quality(&mut bytes, CompressionType::Best, FilterType::Adaptive);
    let written = small.write_with_encoder(encoder);
    written.map_err(|e| format!("cannot be scaled down: {e}"))?;
    Ok(Embedded {
        uri: uri(&bytes),
        width,
        height,
    })
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "missing".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}

fn uri(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(png))
}

/// The longer side becomes [`LARGEST`].
fn shrink(picture: &DynamicImage) -> DynamicImage {
    let (w, h) = (u64::from(picture.width()), u64::from(picture.height()));
    let scaled = |side: u64| (side * u64::from(LARGEST)).div_ceil(w.max(h)).max(1) as u32;
    let rgb = picture.to_rgb8();
    imageops::resize(&rgb, scaled(w), scaled(h), imageops::FilterType::CatmullRom).into()
}
