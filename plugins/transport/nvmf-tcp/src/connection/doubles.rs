//! A host and a target as test doubles.

use super::{Carrier, Limits, Target};
use drivebay_spec_nvme::sgl::SglDescriptor;
use drivebay_spec_nvme::{Command, Completion, Status};
use drivebay_spec_nvme_tcp::{
    Alignment, CapsuleCmd, Digests, H2cData, IcReq, Placement, R2t, digest,
};
use std::cell::Cell;
use std::rc::Rc;

pub(crate) const WRITE: u8 = 1;
pub(crate) const READ: u8 = 2;
pub(crate) const FLUSH: u8 = 0;

pub(crate) const LIMITS: Limits =
    Limits { depth: 4, in_capsule_len: 4096, io_len: 65536, h2c_data_len: 8192, c2h_success: true };

/// Number of pieces of memory.
pub(crate) const POOL: usize = 64;

/// A request whose memory is counted, in pieces of 4096 bytes.
#[derive(Debug)]
pub(crate) struct Memo {
    slot: u16,
    pub(crate) command: [u8; 64],
    response: [u8; 16],
    response_len: u32,
    from_host: bool,
    len: u32,
    /// From the command until its memory goes back.
    is_begun: bool,
    pieces: Vec<Vec<u8>>,
    pool: Rc<Cell<usize>>,
}

impl Memo {
    pub(crate) fn is_from_host(&self) -> bool {
        self.from_host
    }
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.pieces.concat();
        bytes.truncate(self.len as usize);
        bytes
    }
}

impl Carrier for Memo {
    fn slot(&self) -> u16 {
        self.slot
    }
    fn begin(&mut self, command: &[u8; 64]) {
        assert!(!self.is_begun, "the last command was released");
        self.is_begun = true;
        self.command = *command;
    }
    fn obtain(&mut self, len: u32) -> bool {
        assert!(self.pieces.is_empty(), "memory of the last command was released");
        let pieces = (len as usize).div_ceil(4096);
        if self.pool.get() < pieces {
            return false;
        }
        self.pool.set(self.pool.get() - pieces);
        self.pieces = vec![vec![0; 4096]; pieces];
        true
    }
    fn set_transfer(&mut self, from_host: bool, len: u32) {
        (self.from_host, self.len) = (from_host, len);
    }
    fn release(&mut self) {
        self.is_begun = false;
        self.pool.set(self.pool.get() + self.pieces.len());
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
        match self.pieces.get_mut(offset / 4096) {
            Some(piece) => &mut piece[offset % 4096..],
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

/// A target that keeps the requests it gets.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) pool: Rc<Cell<usize>>,
    pub(crate) lent: Vec<Memo>,
}

impl Target<Memo> for Keeper {
    fn make(&mut self, slot: u16) -> Memo {
        Memo {
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
    fn exec(&mut self, request: Memo) {
        self.lent.push(request);
    }
}

impl Keeper {
    pub(crate) fn new() -> Self {
        Self { pool: Rc::new(Cell::new(POOL)), lent: Vec::new() }
    }

    pub(crate) fn answered(&mut self, status: Status) -> Memo {
        self.answered_at(status, 0)
    }

    /// The oldest command with its answer. The data of a read is the pattern.
    pub(crate) fn answered_at(&mut self, status: Status, sqhd: u16) -> Memo {
        let mut request = self.lent.remove(0);
        let cid = Command::parse(&request.command).cid();
        let mut completion = Completion::new(cid, status);
        completion.sqhd = sqhd;
        request.response = completion.encode();
        request.response_len = if request.from_host { 0 } else { request.len };
        if !request.from_host {
            for (i, byte) in request.pieces.iter_mut().flatten().enumerate() {
                *byte = at(i);
            }
        }
        request
    }
}

/// Builds what a host sends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Host {
    pub(crate) digests: Digests,
}

impl Host {
    pub(crate) fn ic_req(self, maxr2t: u32) -> [u8; 128] {
        ic_req(self.digests, maxr2t, 0)
    }

    pub(crate) fn read(self, cid: u16, length: u32) -> Vec<u8> {
        self.capsule(read(cid, length), &[])
    }

    pub(crate) fn write(self, cid: u16, length: u32) -> Vec<u8> {
        self.capsule(write(cid, length), &[])
    }

    pub(crate) fn capsule(self, command: Command, data: &[u8]) -> Vec<u8> {
        let mut header = [0; 72];
        let placement = CapsuleCmd { sqe: command.encode() }.encode(
            len(data),
            self.digests,
            Alignment::DWORD,
            &mut header,
        );
        assemble(&header, placement, data)
    }

    pub(crate) fn h2c(self, r2t: R2t, datao: u32, data: &[u8], last: bool) -> Vec<u8> {
        let mut header = [0; 24];
        let pdu = H2cData { cccid: r2t.cccid, ttag: r2t.ttag, datao, datal: len(data), last };
        let placement = pdu.encode(self.digests, Alignment::DWORD, &mut header);
        assemble(&header, placement, data)
    }

    /// The PDU with the data for an R2T, and the length of the data.
    pub(crate) fn answer_r2t(self, r2t: &[u8], data: &[u8]) -> (Vec<u8>, usize) {
        let r2t = R2t::parse(r2t.first_chunk().unwrap()).unwrap();
        let bytes = &data[r2t.r2to as usize..][..r2t.r2tl as usize];
        (self.h2c(r2t, r2t.r2to, bytes, true), bytes.len())
    }
}

pub(crate) fn ic_req(digests: Digests, maxr2t: u32, hpda: u8) -> [u8; 128] {
    let mut bytes = [0; 128];
    let hpda = Alignment::from_bits(hpda).unwrap();
    IcReq { pfv: 0, hpda, digests, maxr2t }.encode(&mut bytes);
    bytes
}

pub(crate) fn assemble(header: &[u8], placement: Placement, data: &[u8]) -> Vec<u8> {
    let mut bytes = header.to_vec();
    if placement.header_digest {
        bytes.extend_from_slice(&digest::of(header));
    }
    bytes.resize(bytes.len() + usize::from(placement.pad_len), 0);
    bytes.extend_from_slice(data);
    if placement.data_digest {
        bytes.extend_from_slice(&digest::of(data));
    }
    bytes
}

pub(crate) fn command(opcode: u8, cid: u16, sgl: SglDescriptor) -> Command {
    Command::new(opcode).with_cid(cid).with_nsid(1).with_sgl1(sgl)
}

pub(crate) fn write(cid: u16, length: u32) -> Command {
    command(WRITE, cid, SglDescriptor::Transport { length })
}

pub(crate) fn read(cid: u16, length: u32) -> Command {
    command(READ, cid, SglDescriptor::Transport { length })
}

pub(crate) fn in_capsule(cid: u16, offset: u64, length: u32) -> Command {
    command(WRITE, cid, SglDescriptor::InCapsule { offset, length })
}

pub(crate) fn len(data: &[u8]) -> u32 {
    u32::try_from(data.len()).unwrap()
}

/// The byte of the pattern at offset `i`.
pub(crate) fn at(i: usize) -> u8 {
    u8::try_from(i % 251).unwrap()
}

pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(at).collect()
}
