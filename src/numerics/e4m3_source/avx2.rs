//! The two steps on a block of 16 bytes in AVX2: its largest magnitude, and its codes.
//!
//! The tricks: the one horizontal minimum that x86 has (`phminposuw`) finds the maximum of the complements, and
//! `pmaddubsw` by (16, 1) puts two codes into a byte.

use std::arch::x86_64::*;

use super::tables::Block;
use super::{BLOCK, NAN};

/// Whether this machine can run the functions here.
pub(super) fn available() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
}

/// The largest magnitude byte of a block.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn block_max(block: &[u8; BLOCK]) -> u8 {
    let missing = _mm_andnot_si128(load(block), _mm_set1_epi8(NAN as i8));
    // The lower byte of each 16-bit lane becomes the smaller of the two, the upper one 0.
    let pairs = _mm_min_epu8(missing, _mm_srli_epi16::<8>(missing));
    NAN - _mm_cvtsi128_si32(_mm_minpos_epu16(pairs)) as u8
}

/// The packed codes of a block.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn encode(table: &Block, block: &[u8; BLOCK], packed: &mut [u8; BLOCK / 2]) {
    let block = load(block);
    let magnitudes = _mm_and_si128(block, _mm_set1_epi8(NAN as i8));
    let mut codes = _mm_srli_epi16::<4>(_mm_and_si128(block, load(&table.sign)));
    for bound in &table.bounds {
        // Where the comparison holds it gives -1.
        codes = _mm_sub_epi8(codes, _mm_cmpgt_epi8(magnitudes, load(bound)));
    }
    let pairs = _mm_maddubs_epi16(codes, _mm_set1_epi16(0x0110));
    let bytes = _mm_packus_epi16(pairs, pairs);
    // SAFETY: `packed` is 8 bytes, which is what is stored; no alignment is needed.
    unsafe { _mm_storel_epi64(packed.as_mut_ptr().cast(), bytes) };
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; BLOCK]) -> __m128i {
    // SAFETY: `bytes` is 16 bytes, which is what is loaded; no alignment is needed.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}
