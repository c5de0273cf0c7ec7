//! What C hands over. A value of these types comes from a C caller only, who promises what the driver API demands of
//! that argument: a pointer that is null or good for reads (or writes) of the stated length while the call runs.

use std::ffi::{CStr, c_char, c_void};

use super::status::{Error, INVALID_VALUE};

/// Where a result goes.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Writes the result.
    pub(super) fn set(self, value: T) -> Result<(), Error> {
        if self.0.is_null() {
            return Err(Error::new(INVALID_VALUE, "a result's pointer is null"));
        }
        // SAFETY: not null, hence good for writes by the caller's promise; its alignment is taken as unknown.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// Writes the result if the caller wants it.
    pub(super) fn set_if_wanted(self, value: T) {
        if !self.0.is_null() {
            let _ = self.set(value);
        }
    }
}

impl Out<c_char> {
    /// Writes as much of `text` as fits into `len` bytes, with a zero at the end.
    pub(super) fn set_text(self, text: &str, len: usize) -> Result<(), Error> {
        let Some(room) = len.checked_sub(1) else {
            return Ok(());
        };
        let bytes = &text.as_bytes()[..text.len().min(room)];
        let target = Bytes(self.0.cast());
        target.write(bytes)?;
        // SAFETY: the buffer has `len` bytes by the caller's promise, and `write` has refused null.
        unsafe { self.0.add(bytes.len()).write(0) };
        Ok(())
    }
}

/// One value, or a few in a row.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub struct In<T>(*const T);

impl<T: Copy> In<T> {
    /// From a number that a C caller gave as a pointer.
    pub(super) fn from_address(address: usize) -> Self {
        Self(address as *const T)
    }

    pub(super) fn is_null(self) -> bool {
        self.0.is_null()
    }

    pub(super) fn get(self) -> Result<T, Error> {
        self.at(0)
    }

    /// Element `index` of those in a row.
    pub(super) fn at(self, index: usize) -> Result<T, Error> {
        if self.0.is_null() {
            return Err(Error::new(INVALID_VALUE, "an argument's pointer is null"));
        }
        // SAFETY: not null, hence good for reads by the caller's promise.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }
}

/// A string with a zero at the end.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub struct Text(*const c_char);

impl Text {
    pub(super) fn get(self) -> Result<String, Error> {
        if self.0.is_null() {
            return Err(Error::new(INVALID_VALUE, "a string's pointer is null"));
        }
        // SAFETY: not null, hence a string that ends, by the caller's promise.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str()
            .map(str::to_owned)
            .map_err(|_| Error::new(INVALID_VALUE, "a string is not UTF-8"))
    }

    /// The pointer as a number.
    pub(super) fn address(self) -> usize {
        self.0 as usize
    }

    /// The first four bytes, for telling formats apart.
    pub(super) fn magic(self) -> Result<[u8; 4], Error> {
        let byte = In(self.0.cast::<u8>());
        let mut magic = [0; 4];
        for (index, target) in magic.iter_mut().enumerate() {
            *target = byte.at(index)?;
            if *target == 0 {
                break;
            }
        }
        Ok(magic)
    }
}

/// Memory of the host.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub struct Bytes(*mut c_void);

// SAFETY: a recorded copy reads and writes through it when the graph is launched, on whatever thread; that the memory
// lives until then is the driver API's demand on the caller.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

impl Bytes {
    /// The pointer as a number.
    pub(super) fn address(self) -> usize {
        self.0 as usize
    }

    /// From a number that a C caller gave as a unified address.
    pub(super) fn at(address: u64) -> Self {
        Self(address as usize as *mut c_void)
    }

    fn check(self, len: usize) -> Result<(), Error> {
        match self.0.is_null() && len > 0 {
            true => Err(Error::new(INVALID_VALUE, "a host pointer is null")),
            false => Ok(()),
        }
    }

    /// `len` bytes of it.
    pub(super) fn read<'a>(self, len: usize) -> Result<&'a [u8], Error> {
        self.check(len)?;
        if len == 0 {
            return Ok(&[]);
        }
        // SAFETY: good for reads by the caller's promise; used within the call only.
        Ok(unsafe { std::slice::from_raw_parts(self.0.cast(), len) })
    }

    /// Writes all of `bytes` there.
    pub(super) fn write(self, bytes: &[u8]) -> Result<(), Error> {
        self.check(bytes.len())?;
        // SAFETY: good for writes by the caller's promise; not memory of ours.
        unsafe {
            self.0
                .cast::<u8>()
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
        };
        Ok(())
    }
}

/// Function of the C library: what runs when the process ends.
pub(super) fn at_exit(run: extern "C" fn()) {
    unsafe extern "C" {
        fn atexit(run: extern "C" fn()) -> i32;
    }
    // SAFETY: `run` takes nothing and lives as long as the library, which is never unloaded by its users.
    unsafe { atexit(run) };
}

/// Defines functions of the C interface, each under its own name, and a table of them for `cuGetProcAddress`.
macro_rules! api {
    ($table:ident, $answer:path; $($(#[$meta:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block)*) => {
        $(
            $(#[$meta])*
            #[unsafe(no_mangle)]
            #[allow(non_snake_case, clippy::too_many_arguments, missing_docs)]
            pub extern "C" fn $name($($arg: $type),*) -> u32 {
                $answer(stringify!($name), move || $body)
            }
        )*

        /// Names and addresses of these functions.
        pub(super) fn $table() -> Vec<(&'static str, usize)> {
            vec![$((stringify!($name), $name as *const () as usize)),*]
        }
    };
}
pub(super) use api;
