//! Why the loader did not do what it was asked to.

pub use drivebay_spec_errno::{Error, Result};
