//! Numbers that look like chance and are the same on every machine.

/// What splitmix64 advances its state by.
pub const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// What Sebastiano Vigna's splitmix64 (2015) gives at state `x`: the next state is `x + STEP`.
pub fn splitmix64(x: u64) -> u64 {
    let mut z = x.wrapping_add(STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vigna's own test values for seeds 0 and 1234567.
    #[test]
    fn it_is_the_published_one() {
        assert_eq!(splitmix64(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(splitmix64(1_234_567), 6_457_827_717_110_365_317);
        assert_eq!(splitmix64(1_234_567 + STEP), 3_203_168_211_198_807_973);
    }
}
