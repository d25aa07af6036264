//! The controllers: what is configured. Everything here is on the app thread.

use crate::blk::Disk;
use crate::control::Control;
use drivebay_sdk::bdev::{self, Desc, Event};
use drivebay_sdk::runtime::resident::OnApp;
use drivebay_sdk::{App, Error, Result, Stopping, errno, tracing};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// Controllers of one host.
const CONTROLLERS_MAX: usize = 1024;
/// Longest path of a Unix socket, in bytes.
const PATH_MAX: usize = 107;

static ALL: OnApp<Controllers> = OnApp::new();

/// All of them, and the sockets.
#[derive(Debug)]
pub struct Controllers {
    by_name: RefCell<BTreeMap<String, Controller>>,
    /// Serves the sockets.
    pub control: Rc<Control>,
    stopping: RefCell<Option<Stopping>>,
}

/// One device for virtual machines.
#[derive(Clone, Debug)]
pub struct Controller {
    /// How it was made.
    pub config: ControllerConfig,
    /// `None` since the bdev went away.
    pub desc: Option<Arc<Desc>>,
    /// Names its listener.
    listener: u64,
}

/// How a controller is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerConfig {
    /// Name of the controller and of its socket.
    pub name: String,
    /// Name of the bdev.
    pub bdev: String,
    /// Whether guests may not write.
    pub readonly: bool,
    /// Whether packed rings are offered.
    pub packed_ring: bool,
    /// Cores that serve it; empty = any.
    pub cpumask: String,
    /// Least time between interrupts, in microseconds. Kept for `vhost_get_controllers`.
    pub delay_base_us: u32,
    /// Requests a second from which interrupts are delayed.
    pub iops_threshold: u32,
}

/// Makes the one value of this thread.
///
/// # Errors
/// When the system lacks descriptors.
pub fn start() -> Result<()> {
    let control = Control::start()?;
    let all = Controllers { by_name: RefCell::default(), control, stopping: RefCell::new(None) };
    ALL.get_or_init(|| all).map(drop)
}

/// The controllers. `[app thread]`
///
/// # Errors
/// When the plugin is stopping.
pub fn all() -> Result<Rc<Controllers>> {
    ALL.get().ok_or_else(|| Error::new(errno::ECANCELED, "the plugin is stopping"))
}

/// Ends every session and every listener; the host waits until the token is dropped.
pub fn stop(stopping: Stopping) {
    let Some(all) = ALL.get() else { return };
    let names: Vec<String> = all.by_name.borrow().keys().cloned().collect();
    *all.stopping.borrow_mut() = Some(stopping);
    for name in names {
        all.delete(&name, |_| all_ended());
    }
    all_ended();
}

/// Drops the token when nothing is left.
fn all_ended() {
    let Some(all) = ALL.get() else { return };
    if all.by_name.borrow().is_empty() && all.control.num_sessions() == 0 {
        let token = all.stopping.borrow_mut().take();
        drop(token);
    }
}

impl Controllers {
    /// Makes a controller, and listens.
    ///
    /// # Errors
    /// `EEXIST` when the name is taken, `ENODEV` when there is no such bdev, what the socket's path refuses.
    pub fn create(&self, app: &App, config: ControllerConfig) -> Result<()> {
        let name = config.name.clone();
        if self.by_name.borrow().contains_key(&name) {
            return Err(Error::new(errno::EEXIST, format!("controller {name}: File exists")));
        }
        if self.by_name.borrow().len() == CONTROLLERS_MAX {
            return Err(Error::new(
                errno::ENOSPC,
                format!("more than {CONTROLLERS_MAX} controllers"),
            ));
        }
        let path = socket_path(&name)?;
        let of_event = name.clone();
        let desc = bdev::open(app, &config.bdev, !config.readonly, move |_, event| {
            changed(&of_event, event);
        })?;
        let listener = self.control.listen(&name, &path)?;
        let controller = Controller { config, desc: Some(Arc::new(desc)), listener };
        self.by_name.borrow_mut().insert(name, controller);
        Ok(())
    }

    /// Takes a controller away; `done` when its sessions have ended.
    pub fn delete(&self, name: &str, done: impl FnOnce(Result<()>) + 'static) {
        let Some(controller) = self.by_name.borrow_mut().remove(name) else {
            return done(Err(no_controller(name)));
        };
        self.control.unlisten(controller.listener);
        self.control.end_sessions(name, move || {
            drop(controller);
            done(Ok(()));
        });
    }

    /// A controller by name.
    ///
    /// # Errors
    /// `ENODEV`.
    pub fn get(&self, name: &str) -> Result<Controller> {
        self.by_name.borrow().get(name).cloned().ok_or_else(|| no_controller(name))
    }

    /// All, by name.
    pub fn list(&self) -> Vec<Controller> {
        self.by_name.borrow().values().cloned().collect()
    }

    /// Changes how a controller is made.
    ///
    /// # Errors
    /// `ENODEV`.
    pub fn change(&self, name: &str, change: impl FnOnce(&mut ControllerConfig)) -> Result<()> {
        let mut all = self.by_name.borrow_mut();
        let controller = all.get_mut(name).ok_or_else(|| no_controller(name))?;
        change(&mut controller.config);
        Ok(())
    }
}

impl Controller {
    /// The disk as it is now, with its descriptor.
    ///
    /// # Errors
    /// `ENODEV` when the bdev went away.
    pub fn disk(&self) -> Result<(Disk, Arc<Desc>)> {
        let desc = self.desc.clone().ok_or_else(Error::no_such_device)?;
        let disk = Disk::new(&desc.info()?, self.config.readonly, self.config.packed_ring);
        Ok((disk, desc))
    }
}

/// Something happened to the bdev of a controller.
fn changed(name: &str, event: Event) {
    let Ok(all) = all() else { return };
    match event {
        Event::Remove => {
            tracing::warn!("vhost controller {name}: its bdev goes away, its guests get errors");
            let desc = all.by_name.borrow_mut().get_mut(name).and_then(|found| found.desc.take());
            all.control.end_sessions(name, move || drop(desc));
        }
        Event::Resize { .. } => {
            if let Ok((disk, _)) = all.get(name).and_then(|controller| controller.disk()) {
                all.control.resized(name, &disk);
            }
        }
        _ => {}
    }
}

fn no_controller(name: &str) -> Error {
    tracing::debug!("no vhost controller {name}");
    Error::no_such_device()
}

/// The socket of a controller: in the folder of `drivebay serve -S`, or the current one as the reference has it.
fn socket_path(name: &str) -> Result<PathBuf> {
    let is_plain = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
    if !is_plain || name.chars().any(char::is_control) {
        return Err(Error::invalid("ctrlr", name, "a file name"));
    }
    let folder = std::env::var_os("DRIVEBAY_SOCKET_DIR").map_or_else(PathBuf::new, PathBuf::from);
    let path = folder.join(name);
    if path.as_os_str().len() > PATH_MAX {
        let allowed = format!("a path of at most {PATH_MAX} bytes in all");
        return Err(Error::invalid("ctrlr", path.display(), allowed));
    }
    Ok(path)
}
