//! The app thread's part: the configuration, the listening sockets, and connections until their login ends.

mod doors;
mod reservations;
mod unit;
mod waits;

use crate::group::{ConnectionInfo, Group, Stored};
use crate::login::Registry;
use crate::model::Lun;
use crate::model::Model;
use crate::node::histogram::Histogram;
pub use doors::GuestInfo;
use doors::{Doors, Move};
use drivebay_scsi::{Change, Port, Settled, TaskKey};
use drivebay_sdk::bdev::{Desc, Event};
use drivebay_sdk::poller::{Poll, Poller};
use drivebay_sdk::runtime::Resident;
use drivebay_sdk::{App, Error, Result, errno, thread};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use unit::{Files, Unit};
use waits::Waits;

/// `POLLIN` of poll(2).
const POLLIN: u32 = 1;

static APP: OnceLock<Resident<Iscsi>> = OnceLock::new();

/// The app thread's state.
#[derive(Debug)]
pub struct Iscsi {
    /// The configuration.
    pub model: RefCell<Model>,
    registry: RefCell<Registry>,
    units: RefCell<BTreeMap<(String, u16), Unit>>,
    files: Files,
    /// The poll groups, one for each core. `None` = the group could not be created; the log has the reason.
    groups: RefCell<Vec<Resident<Option<Group>>>>,
    /// The group of each target, until nothing is left of the target.
    homes: RefCell<BTreeMap<String, usize>>,
    doors: RefCell<Doors>,
    waits: Waits,
    poller: RefCell<Option<Poller>>,
}

/// The app thread's state; `None` on other threads.
#[must_use]
pub fn app() -> Option<Rc<Iscsi>> {
    APP.get().and_then(Resident::here)
}

/// Reports that a connection of a session has ended. `[any thread]`
pub fn connection_gone(tsih: u16, cid: u16) {
    if let Some(app) = APP.get() {
        app.send(move |app| app.registry.borrow_mut().leave(tsih, cid));
    }
}

/// Asks the app thread to confirm a change of reservations. `desc`: the bdev of the unit that changed. `[any thread]`
pub fn settle(target: &str, desc: Arc<Desc>, key: TaskKey, change: Change) {
    let target = target.to_owned();
    if let Some(app) = APP.get() {
        app.send(move |app| app.settle(target, desc, key, &change));
    }
}

impl Iscsi {
    /// Creates the app thread's state and starts its poller. `[app thread]`
    ///
    /// # Errors
    /// The system's or the host's refusals.
    pub fn start() -> Result<()> {
        let doors = Doors::new()?;
        let fd = doors.wake_fd();
        let resident = Resident::new(thread::app(), || Self {
            model: RefCell::default(),
            registry: RefCell::default(),
            units: RefCell::default(),
            files: Files::default(),
            groups: RefCell::default(),
            homes: RefCell::default(),
            doors: RefCell::new(doors),
            waits: Waits::default(),
            poller: RefCell::default(),
        })?;
        let app = APP.get_or_init(|| resident).here();
        let app = app.ok_or_else(|| Error::new(errno::EPERM, "it starts on the app thread"))?;
        let poller = Poller::register("iscsi_acceptor", 0, Round(Rc::clone(&app)))?;
        poller.wake_fd(fd, POLLIN)?;
        *app.poller.borrow_mut() = Some(poller);
        Ok(())
    }

    /// Closes all sockets and ends all targets and groups. Then runs `then`.
    pub fn stop(&self, then: impl FnOnce() + 'static) {
        self.doors.borrow_mut().close_all();
        let names: Vec<String> = self.model.borrow().targets.keys().cloned().collect();
        for name in &names {
            self.remove_target(name, || {});
        }
        // A group ends after the messages that end its targets. A target with I/O in flight delays the end.
        self.end_groups(Box::new(then));
    }

    fn end_groups(&self, then: Box<dyn FnOnce()>) {
        if !self.homes.borrow().is_empty() {
            let again = move || {
                if let Some(app) = app() {
                    app.end_groups(then);
                }
            };
            return self.waits.for_any_target(Box::new(again));
        }
        self.poller.borrow_mut().take();
        for group in self.groups.borrow_mut().drain(..) {
            let its_thread = group.thread();
            group.end(move || {
                if let Err(error) = its_thread.exit() {
                    tracing::error!(%error, "a poll group's thread does not end");
                }
            });
        }
        then();
    }

    /// Listens on the portals of a group. With `waits`, it accepts no connections before [`open_doors`](Self::open_doors).
    ///
    /// # Errors
    /// The system's refusal for one of the portals. Then none of them is open.
    pub fn listen(&self, pg_tag: i32, portals: &[SocketAddr], waits: bool) -> Result<()> {
        self.doors.borrow_mut().listen(pg_tag, portals, waits)
    }

