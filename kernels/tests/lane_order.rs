//! Block scales into lane order on the device, against the same on the host.

#![allow(clippy::unwrap_used, clippy::panic)]

mod rows;

use qwen_nvfp4_kernels::lane_order::lane_order_from_swizzled;
use qwen_nvfp4_kernels::layout;

use rows::{Random, down, gpu, same, up};

/// What lies in the padding of the checkpoint's tiles is garbage here.
#[test]
fn the_device_puts_scales_where_the_host_does() {
    let mut random = Random(1);
    for (rows, k) in [
        (1, 16),
        (64, 128),
        (63, 64),
        (65, 192),
        (128, 256),
        (129, 112),
        (200, 80),
        (300, 1024),
    ] {
        let swizzled = random.bytes(layout::swizzled_len(rows, k).unwrap());
        let expected = layout::lane_order_from_swizzled(&swizzled, rows, k).unwrap();
        for card in ["rtx5090", "a100"] {
            let gpu = gpu(card);
            let stream = gpu.stream();
            let from = up(stream, &swizzled);
            let mut to = up(stream, &vec![0xaau8; expected.len()]);
            lane_order_from_swizzled(&gpu, [rows, k], &from.as_view(), &mut to.as_view_mut())
                .unwrap();
            same(
                &format!("{rows} x {k}"),
                &down(stream, &to.as_view()),
                &expected,
            );
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let gpu = gpu("rtx5090");
    let stream = gpu.stream();
    let (from, mut to) = (up(stream, &[0u8; 512]), up(stream, &[0u8; 512]));
    let mut told = |rows, k| {
        let to = &mut to.as_view_mut();
        lane_order_from_swizzled(&gpu, [rows, k], &from.as_view(), to)
            .unwrap_err()
            .to_string()
    };
    assert!(told(1, 24).contains("no block scales of a matrix of 1 x 24"));
    assert!(told(129, 64).contains("512 swizzled scales, expected 1024"));
    assert!(told(65, 64).contains("512 scales in lane order, expected 1024"));
}
