//! The setup of one VMM, message by message.
//!
//! ```text
//!                SET_VRING_KICK, with memory, addresses and size            GET_VRING_BASE, or the memory changes
//!   ring:  set up ─────────────────────────────────────────▶ running ─────────────────────────────────────▶ set up
//! ```
//!
//! Some messages need rings to stop. The session answers such a message when the last request of these rings has been handed
//! back, and reads the next message after that. Memory changes only while no ring runs: the rings stop, the session maps the
//! new table, and the rings start again where they stopped.

use crate::device::{Device, Ring, Service};
use crate::personality::Personality;
use crate::socket::{self, End, Message};
use drivebay_sdk::runtime::resident::Resident;
use drivebay_spec_vhost::message::{
    self, Config, F_LOG_ALL, F_PROTOCOL_FEATURES, Inflight, MEM_SLOTS, MemoryRegion, Request,
    RingAddresses, RingState, VRING_F_LOG, protocol, reply,
};
use drivebay_spec_vhost::ring::feature;
use drivebay_virtio::{DirtyLog, Features, GuestMemory, InflightArea, Log, Queue, Rings};
use rustix::fs::MemfdFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Maximum number of rings of one device.
pub const RINGS_MAX: usize = 128;

/// The protocol features that the device offers.
const PROTOCOL: u64 = protocol::MQ
    | protocol::REPLY_ACK
    | protocol::BACKEND_REQ
    | protocol::CONFIG
    | protocol::CONFIGURE_MEM_SLOTS
    | protocol::INFLIGHT_SHMFD
    | protocol::LOG_SHMFD
    | protocol::RESET_DEVICE;

/// A ring as the VMM set it up.
#[derive(Debug, Default)]
struct Setup {
    size: u16,
    addresses: Option<RingAddresses>,
    base: u32,
    kick: Option<OwnedFd>,
    /// Whether the kick message has arrived. It starts the ring, with or without a descriptor.
    is_started: bool,
    is_enabled: bool,
    call: Option<OwnedFd>,
    is_running: bool,
}

/// A VMM's session.
#[derive(Debug)]
pub struct Session {
    personality: Personality,
    device: Resident<Device>,
    features: u64,
    protocol: u64,
    memory: Arc<GuestMemory>,
    /// The parts of the memory with their descriptors, to map them again after a change.
    parts: Vec<(MemoryRegion, OwnedFd)>,
    rings: Vec<Setup>,
    tracking: Option<Tracking>,
    /// The log of the pages that the device writes, while the guest migrates.
    log: Option<Arc<DirtyLog>>,
    /// The channel on which the device sends messages to the VMM.
    channel: Option<OwnedFd>,
}

/// The record of requests in flight.
#[derive(Debug)]
struct Tracking {
    area: Arc<InflightArea>,
    /// One bit for each ring that does not resume from the area of requests in flight, because it stopped cleanly or was reset.
    stopped: u128,
}

/// The answer to a message.
#[derive(Debug, Default)]
pub struct Answer {
    /// The payload. `None`: the session answers only if the VMM asks for an answer.
    pub payload: Option<Vec<u8>>,
    /// The descriptor that is sent with it.
    pub fd: Option<OwnedFd>,
}

/// The result of a message.
#[derive(Debug)]
pub enum Outcome {
    /// The message is done.
    Done(Answer),
    /// These rings must stop first. Then call [`Session::stopped`] for each, and [`Session::finish`].
    Stop(Vec<usize>),
}

impl Session {
    /// Creates a session with a device that has no rings yet.
    #[must_use]
    pub fn new(personality: Personality, device: Resident<Device>) -> Self {
        let rings = Vec::new();
        let memory = Arc::default();
        let (parts, tracking, log, channel) = (Vec::new(), None, None, None);
        let (features, protocol) = (0, 0);
        Self {
            personality,
            device,
            features,
            protocol,
            memory,
            parts,
            rings,
            tracking,
            log,
            channel,
        }
    }

