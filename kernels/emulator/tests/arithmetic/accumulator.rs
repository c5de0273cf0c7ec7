//! The model of the accumulator: what was measured on an RTX 5090, and the exact sum.

use half::f16;
use ptx_emulator::Lanes;
use ptx_emulator::convert::Minifloat;
use ptx_emulator::tensor::{
    Accumulator, BlockScales, Eight, Mxf4, ScaleFormat, ScaleVec, Sixteen, mma_f8, mma_k16,
    mma_k16_f16, mma_mxf4nvf4, mma_mxf8f6f4,
};

use super::layout::{scatter, table};

const EXACT: Accumulator = Accumulator::Exact;
const CUT: Accumulator = Accumulator::Truncated;

/// D[0][0] of the sum of products and c. The products of row 0 and column 0 begin in lane 0's registers.
fn bf16(products: [(f32, f32); 2], c: f32, sum: Accumulator) -> f32 {
    let half = |x: f32| {
        assert_eq!(x.to_bits() & 0xffff, 0);
        x.to_bits() >> 16
    };
    let [(a0, b0), (a1, b1)] = products;
    let (mut a, mut b, mut d) = ([[0; 32]; 4], [[0; 32]; 2], [[0; 32]; 4]);
    a[0][0] = half(a0) | half(a1) << 16;
    b[0][0] = half(b0) | half(b1) << 16;
    d[0][0] = c.to_bits();
    f32::from_bits(mma_k16(&a, &b, &d, Sixteen::Bf16, sum)[0][0])
}

/// The same with four bytes of A times 1, for both instructions on bytes, which agree at scales of 1.
fn bytes(a_bytes: [u8; 4], c: f32, types: Eight) -> f32 {
    let one = if types.b == Minifloat::E4m3 {
        0x38
    } else {
        0x3c
    };
    let (mut a, mut b, mut d) = ([[0; 32]; 4], [[0; 32]; 2], [[0; 32]; 4]);
    a[0][0] = u32::from_le_bytes(a_bytes);
    b[0][0] = u32::from_le_bytes([one; 4]);
    d[0][0] = c.to_bits();
    let ones = [0x7f7f_7f7f; 32];
    let scales = BlockScales {
        a: &ones,
        b: &ones,
        byte_a: 0,
        thread_a: 0,
        byte_b: 0,
        thread_b: 0,
    };
    let plain = mma_f8(&a, &b, &d, types).unwrap();
    assert_eq!(plain, mma_mxf8f6f4(&a, &b, &d, &scales, types).unwrap());
    f32::from_bits(plain[0][0])
}

fn e4m3(accumulator: Accumulator) -> Eight {
    Eight {
        a: Minifloat::E4m3,
        b: Minifloat::E4m3,
        accumulator,
    }
}

#[test]
fn one_survives_beside_2_to_the_20_in_fp8_and_21_in_bf16() {
    for n in 0..24 {
        let large = 2f32.powi(n);
        let fp8 = bytes([0x38, 0, 0, 0], large, e4m3(CUT));
        assert_eq!(fp8, if n <= 20 { large + 1.0 } else { large }, "2^{n}");
        let half = bf16([(1.0, 1.0), (0.0, 0.0)], large, CUT);
        assert_eq!(half, if n <= 21 { large + 1.0 } else { large }, "2^{n}");
    }
}

#[test]
fn what_does_not_fit_is_cut_not_rounded() {
    let large = 2f32.powi(20);
    // 0x3f is 1.875.
    assert_eq!(bytes([0x3f, 0, 0, 0], large, e4m3(CUT)), large + 1.0);
    assert_eq!(bytes([0xbf, 0, 0, 0], -large, e4m3(CUT)), -large - 1.0);
    // Each term is cut by itself: twice 0.875 is nothing.
    assert_eq!(bytes([0x36, 0x36, 0, 0], large, e4m3(CUT)), large);
    assert_eq!(bytes([0x36, 0x36, 0, 0], large, e4m3(EXACT)), large + 1.75);
    // The sum is cut to f32 as well: 15 * 2^21 + 3 needs 25 bits, and to nearest would be 15 * 2^21 + 4.
    let bf16 = |x: f32| x.to_bits() >> 16;
    let element = |row, k| {
        bf16(if row > 0 {
            0.0
        } else if k < 15 {
            2f32.powi(21)
        } else {
            3.0
        })
    };
    let a = scatter(&table("bf16_k16", "A"), 16, 16, element);
    let b = scatter(&table("bf16_k16", "B"), 8, 16, |_, _| bf16(1.0));
    let d = mma_k16(&a, &b, &[[0; 32]; 4], Sixteen::Bf16, CUT);
    assert_eq!(f32::from_bits(d[0][0]), 15.0 * 2f32.powi(21) + 2.0);
}

#[test]
fn the_exact_sum_is_rounded_once_to_nearest_even() {
    let large = 2f32.powi(24);
    let ones = |n: usize| std::array::from_fn(|i| if i < n { 0x38 } else { 0 });
    assert_eq!(bytes(ones(1), large, e4m3(EXACT)), large);
    assert_eq!(bytes(ones(2), large, e4m3(EXACT)), large + 2.0);
    assert_eq!(bytes(ones(3), large, e4m3(EXACT)), large + 4.0);
    // One unit of 2^-9 beyond the tie, on either side.
    assert_eq!(bytes([0x38, 0x01, 0, 0], large, e4m3(EXACT)), large + 2.0);
    assert_eq!(
        bytes([0x38, 0x38, 0x38, 0x81], large, e4m3(EXACT)),
        large + 2.0
    );
}

