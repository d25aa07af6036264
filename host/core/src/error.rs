//! Errors of the control path: an errno that clients test for, and a text that says what to do.

pub use drivebay_spec_errno::{Error, Result};
