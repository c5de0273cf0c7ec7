//! The formats, from their definitions (OCP MX specification 1.0 for E2M1, OCP FP8 1.0 for E4M3), and a source of noise.

/// E2M1 by code.
pub const E2M1: [f64; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// The number of an E4M3 code: sign, four bits of exponent (bias 7), three of mantissa; 0x7F is NaN.
pub fn e4m3(code: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f64::NAN,
        (0, _) => mantissa / 8.0 * 2f64.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
    };
    if code & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

/// The code nearest to `x` of those from 0 that `value` gives in rising order; the even one of two that are as near.
fn nearest(x: f64, codes: u8, value: impl Fn(u8) -> f64) -> u8 {
    let distance = |code: u8| (value(code) - x.abs()).abs();
    let mut best = 0;
    for code in 1..codes {
        let nearer = distance(code) < distance(best);
        let as_near = distance(code) == distance(best) && code % 2 == 0;
        if nearer || as_near {
            best = code;
        }
    }
    best
}

/// To E4M3, saturating.
pub fn to_e4m3(x: f64) -> u8 {
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    nearest(x.clamp(-448.0, 448.0), 0x7f, e4m3) | sign
}

/// To E2M1, saturating.
pub fn to_e2m1(x: f64) -> u8 {
    let sign = if x.is_sign_negative() { 8 } else { 0 };
    nearest(x.clamp(-6.0, 6.0), 8, |code| E2M1[usize::from(code)]) | sign
}

/// A block of 16 F32 numbers to NVFP4, every step rounded to F32: the scale's code and the codes.
pub fn to_nvfp4(x: &[f32], scale_2: f32) -> (u8, Vec<u8>) {
    let most = x.iter().fold(0f32, |most, x| most.max(x.abs()));
    let scale = to_e4m3(f64::from((most / 6.0 / scale_2).min(448.0)));
    let total = scale_2 * e4m3(scale) as f32;
    let code = |x: &f32| {
        if total == 0.0 {
            0
        } else {
            to_e2m1(f64::from(x / total))
        }
    };
    (scale, x.iter().map(code).collect())
}

/// GELU in its tanh form.
pub fn gelu(x: f64) -> f64 {
    let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
    0.5 * x * (1.0 + u.tanh())
}

/// splitmix64 (Steele, Lea, Flood 2014).
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Between -1 and 1.
    pub fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
