//! A controller connects to a back end, watches it, and connects to it again. It runs on the app thread.
//!
//! ```text
//!  attach ─▶ up ──── connection lost ────▶ waiting ── 30 s ──▶ failing
//!             ▲                               │                   │
//!             └─────────── connected again ───┴───────────────────┘
//! ```
//!
//! When the socket of a back end closes, the back end executes no I/O any more. So the plugin submits the I/O in flight again
//! in the next session. A back end that breaks a rule, or hangs, may still execute its I/O. Then the I/O in flight fails.

mod disks;
mod session;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use drivebay_sdk::bdev::check_name;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::notify::Notify;
use drivebay_sdk::runtime::task::{self, Either};
use drivebay_sdk::runtime::worker;
use drivebay_sdk::serde_json::{Value, json};
use drivebay_sdk::thread;
use rustix::io::Errno;
use session::{Ready, Session};

use crate::agreement::Wanted;
use crate::connection::{Connection, Offer};
use crate::device::{Device, config_len};
use crate::disk;
use crate::link::Link;
use crate::rpc::{Attach, Kind};
use crate::scsi::units::Units;

/// Entries of a queue when `vq_size` is absent.
const SIZE: u32 = 512;
/// How long I/O waits for a back end before it fails.
const WAIT_LIMIT: Duration = Duration::from_secs(30);
/// Pause before the first attempt to connect again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Pause between two later attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// A controller with one block device, or a SCSI host and its units.
pub(crate) struct Controller {
    params: Attach,
    device: Device,
    link: Arc<Link>,
    /// The units of a SCSI host.
    units: Units,
    wants_to_end: Cell<bool>,
    has_ended: Cell<bool>,
    changed: Notify,
}

/// Why a session ended.
enum End {
    Detached,
    /// The back end has closed its socket.
    Lost(String),
    /// The back end broke a rule, or hangs. It may still execute I/O.
    Broken(String),
}

impl Controller {
    /// Connects to a back end and registers its bdevs. `[app thread]`
    ///
    /// # Errors
    /// `EINVAL` for a parameter, `EIO` for a back end that the plugin cannot use, `EEXIST` when a bdev has that name.
    pub(crate) async fn attach(params: Attach) -> Result<Rc<Self>> {
        check_name(params.name.clone())?;
        let size = ring_size(params.vq_size)?;
        let count = params.vq_count.and_then(|count| u16::try_from(count).ok()).filter(|&n| n > 0);
        let (connection, offer) = open(&params.traddr, params.dev_type).await?;
        // One queue for each reactor, and one for the app thread, which examines bdevs.
        let default = u16::try_from(thread::cores().count() + 1).unwrap_or(u16::MAX);
        let device = Device::new(params.dev_type, &offer, Wanted { count, default, size })?;
        let num_queues = device.agreement().num_queues;
        let params =
            Attach { vq_count: Some(num_queues.into()), vq_size: Some(size.into()), ..params };
        let controller = Rc::new(Self {
            params,
            device,
            link: Arc::new(Link::new(num_queues)?),
            units: Units::default(),
            wants_to_end: Cell::new(false),
            has_ended: Cell::new(false),
            changed: Notify::new(),
        });
        let Ready { session, queues, kicks } = controller.start(connection).await?;
        controller.link.up(queues, kicks);
        if let Err(error) = controller.register(&session, &offer).await {
            controller.unregister_all().await;
            return Err(error);
        }
        let follow = Rc::clone(&controller).follow(session);
        task::spawn(format!("virtio {}", controller.params.name), follow)?.detach();
        Ok(controller)
    }

    /// The parameters that create the controller again.
    pub(crate) fn params(&self) -> &Attach {
        &self.params
    }

    /// The controller, as `bdev_virtio_scsi_get_devices` shows it; `None` for a block device.
    pub(crate) fn scsi_view(&self) -> Option<Value> {
        let Device::Scsi(shape) = &self.device else { return None };
        let virtio = disk::view(&self.params.traddr, &shape.agreement);
        Some(json!({"name": self.params.name, "virtio": virtio}))
    }

