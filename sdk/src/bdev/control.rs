//! What a module changes or reports on its own registered bdev: aliases, and blocks that lost their data.
#![expect(unsafe_code, reason = "calls the host's bdev interface")]

use super::module::Bdev;
use super::op::Range;
use super::registry::Registered;
use crate::app::App;
use crate::error::{Result, check};
use crate::host::host;
use drivebay_plugin_api::bay_str;

impl<B: Bdev> Registered<B> {
    /// Adds an alias, under which clients find the bdev as well. `[app thread]`
    ///
    /// # Errors
    /// `EEXIST` when a bdev has that name.
    pub fn add_alias(&self, _app: &App, alias: &str) -> Result<()> {
        self.change_alias(alias, 1)
    }

    /// Removes an alias from the registration or from [`add_alias`](Self::add_alias). `[app thread]`
    ///
    /// # Errors
    /// `ENOENT` when the bdev has no such alias.
    pub fn remove_alias(&self, _app: &App, alias: &str) -> Result<()> {
        self.change_alias(alias, 0)
    }

    fn change_alias(&self, alias: &str, add: u32) -> Result<()> {
        let host = host();
        // SAFETY: `self` owns the handle; the text outlives the call.
        let status = unsafe { (host.bdev.alias)(host.raw, self.id(), bay_str::new(alias), add) };
        check(status, format_args!("alias {alias}"))
    }

    /// Notifies every client that has the bdev open that these blocks lost their data. `[app thread]`
    ///
    /// # Errors
    /// `EINVAL` for blocks that are not on the bdev.
    pub fn media_lost(&self, _app: &App, blocks: Range) -> Result<()> {
        let host = host();
        // SAFETY: `self` owns the handle.
        let status = unsafe { (host.bdev.media)(host.raw, self.id(), blocks.lba, blocks.nblocks) };
        check(status, format_args!("{} blocks from {}", blocks.nblocks, blocks.lba))
    }
}
