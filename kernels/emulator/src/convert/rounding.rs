//! The one place where a value is rounded to fewer bits.

use super::Rounding;

/// Widths of a binary format with IEEE exponents: bias 2^(exponent - 1) - 1, subnormals at field 0.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Bits of the exponent field.
    pub exponent: u32,
    /// Bits of the mantissa field.
    pub mantissa: u32,
}

impl Shape {
    fn bias(self) -> i64 {
        (1 << (self.exponent - 1)) - 1
    }
}

/// The fields exponent and mantissa, as one number, of a finite `value` rounded to `shape` as if the exponent had no
/// upper limit. Magnitudes are ordered like these numbers, so the caller finds an overflow by comparing.
pub(super) fn round(value: f64, shape: Shape, rounding: Rounding) -> u64 {
    let bits = value.to_bits();
    let field = (bits >> 52 & 0x7ff) as i64;
    let fraction = bits & ((1 << 52) - 1);
    let (exponent, significand) = if field == 0 {
        (-1022, fraction)
    } else {
        (field - 1023, fraction | 1 << 52)
    };
    if significand == 0 {
        return 0;
    }
    let target = (exponent + shape.bias()).max(1);
    // The weight of the result's last bit less that of the input's.
    let cut = (target - shape.bias() - i64::from(shape.mantissa)) - (exponent - 52);
    let (kept, rest, half) = match cut {
        0 => (significand, 0, 1),
        1..=62 => (
            significand >> cut,
            significand & ((1 << cut) - 1),
            1 << (cut - 1),
        ),
        // Less than half of the smallest subnormal: what matters is that something is cut off.
        _ => (0, 1, 2),
    };
    let up = rounds_up(
        rounding,
        value.is_sign_negative(),
        kept & 1 == 1,
        rest,
        half,
    );
    (((target - 1) as u64) << shape.mantissa) + kept + u64::from(up)
}

/// The value of the fields exponent and mantissa, exactly. Field values that mean infinity or NaN count as numbers.
pub(super) fn value(fields: u64, shape: Shape) -> f64 {
    let exponent = (fields >> shape.mantissa) as i64;
    let fraction = fields & ((1 << shape.mantissa) - 1);
    let significand = if exponent == 0 {
        fraction
    } else {
        fraction | 1 << shape.mantissa
    };
    let weight = exponent.max(1) - shape.bias() - i64::from(shape.mantissa);
    significand as f64 * power_of_two(weight)
}

/// 2^`exponent`, for exponents of normal f64.
pub(super) fn power_of_two(exponent: i64) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// Whether the magnitude grows, given what is cut off: `rest` of `2 * half`.
fn rounds_up(rounding: Rounding, negative: bool, odd: bool, rest: u64, half: u64) -> bool {
    match rounding {
        Rounding::NearestEven => rest > half || (rest == half && odd),
        Rounding::NearestAway => rest >= half,
        Rounding::TowardZero => false,
        Rounding::Down => negative && rest != 0,
        Rounding::Up => !negative && rest != 0,
    }
}
