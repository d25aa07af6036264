//! The controllers: the configuration of the plugin. Everything here runs on the app thread.

use crate::blk::{self, Disk};
use crate::control::Control;
use crate::device::Service;
use crate::pace::Coalescing;
use crate::personality::Personality;
use crate::scsi::{self, TARGETS_MAX, TargetDisk};
use drivebay_sdk::bdev::{self, Desc, Event};
use drivebay_sdk::runtime::resident::OnApp;
use drivebay_sdk::{App, Error, Result, Stopping, errno, tracing};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// Maximum number of controllers of one host.
const CONTROLLERS_MAX: usize = 1024;
/// Longest path of a Unix socket, in bytes.
const PATH_MAX: usize = 107;

static ALL: OnApp<Controllers> = OnApp::new();

/// All controllers, and their sockets.
#[derive(Debug)]
pub struct Controllers {
    by_name: RefCell<BTreeMap<String, Controller>>,
    /// Serves the sockets.
    pub control: Rc<Control>,
    stopping: RefCell<Option<Stopping>>,
}

/// A controller: one device for virtual machines.
#[derive(Clone, Debug)]
pub struct Controller {
    /// Its configuration.
    pub config: ControllerConfig,
    /// The bdevs behind it.
    pub backing: Backing,
    /// The path of its socket.
    pub path: PathBuf,
    /// The key of its listener; `None` until the controller is started.
    listener: Option<u64>,
}

/// The configuration that controllers of all kinds have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerConfig {
    /// Name of the controller and of its socket.
    pub name: String,
    /// The cores that serve it; empty = any.
    pub cpumask: String,
    /// How interrupts are delayed.
    pub coalescing: Coalescing,
}

/// The bdevs behind a controller.
#[derive(Clone, Debug)]
pub enum Backing {
    /// One bdev as a block device.
    Blk(Blk),
    /// SCSI targets.
    Scsi(BTreeMap<u8, Target>),
}

/// The bdev of a block device.
#[derive(Clone, Debug)]
pub struct Blk {
    /// Its configuration.
    pub config: BlkConfig,
    /// `None` after the bdev went away.
    pub desc: Option<Arc<Desc>>,
}

/// The configuration of a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlkConfig {
    /// Name of the bdev.
    pub bdev: String,
    /// Whether guests may only read.
    pub readonly: bool,
    /// Whether the device offers packed rings.
    pub packed_ring: bool,
}

/// A SCSI target.
#[derive(Clone, Debug)]
pub struct Target {
    /// Name of the bdev.
    pub bdev: String,
    /// `None` while the target is being removed.
    desc: Option<Arc<Desc>>,
}

impl Target {
    /// Whether it is being removed. Then it waits for the commands of guests.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.desc.is_none()
    }
}

/// Creates the plugin's controllers, of which there are none yet. `[app thread]`
///
/// # Errors
/// When the system is out of descriptors.
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

/// Ends every session and every listener, then drops `stopping`, for which the host waits. `[app thread]`
pub fn stop(stopping: Stopping) {
    let Some(all) = ALL.get() else { return };
    let names: Vec<String> = all.by_name.borrow().keys().cloned().collect();
    *all.stopping.borrow_mut() = Some(stopping);
    for name in names {
        all.delete(&name, |_| all_ended());
    }
    all_ended();
}

/// Drops the token of [`stop`] when there are no controllers and no sessions left.
fn all_ended() {
    let Some(all) = ALL.get() else { return };
    if all.by_name.borrow().is_empty() && all.control.num_sessions() == 0 {
        let token = all.stopping.borrow_mut().take();
        drop(token);
    }
}

impl Controllers {
    /// Creates a block device, and listens.
    ///
    /// # Errors
    /// `EEXIST` when the name is taken, `ENODEV` when there is no such bdev, or the error of binding the socket.
    pub fn create_blk(&self, app: &App, config: ControllerConfig, blk: BlkConfig) -> Result<()> {
        let name = config.name.clone();
        let path = self.path_of_new(&name)?;
        let of_event = name.clone();
        let (desc, _) = bdev::open_export(app, &blk.bdev, !blk.readonly, move |_, event| {
            changed(&of_event, event);
        })?;
        let listener = Some(self.control.listen(&name, &path)?);
        let backing = Backing::Blk(Blk { config: blk, desc: Some(Arc::new(desc)) });
        let controller = Controller { config, backing, path, listener };
        self.by_name.borrow_mut().insert(name, controller);
        Ok(())
    }

    /// Creates a SCSI controller without targets, and listens unless `delayed` is true.
    ///
    /// # Errors
    /// `EEXIST` when the name is taken, or the error of binding the socket.
    pub fn create_scsi(&self, config: ControllerConfig, delayed: bool) -> Result<()> {
        let name = config.name.clone();
        let path = self.path_of_new(&name)?;
        let listener = if delayed { None } else { Some(self.control.listen(&name, &path)?) };
        let backing = Backing::Scsi(BTreeMap::new());
        let controller = Controller { config, backing, path, listener };
        self.by_name.borrow_mut().insert(name, controller);
        Ok(())
    }

