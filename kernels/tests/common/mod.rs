//! A card for tests: the PTX emulator, behind cudarc.
//!
//! ```ignore
//! mod common;
//! use common::emulator;
//!
//! let context = emulator::context();                       // loads the emulator; one device, an RTX 5090
//! let module = context.load_module(Ptx::from_src(text))?;  // cudarc as on a card from here on
//! // ... a launch that fails:
//! assert!(emulator::last_fault().contains("race at shared"));
//! let _h100 = emulator::settings(&[("card", "h100"), ("seed", "7")]); // until it is dropped
//! ```
//!
//! Faults and settings belong to the thread, that is to the test. The settings (see
//! `emulator/src/driver/settings.rs`): `card`, `seed`, `uninitialised`, `uninitialised_shared`,
//! `shared_races`, `global_races` (0 or 1), `block`
//! (the only block of a grid to run, or `all`), `memory` (bytes of the card).
//!
//! How cudarc finds it: it opens `libcuda.so` by name, and the C library gives it what was loaded under that soname
//! before. So [`emulator::context`] must come before any other use of cudarc.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod emulator {
    //! Loads the emulator and talks to it.

    use std::ffi::{CString, c_char};
    use std::path::PathBuf;
    use std::sync::{Arc, OnceLock};

    use cudarc::driver::CudaContext;
    use libloading::Library;

    /// The library that cargo builds beside this test, as it is a dependency of it.
    fn path() -> PathBuf {
        let mut folder = std::env::current_exe().expect("the test's own path");
        folder.pop();
        folder.join("libptx_emulator.so")
    }

    fn library() -> &'static Library {
        static LIBRARY: OnceLock<Library> = OnceLock::new();
        LIBRARY.get_or_init(|| {
            let path = path();
            // SAFETY: our own library; loading it runs no code of consequence.
            unsafe { Library::new(&path) }
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        })
    }

    /// A context of the emulator's device. All tests of a process share the device, each may have its own context.
    pub fn context() -> Arc<CudaContext> {
        library();
        let context = CudaContext::new(0).expect("a context of the emulator");
        let name = context.name().expect("the name of its device");
        let version: Result<libloading::Symbol<'_, unsafe extern "C" fn()>, _> =
            // SAFETY: only asked for, not called.
            unsafe { library().get(b"ptx_emulator_last_fault") };
        assert!(version.is_ok(), "{name} is not the emulator");
        context
    }

    type Texts = unsafe extern "C" fn(*mut c_char, usize) -> usize;

    /// Calls one of the emulator's functions that write a text into a buffer.
    fn text(function: &[u8]) -> String {
        // SAFETY: the function has this type; the buffer has the length that it is told.
        unsafe {
            let function: libloading::Symbol<'_, Texts> =
                library().get(function).expect("an emulator's function");
            let mut buffer = vec![0u8; function(std::ptr::null_mut(), 0) + 1];
            function(buffer.as_mut_ptr().cast(), buffer.len());
            buffer.pop();
            String::from_utf8(buffer).expect("UTF-8")
        }
    }

    /// What the last call of this thread that failed said.
    pub fn last_fault() -> String {
        text(b"ptx_emulator_last_fault")
    }

    /// What is allocated or not destroyed now in the whole process, a line each.
    pub fn leaks() -> String {
        text(b"ptx_emulator_leaks")
    }

    /// Sets this thread's settings back when it is dropped.
    #[must_use = "the settings end when this is dropped"]
    pub struct Settings;

    impl Drop for Settings {
        fn drop(&mut self) {
            // SAFETY: the function has this type.
            unsafe {
                let reset: libloading::Symbol<'_, unsafe extern "C" fn() -> u32> = library()
                    .get(b"ptx_emulator_reset")
                    .expect("an emulator's function");
                reset();
            }
        }
    }

    /// Settings of this thread, by key and value.
    pub fn settings(of: &[(&str, &str)]) -> Settings {
        type Set = unsafe extern "C" fn(*const c_char, *const c_char) -> u32;
        for (key, value) in of {
            let (key, value) = (CString::new(*key).unwrap(), CString::new(*value).unwrap());
            // SAFETY: the function has this type; both strings end and live through the call.
            let status = unsafe {
                let set: libloading::Symbol<'_, Set> =
                    library().get(b"ptx_emulator_set").expect("a function");
                set(key.as_ptr(), value.as_ptr())
            };
            assert_eq!(status, 0, "{}", last_fault());
        }
        Settings
    }
}
