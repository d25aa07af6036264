//! The state of the plugin, on the app thread.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use drivebay_nvme_driver::spec::nqn;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::OnApp;
use drivebay_sdk::runtime::lock::Locks;
use drivebay_sdk::runtime::notify::Notify;
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::{Map, Value};

use crate::admin::Admin;
use crate::controller::Controller;
use crate::discovery::Discovery;
use crate::group::Group;
use crate::hotplug::Hotplug;
use crate::options::SetOptions;
use crate::pci::Function;

static APP: OnApp<Known> = OnApp::new();

/// The state of the plugin.
pub(crate) struct Known {
    pub(crate) options: RefCell<SetOptions>,
    pub(crate) hotplug: Hotplug,
    /// The controllers, by name.
    pub(crate) groups: RefCell<BTreeMap<String, Rc<Group>>>,
    /// The discovery services that are followed, by name.
    pub(crate) discoveries: RefCell<BTreeMap<String, Rc<Discovery>>>,
    /// The admin queues of controllers on PCIe, by the number of the function.
    admins: RefCell<BTreeMap<u64, Weak<Admin>>>,
    /// One call at a time for each name.
    pub(crate) locks: Locks,
    /// Notified when a controller was attached or has ended.
    pub(crate) ended: Notify,
    /// NQN of this host, for calls that give none.
    pub(crate) hostnqn: String,
    host_id: [u8; 16],
}

/// Makes the plugin's state. `[app thread]`
pub(crate) fn init() -> Result<()> {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    let uuid = uuid.trim();
    let host_id = uuid.parse::<Uuid>()?.0;
    let options = SetOptions::new()?;
    APP.get_or_init(|| Known {
        options: RefCell::new(options),
        hotplug: Hotplug::new(),
        groups: RefCell::default(),
        discoveries: RefCell::default(),
        admins: RefCell::default(),
        locks: Locks::new(),
        ended: Notify::new(),
        hostnqn: format!("{}{uuid}", nqn::UUID_PREFIX),
        host_id,
    })
    .map(drop)
}

/// The plugin's state. `[app thread]`
pub(crate) fn get() -> Result<Rc<Known>> {
    APP.get().ok_or_else(|| Error::new(errno::EPERM, "not on the app thread"))
}

impl Known {
    /// The controllers with that name.
    pub(crate) fn find(&self, name: &str) -> Option<Rc<Group>> {
        self.groups.borrow().get(name).cloned()
    }

    /// The first controller with that name.
    pub(crate) fn find_controller(&self, name: &str) -> Option<Rc<Controller>> {
        self.find(name)?.members().into_iter().next()
    }

    /// The controllers of a bdev.
    pub(crate) fn with_bdev(&self, bdev_name: &str) -> Option<Rc<Group>> {
        let groups = self.groups.borrow();
        groups.values().find(|group| group.paths(bdev_name).is_some()).cloned()
    }

    /// What `bdev_get_bdevs` shows for a bdev.
    pub(crate) fn show_bdev(&self, bdev_name: &str) -> Option<Map<String, Value>> {
        self.with_bdev(bdev_name)?.show_bdev(bdev_name)
    }

    /// The host identifier for a host NQN: the UUID in the NQN, or else this process's own.
    pub(crate) fn host_id(&self, hostnqn: &str) -> [u8; 16] {
        let uuid = hostnqn.strip_prefix(nqn::UUID_PREFIX).and_then(|uuid| uuid.parse().ok());
        uuid.map_or(self.host_id, |uuid: Uuid| uuid.0)
    }

    /// Records the admin queue that creates and deletes the I/O queues of a PCI function.
    pub(crate) fn remember_admin(&self, function: &Function, admin: &Rc<Admin>) {
        let mut admins = self.admins.borrow_mut();
        admins.retain(|_, admin| admin.strong_count() > 0);
        admins.insert(function.number, Rc::downgrade(admin));
    }

    /// The admin queue of a function, while it is connected.
    pub(crate) fn admin_of(&self, function: &Function) -> Option<Rc<Admin>> {
        self.admins.borrow().get(&function.number)?.upgrade()
    }

    /// Keeps a controller until it ends.
    pub(crate) fn follow(self: &Rc<Self>, controller: Rc<Controller>) -> Result<()> {
        let group = Rc::clone(&controller.group);
        self.groups.borrow_mut().insert(group.name.clone(), Rc::clone(&group));
        let app = Rc::clone(self);
        let name = format!("nvme {}", group.name);
        let ended = move || {
            if group.members().is_empty() {
                app.groups.borrow_mut().remove(&group.name);
            }
            app.ended.notify();
        };
        let task = task::spawn(name, controller.follow(ended)).map(task::JoinHandle::detach);
        self.ended.notify();
        task
    }

    /// Stops the search for new controllers and all discovery services, and detaches all controllers. `[app thread]`
    pub(crate) async fn detach_all(&self) {
        self.hotplug.stop();
        let discoveries = std::mem::take(&mut *self.discoveries.borrow_mut());
        for discovery in discoveries.values() {
            discovery.stop().await;
        }
        // An attach that has already begun may add a controller meanwhile, which must not stay.
        self.ended
            .until(|| {
                let groups = self.groups.borrow();
                let members = groups.values().flat_map(|group| group.members());
                members.for_each(|controller| controller.detach());
                groups.is_empty()
            })
            .await;
    }
}
