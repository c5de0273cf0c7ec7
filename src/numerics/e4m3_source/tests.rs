//! The fast path equals the F32 path on every pair of bytes, and the histogram equals a look at every number.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::numerics::error::ErrorStats;
use crate::numerics::nvfp4::{self, BlockRule, reference};
use crate::numerics::search::{Format, Method, Search, amax, search_e4m3};
use proptest::prelude::*;

type Quantized = (Vec<u8>, Vec<u8>);

fn numbers(bytes: &[u8], weight_scale: f32) -> Vec<f32> {
    bytes.iter().map(|b| number(*b, weight_scale)).collect()
}

fn plain(bytes: &[u8], scales: (f32, f32), rule: BlockRule) -> Quantized {
    let (mut codes, mut block_scales) = (vec![0; bytes.len() / 2], vec![0; bytes.len() / BLOCK]);
    let x = numbers(bytes, scales.1);
    reference::quantize(&x, scales.0, rule, &mut codes, &mut block_scales);
    (codes, block_scales)
}

/// By the path that this machine takes, which the portable one must equal.
fn fast(bytes: &[u8], scales: (f32, f32)) -> Result<Quantized, NanByte> {
    let tables = Tables::new(scales.0, scales.1);
    let run = |portable: bool| {
        let (mut codes, mut block_scales) =
            (vec![0; bytes.len() / 2], vec![0; bytes.len() / BLOCK]);
        match portable {
            true => tables.quantize_portable(bytes, &mut codes, &mut block_scales)?,
            false => tables.quantize(bytes, &mut codes, &mut block_scales)?,
        }
        Ok((codes, block_scales))
    };
    assert_eq!(run(true), run(false));
    run(false)
}

fn fast_four_six(bytes: &[u8], scales: (f32, f32)) -> (Quantized, ErrorStats) {
    let tables = FourSix::new(scales.0, scales.1);
    let run = |portable: bool| {
        let (mut codes, mut block_scales) =
            (vec![0; bytes.len() / 2], vec![0; bytes.len() / BLOCK]);
        let mut seen = Split::default();
        match portable {
            true => tables.quantize_portable(bytes, &mut codes, &mut block_scales, &mut seen),
            false => tables.quantize(bytes, &mut codes, &mut block_scales, &mut seen),
        }
        .unwrap();
        ((codes, block_scales), tables.stats(&seen))
    };
    assert_eq!(run(true), run(false));
    run(false)
}

fn close(a: &ErrorStats, b: &ErrorStats) -> bool {
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-11 * a.abs().max(b.abs());
    (a.elements, a.clipped, a.flushed) == (b.elements, b.clipped, b.flushed)
        && a.max_error == b.max_error
        && near(a.signal, b.signal)
        && near(a.noise, b.noise)
        && near(a.dot, b.dot)
        && near(a.dequantized_power, b.dequantized_power)
}

/// A block for each pair of a largest magnitude and a smaller one, of both signs.
fn every_pair() -> Vec<u8> {
    let mut bytes = Vec::new();
    for max in 0..NAN {
        for magnitude in 0..=max {
            let mut block = [0; BLOCK];
            block[5] = max | if magnitude % 2 == 0 { 0x80 } else { 0 };
            block[8..].fill(magnitude);
            block[9] |= 0x80;
            bytes.extend(block);
        }
    }
    bytes
}

/// Scales that make ties (powers of two), that do not, that saturate block scales and that let them vanish.
const SCALES: [(f32, f32); 9] = [
    (448.0 / 2688.0, 1.0),
    (0.0625, 1.0),
    (0.125 * 0.001, 0.0037),
    (1.75 * 0.0625, 0.5),
    (1e-4, 1.0),
    (300.0, 1.0),
    (7e4, 1.0),
    (1e-30, 1e-29),
    (1e-42, 1e-40),
];

#[test]
fn every_pair_of_bytes_equals_the_f32_path() {
    let bytes = every_pair();
    for scales in SCALES {
        assert!(
            fast(&bytes, scales) == Ok(plain(&bytes, scales, BlockRule::Six)),
            "{scales:?}"
        );
        let (four_six, _) = fast_four_six(&bytes, scales);
        assert!(
            four_six == plain(&bytes, scales, BlockRule::FourSix),
            "{scales:?}"
        );
    }
}

#[test]
fn nan_is_an_error_with_its_index() {
    for (index, byte) in [(0, 0x7f), (37, 0xff), (63, 0x7f)] {
        let mut bytes = vec![0x30; 64];
        bytes[index] = byte;
        let expected = Err(NanByte { index });
        assert_eq!(fast(&bytes, (1.0, 1.0)).map(|_| ()), expected);
        assert_eq!(Histogram::new().add(&bytes), expected);
        let (mut codes, mut scales) = (vec![0; 32], vec![0; 4]);
        let four_six = FourSix::new(1.0, 1.0);
        let found = four_six.quantize(&bytes, &mut codes, &mut scales, &mut Split::default());
        assert_eq!(found, expected);
    }
}

