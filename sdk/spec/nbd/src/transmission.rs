//! Requests and replies after the negotiation. "Transmission phase".

use crate::{Malformed, Reader};

/// Length of a request, in bytes.
pub const REQUEST_LEN: usize = 28;
/// Length of a request with an extended header, in bytes.
pub const EXTENDED_REQUEST_LEN: usize = 32;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;
const EXTENDED_CHUNK_MAGIC: u32 = 0x6e8a_278c;

/// Transmission flags of an export.
pub mod export_flag {
    /// The flags are valid; this bit is always set.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// Clients cannot write to the export.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH is supported.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// [`command_flag::FUA`](super::command_flag::FUA) is supported.
    pub const SEND_FUA: u16 = 1 << 3;
    /// TRIM is supported.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES is supported.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// A flush on one connection covers completed writes of all connections.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// CACHE is supported.
    pub const SEND_CACHE: u16 = 1 << 10;
}

/// Flags of a request.
pub mod command_flag {
    /// The data is durable before the reply. Valid for every command; commands that do not write ignore it.
    pub const FUA: u16 = 1 << 0;
    /// WRITE_ZEROES leaves the blocks allocated.
    pub const NO_HOLE: u16 = 1 << 1;
    /// BLOCK_STATUS returns one extent only.
    pub const REQ_ONE: u16 = 1 << 3;
    /// The length is that of the payload that follows. Extended headers only.
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Error numbers in replies. The protocol uses Linux's numbers. "Error values".
#[expect(missing_docs, reason = "the names are those of errno(3)")]
pub mod error {
    pub const EPERM: u32 = 1;
    pub const EIO: u32 = 5;
    pub const ENOMEM: u32 = 12;
    pub const EINVAL: u32 = 22;
    pub const ENOSPC: u32 = 28;
    pub const EOVERFLOW: u32 = 75;
    pub const ENOTSUP: u32 = 95;
    pub const ESHUTDOWN: u32 = 108;
}

/// The command of a request. "Request types".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read.
    Read,
    /// Write; data follows.
    Write,
    /// End the connection; there is no reply.
    Disconnect,
    /// Make earlier writes durable.
    Flush,
    /// The contents of the bytes are no longer needed.
    Trim,
    /// The client will read this soon.
    Cache,
    /// Write zeroes: later reads return zeroes.
    WriteZeroes,
    /// Return which blocks are allocated.
    BlockStatus,
    /// An unknown command. A server refuses it.
    Unknown(u16),
}

impl Command {
    fn from_bits(bits: u16) -> Self {
        match bits {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disconnect,
            3 => Self::Flush,
            4 => Self::Trim,
            5 => Self::Cache,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            other => Self::Unknown(other),
        }
    }

    /// The command's number.
    #[must_use]
    pub fn bits(self) -> u16 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Disconnect => 2,
            Self::Flush => 3,
            Self::Trim => 4,
            Self::Cache => 5,
            Self::WriteZeroes => 6,
            Self::BlockStatus => 7,
            Self::Unknown(bits) => bits,
        }
    }
}

/// The framing of requests and replies that the client has negotiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// A reply is one header, and for a read its data.
    #[default]
    Simple,
    /// A reply is one or more chunks.
    Structured,
    /// As `Structured`, with 64-bit lengths.
    Extended,
}

impl Framing {
    /// Length of a request, in bytes.
    #[must_use]
    pub fn request_len(self) -> usize {
        if self == Self::Extended { EXTENDED_REQUEST_LEN } else { REQUEST_LEN }
    }
}

/// A request. Its range is not checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Bits of [`command_flag`].
    pub flags: u16,
    /// The command.
    pub command: Command,
    /// The reply has the same cookie.
    pub cookie: u64,
    /// Offset of the first byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

impl Request {
    /// Parses the first request of `bytes`. Returns `None` when it is not complete.
    ///
    /// # Errors
    /// The magic is wrong.
    pub fn parse(framing: Framing, bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let Some(bytes) = bytes.get(..framing.request_len()) else { return Ok(None) };
        let mut reader = Reader(bytes);
        let wanted =
            if framing == Framing::Extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        if reader.u32() != Some(wanted) {
            return Err(Malformed("a request has a wrong magic"));
        }
        let head = (reader.u16(), reader.u16(), reader.u64(), reader.u64());
        let len = match framing {
            Framing::Extended => reader.u64(),
            Framing::Simple | Framing::Structured => reader.u32().map(u64::from),
        };
        let ((Some(flags), Some(command), Some(cookie), Some(offset)), Some(len)) = (head, len)
        else {
            return Ok(None);
        };
        Ok(Some(Self { flags, command: Command::from_bits(command), cookie, offset, len }))
    }

