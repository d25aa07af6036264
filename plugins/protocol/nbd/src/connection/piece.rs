//! A piece: a part of a request that is one I/O. When the I/O ends, the piece comes back to its connection.

use super::begin::PIECE_LEN_MAX;
use super::{Opened, PIECES_MAX};
use drivebay_sdk::Status;
use drivebay_sdk::bdev::{IoFlags, IoResult, Op};
use drivebay_sdk::buf::{self, Buf};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Pieces. Each has its own box, because the bus holds its address.
pub(super) type Pieces = Vec<Box<Piece>>;

/// One I/O, with its buffer and its request.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) buf: Buf,
    /// Slot of the request.
    pub(super) slot: usize,
    /// First byte on the export.
    pub(super) offset: u64,
    /// How the I/O ended.
    pub(super) status: Status,
    /// The block that a seek found.
    pub(super) block: Option<u64>,
    flight: Rc<Flight>,
}

impl AsMut<Buf> for Piece {
    fn as_mut(&mut self) -> &mut Buf {
        &mut self.buf
    }
}

impl Piece {
    /// Creates a piece with this buffer.
    pub(super) fn new(buf: Buf, flight: &Rc<Flight>) -> Box<Self> {
        let flight = Rc::clone(flight);
        Box::new(Self { buf, slot: 0, offset: 0, status: Status::SUCCESS, block: None, flight })
    }

    /// Gets a piece with a buffer of `len` bytes: a spare one, or one from the pools. `None` when there is none now.
    pub(super) fn get(spare: &mut Pieces, len: u32, flight: &Rc<Flight>) -> Option<Box<Self>> {
        if let Some(mut piece) = spare.pop() {
            piece.buf.set_len(len);
            if piece.buf.len() == len {
                return Some(piece);
            }
        }
        buf::get(len).map(|buf| Self::new(buf, flight))
    }

    /// What it counts against [`PIECES_MAX`]: a simple reply's only piece may be as long as many.
    pub(super) fn weight(&self) -> usize {
        self.buf.len().div_ceil(PIECE_LEN_MAX).max(1) as usize
    }

    /// Keeps the piece for another request, if there is room and it is not a long one.
    pub(super) fn keep(self: Box<Self>, spare: &mut Pieces) {
        if spare.len() < PIECES_MAX && self.buf.len() <= PIECE_LEN_MAX {
            spare.push(self);
        }
    }

    /// Submits the I/O. The piece comes back from [`Flight::take`].
    pub(super) fn submit(self: Box<Self>, op: Op, flags: IoFlags, opened: &Opened) {
        self.flight.in_flight.set(self.flight.in_flight.get() + self.weight());
        opened.has_submitted.set(true);
        opened.channel.submit(op, flags, self, ended);
    }
}

fn ended(mut piece: Box<Piece>, result: IoResult) {
    (piece.status, piece.block) = (result.status, result.block());
    let flight = Rc::clone(&piece.flight);
    flight.ended.borrow_mut().push(piece);
    if !flight.is_woken.replace(true) {
        flight.woken.0.borrow_mut().push(flight.key.get());
    }
}

/// Keys of the connections of a thread whose I/O has ended.
#[derive(Debug, Default)]
pub struct Woken(RefCell<Vec<usize>>);

impl Woken {
    /// Whether there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Takes all keys out.
    pub fn drain(&self, call: impl FnMut(usize)) {
        self.0.borrow_mut().drain(..).for_each(call);
    }
}

/// The I/O of one connection.
#[derive(Debug)]
pub(super) struct Flight {
    key: Cell<usize>,
    /// Weight of the pieces that were submitted and not taken yet.
    in_flight: Cell<usize>,
    ended: RefCell<Pieces>,
    is_woken: Cell<bool>,
    woken: Rc<Woken>,
}

impl Flight {
    pub(super) fn new(woken: Rc<Woken>) -> Self {
        Self {
            key: Cell::new(0),
            in_flight: Cell::new(0),
            ended: RefCell::default(),
            is_woken: Cell::new(false),
            woken,
        }
    }

    pub(super) fn set_key(&self, key: usize) {
        self.key.set(key);
    }

    /// Notes that the connection has its turn: the next I/O that ends wakes it again.
    pub(super) fn set_awake(&self) {
        self.is_woken.set(false);
    }

    /// Takes a piece whose I/O has ended.
    pub(super) fn take(&self) -> Option<Box<Piece>> {
        let piece = self.ended.borrow_mut().pop()?;
        self.in_flight.set(self.in_flight.get() - piece.weight());
        Some(piece)
    }

    /// Weight of the pieces that were submitted and not taken yet; 0: there are none.
    pub(super) fn len(&self) -> usize {
        self.in_flight.get()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.len() == 0
    }
}
