//! vhost-user messages, as a back end receives and answers them.
//!
//! A message is a header of 12 bytes and a payload. Descriptors travel beside it (`SCM_RIGHTS`); the session
//! checks their number, since only it has them.

use crate::bytes::Reader;
use std::fmt;

/// Length of a header, in bytes.
pub const HEADER_LEN: usize = 12;
/// Longest payload that is taken, in bytes: the largest memory table and the largest configuration fit.
pub const PAYLOAD_MAX: usize = 4096;
/// Memory regions of one table.
pub const REGIONS_MAX: usize = 8;
/// Memory slots offered by `GET_MAX_MEM_SLOTS`.
pub const MEM_SLOTS: u64 = 32;
/// Descriptors that may travel with one message.
pub const FDS_MAX: usize = REGIONS_MAX;
/// Configuration space that a message may carry, in bytes.
pub const CONFIG_MAX: usize = 256;

/// Protocol features (`GET_PROTOCOL_FEATURES`), as masks.
pub mod protocol {
    /// Several queues: `GET_QUEUE_NUM`.
    pub const MQ: u64 = 1 << 0;
    /// The log of dirty pages is a descriptor.
    pub const LOG_SHMFD: u64 = 1 << 1;
    /// A front end may ask for an answer to any message.
    pub const REPLY_ACK: u64 = 1 << 3;
    /// The back end has a channel of its own to the front end.
    pub const BACKEND_REQ: u64 = 1 << 5;
    /// Configuration space: `GET_CONFIG`, `SET_CONFIG`.
    pub const CONFIG: u64 = 1 << 9;
    /// Descriptors may travel on the back end's channel.
    pub const BACKEND_SEND_FD: u64 = 1 << 10;
    /// A shared area says which requests are in flight.
    pub const INFLIGHT_SHMFD: u64 = 1 << 12;
    /// `RESET_DEVICE`.
    pub const RESET_DEVICE: u64 = 1 << 13;
    /// Memory regions come and go one at a time.
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    /// `SET_STATUS`, `GET_STATUS`.
    pub const STATUS: u64 = 1 << 16;
}

/// Feature bit of virtio that says the front end knows protocol features.
pub const F_PROTOCOL_FEATURES: u64 = 1 << 30;
/// Feature bit of vhost: dirty pages are logged.
pub const F_LOG_ALL: u64 = 1 << 26;
/// Flag of `SET_VRING_ADDR`: writes to the used ring are logged.
pub const VRING_F_LOG: u32 = 1;

const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const FLAG_REPLY: u32 = 4;
const FLAG_NEED_REPLY: u32 = 8;

/// The first 12 bytes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number of the request.
    pub request: u32,
    /// Whether the sender wants an answer that it would not get otherwise.
    pub needs_reply: bool,
    /// Whether this is an answer.
    pub is_reply: bool,
    /// Length of the payload, in bytes.
    pub len: u32,
}

/// Why a message cannot be taken. The session ends: the stream is not to be trusted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// A protocol version other than 1.
    Version(u32),
    /// A payload that is too long.
    TooLong {
        /// Number of the request.
        request: u32,
        /// Bytes that it announces.
        len: u32,
    },
    /// A payload of the wrong length, or a number in it that cannot be.
    Payload {
        /// Number of the request.
        request: u32,
    },
    /// A request that this back end does not know.
    Unknown(u32),
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(f, "protocol version {version}, expected {VERSION}"),
            Self::TooLong { request, len } => {
                write!(f, "{} announces {len} bytes, more than {PAYLOAD_MAX}", name(*request))
            }
            Self::Payload { request } => {
                write!(f, "{} has a payload that cannot be", name(*request))
            }
            Self::Unknown(request) => write!(f, "request {request} is not known"),
        }
    }
}

