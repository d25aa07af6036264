//! Long commands are done in pieces. One command can deallocate or zero blocks of any length, and a bdev in memory would block the thread
//! until the whole command has ended.
//!
//! The next piece of a command is submitted in a later round than the piece before, after new commands of other queues. A round stops
//! when it has submitted [`ROUND_BYTES`].

use super::namespace::Chores;
use super::path::{end, leave, stop_status};
use super::{LocalNamespace, Nvmf, finish};
use drivebay_sdk::bdev::{IoFlags, IoResult, Op, Range};
use drivebay_sdk::nvmf::protocol::Request;
use drivebay_spec_nvme::Status;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// Maximum number of bytes of a piece; pieces end at multiples of this. Only an unmap of a whole unit between two optimal boundaries of the bdev is
/// longer, because a thin volume frees a cluster only when one unmap covers it.
const PIECE_BYTES: u64 = 4 << 20;
/// Bytes after which a round ends.
const ROUND_BYTES: u64 = PIECE_BYTES;
/// A command up to this length is submitted as one I/O.
pub(super) const SHORT_BYTES: u64 = 128 << 10;

/// The operation of the pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Unmap,
    WriteZeroes(IoFlags),
}

/// One piece.
#[derive(Debug)]
struct Piece {
    namespace: Rc<LocalNamespace>,
    kind: Kind,
    range: Range,
}

/// A long command.
#[derive(Debug)]
struct LongCommand {
    /// The namespace where the command began. Between two pieces it may be removed, and another bdev may get its number.
    namespace: Rc<LocalNamespace>,
    kind: Kind,
    left: Pieces,
}

/// The remaining ranges of a long command.
#[derive(Debug)]
struct Pieces {
    ranges: VecDeque<Range>,
    blocks_per_piece: u64,
    /// Blocks of as many units as fit into a piece, at least one; 0 without units.
    blocks_per_unit: u64,
}

/// The long commands of a poll group.
#[derive(Debug, Default)]
pub(super) struct LongCommands {
    /// The commands whose next piece may be submitted.
    ready: VecDeque<Request<Nvmf>>,
    /// All commands, by the word of their request.
    commands: BTreeMap<u64, LongCommand>,
    last: u64,
}

impl Pieces {
    /// `boundary`: blocks of a unit that is submitted whole; 0 without units.
    fn new(ranges: VecDeque<Range>, block_size: u32, boundary: u32) -> Self {
        let blocks_per_piece = (PIECE_BYTES / u64::from(block_size.max(1))).max(1);
        let boundary = u64::from(boundary);
        let units = blocks_per_piece.checked_div(boundary).unwrap_or(0).max(1);
        Self { ranges, blocks_per_piece, blocks_per_unit: units * boundary }
    }

    fn next(&mut self) -> Option<Range> {
        let first = self.ranges.front_mut()?;
        let piece =
            Range::new(first.lba, piece_len(*first, self.blocks_per_piece, self.blocks_per_unit));
        *first = Range::new(first.lba + piece.nblocks, first.nblocks - piece.nblocks);
        if first.nblocks == 0 {
            self.ranges.pop_front();
        }
        Some(piece)
    }
}

/// Number of blocks of the first piece of `left`.
fn piece_len(left: Range, per_piece: u64, per_unit: u64) -> u64 {
    let to_piece_end = left.nblocks.min(per_piece - left.lba % per_piece);
    if per_unit == 0 {
        return to_piece_end;
    }
    let to_unit_end = per_unit - left.lba % per_unit;
    let has_whole_unit = to_unit_end == per_unit && left.nblocks >= per_unit;
    if has_whole_unit { per_unit } else { to_piece_end.min(to_unit_end) }
}

impl LongCommands {
    /// Starts a command. Its first piece is submitted in this round or a later one.
    pub(super) fn begin(
        &mut self,
        mut request: Request<Nvmf>,
        namespace: &Rc<LocalNamespace>,
        kind: Kind,
        ranges: impl Into<VecDeque<Range>>,
    ) {
        self.last += 1;
        request.set_word(self.last);
        let geometry = namespace.geometry.get();
        let boundary = if kind == Kind::Unmap { geometry.optimal_boundary } else { 0 };
        let left = Pieces::new(ranges.into(), geometry.block_size, boundary);
        let command = LongCommand { namespace: Rc::clone(namespace), kind, left };
        self.commands.insert(self.last, command);
        self.ready.push_back(request);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.ready.is_empty()
    }

