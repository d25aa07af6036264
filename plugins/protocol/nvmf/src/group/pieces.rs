//! Long commands go down in pieces: deallocation and zeroes of any length are one command, and a bdev in memory would keep the thread
//! from everything else until it has ended.
//!
//! A command's next piece goes down in a later round than the piece before, after all that other queues have brought meanwhile, and
//! a round submits no more once it has submitted [`ROUND_BYTES`].

use super::namespace::Chores;
use super::path::{GONE, end, leave};
use super::{LocalNamespace, Nvmf, Phase, finish};
use drivebay_sdk::bdev::{IoFlags, IoResult, Op, Range};
use drivebay_sdk::nvmf::protocol::Request;
use drivebay_spec_nvme::Status;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// Length of a piece at most, in bytes, and pieces end at multiples of it. Only an unmap of a whole unit between two of the bdev's
/// optimal boundaries is longer: a thin volume gives back a cluster only when one unmap covers it.
const PIECE_BYTES: u64 = 4 << 20;
/// Bytes after which a round ends.
const ROUND_BYTES: u64 = PIECE_BYTES;
/// A command that is no longer goes down as it is.
pub(super) const SHORT_BYTES: u64 = 128 << 10;

/// What the pieces do.
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
    /// Between two pieces the namespace may be removed and its number given to another bdev. The command stays with the
    /// namespace that it began on.
    namespace: Rc<LocalNamespace>,
    kind: Kind,
    left: Pieces,
}

/// The ranges that are left of a long command.
#[derive(Debug)]
struct Pieces {
    ranges: VecDeque<Range>,
    blocks_per_piece: u64,
    /// Blocks of as many units as fit a piece, at least one; 0: there is none.
    blocks_per_unit: u64,
}

/// The long commands of a poll group.
#[derive(Debug, Default)]
pub(super) struct LongCommands {
    /// Those whose next piece may go down.
    ready: VecDeque<Request<Nvmf>>,
    /// By the word of their request.
    commands: BTreeMap<u64, LongCommand>,
    last: u64,
}

impl Pieces {
    /// `boundary`: blocks of a unit that goes down whole; 0: there is none.
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

/// Blocks of the piece with which `left` begins.
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
    /// Begins a command: its first piece goes down in this round or a later one.
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

    /// The next command, and its next piece, if it has one.
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

/// Submits the pieces of a round; whether there were any.
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

/// Submits a piece, or ends the command where nothing may begin any more; the bytes that went down.
fn submit(request: Request<Nvmf>, Piece { namespace, kind, range }: &Piece) -> u64 {
    if request.qpair().state().phase.get() == Phase::Ended {
        finish_between(request, Status::ABORTED_SQ_DELETION);
        return 0;
    }
    if namespace.is_ending() {
        finish_between(request, GONE);
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

/// Ends a command with none of its pieces in the bdev.
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
