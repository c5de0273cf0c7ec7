//! Floating point: f32, f64, halves, packs.

use half::{bf16, f16};

use super::{FLOATS, apply, apply64, pairs};

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Bits, every NaN alike.
fn plain(value: f32) -> u32 {
    if value.is_nan() {
        0x7fff_ffff
    } else {
        value.to_bits()
    }
}

fn flush(value: f32) -> f32 {
    if value.is_subnormal() {
        0f32.copysign(value)
    } else {
        value
    }
}

fn check(instruction: &str, f: impl Fn(f32, f32) -> f32) {
    let (a, b) = pairs(&FLOATS);
    let found = apply(
        &format!("{instruction} {{d}}, {{a}}, {{b}};"),
        &[&bits(&a), &bits(&b)],
    );
    for (index, found) in found.iter().enumerate() {
        let (a, b) = (a[index], b[index]);
        assert_eq!(
            *found,
            plain(f(a, b)),
            "{instruction} {a:e} {b:e}: {:e}",
            f32::from_bits(*found)
        );
    }
}

#[test]
fn singles_are_computed_as_ieee_says() {
    check("add.f32", |a, b| a + b);
    check("sub.rn.f32", |a, b| a - b);
    check("mul.f32", |a, b| a * b);
    check("div.rn.f32", |a, b| a / b);
    check("add.ftz.f32", |a, b| flush(flush(a) + flush(b)));
    check("mul.ftz.f32", |a, b| flush(flush(a) * flush(b)));
    check("add.sat.f32", |a, b| {
        if (a + b).is_nan() {
            0.0
        } else {
            (a + b).clamp(0.0, 1.0) + 0.0
        }
    });
    let (a, b) = pairs(&FLOATS);
    let c: Vec<f32> = (0..a.len()).map(|i| FLOATS[i % 14] * 0.3).collect();
    let found = apply(
        "fma.rn.f32 {d}, {a}, {b}, {c};",
        &[&bits(&a), &bits(&b), &bits(&c)],
    );
    for (index, found) in found.iter().enumerate() {
        assert_eq!(*found, plain(a[index].mul_add(b[index], c[index])));
    }
}

#[test]
fn directed_rounding_brackets_the_exact_value() {
    let (a, b) = pairs(&[0.1f32, 1.0, 3.0, -7.3, 1e10, 1e-10, 16_777_217.0]);
    for name in ["add", "mul"] {
        let run = |mode: &str| {
            apply(
                &format!("{name}.{mode}.f32 {{d}}, {{a}}, {{b}};"),
                &[&bits(&a), &bits(&b)],
            )
        };
        let (down, up, zero) = (run("rm"), run("rp"), run("rz"));
        for index in 0..a.len() {
            let (x, y) = (f64::from(a[index]), f64::from(b[index]));
            let exact = if name == "add" { x + y } else { x * y };
            let [down, up, zero] = [down[index], up[index], zero[index]].map(f32::from_bits);
            assert!(
                f64::from(down) <= exact && exact <= f64::from(up),
                "{name} {x} {y}"
            );
            assert!(down == up || down.next_up() == up);
            assert_eq!(zero, if exact > 0.0 { down } else { up });
        }
    }
}

#[test]
fn smaller_and_larger_with_nan_and_signed_zeros() {
    let other = |a: f32, b: f32| if a.is_nan() { b } else { a };
    let less = |a: f32, b: f32| a.total_cmp(&b).is_lt();
    let min = move |a: f32, b: f32| {
        if a.is_nan() || b.is_nan() {
            other(a, b)
        } else if less(a, b) {
            a
        } else {
            b
        }
    };
    let max = move |a: f32, b: f32| {
        if a.is_nan() || b.is_nan() {
            other(a, b)
        } else if less(a, b) {
            b
        } else {
            a
        }
    };
    check("min.f32", min);
    check("max.f32", max);
    check("max.NaN.f32", |a, b| {
        if a.is_nan() || b.is_nan() {
            f32::NAN
        } else {
            max(a, b)
        }
    });
    let a = bits(&[1.0, -5.0, 2.0]);
    let three = apply(
        "max.f32 {d}, {a}, {b}, {c};",
        &[&a, &bits(&[3.0, -7.0, 1.0]), &bits(&[2.0, -6.0, 9.0])],
    );
    assert_eq!(three, bits(&[3.0, -5.0, 9.0]));
}

