//! Which tile serves a shape, and into how many parts K is split.

use std::fmt;

use super::operand::{Format, Shape};

/// Output columns of every tile.
pub const TILE_COLUMNS: usize = 128;

/// A tile of the output, by its rows. The numbers are those of `include/gemm_entries.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tile {
    /// 32 rows, 2 warps, split K.
    Rows32,
    /// 64 rows, 4 warps, split K.
    Rows64,
    /// 128 rows, 4 warps.
    Rows128,
    /// 256 rows, 8 warps.
    Rows256,
}

impl Tile {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Rows32, Self::Rows64, Self::Rows128, Self::Rows256];

    /// Output rows.
    pub fn rows(self) -> usize {
        match self {
            Self::Rows32 => 32,
            Self::Rows64 => 64,
            Self::Rows128 => 128,
            Self::Rows256 => 256,
        }
    }

    /// Threads of a block.
    pub fn threads(self) -> u32 {
        match self {
            Self::Rows32 => 64,
            Self::Rows64 | Self::Rows128 => 128,
            Self::Rows256 => 256,
        }
    }

    /// Blocks that share a multiprocessor.
    pub fn blocks(self) -> u32 {
        match self {
            Self::Rows256 => 1,
            _ => 2,
        }
    }

    /// Whether partial sums go through memory.
    pub fn splits(self) -> bool {
        matches!(self, Self::Rows32 | Self::Rows64)
    }

    /// Stages of the ring.
    pub fn stages(self, format: Format) -> usize {
        match (self, format) {
            (Self::Rows32, _) => 4,
            (Self::Rows64, Format::Nvfp4) => 3,
            (Self::Rows64, Format::Fp8) => 4,
            (Self::Rows128, Format::Nvfp4) => 2,
            (Self::Rows128, Format::Fp8) => 3,
            (Self::Rows256, Format::Nvfp4) => 3,
            (Self::Rows256, Format::Fp8) => 4,
        }
    }

    /// Bytes of shared memory of a block: 64 bytes of each row, and 512 bytes of block scales for each 64 rows.
    pub fn shared_bytes(self, format: Format) -> usize {
        let scales = match format {
            Format::Fp8 => 0,
            Format::Nvfp4 => (self.rows().div_ceil(64) + TILE_COLUMNS / 64) * 512,
        };
        self.stages(format) * ((self.rows() + TILE_COLUMNS) * 64 + scales)
    }

    /// Tiles of an output.
    pub fn count(self, shape: Shape) -> usize {
        shape.m.div_ceil(self.rows()) * shape.n.div_ceil(TILE_COLUMNS)
    }

    /// F32 numbers that a tile of a part of K leaves in the workspace.
    pub fn partial_len(self) -> usize {
        self.rows() * TILE_COLUMNS
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{TILE_COLUMNS}", self.rows())
    }
}

/// How a product is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The tile.
    pub tile: Tile,
    /// Parts of K; 1 for tiles that do not split.
    pub splits: u32,
    /// Blocks of the launch: each takes tiles until none is left.
    pub blocks: u32,
}

impl Plan {
    /// K of a part is at least this long: shorter ones write more partial sums than they read weights.
    const PART_K: usize = 512;
    /// More parts than this make the reduction long.
    const MOST_SPLITS: usize = 16;
    /// Above this the kernels' product of a part's number and the tiles of K would not fit 32 bits.
    const LIMIT_SPLITS: usize = 64;

    /// The plan for a card of so many multiprocessors.
    ///
    /// The tile is that with which the busiest multiprocessor has the least to do. Per row, tiles of 256 cost 3 % less
    /// than those of 128 and tiles of 64 cost 15 % more: an estimate from how much of the second-level cache each reads.
    /// Tiles of few rows stream the weight; K is split there until every multiprocessor has blocks.
    pub fn of(format: Format, shape: Shape, multiprocessors: u32) -> Self {
        let on = (format, shape, multiprocessors);
        let cards = multiprocessors.max(1) as usize;
        let cost = |(tile, percent): &(Tile, usize)| {
            tile.count(shape).div_ceil(cards) * tile.rows() * percent
        };
        let large = [
            (Tile::Rows256, 97),
            (Tile::Rows128, 100),
            (Tile::Rows64, 115),
        ];
        let tile = match large.iter().min_by_key(|candidate| cost(candidate)) {
            Some((tile, _)) if shape.m > 32 => *tile,
            _ => Tile::Rows32,
        };
        let slots = cards * tile.blocks() as usize;
        let most = (shape.k / Self::PART_K).clamp(1, Self::MOST_SPLITS);
        let splits = (slots / tile.count(shape).max(1)).clamp(1, most);
        Self::with(tile, splits as u32, on)
    }

