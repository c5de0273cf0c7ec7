//! A weight's block scales on the card, against the same on the host.

use qwen_nvfp4_kernels::gemm::scales::{weight_from_swizzled, weight_from_swizzled_on};
use qwen_nvfp4_kernels::layout::swizzled_len;

use crate::numbers::Noise;

/// What lies in the padding of the checkpoint's tiles is garbage here.
#[test]
fn the_card_puts_scales_where_the_host_does() {
    let gpu = crate::card("rtx5090");
    let stream = gpu.stream();
    let mut noise = Noise(1);
    for (n, k) in [(8, 64), (64, 128), (72, 192), (136, 112), (200, 1024)] {
        let len = swizzled_len(n, k).unwrap();
        let swizzled: Vec<u8> = (0..len).map(|_| noise.next() as u8).collect();
        let wanted = weight_from_swizzled(&swizzled, n, k).unwrap();
        let from = stream.clone_htod(&swizzled).unwrap();
        let mut to = unsafe { stream.alloc::<u8>(wanted.len()) }.unwrap();
        weight_from_swizzled_on(&gpu, [n, k], &from.as_view(), &mut to.as_view_mut()).unwrap();
        assert!(stream.clone_dtoh(&to).unwrap() == wanted, "{n} x {k}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let gpu = crate::card("rtx5090");
    let from = gpu.stream().alloc_zeros::<u8>(512).unwrap();
    let mut to = gpu.stream().alloc_zeros::<u8>(512).unwrap();
    let mut told = |n, k| {
        weight_from_swizzled_on(&gpu, [n, k], &from.as_view(), &mut to.as_view_mut())
            .unwrap_err()
            .to_string()
    };
    assert!(told(8, 24).contains("no block scales of a weight of 8 x 24"));
    assert!(told(129, 64).contains("512 swizzled scales, expected 1024"));
    assert!(told(65, 64).contains("512 scales of a weight, expected 1024"));
}