#[test]
fn signs() {
    let (a, b) = pairs(&FLOATS);
    // `copysign d, a, b`: the sign of a on b.
    let found = apply("copysign.f32 {d}, {a}, {b};", &[&bits(&a), &bits(&b)]);
    for (index, found) in found.iter().enumerate() {
        assert_eq!(*found, b[index].copysign(a[index]).to_bits());
    }
    assert_eq!(
        apply("abs.f32 {d}, {a};", &[&bits(&FLOATS)]),
        FLOATS.map(|a| a.abs().to_bits())
    );
    assert_eq!(
        apply("neg.f32 {d}, {a};", &[&bits(&FLOATS)]),
        FLOATS.map(|a| (-a).to_bits())
    );
}

#[test]
fn approximations_are_within_the_manual_s_bounds() {
    // Bounds of the PTX manual: 2 units for rcp, rsqrt, ex2 in ulp; absolute 2^-20.5 for sin, cos; 2^-11 for tanh.
    let inputs: Vec<f32> = (1..60).map(|i| i as f32 * 0.05).collect();
    let cases: [(&str, fn(f64) -> f64, f64); 8] = [
        ("rcp.approx.ftz.f32", |a| 1.0 / a, 2.4e-7),
        ("rsqrt.approx.f32", |a| 1.0 / a.sqrt(), 2.4e-7),
        ("sqrt.approx.f32", f64::sqrt, 2.4e-7),
        ("ex2.approx.ftz.f32", f64::exp2, 2.4e-7),
        ("lg2.approx.f32", f64::log2, 1e-6),
        ("sin.approx.f32", f64::sin, 1e-6),
        ("cos.approx.f32", f64::cos, 1e-6),
        ("tanh.approx.f32", f64::tanh, 5e-4),
    ];
    for (name, f, bound) in cases {
        let found = apply(&format!("{name} {{d}}, {{a}};"), &[&bits(&inputs)]);
        for (input, found) in inputs.iter().zip(found) {
            let (found, exact) = (f64::from(f32::from_bits(found)), f(f64::from(*input)));
            assert!(
                (found - exact).abs() <= bound * exact.abs().max(1.0),
                "{name} {input}: {found} {exact}"
            );
        }
    }
}

#[test]
fn doubles_and_their_directed_rounding() {
    let values = [0.1f64, 1.0, -3.3, 1e300, 1e-300, 7.0, -0.0];
    let (a, b) = pairs(&values);
    let (x, y): (Vec<u64>, Vec<u64>) = (
        a.iter().map(|v| v.to_bits()).collect(),
        b.iter().map(|v| v.to_bits()).collect(),
    );
    let run = |name: &str| apply64(&format!("{name} {{d}}, {{a}}, {{b}};"), &[&x, &y]);
    let (add, mul, div, down, up) = (
        run("add.f64"),
        run("mul.f64"),
        run("div.rn.f64"),
        run("add.rm.f64"),
        run("add.rp.f64"),
    );
    for index in 0..a.len() {
        let (a, b) = (a[index], b[index]);
        let ieee = |value: f64| {
            if value.is_nan() {
                0x7ff8_0000_0000_0000
            } else {
                value.to_bits()
            }
        };
        assert_eq!(
            (add[index], mul[index], div[index]),
            (ieee(a + b), ieee(a * b), ieee(a / b))
        );
        let (down, up) = (f64::from_bits(down[index]), f64::from_bits(up[index]));
        assert!(
            down <= a + b && a + b <= up && (down == up || down.next_up() == up),
            "{a} {b} {down} {up}"
        );
    }
    // 1 + 2^-60: only upward rounding leaves 1.
    let small = [2f64.powi(-60).to_bits()];
    let one = [1f64.to_bits()];
    let run = |name: &str| {
        f64::from_bits(apply64(&format!("{name} {{d}}, {{a}}, {{b}};"), &[&one, &small])[0])
    };
    assert_eq!(
        (run("add.rz.f64"), run("add.rp.f64"), run("sub.rz.f64")),
        (1.0, 1f64.next_up(), 1f64.next_down())
    );
}