/// The lost original, drawn many times evenly from each number's interval, meets the integrals.
#[test]
fn double_quantization_meets_a_simulation() {
    let bytes: Vec<u8> = (0..64)
        .map(|i| [0x1c, 0x9f, 0x24, 0x28][i % 4] + (i / 16) as u8)
        .collect();
    let (scale_2, weight_scale) = (0.013, 2.0);
    let mut histogram = Histogram::new();
    histogram.add(&bytes).unwrap();
    let tables = Tables::new(scale_2, weight_scale);
    let model = DoubleQuantization::model(&histogram, &tables);

    const DRAWS: usize = 20_000;
    let mut simulated = DoubleQuantization::default();
    for block in bytes.as_chunks::<BLOCK>().0 {
        let max = block_max(block);
        for byte in block {
            let value = |b: u8| f64::from(number(b & 0x7f, weight_scale));
            let low = (value(byte - 1) + value(*byte)) / 2.0;
            let high = (value(byte + 1) + value(*byte)) / 2.0;
            let decoded = f64::from(tables.decoded(max, byte & 0x7f));
            for i in 0..DRAWS {
                let y = low + (high - low) * (i as f64 + 0.5) / DRAWS as f64;
                let total = tables.total(max);
                let code = nvfp4::code(y as f32, total, nvfp4::Top::Six);
                let direct = f64::from(crate::numerics::e2m1::VALUES[usize::from(code)] * total);
                simulated.direct += (y - direct).powi(2) / DRAWS as f64;
                simulated.through_fp8 += (y - decoded).powi(2) / DRAWS as f64;
            }
        }
    }
    assert!(
        (model.direct / simulated.direct - 1.0).abs() < 1e-4,
        "{model:?} {simulated:?}"
    );
    assert!((model.through_fp8 / simulated.through_fp8 - 1.0).abs() < 1e-4);
    assert!(model.added_db() > 0.0);
    // Whatever the blocks chose, the two ways together are as loud as the pairs say.
    let (four_six, mut seen) = (FourSix::new(scale_2, weight_scale), Split::default());
    let (mut codes, mut scales) = (vec![0; 32], vec![0; 4]);
    four_six
        .quantize(&bytes, &mut codes, &mut scales, &mut seen)
        .unwrap();
    let chosen = four_six.double_quantization(&seen);
    assert!(chosen.direct > 0.0 && chosen.direct < 2.0 * model.direct);
    assert_eq!(DoubleQuantization::default().added_db(), 0.0);
}

/// Whole blocks without NaN, large and small numbers in turn.
fn blocks() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        3 => (0u8..NAN, any::<bool>()),
        2 => (0u8..0x20, any::<bool>()),
        1 => (Just(0u8), any::<bool>()),
    ];
    let byte = byte.prop_map(|(magnitude, negative)| magnitude | if negative { 0x80 } else { 0 });
    prop::collection::vec(prop::collection::vec(byte, BLOCK), 0..40).prop_map(|b| b.concat())
}

proptest! {
    #[test]
    fn any_blocks_equal_the_f32_path(bytes in blocks(), scale_2 in 0.001f32..0.5, weight_scale in 0.1f32..3.0) {
        let scales = (scale_2, weight_scale);
        prop_assert_eq!(fast(&bytes, scales), Ok(plain(&bytes, scales, BlockRule::Six)));
        let (four_six, stats) = fast_four_six(&bytes, scales);
        prop_assert_eq!(&four_six, &plain(&bytes, scales, BlockRule::FourSix));
        let x = numbers(&bytes, weight_scale);
        prop_assert!(close(&stats, &ErrorStats::nvfp4(&x, &four_six.0, &four_six.1, scale_2)));
    }

    /// Counts are exact, whatever the parts; errors are those of the codes.
    #[test]
    fn histogram_equals_a_look_at_every_number(bytes in blocks(), cut in 0usize..40, scale_2 in 0.001f32..0.5) {
        let mut whole = Histogram::new();
        whole.add(&bytes).unwrap();
        let (left, right) = bytes.split_at((cut * BLOCK).min(bytes.len()));
        let (mut parts, mut other) = (Histogram::new(), Histogram::new());
        parts.add(right).unwrap();
        other.add(left).unwrap();
        parts.merge(&other);
        prop_assert!(whole.pairs().eq(parts.pairs()));
        prop_assert_eq!(whole.elements(), bytes.len() as u64);
        prop_assert_eq!(whole.largest(), bytes.iter().map(|b| b & 0x7f).max().unwrap_or(0));
        let mut magnitudes = [0; 128];
        bytes.iter().for_each(|b| magnitudes[usize::from(b & 0x7f)] += 1);
        prop_assert_eq!(whole.magnitudes(), magnitudes);

        let x = numbers(&bytes, 0.7);
        let (codes, scales) = plain(&bytes, (scale_2, 0.7), BlockRule::Six);
        let stats = Tables::new(scale_2, 0.7).stats(&whole);
        prop_assert!(close(&stats, &ErrorStats::nvfp4(&x, &codes, &scales, scale_2)));
    }

    #[test]
    fn search_equals_the_one_over_numbers(bytes in blocks()) {
        let mut histogram = Histogram::new();
        histogram.add(&bytes).unwrap();
        let x = numbers(&bytes, 0.7);
        for format in [Format::Nvfp4, Format::Fp8] {
            let mut search = Search::new(format, Method::Mse, amax(&x));
            search.add(&x);
            let found = search_e4m3(format, Method::Mse, &histogram, 0.7);
            prop_assert_eq!(found.len(), search.candidates().len());
            for (a, b) in found.iter().zip(search.candidates()) {
                prop_assert_eq!((a.ratio, a.scale), (b.ratio, b.scale));
                prop_assert!((a.noise - b.noise).abs() <= 1e-11 * a.noise);
            }
        }
    }
}
