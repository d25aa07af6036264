//! The state of the plugin, on the app thread.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::OnApp;
use drivebay_sdk::runtime::lock::Locks;
use drivebay_sdk::runtime::task;

use crate::controller::Controller;
use crate::rpc::SetHotplug;

static APP: OnApp<Known> = OnApp::new();

/// The state of the plugin.
pub(crate) struct Known {
    /// The controllers, by name.
    pub(crate) controllers: RefCell<BTreeMap<String, Rc<Controller>>>,
    /// Allow one call at a time for each name.
    pub(crate) locks: Locks,
    pub(crate) hotplug: RefCell<SetHotplug>,
}

/// Creates the state of the plugin. `[app thread]`
pub(crate) fn init() -> Result<()> {
    APP.get_or_init(|| Known {
        controllers: RefCell::default(),
        locks: Locks::new(),
        hotplug: RefCell::new(SetHotplug { enable: false, period_us: 0 }),
    })
    .map(drop)
}

/// Returns the state of the plugin. `[app thread]`
pub(crate) fn get() -> Result<Rc<Known>> {
    APP.get().ok_or_else(|| Error::new(errno::EPERM, "not on the app thread"))
}

impl Known {
    /// Finds a controller by name.
    pub(crate) fn find(&self, name: &str) -> Option<Rc<Controller>> {
        self.controllers.borrow().get(name).cloned()
    }

    /// Detaches all controllers. `[app thread]`
    pub(crate) async fn detach_all(&self) {
        let all = std::mem::take(&mut *self.controllers.borrow_mut());
        task::join_all(all.values().map(|controller| controller.detach())).await;
    }
}
