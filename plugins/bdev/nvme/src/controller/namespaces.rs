//! The namespaces of a controller: listed, identified, compared with their bdevs.

use std::collections::BTreeMap;
use std::rc::Rc;

use drivebay_sdk::prelude::*;

use super::Controller;
use crate::admin::Admin;
use crate::bdev::Identified;
use crate::path::{Access, State};

/// Every namespace that the controller lists; `None` for one that could not be identified or cannot be a bdev.
pub(crate) type Found = BTreeMap<u32, Option<Identified>>;

impl Controller {
    /// Lists and identifies the namespaces. The log names each one that cannot be identified.
    ///
    /// # Errors
    /// The controller does not list its namespaces, or the connection is lost.
    pub(super) async fn look_at_namespaces(&self, admin: &Admin) -> Result<Found> {
        let mut found = Found::new();
        for nsid in admin.active_namespaces().await? {
            let identified = match admin.namespace(nsid).await {
                // The other namespaces would fail in the same way.
                Err(error) if admin.is_lost() => return Err(error),
                identified => identified.and_then(|described| {
                    let (transfer_len, page_len) =
                        (self.max_transfer_len.get(), self.page_len.get());
                    Identified::new(nsid, described, transfer_len, page_len)
                }),
            };
            if let Err(error) = &identified {
                warn!("{}: namespace {nsid} is left out: {}", self.name, error.message());
            }
            found.insert(nsid, identified.ok());
        }
        Ok(found)
    }

    /// How well the controller serves its namespaces. The plugin does not use a namespace that does not match its bdev.
    pub(super) fn usable(&self, found: &Found) -> BTreeMap<u32, Access> {
        let mut usable = BTreeMap::new();
        for (nsid, namespace) in found {
            let differs = namespace.as_ref().and_then(|namespace| self.group.differs(namespace));
            if let Some(why) = &differs {
                error!("{}: namespace {nsid} is not used: {why}", self.name);
            }
            let may_be_used = namespace.is_some() && differs.is_none();
            let access = if may_be_used { self.access(*nsid) } else { Access::Unusable };
            usable.insert(*nsid, access);
        }
        usable
    }

    /// Looks at the namespaces again while the controller is connected.
    pub(super) async fn rescan(self: &Rc<Self>, admin: &Admin) -> Result<()> {
        let found = self.look_at_namespaces(admin).await?;
        // The log has the ANA states of new namespaces.
        self.read_ana(admin).await?;
        if let (_, State::Live(live)) = self.path.state() {
            live.set_namespaces(self.usable(&found));
            self.path.touch();
        }
        self.group.converge(self, found).await;
        Ok(())
    }
}
