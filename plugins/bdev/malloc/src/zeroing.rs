//! Zeroes long ranges piece by piece, one piece in each round, so that other I/O continues while a whole disk
//! is zeroed.

use drivebay_sdk::bdev::IoId;
use drivebay_sdk::poller::{Poll, Poller};
use drivebay_sdk::prelude::*;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

/// Bytes that are zeroed in one round. This takes some 50 microseconds.
const PIECE_BYTES: u64 = 1 << 20;

/// The long unmaps and write zeroes of one thread. They run one after another.
#[derive(Debug)]
pub struct Zeroing(Rc<Queue>);

#[derive(Debug)]
struct Queue {
    memory: Arc<DmaRegion>,
    blocks_per_piece: u64,
    /// The I/Os, and the blocks that are left to zero.
    waiting: RefCell<VecDeque<(BdevIo, Range)>>,
    /// The poller, which exists only while I/O waits. Thousands of idle disks must not make each round longer.
    poller: RefCell<Option<Poller>>,
}

impl Zeroing {
    /// An empty queue for blocks of `memory`.
    pub fn new(memory: &Arc<DmaRegion>, geometry: Geometry) -> Self {
        Self(Rc::new(Queue {
            memory: Arc::clone(memory),
            blocks_per_piece: (PIECE_BYTES / u64::from(geometry.block_size())).max(1),
            waiting: RefCell::default(),
            poller: RefCell::default(),
        }))
    }

    /// Whether a range takes more than one piece.
    pub fn is_long(&self, range: Range) -> bool {
        range.nblocks > self.0.blocks_per_piece
    }

    /// Queues an I/O, which ends in a later round.
    pub fn push(&self, io: BdevIo, range: Range) {
        let mut poller = self.0.poller.borrow_mut();
        if poller.is_none() {
            match Poller::register("malloc_zeroing", 0, Pieces(Rc::clone(&self.0))) {
                Ok(registered) => *poller = Some(registered),
                Err(error) => {
                    drop(poller);
                    return io.complete(Status::errno(error.errno()));
                }
            }
        }
        self.0.waiting.borrow_mut().push_back((io, range));
    }

    /// Aborts a queued I/O, even if some of its pieces are zeroed already.
    pub fn abort(&self, target: IoId) -> Status {
        let mut waiting = self.0.waiting.borrow_mut();
        let place = waiting.iter().position(|(io, _)| io.id() == target);
        let aborted = place.and_then(|place| waiting.remove(place));
        drop(waiting);
        let Some((io, _)) = aborted else { return Status::NOT_FOUND };
        io.complete(Status::ABORTED);
        Status::SUCCESS
    }
}

/// Zeroes a piece in each round.
struct Pieces(Rc<Queue>);

impl Poll for Pieces {
    const SLEEPS: bool = true;

    fn poll(&mut self) -> bool {
        let did = self.0.zero_piece();
        if self.0.waiting.borrow().is_empty() {
            self.0.poller.take();
        }
        did
    }

    fn prepare_sleep(&mut self) -> bool {
        !self.0.waiting.borrow().is_empty()
    }
}

impl Queue {
    /// Zeroes one piece. Returns whether there was one.
    fn zero_piece(&self) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        let Some((_, left)) = waiting.front_mut() else { return false };
        let piece = Range::new(left.lba, left.nblocks.min(self.blocks_per_piece));
        let status = self.memory.zero(piece);
        *left = Range::new(left.lba + piece.nblocks, left.nblocks - piece.nblocks);
        let has_ended = left.nblocks == 0 || !status.is_success();
        let ended = if has_ended { waiting.pop_front() } else { None };
        // The client may submit again, and that may add to this queue.
        drop(waiting);
        if let Some((io, _)) = ended {
            io.complete(status);
        }
        true
    }
}
