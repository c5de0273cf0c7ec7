//! How long the instructions take: `cargo test -p ptx-emulator --test arithmetic speed -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use ptx_emulator::Lanes;
use ptx_emulator::convert::float::{Float, FloatMode, to_bits};
use ptx_emulator::convert::half::{Half, HalfMode, fma};
use ptx_emulator::convert::{Minifloat, Narrow, Rounding, encode, single};
use ptx_emulator::tensor::ldmatrix::{Load, ldmatrix};
use ptx_emulator::tensor::{
    Accumulator, BlockScales, Eight, Integer, Mxf4, ScaleFormat, ScaleVec, Sixteen, mma_f8,
    mma_int8, mma_k16, mma_mxf4nvf4, mma_mxf8f6f4,
};

use super::Random;

/// The best of several rounds: other work on the machine only adds.
fn time(name: &str, mut run: impl FnMut()) -> Duration {
    let best = (0..20)
        .map(|_| {
            let start = Instant::now();
            (0..500).for_each(|_| run());
            start.elapsed() / 500
        })
        .min()
        .unwrap();
    println!("{name}: {best:?}");
    best
}

#[test]
#[ignore = "a measurement"]
fn speed() {
    let mut random = Random(15);
    // No NaN in any format: the top bit of each byte's exponent is clear.
    let a: [Lanes; 4] =
        std::array::from_fn(|_| std::array::from_fn(|_| random.any() as u32 & 0xbfbf_bfbf));
    let b: [Lanes; 2] =
        std::array::from_fn(|_| std::array::from_fn(|_| random.any() as u32 & 0xbfbf_bfbf));
    let c = [[1f32.to_bits(); 32]; 4];
    let ones = [0x3838_3838; 32];
    let unit = [0x7f7f_7f7f; 32];
    let scales = |register| BlockScales {
        a: register,
        b: register,
        byte_a: 0,
        thread_a: 0,
        byte_b: 0,
        thread_b: 0,
    };
    let e4m3 = |accumulator| Eight {
        a: Minifloat::E4m3,
        b: Minifloat::E4m3,
        accumulator,
    };
    for sum in [Accumulator::Truncated, Accumulator::Exact] {
        let mxf4 = Mxf4 {
            vec: ScaleVec::X4,
            scale: ScaleFormat::Ue4m3,
            accumulator: sum,
        };
        println!("{sum:?}");
        let nvfp4 = time("mxf4nvf4 m16n8k64", || {
            black_box(mma_mxf4nvf4(
                black_box(&a),
                black_box(&b),
                &c,
                &scales(&ones),
                mxf4,
            ))
            .unwrap();
        });
        time("mxf8f6f4 m16n8k32", || {
            black_box(mma_mxf8f6f4(
                black_box(&a),
                black_box(&b),
                &c,
                &scales(&unit),
                e4m3(sum),
            ))
            .unwrap();
        });
        time("e4m3 m16n8k32", || {
            black_box(mma_f8(black_box(&a), black_box(&b), &c, e4m3(sum))).unwrap();
        });
        time("bf16 m16n8k16", || {
            black_box(mma_k16(
                black_box(&a),
                black_box(&b),
                &c,
                Sixteen::Bf16,
                sum,
            ));
        });
        if sum == Accumulator::Truncated {
            assert!(nvfp4 < Duration::from_micros(20), "{nvfp4:?}");
        }
    }
    time("s8 m16n8k32", || {
        let types = Integer {
            a_signed: true,
            b_signed: true,
            satfinite: false,
        };
        black_box(mma_int8(black_box(&a), black_box(&b), &c, types));
    });
    let values: [f32; 32] = std::array::from_fn(|_| (random.below(1 << 20) as f32 - 5e5) / 3.0);
    let near = Narrow {
        satfinite: true,
        ..Narrow::default()
    };
    let each = |f: &dyn Fn(f32) -> u64| black_box(values.map(|x| f(black_box(x))));
    time("32 lanes f32 to e4m3", || {
        each(&|x| encode(Minifloat::E4m3, x.into(), near).into());
    });
    time("32 lanes f32 to bf16", || {
        each(&|x| to_bits(x.into(), Float::Bf16, FloatMode::default()));
    });
    time("32 lanes f16 fma", || {
        let half = |x: u16| fma(x, x ^ 0x8001, 0x3c00, Half::F16, HalfMode::default());
        each(&|x| half(x.to_bits() as u16 & 0xbfff).into());
    });
    time("32 lanes f32 fma.rz", || {
        each(&|x| {
            single::fma(x, x, 1.0, Rounding::TowardZero)
                .to_bits()
                .into()
        });
    });
    let rows = [[7; 16]; 32];
    time("ldmatrix x4", || {
        black_box(ldmatrix(Load::M8n8 { trans: false }, 4, black_box(&rows)).unwrap());
    });
}