    /// Features that the device offers.
    fn offered(&self) -> u64 {
        self.personality.features() | F_LOG_ALL
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Resident<Device> {
        &self.device
    }

    /// Rings that the VMM has set up.
    #[must_use]
    pub fn num_rings(&self) -> usize {
        self.rings.len()
    }

    /// Rings that run.
    #[must_use]
    pub fn running(&self) -> Vec<usize> {
        (0..).zip(&self.rings).filter(|(_, ring)| ring.is_running).map(|(index, _)| index).collect()
    }

    /// Takes the new size of the bdev. Reports it to the VMM, if the VMM gave a channel for this.
    pub fn changed(&mut self, personality: Personality) {
        self.personality = personality;
        if let Some(channel) = &self.channel {
            socket::tell_of_change(channel);
        }
    }

    /// Handles a message, if no ring must stop for it.
    ///
    /// # Errors
    /// The VMM broke the protocol, so the session ends.
    pub fn begin(&mut self, message: &mut Message) -> Result<(Request, Outcome), End> {
        let request = Request::parse(message.header.request, &message.payload)
            .map_err(|error| End::Failed(error.to_string()))?;
        let (fewest, most) = request.fds();
        if !(fewest..=most).contains(&message.fds.len()) {
            return Err(End::Failed(format!(
                "{} came with {} descriptors",
                message::name(message.header.request),
                message.fds.len()
            )));
        }
        let stop = match &request {
            Request::GetVringBase(state) => self.running_one(state.index),
            Request::SetMemTable(_) | Request::AddMemReg(_) | Request::RemMemReg(_) => {
                self.running()
            }
            Request::ResetDevice | Request::ResetOwner => self.running(),
            Request::SetVringEnable(RingState { index, num: 0 }) => self.running_one(*index),
            // A migration begins or ends, so the rings start or stop logging their writes.
            Request::SetFeatures(features) if features ^ self.features == F_LOG_ALL => {
                self.running()
            }
            Request::SetLogBase(..) => self.running(),
            Request::SetVringAddr(addresses) if self.differs_in_log(addresses) => {
                self.running_one(addresses.index)
            }
            _ => Vec::new(),
        };
        if !stop.is_empty() {
            return Ok((request, Outcome::Stop(stop)));
        }
        let answer = self.finish(&request, &mut message.fds)?;
        Ok((request, Outcome::Done(answer)))
    }

    /// A ring has stopped at `base`.
    pub fn stopped(&mut self, index: usize, base: u32) {
        if let Some(ring) = self.rings.get_mut(index) {
            (ring.is_running, ring.base) = (false, base);
        }
        if let Some(tracking) = &mut self.tracking {
            tracking.stopped |= 1 << index;
        }
    }

    /// Carries out a message. None of its rings runs.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub fn finish(&mut self, request: &Request, fds: &mut Vec<OwnedFd>) -> Result<Answer, End> {
        let payload = |payload| Ok(Answer { payload: Some(payload), fd: None });
        let number = |number| payload(reply::number(number));
        match request {
            Request::GetFeatures => return number(self.offered()),
            Request::SetFeatures(features) => self.set_features(*features)?,
            Request::GetProtocolFeatures => return number(PROTOCOL),
            Request::SetProtocolFeatures(features) => {
                if features & !PROTOCOL != 0 {
                    return Err(failed(format!(
                        "protocol features {features:#x} were not offered"
                    )));
                }
                self.protocol = *features;
            }
            Request::GetQueueNum => return number(RINGS_MAX as u64),
            Request::GetMaxMemSlots => return number(MEM_SLOTS),
            Request::GetConfig(config) => return payload(self.config(config)),
            Request::SetConfig(_) => {} // a driver may not change anything
            Request::SetMemTable(parts) => {
                self.parts = parts.iter().copied().zip(fds.drain(..)).collect();
                self.map()?;
            }
            Request::AddMemReg(part) => {
                if self.parts.len() as u64 == MEM_SLOTS {
                    return Err(failed(format!("more than {MEM_SLOTS} parts of memory")));
                }
                self.parts.extend(fds.pop().map(|fd| (*part, fd)));
                self.map()?;
            }
            Request::RemMemReg(part) => {
                let same = |other: &MemoryRegion| {
                    (other.guest_addr, other.user_addr, other.len)
                        == (part.guest_addr, part.user_addr, part.len)
                };
                self.parts.retain(|(other, _)| !same(other));
                self.map()?;
            }
            Request::SetVringNum(state) => {
                let size = u16::try_from(state.num).ok();
                self.ring(state.index)?.size =
                    size.ok_or_else(|| failed(format!("a ring of {} entries", state.num)))?;
            }
            Request::SetVringAddr(addresses) => {
                self.idle_ring(addresses.index)?.addresses = Some(*addresses);
            }
            Request::SetVringBase(state) => self.idle_ring(state.index)?.base = state.num,
            Request::GetVringBase(state) => {
                let ring = self.ring(state.index)?;
                (ring.is_started, ring.kick) = (false, None);
                let num = ring.base;
                return payload(reply::ring_state(RingState { index: state.index, num }));
            }
            Request::SetVringKick(ring) => {
                let index = ring.index.into();
                let setup = self.idle_ring(index)?;
                (setup.kick, setup.is_started) = (fds.pop(), true);
            }
            Request::SetVringCall(ring) => {
                let index = usize::from(ring.index);
                let call = fds.pop();
                let setup = self.ring(ring.index.into())?;
                if setup.is_running {
                    let no_fd = |error: std::io::Error| failed(format!("ring {index}: {error}"));
                    let call = call.as_ref().map(OwnedFd::try_clone).transpose().map_err(no_fd)?;
                    self.device.send(move |device| device.set_call(index, call));
                }
                self.ring(ring.index.into())?.call = call;
            }
            Request::SetVringErr(_) => fds.clear(),
            Request::SetVringEnable(state) => self.ring(state.index)?.is_enabled = state.num != 0,
            Request::ResetDevice | Request::ResetOwner => {
                self.rings.clear();
                if let Some(tracking) = &mut self.tracking {
                    tracking.stopped = u128::MAX;
                }
            }
            Request::GetInflightFd(wanted) => return self.make_inflight(wanted),
            Request::SetInflightFd(kept) => self.set_inflight(kept, fds.pop())?,
            Request::SetOwner | Request::SetStatus(_) => {}
            Request::GetStatus => return number(0),
            Request::SetBackendReqFd => self.channel = fds.pop(),
            Request::SetLogBase(len, offset) => {
                let Some(fd) = fds.pop() else { return number(1) }; // `begin` checked that there is one
                let log = DirtyLog::map(*len, *offset, fd.as_fd())
                    .map_err(|error| failed(error.to_string()))?;
                self.log = Some(Arc::new(log));
                self.start_rings()?;
                return number(0);
            }
            // Ignore the descriptor: the VMM polls the log, so it needs no calls.
            Request::SetLogFd => fds.clear(),
        }
        self.start_rings()?;
        Ok(Answer::default())
    }

