//! A session with a back end: how it starts, and what can happen in it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::net::Stream;
use drivebay_sdk::runtime::task::{self, Either};
use drivebay_sdk::runtime::worker;
use drivebay_spec_vhost::front::answer;
use drivebay_spec_vhost::message::{BACKEND_CONFIG_CHANGE, HEADER_LEN, Header};
use drivebay_virtio::driver::{DriverQueue, SharedMemory};

use super::{Controller, End, is_closed};
use crate::connection::{ANSWER_LIMIT, Connection, RingSetup, Setup, get_config, to_message};
use crate::device::{Device, config_len};
use crate::link::new_eventfd;
use crate::scsi::FIXED;
use crate::scsi::admin::{Admin, News, Side};

/// A session that runs.
pub(super) struct Session {
    socket: Stream,
    /// The channel on which the back end reports changes.
    channel: Option<Stream>,
    /// The controller's own queues of a SCSI host.
    pub(super) admin: Option<Admin>,
}

/// A session, with the queues and kicks for the channels.
pub(super) struct Ready {
    pub(super) session: Session,
    pub(super) queues: Vec<DriverQueue>,
    pub(super) kicks: Vec<Arc<OwnedFd>>,
}

impl Controller {
    /// Gives memory and rings to a back end.
    pub(super) async fn start(&self, connection: Connection) -> Result<Ready> {
        let agreement = *self.device.agreement();
        let (num_rings, num_fixed) = (agreement.num_rings(), usize::from(agreement.num_fixed));
        let len = agreement.layout.len_bytes();
        let memory = Arc::new(SharedMemory::new(len * usize::from(num_rings))?);
        let queue = |index: u16| {
            let offset = usize::from(index) * len;
            let features = agreement.ring_features();
            DriverQueue::new(Arc::clone(&memory), offset, agreement.layout, features)
        };
        let mut queues: Vec<DriverQueue> = (0..num_rings).map(queue).collect();
        let rings: Vec<_> = queues.iter().map(DriverQueue::rings).collect();
        let eventfds = |count: u16| {
            let all = (0..count).map(|_| new_eventfd().map(Arc::new));
            all.collect::<Result<Vec<Arc<OwnedFd>>>>()
        };
        let (mut kicks, calls) = (eventfds(num_rings)?, eventfds(agreement.num_fixed)?);
        let link = Arc::clone(&self.link);
        let (of_worker, our_kicks, our_calls) = (Arc::clone(&memory), kicks.clone(), calls.clone());
        let started = worker::run("virtio start", move || {
            let of_channels = link.seats().iter().map(|seat| &seat.call);
            let all_calls = our_calls.iter().map(|call| &**call).chain(of_channels);
            let rings = rings.iter().zip(all_calls).zip(&our_kicks);
            let setup = Setup {
                features: agreement.features,
                part: of_worker.part(),
                fd: of_worker.fd(),
                rings: rings
                    .map(|((rings, call), kick)| RingSetup { rings: *rings, call, kick })
                    .collect(),
            };
            let channel = connection.start(&setup)?;
            Ok::<_, Error>((connection.into_socket(), channel))
        });
        let (socket, channel): (OwnedFd, Option<OwnedFd>) = started.await??;
        let of_channels = queues.split_off(num_fixed);
        let kicks_of_channels = kicks.split_off(num_fixed);
        let fixed = queues.into_iter().zip(kicks).zip(calls);
        let sides = fixed.map(|((queue, kick), call)| Side { queue, kick, call }).collect();
        let session = Session {
            socket: Stream::from_fd(socket)?,
            channel: channel.map(Stream::from_fd).transpose()?,
            admin: admin(sides)?,
        };
        Ok(Ready { session, queues: of_channels, kicks: kicks_of_channels })
    }

