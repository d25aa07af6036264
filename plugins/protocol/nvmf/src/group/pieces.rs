//! Long commands go down in pieces: deallocation and zeroes of any length are one command, and a bdev in memory would keep the thread
//! from everything else until it has ended.
//!
//! A command's next piece goes down in a later round than the piece before, after all that other queues have brought meanwhile, and
//! no round submits more than [`ROUND_BYTES`] of them.

use super::namespace::Chores;
use super::path::{end, leave};
use super::{LocalNamespace, Nvmf, Phase, finish};
use drivebay_sdk::bdev::{IoFlags, IoResult, Op, Range};
use drivebay_sdk::nvmf::protocol::Request;
use drivebay_spec_nvme::{Command, Status};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// Length of a piece at most, in bytes. Pieces end at multiples of it, so that a bdev that allocates in larger units than blocks
/// still sees whole units.
const PIECE_BYTES: u64 = 4 << 20;
/// Bytes of pieces that one round submits.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    kind: Kind,
    range: Range,
}

/// What is left of a long command.
#[derive(Debug)]
pub(super) struct Pieces {
    kind: Kind,
    ranges: VecDeque<Range>,
    blocks_per_piece: u64,
}

/// The long commands of a poll group.
#[derive(Debug, Default)]
pub(super) struct LongCommands {
    /// Those whose next piece may go down.
    ready: VecDeque<Request<Nvmf>>,
    /// By the word of their request.
    pieces: BTreeMap<u64, Pieces>,
    last: u64,
}

impl Pieces {
    pub(super) fn new(kind: Kind, ranges: impl Into<VecDeque<Range>>, block_size: u32) -> Self {
        let blocks_per_piece = (PIECE_BYTES / u64::from(block_size.max(1))).max(1);
        Self { kind, ranges: ranges.into(), blocks_per_piece }
    }

    fn next(&mut self) -> Option<Range> {
        let first = self.ranges.front_mut()?;
        let to_boundary = self.blocks_per_piece - first.lba % self.blocks_per_piece;
        let piece = Range::new(first.lba, first.nblocks.min(to_boundary));
        *first = Range::new(first.lba + piece.nblocks, first.nblocks - piece.nblocks);
        if first.nblocks == 0 {
            self.ranges.pop_front();
        }
        Some(piece)
    }
}

impl LongCommands {
    /// Begins a command: its first piece goes down in this round or a later one.
    pub(super) fn begin(&mut self, mut request: Request<Nvmf>, pieces: Pieces) {
        self.last += 1;
        request.set_word(self.last);
        self.pieces.insert(self.last, pieces);
        self.ready.push_back(request);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.ready.is_empty()
    }

    /// The next command, and its next piece, if it has one.
    fn next(&mut self) -> Option<(Request<Nvmf>, Option<Piece>)> {
        let request = self.ready.pop_front()?;
        let piece = self.pieces.get_mut(&request.word()).and_then(|pieces| {
            let range = pieces.next()?;
            Some(Piece { kind: pieces.kind, range })
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
            Some(piece) => bytes += submit(request, piece),
            None => {
                chores.long.borrow_mut().pieces.remove(&request.word());
                finish(request, Status::SUCCESS, 0);
            }
        }
    }
    did
}

/// Submits a piece, or ends the command where nothing may begin any more; the bytes that went down.
fn submit(request: Request<Nvmf>, Piece { kind, range }: Piece) -> u64 {
    let nsid = Command::parse(request.command()).nsid();
    let queue = request.qpair().state();
    let namespace = match queue.phase.get() {
        Phase::Ended => None,
        _ => queue.subsystem().and_then(|subsystem| subsystem.find(nsid)),
    };
    let Some(namespace) = namespace.filter(|namespace| !namespace.is_ending()) else {
        let is_gone = queue.phase.get() == Phase::Ended;
        let status =
            if is_gone { Status::ABORTED_SQ_DELETION } else { Status::NAMESPACE_NOT_READY };
        forget(&request);
        finish(request, status, 0);
        return 0;
    };
    let (op, flags) = match kind {
        Kind::Unmap => (Op::Unmap(range), IoFlags::NONE),
        Kind::WriteZeroes(flags) => (Op::WriteZeroes(range), flags),
    };
    let bytes = range.nblocks * u64::from(namespace.geometry.get().block_size);
    namespace.submit(op, flags, request, piece_ended);
    bytes
}

fn piece_ended(request: Request<Nvmf>, result: IoResult) {
    leave(&request, LocalNamespace::leave);
    let chores = Rc::clone(&request.qpair().group().chores);
    let has_more = {
        let long = chores.long.borrow();
        long.pieces.get(&request.word()).is_some_and(|pieces| !pieces.ranges.is_empty())
    };
    if has_more && result.status.is_success() {
        return chores.long.borrow_mut().ready.push_back(request);
    }
    forget(&request);
    end(request, result);
}

fn forget(request: &Request<Nvmf>) {
    request.qpair().group().chores.long.borrow_mut().pieces.remove(&request.word());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_at_multiples_of_their_length_and_ranges_follow_each_other() {
        let unit = PIECE_BYTES / 512;
        let ranges = [Range::new(unit - 8, unit + 16), Range::new(5 * unit, 8)];
        let mut pieces = Pieces::new(Kind::Unmap, ranges.to_vec(), 512);
        let all: Vec<_> = std::iter::from_fn(|| pieces.next()).collect();
        assert_eq!(
            all,
            [
                Range::new(unit - 8, 8),
                Range::new(unit, unit),
                Range::new(2 * unit, 8),
                Range::new(5 * unit, 8)
            ]
        );
    }
}