    /// The request as bytes. A length of more than 32 bits needs [`Framing::Extended`].
    #[must_use]
    pub fn to_bytes(self, framing: Framing) -> Vec<u8> {
        let is_extended = framing == Framing::Extended;
        let magic = if is_extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        let mut bytes = magic.to_be_bytes().to_vec();
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend(self.command.bits().to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend(self.offset.to_be_bytes());
        if is_extended {
            bytes.extend(self.len.to_be_bytes());
        } else {
            bytes.extend(u32::try_from(self.len).unwrap_or(u32::MAX).to_be_bytes());
        }
        bytes
    }

    /// Length of the data that follows the request, in bytes.
    #[must_use]
    pub fn payload_len(&self, framing: Framing) -> u64 {
        let has_payload = match framing {
            Framing::Extended => self.flags & command_flag::PAYLOAD_LEN != 0,
            Framing::Simple | Framing::Structured => self.command == Command::Write,
        };
        if has_payload { self.len } else { 0 }
    }
}

/// A range in one state: data, or a hole that reads as zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Number of bytes.
    pub len: u64,
    /// Whether it is a hole.
    pub is_hole: bool,
}

/// State bits of `base:allocation`: the range is a hole and reads as zeroes.
const HOLE_AND_ZERO: u32 = 3;

/// The head of a reply, which precedes its data. It allocates no memory.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    bytes: [u8; Self::LEN_MAX],
    len: usize,
}

impl Head {
    const LEN_MAX: usize = 40;
    const EMPTY: Self = Self { bytes: [0; Self::LEN_MAX], len: 0 };

    fn put(&mut self, bytes: &[u8]) {
        let places = self.bytes.iter_mut().skip(self.len);
        places.zip(bytes).for_each(|(place, byte)| *place = *byte);
        self.len = (self.len + bytes.len()).min(Self::LEN_MAX);
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// Kinds of chunks. "Structured reply types".
mod chunk {
    pub(super) const NONE: u16 = 0;
    pub(super) const OFFSET_DATA: u16 = 1;
    pub(super) const BLOCK_STATUS: u16 = 5;
    pub(super) const BLOCK_STATUS_EXT: u16 = 6;
    pub(super) const ERROR: u16 = 1 << 15 | 1;
}

/// Makes the replies to one request.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    /// Framing of the reply.
    pub framing: Framing,
    /// Cookie of the request.
    pub cookie: u64,
    /// Offset of the request, in bytes.
    pub offset: u64,
}

impl Reply {
    /// Makes the reply of a successful request without data.
    #[must_use]
    pub fn done(self) -> Head {
        match self.framing {
            Framing::Simple => self.simple(0),
            Framing::Structured | Framing::Extended => self.chunk(chunk::NONE, true, 0),
        }
    }

    /// Makes the reply of a failed request, with a number from [`error`].
    #[must_use]
    pub fn failed(self, error: u32) -> Head {
        match self.framing {
            Framing::Simple => self.simple(error),
            Framing::Structured | Framing::Extended => {
                let mut head = self.chunk(chunk::ERROR, true, 6);
                head.put(&error.to_be_bytes());
                head.put(&0_u16.to_be_bytes()); // length of the text
                head
            }
        }
    }

    /// Makes the head for `len` bytes of a read from `offset` on. A simple reply has the whole data of the read.
    #[must_use]
    pub fn data(self, offset: u64, len: u32, is_last: bool) -> Head {
        match self.framing {
            Framing::Simple => self.simple(0),
            Framing::Structured | Framing::Extended => {
                let mut head = self.chunk(chunk::OFFSET_DATA, is_last, u64::from(len) + 8);
                head.put(&offset.to_be_bytes());
                head
            }
        }
    }

    /// Makes a block status: the head, and the bytes that follow it. Not for [`Framing::Simple`].
    #[must_use]
    pub fn block_status(self, context: u32, extents: &[Extent]) -> (Head, Vec<u8>) {
        let mut bytes = context.to_be_bytes().to_vec();
        let state = |extent: &Extent| if extent.is_hole { HOLE_AND_ZERO } else { 0 };
        if self.framing == Framing::Extended {
            bytes.extend(u32::try_from(extents.len()).unwrap_or(u32::MAX).to_be_bytes());
            for extent in extents {
                bytes.extend(extent.len.to_be_bytes());
                bytes.extend(u64::from(state(extent)).to_be_bytes());
            }
            (self.chunk(chunk::BLOCK_STATUS_EXT, true, bytes.len() as u64), bytes)
        } else {
            for extent in extents {
                bytes.extend(u32::try_from(extent.len).unwrap_or(u32::MAX).to_be_bytes());
                bytes.extend(state(extent).to_be_bytes());
            }
            (self.chunk(chunk::BLOCK_STATUS, true, bytes.len() as u64), bytes)
        }
    }

    fn simple(self, error: u32) -> Head {
        let mut head = Head::EMPTY;
        head.put(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        head.put(&error.to_be_bytes());
        head.put(&self.cookie.to_be_bytes());
        head
    }

    fn chunk(self, kind: u16, is_last: bool, len: u64) -> Head {
        let mut head = Head::EMPTY;
        let is_extended = self.framing == Framing::Extended;
        let magic = if is_extended { EXTENDED_CHUNK_MAGIC } else { CHUNK_MAGIC };
        head.put(&magic.to_be_bytes());
        head.put(&u16::from(is_last).to_be_bytes());
        head.put(&kind.to_be_bytes());
        head.put(&self.cookie.to_be_bytes());
        if is_extended {
            head.put(&self.offset.to_be_bytes());
            head.put(&len.to_be_bytes());
        } else {
            head.put(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
        }
        head
    }
}
