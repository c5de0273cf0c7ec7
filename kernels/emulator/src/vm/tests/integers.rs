//! Integer arithmetic, compared with Rust's on all pairs of edges.

use super::{EDGES, EDGES64, apply, apply64, pairs};

fn check(instruction: &str, f: impl Fn(u32, u32) -> u32) {
    let (a, b) = pairs(&EDGES);
    let found = apply(&format!("{instruction} {{d}}, {{a}}, {{b}};"), &[&a, &b]);
    for (index, found) in found.iter().enumerate() {
        assert_eq!(
            *found,
            f(a[index], b[index]),
            "{instruction} {:#x} {:#x}",
            a[index],
            b[index]
        );
    }
}

fn check64(instruction: &str, f: impl Fn(u64, u64) -> u64) {
    let (a, b) = pairs(&EDGES64);
    let found = apply64(&format!("{instruction} {{d}}, {{a}}, {{b}};"), &[&a, &b]);
    for (index, found) in found.iter().enumerate() {
        assert_eq!(
            *found,
            f(a[index], b[index]),
            "{instruction} {:#x} {:#x}",
            a[index],
            b[index]
        );
    }
}

#[test]
fn sums_and_products_of_32_bits() {
    check("add.s32", u32::wrapping_add);
    check("sub.u32", u32::wrapping_sub);
    check("add.sat.s32", |a, b| {
        (a as i32).saturating_add(b as i32) as u32
    });
    check("sub.sat.s32", |a, b| {
        (a as i32).saturating_sub(b as i32) as u32
    });
    check("mul.lo.s32", u32::wrapping_mul);
    check("mul.hi.u32", |a, b| {
        ((u64::from(a) * u64::from(b)) >> 32) as u32
    });
    check("mul.hi.s32", |a, b| {
        ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32
    });
    check("min.s32", |a, b| (a as i32).min(b as i32) as u32);
    check("max.u32", u32::max);
    check("min.u32", u32::min);
    check("max.s32", |a, b| (a as i32).max(b as i32) as u32);
}

#[test]
fn quotients_where_there_is_one() {
    // Division by zero has no defined result.
    check("div.u32", |a, b| a.checked_div(b).unwrap_or(u32::MAX));
    check("div.s32", |a, b| {
        if b == 0 {
            u32::MAX
        } else {
            (a as i32).wrapping_div(b as i32) as u32
        }
    });
    check("rem.u32", |a, b| a.checked_rem(b).unwrap_or(a));
    check("rem.s32", |a, b| {
        if b == 0 {
            a
        } else {
            (a as i32).wrapping_rem(b as i32) as u32
        }
    });
    check64("div.u64", |a, b| a.checked_div(b).unwrap_or(u64::MAX));
    check64("rem.s64", |a, b| {
        if b == 0 {
            a
        } else {
            (a as i64).wrapping_rem(b as i64) as u64
        }
    });
}

#[test]
fn sums_and_products_of_64_bits() {
    check64("add.u64", u64::wrapping_add);
    check64("sub.s64", u64::wrapping_sub);
    check64("mul.lo.u64", u64::wrapping_mul);
    check64("mul.hi.u64", |a, b| {
        ((u128::from(a) * u128::from(b)) >> 64) as u64
    });
    check64("mul.hi.s64", |a, b| {
        ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
    });
    check64("min.s64", |a, b| (a as i64).min(b as i64) as u64);
    check64("max.u64", u64::max);
}

#[test]
fn products_twice_as_wide() {
    let (a, b) = pairs(&EDGES);
    let wide = |sign: &str, index: usize| match sign {
        "s" => (i64::from(a[index] as i32) * i64::from(b[index] as i32)) as u64,
        _ => u64::from(a[index]) * u64::from(b[index]),
    };
    for sign in ["s", "u"] {
        for (half, shift) in [("lo", 0), ("hi", 32)] {
            let (first, second) = if half == "lo" {
                ("%r0", "%r9")
            } else {
                ("%r9", "%r0")
            };
            let body = format!(
                "mul.wide.{sign}32 %d2, {{a}}, {{b}};\nmov.b64 {{{first}, {second}}}, %d2;"
            );
            let found = apply(&body, &[&a, &b]);
            for (index, found) in found.iter().enumerate() {
                assert_eq!(
                    *found,
                    (wide(sign, index) >> shift) as u32,
                    "{sign} {half} {:#x} {:#x}",
                    a[index],
                    b[index]
                );
            }
        }
    }
    // 16 to 32 bits, and added to a sum.
    let body = "cvt.u16.u32 %h1, {a};\ncvt.u16.u32 %h2, {b};\nmad.wide.s16 {d}, %h1, %h2, {a};";
    for (index, found) in apply(body, &[&a, &b]).iter().enumerate() {
        let product = i32::from(a[index] as i16) * i32::from(b[index] as i16);
        assert_eq!(*found, (product as u32).wrapping_add(a[index]));
    }
}