    /// Waits until the session ends. Meanwhile follows the changes of its disks.
    pub(super) async fn watch(&self, mut session: Session) -> End {
        // One future for the whole session, so that news from the device does not restart the time limit.
        let mut stalled = Box::pin(self.stalled());
        loop {
            let Session { socket, channel, admin } = &mut session;
            let admin = admin.as_ref();
            let mut byte = [0];
            let of_units = task::select(self.settled(admin), news(admin));
            let changed = task::select(notice(channel), of_units);
            let lost = socket.read_exact(&mut byte);
            let broken = async {
                self.link.broken.until(|| self.link.why_broken().is_some()).await;
            };
            let detached = self.changed.until(|| self.is_detached());
            let ours = task::select(task::select(broken, &mut stalled), detached);
            // The ends come first, so that many changes do not delay them.
            let first = task::select(task::select(lost, ours), changed).await;
            match first {
                Either::Right(Either::Left(Ok(()))) => {
                    if let Err(end) = self.take_over_size(socket).await {
                        return end;
                    }
                }
                Either::Right(Either::Left(Err(error))) => {
                    let name = &self.params.name;
                    info!("{name}: the back end reports no more changes: {}", error.message());
                    session.channel = None;
                }
                Either::Right(Either::Right(Either::Left(Ok(found)))) => {
                    self.follow_units(found).await;
                }
                Either::Right(Either::Right(Either::Left(Err(error)))) => {
                    let why = error.message();
                    return End::Broken(format!("does not tell which unit a target has: {why}"));
                }
                Either::Right(Either::Right(Either::Right(News::Event(event)))) => {
                    if let Some(admin) = admin {
                        self.handle(admin, event).await;
                    }
                }
                Either::Right(Either::Right(Either::Right(News::Broken(rule)))) => {
                    return End::Broken(format!("broke a rule: {rule}"));
                }
                Either::Left(Either::Left(Err(error))) => {
                    let why = error.message().to_owned();
                    return match is_closed(&error) {
                        true => End::Lost(why),
                        false => End::Broken(format!("failed: {why}")),
                    };
                }
                Either::Left(Either::Left(Ok(()))) => {
                    return End::Broken("sent a message that nobody asked for".to_owned());
                }
                Either::Left(Either::Right(Either::Left(Either::Left(())))) => {
                    let rule = self.link.why_broken().unwrap_or_default();
                    return End::Broken(format!("broke a rule: {rule}"));
                }
                Either::Left(Either::Right(Either::Left(Either::Right(limit)))) => {
                    let sec = limit.as_secs();
                    return End::Broken(format!("has completed no I/O of a queue for {sec} s"));
                }
                Either::Left(Either::Right(Either::Right(()))) => return End::Detached,
            }
        }
    }

    /// Waits until the device has made no progress with a queue's requests for `timeout_sec`.
    async fn stalled(&self) -> Duration {
        let limit = Duration::from_secs(self.params.timeout_sec.into());
        if limit.is_zero() {
            return std::future::pending().await;
        }
        let mut before = Vec::new();
        // How many times in a row a seat had made no progress.
        let mut counts = vec![0_u32; self.link.seats().len()];
        loop {
            task::sleep(limit / LOOKS).await;
            let now = self.link.progress();
            for ((count, now), before) in counts.iter_mut().zip(&now).zip(&before) {
                *count = if now.is_some() && now == before { *count + 1 } else { 0 };
            }
            if counts.iter().any(|count| *count >= LOOKS) {
                return limit;
            }
            before = now;
        }
    }

    /// Asks the back end for the size of its disk and resizes the bdev.
    async fn take_over_size(&self, socket: &mut Stream) -> Result<(), End> {
        let Device::Blk(shape) = &self.device else { return Ok(()) };
        let asked = async {
            let config = self.ask_config(socket).await?;
            shape.num_blocks(&config)
        };
        let asked = task::timeout(ANSWER_LIMIT, asked).await;
        match asked.map_err(Error::from).and_then(|result| result) {
            Ok(num_blocks) => {
                self.resize(&self.params.name, num_blocks);
                Ok(())
            }
            Err(error) => {
                let why = format!("does not tell the new size of its disk: {}", error.message());
                Err(if is_closed(&error) { End::Lost(why) } else { End::Broken(why) })
            }
        }
    }

    async fn ask_config(&self, socket: &mut Stream) -> Result<Vec<u8>> {
        let request = get_config(config_len(self.params.dev_type));
        socket.write_all(&to_message(&request, false)).await?;
        let (header, payload) = receive(socket, "GET_CONFIG").await?;
        let wrong = || Error::new(errno::EIO, "GET_CONFIG: not an answer");
        answer::config(&payload).filter(|_| header.is_reply).ok_or_else(wrong)
    }
}

/// How often the controller looks for progress in the time limit.
const LOOKS: u32 = 4;

/// The controller's own queues of a SCSI host; `None` for a block device.
fn admin(sides: Vec<Side>) -> Result<Option<Admin>> {
    debug_assert!(sides.is_empty() || sides.len() == usize::from(FIXED));
    let mut sides = sides.into_iter().skip(1); // task management is not used
    let (Some(events), Some(questions)) = (sides.next(), sides.next()) else { return Ok(None) };
    Admin::new(events, questions).map(Some)
}

/// Waits for news of a SCSI host. Without one this never ends.
async fn news(admin: Option<&Admin>) -> News {
    match admin {
        Some(admin) => admin.news().await,
        None => std::future::pending().await,
    }
}

/// Waits until the back end reports that its disk has changed. Without a channel this never ends.
async fn notice(channel: &mut Option<Stream>) -> Result<()> {
    let Some(channel) = channel else { return std::future::pending().await };
    loop {
        let (header, _) = receive(channel, "its own channel").await?;
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

/// Receives a message.
async fn receive(stream: &mut Stream, what: &str) -> Result<(Header, Vec<u8>)> {
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).await?;
    let wrong = |why: String| Error::new(errno::EIO, format!("{what}: {why}"));
    let header = Header::parse(header).map_err(|error| wrong(error.to_string()))?;
    let mut payload = vec![0; header.len as usize];
    stream.read_exact(&mut payload).await?;
    Ok((header, payload))
}
