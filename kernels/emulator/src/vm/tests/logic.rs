//! Bits: logic, shifts, fields, permutations.

use super::{EDGES, EDGES64, apply, apply64, pairs};

#[test]
fn logic_of_words() {
    let (a, b) = pairs(&EDGES);
    let each = |name: &str| apply(&format!("{name}.b32 {{d}}, {{a}}, {{b}};"), &[&a, &b]);
    let (and, or, xor) = (each("and"), each("or"), each("xor"));
    let not = apply("not.b32 {d}, {a};", &[&a]);
    for index in 0..a.len() {
        let (a, b) = (a[index], b[index]);
        assert_eq!(
            (and[index], or[index], xor[index], not[index]),
            (a & b, a | b, a ^ b, !a)
        );
    }
    let halves = apply(
        "cvt.u16.u32 %h1, {a};\nnot.b16 %h2, %h1;\ncvt.u32.u16 {d}, %h2;",
        &[&EDGES],
    );
    assert_eq!(halves, EDGES.map(|a| u32::from(!(a as u16))));
}

#[test]
fn shifts_by_more_than_the_width_shift_everything_out() {
    let counts = [0, 1, 5, 31, 32, 33, 64, u32::MAX];
    for count in counts {
        let run = |name: &str| apply(&format!("{name} {{d}}, {{a}}, {count};"), &[&EDGES]);
        assert_eq!(
            run("shl.b32"),
            EDGES.map(|a| a.checked_shl(count).unwrap_or(0))
        );
        assert_eq!(
            run("shr.u32"),
            EDGES.map(|a| a.checked_shr(count).unwrap_or(0))
        );
        assert_eq!(
            run("shr.s32"),
            EDGES.map(|a| ((a as i32) >> count.min(31)) as u32)
        );
        let run = |name: &str| apply64(&format!("{name} {{d}}, {{a}}, {count};"), &[&EDGES64]);
        assert_eq!(
            run("shl.b64"),
            EDGES64.map(|a| a.checked_shl(count).unwrap_or(0))
        );
        assert_eq!(
            run("shr.s64"),
            EDGES64.map(|a| ((a as i64) >> count.min(63)) as u64)
        );
    }
}

#[test]
fn funnel_shifts_take_from_both_words() {
    let (a, b) = pairs(&EDGES);
    for count in [0u32, 1, 17, 31, 32, 40] {
        let run = |form: &str| {
            apply(
                &format!("shf.{form}.b32 {{d}}, {{a}}, {{b}}, {count};"),
                &[&a, &b],
            )
        };
        let (left, right, clamped) = (run("l.wrap"), run("r.wrap"), run("r.clamp"));
        for index in 0..a.len() {
            let pair = u64::from(b[index]) << 32 | u64::from(a[index]);
            assert_eq!(left[index], ((pair << (count % 32)) >> 32) as u32);
            assert_eq!(right[index], (pair >> (count % 32)) as u32);
            assert_eq!(clamped[index], (pair >> count.min(32)) as u32);
        }
    }
}

#[test]
fn counts_of_bits() {
    assert_eq!(
        apply("popc.b32 {d}, {a};", &[&EDGES]),
        EDGES.map(u32::count_ones)
    );
    assert_eq!(
        apply("clz.b32 {d}, {a};", &[&EDGES]),
        EDGES.map(u32::leading_zeros)
    );
    assert_eq!(
        apply("brev.b32 {d}, {a};", &[&EDGES]),
        EDGES.map(u32::reverse_bits)
    );
    let top = EDGES.map(|a| if a == 0 { u32::MAX } else { a.ilog2() });
    assert_eq!(apply("bfind.u32 {d}, {a};", &[&EDGES]), top);
    let wide = apply64("clz.b64 %r1, {a};\ncvt.u64.u32 {d}, %r1;", &[&EDGES64]);
    assert_eq!(wide, EDGES64.map(|a| u64::from(a.leading_zeros())));
}

#[test]
fn fields_are_taken_out_and_put_in() {
    for (at, count) in [
        (0u32, 8u32),
        (4, 12),
        (28, 8),
        (31, 1),
        (0, 32),
        (5, 0),
        (40, 4),
    ] {
        let mask = if count >= 32 {
            u32::MAX
        } else {
            (1 << count) - 1
        };
        let low = EDGES.map(|a| a.checked_shr(at).unwrap_or(0) & mask);
        assert_eq!(
            apply(&format!("bfe.u32 {{d}}, {{a}}, {at}, {count};"), &[&EDGES]),
            low,
            "{at} {count}"
        );
        let put = EDGES.map(|a| {
            if at >= 32 {
                0x5a5a_5a5a
            } else {
                0x5a5a_5a5a & !(mask << at) | (a & mask) << at
            }
        });
        let text = format!("mov.u32 %r5, 0x5a5a5a5a;\nbfi.b32 {{d}}, {{a}}, %r5, {at}, {count};");
        assert_eq!(apply(&text, &[&EDGES]), put, "{at} {count}");
    }
    // A signed field beyond the word is filled with the word's sign.
    let signed = apply("bfe.s32 {d}, {a}, 28, 8;", &[&EDGES]);
    assert_eq!(signed, EDGES.map(|a| ((a as i32) >> 28) as u32));
}

#[test]
fn bytes_are_permuted_by_nibbles() {
    let (a, b) = pairs(&[0x0302_0100, 0x8796_a5b4, 0x1122_3344]);
    for selector in [0x3210u32, 0x7654, 0x0123, 0x5140, 0xba98, 0x4444] {
        let found = apply(
            &format!("prmt.b32 {{d}}, {{a}}, {{b}}, {selector};"),
            &[&a, &b],
        );
        for index in 0..a.len() {
            let bytes: Vec<u8> = a[index]
                .to_le_bytes()
                .into_iter()
                .chain(b[index].to_le_bytes())
                .collect();
            let picked: [u8; 4] = std::array::from_fn(|at| {
                let nibble = selector >> (4 * at) & 15;
                let byte = bytes[nibble as usize & 7];
                if nibble & 8 == 0 {
                    byte
                } else if byte & 0x80 == 0 {
                    0
                } else {
                    0xff
                }
            });
            assert_eq!(found[index], u32::from_le_bytes(picked), "{selector:#x}");
        }
    }
}

#[test]
fn any_function_of_three_bits() {
    let (a, b) = pairs(&EDGES);
    let c: Vec<u32> = a.iter().map(|x| x.rotate_left(13) ^ 0x0f0f).collect();
    // The tables that the PTX manual gives: F = a & b & c, a | b | c, (a & b) | c, a ^ b ^ c.
    let cases: [(u32, fn(u32, u32, u32) -> u32); 4] = [
        (0x80, |a, b, c| a & b & c),
        (0xfe, |a, b, c| a | b | c),
        (0xea, |a, b, c| a & b | c),
        (0x96, |a, b, c| a ^ b ^ c),
    ];
    for (table, f) in cases {
        let found = apply(
            &format!("lop3.b32 {{d}}, {{a}}, {{b}}, {{c}}, {table};"),
            &[&a, &b, &c],
        );
        let expected: Vec<u32> = (0..a.len()).map(|i| f(a[i], b[i], c[i])).collect();
        assert_eq!(found, expected, "{table:#x}");
    }
}
