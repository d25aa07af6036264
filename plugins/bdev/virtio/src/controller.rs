//! A controller: connects a back end, watches it, and connects it again, on the app thread.
//!
//! ```text
//!  attach ─▶ up ──── connection lost ────▶ waiting ── 30 s ──▶ failing
//!             ▲                               │                   │
//!             └─────────── connected again ───┴───────────────────┘
//! ```
//!
//! A back end that dies has no I/O any more when its socket closes, so what was in flight is sent again to the next one. A
//! device that breaks the ring's rules may still execute what it has: its I/O in flight fails.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use drivebay_sdk::bdev::{self, check_name};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::net::Stream;
use drivebay_sdk::runtime::notify::Notify;
use drivebay_sdk::runtime::task::{self, Either};
use drivebay_sdk::runtime::worker;
use drivebay_sdk::serde_json::Value;
use drivebay_sdk::thread;
use drivebay_spec_vhost::message::{BACKEND_CONFIG_CHANGE, HEADER_LEN, Header};
use drivebay_virtio::driver::{DriverQueue, SharedMemory};

use crate::blk::{Shape, VirtioBlk};
use crate::connection::{Connection, Offer, Setup, get_config, parse_config, to_message};
use crate::link::Link;
use crate::rpc::Attach;

/// Entries of a queue when none are given.
const SIZE: u32 = 512;
/// How long I/O waits for a back end to come back before it fails.
const WAIT_LIMIT: Duration = Duration::from_secs(30);
/// Pause before the first try to connect again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Pause between two later tries.
const PAUSE: Duration = Duration::from_millis(500);

/// A controller with one block device.
pub(crate) struct Controller {
    params: Attach,
    shape: Shape,
    link: Arc<Link>,
    wants_to_end: Cell<bool>,
    has_ended: Cell<bool>,
    changed: Notify,
}

/// A session that runs.
struct Session {
    socket: Stream,
    /// The back end's own channel.
    channel: Option<Stream>,
}

/// Why a session ended.
enum End {
    Detached,
    /// The connection is gone.
    Lost(String),
    /// The device broke a rule.
    Broken(String),
}

impl Controller {
    /// Connects a back end and makes its bdev. `[app thread]`
    ///
    /// # Errors
    /// `EINVAL` for a parameter, `EIO` for a back end that cannot be used, `EEXIST` for a bdev of that name.
    pub(crate) async fn attach(params: Attach) -> Result<Rc<Self>> {
        check_name(params.name.clone())?;
        let size = ring_size(params.vq_size)?;
        let wanted = params.vq_count.and_then(|count| u16::try_from(count).ok()).filter(|&n| n > 0);
        let (connection, offer) = open(&params.traddr).await?;
        // One for each reactor, and one for the app thread, where bdevs are examined.
        let default = u16::try_from(thread::cores().count() + 1).unwrap_or(u16::MAX);
        let shape = Shape::new(&offer, wanted, default, size)?;
        let params = Attach {
            vq_count: Some(shape.num_queues.into()),
            vq_size: Some(size.into()),
            ..params
        };
        let link = Arc::new(Link::new(shape.num_queues)?);
        let controller = Rc::new(Self {
            params,
            shape,
            link,
            wants_to_end: Cell::new(false),
            has_ended: Cell::new(false),
            changed: Notify::new(),
        });
        let session = controller.start(connection).await?;
        let num_blocks = shape.num_blocks(&offer.config);
        let Attach { name, traddr, .. } = &controller.params;
        let bdev = VirtioBlk::new(name, traddr, shape, num_blocks, Arc::clone(&controller.link))?;
        // The empty method: the controller is saved, not the bdev.
        App::here(|app| bdev::register(app, bdev, "", Value::Null))??;
        let follow = Rc::clone(&controller).follow(session);
        task::spawn(format!("virtio {name}"), follow)?.detach();
        Ok(controller)
    }

    /// The parameters that make it again.
    pub(crate) fn params(&self) -> &Attach {
        &self.params
    }

