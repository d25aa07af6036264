//! I/O that has ended: replies, and the next step of a block status.

use super::Connection;
use super::piece::Piece;
use crate::negotiate::ALLOCATION;
use drivebay_sdk::bdev::Op;
use drivebay_sdk::{Status, errno};
use drivebay_spec_nbd::transmission::{Command, Extent, command_flag, error};

/// Maximum number of extents in one reply. The client asks again for the rest.
const EXTENTS_MAX: usize = 128;

impl Connection {
    /// Handles the I/O that has ended.
    pub(super) fn finish(&mut self) {
        while let Some(piece) = self.flight.take() {
            self.ended(piece);
        }
    }

    fn ended(&mut self, piece: Box<Piece>) {
        let slot = piece.slot;
        // The request was abandoned, so nobody waits for this piece.
        let Some(ongoing) = self.ongoing(slot) else { return piece.keep(&mut self.spare) };
        ongoing.in_flight -= 1;
        let (request, is_last) = (ongoing.request, ongoing.in_flight == 0 && ongoing.is_begun);
        let is_wrong = ongoing.error != 0;
        if request.command == Command::BlockStatus {
            return self.found(slot, &piece);
        }
        if !piece.status.is_success() {
            self.note_error(slot, error_of(piece.status));
        } else if request.command == Command::Read && !is_wrong {
            let reply = self.reply(&request);
            let head = reply.data(piece.offset, piece.buf.len(), is_last);
            self.outbox.push(head, Some(piece), Vec::new());
            if is_last {
                self.release(slot);
            }
            return;
        }
        piece.keep(&mut self.spare);
        if is_last {
            self.answer(slot);
        }
    }

    /// Replies to a request when all of its I/O has ended.
    pub(super) fn answer(&mut self, slot: usize) {
        let Some(ongoing) = self.release(slot) else { return };
        let reply = self.reply(&ongoing.request);
        if ongoing.error != 0 {
            self.outbox.push(reply.failed(ongoing.error), None, Vec::new());
        } else if ongoing.extents.is_empty() {
            self.outbox.push(reply.done(), None, Vec::new());
        } else {
            let (head, extents) = reply.block_status(ALLOCATION, &ongoing.extents);
            self.outbox.push(head, None, extents);
        }
    }

    // ---- block status ----

    /// Starts to find the extents of a range.
    pub(super) fn begin_block_status(&mut self, slot: usize) {
        let knows = self.export().knows_allocation();
        let Some(ongoing) = self.ongoing(slot) else { return };
        let (offset, len) = (ongoing.request.offset, ongoing.request.len);
        if knows {
            return self.seek(slot, offset, false);
        }
        ongoing.extents.push(Extent { len, is_hole: false });
        self.answer(slot);
    }

    /// Looks for the next data or the next hole. A block status looks for data first, then takes turns.
    fn seek(&mut self, slot: usize, offset: u64, hole: bool) {
        if let Some(ongoing) = self.ongoing(slot) {
            ongoing.seeks_hole = hole;
        }
        let block = offset / u64::from(self.export().block_size());
        self.submit_plain(slot, if hole { Op::SeekHole(block) } else { Op::SeekData(block) });
    }

    /// A seek has ended: the blocks from the last extent's end to the found block form one extent.
    fn found(&mut self, slot: usize, piece: &Piece) {
        let block_size = u64::from(self.export().block_size());
        let (status, block) = (piece.status, piece.block);
        let Some(ongoing) = self.ongoing(slot) else { return };
        let (request, sought_hole) = (ongoing.request, ongoing.seeks_hole);
        let known: u64 = ongoing.extents.iter().map(|extent| extent.len).sum();
        let (from, end) = (request.offset + known, request.offset + request.len);
        let to = block.map_or(end, |block| block.saturating_mul(block_size)).min(end);
        if !status.is_success() || (sought_hole && to <= from) {
            // A range whose state is not known counts as data.
            ongoing.extents.push(Extent { len: end - from, is_hole: false });
            return self.answer(slot);
        }
        if to > from {
            ongoing.extents.push(Extent { len: to - from, is_hole: !sought_hole });
        }
        let is_enough = request.flags & command_flag::REQ_ONE != 0 && !ongoing.extents.is_empty();
        if to == end || is_enough || ongoing.extents.len() == EXTENTS_MAX {
            return self.answer(slot);
        }
        self.seek(slot, to.max(from), !sought_hole);
    }
}

/// The protocol's error for a status.
fn error_of(status: Status) -> u32 {
    match -status.raw() {
        errno::EPERM | errno::EROFS => error::EPERM,
        errno::ENOMEM => error::ENOMEM,
        errno::EINVAL => error::EINVAL,
        errno::ENOSPC => error::ENOSPC,
        errno::EOPNOTSUPP => error::ENOTSUP,
        _ => error::EIO,
    }
}