    /// Unregisters the bdevs, then ends the session. If the back end does not complete the I/O in flight within
    /// `WAIT_LIMIT`, the I/O fails. `[app thread]`
    pub(crate) async fn detach(&self) {
        self.wants_to_end.set(true);
        self.changed.notify();
        self.unregister_all().await;
        self.changed.notify();
        self.changed.until(|| self.has_ended.get()).await;
    }

    /// Keeps the controller connected until it is detached.
    async fn follow(self: Rc<Self>, session: Session) {
        let mut session = Some(session);
        while let Some(running) = session.take() {
            let end = self.watch(running).await;
            let name = &self.params.name;
            match &end {
                End::Detached => break,
                End::Lost(why) => {
                    let sec = WAIT_LIMIT.as_secs();
                    warn!(
                        "{name}: the back end is gone ({why}); I/O waits for it for at most {sec} s"
                    );
                    self.link.down();
                }
                End::Broken(why) => {
                    error!(
                        "{name}: the back end {why}; its I/O fails, and the plugin connects again"
                    );
                    self.link.fail();
                }
            }
            session = self.connect_again().await;
        }
        // The device may not have completed all I/O of a unit that went away. No later session completes it, so it fails.
        self.link.fail();
        self.has_ended.set(true);
        self.changed.notify();
    }

    /// Whether the session can end: the controller is being detached, and its bdevs are gone.
    fn is_detached(&self) -> bool {
        self.wants_to_end.get() && self.has_no_bdevs()
    }

    /// Tries to connect until a back end answers. Returns `None` when the controller is being detached.
    async fn connect_again(&self) -> Option<Session> {
        let lost_ns = thread::now_ns();
        let (mut pause, mut has_failed) = (FIRST_PAUSE, false);
        let mut last = String::new();
        loop {
            if self.wants_to_end.get() && !has_failed {
                // The bdevs go when their I/O has ended.
                has_failed = true;
                self.link.fail();
            }
            let detached = self.changed.until(|| self.is_detached());
            if let Either::Right(()) = task::select(task::sleep(pause), detached).await {
                return None;
            }
            match self.try_again().await {
                Ok(session) => {
                    info!("{}: the back end is connected again", self.params.name);
                    return Some(session);
                }
                Err(error) if last == error.message() => {}
                Err(error) => {
                    last = error.message().to_owned();
                    info!("{}: {last}; the plugin tries again", self.params.name);
                }
            }
            let waited = Duration::from_nanos(thread::now_ns().saturating_sub(lost_ns));
            if waited >= WAIT_LIMIT && !has_failed {
                has_failed = true;
                warn!(
                    "{}: there is no back end for {} s; I/O fails",
                    self.params.name,
                    waited.as_secs()
                );
                self.link.fail();
            }
            pause = PAUSE;
        }
    }

    async fn try_again(&self) -> Result<Session> {
        let (connection, offer) = open(&self.params.traddr, self.params.dev_type).await?;
        self.device.check(&offer)?;
        let Ready { session, queues, kicks } = self.start(connection).await?;
        // I/O must not go to another unit than before, so this looks at the units first.
        let found = self.find_units(&session).await?;
        self.link.up(queues, kicks);
        self.follow_disks(&offer, found).await;
        Ok(session)
    }
}

/// Whether the error says that the back end has closed its socket. Nothing else proves that it executes no I/O any more.
fn is_closed(error: &Error) -> bool {
    [Errno::PIPE, Errno::CONNRESET].iter().any(|closed| closed.raw_os_error() == error.errno())
}

async fn open(path: &str, kind: Kind) -> Result<(Connection, Offer)> {
    let path = path.to_owned();
    worker::run("virtio connect", move || Connection::open(&path, config_len(kind))).await?
}

fn ring_size(given: Option<u32>) -> Result<u16> {
    let size = given.filter(|&size| size > 0).unwrap_or(SIZE);
    let allowed = "a power of two, 4 to 32768";
    let refused = || Error::invalid("vq_size", size, allowed);
    let size = u16::try_from(size).map_err(|_| refused())?;
    if size < 4 || !size.is_power_of_two() { Err(refused()) } else { Ok(size) }
}
