//! How fast the machine is: `cargo test -p ptx-emulator speed -- --ignored --nocapture`.

use std::time::Instant;

use super::Bench;

/// Prints the lane-instructions per second and core, best of three, and demands a floor far below what they are.
fn timed(name: &str, body: &str, input: bool) {
    let bench = Bench::kernel(2, body);
    let words = vec![1.5f32.to_bits(); 1 << 20];
    let from = if input {
        bench.upload(&words)
    } else {
        bench.room(1)
    };
    let out = bench.room(1 << 14);
    let cores = rayon::current_num_threads() as f64;
    let mut best = 0f64;
    for _ in 0..3 {
        let start = Instant::now();
        let report = bench.run(64, 256, &[from, out]).unwrap();
        let rate = report.lane_instructions as f64 / start.elapsed().as_secs_f64() / cores;
        best = best.max(rate);
    }
    println!(
        "{name}: {:.0} million lane-instructions per second and core",
        best / 1e6
    );
    assert!(best > 1e7, "{name}: {best}");
}

/// A loop of `count` rounds around `body`.
fn looped(count: usize, body: &str) -> String {
    format!(
        "mov.u32 %r1, 0;\nmov.f32 %f1, 0f3F800000;\nmov.f32 %f2, 0f3F800010;\nmov.u32 %r3, 7;\nadd.s64 %d1, %a0, %o;\n\
         mov.b64 %d3, 0;\nL:\n{body}\nadd.u32 %r1, %r1, 1;\nsetp.lt.u32 %p1, %r1, {count};\n@%p1 bra L;\n\
         add.s64 %d2, %a1, %o;\nst.global.f32 [%d2], %f1;"
    )
}

#[test]
#[ignore = "a measurement"]
fn speed_of_arithmetic() {
    let body = "fma.rn.f32 %f1, %f1, %f2, %f2;\nadd.s32 %r3, %r3, %r1;\nmul.lo.s32 %r4, %r3, 5;\nxor.b32 %r5, %r4, %r3;\n\
                fma.rn.f32 %f3, %f1, %f2, %f2;\nmul.f32 %f4, %f3, %f1;\nshl.b32 %r6, %r5, 3;\nadd.s64 %d4, %d1, %d3;";
    timed("arithmetic", &looped(2000, body), false);
}

#[test]
#[ignore = "a measurement"]
fn speed_of_global_loads() {
    let body = "ld.global.f32 %f3, [%d1];\nfma.rn.f32 %f1, %f3, %f2, %f1;\nadd.s64 %d1, %d1, 128;";
    timed("a load and an fma", &looped(500, body), true);
}

#[test]
#[ignore = "a measurement"]
fn speed_of_divergence() {
    let body = "and.b32 %r4, %t, 3;\nsetp.eq.u32 %p2, %r4, 0;\n@%p2 bra A;\nadd.s32 %r3, %r3, 1;\nbra B;\n\
                A:\nadd.s32 %r3, %r3, 2;\nB:";
    timed("a divergent branch", &looped(2000, body), false);
}
