//! The C interface of the driver.