    /// Returns the next command, and its next piece if it has one.
    fn next(&mut self) -> Option<(Request<Nvmf>, Option<Piece>)> {
        let request = self.ready.pop_front()?;
        let piece = self.commands.get_mut(&request.word()).and_then(|command| {
            let range = command.left.next()?;
            let namespace = Rc::clone(&command.namespace);
            Some(Piece { namespace, kind: command.kind, range })
        });
        Some((request, piece))
    }
}

/// Submits the pieces of a round. Returns whether there were any.
pub(super) fn submit_round(chores: &Rc<Chores>) -> bool {
    let (mut did, mut bytes) = (false, 0);
    while bytes < ROUND_BYTES {
        let Some((request, piece)) = chores.long.borrow_mut().next() else { break };
        did = true;
        match piece {
            Some(piece) => bytes += submit(request, &piece),
            None => finish_between(request, Status::SUCCESS),
        }
    }
    did
}

/// Submits a piece, or ends the command when the piece must not begin. Returns the submitted bytes.
fn submit(request: Request<Nvmf>, Piece { namespace, kind, range }: &Piece) -> u64 {
    if let Some(status) = stop_status(&request, namespace) {
        finish_between(request, status);
        return 0;
    }
    let (op, flags) = match *kind {
        Kind::Unmap => (Op::Unmap(*range), IoFlags::NONE),
        Kind::WriteZeroes(flags) => (Op::WriteZeroes(*range), flags),
    };
    namespace.submit(op, flags, request, piece_ended);
    range.nblocks * u64::from(namespace.geometry.get().block_size)
}

fn piece_ended(request: Request<Nvmf>, result: IoResult) {
    leave(&request, LocalNamespace::leave);
    let chores = Rc::clone(&request.qpair().group().chores);
    let has_more = {
        let long = chores.long.borrow();
        long.commands.get(&request.word()).is_some_and(|command| !command.left.ranges.is_empty())
    };
    if has_more && result.status.is_success() {
        return chores.long.borrow_mut().ready.push_back(request);
    }
    forget(&request);
    end(request, result);
}

/// Ends a command while no piece of it is in the bdev.
fn finish_between(request: Request<Nvmf>, status: Status) {
    forget(&request);
    finish(request, status, 0);
}

fn forget(request: &Request<Nvmf>) {
    request.qpair().group().chores.long.borrow_mut().commands.remove(&request.word());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_pieces(ranges: &[Range], boundary: u64) -> Vec<Range> {
        let boundary = u32::try_from(boundary).unwrap();
        let mut pieces = Pieces::new(ranges.to_vec().into(), 512, boundary);
        std::iter::from_fn(|| pieces.next()).collect()
    }

    const UNIT: u64 = PIECE_BYTES / 512;

    #[test]
    fn pieces_end_at_multiples_of_their_length_and_ranges_follow_each_other() {
        let ranges = [Range::new(UNIT - 8, UNIT + 16), Range::new(5 * UNIT, 8)];
        let pieces = [
            Range::new(UNIT - 8, 8),
            Range::new(UNIT, UNIT),
            Range::new(2 * UNIT, 8),
            Range::new(5 * UNIT, 8),
        ];
        for boundary in [0, 8, UNIT / 4, UNIT] {
            assert_eq!(all_pieces(&ranges, boundary), pieces, "boundary {boundary}");
        }
    }

    #[test]
    fn a_whole_unit_of_the_bdev_is_one_piece_and_parts_of_units_are_cut() {
        let range = Range::new(3 * UNIT - 8, 4 * UNIT + 8);
        let pieces = [
            Range::new(3 * UNIT - 8, 8),
            Range::new(3 * UNIT, 3 * UNIT),
            Range::new(6 * UNIT, UNIT),
        ];
        assert_eq!(all_pieces(&[range], 3 * UNIT), pieces);
        let odd = UNIT / 4 * 3;
        let pieces = [Range::new(odd, odd), Range::new(2 * odd, odd), Range::new(3 * odd, 8)];
        assert_eq!(all_pieces(&[Range::new(odd, 2 * odd + 8)], odd), pieces);
    }
}
