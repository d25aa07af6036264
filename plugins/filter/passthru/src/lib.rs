//! `passthru`: a filter that passes all I/O on to its base.
#![forbid(unsafe_code)]

use drivebay_sdk::bdev::{Channel, check_name};
use drivebay_sdk::prelude::*;

#[cfg(test)]
mod tests;

// Defines the door of the library, and the methods `bdev_passthru_create` and `bdev_passthru_delete`.
filter_module!("passthru", Over, unsafe(threads_move));

params! {
    /// Parameters of `bdev_passthru_create`.
    pub struct Over {
        /// Name of the new bdev.
        name: String,
        /// Name of the base bdev. If there is no such bdev yet, the filter waits for it.
        base_bdev_name: String,
        /// UUID. If absent, it is derived from the name.
        uuid: Option<Uuid>,
    }
}

impl Filter for Over {
    type Params = Self;
    const PRODUCT: &'static str = "passthru";

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

    // Changes the registration where the filter differs from its base. The rest stays as the base's.
    fn describe(&self, _base: &Info, registration: &mut Registration) {
        registration.uuid = self.uuid.map_or([0; 16], |uuid| uuid.0);
    }

    // Handles one I/O: passes it on, completes it, or submits others to the base instead.
    fn submit(&self, base: &Channel, io: BdevIo) {
        base.pass(io);
    }
}