    /// Starts a SCSI controller that was created with a delay. Does nothing if it listens already, as in the reference.
    ///
    /// # Errors
    /// `ENODEV`, `EINVAL` for a block device, or the error of binding the socket.
    pub fn start_scsi(&self, name: &str) -> Result<()> {
        let mut all = self.by_name.borrow_mut();
        let controller = all.get_mut(name).ok_or_else(|| no_controller(name))?;
        controller.targets_mut()?;
        if controller.listener.is_none() {
            controller.listener = Some(self.control.listen(name, &controller.path)?);
        }
        Ok(())
    }

    /// Adds a target, reports it to the guests, and returns its number.
    ///
    /// # Errors
    /// `ENODEV` without the controller or bdev, `EINVAL` for a wrong number or a block device, `EEXIST` when the number is
    /// taken, `ENOSPC` when all numbers are taken.
    pub fn add_target(&self, app: &App, name: &str, number: i32, bdev: &str) -> Result<u8> {
        let number = self.free_number(name, number)?;
        let of_event = name.to_owned();
        let (desc, info) = bdev::open_export(app, bdev, true, move |_, event| {
            target_changed(&of_event, number, event);
        })?;
        let desc = Arc::new(desc);
        let disk = TargetDisk { number, disk: (&info).into(), desc: Arc::clone(&desc) };
        if let Some(controller) = self.by_name.borrow_mut().get_mut(name) {
            let target = Target { bdev: bdev.to_owned(), desc: Some(desc) };
            controller.targets_mut()?.insert(number, target);
        }
        self.control.for_each_device(name, move |device| {
            if let Service::Scsi(scsi) = device.service() {
                scsi.add(disk.clone());
            }
        });
        Ok(number)
    }

    /// Checks the number of a new target. A negative number means the first free one.
    fn free_number(&self, name: &str, number: i32) -> Result<u8> {
        let mut all = self.by_name.borrow_mut();
        let targets = all.get_mut(name).ok_or_else(|| no_controller(name))?.targets_mut()?;
        if number < 0 {
            let free = (0..TARGETS_MAX).find(|number| !targets.contains_key(number));
            let full =
                || Error::new(errno::ENOSPC, format!("all {TARGETS_MAX} targets are in use"));
            return free.ok_or_else(full);
        }
        let given = u8::try_from(number).ok().filter(|number| *number < TARGETS_MAX);
        let allowed = format!("a number below {TARGETS_MAX}, or -1 for the first free one");
        let given = given.ok_or_else(|| Error::invalid("scsi_target_num", number, allowed))?;
        if targets.contains_key(&given) {
            return Err(Error::new(errno::EEXIST, format!("target {given} is in use")));
        }
        Ok(given)
    }

    /// Removes a target. Reports it to the guests, and calls `done` when their commands have ended.
    pub fn remove_target(&self, name: &str, number: u32, done: impl FnOnce(Result<()>) + 'static) {
        match self.begin_removal(name, number) {
            Ok((number, desc)) => self.finish_removal(name, number, desc, done),
            Err(error) => done(Err(error)),
        }
    }

    fn begin_removal(&self, name: &str, number: u32) -> Result<(u8, Arc<Desc>)> {
        let mut all = self.by_name.borrow_mut();
        let targets = all.get_mut(name).ok_or_else(|| no_controller(name))?.targets_mut()?;
        let given = u8::try_from(number).ok().filter(|number| *number < TARGETS_MAX);
        let allowed = format!("a number below {TARGETS_MAX}");
        let given = given.ok_or_else(|| Error::invalid("scsi_target_num", number, allowed))?;
        // The reference answers EBUSY for a missing target, too.
        let busy = || {
            Error::new(errno::EBUSY, format!("target {given} does not exist, or is being removed"))
        };
        let desc =
            targets.get_mut(&given).and_then(|target| target.desc.take()).ok_or_else(busy)?;
        Ok((given, desc))
    }

    /// Removes a target from every session, then closes its bdev.
    fn finish_removal(
        &self,
        name: &str,
        number: u8,
        desc: Arc<Desc>,
        done: impl FnOnce(Result<()>) + 'static,
    ) {
        let name_then = name.to_owned();
        self.control.remove_target(name, number, move || {
            if let Ok(all) = all()
                && let Some(controller) = all.by_name.borrow_mut().get_mut(&name_then)
                && let Ok(targets) = controller.targets_mut()
                && targets.get(&number).is_some_and(Target::is_leaving)
            {
                targets.remove(&number);
            }
            drop(desc);
            done(Ok(()));
        });
    }

    /// The path of the socket of a new controller.
    fn path_of_new(&self, name: &str) -> Result<PathBuf> {
        // The sessions of a controller that is being deleted still use the name.
        if self.by_name.borrow().contains_key(name) || self.control.has_sessions(name) {
            return Err(Error::new(errno::EEXIST, format!("controller {name}: File exists")));
        }
        if self.by_name.borrow().len() == CONTROLLERS_MAX {
            return Err(Error::new(
                errno::ENOSPC,
                format!("more than {CONTROLLERS_MAX} controllers"),
            ));
        }
        socket_path(name)
    }