#[test]
fn halves_alone_and_in_pairs() {
    let values: Vec<f32> = vec![0.0, 1.0, -1.5, 0.333, 1000.0, -65504.0, 1e-5, 2.5];
    let (a, b) = pairs(&values);
    let pack = |value: f32| u32::from(f16::from_f32(value).to_bits());
    let pack2 = |low: f32, high: f32| {
        u32::from(bf16::from_f32(high).to_bits()) << 16 | u32::from(bf16::from_f32(low).to_bits())
    };
    let (x, y): (Vec<u32>, Vec<u32>) = (
        a.iter().map(|v| pack(*v)).collect(),
        b.iter().map(|v| pack(*v)).collect(),
    );
    let body = "cvt.u16.u32 %h1, {a};\ncvt.u16.u32 %h2, {b};\nfma.rn.f16 %h3, %h1, %h2, %h1;\ncvt.u32.u16 {d}, %h3;";
    for (index, found) in apply(body, &[&x, &y]).iter().enumerate() {
        let (a, b) = (
            f16::from_f32(a[index]).to_f64(),
            f16::from_f32(b[index]).to_f64(),
        );
        // Two halves multiply exactly in f64, and their sum with a third too.
        assert_eq!(
            *found,
            u32::from(f16::from_f64(a * b + a).to_bits()),
            "{a} {b}"
        );
    }
    let (x, y): (Vec<u32>, Vec<u32>) = (
        (0..a.len()).map(|i| pack2(a[i], b[i])).collect(),
        (0..a.len()).map(|i| pack2(b[i], a[i])).collect(),
    );
    let sums = apply("add.rn.bf16x2 {d}, {a}, {b};", &[&x, &y]);
    let relu = apply("fma.rn.relu.bf16x2 {d}, {a}, {b}, {b};", &[&x, &y]);
    for index in 0..a.len() {
        let [a, b] = [a[index], b[index]].map(|v| bf16::from_f32(v).to_f64());
        let sum = u32::from(bf16::from_f64(a + b).to_bits());
        assert_eq!(sums[index], sum << 16 | sum);
        let part =
            |x: f64, y: f64| u32::from(bf16::from_f64((x * y + y).max(0.0)).to_bits()) & 0x7fff;
        assert_eq!(relu[index], part(b, a) << 16 | part(a, b), "{a} {b}");
    }
}

#[test]
fn pairs_of_singles_in_64_bits() {
    let pack = |low: f32, high: f32| u64::from(high.to_bits()) << 32 | u64::from(low.to_bits());
    let (a, b) = (
        [pack(1.5, -2.0), pack(0.1, 1e20)],
        [pack(3.0, 7.0), pack(0.2, 1e20)],
    );
    let found = apply64("fma.rn.f32x2 {d}, {a}, {b}, {b};", &[&a, &b]);
    assert_eq!(
        found,
        [
            pack(7.5, -7.0),
            pack(0.1f32.mul_add(0.2, 0.2), 1e20f32.mul_add(1e20, 1e20))
        ]
    );
}

#[test]
fn half_precision_exponentials_round_once() {
    let inputs: Vec<u32> = [-3.0f32, -0.5, 0.0, 0.25, 2.75]
        .map(|v| u32::from(bf16::from_f32(v).to_bits()))
        .to_vec();
    let found = apply("ex2.approx.ftz.bf16x2 {d}, {a};", &[&inputs]);
    for (input, found) in inputs.iter().zip(found) {
        let exact = bf16::from_f64(bf16::from_bits(*input as u16).to_f64().exp2());
        assert_eq!(found as u16, exact.to_bits());
        assert_eq!((found >> 16) as u16, bf16::ONE.to_bits());
    }
}
