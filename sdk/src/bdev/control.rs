//! What a module tells of a bdev of its own that is on the bus: other names, blocks that are lost.
#![expect(unsafe_code, reason = "calls the host's bdev interface")]

use super::module::Bdev;
use super::op::Range;
use super::registry::Registered;
use crate::app::App;
use crate::error::{Result, check};
use crate::host::host;
use drivebay_plugin_api::bay_str;

impl<B: Bdev> Registered<B> {
    /// Gives the bdev another name, by which it is found, too. `[app thread]`
    ///
    /// # Errors
    /// `EEXIST` when a bdev has that name.
    pub fn add_alias(&self, _app: &App, alias: &str) -> Result<()> {
        self.change_alias(alias, 1)
    }

    /// Takes a name away that the registration or [`add_alias`](Self::add_alias) gave. `[app thread]`
    ///
    /// # Errors
    /// `ENOENT` when the bdev has no such alias.
    pub fn remove_alias(&self, _app: &App, alias: &str) -> Result<()> {
        self.change_alias(alias, 0)
    }

    fn change_alias(&self, alias: &str, add: u32) -> Result<()> {
        let host = host();
        // SAFETY: the handle is ours; the text lives through the call.
        let status = unsafe { (host.bdev.alias)(host.raw, self.id(), bay_str::new(alias), add) };
        check(status, format_args!("alias {alias}"))
    }

    /// Tells those who have the bdev open that these blocks lost their data. `[app thread]`
    ///
    /// # Errors
    /// `EINVAL` for blocks that are not on the bdev.
    pub fn media_lost(&self, _app: &App, blocks: Range) -> Result<()> {
        let host = host();
        // SAFETY: the handle is ours.
        let status = unsafe { (host.bdev.media)(host.raw, self.id(), blocks.lba, blocks.nblocks) };
        check(status, format_args!("{} blocks from {}", blocks.nblocks, blocks.lba))
    }
}
