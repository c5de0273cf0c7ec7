//! The products with bf16 results against F64, on the emulated card: every tile, ragged sizes, a ring that wraps.

use crate::case::{Case, assert_close};
use crate::common::emulator;
use crate::numbers::Noise;
use crate::run::{self, How, bf16_of, gated_of};
use half::bf16;
use qwen_nvfp4_kernels::gemm::{Format, Shape, Tile};

/// (m, n, k, tile, parts of K). K of 64 columns less than whole tiles; more K tiles than any ring has stages.
const SHAPES: [(usize, usize, usize, How); 12] = [
    (1, 8, 64, (Tile::Rows32, 1)),
    (20, 136, 640, (Tile::Rows32, 1)),
    (20, 136, 1600, (Tile::Rows32, 3)),
    (33, 16, 320, (Tile::Rows32, 2)),
    (77, 152, 704, (Tile::Rows64, 1)),
    (77, 136, 1216, (Tile::Rows64, 4)),
    (64, 128, 64, (Tile::Rows64, 5)),
    (200, 264, 448, (Tile::Rows128, 1)),
    (128, 128, 64, (Tile::Rows128, 1)),
    (1, 8, 128, (Tile::Rows128, 1)),
    (200, 136, 704, (Tile::Rows256, 1)),
    (300, 24, 256, (Tile::Rows256, 1)),
];

fn name(format: Format, case: &Case, how: How) -> String {
    format!("{format:?} {:?} {} in {}", case.shape(), how.0, how.1)
}

fn all_shapes(format: Format, card: &str) {
    let gpu = crate::card(card);
    for (i, (m, n, k, how)) in SHAPES.into_iter().enumerate() {
        let case = Case::random(format, Shape { m, n, k }, i as u64);
        let got = bf16_of(&gpu, &case, how).unwrap();
        assert_close(&got, &case.reference(), n, &name(format, &case, how));
    }
}

#[test]
fn nvfp4() {
    all_shapes(Format::Nvfp4, "rtx5090");
}

#[test]
fn fp8_with_unit_block_scales() {
    all_shapes(Format::Fp8, "rtx5090");
}

#[test]
fn fp8_with_the_plain_instruction() {
    all_shapes(Format::Fp8, "rtx4090");
}

/// FP8 takes any K that is a multiple of 16: the last tile of K is filled up with zeros.
#[test]
fn k_of_part_of_a_tile() {
    let gpu = crate::card("rtx5090");
    for (k, tile) in [16, 48, 112, 336].into_iter().zip(Tile::ALL) {
        let case = Case::random(Format::Fp8, Shape { m: 70, n: 136, k }, 3);
        let got = bf16_of(&gpu, &case, (tile, 1)).unwrap();
        assert_close(
            &got,
            &case.reference(),
            136,
            &name(Format::Fp8, &case, (tile, 1)),
        );
    }
}

/// 4224 rows: bands of 8 tiles in the raster, blocks that take several tiles one after the other.
#[test]
fn many_rows() {
    let gpu = crate::card("rtx5090");
    for (format, tile) in [(Format::Nvfp4, Tile::Rows256), (Format::Fp8, Tile::Rows128)] {
        let case = Case::random(
            format,
            Shape {
                m: 4224,
                n: 24,
                k: 192,
            },
            9,
        );
        let how = (tile, 1);
        let got = bf16_of(&gpu, &case, how).unwrap();
        assert_close(&got, &case.reference(), 24, &name(format, &case, how));
    }
}

/// A block walks along several tiles: fewer blocks than tiles, rings that end at different stages.
#[test]
fn a_block_takes_many_tiles() {
    let gpu = crate::card("rtx5090");
    for format in [Format::Nvfp4, Format::Fp8] {
        for (tile, splits) in [(Tile::Rows128, 1), (Tile::Rows256, 1), (Tile::Rows64, 3)] {
            for k in [320, 448] {
                let shape = Shape { m: 300, n: 392, k };
                let case = Case::random(format, shape, 21);
                let got = run::bf16_in_blocks(&gpu, &case, (tile, splits), 2).unwrap();
                let name = name(format, &case, (tile, splits));
                assert_close(&got, &case.reference(), 392, &name);
            }
        }
    }
}

