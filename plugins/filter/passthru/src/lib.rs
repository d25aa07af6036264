//! `passthru`: a filter that passes everything on to its base. Copy it to write your own filter.
#![forbid(unsafe_code)]

use drivebay_sdk::bdev::check_name;
use drivebay_sdk::prelude::*;

#[cfg(test)]
mod tests;

filter_module!("passthru", Passthru, unsafe(threads_move));

params! {
    /// Parameters of `bdev_passthru_create`.
    pub struct Passthru {
        /// Name of the new bdev.
        name: String,
        /// Name of the base bdev. If there is no such bdev yet, the filter waits for it.
        base_bdev_name: String,
        /// UUID. If absent, it is derived from the name.
        uuid: Option<Uuid>,
    }
}

impl Filter for Passthru {
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

    fn describe(&self, _base: &Info, registration: &mut Registration) {
        registration.uuid = self.uuid.map_or([0; 16], |uuid| uuid.0);
    }
}
