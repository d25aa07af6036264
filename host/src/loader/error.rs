//! The errors of the loader.

pub use drivebay_spec_errno::{Error, Result};