impl std::error::Error for MessageError {}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// A wrong version, or a payload that is too long.
    pub fn parse(bytes: [u8; HEADER_LEN]) -> Result<Self, MessageError> {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        let request = u32::from_le_bytes([a, b, c, d]);
        let flags = u32::from_le_bytes([e, f, g, h]);
        let len = u32::from_le_bytes([i, j, k, l]);
        if flags & VERSION_MASK != VERSION {
            return Err(MessageError::Version(flags & VERSION_MASK));
        }
        if len as usize > PAYLOAD_MAX {
            return Err(MessageError::TooLong { request, len });
        }
        let needs_reply = flags & FLAG_NEED_REPLY != 0;
        Ok(Self { request, needs_reply, is_reply: flags & FLAG_REPLY != 0, len })
    }

    /// The bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut flags = VERSION;
        if self.is_reply {
            flags |= FLAG_REPLY;
        }
        if self.needs_reply {
            flags |= FLAG_NEED_REPLY;
        }
        let mut bytes = [0; HEADER_LEN];
        for (place, number) in bytes.chunks_exact_mut(4).zip([self.request, flags, self.len]) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }
}

/// A piece of the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRegion {
    /// First address, as the guest sees it.
    pub guest_addr: u64,
    /// Length, in bytes.
    pub len: u64,
    /// First address in the front end's own space: ring addresses are given in these.
    pub user_addr: u64,
    /// Where it begins in its descriptor, in bytes.
    pub mmap_offset: u64,
}

/// The addresses of a ring, in the front end's own space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// Index of the ring.
    pub index: u32,
    /// `VRING_F_LOG`.
    pub flags: u32,
    /// Descriptor table; the ring itself when packed.
    pub descriptors: u64,
    /// Used ring; device event area when packed.
    pub used: u64,
    /// Available ring; driver event area when packed.
    pub available: u64,
    /// Guest address at which writes to the used ring are logged.
    pub log: u64,
}

/// The shared area that says what is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inflight {
    /// Length of the area, in bytes.
    pub mmap_size: u64,
    /// Where it begins in its descriptor, in bytes.
    pub mmap_offset: u64,
    /// Rings it has room for.
    pub num_queues: u16,
    /// Entries of each.
    pub queue_size: u16,
}

/// A ring and a number: a size, or a place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingState {
    /// Index of the ring.
    pub index: u32,
    /// The number.
    pub num: u32,
}

/// A ring whose descriptor (kick, call, error) comes with the message, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingFd {
    /// Index of the ring.
    pub index: u8,
    /// Whether a descriptor must come with the message; without one the ring is polled.
    pub has_fd: bool,
}

/// Part of the configuration space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// First byte.
    pub offset: u32,
    /// Flags: 0 = the driver writes, 1 = migration.
    pub flags: u32,
    /// The bytes; in a question, as many as are wanted.
    pub bytes: Vec<u8>,
}

/// What a front end asks of a back end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the protocol's")]
pub enum Request {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    ResetOwner,
    SetMemTable(Vec<MemoryRegion>),
    /// Length and offset of the log in its descriptor.
    SetLogBase(u64, u64),
    SetLogFd,
    SetVringNum(RingState),
    SetVringAddr(RingAddresses),
    SetVringBase(RingState),
    GetVringBase(RingState),
    SetVringKick(RingFd),
    SetVringCall(RingFd),
    SetVringErr(RingFd),
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    GetQueueNum,
    SetVringEnable(RingState),
    SetBackendReqFd,
    GetConfig(Config),
    SetConfig(Config),
    GetInflightFd(Inflight),
    SetInflightFd(Inflight),
    ResetDevice,
    GetMaxMemSlots,
    AddMemReg(MemoryRegion),
    RemMemReg(MemoryRegion),
    SetStatus(u64),
    GetStatus,
}

impl Request {
    /// Reads the payload of a request.
    ///
    /// # Errors
    /// A request that is not known, or a payload that does not fit it.
    pub fn parse(request: u32, payload: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader(payload);
        let parsed = Self::read(request, &mut reader).ok_or(MessageError::Payload { request });
        match parsed? {
            None => Err(MessageError::Unknown(request)),
            Some(_) if !reader.0.is_empty() => Err(MessageError::Payload { request }),
            Some(parsed) => Ok(parsed),
        }
    }

