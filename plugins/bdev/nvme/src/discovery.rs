//! Discovery services. The plugin stays connected to each service. It attaches the subsystems that the service's log lists, and detaches
//! them when they leave the log. `[app thread]`

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use drivebay_nvme_driver::spec::event::AsyncEvent;

use drivebay_nvme_driver::spec::log::{DiscoveryEntry, DiscoveryHeader, lid, subtype, trtype};
use drivebay_nvme_driver::spec::{Command, opcode};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::notify::Notify;
use drivebay_sdk::runtime::task::{self, Either};

use crate::admin::{Admin, Data};
use crate::app::Known;
use crate::controller::Controller;
use crate::controller::bring_up::enable;
use crate::dial::Target;
use crate::options::Timeouts;
use crate::reach::Reach;
use crate::rpc::{self, Attach, StartDiscovery};

/// Maximum number of entries of a log.
const ENTRIES_MAX: u64 = 4096;
/// Entries that are read at once.
const ENTRIES_AT_ONCE: u64 = 64;
/// Length of an entry, and of the header, in bytes.
const ENTRY_LEN: u32 = 1024;
const _: () = assert!(
    ENTRY_LEN as usize == DiscoveryEntry::LEN && ENTRY_LEN as usize == DiscoveryHeader::LEN
);
/// How often the plugin reads a log again when it changes during the read.
const READS_MAX: usize = 8;
/// The time between two tries to connect.
const DELAY: Duration = Duration::from_secs(2);

/// A discovery service that is followed.
pub(crate) struct Discovery {
    pub(crate) params: StartDiscovery,
    target: Target,
    keep_alive_ms: u32,
    timeouts: Timeouts,
    /// Names of the controllers, by subsystem: the prefix and a number.
    names: RefCell<BTreeMap<String, String>>,
    /// Number of the next name.
    next_name: Cell<u64>,
    /// The controllers that were attached.
    attached: RefCell<BTreeMap<Place, Rc<Controller>>>,
    pub(crate) referrals: RefCell<Vec<Place>>,
    /// Whether the subsystems of the log were attached once.
    has_followed: Cell<bool>,
    is_stopped: Cell<bool>,
    has_ended: Cell<bool>,
    changed: Notify,
}

/// The address of a subsystem, from a log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) subnqn: String,
    pub(crate) traddr: String,
    pub(crate) trsvcid: String,
}

impl Place {
    fn new(entry: &DiscoveryEntry) -> Option<Self> {
        Some(Self {
            subnqn: entry.subnqn.as_str()?.to_owned(),
            traddr: entry.traddr.as_str()?.to_owned(),
            trsvcid: entry.trsvcid.as_str()?.to_owned(),
        })
    }
}

impl Discovery {
    pub(crate) fn new(app: &Known, params: StartDiscovery, target: Target) -> Rc<Self> {
        let options = app.options.borrow();
        Rc::new(Self {
            params,
            target,
            keep_alive_ms: options.keep_alive_timeout_ms,
            timeouts: options.timeouts(),
            names: RefCell::default(),
            next_name: Cell::new(0),
            attached: RefCell::default(),
            referrals: RefCell::default(),
            has_followed: Cell::new(false),
            is_stopped: Cell::new(false),
            has_ended: Cell::new(false),
            changed: Notify::new(),
        })
    }

    /// Follows the service until it is stopped, and detaches what it attached.
    pub(crate) async fn follow(self: Rc<Self>, app: Rc<Known>) {
        let stopped = self.changed.until(|| self.is_stopped.get());
        let following = async {
            loop {
                let Err(error) = self.serve(&app).await;
                warn!("discovery {}: {}", self.params.name, error.message());
                task::sleep(DELAY).await;
            }
        };
        match task::select(following, stopped).await {
            Either::Left(never) => never,
            Either::Right(()) => {}
        }
        let attached = std::mem::take(&mut *self.attached.borrow_mut());
        self.detach(&app, attached.into_values().collect()).await;
        self.has_ended.set(true);
        self.changed.notify();
    }

    /// Stops following the service, and waits until its controllers are detached.
    pub(crate) async fn stop(&self) {
        self.is_stopped.set(true);
        self.changed.notify();
        self.changed.until(|| self.has_ended.get()).await;
    }

    /// Waits until the subsystems of the log were attached once, or the service was stopped.
    pub(crate) async fn followed(&self) {
        self.changed.until(|| self.has_followed.get() || self.is_stopped.get()).await;
    }

    /// Connects, and follows the log as long as the connection lasts.
    async fn serve(&self, app: &Rc<Known>) -> Result<std::convert::Infallible> {
        let enabled =
            enable(&Reach::Tcp(self.target.clone()), self.keep_alive_ms, 0, self.timeouts).await?;
        let admin = &enabled.admin;
        loop {
            let entries = read_log(admin).await?;
            self.apply(app, &entries).await;
            self.has_followed.set(true);
            self.changed.notify();
            loop {
                let command = Command::new(opcode::admin::ASYNC_EVENT_REQUEST);
                let what = "Asynchronous Event Request";
                let answer = admin.send(what, command, Data::None).await?.ok(what)?;
                let event = AsyncEvent::from_dw0(answer.completion.dw0());
                if event == AsyncEvent::DISCOVERY_LOG_CHANGE {
                    break;
                }
            }
        }
    }