    /// Removes the bdev, then ends the session. `[app thread]`
    pub(crate) async fn detach(&self) {
        self.wants_to_end.set(true);
        self.changed.notify();
        let name = &self.params.name;
        if let Ok(bdev) = bdev::find::<VirtioBlk>(name) {
            let (done, gone) = task::oneshot::channel();
            let unregister =
                App::here(|app| bdev.unregister(app, move |_, result| drop(done.send(result))));
            if unregister.is_ok()
                && let Ok(Err(error)) = gone.await
            {
                error!("{name}: {}", error.message());
            }
        }
        self.has_bdev_gone();
        self.changed.until(|| self.has_ended.get()).await;
    }

    fn has_bdev_gone(&self) {
        self.changed.notify();
    }

    /// Hands memory and rings to a back end, and the queues to the channels.
    async fn start(&self, connection: Connection) -> Result<Session> {
        let shape = self.shape;
        let len = shape.layout.len_bytes();
        let memory = Arc::new(SharedMemory::new(len * usize::from(shape.num_queues))?);
        let queue = |index: u16| {
            let offset = usize::from(index) * len;
            DriverQueue::new(Arc::clone(&memory), offset, shape.layout, shape.ring_features())
        };
        let queues: Vec<DriverQueue> = (0..shape.num_queues).map(queue).collect();
        let rings: Vec<_> = queues.iter().map(DriverQueue::rings).collect();
        let link = Arc::clone(&self.link);
        let of_worker = Arc::clone(&memory);
        let started = worker::run("virtio start", move || {
            let setup = Setup {
                features: shape.features,
                part: of_worker.part(),
                fd: of_worker.fd(),
                rings: &rings,
                seats: link.seats(),
            };
            let channel = connection.start(&setup)?;
            Ok::<_, Error>((connection.into_socket(), channel))
        });
        let (socket, channel): (OwnedFd, Option<OwnedFd>) = started.await??;
        let channel = channel.map(Stream::from_fd).transpose()?;
        let session = Session { socket: Stream::from_fd(socket)?, channel };
        self.link.up(queues);
        Ok(session)
    }

