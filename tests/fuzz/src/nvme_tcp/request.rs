//! Requests whose memory comes in pieces from a counted pool, and a target that keeps them until the script says to
//! answer.

use super::machine::{Carrier, Target};
use drivebay_spec_nvme::{Command, Completion, Status};
use std::cell::Cell;
use std::rc::Rc;

/// Number of pieces in the pool.
pub(super) const POOL: usize = 64;
const PIECE_LEN: usize = 4096;

/// The number of free pieces, and how many of them must stay free.
#[derive(Debug)]
struct Pool {
    free: Cell<usize>,
    kept: Cell<usize>,
}

#[derive(Debug)]
pub(super) struct Piecewise {
    slot: u16,
    command: [u8; 64],
    response: [u8; 16],
    response_len: u32,
    from_host: bool,
    len: u32,
    /// From the command until its memory goes back.
    is_begun: bool,
    pieces: Vec<Vec<u8>>,
    pool: Rc<Pool>,
}

impl Carrier for Piecewise {
    fn slot(&self) -> u16 {
        self.slot
    }

    fn begin(&mut self, command: &[u8; 64]) {
        assert!(!self.is_begun, "the last command was released");
        self.is_begun = true;
        (self.command, self.len) = (*command, 0);
    }

    fn obtain(&mut self, len: u32) -> bool {
        assert!(self.pieces.is_empty(), "memory is obtained once");
        let count = (len as usize).div_ceil(PIECE_LEN);
        let free = self.pool.free.get();
        if free < self.pool.kept.get() + count {
            return false;
        }
        self.pool.free.set(free - count);
        self.pieces = vec![vec![0; PIECE_LEN]; count];
        true
    }

    fn set_transfer(&mut self, from_host: bool, len: u32) {
        (self.from_host, self.len) = (from_host, len);
    }

    fn release(&mut self) {
        self.is_begun = false;
        self.pool.free.set(self.pool.free.get() + self.pieces.len());
        self.pieces.clear();
    }

    fn data(&self, offset: u32, len: u32) -> impl Iterator<Item = &[u8]> {
        let (mut skip, mut left) = (offset as usize, len as usize);
        self.pieces.iter().filter_map(move |piece| {
            let from = skip.min(piece.len());
            skip -= from;
            let n = (piece.len() - from).min(left);
            left -= n;
            (n > 0).then(|| &piece[from..from + n])
        })
    }

    fn data_mut(&mut self, offset: u32) -> &mut [u8] {
        let offset = offset as usize;
        match self.pieces.get_mut(offset / PIECE_LEN) {
            Some(piece) => &mut piece[offset % PIECE_LEN..],
            None => &mut [],
        }
    }

    fn response(&self) -> [u8; 16] {
        self.response
    }

    fn response_len(&self) -> u32 {
        self.response_len
    }
}

/// The target.
#[derive(Debug)]
pub(super) struct Keeper {
    pool: Rc<Pool>,
    lent: Vec<Piecewise>,
    made: usize,
}

impl Default for Keeper {
    fn default() -> Self {
        let pool = Pool { free: Cell::new(POOL), kept: Cell::new(0) };
        Self { pool: Rc::new(pool), lent: Vec::new(), made: 0 }
    }
}

impl Target<Piecewise> for Keeper {
    fn make(&mut self, slot: u16) -> Piecewise {
        self.made += 1;
        Piecewise {
            slot,
            command: [0; 64],
            response: [0; 16],
            response_len: 0,
            from_host: false,
            len: 0,
            is_begun: false,
            pieces: Vec::new(),
            pool: Rc::clone(&self.pool),
        }
    }

    fn exec(&mut self, request: Piecewise) {
        let wanted = (request.len as usize).div_ceil(PIECE_LEN);
        assert_eq!(request.pieces.len(), wanted, "its data has memory when the target gets it");
        self.lent.push(request);
    }
}

impl Keeper {
    /// Answers one of the requests that the target has. The data of a read is the command's bytes.
    pub(super) fn answered(&mut self, which: u8, how: u8) -> Option<Piecewise> {
        if self.lent.is_empty() {
            return None;
        }
        let mut request = self.lent.remove(usize::from(which) % self.lent.len());
        let status = if how & 1 == 0 { Status::SUCCESS } else { Status::INTERNAL_ERROR };
        let mut completion = Completion::new(Command::parse(&request.command).cid(), status);
        completion.sqhd = (how >> 4).into();
        completion.result = (how >> 1 & 1).into();
        request.response = completion.encode();
        request.response_len = match (request.from_host, how & 8) {
            (true, _) => 0,
            (false, 0) => request.len,
            (false, _) => request.len / 2,
        };
        let bytes = request.command.iter().cycle();
        for (to, from) in request.pieces.iter_mut().flatten().zip(bytes) {
            *to = *from;
        }
        Some(request)
    }

    /// From now on the pool keeps back this many pieces.
    pub(super) fn set_limit(&self, kept: u8) {
        self.pool.kept.set(usize::from(kept) % (POOL + 1));
    }

    pub(super) fn free(&self) -> usize {
        self.pool.free.get()
    }

    pub(super) fn made(&self) -> usize {
        self.made
    }
}