    /// Attaches the subsystems that are new in the log, and detaches those that are gone.
    async fn apply(&self, app: &Rc<Known>, entries: &[DiscoveryEntry]) {
        let of_tcp = |subtype: u8| {
            let all = entries.iter();
            all.filter(move |entry| entry.trtype == trtype::TCP && entry.subtype == subtype)
                .filter_map(Place::new)
        };
        self.referrals.replace(of_tcp(subtype::REFERRAL).collect());
        let listed: Vec<Place> = of_tcp(subtype::NVM).collect();
        // A controller that was given up is attached again.
        let mut gone = Vec::new();
        self.attached.borrow_mut().retain(|place, controller| {
            let stays = !controller.has_ended() && listed.contains(place);
            if !stays {
                gone.push(Rc::clone(controller));
            }
            stays
        });
        self.detach(app, gone).await;
        self.forget_names(&listed);
        for place in listed {
            if self.attached.borrow().contains_key(&place) {
                continue;
            }
            let name = self.name_of(&place.subnqn);
            match self.attach(app, name, &place).await {
                Ok(controller) => drop(self.attached.borrow_mut().insert(place, controller)),
                Err(error) => {
                    let Place { subnqn, traddr, trsvcid } = place;
                    let name = &self.params.name;
                    let why = error.message();
                    warn!("discovery {name}: {subnqn} at {traddr} port {trsvcid}: {why}");
                }
            }
        }
    }

    async fn attach(&self, app: &Rc<Known>, name: String, place: &Place) -> Result<Rc<Controller>> {
        let params = Attach {
            trsvcid: Some(place.trsvcid.clone()),
            subnqn: Some(place.subnqn.clone()),
            hostnqn: self.params.hostnqn.clone(),
            ctrlr_loss_timeout_sec: self.params.ctrlr_loss_timeout_sec,
            reconnect_delay_sec: self.params.reconnect_delay_sec,
            fast_io_fail_timeout_sec: self.params.fast_io_fail_timeout_sec,
            ..Attach::tcp(name, place.traddr.clone())?
        };
        rpc::attach_path(app, params, true).await
    }

    async fn detach(&self, app: &Known, controllers: Vec<Rc<Controller>>) {
        controllers.iter().for_each(|controller| controller.detach());
        app.ended.until(|| controllers.iter().all(|controller| controller.has_ended())).await;
    }

    /// The name of a subsystem's controllers.
    fn name_of(&self, subnqn: &str) -> String {
        let mut names = self.names.borrow_mut();
        if let Some(name) = names.get(subnqn) {
            return name.clone();
        }
        let number = self.next_name.replace(self.next_name.get() + 1);
        let name = format!("{}{number}", self.params.name);
        names.insert(subnqn.to_owned(), name.clone());
        name
    }

    /// Forgets the names of unlisted subsystems once there are many of them. Otherwise a service whose list keeps changing would use more
    /// and more memory.
    fn forget_names(&self, listed: &[Place]) {
        let mut names = self.names.borrow_mut();
        if names.len() as u64 > ENTRIES_MAX {
            let listed: BTreeSet<&str> = listed.iter().map(|place| place.subnqn.as_str()).collect();
            names.retain(|subnqn, _| listed.contains(subnqn.as_str()));
        }
    }
}

/// Reads the log, again if it changes while it is read. NVMe Base 2.0, section 5.16.1.23.
async fn read_log(admin: &Admin) -> Result<Vec<DiscoveryEntry>> {
    for _ in 0..READS_MAX {
        let before = read_header(admin).await?;
        if before.numrec > ENTRIES_MAX {
            let count = before.numrec;
            let why = format!("the log has {count} entries; at most {ENTRIES_MAX} are read");
            return Err(Error::new(errno::EIO, why));
        }
        let mut entries: Vec<DiscoveryEntry> = Vec::new();
        let mut next = 0;
        while next < before.numrec {
            let count = ENTRIES_AT_ONCE.min(before.numrec - next);
            let len = u32::try_from(count).unwrap_or(0) * ENTRY_LEN;
            let offset = (next + 1) * u64::from(ENTRY_LEN);
            let data = admin.log_page(lid::DISCOVERY, 0, offset, len).await?;
            let (chunks, _) = data.as_chunks();
            entries.extend(chunks.iter().map(DiscoveryEntry::parse));
            next += count;
        }
        if read_header(admin).await? == before {
            return Ok(entries);
        }
    }
    Err(Error::new(errno::EAGAIN, "the log changed each time it was read"))
}

async fn read_header(admin: &Admin) -> Result<DiscoveryHeader> {
    let data = admin.log_page(lid::DISCOVERY, 0, 0, ENTRY_LEN).await?;
    data.first_chunk()
        .map(DiscoveryHeader::parse)
        .ok_or_else(|| Error::new(errno::EIO, "the discovery log is shorter than its header"))
}