    /// `None` when the payload is too short or wrong, `Some(None)` when the request is not known.
    fn read(request: u32, r: &mut Reader<'_>) -> Option<Option<Self>> {
        Some(Some(match request {
            1 => Self::GetFeatures,
            2 => Self::SetFeatures(r.u64()?),
            3 => Self::SetOwner,
            4 => Self::ResetOwner,
            5 => Self::SetMemTable(memory_table(r)?),
            6 => Self::SetLogBase(r.u64()?, r.u64()?),
            7 => Self::SetLogFd,
            8 => Self::SetVringNum(ring_state(r)?),
            9 => Self::SetVringAddr(ring_addresses(r)?),
            10 => Self::SetVringBase(ring_state(r)?),
            11 => Self::GetVringBase(ring_state(r)?),
            12 => Self::SetVringKick(ring_fd(r)?),
            13 => Self::SetVringCall(ring_fd(r)?),
            14 => Self::SetVringErr(ring_fd(r)?),
            15 => Self::GetProtocolFeatures,
            16 => Self::SetProtocolFeatures(r.u64()?),
            17 => Self::GetQueueNum,
            18 => Self::SetVringEnable(ring_state(r)?),
            21 => Self::SetBackendReqFd,
            24 => Self::GetConfig(config(r)?),
            25 => Self::SetConfig(config(r)?),
            31 => Self::GetInflightFd(inflight(r)?),
            32 => Self::SetInflightFd(inflight(r)?),
            34 => Self::ResetDevice,
            36 => Self::GetMaxMemSlots,
            37 => Self::AddMemReg(one_region(r)?),
            38 => Self::RemMemReg(one_region(r)?),
            39 => Self::SetStatus(r.u64()?),
            40 => Self::GetStatus,
            _ => return Some(None),
        }))
    }

    /// How many descriptors must come with it: the fewest and the most.
    #[must_use]
    pub fn fds(&self) -> (usize, usize) {
        match self {
            Self::SetMemTable(regions) => (regions.len(), regions.len()),
            Self::SetLogBase(..) | Self::SetLogFd | Self::SetBackendReqFd => (1, 1),
            Self::SetInflightFd(_) | Self::AddMemReg(_) => (1, 1),
            Self::SetVringKick(ring) | Self::SetVringCall(ring) | Self::SetVringErr(ring) => {
                (ring.has_fd.into(), ring.has_fd.into())
            }
            // QEMU sends the descriptor of the region that goes; it is not needed.
            Self::RemMemReg(_) => (0, 1),
            _ => (0, 0),
        }
    }

    /// Whether the protocol has an answer of its own for it. Others are answered only when the front end wants it
    /// (`REPLY_ACK`).
    #[must_use]
    pub fn has_reply(&self) -> bool {
        matches!(
            self,
            Self::GetFeatures
                | Self::GetVringBase(_)
                | Self::GetProtocolFeatures
                | Self::GetQueueNum
                | Self::GetConfig(_)
                | Self::GetInflightFd(_)
                | Self::GetMaxMemSlots
                | Self::GetStatus
        )
    }
}

fn memory_region(r: &mut Reader<'_>) -> Option<MemoryRegion> {
    let region = MemoryRegion {
        guest_addr: r.u64()?,
        len: r.u64()?,
        user_addr: r.u64()?,
        mmap_offset: r.u64()?,
    };
    let ends = [region.guest_addr, region.user_addr, region.mmap_offset];
    let fits = ends.iter().all(|start| start.checked_add(region.len).is_some());
    (fits && region.len > 0).then_some(region)
}

fn memory_table(r: &mut Reader<'_>) -> Option<Vec<MemoryRegion>> {
    let count = r.u32()? as usize;
    let _padding = r.u32()?;
    if count > REGIONS_MAX {
        return None;
    }
    (0..count).map(|_| memory_region(r)).collect()
}

fn one_region(r: &mut Reader<'_>) -> Option<MemoryRegion> {
    let _padding = r.u64()?;
    memory_region(r)
}

fn ring_state(r: &mut Reader<'_>) -> Option<RingState> {
    Some(RingState { index: r.u32()?, num: r.u32()? })
}

