//! Decodes a module and runs its kernels.
