//! A queue pair on its socket: sends its output and receives its input.

use std::fmt;
use std::io;

use drivebay_nvme_driver::qpair::{Fault, Payload, Qpair, Segment};
use drivebay_sdk::runtime::net::{InPiece, OutPiece, Stream};

/// Maximum number of pieces of memory in one system call.
const PIECES: usize = 64;
/// Maximum number of bytes received in one round, so that one connection does not hold up the others.
const ROUND_LEN: usize = 512 << 10;

/// A request whose data the kernel can reach.
pub(crate) trait Wire: Payload {
    /// Adds the `len` bytes of data from `offset` on.
    fn out<'a>(&'a self, offset: u32, len: u32, pieces: &mut OutList<'a>);

    /// Adds the memory for the `len` bytes of data from `offset` on; adds nothing when the data has to be copied.
    fn into<'a>(&'a self, offset: u32, len: u32, pieces: &mut InList<'a>);
}

/// The pieces that one system call sends.
pub(crate) struct OutList<'a> {
    pieces: [OutPiece<'a>; PIECES],
    count: usize,
}

impl<'a> OutList<'a> {
    /// Adds a piece; false when there is no room.
    pub(crate) fn push(&mut self, piece: OutPiece<'a>) -> bool {
        let place = self.pieces.get_mut(self.count);
        self.count += usize::from(place.is_some());
        place.map(|place| *place = piece).is_some()
    }
}

/// The places that one system call reads into.
pub(crate) struct InList<'a> {
    pieces: [InPiece<'a>; PIECES],
    count: usize,
}

impl<'a> InList<'a> {
    /// Adds a place; false when there is no room. The last place is for the inbox.
    pub(crate) fn push(&mut self, piece: InPiece<'a>) -> bool {
        let has_room = self.count + 1 < PIECES;
        if let Some(place) = self.pieces.get_mut(self.count).filter(|_| has_room) {
            *place = piece;
            self.count += 1;
        }
        has_room
    }
}

/// Why a connection is over.
#[derive(Debug)]
pub(crate) enum Lost {
    Io(io::Error),
    Closed,
    Fault(Fault),
}

impl Lost {
    /// Whether the target's end of the connection is closed.
    pub(crate) fn is_by_target(&self) -> bool {
        match self {
            Self::Closed => true,
            Self::Io(error) => {
                matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
            }
            Self::Fault(_) => false,
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Closed => f.write_str("the target closed the connection"),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Sends as much output as the socket takes.
pub(crate) fn send<R: Wire>(stream: &mut Stream, qpair: &mut Qpair<R>) -> Result<(), Lost> {
    while stream.is_writable() && qpair.has_output() {
        let mut list = OutList { pieces: [OutPiece::EMPTY; PIECES], count: 0 };
        qpair.output(|segment| match segment {
            Segment::Bytes(bytes) => list.push(OutPiece::new(bytes)),
            Segment::Data { request, offset, len } => {
                request.out(offset, len, &mut list);
                list.count < PIECES
            }
        });
        let pieces = list.pieces.get(..list.count).unwrap_or_default();
        let len = stream.write_pieces(pieces, false)?;
        qpair.sent(len);
    }
    Ok(())
}

/// Receives what has arrived; true when more may have arrived.
pub(crate) fn receive<R: Wire>(stream: &mut Stream, qpair: &mut Qpair<R>) -> Result<bool, Lost> {
    let mut received = 0;
    while stream.is_readable() {
        if received >= ROUND_LEN {
            return Ok(true);
        }
        let Some(len) = read(stream, qpair)? else { break };
        if len == 0 {
            return Err(Lost::Closed);
        }
        qpair.received(len).map_err(Lost::Fault)?;
        received += len;
    }
    Ok(false)
}

fn read<R: Wire>(stream: &mut Stream, qpair: &mut Qpair<R>) -> io::Result<Option<usize>> {
    let input = qpair.input();
    if let Some((request, offset, len)) = input.direct {
        let mut list = InList { pieces: [const { InPiece::EMPTY }; PIECES], count: 0 };
        request.into(offset, len, &mut list);
        if list.count > 0 {
            let listed: usize = list.pieces.iter().take(list.count).map(|piece| piece.len()).sum();
            // The inbox takes what follows the data, so it is listed only after all of the data.
            if listed == len as usize
                && let Some(place) = list.pieces.get_mut(list.count)
            {
                *place = InPiece::new(input.inbox);
                list.count += 1;
            }
            return stream.read_pieces(list.pieces.get_mut(..list.count).unwrap_or_default());
        }
    }
    stream.read_pieces(&mut [InPiece::new(qpair.inbox())])
}
