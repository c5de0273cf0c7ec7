#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use safetensors::SafeTensors;

use super::*;

/// What both readers say of `bytes`: the tensors, or that it is refused.
fn agree(bytes: &[u8]) {
    let ours = Header::parse(bytes)
        .ok()
        .filter(|h| h.file_len == bytes.len());
    // In debug builds the reference overflows on sizes near 2^64 instead of refusing them.
    let theirs =
        std::panic::catch_unwind(|| SafeTensors::read_metadata(bytes).ok()).unwrap_or(None);
    if let Some(ours) = &ours {
        let (n, theirs) = theirs.as_ref().expect("only our reader accepts");
        let theirs = theirs.tensors();
        assert_eq!(theirs.len(), ours.tensors.len());
        for (name, entry) in &ours.tensors {
            let info = theirs[name];
            assert_eq!(
                (entry.dtype, &entry.shape),
                (info.dtype, &info.shape),
                "{name}"
            );
            let (begin, end) = info.data_offsets;
            assert_eq!(entry.range, 8 + n + begin..8 + n + end, "{name}");
        }
    }
    // The reference lets a name listed twice pass; nothing else that it accepts may be refused.
    if let (Some(_), None, Err(reason)) = (&theirs, &ours, Header::parse(bytes)) {
        assert!(
            reason.contains("twice"),
            "only the reference accepts: {reason}"
        );
    }
}

fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn valid() -> Vec<u8> {
    let header = r#"{"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"U8","shape":[],"data_offsets":[24,25]},"c":{"dtype":"BF16","shape":[0,7],"data_offsets":[25,25]}}"#;
    file(header, 25)
}

#[test]
fn a_sound_header_is_read_alike() {
    let bytes = valid();
    assert_eq!(Header::parse(&bytes).unwrap().tensors.len(), 3);
    agree(&bytes);
}

/// Tensors whose sizes sum to 2^64 and more.
#[test]
fn sizes_that_overflow_are_refused() {
    let size = usize::MAX / 8;
    let entry = |i: usize| {
        let (begin, end) = (i.wrapping_mul(size), (i + 1).wrapping_mul(size));
        format!(r#""t{i}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{begin},{end}]}}"#)
    };
    for n in [1, 8, 9] {
        let entries: Vec<String> = (0..n).map(entry).collect();
        assert!(
            Header::parse(&file(&format!("{{{}}}", entries.join(",")), 8))
                .map_or(true, |h| h.file_len > 1 << 40)
        );
    }
}

proptest! {
    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        agree(&bytes);
    }

    #[test]
    fn a_sound_file_with_bytes_changed(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        shorten in any::<bool>(),
    ) {
        let mut bytes = valid();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if shorten {
            bytes.truncate(cut.index(bytes.len()));
        }
        agree(&bytes);
    }

    #[test]
    fn random_tilings(
        tensors in proptest::collection::vec((0usize..4, 0usize..5, 0usize..3, -1i64..2), 0..6),
        data in 0usize..64,
    ) {
        let mut end = 0i64;
        let entries: Vec<String> = tensors.iter().enumerate().map(|(i, (dtype, a, b, slip))| {
            let (dtype, width) = [("U8", 1), ("BF16", 2), ("F32", 4), ("F4", 0)][*dtype];
            let begin = end + if *slip == 1 && i == 2 { 1 } else { 0 };
            end = begin + (a * b * width) as i64 + if *slip == -1 && i == 3 { 1 } else { 0 };
            format!(r#""t{i}":{{"dtype":"{dtype}","shape":[{a},{b}],"data_offsets":[{begin},{end}]}}"#)
        }).collect();
        let header = format!("{{{}}}", entries.join(","));
        agree(&file(&header, data));
        agree(&file(&header, end as usize));
    }
}
