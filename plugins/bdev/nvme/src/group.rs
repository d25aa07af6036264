//! Controllers that share a name: the paths to one subsystem, and the bdevs of its namespaces. `[app thread]`

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use drivebay_nvme_driver::spec::identify::cmic;
use drivebay_nvme_driver::spec::property::Version;
use drivebay_sdk::bdev;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::{Map, Value, json};

use crate::bdev::{Identified, NvmeBdev, Shared};
use crate::controller::{Controller, Found};
use crate::options::{Policy, Selector};
use crate::path::Path;
use crate::paths::{Paths, Spread};

/// The controllers of one name.
#[derive(Default)]
pub(crate) struct Group {
    pub(crate) name: String,
    members: RefCell<Vec<Rc<Controller>>>,
    /// The bdevs, by namespace identifier.
    disks: RefCell<BTreeMap<u32, Disk>>,
}

/// A namespace that is a bdev, and the controllers that have it.
#[derive(Clone)]
struct Disk {
    namespace: Identified,
    paths: Arc<Paths>,
}

impl Group {
    pub(crate) fn new(name: String) -> Rc<Self> {
        Rc::new(Self { name, ..Self::default() })
    }

    pub(crate) fn members(&self) -> Vec<Rc<Controller>> {
        self.members.borrow().clone()
    }

    /// Names of the bdevs.
    pub(crate) fn bdev_names(&self) -> Vec<String> {
        self.disks.borrow().keys().map(|nsid| self.bdev_name(*nsid)).collect()
    }

    fn bdev_name(&self, nsid: u32) -> String {
        format!("{}n{nsid}", self.name)
    }

    /// Why this namespace cannot serve the bdev that has its identifier; `None` when it can, or when there is no such bdev.
    pub(crate) fn differs(&self, namespace: &Identified) -> Option<String> {
        let disks = self.disks.borrow();
        namespace.differs_from(&disks.get(&namespace.nsid)?.namespace)
    }

    /// Checks that a connected controller may become another path.
    ///
    /// # Errors
    /// `EINVAL` when it is a controller of the group already, or does not share its subsystem.
    pub(crate) fn check(&self, controller: &Controller) -> Result<()> {
        let cntlid = controller.cntlid.get();
        for other in self.members.borrow().iter() {
            if other.is_pci() != controller.is_pci() {
                let why = "the paths of a subsystem are all on PCIe, or none of them is";
                return Err(Error::new(errno::EINVAL, why));
            }
            // The target may have given this controller the identifier that a disconnected one had.
            if other.admin().is_some() && other.cntlid.get() == cntlid {
                let why = format!("controller identifier {cntlid} is in use on another path");
                return Err(Error::new(errno::EINVAL, why));
            }
            let shares = |one: &Controller| one.data().cmic & cmic::MULTI_CONTROLLER != 0;
            if !shares(controller) || !shares(other) {
                let why = "the subsystem does not support multipath: it has one controller only";
                return Err(Error::new(errno::EINVAL, why));
            }
        }
        Ok(())
    }

    /// Takes in a controller.
    pub(crate) fn join(&self, controller: &Rc<Controller>) {
        self.members.borrow_mut().push(Rc::clone(controller));
    }

    /// Removes a controller, and the bdevs that have no other path.
    pub(crate) async fn leave(&self, controller: &Controller) {
        self.members.borrow_mut().retain(|other| !std::ptr::eq(&**other, controller));
        let nsids: Vec<u32> = self.disks.borrow().keys().copied().collect();
        task::join_all(nsids.into_iter().map(|nsid| self.remove_path(nsid, &controller.path)))
            .await;
    }

    /// Makes, resizes and removes bdevs, and adds and removes their paths, so that they match the namespaces that a controller has.
    pub(crate) async fn converge(&self, controller: &Controller, found: Found) {
        let path = &controller.path;
        let gone: Vec<u32> = {
            let disks = self.disks.borrow();
            let gone = disks
                .iter()
                .filter(|(nsid, disk)| !found.contains_key(nsid) && disk.paths.has(path));
            gone.map(|(nsid, _)| *nsid).collect()
        };
        for nsid in gone {
            info!("{}: namespace {nsid} is gone", self.name);
            self.remove_path(nsid, path).await;
        }
        for namespace in found.into_values().flatten() {
            let disk = self.disks.borrow().get(&namespace.nsid).cloned();
            let result = match disk {
                None => self.publish(controller, namespace),
                Some(disk) if namespace.differs_from(&disk.namespace).is_none() => {
                    disk.paths.add(path).and_then(|()| self.resize(disk, namespace))
                }
                // The log already says why the controller does not use the namespace.
                Some(_) => Ok(()),
            };
            if let Err(error) = result {
                error!("{}: {}", self.name, error.message());
            }
        }
    }

