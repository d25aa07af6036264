//! A connection in transmission: requests become I/O, and I/O that has ended becomes replies.
//!
//! ```text
//!  socket ─▶ inbox ─▶ receive ─▶ begin: pieces of at most 128 KiB ─▶ bdev
//!  socket ◀─ outbox ◀──────────── finish ◀─ pieces that have ended ◀──┘
//! ```
//!
//! Data goes from the socket into a piece's buffer and from there to the bdev, and back the same way. A connection
//! holds at most `PIECES_MAX` pieces and `REQUESTS_MAX` requests. Replies that the client has not taken count too.
//! At either limit, the connection stops reading. Only a read with a simple reply may be one longer piece.

mod begin;
mod finish;
mod outbox;
mod piece;
mod receive;

use crate::disk::Served;
use crate::export::Export;
use crate::negotiate::Agreed;
use begin::Begun;
use drivebay_sdk::bdev::Channel;
use drivebay_sdk::runtime::group::Weight;
use drivebay_sdk::runtime::net::{Next, Stream};
use drivebay_sdk::{Result, tracing};
use drivebay_spec_nbd::transmission::{Extent, Framing, Request};
use outbox::Outbox;
pub use piece::Woken;
use piece::{Flight, Pieces};
use receive::{Inbox, Stop};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

/// Maximum number of pieces of one connection.
const PIECES_MAX: usize = 64;
/// Maximum number of requests of one connection.
const REQUESTS_MAX: usize = 128;

/// An export in use on one thread.
#[derive(Debug)]
pub struct Opened {
    // Fields drop in this order, so the channel closes before its descriptor.
    channel: Channel,
    export: Arc<Export>,
    /// Whether I/O was submitted since the channel was last flushed.
    has_submitted: Cell<bool>,
}

impl Opened {
    /// Gets this thread's channel.
    ///
    /// # Errors
    /// The error of the bdev's module.
    pub fn new(export: Arc<Export>) -> Result<Self> {
        Ok(Self { channel: export.channel()?, export, has_submitted: Cell::new(false) })
    }

    /// The export.
    #[must_use]
    pub fn export(&self) -> &Arc<Export> {
        &self.export
    }

    /// Flushes the channel, if I/O was submitted.
    pub fn flush(&self) {
        if self.has_submitted.replace(false) {
            self.channel.flush();
        }
    }
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    opened: Rc<Opened>,
    framing: Framing,
    has_block_status: bool,
    phase: Phase,
    inbox: Inbox,
    /// The request whose data is being received, or whose I/O is being submitted.
    begun: Option<Begun>,
    /// Requests without a reply yet. Slots are reused.
    requests: Vec<Option<Ongoing>>,
    free: Vec<usize>,
    outbox: Outbox,
    flight: Rc<Flight>,
    /// Pieces to reuse while the connection is busy.
    spare: Pieces,
    _weight: Weight,
    /// Reports the end of the connection of a disk.
    _served: Option<Served>,
}

/// The states of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It takes requests.
    Open,
    /// The client sends no more. The connection ends after the replies to its requests.
    Draining,
    /// The export ends. As `Draining`, but the connection does not wait for a client that does not read.
    Ending,
    /// Nothing can be sent any more. The connection ends when its I/O has ended.
    Lost,
}

/// A request without a reply yet.
#[derive(Debug)]
struct Ongoing {
    request: Request,
    in_flight: u32,
    /// Whether all of its I/O is submitted.
    is_begun: bool,
    /// The first error, as a number of the protocol; 0 = none.
    error: u32,
    /// Block status: the extents found so far.
    extents: Vec<Extent>,
    /// Block status: whether the current seek looks for a hole, not for data.
    seeks_hole: bool,
}

