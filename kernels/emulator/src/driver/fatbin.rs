//! Fat binaries of nvcc: the PTX in them.
//!
//! The layout is not documented. What is read here is what `cuobjdump` shows and open-source readers agree on: a header
//! (magic, version, its size, size of the rest), then entries, each with a header (kind, its size, size of the payload,
//! architecture, flags) and a payload.

use super::ffi::Bytes;
use super::status::{Error, INVALID_IMAGE};

/// `__fatBinC_Wrapper_t`: what compiled code registers.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Wrapper {
    magic: u32,
    version: u32,
    data: usize,
    linked: usize,
}

const WRAPPER_MAGIC: u32 = 0x4662_43b1;
/// First bytes of a fat binary.
pub(super) const MAGIC: [u8; 4] = [0x50, 0xed, 0x55, 0xba];
const HEADER: usize = 16;
/// Kind of an entry that is PTX.
const PTX: u16 = 1;
/// Flags of an entry whose payload is packed, by either of two algorithms.
const PACKED: u64 = 0x2000 | 0x8000;

fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<u64, Error> {
    let part = bytes
        .get(at..at + N)
        .ok_or_else(|| Error::new(INVALID_IMAGE, "a fat binary ends too early"))?;
    Ok(part
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// The first PTX in the fat binary that compiled code registers.
pub(super) fn ptx(wrapper: Wrapper) -> Result<String, Error> {
    if wrapper.magic != WRAPPER_MAGIC {
        return Err(Error::new(
            INVALID_IMAGE,
            "what was registered is no fat binary",
        ));
    }
    ptx_at(wrapper.data)
}

/// The first PTX in the fat binary at an address that a C caller gave.
pub(super) fn ptx_at(address: usize) -> Result<String, Error> {
    let header = Bytes::at(address as u64).read(HEADER)?;
    if header[..4] != MAGIC {
        return Err(Error::new(
            INVALID_IMAGE,
            "a fat binary has another magic number",
        ));
    }
    let (start, rest) = (
        number::<2>(header, 6)? as usize,
        number::<8>(header, 8)? as usize,
    );
    let all = Bytes::at(address as u64).read(start + rest)?;
    find(all, start)
}

fn find(all: &[u8], start: usize) -> Result<String, Error> {
    let mut at = start;
    while at < all.len() {
        let (kind, header) = (
            number::<2>(all, at)? as u16,
            number::<4>(all, at + 4)? as usize,
        );
        let (payload, flags) = (
            number::<8>(all, at + 8)? as usize,
            number::<8>(all, at + 40)?,
        );
        let first = at + header;
        if kind == PTX {
            if flags & PACKED != 0 {
                return Err(Error::unsupported(
                    "packed PTX in a fat binary; build with --no-compress",
                ));
            }
            let text = all.get(first..first + payload).unwrap_or_default();
            let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
            let text = std::str::from_utf8(text)
                .map_err(|_| Error::new(INVALID_IMAGE, "PTX that is not UTF-8"))?;
            return Ok(text.to_owned());
        }
        at = first + payload.max(1);
    }
    Err(Error::unsupported(
        "a fat binary without PTX; build with code=compute_...",
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn entry(kind: u16, flags: u64, payload: &[u8]) -> Vec<u8> {
        let mut entry = vec![0; 64];
        entry[..2].copy_from_slice(&kind.to_le_bytes());
        entry[4..8].copy_from_slice(&64u32.to_le_bytes());
        entry[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        entry[40..48].copy_from_slice(&flags.to_le_bytes());
        entry.extend_from_slice(payload);
        entry
    }

    #[test]
    fn ptx_is_found_behind_machine_code() {
        let binary = [
            entry(2, 0, b"\x7fELF...."),
            entry(1, 0, b".version 8.8\0\0\0"),
        ]
        .concat();
        assert_eq!(find(&binary, 0).unwrap(), ".version 8.8");
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        assert!(
            find(&entry(2, 0, b"\x7fELF"), 0)
                .unwrap_err()
                .text
                .contains("without PTX")
        );
        assert!(
            find(&entry(1, 0x8000, b"...."), 0)
                .unwrap_err()
                .text
                .contains("packed")
        );
        assert!(
            find(&entry(1, 0, b"....")[..30], 0)
                .unwrap_err()
                .text
                .contains("too early")
        );
    }
}
