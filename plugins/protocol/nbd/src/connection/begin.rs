//! Checks a request and turns it into I/O.

use super::piece::Piece;
use super::receive::Stop;
use super::{Connection, Phase};
use crate::negotiate::REQUEST_LEN_MAX;
use drivebay_sdk::bdev::{IoFlags, Op, Range};
use drivebay_sdk::buf;
use drivebay_sdk::runtime::net::Stream;
use drivebay_spec_nbd::transmission::{
    Command, Framing, Reply, Request, command_flag, error, export_flag,
};
use std::io::{self, ErrorKind};

/// Longest piece, in bytes: a large buffer of the host's pools.
pub(super) const PIECE_LEN_MAX: u32 = 128 << 10;
/// Length of the buffer that I/O without data carries, in bytes.
const NO_DATA_LEN: u32 = 512;

/// A request whose data is being received, or whose I/O is being submitted.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) slot: usize,
    next: u64,
    left: u64,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Read,
    /// The piece that is being filled, and the bytes in it so far.
    Write(Option<(Box<Piece>, usize)>),
    /// The request was refused. Its data is thrown away.
    Discard,
}

impl Connection {
    /// Starts a request.
    ///
    /// # Errors
    /// The request has more data than the limit.
    pub(super) fn begin(&mut self, request: Request) -> io::Result<()> {
        let payload = request.payload_len(self.framing);
        if payload > u64::from(REQUEST_LEN_MAX) {
            let why = format!("a request with {payload} bytes of data; allowed: {REQUEST_LEN_MAX}");
            return Err(io::Error::new(ErrorKind::InvalidData, why));
        }
        if request.command == Command::Disconnect {
            self.phase = Phase::Draining;
            return Ok(());
        }
        let slot = self.add_ongoing(request);
        let refusal = self.refusal(&request);
        let begun = |way| Begun { slot, next: request.offset, left: request.len, way };
        if let Some(error) = refusal {
            self.note_error(slot, error);
            if payload > 0 {
                self.begun = Some(begun(Way::Discard));
            } else {
                self.all_begun(slot);
            }
            return Ok(());
        }
        match request.command {
            Command::Read => self.begun = Some(begun(Way::Read)),
            Command::Write => self.begun = Some(begun(Way::Write(None))),
            Command::Flush => self.submit_plain(slot, Op::Flush),
            Command::Trim => self.submit_plain(slot, Op::Unmap(self.range(&request))),
            Command::WriteZeroes => self.submit_plain(slot, Op::WriteZeroes(self.range(&request))),
            Command::BlockStatus => self.begin_block_status(slot),
            // There is no cache between the client and the bdev.
            Command::Cache => self.all_begun(slot),
            Command::Disconnect | Command::Unknown(_) => {}
        }
        Ok(())
    }

    /// Why a request is refused: an error of the protocol. `None` when the request is allowed.
    fn refusal(&self, request: &Request) -> Option<u32> {
        let flags = self.export().flags();
        let (offered, allowed) = match request.command {
            Command::Read | Command::Write | Command::Flush | Command::Cache => (true, 0),
            Command::Trim => (flags & export_flag::SEND_TRIM != 0, 0),
            Command::WriteZeroes => {
                (flags & export_flag::SEND_WRITE_ZEROES != 0, command_flag::NO_HOLE)
            }
            Command::BlockStatus => (self.has_block_status, command_flag::REQ_ONE),
            Command::Disconnect | Command::Unknown(_) => (false, 0),
        };
        let is_change = changes_data(request.command);
        if is_change && flags & export_flag::READ_ONLY != 0 {
            return Some(error::EPERM);
        }
        // With extended headers, a write must say that data follows. Other commands must not.
        let payload_flag = match (self.framing, request.command) {
            (Framing::Extended, Command::Write) => command_flag::PAYLOAD_LEN,
            _ => 0,
        };
        // Clients may set FUA on every command.
        let allowed = allowed | command_flag::FUA | payload_flag;
        let has_right_flags =
            request.flags & !allowed == 0 && request.flags & payload_flag == payload_flag;
        if !offered || !has_right_flags {
            return Some(error::EINVAL);
        }
        if request.command == Command::Flush {
            return (request.len != 0 || request.offset != 0).then_some(error::EINVAL);
        }
        if request.command == Command::Read && request.len > u64::from(REQUEST_LEN_MAX) {
            return Some(error::EOVERFLOW);
        }
        let end = request.offset.checked_add(request.len);
        if end.is_none_or(|end| end > self.export().size_bytes()) {
            return Some(if is_change { error::ENOSPC } else { error::EINVAL });
        }
        let block_size = u64::from(self.export().block_size());
        let is_whole =
            request.offset.is_multiple_of(block_size) && request.len.is_multiple_of(block_size);
        (!is_whole || request.len == 0).then_some(error::EINVAL)
    }

    fn range(&self, request: &Request) -> Range {
        self.blocks(request.offset, request.len)
    }

    fn blocks(&self, offset: u64, len: u64) -> Range {
        let block_size = u64::from(self.export().block_size());
        Range::new(offset / block_size, len / block_size)
    }

    /// Submits a request that is one I/O without data.
    pub(super) fn submit_plain(&mut self, slot: usize, op: Op) {
        let Ok(buf) = buf::alloc(NO_DATA_LEN) else {
            self.note_error(slot, error::ENOMEM);
            return self.all_begun(slot);
        };
        let piece = Piece::new(buf, &self.flight);
        self.submit(slot, piece, op);
        self.all_begun(slot);
    }