    fn is_packed(&self) -> bool {
        self.features & feature::RING_PACKED != 0
    }

    /// Creates an area for requests in flight, which the VMM keeps.
    fn make_inflight(&self, wanted: &Inflight) -> Result<Answer, End> {
        let Inflight { num_queues, queue_size, .. } = *wanted;
        let refuse = |why: String| failed(format!("the area for requests in flight: {why}"));
        let len = InflightArea::len(num_queues, queue_size, self.is_packed())
            .filter(|_| usize::from(num_queues) <= RINGS_MAX)
            .ok_or_else(|| refuse(format!("{num_queues} rings of {queue_size} entries")))?;
        let file = rustix::fs::memfd_create("vhost-inflight", MemfdFlags::CLOEXEC)
            .and_then(|fd| rustix::fs::ftruncate(&fd, len).map(|()| fd))
            .map_err(|error| refuse(error.to_string()))?;
        let made = Inflight { mmap_size: len, mmap_offset: 0, num_queues, queue_size };
        Ok(Answer { payload: Some(reply::inflight(&made)), fd: Some(file) })
    }

    /// Starts using the area that the VMM keeps. It is new, or the last device has used it.
    fn set_inflight(&mut self, kept: &Inflight, fd: Option<OwnedFd>) -> Result<(), End> {
        let running = self.running();
        if let Some(index) = running.first() {
            return Err(failed(format!(
                "the area for requests in flight changes while ring {index} runs"
            )));
        }
        let Some(fd) = fd else { return Ok(()) }; // `begin` checked that there is one
        let area = InflightArea::map(kept, self.is_packed(), fd.as_fd())
            .map_err(|error| failed(error.to_string()))?;
        self.tracking = Some(Tracking { area: Arc::new(area), stopped: 0 });
        Ok(())
    }

    fn set_features(&mut self, features: u64) -> Result<(), End> {
        let offered = self.offered();
        if features & !offered != 0 {
            return Err(failed(format!("features {:#x} were not offered", features & !offered)));
        }
        if !self.running().is_empty() && features != self.features {
            return Err(failed("features change while rings run".into()));
        }
        self.features = features;
        self.device.send(move |device| {
            if let Service::Scsi(scsi) = device.service() {
                scsi.set_features(features);
            }
        });
        Ok(())
    }

    fn config(&self, asked: &Config) -> Vec<u8> {
        let whole = self.personality.config(RINGS_MAX);
        let mut bytes = asked.bytes.clone();
        let from = usize::try_from(asked.offset).unwrap_or(usize::MAX);
        for (place, at) in bytes.iter_mut().zip(from..) {
            // Bytes behind the end read as zero.
            *place = whole.get(at).copied().unwrap_or(0);
        }
        reply::config(&Config { bytes, ..asked.clone() })
    }