    /// Whether a portal group accepts connections.
    pub fn is_open(&self, pg_tag: i32) -> bool {
        self.doors.borrow().is_open(pg_tag)
    }

    /// Lets a portal group accept connections.
    pub fn open_doors(&self, pg_tag: i32) {
        self.doors.borrow_mut().open(pg_tag);
    }

    /// Closes the portals of a group, with the logins and the discovery sessions that came through it.
    pub fn close_doors(&self, pg_tag: i32) {
        self.doors.borrow_mut().close(pg_tag, &mut self.registry.borrow_mut());
    }

    /// Adds a target with its LUNs to the group that has the fewest targets. If a bdev does not open, nothing is left of the target.
    ///
    /// # Errors
    /// `EBUSY` while a deleted target of this name still ends; the refusals of [`add_unit`](Self::add_unit); a group's thread that
    /// cannot be created.
    pub fn add_target(&self, name: &str, luns: &BTreeMap<u16, Lun>) -> Result<()> {
        if self.homes.borrow().contains_key(name) {
            let why = "is being deleted; try again when iscsi_delete_target_node has returned";
            return Err(Error::new(errno::EBUSY, format!("target {name} {why}")));
        }
        let mut opened = Vec::new();
        for (number, lun) in luns {
            let (unit, stored) = self.open_unit(name, *number, lun)?;
            opened.push((*number, unit, stored));
        }
        self.ensure_groups()?;
        let mut homes = self.homes.borrow_mut();
        let groups = self.groups.borrow();
        let count = |index: usize| homes.values().filter(|home| **home == index).count();
        let home = (0..groups.len()).min_by_key(|index| count(*index)).unwrap_or(0);
        homes.insert(name.to_owned(), home);
        drop((homes, groups));
        let of = name.to_owned();
        self.in_home(name, move |group| group.add_target(&of));
        for (number, unit, stored) in opened {
            self.insert_unit(name, number, unit, stored);
        }
        self.ports_changed();
        Ok(())
    }

    fn ensure_groups(&self) -> Result<()> {
        let mut groups = self.groups.borrow_mut();
        if !groups.is_empty() {
            return Ok(());
        }
        for core in thread::cores() {
            let name = format!("iscsi_poll_group_{core}");
            let its = thread::create(&name, &format!("[{core}]"))?;
            groups.push(Resident::new(its, || match Group::new(name) {
                Ok(group) => Some(group),
                Err(error) => {
                    tracing::error!(%error, "a poll group cannot be created");
                    None
                }
            })?);
        }
        Ok(())
    }

    /// Ends a target. Runs `then` on the app thread when nothing is left of the target.
    pub fn remove_target(&self, name: &str, then: impl FnOnce() + 'static) {
        self.units.borrow_mut().retain(|(target, _), _| target != name);
        self.waits.for_target(name, Box::new(then));
        let of = name.to_owned();
        let gone = move || {
            if let Some(app) = APP.get() {
                app.send(move |app| {
                    app.homes.borrow_mut().remove(&of);
                    app.waits.target_went(&of);
                });
            }
        };
        let target = name.to_owned();
        self.at_home(name, move |group| match group {
            Some(group) => group.remove_target(&target, gone),
            None => gone(),
        });
    }

    /// Opens a bdev as a unit of a target.
    ///
    /// # Errors
    /// The bus's refusals, and those of the reservation file.
    pub fn add_unit(&self, target: &str, number: u16, lun: &Lun) -> Result<()> {
        let (unit, stored) = self.open_unit(target, number, lun)?;
        self.insert_unit(target, number, unit, stored);
        Ok(())
    }

    fn open_unit(&self, target: &str, number: u16, lun: &Lun) -> Result<(Unit, Stored)> {
        let of = target.to_owned();
        let on_event = move |_: &App, event| {
            if let Some(app) = app() {
                app.unit_event(&of, number, event);
            }
        };
        App::here(|app| Unit::open(app, lun, &self.files, on_event))?
    }

    fn insert_unit(&self, target: &str, number: u16, unit: Unit, stored: Stored) {
        let desc = Arc::clone(unit.desc());
        let keeps = unit.keeps_reservations().then_some(stored);
        self.units.borrow_mut().insert((target.to_owned(), number), unit);
        let of = target.to_owned();
        self.in_home(target, move |group| group.add_unit(&of, number, desc, keeps));
    }