    /// Keeps a back end connected until the controller is detached.
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
                        "{name}: the back end is gone ({why}); I/O waits for it, {sec} s at most"
                    );
                    self.link.down();
                }
                End::Broken(why) => {
                    error!(
                        "{name}: the device broke a rule: {why}; its I/O fails, and it is connected again"
                    );
                    self.link.fail();
                }
            }
            session = self.connect_again().await;
        }
        self.has_ended.set(true);
        self.changed.notify();
    }

    /// Waits until the session ends, and takes over changes of the disk meanwhile.
    async fn watch(&self, mut session: Session) -> End {
        loop {
            let changed = notice(&mut session.channel);
            let mut byte = [0];
            let lost = session.socket.read_exact(&mut byte);
            let broken = async {
                self.link.broken.until(|| self.link.why_broken().is_some()).await;
            };
            let detached = self.changed.until(|| self.is_detached());
            let first =
                task::select(task::select(changed, lost), task::select(broken, detached)).await;
            match first {
                Either::Left(Either::Left(Ok(()))) => {
                    if let Err(error) = self.take_over_size(&mut session.socket).await {
                        return End::Lost(error.message().to_owned());
                    }
                }
                Either::Left(Either::Left(Err(error)) | Either::Right(Err(error))) => {
                    return End::Lost(error.message().to_owned());
                }
                Either::Left(Either::Right(Ok(()))) => {
                    return End::Lost("it sent something that was not asked for".to_owned());
                }
                Either::Right(Either::Left(())) => {
                    return End::Broken(self.link.why_broken().unwrap_or_default());
                }
                Either::Right(Either::Right(())) => return End::Detached,
            }
        }
    }

    /// Whether the controller is to end, and its bdev, whose I/O needs the session, is gone.
    fn is_detached(&self) -> bool {
        self.wants_to_end.get() && bdev::find::<VirtioBlk>(&self.params.name).is_err()
    }

    /// Reads the size of the disk anew.
    async fn take_over_size(&self, socket: &mut Stream) -> Result<()> {
        socket.write_all(&to_message(&get_config(), false)).await?;
        let mut header = [0; HEADER_LEN];
        socket.read_exact(&mut header).await?;
        let wrong = |why: String| Error::new(errno::EIO, format!("GET_CONFIG: {why}"));
        let header = Header::parse(header).map_err(|error| wrong(error.to_string()))?;
        let mut payload = vec![0; header.len as usize];
        socket.read_exact(&mut payload).await?;
        let config = parse_config(&payload)
            .filter(|_| header.is_reply)
            .ok_or_else(|| wrong("not an answer".to_owned()))?;
        self.resize(self.shape.num_blocks(&config));
        Ok(())
    }

    fn resize(&self, num_blocks: u64) {
        let name = &self.params.name;
        let resized = App::here(|app| bdev::find::<VirtioBlk>(name)?.resize(app, num_blocks));
        match resized.and_then(|result| result) {
            Ok(()) => info!("{name}: {num_blocks} blocks now"),
            Err(error) => warn!("{name}: {num_blocks} blocks were not taken over: {error}"),
        }
    }

    /// Tries until a back end is there again. `None`: the controller is to end.
    async fn connect_again(&self) -> Option<Session> {
        let lost_ns = thread::now_ns();
        let (mut pause, mut has_failed) = (FIRST_PAUSE, false);
        let mut last = String::new();
        loop {
            if self.wants_to_end.get() && !has_failed {
                // The bdev leaves when its I/O has ended.
                has_failed = true;
                self.link.fail();
            }
            let detached = self.changed.until(|| self.is_detached());
            if let Either::Right(()) = task::select(task::sleep(pause), detached).await {
                return None;
            }
            match self.try_again().await {
                Ok(session) => {
                    info!("{}: the back end is there again", self.params.name);
                    return Some(session);
                }
                Err(error) if last == error.message() => {}
                Err(error) => {
                    last = error.message().to_owned();
                    info!("{}: {last}; the plugin tries on", self.params.name);
                }
            }
            let waited = Duration::from_nanos(thread::now_ns().saturating_sub(lost_ns));
            if waited >= WAIT_LIMIT && !has_failed {
                has_failed = true;
                warn!("{}: no back end for {} s; I/O fails", self.params.name, waited.as_secs());
                self.link.fail();
            }
            pause = PAUSE;
        }
    }

    async fn try_again(&self) -> Result<Session> {
        let (connection, offer) = open(&self.params.traddr).await?;
        self.shape.check(&offer)?;
        let num_blocks = self.shape.num_blocks(&offer.config);
        let session = self.start(connection).await?;
        let known = bdev::find::<VirtioBlk>(&self.params.name);
        if known.is_ok() {
            self.resize(num_blocks);
        }
        Ok(session)
    }
}

async fn open(path: &str) -> Result<(Connection, Offer)> {
    let path = path.to_owned();
    worker::run("virtio connect", move || Connection::open(&path)).await?
}

fn ring_size(given: Option<u32>) -> Result<u16> {
    let size = given.filter(|&size| size > 0).unwrap_or(SIZE);
    let allowed = "a power of two, 4 to 32768";
    let refused = || Error::invalid("vq_size", size, allowed);
    let size = u16::try_from(size).map_err(|_| refused())?;
    if size < 4 || !size.is_power_of_two() { Err(refused()) } else { Ok(size) }
}

/// Waits until the back end says that its disk has changed. Without a channel it never does.
async fn notice(channel: &mut Option<Stream>) -> Result<()> {
    let Some(channel) = channel else { return std::future::pending().await };
    loop {
        let mut header = [0; HEADER_LEN];
        channel.read_exact(&mut header).await?;
        let wrong = |why: String| Error::new(errno::EIO, format!("its own channel: {why}"));
        let header = Header::parse(header).map_err(|error| wrong(error.to_string()))?;
        let mut payload = vec![0; header.len as usize];
        channel.read_exact(&mut payload).await?;
        if header.needs_reply {
            let (request, needs_reply, is_reply) = (header.request, false, true);
            let answer = Header { request, needs_reply, is_reply, len: 8 };
            let done = u64::from(header.request != BACKEND_CONFIG_CHANGE);
            channel.write_all(&[&answer.to_bytes()[..], &done.to_le_bytes()].concat()).await?;
        }
        if header.request == BACKEND_CONFIG_CHANGE {
            return Ok(());
        }
    }
}
