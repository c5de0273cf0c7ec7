//! Rows in, rows out: everything outside of the middle block is local, so a picture can flow through the layers
//! in strips.
//!
//! Each layer keeps the few rows that its next output still needs. Nothing is computed twice, and since
//! strips are cut where the kernel's tiles begin, the picture is the one computed at once, bit for bit.

use std::ops::Range;

use super::super::ModelError;
use super::blocks::Residual;
use crate::checkpoint::CheckpointError;
use crate::context::Cx;
use crate::ops::conv::{Conv2d, Map, ROW_UNIT};

/// Bytes that the maps of one strip may take, all together.
pub(super) const STRIP_BYTES: usize = 192 << 20;
/// Maps of one layer that are alive at once: input, normed input, inner map, output.
const MAPS: usize = 4;

/// Input rows per strip, where a row grows to at most `floats` numbers in any layer's map.
pub(super) fn strip_rows(strip_bytes: usize, floats: usize) -> usize {
    let rows = strip_bytes / (MAPS * size_of::<f32>() * floats.max(1));
    (rows / ROW_UNIT * ROW_UNIT).max(ROW_UNIT)
}

/// A convolution fed with rows: those of its input that its next output rows need, and where it stands.
struct Feed<'a> {
    conv: &'a Conv2d,
    input: Map,
    next: usize,
}

impl<'a> Feed<'a> {
    fn new(conv: &'a Conv2d, size: (usize, usize)) -> Self {
        Self {
            conv,
            input: Map::zeros(size, 0..0, conv.channels_in()),
            next: 0,
        }
    }

    /// Output rows that can be computed now.
    fn ready(&self) -> Range<usize> {
        let (end, height) = (self.input.rows.end, self.input.height);
        self.next..self.conv.geometry().ready(end, height).max(self.next)
    }

    /// Zeros for the rows that are ready.
    fn blank(&self) -> Map {
        self.conv
            .blank(self.input.height, self.input.width, self.ready())
    }

    /// Adds the rows that are ready to `out` and forgets the input that no later row needs.
    fn add_to(&mut self, out: &mut Map, cx: &Cx) -> Result<(), CheckpointError> {
        self.conv.add_to(&self.input, out)?;
        self.conv.show(out, cx);
        self.next = out.rows.end;
        let needed = match self.next == out.height {
            true => self.input.height,
            false => self.conv.geometry().first(self.next),
        };
        self.input.take_before(needed);
        Ok(())
    }
}

/// A layer in the middle of a picture.
enum Layer<'a> {
    Conv {
        norm: Option<&'a [f32]>,
        feed: Feed<'a>,
    },
    Residual {
        block: &'a Residual,
        /// Input rows whose output is not there yet.
        x: Map,
        conv1: Feed<'a>,
        conv2: Feed<'a>,
    },
}

impl Layer<'_> {
    /// The next rows of the input to the rows of the output that they complete.
    fn push(&mut self, x: Map, cx: &Cx) -> Result<Map, CheckpointError> {
        match self {
            Self::Conv { norm, feed } => {
                feed.input.append(match norm {
                    Some(gamma) => x.norm_silu(gamma),
                    None => x,
                });
                let mut out = feed.blank();
                feed.add_to(&mut out, cx)?;
                Ok(out)
            }
            Self::Residual {
                block,
                x: waiting,
                conv1,
                conv2,
            } => {
                conv1.input.append(x.norm(&block.norm1, true));
                waiting.append(x);
                let mut h = conv1.blank();
                conv1.add_to(&mut h, cx)?;
                conv2.input.append(h.norm_silu(&block.norm2));
                let mut out = waiting.take_before(conv2.ready().end);
                if let Some(shortcut) = &block.conv_shortcut {
                    let mut h = conv2.blank();
                    shortcut.add_to(&out, &mut h)?;
                    shortcut.show(&h, cx);
                    out = h;
                }
                conv2.add_to(&mut out, cx)?;
                Ok(out)
            }
        }
    }
}

/// Layers one after the other, on one picture.
pub(super) struct Stream<'a> {
    layers: Vec<Layer<'a>>,
    /// (height, width) of what the next layer takes.
    size: (usize, usize),
    floats: usize,
    input_height: usize,
}

impl<'a> Stream<'a> {
    /// No layers yet, for pictures of (height, width).
    pub(super) fn new(size: (usize, usize)) -> Self {
        Self {
            layers: Vec::new(),
            size,
            floats: 0,
            input_height: size.0.max(1),
        }
    }

    /// Adds a convolution, after the norm with SiLU if there is one.
    pub(super) fn conv(&mut self, norm: Option<&'a [f32]>, conv: &'a Conv2d) {
        self.layers.push(Layer::Conv {
            norm,
            feed: Feed::new(conv, self.size),
        });
        self.see(conv.channels_in());
        let (h, w) = self.size;
        self.size = (conv.geometry().output(h), conv.geometry().output(w));
        self.see(conv.channels_out());
    }

    /// Adds a residual block.
    pub(super) fn residual(&mut self, block: &'a Residual) {
        self.layers.push(Layer::Residual {
            block,
            x: Map::zeros(self.size, 0..0, block.conv1.channels_in()),
            conv1: Feed::new(&block.conv1, self.size),
            conv2: Feed::new(&block.conv2, self.size),
        });
        self.see(block.conv1.channels_in());
        self.see(block.conv1.channels_out());
    }

    fn see(&mut self, channels: usize) {
        let floats = self.size.0 * self.size.1 * channels / self.input_height;
        self.floats = self.floats.max(floats);
    }

    /// (height, width) of the output.
    pub(super) fn size(&self) -> (usize, usize) {
        self.size
    }

    /// Numbers that the largest map of any layer holds per row of the input.
    pub(super) fn floats_per_row(&self) -> usize {
        self.floats
    }

    /// The next rows of the input to the rows of the output that they complete; the last rows complete the picture.
    pub(super) fn push(&mut self, mut x: Map, cx: &Cx) -> Result<Map, ModelError> {
        for layer in &mut self.layers {
            if cx.cancel.is_cancelled() {
                return Err(ModelError::Cancelled);
            }
            x = layer.push(x, cx)?;
        }
        Ok(x)
    }
}
