//! The memory of a channel of a level with parity: buffers of one strip each, with a limit. I/O waits here until enough of them are free.

use crate::lane::Lane;
use crate::row_io::RowId;
use drivebay_sdk::bdev::{Child, IoId, IoQueue};
use drivebay_sdk::buf::{self, Buf};
use drivebay_sdk::prelude::*;
use drivebay_spec_raid::{Layout, LogArea, xor_into};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Maximum size of a channel's buffers together, in bytes. The buffers are always enough for 2 I/Os, and never more than
/// 32 I/Os need.
const BYTES_MAX: usize = 8 << 20;

/// The buffers of a channel. The channel allocates a buffer when it first needs it, and keeps all buffers until it closes.
#[derive(Debug)]
pub(crate) struct Strips {
    block_size: usize,
    /// Bytes of a buffer: a strip, and the header of an entry if there is a row log.
    buf_len: u32,
    /// The largest number of buffers of one I/O.
    per_io: usize,
    most: usize,
    made: Cell<usize>,
    #[expect(clippy::vec_box, reason = "an I/O takes the box as its context")]
    free: RefCell<Vec<Box<Strip>>>,
    /// Sums of strips for reads in flight, by number.
    sums: RefCell<Vec<Option<Sum>>>,
    waiting: RefCell<IoQueue>,
    is_resuming: Cell<bool>,
}

/// A buffer of one strip.
#[derive(Debug)]
pub(crate) struct Strip {
    pub(crate) buf: Buf,
    /// Set while an I/O has the buffer.
    pub(crate) flight: Option<Flight>,
}

/// What the end of a strip's I/O needs.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) child: Child,
    pub(crate) lane: Rc<Lane>,
    pub(crate) home: Home,
}

/// Who gets a strip when its I/O has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Home {
    /// A sum, after a successful read; 0 = the free buffers.
    Sum(SumId),
    /// A row I/O, as the strip of a slot.
    Row(RowId, u8),
}

/// Number of a sum, from 1; 0 = none.
pub(crate) type SumId = u16;

/// Blocks of a read that the lane computes from other strips.
#[derive(Debug)]
struct Sum {
    /// Where the blocks go in the buffers of the read, in bytes.
    at: usize,
    strip: Option<Box<Strip>>,
}

impl AsMut<Buf> for Strip {
    fn as_mut(&mut self) -> &mut Buf {
        &mut self.buf
    }
}

impl AsRef<[u8]> for Strip {
    fn as_ref(&self) -> &[u8] {
        &self.buf
    }
}

impl AsMut<[u8]> for Strip {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.buf
    }
}

impl Strip {
    /// Returns the buffer to its owner after a read or write.
    pub(crate) fn ended(mut self: Box<Self>, result: IoResult) {
        let Some(Flight { child, lane, home }) = self.flight.take() else { return };
        match (home, &lane.strips) {
            (Home::Row(id, slot), _) => lane.keep_strip(id, slot, self),
            (Home::Sum(sum), Some(strips)) => {
                strips.came_back(self, sum, result.status.is_success())
            }
            (Home::Sum(_), None) => {}
        }
        child.end(result);
        lane.resume();
    }
}

impl Strips {
    /// Creates the buffers of a channel for an array whose blocks have `block_size` bytes.
    pub(crate) fn new(layout: &Layout, block_size: u32, log: Option<&LogArea>) -> Self {
        let strip_len = layout.strip_blocks().saturating_mul(block_size.into());
        let buf_len = strip_len.saturating_add(log.map_or(0, LogArea::header_len));
        let buf_len = u32::try_from(buf_len).unwrap_or(u32::MAX);
        // A degraded read or the parity needs one less than a row I/O.
        let per_io = usize::from(layout.members()) - usize::from(log.is_none());
        let most = BYTES_MAX / (buf_len as usize).max(1);
        Self {
            block_size: block_size as usize,
            buf_len,
            per_io,
            most: most.clamp(2 * per_io, 32 * per_io),
            made: Cell::new(0),
            free: RefCell::default(),
            sums: RefCell::default(),
            waiting: RefCell::default(),
            is_resuming: Cell::new(false),
        }
    }

    /// Whether an I/O may begin: enough buffers are free, and no I/O has waited longer.
    pub(crate) fn has_room(&self) -> bool {
        let is_first = self.waiting.borrow().is_empty() || self.is_resuming.get();
        let mut free = self.free.borrow_mut();
        while free.len() < self.per_io && self.made.get() < self.most {
            let Ok(buf) = buf::alloc(self.buf_len) else { break };
            free.push(Box::new(Strip { buf, flight: None }));
            self.made.set(self.made.get() + 1);
        }
        is_first && free.len() >= self.per_io
    }