    fn publish(&self, controller: &Controller, namespace: Identified) -> Result<()> {
        let nsid = namespace.nsid;
        let max = controller.settings.attach.max_bdevs;
        if self.disks.borrow().len() >= max as usize {
            let why =
                format!("namespace {nsid} is left out: max_bdevs = {max} bdevs exist already");
            return Err(Error::new(errno::ENOSPC, why));
        }
        let name = self.bdev_name(nsid);
        let paths = Paths::new(Arc::clone(&controller.path), controller.settings.spread);
        let shared = Shared {
            paths: Arc::clone(&paths),
            controller: controller.data(),
            retry_count: controller.settings.retry_count,
            enable_flush: controller.settings.enable_flush,
            timeout: controller.settings.timeouts.io,
            is_pci: controller.is_pci(),
            counts_paths: controller.settings.counts_paths,
        };
        let disk = || NvmeBdev::new(name.clone(), namespace.clone(), shared.clone());
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
        self.disks.borrow_mut().insert(nsid, Disk { namespace, paths });
        Ok(())
    }

    fn resize(&self, disk: Disk, namespace: Identified) -> Result<()> {
        let (old, new) = (disk.namespace.num_blocks, namespace.num_blocks);
        if old == new {
            return Ok(());
        }
        let name = self.bdev_name(namespace.nsid);
        let bdev = bdev::find::<NvmeBdev>(&name)?;
        App::here(|app| bdev.resize(app, new))??;
        info!("{name}: resized from {old} to {new} blocks");
        // The bdev keeps its limit for the length of commands.
        let namespace = Identified { len_max: disk.namespace.len_max, ..namespace };
        self.disks.borrow_mut().insert(namespace.nsid, Disk { namespace, ..disk });
        Ok(())
    }

    /// Removes a path of a bdev, or the bdev with its last path.
    async fn remove_path(&self, nsid: u32, path: &Arc<Path>) {
        let Some(disk) = self.disks.borrow().get(&nsid).cloned() else { return };
        let (_, listed) = disk.paths.listed();
        if listed.paths.iter().any(|other| !Arc::ptr_eq(other, path)) {
            return disk.paths.remove(path);
        }
        self.disks.borrow_mut().remove(&nsid);
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

    /// The name of the bdev that has these paths.
    pub(crate) fn bdev_with(&self, paths: &Arc<Paths>) -> Option<String> {
        let disks = self.disks.borrow();
        let (nsid, _) = disks.iter().find(|(_, disk)| Arc::ptr_eq(&disk.paths, paths))?;
        Some(self.bdev_name(*nsid))
    }

    /// The paths of a bdev.
    pub(crate) fn paths(&self, bdev_name: &str) -> Option<Arc<Paths>> {
        let disks = self.disks.borrow();
        let mut all = disks.iter();
        let (_, disk) = all.find(|(nsid, _)| self.bdev_name(**nsid) == bdev_name)?;
        Some(Arc::clone(&disk.paths))
    }

    /// What `bdev_get_bdevs` shows for a bdev, in the reference's format.
    pub(crate) fn show_bdev(&self, bdev_name: &str) -> Option<Map<String, Value>> {
        let disks = self.disks.borrow();
        let mut all = disks.iter();
        let (_, disk) = all.find(|(nsid, _)| self.bdev_name(**nsid) == bdev_name)?;
        let (_, listed) = disk.paths.listed();
        let members = self.members.borrow();
        let controllers = listed.paths.iter().filter_map(|path| {
            members.iter().find(|controller| Arc::ptr_eq(&controller.path, path))
        });
        let shown: Vec<Value> =
            controllers.map(|controller| show_path(controller, &disk.namespace)).collect();
        Some(show_spread(listed.spread, shown))
    }
}

fn show_spread(spread: Spread, paths: Vec<Value>) -> Map<String, Value> {
    let Spread { policy, selector, min_io, .. } = spread;
    let mut shown = Map::new();
    shown.insert("nvme".to_owned(), paths.into());
    shown.insert("mp_policy".to_owned(), policy.as_str().into());
    if policy == Policy::ActiveActive {
        shown.insert("selector".to_owned(), selector.as_str().into());
        if selector == Selector::RoundRobin {
            shown.insert("rr_min_io".to_owned(), min_io.into());
        }
    }
    shown
}

/// One path of a bdev.
fn show_path(controller: &Controller, namespace: &Identified) -> Value {
    let data = controller.data();
    let text = |text: Option<&str>| text.unwrap_or_default().trim().to_owned();
    let version = Version::from_bits(data.ver);
    let version = match version.tertiary {
        0 => format!("{}.{}", version.major, version.minor),
        _ => version.to_string(),
    };
    let bit = |bit: u32| data.oacs as u32 >> bit & 1;
    let mut ns_data = Map::new();
    ns_data.insert("id".to_owned(), namespace.nsid.into());
    if let Some(state) = controller.ana_state(namespace.nsid) {
        ns_data.insert("ana_state".to_owned(), state.into());
    }
    ns_data.insert("can_share".to_owned(), (namespace.data.nmic & 1 != 0).into());
    json!({
        "trid": controller.trids.current().attach.trid(),
        "ctrlr_data": {
            "cntlid": controller.cntlid.get(),
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
        "ns_data": ns_data,
    })
}
