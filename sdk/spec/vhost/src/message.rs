//! vhost-user messages, for the back end.
//!
//! A message is a header of 12 bytes and a payload. Descriptors travel next to it (`SCM_RIGHTS`). Only the session has
//! them, so it checks their number.

use crate::bytes::Reader;
use std::fmt;

/// Length of a header, in bytes.
pub const HEADER_LEN: usize = 12;
/// Maximum accepted length of a payload, in bytes. The largest memory table and the largest configuration fit.
pub const PAYLOAD_MAX: usize = 4096;
/// Maximum number of memory regions of one table.
pub const REGIONS_MAX: usize = 8;
/// Number of memory slots that `GET_MAX_MEM_SLOTS` returns.
pub const MEM_SLOTS: u64 = 32;
/// Maximum number of descriptors per message.
pub const FDS_MAX: usize = REGIONS_MAX;
/// Maximum length of configuration space in a message, in bytes.
pub const CONFIG_MAX: usize = 256;

/// Protocol features (`GET_PROTOCOL_FEATURES`), as masks.
pub mod protocol {
    /// Several queues: `GET_QUEUE_NUM`.
    pub const MQ: u64 = 1 << 0;
    /// The log of dirty pages is passed as a descriptor.
    pub const LOG_SHMFD: u64 = 1 << 1;
    /// A front end may request an answer to any message.
    pub const REPLY_ACK: u64 = 1 << 3;
    /// The back end has its own channel to the front end.
    pub const BACKEND_REQ: u64 = 1 << 5;
    /// Configuration space: `GET_CONFIG`, `SET_CONFIG`.
    pub const CONFIG: u64 = 1 << 9;
    /// Descriptors may travel on the back end's channel.
    pub const BACKEND_SEND_FD: u64 = 1 << 10;
    /// A shared area records requests in flight.
    pub const INFLIGHT_SHMFD: u64 = 1 << 12;
    /// `RESET_DEVICE`.
    pub const RESET_DEVICE: u64 = 1 << 13;
    /// Memory regions are added and removed one at a time.
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    /// `SET_STATUS`, `GET_STATUS`.
    pub const STATUS: u64 = 1 << 16;
}

/// Feature bit of virtio: the front end supports protocol features.
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
    /// Whether the sender requests an answer to a message that has none of its own.
    pub needs_reply: bool,
    /// Whether this is an answer.
    pub is_reply: bool,
    /// Length of the payload, in bytes.
    pub len: u32,
}

/// Why a message is refused. The session must end, because the rest of the stream is unreliable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// The protocol version is not 1.
    Version(u32),
    /// The payload is too long.
    TooLong {
        /// Number of the request.
        request: u32,
        /// Announced length, in bytes.
        len: u32,
    },
    /// The payload has a wrong length, or contains an impossible number.
    Payload {
        /// Number of the request.
        request: u32,
    },
    /// This back end does not support the request.
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
                write!(f, "{} has an invalid payload", name(*request))
            }
            Self::Unknown(request) => write!(f, "request {request} is not supported"),
        }
    }
}

impl std::error::Error for MessageError {}

impl Header {
    /// Parses a header.
    ///
    /// # Errors
    /// The version is wrong, or the payload is too long.
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

    /// Encodes the header.
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

/// A region of the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRegion {
    /// First address in the guest's address space.
    pub guest_addr: u64,
    /// Length, in bytes.
    pub len: u64,
    /// First address in the front end's address space. Ring addresses use this space.
    pub user_addr: u64,
    /// Offset of the region in its descriptor, in bytes.
    pub mmap_offset: u64,
}

/// The addresses of a ring, in the front end's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// Index of the ring.
    pub index: u32,
    /// `VRING_F_LOG`.
    pub flags: u32,
    /// Descriptor table; for packed rings, the ring itself.
    pub descriptors: u64,
    /// Used ring; for packed rings, the device event area.
    pub used: u64,
    /// Available ring; for packed rings, the driver event area.
    pub available: u64,
    /// Guest address for logging writes to the used ring.
    pub log: u64,
}

