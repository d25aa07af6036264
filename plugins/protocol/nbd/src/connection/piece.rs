//! A part of a request that is one I/O, and how its end comes back to the connection.

use super::Opened;
use drivebay_sdk::Status;
use drivebay_sdk::bdev::{IoFlags, IoResult, Op};
use drivebay_sdk::buf::{self, Buf};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Pieces; each one is lent to the bus by its address.
pub(super) type Pieces = Vec<Box<Piece>>;

/// One I/O: its buffer, and whose it is.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) buf: Buf,
    /// The request's slot.
    pub(super) slot: usize,
    /// First byte on the export.
    pub(super) offset: u64,
    /// How it ended.
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
    /// Around a buffer.
    pub(super) fn new(buf: Buf, flight: &Rc<Flight>) -> Box<Self> {
        let flight = Rc::clone(flight);
        Box::new(Self { buf, slot: 0, offset: 0, status: Status::SUCCESS, block: None, flight })
    }

    /// One with a buffer of `len` bytes: a spare one, or from the pools, if there is one now.
    pub(super) fn get(spare: &mut Pieces, len: u32, flight: &Rc<Flight>) -> Option<Box<Self>> {
        if let Some(mut piece) = spare.pop() {
            piece.buf.set_len(len);
            if piece.buf.len() == len {
                return Some(piece);
            }
        }
        buf::get(len).map(|buf| Self::new(buf, flight))
    }

    /// Submits it; it comes back with [`Flight::take`].
    pub(super) fn submit(self: Box<Self>, op: Op, flags: IoFlags, opened: &Opened) {
        self.flight.num_in_flight.set(self.flight.num_in_flight.get() + 1);
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

/// Keys of a thread's connections whose I/O has ended.
#[derive(Debug, Default)]
pub struct Woken(RefCell<Vec<usize>>);

impl Woken {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Takes them out.
    pub fn drain(&self, call: impl FnMut(usize)) {
        self.0.borrow_mut().drain(..).for_each(call);
    }
}

/// The I/O of one connection.
#[derive(Debug)]
pub(super) struct Flight {
    key: Cell<usize>,
    num_in_flight: Cell<usize>,
    ended: RefCell<Pieces>,
    is_woken: Cell<bool>,
    woken: Rc<Woken>,
}

impl Flight {
    pub(super) fn new(woken: Rc<Woken>) -> Self {
        Self {
            key: Cell::new(0),
            num_in_flight: Cell::new(0),
            ended: RefCell::default(),
            is_woken: Cell::new(false),
            woken,
        }
    }

    pub(super) fn set_key(&self, key: usize) {
        self.key.set(key);
    }

    /// The connection has its turn: the next end of an I/O wakes it again.
    pub(super) fn set_awake(&self) {
        self.is_woken.set(false);
    }

    /// A piece that has ended.
    pub(super) fn take(&self) -> Option<Box<Piece>> {
        let piece = self.ended.borrow_mut().pop()?;
        self.num_in_flight.set(self.num_in_flight.get() - 1);
        Some(piece)
    }

    /// Pieces that were submitted and not taken.
    pub(super) fn len(&self) -> usize {
        self.num_in_flight.get()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.len() == 0
    }
}
