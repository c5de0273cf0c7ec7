//! Counts as text: for every count that is not zero how many zeros lie before it, and the count, each as a varint (seven
//! bits a byte, the last byte below 128), all of it in base64. A histogram of an activation has some hundred of them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// Writes counts.
pub(super) fn encode(counts: &[u64]) -> String {
    let mut bytes = Vec::new();
    let mut zeros = 0;
    for some in counts.chunks(16) {
        // Most of a histogram is empty.
        if some.iter().fold(0, |all, n| all | n) == 0 {
            zeros += some.len() as u64;
            continue;
        }
        for n in some {
            if *n == 0 {
                zeros += 1;
                continue;
            }
            put(&mut bytes, std::mem::take(&mut zeros));
            put(&mut bytes, *n);
        }
    }
    STANDARD_NO_PAD.encode(bytes)
}

/// Reads what [`encode`] wrote of as many counts into `counts`, which are zero.
///
/// # Errors
/// What is wrong with the text.
pub(super) fn decode(text: &str, counts: &mut [u64]) -> Result<(), String> {
    let bytes = STANDARD_NO_PAD
        .decode(text)
        .map_err(|e| format!("counts that are no base64 ({e})"))?;
    let mut rest = bytes.as_slice();
    let mut at = 0u64;
    while !rest.is_empty() {
        let (zeros, n) = take(&mut rest)
            .zip(take(&mut rest))
            .ok_or("counts cut short")?;
        at = at.checked_add(zeros).ok_or("counts beyond their end")?;
        let slot = usize::try_from(at).ok().and_then(|at| counts.get_mut(at));
        *slot.ok_or("counts beyond their end")? = n;
        at += 1;
    }
    Ok(())
}

fn put(bytes: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
}

fn take(rest: &mut &[u8]) -> Option<u64> {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        n |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn counts_come_back(counts in prop::collection::vec(prop_oneof![3 => Just(0u64), 1 => any::<u64>(), 2 => 0..300u64], 0..200)) {
            let mut again = vec![0; counts.len()];
            decode(&encode(&counts), &mut again).unwrap();
            prop_assert_eq!(counts, again);
        }

        #[test]
        fn any_text_is_refused_or_read(text in "[A-Za-z0-9+/=]{0,40}") {
            let _ = decode(&text, &mut [0; 10]);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let five = encode(&[0, 0, 7, 0, 5]);
        assert!(decode(&five, &mut [0; 4]).unwrap_err().contains("beyond"));
        assert!(decode(&five[..five.len() - 1], &mut [0; 5]).is_err());
        assert!(decode("?", &mut [0; 4]).unwrap_err().contains("base64"));
    }
}