/// The shared area that records requests in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inflight {
    /// Length of the area, in bytes.
    pub mmap_size: u64,
    /// Offset of the area in its descriptor, in bytes.
    pub mmap_offset: u64,
    /// Number of rings.
    pub num_queues: u16,
    /// Number of entries per ring.
    pub queue_size: u16,
}

/// A ring and a number: its size, or a position in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingState {
    /// Index of the ring.
    pub index: u32,
    /// The number.
    pub num: u32,
}

/// A ring whose descriptor (kick, call, error) may come with the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingFd {
    /// Index of the ring.
    pub index: u8,
    /// Whether a descriptor must come with the message. Without one, the ring is polled.
    pub has_fd: bool,
}

/// Part of the configuration space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// First byte.
    pub offset: u32,
    /// Flags: 0 = the driver's write, 1 = migration.
    pub flags: u32,
    /// The bytes. In a request to read, the length is the requested number of bytes.
    pub bytes: Vec<u8>,
}

/// A front end's request to a back end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the protocol's")]
pub enum Request {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    ResetOwner,
    SetMemTable(Vec<MemoryRegion>),
    /// Length of the log, and its offset in the descriptor.
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
    /// Parses the payload of a request.
    ///
    /// # Errors
    /// The request is not supported, or the payload does not match it.
    pub fn parse(request: u32, payload: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader(payload);
        let parsed = Self::read(request, &mut reader).ok_or(MessageError::Payload { request });
        match parsed? {
            None => Err(MessageError::Unknown(request)),
            Some(_) if !reader.0.is_empty() => Err(MessageError::Payload { request }),
            Some(parsed) => Ok(parsed),
        }
    }

    /// `None` when the payload is too short or wrong, `Some(None)` when the request is not supported.
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

    /// The minimum and maximum number of descriptors that must come with the request.
    #[must_use]
    pub fn fds(&self) -> (usize, usize) {
        match self {
            Self::SetMemTable(regions) => (regions.len(), regions.len()),
            Self::SetLogBase(..) | Self::SetLogFd | Self::SetBackendReqFd => (1, 1),
            Self::SetInflightFd(_) | Self::AddMemReg(_) => (1, 1),
            Self::SetVringKick(ring) | Self::SetVringCall(ring) | Self::SetVringErr(ring) => {
                (ring.has_fd.into(), ring.has_fd.into())
            }
            // QEMU sends the descriptor of the removed region. It is not needed.
            Self::RemMemReg(_) => (0, 1),
            _ => (0, 0),
        }
    }

    /// Whether the protocol defines an answer to the request. Other requests are answered only when the front end requests
    /// it (`REPLY_ACK`).
    #[must_use]
    pub fn has_reply(&self) -> bool {
        matches!(
            self,
            Self::GetFeatures
                | Self::SetLogBase(..)
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

/// Payloads of answers.
pub mod reply {
    use super::{Config, Inflight, RingState};

    /// A number: features, number of queues, slots, a status, or the result for `REPLY_ACK` (0 = success).
    #[must_use]
    pub fn number(number: u64) -> Vec<u8> {
        number.to_le_bytes().to_vec()
    }

    /// The position at which a ring stopped.
    #[must_use]
    pub fn ring_state(state: RingState) -> Vec<u8> {
        [state.index.to_le_bytes(), state.num.to_le_bytes()].concat()
    }

    /// Configuration space. Empty when the request was wrong.
    #[must_use]
    pub fn config(config: &Config) -> Vec<u8> {
        let len = u32::try_from(config.bytes.len()).unwrap_or(0);
        let mut bytes = [config.offset, len, config.flags].map(u32::to_le_bytes).concat();
        bytes.extend_from_slice(&config.bytes);
        bytes
    }

    /// The area for requests in flight. Its descriptor travels next to the message.
    #[must_use]
    pub fn inflight(inflight: &Inflight) -> Vec<u8> {
        let mut bytes = [inflight.mmap_size, inflight.mmap_offset].map(u64::to_le_bytes).concat();
        for number in [inflight.num_queues, inflight.queue_size, 0, 0] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes
    }
}

/// Number of the back end's request that reports a change of the configuration space.
pub const BACKEND_CONFIG_CHANGE: u32 = 2;

/// The protocol's name of a request, as text for people.
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
