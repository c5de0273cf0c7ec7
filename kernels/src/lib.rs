//! The kernels and how they are launched.