/// The model's largest image layers, one block of many: it takes the tiles that the raster gives it and no others.
#[test]
fn a_block_of_a_large_product() {
    let gpu = crate::card("rtx5090");
    let block = 77;
    for (tile, k) in [(Tile::Rows128, 3072), (Tile::Rows256, 12288)] {
        let shape = Shape {
            m: 4096,
            n: 3072,
            k,
        };
        let case = Case::random(Format::Nvfp4, shape, 61);
        let got = run::bf16_of_block(&gpu, &case, (tile, 1), block).unwrap();
        let (blocks, rows) = (170 * tile.blocks() as usize, tile.rows());
        let mut mine = vec![false; got.len()];
        for item in (block..tile.count(shape)).step_by(blocks) {
            // Bands of 8 tiles, down and then right.
            let (band, within) = (item / (8 * 24), item % (8 * 24));
            let (row, column) = ((band * 8 + within % 8) * rows, within / 8 * 128);
            let part = Case {
                a: case.a.rows(row..row + rows),
                b: case.b.rows(column..column + 128),
                bias: case
                    .bias
                    .as_ref()
                    .map(|bias| bias[column..column + 128].to_vec()),
            };
            let place = |i: usize| (row + i / 128) * shape.n + column + i % 128;
            let tile_of = |i| {
                mine[place(i)] = true;
                got[place(i)]
            };
            let numbers: Vec<bf16> = (0..rows * 128).map(tile_of).collect();
            assert_close(
                &numbers,
                &part.reference(),
                128,
                &format!("{tile}, tile {item}"),
            );
        }
        let strayed = got
            .iter()
            .zip(mine)
            .position(|(x, mine)| !mine && x.to_f32() != 0.0);
        assert_eq!(strayed, None, "{tile}");
    }
}

#[test]
fn gated_residual() {
    let gpu = crate::card("rtx5090");
    for (format, how, m) in [
        (Format::Nvfp4, (Tile::Rows128, 1), 150),
        (Format::Nvfp4, (Tile::Rows64, 2), 77),
        (Format::Fp8, (Tile::Rows256, 1), 270),
        (Format::Fp8, (Tile::Rows32, 2), 20),
    ] {
        let n = 136;
        let case = Case::random(format, Shape { m, n, k: 320 }, 31);
        let mut noise = Noise(5);
        let residual: Vec<bf16> = (0..m * n)
            .map(|_| bf16::from_f32(3.0 * noise.signed()))
            .collect();
        let gate: Vec<bf16> = (0..n).map(|_| bf16::from_f32(noise.signed())).collect();
        let wanted: Vec<(f64, f64)> = case
            .reference()
            .iter()
            .enumerate()
            .map(|(i, (exact, error))| {
                let (r, g) = (residual[i].to_f64(), gate[i % n].to_f64());
                let last = 2f64.powi(-23) * (r.abs() + (g * exact).abs());
                (r + g * exact, g.abs() * error + last)
            })
            .collect();
        let apart = gated_of(&gpu, &case, how, (&residual, &gate, false)).unwrap();
        assert_close(&apart, &wanted, n, &name(format, &case, how));
        let in_place = gated_of(&gpu, &case, how, (&residual, &gate, true)).unwrap();
        assert_eq!(in_place, apart);
    }
}

/// Neither the order in which warps run nor a second run changes a bit, split or not.
#[test]
fn results_repeat() {
    let gpu = crate::card("rtx5090");
    for format in [Format::Nvfp4, Format::Fp8] {
        for how in [(Tile::Rows128, 1), (Tile::Rows64, 3), (Tile::Rows32, 4)] {
            let case = Case::random(
                format,
                Shape {
                    m: 40,
                    n: 136,
                    k: 512,
                },
                41,
            );
            let first = bf16_of(&gpu, &case, how).unwrap();
            for seed in ["1", "77"] {
                let _seed = emulator::settings(&[("seed", seed)]);
                assert_eq!(bf16_of(&gpu, &case, how).unwrap(), first, "{how:?}");
            }
        }
    }
}

/// All tiles that do not split compute the same sums in the same order.
#[test]
fn tiles_agree() {
    let gpu = crate::card("rtx5090");
    for format in [Format::Nvfp4, Format::Fp8] {
        let case = Case::random(
            format,
            Shape {
                m: 70,
                n: 136,
                k: 448,
            },
            51,
        );
        let of = |tile| bf16_of(&gpu, &case, (tile, 1)).unwrap();
        let first = of(Tile::Rows32);
        for tile in [Tile::Rows64, Tile::Rows128, Tile::Rows256] {
            assert_eq!(of(tile), first, "{tile}");
        }
    }
}
