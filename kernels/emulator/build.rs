//! Names the library as programs look for it: who asks for `libcuda.so` gets it once it is loaded, whatever its path.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
}
