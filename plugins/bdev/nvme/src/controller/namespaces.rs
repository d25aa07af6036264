//! The namespaces of a controller and their bdevs: listed, identified, compared, published.

use std::collections::BTreeMap;
use std::rc::Rc;

use drivebay_nvme_driver::spec::identify::cmic;
use drivebay_nvme_driver::spec::property::Version;
use drivebay_sdk::bdev;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::{Map, Value, json};

use super::Controller;
use crate::admin::Admin;
use crate::bdev::{Identified, NvmeBdev};
use crate::path::State;

/// Every namespace that the controller lists; `None` for one that could not be identified or cannot be a bdev.
pub(super) type Found = BTreeMap<u32, Option<Identified>>;

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
                identified => identified.and_then(|(data, ids)| {
                    Identified::new(nsid, data, &ids, self.max_transfer_len.get())
                }),
            };
            if let Err(error) = &identified {
                warn!("{}: namespace {nsid} is left out: {}", self.name, error.message());
            }
            found.insert(nsid, identified.ok());
        }
        Ok(found)
    }

    /// Which namespaces may be used: new ones, and those that can still serve their bdevs.
    pub(super) fn usable(&self, found: &Found) -> BTreeMap<u32, bool> {
        let bdevs = self.bdevs.borrow();
        let mut usable = BTreeMap::new();
        for (nsid, namespace) in found {
            let differs = namespace
                .as_ref()
                .zip(bdevs.get(nsid))
                .and_then(|(namespace, before)| namespace.differs_from(before));
            if let Some(why) = &differs {
                error!("{}: namespace {nsid} is not used: {why}", self.name);
            }
            usable.insert(*nsid, namespace.is_some() && differs.is_none());
        }
        usable
    }

    /// Looks at the namespaces again while the controller is connected.
    pub(super) async fn rescan(self: &Rc<Self>, admin: &Admin) -> Result<()> {
        let found = self.look_at_namespaces(admin).await?;
        if let (_, State::Live(live)) = self.path.state() {
            *live.namespaces.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
                self.usable(&found);
            self.path.touch();
        }
        self.converge(found).await;
        Ok(())
    }

    /// Makes, resizes and removes bdevs, so that they match the namespaces found.
    pub(super) async fn converge(&self, found: Found) {
        let gone: Vec<u32> = {
            let bdevs = self.bdevs.borrow();
            bdevs.keys().filter(|nsid| !found.contains_key(nsid)).copied().collect()
        };
        for nsid in gone {
            info!("{}: namespace {nsid} is gone", self.name);
            self.remove(nsid).await;
        }
        for namespace in found.into_values().flatten() {
            let before = self.bdevs.borrow().get(&namespace.nsid).cloned();
            let result = match before {
                None => self.publish(namespace),
                Some(before) if namespace.differs_from(&before).is_none() => {
                    self.resize(&before, namespace)
                }
                // The log says so already.
                Some(_) => Ok(()),
            };
            if let Err(error) = result {
                error!("{}: {}", self.name, error.message());
            }
        }
    }

    fn publish(&self, namespace: Identified) -> Result<()> {
        let nsid = namespace.nsid;
        if self.bdevs.borrow().len() >= self.settings.attach.max_bdevs as usize {
            let max = self.settings.attach.max_bdevs;
            let why =
                format!("namespace {nsid} is left out: max_bdevs = {max} bdevs exist already");
            return Err(Error::new(errno::ENOSPC, why));
        }
        let shown = self.show(&namespace);
        let name = self.bdev_name(nsid);
        let disk = || NvmeBdev::new(name.clone(), namespace.clone(), self.shared(), shown.clone());
        // The bdev has no method in the saved configuration: the call that attaches the controller makes it again.
        let register = |disk| App::here(|app| bdev::register(app, disk, "", Value::Null))?;
        match register(disk()?) {
            Err(error)
                if error.errno() == errno::EEXIST && bdev::find::<NvmeBdev>(&name).is_err() =>
            {
                // For example, this host itself exports the disk.
                warn!("{name}: another bdev has the same UUID; this one gets a UUID from its name");
                register(disk()?.without_uuid())?;
            }
            registered => drop(registered?),
        }
        self.bdevs.borrow_mut().insert(nsid, namespace);
        Ok(())
    }

    fn resize(&self, before: &Identified, namespace: Identified) -> Result<()> {
        if before.num_blocks == namespace.num_blocks {
            return Ok(());
        }
        let name = self.bdev_name(namespace.nsid);
        let (old, new) = (before.num_blocks, namespace.num_blocks);
        let bdev = bdev::find::<NvmeBdev>(&name)?;
        App::here(|app| bdev.resize(app, new))??;
        info!("{name}: resized from {old} to {new} blocks");
        // The bdev keeps the length of its commands.
        let namespace = Identified { len_max: before.len_max, ..namespace };
        self.bdevs.borrow_mut().insert(namespace.nsid, namespace);
        Ok(())
    }

    async fn remove(&self, nsid: u32) {
        self.bdevs.borrow_mut().remove(&nsid);
        let Ok(bdev) = bdev::find::<NvmeBdev>(&self.bdev_name(nsid)) else { return };
        let (done, gone) = task::oneshot::channel();
        let unregister =
            App::here(|app| bdev.unregister(app, move |_, result| drop(done.send(result))));
        if unregister.is_err() {
            return;
        }
        if let Ok(Err(error)) = gone.await {
            error!("{}: {}", self.bdev_name(nsid), error.message());
        }
    }

    pub(super) async fn remove_all(&self) {
        let nsids: Vec<u32> = self.bdevs.borrow().keys().copied().collect();
        task::join_all(nsids.into_iter().map(|nsid| self.remove(nsid))).await;
    }

    /// What `bdev_get_bdevs` shows for a namespace, in the reference's format.
    fn show(&self, namespace: &Identified) -> Map<String, Value> {
        let data = self.data();
        let text = |text: Option<&str>| text.unwrap_or_default().trim().to_owned();
        let version = Version::from_bits(data.ver);
        let version = match version.tertiary {
            0 => format!("{}.{}", version.major, version.minor),
            _ => version.to_string(),
        };
        let bit = |bit: u32| data.oacs as u32 >> bit & 1;
        let shown = json!({
            "trid": self.settings.attach.trid(),
            "ctrlr_data": {
                "cntlid": self.cntlid.get(),
                "vendor_id": format!("0x{:04x}", data.vid),
                "model_number": text(data.mn.as_str()),
                "serial_number": text(data.sn.as_str()),
                "firmware_revision": text(data.fr.as_str()),
                "subnqn": text(data.subnqn.as_str()),
                "oacs": {
                    "security": bit(0),
                    "format": bit(1),
                    "firmware": bit(2),
                    "ns_manage": bit(3),
                },
                "multi_ctrlr": data.cmic & cmic::MULTI_CONTROLLER != 0,
                "ana_reporting": data.cmic & cmic::ANA != 0,
            },
            "vs": { "nvme_version": version },
            "ns_data": {
                "id": namespace.nsid,
                "can_share": namespace.data.nmic & 1 != 0,
            },
        });
        Map::from_iter([
            ("nvme".to_owned(), json!([shown])),
            ("mp_policy".to_owned(), "active_passive".into()),
        ])
    }
}
