//! Errors of the control path: an errno that clients test for, and what to do about it.

pub use drivebay_spec_errno::{Error, Result};
