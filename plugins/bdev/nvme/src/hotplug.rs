//! Attaches controllers on PCIe as they appear (`bdev_nvme_set_hotplug`). An event of the kernel starts each search, so nothing is polled.
//!
//! The removal of a controller needs no search: the kernel tells the open device (`pci::Function::look_for_removal`).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use drivebay_sdk::pci::{self, Changes};
use drivebay_sdk::poller::{Poll, Poller};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::notify::Notify;
use drivebay_sdk::runtime::{task, worker};
use drivebay_sdk::thread;

use crate::app::{self, Known};
use crate::rpc::{self, Attach, SetHotplug};

/// The class code of an NVMe controller. NVMe over PCIe 1.0, section 3.8.
const NVME: u32 = 0x01_0802;
const DRIVER: &str = "vfio-pci";
/// The names of the controllers are this and a number, as in SPDK.
const NAME: &str = "HotInNvme";
/// How often to try to attach a controller, and the time between two tries. Another program may change the permissions of the IOMMU group's
/// file a moment after the kernel has created it.
const TRIES: u32 = 5;
const RETRY: Duration = Duration::from_secs(1);
/// A reactor that does not sleep checks for events this often, in ns. Each check is a system call.
const LOOK_NS: u64 = 10_000_000;
const POLLIN: u32 = 1;

/// The state of the search. `[app thread]`
#[derive(Debug)]
pub(crate) struct Hotplug {
    params: RefCell<SetHotplug>,
    /// Addresses that an operator has detached. They stay detached until a call attaches them, or the device disappears.
    left_alone: RefCell<BTreeSet<String>>,
    /// Addresses that could not be attached, with the number of tries.
    failed: RefCell<BTreeMap<String, u32>>,
    /// Number of the next name.
    next_name: Cell<u64>,
    watch: RefCell<Option<Poller>>,
    /// The search task runs.
    is_running: Cell<bool>,
    /// Something may have changed since the last search.
    is_due: Cell<bool>,
    changed: Notify,
}

impl Hotplug {
    pub(crate) fn new() -> Self {
        Self {
            params: RefCell::new(SetHotplug { enable: false, period_us: 100_000 }),
            left_alone: RefCell::default(),
            failed: RefCell::default(),
            next_name: Cell::new(0),
            watch: RefCell::default(),
            is_running: Cell::new(false),
            is_due: Cell::new(false),
            changed: Notify::new(),
        }
    }

    /// The parameters of the last call.
    pub(crate) fn params(&self) -> SetHotplug {
        self.params.borrow().clone()
    }

    /// Leaves a controller alone that an operator has detached.
    pub(crate) fn leave_alone(&self, attach: &Attach) {
        self.left_alone.borrow_mut().insert(full(&attach.traddr));
    }

    /// Forgets that an operator detached the controller, because a call attaches it.
    pub(crate) fn take_back(&self, attach: &Attach) {
        self.left_alone.borrow_mut().remove(&full(&attach.traddr));
    }

    fn is_enabled(&self) -> bool {
        self.watch.borrow().is_some()
    }

    fn search_again(&self) {
        self.is_due.set(true);
        self.changed.notify();
    }

    /// Ends the search.
    pub(crate) fn stop(&self) {
        self.watch.replace(None);
        self.search_again();
    }
}

/// Begins to attach controllers as they appear, or stops it.
///
/// # Errors
/// The kernel does not report new devices, or the plugin does not have the permission `pci`.
pub(crate) fn set(app: &Rc<Known>, params: SetHotplug) -> Result<()> {
    let hotplug = &app.hotplug;
    // The operator may have removed the reason why a controller could not be attached.
    hotplug.failed.borrow_mut().clear();
    if params.enable && !hotplug.is_enabled() {
        let changes = pci::changes()?;
        let fd = changes.fd();
        let watch = Watch { changes, look_ns: 0 };
        let poller = Poller::register("nvme_hotplug", 0, watch)?;
        poller.wake_fd(fd, POLLIN)?;
        hotplug.watch.replace(Some(poller));
        // The task of an earlier call may still be in its last search. It then goes on.
        if !hotplug.is_running.get() {
            let task = task::spawn("nvme hotplug", follow(Rc::clone(app)));
            // After an error, a later call tries again.
            task.inspect_err(|_| drop(hotplug.watch.take()))?.detach();
            hotplug.is_running.set(true);
        }
    } else if !params.enable {
        hotplug.stop();
    }
    hotplug.params.replace(params);
    hotplug.search_again();
    Ok(())
}

/// Reads the events.
struct Watch {
    changes: Changes,
    /// When to check the next time, by [`thread::now_ns`].
    look_ns: u64,
}

impl Watch {
    fn look(&self) -> bool {
        let have_come = self.changes.have_come();
        if let (true, Ok(app)) = (have_come, app::get()) {
            app.hotplug.search_again();
        }
        have_come
    }
}

