//! `cvt` reaches the right conversion, with its operands the right way round.

use half::{bf16, f16};

use super::{EDGES, FLOATS, apply, apply64};

#[test]
fn integers_to_integers() {
    assert_eq!(
        apply("cvt.s32.s8 {d}, {a};", &[&EDGES]),
        EDGES.map(|a| i32::from(a as i8) as u32)
    );
    assert_eq!(
        apply("cvt.u32.u8 {d}, {a};", &[&EDGES]),
        EDGES.map(|a| a & 0xff)
    );
    assert_eq!(
        apply("cvt.u32.u16 {d}, {a};", &[&EDGES]),
        EDGES.map(|a| a & 0xffff)
    );
    let saturated = EDGES.map(|a| (a as i32).clamp(-128, 127) as u32);
    assert_eq!(apply("cvt.sat.s8.s32 {d}, {a};", &[&EDGES]), saturated);
    let wide = apply64(
        "cvt.u32.u64 %r1, {a};\ncvt.s64.s32 {d}, %r1;",
        &[&[0x1_8000_0000, 7]],
    );
    assert_eq!(wide, [0xffff_ffff_8000_0000, 7]);
}

#[test]
fn floats_and_integers() {
    let inputs = FLOATS.map(f32::to_bits);
    assert_eq!(
        apply("cvt.rzi.s32.f32 {d}, {a};", &[&inputs]),
        FLOATS.map(|a| a as i32 as u32)
    );
    assert_eq!(
        apply("cvt.rni.s32.f32 {d}, {a};", &[&inputs]),
        FLOATS.map(|a| a.round_ties_even() as i32 as u32)
    );
    assert_eq!(
        apply("cvt.rmi.f32.f32 {d}, {a};", &[&[(-2.5f32).to_bits()]]),
        [(-3f32).to_bits()]
    );
    assert_eq!(
        apply("cvt.rn.f32.s32 {d}, {a};", &[&EDGES]),
        EDGES.map(|a| (a as i32 as f32).to_bits())
    );
    assert_eq!(
        apply("cvt.rn.f32.u32 {d}, {a};", &[&EDGES]),
        EDGES.map(|a| (a as f32).to_bits())
    );
}

#[test]
fn packs_have_their_first_source_on_top() {
    let (a, b) = ([1.5f32.to_bits()], [(-0.3f32).to_bits()]);
    let half = |value: f32| u32::from(f16::from_f32(value).to_bits());
    let brain = |value: f32| u32::from(bf16::from_f32(value).to_bits());
    assert_eq!(
        apply("cvt.rn.f16x2.f32 {d}, {a}, {b};", &[&a, &b]),
        [half(1.5) << 16 | half(-0.3)]
    );
    assert_eq!(
        apply("cvt.rn.bf16x2.f32 {d}, {a}, {b};", &[&a, &b]),
        [brain(1.5) << 16 | brain(-0.3)]
    );
    assert_eq!(
        apply("cvt.rn.relu.bf16x2.f32 {d}, {a}, {b};", &[&a, &b]),
        [brain(1.5) << 16]
    );
}

#[test]
fn codes_of_eight_and_four_bits() {
    // e4m3: 448 is 0x7E, -1 is 0xB8. e2m1: 6 is 7, -1 is 0xA. ue8m0: 2^3 is 0x82, 1 is 0x7F.
    let through =
        |instruction: &str| format!("{instruction} %h1, {{a}}, {{b}};\ncvt.u32.u16 {{d}}, %h1;");
    let (a, b) = ([1e9f32.to_bits()], [(-1f32).to_bits()]);
    assert_eq!(
        apply(&through("cvt.rn.satfinite.e4m3x2.f32"), &[&a, &b]),
        [0x7eb8]
    );
    let nibbles =
        "{\n.reg .b8 x;\ncvt.rn.satfinite.e2m1x2.f32 x, {a}, {b};\nmov.b32 {d}, {x, x, x, x};\n}";
    assert_eq!(apply(nibbles, &[&a, &b]), [0x7a7a_7a7a]);
    let powers = apply(
        &through("cvt.rp.satfinite.ue8m0x2.f32"),
        &[&[8f32.to_bits()], &[1f32.to_bits()]],
    );
    assert_eq!(powers, [0x827f]);
    let half = |value: f32| u32::from(f16::from_f32(value).to_bits());
    let back = apply(
        "cvt.u16.u32 %h1, {a};\ncvt.rn.f16x2.e4m3x2 {d}, %h1;",
        &[&[0x7eb8]],
    );
    assert_eq!(back, [half(448.0) << 16 | half(-1.0)]);
    let back = "{\n.reg .b8 x, y;\nmov.b32 {x, y, _, _}, {a};\ncvt.rn.f16x2.e2m1x2 {d}, x;\n}";
    assert_eq!(apply(back, &[&[0x7a]]), [half(6.0) << 16 | half(-1.0)]);
}