fn ring_addresses(r: &mut Reader<'_>) -> Option<RingAddresses> {
    Some(RingAddresses {
        index: r.u32()?,
        flags: r.u32()?,
        descriptors: r.u64()?,
        used: r.u64()?,
        available: r.u64()?,
        log: r.u64()?,
    })
}

fn ring_fd(r: &mut Reader<'_>) -> Option<RingFd> {
    let number = r.u64()?;
    let index = u8::try_from(number & 0xff).ok()?;
    Some(RingFd { index, has_fd: number & 0x100 == 0 })
}

fn inflight(r: &mut Reader<'_>) -> Option<Inflight> {
    let inflight = Inflight {
        mmap_size: r.u64()?,
        mmap_offset: r.u64()?,
        num_queues: r.u16()?,
        queue_size: r.u16()?,
    };
    // QEMU pads the structure to a multiple of 8 bytes.
    if !r.0.is_empty() {
        let _padding = r.u32()?;
    }
    Some(inflight)
}

fn config(r: &mut Reader<'_>) -> Option<Config> {
    let (offset, len, flags) = (r.u32()?, r.u32()? as usize, r.u32()?);
    if len > CONFIG_MAX || r.0.len() != len {
        return None;
    }
    let bytes = std::mem::take(&mut r.0).to_vec();
    Some(Config { offset, flags, bytes })
}

/// The bytes of an answer's payload.
pub mod reply {
    use super::{Config, Inflight, RingState};

    /// A number: features, numbers of queues, slots, a status, or the result that `REPLY_ACK` wants (0 = done).
    #[must_use]
    pub fn number(number: u64) -> Vec<u8> {
        number.to_le_bytes().to_vec()
    }

    /// The place at which a ring stopped.
    #[must_use]
    pub fn ring_state(state: RingState) -> Vec<u8> {
        [state.index.to_le_bytes(), state.num.to_le_bytes()].concat()
    }

    /// Configuration space. No bytes mean that the question was wrong.
    #[must_use]
    pub fn config(config: &Config) -> Vec<u8> {
        let len = u32::try_from(config.bytes.len()).unwrap_or(0);
        let mut bytes = [config.offset, len, config.flags].map(u32::to_le_bytes).concat();
        bytes.extend_from_slice(&config.bytes);
        bytes
    }

    /// The area for requests in flight; its descriptor travels beside.
    #[must_use]
    pub fn inflight(inflight: &Inflight) -> Vec<u8> {
        let mut bytes = [inflight.mmap_size, inflight.mmap_offset].map(u64::to_le_bytes).concat();
        for number in [inflight.num_queues, inflight.queue_size, 0, 0] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes
    }
}

/// Number of the back end's request that says "the configuration space has changed".
pub const BACKEND_CONFIG_CHANGE: u32 = 2;