#[test]
fn products_and_sums_in_one() {
    let (a, b) = pairs(&EDGES);
    let c: Vec<u32> = a.iter().map(|x| x.rotate_left(7) ^ 0x5555).collect();
    let found = apply("mad.lo.s32 {d}, {a}, {b}, {c};", &[&a, &b, &c]);
    let high = apply("mad.hi.u32 {d}, {a}, {b}, {c};", &[&a, &b, &c]);
    let sad = apply("sad.s32 {d}, {a}, {b}, {c};", &[&a, &b, &c]);
    for index in 0..a.len() {
        let (a, b, c) = (a[index], b[index], c[index]);
        assert_eq!(found[index], a.wrapping_mul(b).wrapping_add(c));
        assert_eq!(
            high[index],
            (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c)
        );
        assert_eq!(sad[index], (a as i32).abs_diff(b as i32).wrapping_add(c));
    }
}

#[test]
fn sixteen_bits_wrap_at_sixteen() {
    let (a, b) = pairs(&EDGES);
    let run = |name: &str| {
        let body = format!(
            "cvt.u16.u32 %h1, {{a}};\ncvt.u16.u32 %h2, {{b}};\n{name} %h3, %h1, %h2;\ncvt.u32.u16 {{d}}, %h3;"
        );
        apply(&body, &[&a, &b])
    };
    let (sum, product, low, shifted) = (run("add.s16"), run("mul.lo.s16"), run("min.s16"), {
        let body = "cvt.u16.u32 %h1, {a};\nshr.s16 %h3, %h1, 3;\ncvt.u32.u16 {d}, %h3;";
        apply(body, &[&a])
    });
    for index in 0..a.len() {
        let (a, b) = (a[index] as i16, b[index] as i16);
        assert_eq!(sum[index], u32::from(a.wrapping_add(b) as u16));
        assert_eq!(product[index], u32::from(a.wrapping_mul(b) as u16));
        assert_eq!(low[index], u32::from(a.min(b) as u16));
        assert_eq!(shifted[index], u32::from((a >> 3) as u16));
    }
}

#[test]
fn carries_make_128_bits_of_32() {
    // (a, b) + (b, c) as 64-bit numbers, and their difference.
    let (a, b) = pairs(&EDGES);
    let c: Vec<u32> = b.iter().rev().copied().collect();
    let number = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
    let sum = apply(
        "add.cc.u32 %r9, {b}, {c};\naddc.u32 {d}, {a}, {b};",
        &[&a, &b, &c],
    );
    let difference = apply(
        "sub.cc.u32 %r9, {b}, {c};\nsubc.u32 {d}, {a}, {b};",
        &[&a, &b, &c],
    );
    let product = apply(
        "mul.lo.u32 %r8, {b}, {c};\nmad.lo.cc.u32 %r9, {a}, {b}, {c};\nmadc.hi.u32 {d}, {a}, {b}, 0;",
        &[&a, &b, &c],
    );
    for index in 0..a.len() {
        let (a, b, c) = (a[index], b[index], c[index]);
        assert_eq!(
            sum[index],
            (number(a, b).wrapping_add(number(b, c)) >> 32) as u32
        );
        assert_eq!(
            difference[index],
            (number(a, b).wrapping_sub(number(b, c)) >> 32) as u32
        );
        assert_eq!(
            product[index],
            ((u64::from(a) * u64::from(b) + u64::from(c)) >> 32) as u32
        );
    }
}

#[test]
fn bytes_in_a_dot_product() {
    let (a, b) = pairs(&[
        0x0102_03ff,
        0x7f80_ff01,
        0x8080_8080,
        0xffff_ffff,
        0x1234_5678,
    ]);
    let bytes = |x: u32| x.to_le_bytes();
    let signed = apply("dp4a.s32.s32 {d}, {a}, {b}, 10;", &[&a, &b]);
    let mixed = apply("dp4a.u32.s32 {d}, {a}, {b}, 10;", &[&a, &b]);
    for index in 0..a.len() {
        let pairs = bytes(a[index]).into_iter().zip(bytes(b[index]));
        let both: i32 = pairs
            .clone()
            .map(|(a, b)| i32::from(a as i8) * i32::from(b as i8))
            .sum();
        let right: i32 = pairs.map(|(a, b)| i32::from(a) * i32::from(b as i8)).sum();
        assert_eq!(
            (signed[index] as i32, mixed[index] as i32),
            (both + 10, right + 10)
        );
    }
}

#[test]
fn one_operand() {
    let a = EDGES;
    assert_eq!(
        apply("abs.s32 {d}, {a};", &[&a]),
        a.map(|a| (a as i32).wrapping_abs() as u32)
    );
    assert_eq!(
        apply("neg.s32 {d}, {a};", &[&a]),
        a.map(|a| (a as i32).wrapping_neg() as u32)
    );
    assert_eq!(
        apply("add.u16x2 {d}, {a}, 65537;", &[&a]),
        a.map(|a| {
            let [low, high] = [a as u16, (a >> 16) as u16].map(|half| half.wrapping_add(1));
            u32::from(high) << 16 | u32::from(low)
        })
    );
}
