//! `{{name}}`: a filter that passes everything on to its base, to be filled in.
#![forbid(unsafe_code)]

use drivebay_sdk::bdev::{Channel, check_name};
use drivebay_sdk::prelude::*;

#[cfg(test)]
mod tests;

// The door of the library, and the methods `bdev_{{name}}_create` and `bdev_{{name}}_delete`.
filter_module!("{{name}}", Over);

params! {
    /// Parameters of `bdev_{{name}}_create`.
    pub struct Over {
        /// Name of the new bdev.
        name: String,
        /// Name of the base bdev; when there is none yet, the filter waits for it.
        base_bdev_name: String,
    }
}

impl Filter for Over {
    type Params = Self;
    const PRODUCT: &'static str = "{{name}} filter";

    fn create(_: &App, params: Self) -> Result<Self> {
        check_name(params.name.clone())?;
        Ok(params)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn base_name(&self) -> &str {
        &self.base_bdev_name
    }

    // In what the filter differs from its base. What is not said here is the base's.
    fn describe(&self, _base: &Info, _registration: &mut Registration) {}

    // One I/O: pass it on, complete it, or send others down in its place.
    fn submit(&self, base: &Channel, io: BdevIo) {
        base.pass(io);
    }
}