    /// Maps all parts of the memory.
    fn map(&mut self) -> Result<(), End> {
        let mut memory = GuestMemory::default();
        for (part, fd) in &self.parts {
            memory.add(part, fd.as_fd()).map_err(|error| failed(error.to_string()))?;
        }
        self.memory = Arc::new(memory);
        Ok(())
    }

    /// Starts every ring that is set up completely.
    fn start_rings(&mut self) -> Result<(), End> {
        let always_enabled = self.features & F_PROTOCOL_FEATURES == 0;
        let features = Features {
            packed: self.is_packed(),
            event_idx: self.features & feature::EVENT_IDX != 0,
            indirect: self.features & feature::INDIRECT_DESC != 0,
        };
        for (index, ring) in (0..).zip(&mut self.rings) {
            let is_enabled = ring.is_enabled || always_enabled;
            if ring.is_running || !ring.is_started || !is_enabled || self.memory.num_parts() == 0 {
                continue;
            }
            let Some(addresses) = ring.addresses else { continue };
            let guest = |addr| {
                let missing =
                    || failed(format!("ring {index} at {addr:#x} is not in the guest's memory"));
                self.memory.guest_addr(addr).ok_or_else(missing)
            };
            let rings = Rings {
                size: ring.size,
                descriptors: guest(addresses.descriptors)?,
                available: guest(addresses.available)?,
                used: guest(addresses.used)?,
            };
            let inflight = match &self.tracking {
                Some(tracking) => Some(tracking.ring(index, ring.size, features.packed)?),
                None => None,
            };
            let memory = Arc::clone(&self.memory);
            let mut queue = Queue::new(memory, &rings, ring.base, features, inflight)
                .map_err(|broken| failed(format!("ring {index}: {broken}")))?;
            if self.features & F_LOG_ALL != 0
                && let Some(pages) = &self.log
            {
                let with_ring = addresses.flags & VRING_F_LOG != 0;
                queue.set_log(Log { pages: Arc::clone(pages), with_ring });
            }
            let clone = |fd: &Option<OwnedFd>| fd.as_ref().map(OwnedFd::try_clone).transpose();
            let no_fd = |error: std::io::Error| failed(format!("ring {index}: {error}"));
            let (kick, call) =
                (clone(&ring.kick).map_err(no_fd)?, clone(&ring.call).map_err(no_fd)?);
            let writes_through = self.personality.writes_through(self.features);
            let start = Ring { index, queue, kick, call, writes_through };
            self.device.send(move |device| device.start(start));
            ring.is_running = true;
        }
        Ok(())
    }

    /// Whether the addresses of a ring stay the same, and only its log changes.
    fn differs_in_log(&self, addresses: &RingAddresses) -> bool {
        let index = usize::try_from(addresses.index).unwrap_or(usize::MAX);
        let before = self.rings.get(index).and_then(|ring| ring.addresses);
        before.is_some_and(|before| {
            let RingAddresses { flags, log, .. } = before;
            before != *addresses && RingAddresses { flags, log, ..*addresses } == before
        })
    }

    fn running_one(&self, index: u32) -> Vec<usize> {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let ring = self.rings.get(index).filter(|ring| ring.is_running);
        ring.map(|_| index).into_iter().collect()
    }

    fn ring(&mut self, index: u32) -> Result<&mut Setup, End> {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        if index >= RINGS_MAX {
            return Err(failed(format!("ring {index}: there are {RINGS_MAX} at most")));
        }
        if self.rings.len() <= index {
            self.rings.resize_with(index + 1, Setup::default);
        }
        self.rings.get_mut(index).ok_or_else(|| failed(format!("ring {index}")))
    }

    /// A ring that does not run, so that its setup may change.
    fn idle_ring(&mut self, index: u32) -> Result<&mut Setup, End> {
        let ring = self.ring(index)?;
        if ring.is_running {
            return Err(failed(format!("ring {index} is changed while it runs")));
        }
        Ok(ring)
    }
}

impl Tracking {
    /// The record of a ring.
    fn ring(
        &self,
        index: usize,
        size: u16,
        is_packed: bool,
    ) -> Result<drivebay_virtio::Inflight, End> {
        let resumes = self.stopped & (1 << index) == 0;
        let record = self.area.ring(index, size, resumes);
        record.filter(|_| self.area.is_packed() == is_packed).ok_or_else(|| {
            failed(format!(
                "the area for requests in flight has no room for ring {index} of {size} entries"
            ))
        })
    }
}

fn failed(why: String) -> End {
    End::Failed(why)
}