    /// Lets an I/O wait until [`has_room`](Self::has_room).
    #[cold]
    pub(crate) fn wait(&self, io: BdevIo) {
        let is_first = self.waiting.borrow().is_empty();
        if is_first && self.free.borrow().len() == self.made.get() {
            // No I/O holds buffers, so no return of a buffer would start this I/O. The bus submits it again later.
            return io.complete(Status::NO_RESOURCE);
        }
        self.waiting.borrow_mut().push(io);
    }

    /// Removes an I/O that waits, for abort.
    #[cold]
    pub(crate) fn stop_waiting(&self, id: IoId) -> Option<BdevIo> {
        self.waiting.borrow_mut().remove(id)
    }

    /// Takes a free buffer. After [`has_room`](Self::has_room) has returned true, there is one.
    pub(crate) fn take(&self) -> Option<Box<Strip>> {
        self.free.borrow_mut().pop()
    }

    /// As [`take`](Self::take), with the length of `nblocks` blocks.
    pub(crate) fn take_with(&self, nblocks: u64) -> Option<Box<Strip>> {
        let mut strip = self.take()?;
        strip.buf.set_len(self.len_of(nblocks));
        Some(strip)
    }

    /// The length of `nblocks` blocks, at most a strip, in bytes.
    pub(crate) fn len_of(&self, nblocks: u64) -> u32 {
        let len = usize::try_from(nblocks).unwrap_or(usize::MAX).saturating_mul(self.block_size);
        u32::try_from(len).unwrap_or(u32::MAX)
    }

    /// Takes a buffer back.
    pub(crate) fn give(&self, mut strip: Box<Strip>) {
        strip.buf.set_len(self.buf_len);
        self.free.borrow_mut().push(strip);
    }

    /// Begins a sum of strips for a read. `first` is the first block to compute, from the start of the read.
    pub(crate) fn begin_sum(&self, first: u64) -> SumId {
        let at = usize::try_from(first).unwrap_or(usize::MAX).saturating_mul(self.block_size);
        let mut sums = self.sums.borrow_mut();
        let free = sums.iter().position(Option::is_none).unwrap_or(sums.len());
        if free == sums.len() {
            sums.push(None);
        }
        if let Some(sum) = sums.get_mut(free) {
            *sum = Some(Sum { at, strip: None });
        }
        // Each sum has at least one buffer, and a channel has at most 32 * 254 buffers.
        SumId::try_from(free + 1).unwrap_or(0)
    }

    /// Takes a strip back. After a successful read, adds it to its sum.
    pub(crate) fn came_back(&self, strip: Box<Strip>, sum: SumId, is_good: bool) {
        let mut sums = self.sums.borrow_mut();
        let sum = usize::from(sum).checked_sub(1).and_then(|place| sums.get_mut(place)?.as_mut());
        match sum.filter(|_| is_good) {
            Some(Sum { strip: Some(total), .. }) => xor_into(&mut total.buf, &strip.buf),
            Some(Sum { strip: empty, .. }) => {
                *empty = Some(strip);
                return;
            }
            None => {}
        }
        self.give(strip);
    }

    /// Ends a sum. If all of its strips could be read, copies the result to the buffers of the read.
    pub(crate) fn end_sum(&self, sum: SumId, io: &BdevIo, is_good: bool) {
        let Some(place) = usize::from(sum).checked_sub(1) else { return };
        let ended = self.sums.borrow_mut().get_mut(place).and_then(Option::take);
        let Some(Sum { at, strip: Some(strip) }) = ended else { return };
        if is_good {
            io.buffers().fill_at(at, &strip.buf);
        }
        self.give(strip);
    }

    /// The I/O that has waited longest, if it may begin now.
    fn next_waiting(&self) -> Option<BdevIo> {
        if self.waiting.borrow().is_empty() || !self.has_room() {
            return None;
        }
        self.waiting.borrow_mut().pop()
    }

    /// Frees the buffers when the channel closes. Its I/O has ended.
    pub(crate) fn close(&self) {
        self.free.borrow_mut().clear();
    }
}

impl Lane {
    /// Begins I/O that waits for buffers, as long as enough of them are free.
    pub(crate) fn resume(self: &Rc<Self>) {
        let Some(strips) = &self.strips else { return };
        // An I/O that begins here may end at once and come here again.
        if strips.is_resuming.replace(true) {
            return;
        }
        while let Some(io) = strips.next_waiting() {
            self.submit(io, 0);
        }
        strips.is_resuming.set(false);
    }
}