impl Poll for Watch {
    const SLEEPS: bool = true;

    fn poll(&mut self) -> bool {
        let now_ns = thread::now_ns();
        if now_ns < self.look_ns {
            return false;
        }
        self.look_ns = now_ns + LOOK_NS;
        self.look()
    }

    fn prepare_sleep(&mut self) -> bool {
        self.look()
    }
}

/// Searches after each change, until the search is disabled.
async fn follow(app: Rc<Known>) {
    let hotplug = &app.hotplug;
    while hotplug.is_enabled() {
        hotplug.is_due.set(false);
        let has_more_tries = match search(&app).await {
            Ok(has_more_tries) => has_more_tries,
            Err(error) => {
                warn!("search for NVMe controllers: {}", error.message());
                true
            }
        };
        let change = hotplug.changed.until(|| hotplug.is_due.get());
        if has_more_tries {
            // The time limit is the next try.
            let _ = task::timeout(RETRY, change).await;
        } else {
            change.await;
        }
    }
    hotplug.is_running.set(false);
}

/// Attaches the controllers that are bound to vfio-pci. Returns whether to try again soon.
async fn search(app: &Rc<Known>) -> Result<bool> {
    let all = worker::run("nvme hotplug", pci::list).await??;
    let ours = all.into_iter().filter(|found| found.class == NVME && found.driver == DRIVER);
    let present: BTreeSet<String> = ours.map(|found| found.address).collect();
    let hotplug = &app.hotplug;
    hotplug.left_alone.borrow_mut().retain(|address| present.contains(address));
    hotplug.failed.borrow_mut().retain(|address, _| present.contains(address));
    let mut has_more_tries = false;
    for address in present {
        if !hotplug.is_enabled() {
            return Ok(false);
        }
        let tries = hotplug.failed.borrow().get(&address).copied().unwrap_or(0);
        let is_left_alone = hotplug.left_alone.borrow().contains(&address);
        if is_left_alone || tries >= TRIES || is_attached(app, &address) {
            continue;
        }
        // An operator may have given such a name to another controller. Without a check, this one would become its second path.
        let number = (hotplug.next_name.get()..u64::MAX)
            .find(|number| app.find(&format!("{NAME}{number}")).is_none());
        let number = number.unwrap_or(u64::MAX);
        let name = format!("{NAME}{number}");
        match rpc::attach_path(app, Attach::pcie(name.clone(), address.clone())?, true).await {
            Ok(controller) => {
                hotplug.failed.borrow_mut().remove(&address);
                hotplug.next_name.set(number.saturating_add(1));
                let bdevs = controller.group.bdev_names().join(" ");
                info!("{address} has appeared and is {name}: {bdevs}");
            }
            Err(error) => {
                warn!("{address} has appeared and cannot be attached: {}", error.message());
                hotplug.failed.borrow_mut().insert(address, tries + 1);
                has_more_tries |= tries + 1 < TRIES;
            }
        }
    }
    Ok(has_more_tries)
}

fn is_attached(app: &Known, address: &str) -> bool {
    let groups = app.groups.borrow();
    let mut members = groups.values().flat_map(|group| group.members());
    members.any(|controller| {
        controller.is_pci() && full(&controller.settings.attach.traddr) == address
    })
}

/// Whether the machine has no device at a PCI address. It needs no descriptor, so a process that has none left does not take every device
/// for absent.
pub(crate) fn is_absent(address: &str) -> bool {
    let device = Path::new("/sys/bus/pci/devices").join(full(address));
    device.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// A PCI address as the host lists it. An operator may leave out the domain and leading zeros, and write dots for colons.
fn full(address: &str) -> String {
    let parts = address.split([':', '.']).map(|part| u32::from_str_radix(part, 16));
    let parts: Result<Vec<u32>, _> = parts.collect();
    let (domain, rest) = match parts.as_deref() {
        Ok([domain, rest @ ..]) if rest.len() == 3 => (*domain, rest),
        Ok(rest) => (0, rest),
        Err(_) => return address.to_owned(),
    };
    match rest {
        [bus, device, function] => format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}"),
        _ => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{full, is_absent};

    #[test]
    fn a_device_that_the_machine_does_not_have_is_absent() {
        assert!(is_absent("ffffffff:ff:1f.7"));
        for device in std::fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().flatten() {
            assert!(!is_absent(&device.file_name().to_string_lossy()));
        }
    }

    #[test]
    fn ways_to_write_an_address_are_equal() {
        assert_eq!(full("0.5e.0.0"), "0000:5e:00.0");
        assert_eq!(full("5E.00.0"), "0000:5e:00.0");
        assert_eq!(full("no address"), "no address");
        assert_eq!(full("5E:00.0"), "0000:5e:00.0");
        assert_eq!(full("0000:5e:00.0"), "0000:5e:00.0");
        assert_eq!(full("10000:01:00.0"), "10000:01:00.0");
    }
}