    /// Confirms a change of a unit's reservations: claims or shares the bdev, writes the file, then tells the group. Does nothing if the
    /// unit was removed: its group has answered the command then, and a new unit with the same number must not get the change.
    fn settle(&self, target: String, desc: Arc<Desc>, key: TaskKey, change: &Change) {
        let (number, is_registered) = (change.unit, change.is_registered);
        let mut units = self.units.borrow_mut();
        let found = units.get_mut(&(target.clone(), number));
        let Some(unit) = found.filter(|unit| unit.is(&desc)) else { return };
        let was_owned = unit.is_owned();
        let answer = move |settled: Settled| {
            if let Some(app) = APP.get() {
                app.send(move |app| {
                    let mut units = app.units.borrow_mut();
                    let found = units.get_mut(&(target.clone(), number));
                    let Some(unit) = found.filter(|unit| unit.is(&desc)) else { return };
                    unit.own(if settled == Settled::Kept { is_registered } else { was_owned });
                    let of = target.clone();
                    app.in_home(&target, move |group| group.settled(&of, number, key, settled));
                });
            }
        };
        unit.settle(change, answer);
    }

    fn unit_event(&self, target: &str, unit: u16, event: Event) {
        let of = target.to_owned();
        match event {
            Event::Remove => {
                tracing::info!(target, unit, "the bdev of a LUN is removed, and the LUN with it");
                if let Some(found) = self.model.borrow_mut().targets.get_mut(target) {
                    found.luns.remove(&unit);
                }
                self.units.borrow_mut().remove(&(target.to_owned(), unit));
                self.in_home(target, move |group| group.remove_unit(&of, unit));
            }
            Event::Resize { num_blocks } => {
                self.in_home(target, move |group| group.resize_unit(&of, unit, num_blocks));
            }
            _ => {}
        }
    }

    /// Sends each target the list of its ports, after portal groups or maps have changed.
    pub fn ports_changed(&self) {
        for target in self.model.borrow().targets.values() {
            let mut tags: Vec<i32> = target.maps.iter().map(|map| map.pg_tag).collect();
            tags.sort_unstable();
            tags.dedup();
            let port = |tag: i32| Port {
                relative: u16::try_from(tag).unwrap_or(0),
                name: format!("{},t,0x{tag:04x}", target.name),
            };
            let ports: Vec<Port> = tags.into_iter().map(port).collect();
            let of = target.name.clone();
            self.in_home(&target.name, move |group| group.set_ports(&of, ports));
        }
    }

    /// Runs `call` on the thread of a target's group.
    pub fn in_home(&self, target: &str, call: impl FnOnce(&Group) + Send + 'static) {
        self.at_home(target, move |group| {
            if let Some(group) = group {
                call(group);
            }
        });
    }

    /// Runs `call` on the thread of a target's group, with `None` if the group could not be created.
    fn at_home(&self, target: &str, call: impl FnOnce(Option<&Group>) + Send + 'static) {
        let home = self.homes.borrow().get(target).copied();
        if let Some(group) = home.and_then(|home| self.groups.borrow().get(home).cloned()) {
            group.send(move |group| call(group.as_ref().as_ref()));
        }
    }

    /// Collects the connections of all groups, then runs `then` on the app thread.
    pub fn connections(&self, then: impl FnOnce(Vec<ConnectionInfo>, Vec<GuestInfo>) + 'static) {
        let guests = self.doors.borrow().guests();
        let groups = self.groups.borrow();
        let then = Box::new(move |all| then(all, guests));
        let id = self.waits.gather(groups.len(), then);
        for group in groups.iter() {
            group.send(move |group| {
                let all = group.as_ref().as_ref().map(Group::connections).unwrap_or_default();
                if let Some(app) = APP.get() {
                    app.send(move |app| app.waits.gathered(id, all));
                }
            });
        }
    }

    /// Asks a target's group for its histogram, then runs `then` on the app thread.
    pub fn histogram(&self, target: &str, then: impl FnOnce(Option<Histogram>) + 'static) {
        let id = self.waits.for_histogram(Box::new(then));
        let of = target.to_owned();
        self.at_home(target, move |group| {
            let histogram = group.and_then(|group| group.histogram(&of));
            if let Some(app) = APP.get() {
                app.send(move |app| app.waits.histogram_came(id, histogram));
            }
        });
    }

    fn round(&self) -> bool {
        let mut moves = Vec::new();
        let did = self.doors.borrow_mut().round(
            &self.model.borrow(),
            &mut self.registry.borrow_mut(),
            &mut moves,
        );
        for Move { stream, new, target, replaced } in moves {
            let of = target.clone();
            self.at_home(&target, move |group| match group {
                Some(group) => group.attach(&of, stream, *new, replaced),
                None => connection_gone(new.session, new.cid),
            });
        }
        did
    }
}

struct Round(Rc<Iscsi>);

impl Poll for Round {
    const SLEEPS: bool = true;

    fn poll(&mut self) -> bool {
        self.0.round()
    }

    // The epoll is level-triggered, so events that are pending already end the sleep at once.
    fn prepare_sleep(&mut self) -> bool {
        false
    }

    fn next_ns(&mut self) -> u64 {
        self.0.doors.borrow().next_ns()
    }
}
