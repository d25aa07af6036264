//! The app thread's side: what is configured, where the target listens, and connections until they have logged in.

mod doors;
mod reservations;
mod unit;
mod waits;

use crate::group::{ConnectionInfo, Group};
use crate::login::Registry;
use crate::model::Lun;
use crate::model::Model;
use crate::node::histogram::Histogram;
pub use doors::GuestInfo;
use doors::{Doors, Move};
use drivebay_scsi::{Change, Port, Settled, TaskKey};
use drivebay_sdk::bdev::Event;
use drivebay_sdk::poller::{Poll, Poller};
use drivebay_sdk::runtime::Resident;
use drivebay_sdk::{App, Error, Result, errno, thread};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use unit::Unit;
use waits::Waits;

/// Readable, as poll(2) says it.
const POLLIN: u32 = 1;

static APP: OnceLock<Resident<Iscsi>> = OnceLock::new();

/// The app thread's state.
#[derive(Debug)]
pub struct Iscsi {
    /// What is configured.
    pub model: RefCell<Model>,
    registry: RefCell<Registry>,
    units: RefCell<BTreeMap<(String, u16), Unit>>,
    /// A group is none when its thread lacks something.
    groups: RefCell<Vec<Resident<Option<Group>>>>,
    /// The group of each target.
    homes: RefCell<BTreeMap<String, usize>>,
    doors: RefCell<Doors>,
    waits: Waits,
    poller: RefCell<Option<Poller>>,
}

/// The app's state, on the app thread.
#[must_use]
pub fn app() -> Option<Rc<Iscsi>> {
    APP.get().and_then(Resident::here)
}

/// A connection of a session is gone. On any thread.
pub fn connection_gone(tsih: u16, cid: u16) {
    if let Some(app) = APP.get() {
        app.send(move |app| app.registry.borrow_mut().leave(tsih, cid));
    }
}

/// A change of a unit's reservations is to stick. On any thread.
pub fn settle(target: &str, key: TaskKey, change: Change) {
    let target = target.to_owned();
    if let Some(app) = APP.get() {
        app.send(move |app| app.settle(target, key, change));
    }
}

