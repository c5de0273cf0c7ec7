//! Arithmetic of `cvt`: e4m3, e5m2, e2m1, ue8m0, f16, bf16, integers.