#[test]
fn large_terms_that_cancel_leave_the_small_ones_in_the_exact_sum_only() {
    let huge = 2f32.powi(60);
    assert_eq!(bf16([(huge, huge), (-huge, huge)], 1.0, EXACT), 1.0);
    assert_eq!(bf16([(huge, huge), (-huge, huge)], 1.0, CUT), 0.0);
    let tiny = 2f32.powi(-60);
    assert_eq!(bf16([(huge, huge), (tiny, -tiny)], 0.0, EXACT), huge * huge);
    // 1 + 2^-24 is a tie; a term of -2^-120 breaks it downwards and one of 2^-120 upwards.
    let half_ulp = 2f32.powi(-12);
    assert_eq!(
        bf16([(half_ulp, half_ulp), (tiny, tiny)], 1.0, EXACT),
        1.0f32.next_up()
    );
    assert_eq!(bf16([(half_ulp, half_ulp), (tiny, -tiny)], 1.0, EXACT), 1.0);
    // e5m2 spans more bits than f64 has: 57344^2 and 2^-32 in one sum.
    let types = Eight {
        a: Minifloat::E5m2,
        b: Minifloat::E5m2,
        accumulator: EXACT,
    };
    let (mut a, mut b) = ([[0; 32]; 4], [[0; 32]; 2]);
    a[0][0] = u32::from_le_bytes([0x7b, 0x01, 0xfb, 0]);
    b[0][0] = u32::from_le_bytes([0x7b, 0x01, 0x7b, 0]);
    let d = mma_f8(&a, &b, &[[0; 32]; 4], types).unwrap();
    assert_eq!(f32::from_bits(d[0][0]), 2f32.powi(-32));
}

#[test]
fn f16_accumulators_are_rounded_to_nearest_even_once() {
    let bits = |x: f32| u32::from(f16::from_f32(x).to_bits());
    for sum in [EXACT, CUT] {
        let (mut a, mut b, mut c): ([Lanes; 4], [Lanes; 2], [Lanes; 2]) =
            ([[0; 32]; 4], [[0; 32]; 2], [[0; 32]; 2]);
        a[0][0] = bits(1.0) | bits(0.5) << 16;
        b[0][0] = bits(2.0) | bits(1.0) << 16;
        c[0][0] = bits(2048.0) | bits(-3.0) << 16;
        // 2050.5 to 2050; the column beside it has no product.
        let d = mma_k16_f16(&a, &b, &c, sum);
        assert_eq!(d[0][0], bits(2050.0) | bits(-3.0) << 16);
        c[0][0] = bits(65504.0);
        assert_eq!(mma_k16_f16(&a, &b, &c, sum)[0][0] & 0xffff, bits(65504.0));
        a[0][0] = bits(16.0);
        assert_eq!(
            mma_k16_f16(&a, &b, &c, sum)[0][0] & 0xffff,
            bits(f32::INFINITY)
        );
    }
}

#[test]
fn tiny_products_and_tiny_accumulators_are_not_lost() {
    let tiny = 2f32.powi(-60);
    for sum in [CUT, EXACT] {
        assert_eq!(
            bf16([(tiny, tiny), (tiny, tiny)], 0.0, sum),
            2f32.powi(-119)
        );
        assert_eq!(
            bf16([(0.0, 1.0), (1.0, 0.0)], 2f32.powi(-149), sum),
            2f32.powi(-149)
        );
        assert_eq!(
            bytes([0, 0x80, 0, 0], 2f32.powi(-149), e4m3(sum)),
            2f32.powi(-149)
        );
        // 2^-9, the least of e4m3, and the least of e5m2, 2^-16.
        assert_eq!(bytes([1, 0, 0, 0], 0.0, e4m3(sum)), 2f32.powi(-9));
        let e5m2 = Eight {
            a: Minifloat::E5m2,
            b: Minifloat::E5m2,
            accumulator: sum,
        };
        assert_eq!(bytes([1, 0, 0, 0], 0.0, e5m2), 2f32.powi(-16));
        // Scales of 2^-60, and for e4m3 of 2^-70.
        let a = [[0x2222_2222; 32]; 4];
        let b = [[0x2222_2222; 32]; 2];
        let scales = |register| BlockScales {
            a: register,
            b: register,
            byte_a: 0,
            thread_a: 0,
            byte_b: 0,
            thread_b: 0,
        };
        let types = Mxf4 {
            vec: ScaleVec::X2,
            scale: ScaleFormat::Ue8m0,
            accumulator: sum,
        };
        let d = mma_mxf4nvf4(&a, &b, &[[0; 32]; 4], &scales(&[0x4343_4343; 32]), types).unwrap();
        assert_eq!(f32::from_bits(d[0][0]), 64.0 * 2f32.powi(-120));
        let ones = [[0x3838_3838; 32]; 4];
        let d = mma_mxf8f6f4(
            &ones,
            &[ones[0]; 2],
            &[[0; 32]; 4],
            &scales(&[0x3939_3939; 32]),
            e4m3(sum),
        )
        .unwrap();
        assert_eq!(f32::from_bits(d[0][0]), 32.0 * 2f32.powi(-140));
    }
}