    /// Deletes a controller, and calls `done` when its sessions have ended.
    pub fn delete(&self, name: &str, done: impl FnOnce(Result<()>) + 'static) {
        let Some(controller) = self.by_name.borrow_mut().remove(name) else {
            return done(Err(no_controller(name)));
        };
        if let Some(listener) = controller.listener {
            self.control.unlisten(listener);
        }
        self.control.end_sessions(name, move || {
            drop(controller);
            done(Ok(()));
        });
    }

    /// Returns the controller with this name.
    ///
    /// # Errors
    /// `ENODEV`.
    pub fn get(&self, name: &str) -> Result<Controller> {
        self.by_name.borrow().get(name).cloned().ok_or_else(|| no_controller(name))
    }

    /// Returns all controllers, by name.
    pub fn list(&self) -> Vec<Controller> {
        self.by_name.borrow().values().cloned().collect()
    }

    /// Sets how the interrupts of a controller are delayed.
    ///
    /// # Errors
    /// `ENODEV`.
    pub fn set_coalescing(&self, name: &str, coalescing: Coalescing) -> Result<()> {
        let mut all = self.by_name.borrow_mut();
        let controller = all.get_mut(name).ok_or_else(|| no_controller(name))?;
        controller.config.coalescing = coalescing;
        drop(all);
        self.control.for_each_device(name, move |device| device.set_coalescing(coalescing));
        Ok(())
    }
}

impl Controller {
    /// What the device presents to a VMM now.
    ///
    /// # Errors
    /// `ENODEV` when the bdev of a block device went away.
    pub fn personality(&self) -> Result<Personality> {
        match &self.backing {
            Backing::Blk(blk) => Ok(Personality::Blk(blk.disk()?.0)),
            Backing::Scsi(_) => Ok(Personality::Scsi),
        }
    }

    /// Whether guests can connect.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.listener.is_some()
    }

    /// Returns a function that creates the service of a new session, on the session's thread.
    ///
    /// # Errors
    /// As [`personality`](Self::personality).
    pub fn service(&self) -> Result<impl FnOnce() -> Service + Send + 'static + use<>> {
        let (blk, targets) = match &self.backing {
            Backing::Blk(blk) => (Some(blk.disk()?), Vec::new()),
            Backing::Scsi(targets) => (None, present(targets)?),
        };
        Ok(move || match blk {
            Some((disk, desc)) => Service::Blk(blk::Service::new(desc, disk)),
            None => Service::Scsi(scsi::Service::new(targets)),
        })
    }

    fn targets_mut(&mut self) -> Result<&mut BTreeMap<u8, Target>> {
        match &mut self.backing {
            Backing::Scsi(targets) => Ok(targets),
            Backing::Blk(_) => Err(Error::invalid("ctrlr", &self.config.name, "a SCSI controller")),
        }
    }
}

/// The targets that are not being removed.
fn present(targets: &BTreeMap<u8, Target>) -> Result<Vec<TargetDisk>> {
    let present =
        targets.iter().filter_map(|(&number, target)| Some((number, target.desc.clone()?)));
    present
        .map(|(number, desc)| Ok(TargetDisk { number, disk: (&desc.info()?).into(), desc }))
        .collect()
}

impl Blk {
    /// The disk as it is now, and its descriptor.
    fn disk(&self) -> Result<(Disk, Arc<Desc>)> {
        let desc = self.desc.clone().ok_or_else(Error::no_such_device)?;
        let disk = Disk::new(&desc.info()?, self.config.readonly, self.config.packed_ring);
        Ok((disk, desc))
    }
}

/// Handles an event of the bdev of a block device.
fn changed(name: &str, event: Event) {
    let Ok(all) = all() else { return };
    match event {
        Event::Remove => {
            tracing::warn!(
                "vhost controller {name}: its bdev is being removed, and its guests get errors"
            );
            let desc = match all.by_name.borrow_mut().get_mut(name).map(|found| &mut found.backing)
            {
                Some(Backing::Blk(blk)) => blk.desc.take(),
                _ => None,
            };
            all.control.end_sessions(name, move || drop(desc));
        }
        Event::Resize { .. } => {
            if let Ok(Personality::Blk(disk)) = all.get(name).and_then(|found| found.personality())
            {
                all.control.resized(name, &disk);
            }
        }
        _ => {}
    }
}

/// Handles an event of the bdev of a target.
fn target_changed(name: &str, number: u8, event: Event) {
    let Ok(all) = all() else { return };
    match event {
        Event::Remove => {
            tracing::warn!("vhost controller {name}: the bdev of target {number} is being removed");
            all.remove_target(name, number.into(), |_| {}); // fails only if the target is already being removed
        }
        Event::Resize { num_blocks, .. } => {
            all.control.for_each_device(name, move |device| {
                if let Service::Scsi(scsi) = device.service() {
                    scsi.resize(number, num_blocks);
                }
            });
        }
        _ => {}
    }
}

fn no_controller(name: &str) -> Error {
    tracing::debug!("no vhost controller {name}");
    Error::no_such_device()
}

/// The path of a controller's socket: in the folder of `drivebay serve -S`, or in the current folder, as in the reference.
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
