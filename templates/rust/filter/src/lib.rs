//! `{{name}}`: a filter that passes all I/O on to its base. Add your own code.
#![forbid(unsafe_code)]

use drivebay_sdk::bdev::{Channel, check_name};
use drivebay_sdk::prelude::*;

#[cfg(test)]
mod tests;

// Defines the door of the library, and the methods `bdev_{{name}}_create` and `bdev_{{name}}_delete`.
filter_module!("{{name}}", Over);

params! {
    /// Parameters of `bdev_{{name}}_create`.
    pub struct Over {
        /// Name of the new bdev.
        name: String,
        /// Name of the base bdev. If there is no such bdev yet, the filter waits for it.
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

    // Change the registration where the filter differs from its base. The rest stays as the base's.
    fn describe(&self, _base: &Info, _registration: &mut Registration) {}

    // Handle one I/O: pass it on, complete it, or submit others to the base instead.
    fn submit(&self, base: &Channel, io: BdevIo) {
        base.pass(io);
    }
}