/// The protocol's name of a request, for people.
#[must_use]
pub fn name(request: u32) -> &'static str {
    const NAMES: [&str; 41] = [
        "NONE",
        "GET_FEATURES",
        "SET_FEATURES",
        "SET_OWNER",
        "RESET_OWNER",
        "SET_MEM_TABLE",
        "SET_LOG_BASE",
        "SET_LOG_FD",
        "SET_VRING_NUM",
        "SET_VRING_ADDR",
        "SET_VRING_BASE",
        "GET_VRING_BASE",
        "SET_VRING_KICK",
        "SET_VRING_CALL",
        "SET_VRING_ERR",
        "GET_PROTOCOL_FEATURES",
        "SET_PROTOCOL_FEATURES",
        "GET_QUEUE_NUM",
        "SET_VRING_ENABLE",
        "SEND_RARP",
        "NET_SET_MTU",
        "SET_BACKEND_REQ_FD",
        "IOTLB_MSG",
        "SET_VRING_ENDIAN",
        "GET_CONFIG",
        "SET_CONFIG",
        "CREATE_CRYPTO_SESSION",
        "CLOSE_CRYPTO_SESSION",
        "POSTCOPY_ADVISE",
        "POSTCOPY_LISTEN",
        "POSTCOPY_END",
        "GET_INFLIGHT_FD",
        "SET_INFLIGHT_FD",
        "GPU_SET_SOCKET",
        "RESET_DEVICE",
        "VRING_KICK",
        "GET_MAX_MEM_SLOTS",
        "ADD_MEM_REG",
        "REM_MEM_REG",
        "SET_STATUS",
        "GET_STATUS",
    ];
    usize::try_from(request).ok().and_then(|at| NAMES.get(at)).unwrap_or(&"an unknown request")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(numbers: &[u64]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    #[test]
    fn a_header_reads_as_it_was_written() {
        let header = Header { request: 5, needs_reply: true, is_reply: false, len: 40 };
        assert_eq!(header.to_bytes(), [5, 0, 0, 0, 9, 0, 0, 0, 40, 0, 0, 0]);
        assert_eq!(Header::parse(header.to_bytes()), Ok(header));
    }

    #[test]
    fn other_versions_and_long_payloads_are_refused() {
        let mut bytes =
            Header { request: 1, needs_reply: false, is_reply: false, len: 0 }.to_bytes();
        bytes[4] = 2;
        assert_eq!(Header::parse(bytes), Err(MessageError::Version(2)));
        bytes[4] = 1;
        bytes[9] = 0x20;
        let error = Header::parse(bytes).unwrap_err();
        assert_eq!(error.to_string(), "GET_FEATURES announces 8192 bytes, more than 4096");
    }

    #[test]
    fn a_memory_table_is_read_and_wants_a_descriptor_for_each_region() {
        let payload = numbers(&[1, 0x1000, 0x2000, 0x7f00_0000, 0x3000]);
        let request = Request::parse(5, &payload).unwrap();
        let region = MemoryRegion {
            guest_addr: 0x1000,
            len: 0x2000,
            user_addr: 0x7f00_0000,
            mmap_offset: 0x3000,
        };
        assert_eq!(request, Request::SetMemTable(vec![region]));
        assert_eq!(request.fds(), (1, 1));
    }

    #[test]
    fn tables_that_cannot_be_are_refused() {
        let refused = Err(MessageError::Payload { request: 5 });
        assert_eq!(Request::parse(5, &numbers(&[9])), refused);
        assert_eq!(Request::parse(5, &numbers(&[1, 0, 0, 0, 0])), refused, "no bytes");
        assert_eq!(Request::parse(5, &numbers(&[1, u64::MAX, 2, 0, 0])), refused, "wraps");
        assert_eq!(Request::parse(5, &numbers(&[1, 0, 1, 0])), refused, "cut off");
        assert_eq!(Request::parse(5, &numbers(&[0, 0])), refused, "too long");
    }

    #[test]
    fn a_ring_without_a_descriptor_is_polled() {
        let kick = Request::parse(12, &numbers(&[0x103])).unwrap();
        assert_eq!(kick, Request::SetVringKick(RingFd { index: 3, has_fd: false }));
        assert_eq!(kick.fds(), (0, 0));
    }

    #[test]
    fn a_configuration_must_be_as_long_as_it_says() {
        let mut payload = [0_u32, 4, 0].map(u32::to_le_bytes).concat();
        payload.extend([1, 2, 3, 4]);
        let config = Config { offset: 0, flags: 0, bytes: vec![1, 2, 3, 4] };
        assert_eq!(Request::parse(24, &payload), Ok(Request::GetConfig(config.clone())));
        assert_eq!(reply::config(&config), payload);
        payload.pop();
        assert!(Request::parse(24, &payload).is_err());
    }

    #[test]
    fn requests_that_are_not_served_are_told_apart_from_wrong_ones() {
        assert_eq!(Request::parse(19, &[]), Err(MessageError::Unknown(19)));
        assert_eq!(Request::parse(2, &[]), Err(MessageError::Payload { request: 2 }));
    }

    proptest! {
        #[test]
        fn no_payload_panics(request in 0_u32..64, payload in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(request) = Request::parse(request, &payload) {
                let (fewest, most) = request.fds();
                prop_assert!(fewest <= most && most <= FDS_MAX);
            }
        }
    }
}