impl Iscsi {
    /// Makes the app's state.
    ///
    /// # Errors
    /// When the system or the host lacks something.
    pub fn start() -> Result<()> {
        let doors = Doors::new()?;
        let fd = doors.wake_fd();
        let resident = Resident::new(thread::app(), || Self {
            model: RefCell::default(),
            registry: RefCell::default(),
            units: RefCell::default(),
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

    /// Ends everything; `then` runs when nothing is left.
    pub fn stop(&self, then: impl FnOnce() + 'static) {
        self.doors.borrow_mut().close_all();
        let names: Vec<String> = self.model.borrow().targets.keys().cloned().collect();
        for name in &names {
            self.remove_target(name, || {});
        }
        // Groups end behind the messages that end their targets; a target with I/O in flight ends its group late.
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

    /// Listens on the portals of a group. `waits`: connections are not accepted yet.
    ///
    /// # Errors
    /// A portal that is no address, or on which the system does not let it listen; then none is open.
    pub fn listen(&self, pg_tag: i32, portals: &[SocketAddr], waits: bool) -> Result<()> {
        self.doors.borrow_mut().listen(pg_tag, portals, waits)
    }

    /// Whether connections of a portal group are accepted.
    pub fn is_open(&self, pg_tag: i32) -> bool {
        self.doors.borrow().is_open(pg_tag)
    }

    /// Accepts connections of a portal group from now on.
    pub fn open_doors(&self, pg_tag: i32) {
        self.doors.borrow_mut().open(pg_tag);
    }

    /// Listens no more on the portals of a group; those that log in by it are sent away.
    pub fn close_doors(&self, pg_tag: i32) {
        self.doors.borrow_mut().close(pg_tag);
    }

    /// Gives a target its home: the group with the fewest targets.
    ///
    /// # Errors
    /// When there is no thread for the groups.
    pub fn add_target(&self, name: &str) -> Result<()> {
        self.ensure_groups()?;
        let mut homes = self.homes.borrow_mut();
        let groups = self.groups.borrow();
        let count = |index: usize| homes.values().filter(|home| **home == index).count();
        let home = (0..groups.len()).min_by_key(|index| count(*index)).unwrap_or(0);
        homes.insert(name.to_owned(), home);
        drop((homes, groups));
        let of = name.to_owned();
        self.in_home(name, move |group| group.add_target(&of));
        self.ports_changed();
        Ok(())
    }

    fn ensure_groups(&self) -> Result<()> {
        let mut groups = self.groups.borrow_mut();
        if !groups.is_empty() {
            return Ok(());
        }
        for core in thread::cores() {
            let its = thread::create(&format!("iscsi_poll_group_{core}"), &format!("[{core}]"))?;
            groups.push(Resident::new(its, || match Group::new() {
                Ok(group) => Some(group),
                Err(error) => {
                    tracing::error!(%error, "a poll group cannot be made");
                    None
                }
            })?);
        }
        Ok(())
    }

    /// Ends a target; `then` runs on the app thread when nothing of it is left.
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
        self.in_home(name, move |group| group.remove_target(&target, gone));
    }

    /// Opens a bdev as a unit of a target.
    ///
    /// # Errors
    /// What the bus refuses.
    pub fn add_unit(&self, target: &str, unit: u16, lun: &Lun) -> Result<()> {
        let of = target.to_owned();
        let on_event = move |_: &App, event| {
            if let Some(app) = app() {
                app.unit_event(&of, unit, event);
            }
        };
        let (opened, stored) = App::here(|app| Unit::open(app, lun, on_event))??;
        let (desc, keeps) = (Arc::clone(opened.desc()), lun.ptpl_file.is_some());
        self.units.borrow_mut().insert((target.to_owned(), unit), opened);
        let of = target.to_owned();
        let keeps = keeps.then_some(stored);
        self.in_home(target, move |group| group.add_unit(&of, unit, desc, keeps));
        Ok(())
    }

    /// Makes a change of a unit's reservations stick: the bdev gets or loses its other exports, the file is written.
    fn settle(&self, target: String, key: TaskKey, change: Change) {
        let number = change.unit;
        let mut units = self.units.borrow_mut();
        let Some(unit) = units.get_mut(&(target.clone(), number)) else { return };
        let was_owned = unit.is_owned();
        let answer = move |settled| {
            if let Some(app) = APP.get() {
                app.send(move |app| {
                    let of = target.clone();
                    if settled == Settled::NotStored
                        && let Some(unit) = app.units.borrow_mut().get_mut(&(of.clone(), number))
                    {
                        unit.own(was_owned);
                    }
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
                tracing::info!(target, unit, "the bdev of a unit goes");
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

    /// Portal groups or maps have changed: targets' ports are named anew.
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

    /// Runs `call` in the group of a target.
    pub fn in_home(&self, target: &str, call: impl FnOnce(&Group) + Send + 'static) {
        let home = self.homes.borrow().get(target).copied();
        if let Some(group) = home.and_then(|home| self.groups.borrow().get(home).cloned()) {
            group.send(move |group| {
                if let Some(group) = &**group {
                    call(group);
                }
            });
        }
    }

    /// Gathers the connections of all groups; `then` runs on the app thread.
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

    /// Asks a target's group for the latencies that it counted; `then` runs on the app thread.
    pub fn histogram(&self, target: &str, then: impl FnOnce(Option<Histogram>) + 'static) {
        let id = self.waits.for_histogram(Box::new(then));
        let of = target.to_owned();
        self.in_home(target, move |group| {
            let histogram = group.histogram(&of);
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
            self.in_home(&target, move |group| group.attach(&of, stream, *new, replaced));
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

    // The epoll is level-triggered: what is there already ends the sleep at once.
    fn prepare_sleep(&mut self) -> bool {
        false
    }

    fn next_ns(&mut self) -> u64 {
        self.0.doors.borrow().next_ns()
    }
}
