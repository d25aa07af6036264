//! A controller connects to a back end, watches it, and connects to it again. It runs on the app thread.
//!
//! ```text
//!  attach ─▶ up ──── connection lost ────▶ waiting ── 30 s ──▶ failing
//!             ▲                               │                   │
//!             └─────────── connected again ───┴───────────────────┘
//! ```
//!
//! When the socket of a back end closes, the back end executes no I/O any more. So the plugin submits the I/O in flight again
//! in the next session. A back end that breaks a rule may still execute its I/O. Then the I/O in flight fails.

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
use rustix::io::Errno;

use crate::blk::{Shape, VirtioBlk};
use crate::connection::{
    ANSWER_LIMIT, Connection, Offer, Setup, get_config, parse_config, to_message,
};
use crate::link::{Link, new_eventfd};
use crate::rpc::Attach;

/// Entries of a queue when `vq_size` is absent.
const SIZE: u32 = 512;
/// How long I/O waits for a back end before it fails.
const WAIT_LIMIT: Duration = Duration::from_secs(30);
/// Pause before the first attempt to connect again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Pause between two later attempts.
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
    /// The channel on which the back end reports changes.
    channel: Option<Stream>,
}

/// Why a session ended.
enum End {
    Detached,
    /// The back end has closed its socket.
    Lost(String),
    /// The back end broke a rule. It may still execute I/O.
    Broken(String),
}

impl Controller {
    /// Connects to a back end and registers its bdev. `[app thread]`
    ///
    /// # Errors
    /// `EINVAL` for a parameter, `EIO` for a back end that the plugin cannot use, `EEXIST` when a bdev has that name.
    pub(crate) async fn attach(params: Attach) -> Result<Rc<Self>> {
        check_name(params.name.clone())?;
        let size = ring_size(params.vq_size)?;
        let wanted = params.vq_count.and_then(|count| u16::try_from(count).ok()).filter(|&n| n > 0);
        let (connection, offer) = open(&params.traddr).await?;
        // One queue for each reactor, and one for the app thread, which examines bdevs.
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
        // No method: the saved configuration contains the controller, not the bdev.
        App::here(|app| bdev::register(app, bdev, "", Value::Null))??;
        let follow = Rc::clone(&controller).follow(session);
        task::spawn(format!("virtio {name}"), follow)?.detach();
        Ok(controller)
    }

    /// The parameters that create the controller again.
    pub(crate) fn params(&self) -> &Attach {
        &self.params
    }

    /// Unregisters the bdev, then ends the session. If the back end does not complete the I/O in flight within
    /// `WAIT_LIMIT`, the I/O fails. `[app thread]`
    pub(crate) async fn detach(&self) {
        self.wants_to_end.set(true);
        self.changed.notify();
        let name = &self.params.name;
        if let Ok(bdev) = bdev::find::<VirtioBlk>(name) {
            let (done, mut gone) = task::oneshot::channel();
            let unregister =
                App::here(|app| bdev.unregister(app, move |_, result| drop(done.send(result))));
            if unregister.is_ok() {
                let waited = task::select(&mut gone, task::sleep(WAIT_LIMIT)).await;
                let result = match waited {
                    Either::Left(result) => result,
                    Either::Right(()) => {
                        let sec = WAIT_LIMIT.as_secs();
                        warn!(
                            "{name}: the back end did not complete its I/O within {sec} s, so the I/O fails"
                        );
                        self.link.fail();
                        gone.await
                    }
                };
                if let Ok(Err(error)) = result {
                    error!("{name}: {}", error.message());
                }
            }
        }
        self.changed.notify();
        self.changed.until(|| self.has_ended.get()).await;
    }

    /// Gives memory and rings to a back end, and the queues to the channels.
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
        let kick = |_| new_eventfd().map(Arc::new);
        let kicks: Vec<Arc<OwnedFd>> = (0..shape.num_queues).map(kick).collect::<Result<_>>()?;
        let link = Arc::clone(&self.link);
        let (of_worker, kicks_of_worker) = (Arc::clone(&memory), kicks.clone());
        let started = worker::run("virtio start", move || {
            let setup = Setup {
                features: shape.features,
                part: of_worker.part(),
                fd: of_worker.fd(),
                rings: &rings,
                seats: link.seats(),
                kicks: &kicks_of_worker,
            };
            let channel = connection.start(&setup)?;
            Ok::<_, Error>((connection.into_socket(), channel))
        });
        let (socket, channel): (OwnedFd, Option<OwnedFd>) = started.await??;
        let channel = channel.map(Stream::from_fd).transpose()?;
        let session = Session { socket: Stream::from_fd(socket)?, channel };
        self.link.up(queues, kicks);
        Ok(session)
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
                        "{name}: the back end broke a rule: {why}; its I/O fails, and the plugin connects again"
                    );
                    self.link.fail();
                }
            }
            session = self.connect_again().await;
        }
        self.has_ended.set(true);
        self.changed.notify();
    }

    /// Waits until the session ends. Meanwhile resizes the bdev when the disk changes.
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
                    let taken = self.take_over_size(&mut session.socket);
                    let error = match task::timeout(ANSWER_LIMIT, taken).await {
                        Ok(Ok(())) => continue,
                        Ok(Err(error)) => error,
                        Err(elapsed) => elapsed.into(),
                    };
                    let why = format!("its new size is unknown: {}", error.message());
                    return if is_closed(&error) { End::Lost(why) } else { End::Broken(why) };
                }
                Either::Left(Either::Left(Err(error))) => {
                    let name = &self.params.name;
                    info!("{name}: the back end reports no more changes: {}", error.message());
                    session.channel = None;
                }
                Either::Left(Either::Right(Err(error))) => {
                    let why = error.message().to_owned();
                    return if is_closed(&error) { End::Lost(why) } else { End::Broken(why) };
                }
                Either::Left(Either::Right(Ok(()))) => {
                    return End::Broken("it sent a message that nobody asked for".to_owned());
                }
                Either::Right(Either::Left(())) => {
                    return End::Broken(self.link.why_broken().unwrap_or_default());
                }
                Either::Right(Either::Right(())) => return End::Detached,
            }
        }
    }

    /// Whether the session can end: the controller is being detached, and its bdev is gone.
    fn is_detached(&self) -> bool {
        self.wants_to_end.get() && bdev::find::<VirtioBlk>(&self.params.name).is_err()
    }

    /// Asks the back end for the size of its disk and resizes the bdev.
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
            Ok(()) => info!("{name}: the disk has {num_blocks} blocks now"),
            Err(error) => warn!("{name}: cannot resize the bdev to {num_blocks} blocks: {error}"),
        }
    }

    /// Tries to connect until a back end answers. Returns `None` when the controller is being detached.
    async fn connect_again(&self) -> Option<Session> {
        let lost_ns = thread::now_ns();
        let (mut pause, mut has_failed) = (FIRST_PAUSE, false);
        let mut last = String::new();
        loop {
            if self.wants_to_end.get() && !has_failed {
                // The bdev goes when its I/O has ended.
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

/// Whether the error says that the back end has closed its socket. Nothing else proves that it executes no I/O any more.
fn is_closed(error: &Error) -> bool {
    [Errno::PIPE, Errno::CONNRESET].iter().any(|closed| closed.raw_os_error() == error.errno())
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

/// Waits until the back end reports that its disk has changed. Without a channel this never ends.
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