    /// A plan of one's own: `splits` is cut to what the tile and K allow.
    pub fn with(tile: Tile, splits: u32, on: (Format, Shape, u32)) -> Self {
        let (format, shape, multiprocessors) = on;
        let k_tiles = shape.k.div_ceil(format.tile_k());
        let most = match tile.splits() {
            true => k_tiles.clamp(1, Self::LIMIT_SPLITS),
            false => 1,
        };
        let splits = (splits.max(1) as usize).min(most);
        let items = tile.count(shape).saturating_mul(splits).max(1);
        let slots = multiprocessors.max(1) as usize * tile.blocks() as usize;
        Self {
            tile,
            splits: splits as u32,
            blocks: items.min(slots) as u32,
        }
    }

    /// F32 numbers of workspace.
    pub fn workspace_len(&self, shape: Shape) -> usize {
        match self.tile.splits() {
            true => self.tile.count(shape) * self.splits as usize * self.tile.partial_len(),
            false => 0,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tiles of {}", self.tile)?;
        if self.splits > 1 {
            write!(f, ", K in {} parts", self.splits)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTX_5090: u32 = 170;

    fn plan(m: usize, n: usize, k: usize) -> (Tile, u32, u32) {
        let plan = Plan::of(Format::Nvfp4, Shape { m, n, k }, RTX_5090);
        (plan.tile, plan.splits, plan.blocks)
    }

    /// The shapes of Qwen-Image at 1024 x 1024: 4096 image tokens, text of up to 200 tokens.
    #[test]
    fn shapes_of_the_model() {
        // 768 tiles are 5 rounds of 170, 384 wide ones 3 double rounds.
        assert_eq!(plan(4096, 3072, 3072), (Tile::Rows128, 1, 340));
        assert_eq!(plan(4096, 3072, 12288), (Tile::Rows128, 1, 340));
        // 2304 tiles are 14 rounds, 1152 wide ones 7 double rounds.
        assert_eq!(plan(4096, 9216, 3072), (Tile::Rows256, 1, 170));
        assert_eq!(plan(20, 3072, 3072), (Tile::Rows32, 6, 144));
        assert_eq!(plan(77, 3072, 3072), (Tile::Rows64, 6, 288));
        assert_eq!(plan(77, 3072, 12288), (Tile::Rows64, 7, 336));
        // 384 tiles are 3 rounds of 64 rows; 192 would be 2 rounds of 128, 96 one of 256.
        assert_eq!(plan(200, 12288, 3072), (Tile::Rows64, 1, 340));
        assert_eq!(plan(512, 3072, 3072), (Tile::Rows128, 1, 96));
        assert_eq!(plan(1, 8, 64), (Tile::Rows32, 1, 1));
        assert_eq!(plan(0, 8, 64), (Tile::Rows32, 1, 1));
    }

    /// An RTX 5090 gives a block 99 KB and its multiprocessor 100 KB, of which each block costs 1 KB more.
    #[test]
    fn stages_fit_shared_memory() {
        for tile in Tile::ALL {
            for format in [Format::Fp8, Format::Nvfp4] {
                let bytes = tile.shared_bytes(format);
                assert!(bytes <= 99 * 1024, "{tile} {format:?}");
                let together = (bytes + 1024) * tile.blocks() as usize;
                assert!(together <= 100 * 1024, "{tile} {format:?}: {together}");
            }
        }
    }

    #[test]
    fn splits_are_cut_to_what_k_has() {
        let shape = Shape { m: 5, n: 8, k: 256 };
        let on = (Format::Nvfp4, shape, 170);
        assert_eq!(Plan::with(Tile::Rows64, 99, on).splits, 2);
        assert_eq!(Plan::with(Tile::Rows128, 99, on).splits, 1);
        let long = Shape {
            k: 1 << 30,
            ..shape
        };
        let on_long = (Format::Fp8, long, 170);
        assert_eq!(Plan::with(Tile::Rows64, u32::MAX, on_long).splits, 64);
        let plan = Plan::with(Tile::Rows32, 2, on);
        assert_eq!(plan.workspace_len(shape), 2 * 32 * 128);
        assert_eq!(plan.to_string(), "tiles of 32x128, K in 2 parts");
    }
}