    fn submit(&mut self, slot: usize, mut piece: Box<Piece>, op: Op) {
        let Some(ongoing) = self.ongoing(slot) else { return };
        ongoing.in_flight += 1;
        let request = ongoing.request;
        let is_fua = changes_data(request.command) && request.flags & command_flag::FUA != 0;
        let flags = if is_fua { IoFlags::FUA } else { IoFlags::NONE };
        piece.slot = slot;
        piece.submit(op, flags, &self.opened);
    }

    /// Continues the begun request. Returns why it had to stop, or `None` when all of its I/O is submitted.
    ///
    /// # Errors
    /// The client left in the middle of the request, or the connection failed.
    pub(super) fn go_on(&mut self, stream: &mut Stream) -> io::Result<Option<Stop>> {
        let Some(mut begun) = self.begun.take() else { return Ok(None) };
        let stop = match begun.way {
            Way::Read => self.read_on(&mut begun),
            Way::Write(_) => self.write_on(&mut begun, stream)?,
            Way::Discard => self.discard(&mut begun, stream)?,
        };
        if stop.is_some() {
            self.begun = Some(begun);
        } else {
            self.all_begun(begun.slot);
        }
        Ok(stop)
    }

    fn read_on(&mut self, begun: &mut Begun) -> Option<Stop> {
        while begun.left > 0 {
            if !self.has_room_for_piece() {
                return Some(Stop::Room);
            }
            let len = u32::try_from(begun.left).unwrap_or(u32::MAX);
            let mut piece = if self.framing == Framing::Simple && len > PIECE_LEN_MAX {
                // A simple reply needs all of the data before its head can be sent.
                let Ok(buf) = buf::alloc(len) else {
                    self.note_error(begun.slot, error::ENOMEM);
                    return None;
                };
                Piece::new(buf, &self.flight)
            } else {
                let len = len.min(PIECE_LEN_MAX);
                let Some(piece) = Piece::get(&mut self.spare, len, &self.flight) else {
                    return Some(Stop::Turn);
                };
                piece
            };
            if self.export().keeps_no_data() {
                piece.buf.fill(0);
            }
            let len = u64::from(piece.buf.len());
            piece.offset = begun.next;
            let range = self.blocks(begun.next, len);
            (begun.next, begun.left) = (begun.next + len, begun.left - len);
            self.submit(begun.slot, piece, Op::Read(range));
        }
        None
    }

    fn write_on(&mut self, begun: &mut Begun, stream: &mut Stream) -> io::Result<Option<Stop>> {
        let Way::Write(filling) = &mut begun.way else { return Ok(None) };
        while begun.left > 0 {
            let (mut piece, mut filled) = match filling.take() {
                Some(filling) => filling,
                None if !self.has_room_for_piece() => return Ok(Some(Stop::Room)),
                None => {
                    let len = u32::try_from(begun.left).unwrap_or(u32::MAX).min(PIECE_LEN_MAX);
                    let piece = Piece::get(&mut self.spare, len, &self.flight);
                    let Some(piece) = piece else { return Ok(Some(Stop::Turn)) };
                    (piece, 0)
                }
            };
            let rest = piece.buf.get_mut(filled..).unwrap_or_default();
            filled += self.inbox.take(rest);
            let rest = piece.buf.get_mut(filled..).unwrap_or_default();
            if !rest.is_empty() {
                let received = self.inbox.receive(stream, rest)?;
                filled += received.unwrap_or(0);
                if filled < piece.buf.len() as usize {
                    *filling = Some((piece, filled));
                    if received.is_none() {
                        return Ok(Some(Stop::Input));
                    }
                    continue;
                }
            }
            let len = u64::from(piece.buf.len());
            let range = self.blocks(begun.next, len);
            (begun.next, begun.left) = (begun.next + len, begun.left - len);
            self.submit(begun.slot, piece, Op::Write(range));
        }
        Ok(None)
    }

    fn discard(&mut self, begun: &mut Begun, stream: &mut Stream) -> io::Result<Option<Stop>> {
        loop {
            begun.left -= self.inbox.skip(begun.left);
            if begun.left == 0 {
                return Ok(None);
            }
            if self.inbox.receive(stream, &mut [])?.is_none() {
                return Ok(Some(Stop::Input));
            }
        }
    }

    /// Notes that all I/O of a request is submitted.
    fn all_begun(&mut self, slot: usize) {
        let Some(ongoing) = self.ongoing(slot) else { return };
        ongoing.is_begun = true;
        if ongoing.in_flight == 0 {
            self.answer(slot);
        }
    }

    /// Notes an error. The reply carries the first one.
    pub(super) fn note_error(&mut self, slot: usize, error: u32) {
        if let Some(ongoing) = self.ongoing(slot)
            && ongoing.error == 0
        {
            ongoing.error = error;
        }
    }

    /// What all replies to a request share.
    pub(super) fn reply(&self, request: &Request) -> Reply {
        Reply { framing: self.framing, cookie: request.cookie, offset: request.offset }
    }
}

/// Whether a command changes the data on the bdev.
fn changes_data(command: Command) -> bool {
    matches!(command, Command::Write | Command::Trim | Command::WriteZeroes)
}