impl Connection {
    /// Creates a connection whose client has negotiated.
    #[must_use]
    pub fn new(
        opened: Rc<Opened>,
        agreed: &Agreed,
        woken: Rc<Woken>,
        weight: Weight,
        served: Option<Served>,
    ) -> Self {
        Self {
            opened,
            framing: agreed.framing,
            has_block_status: agreed.has_block_status,
            phase: Phase::Open,
            inbox: Inbox::default(),
            begun: None,
            requests: Vec::new(),
            free: Vec::new(),
            outbox: Outbox::default(),
            flight: Rc::new(Flight::new(woken)),
            spare: Vec::new(),
            _weight: weight,
            _served: served,
        }
    }

    /// Sets the key that wakes this connection.
    pub fn set_key(&mut self, key: usize) {
        self.flight.set_key(key);
    }

    /// The export that this connection serves.
    #[must_use]
    pub fn export(&self) -> &Arc<Export> {
        self.opened.export()
    }

    /// Takes no more requests. The next turns reply to the requests in flight, then the connection ends.
    pub fn end(&mut self) {
        self.phase = Phase::Ending;
        self.abandon_begun();
    }

    /// Receives requests, submits their I/O, and sends replies.
    pub fn turn(&mut self, stream: &mut Stream) -> Next {
        self.flight.set_awake();
        self.finish();
        let mut stop = Stop::Input;
        if self.phase == Phase::Open {
            stop = self.receive(stream).unwrap_or_else(|why| {
                tracing::info!("an NBD connection is lost: {why}");
                self.phase = Phase::Lost;
                Stop::Input
            });
            self.finish(); // some I/O ends during its submission
        }
        if self.phase != Phase::Lost
            && let Err(error) = self.outbox.send(stream, &mut self.spare)
        {
            tracing::info!("an NBD connection is lost: {error}");
            self.phase = Phase::Lost;
        }
        if self.phase == Phase::Lost {
            self.outbox.clear();
            self.abandon_begun();
        }
        self.next(stream, stop)
    }

    fn next(&mut self, stream: &Stream, stop: Stop) -> Next {
        let is_idle = self.flight.is_idle();
        if is_idle && self.begun.is_none() {
            self.spare.clear();
        }
        let goes_on = match self.phase {
            Phase::Open => match stop {
                Stop::Input => stream.is_readable(),
                Stop::Room => self.has_room(),
                Stop::Turn => true,
            },
            Phase::Draining if is_idle && self.outbox.is_empty() => return Next::End,
            Phase::Ending | Phase::Lost if is_idle => return Next::End,
            Phase::Draining | Phase::Ending | Phase::Lost => false,
        };
        if goes_on || (stream.is_writable() && !self.outbox.is_empty()) {
            Next::Work
        } else {
            Next::Wait
        }
    }

    /// Whether there is room for another request.
    fn has_room(&self) -> bool {
        self.requests.len() - self.free.len() + self.outbox.len() < REQUESTS_MAX
            && self.has_room_for_piece()
    }

    fn has_room_for_piece(&self) -> bool {
        self.flight.len() + self.outbox.weight() < PIECES_MAX
    }

    /// Gives up the request that is begun.
    fn abandon_begun(&mut self) {
        if let Some(begun) = self.begun.take() {
            self.release(begun.slot);
        }
    }

    fn ongoing(&mut self, slot: usize) -> Option<&mut Ongoing> {
        self.requests.get_mut(slot)?.as_mut()
    }

    fn add_ongoing(&mut self, request: Request) -> usize {
        let new = Ongoing {
            request,
            in_flight: 0,
            is_begun: false,
            error: 0,
            extents: Vec::new(),
            seeks_hole: false,
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.requests.push(None);
            self.requests.len() - 1
        });
        if let Some(place) = self.requests.get_mut(slot) {
            *place = Some(new);
        }
        slot
    }

    fn release(&mut self, slot: usize) -> Option<Ongoing> {
        let ongoing = self.requests.get_mut(slot)?.take()?;
        self.free.push(slot);
        Some(ongoing)
    }
}
