//! Tests of the connection with a host in memory: what it sends, and what comes back.

mod ahead;
mod commands;
mod data;
mod digests;
mod ends;
mod handshake;

use super::doubles::{
    FLUSH, Host, Keeper, LIMITS, Memo, POOL, READ, WRITE, at, command, ic_req, in_capsule, pattern,
    read, write,
};
use super::inbox::LEN as INBOX;
use super::{AHEAD, BURST, Connection, Inbox, Limits, PLACES, Phase, SLICES};
use drivebay_spec_nvme::sgl::SglDescriptor;
use drivebay_spec_nvme::{Command, Completion, Status};
use drivebay_spec_nvme_tcp::{
    C2hData, CommonHeader, Digests, Fes, Frame, IcResp, PduType, ProtocolError, R2t, Receiver,
    Role, TermReq, digest,
};
use proptest::prelude::*;
use std::io::{IoSlice, IoSliceMut};

const BOTH: Digests = Digests { header: true, data: true };

#[derive(Debug)]
struct Pdu {
    frame: Frame,
    header: Vec<u8>,
    data: Vec<u8>,
}

impl Pdu {
    fn completion(&self) -> Completion {
        assert_eq!(self.frame.pdu_type, PduType::CapsuleResp);
        Completion::parse(self.header[8..24].first_chunk().unwrap())
    }
    fn r2t(&self) -> R2t {
        assert_eq!(self.frame.pdu_type, PduType::R2t);
        R2t::parse(self.header.first_chunk().unwrap()).unwrap()
    }
    fn error(&self) -> ProtocolError {
        assert_eq!(self.frame.pdu_type, PduType::C2hTermReq);
        TermReq::parse(self.header.first_chunk().unwrap(), Role::Controller).error().unwrap()
    }
}

struct Wire {
    connection: Connection<Memo>,
    keeper: Keeper,
    inbox: Inbox,
    digests: Digests,
    /// Number of bytes to give to the connection at once.
    chunk: usize,
}

fn no_places<'a>() -> [IoSliceMut<'a>; PLACES] {
    std::array::from_fn(|_| IoSliceMut::new(&mut []))
}

impl Wire {
    fn new(limits: Limits) -> Self {
        Self {
            connection: Connection::new(limits),
            keeper: Keeper::new(),
            inbox: Inbox::new(),
            digests: Digests::default(),
            chunk: usize::MAX,
        }
    }

    fn open_with(limits: Limits, digests: Digests, maxr2t: u32, hpda: u8) -> Self {
        let mut wire = Self::new(limits);
        wire.send(&ic_req(digests, maxr2t, hpda));
        let answer = wire.take();
        let response = IcResp::parse(answer.first_chunk().unwrap(), digests).unwrap();
        assert_eq!((response.digests, response.maxh2cdata), (digests, limits.h2c_data_len));
        assert_eq!(wire.connection.phase(), Phase::Open);
        wire.digests = digests;
        wire.connection.connected(1, 4, true);
        wire
    }

    fn open() -> Self {
        Self::open_with(LIMITS, Digests::default(), 0, 0)
    }

    fn send(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            self.connection.begin_turn(&mut self.inbox);
            let (mut n, mut places) = (0, no_places());
            let filled = self.connection.receive_slices(&mut self.keeper, &mut places);
            for slice in &mut places[..filled] {
                let k = slice.len().min(rest.len() - n).min(self.chunk - n.min(self.chunk));
                slice[..k].copy_from_slice(&rest[n..n + k]);
                n += k;
                if k < slice.len() {
                    break;
                }
            }
            if n > 0 {
                self.connection.received(n, &mut self.keeper);
            }
            self.connection.end_turn(&mut self.inbox);
            if n == 0 {
                return;
            }
            rest = &rest[n..];
            while self.connection.is_paused() {
                self.resume();
            }
        }
    }

    /// The length of each place of the next receive, in bytes.
    fn place_lens(&mut self) -> Vec<usize> {
        self.connection.begin_turn(&mut self.inbox);
        let mut places = no_places();
        let filled = self.connection.receive_slices(&mut self.keeper, &mut places);
        let lens = places[..filled].iter().map(|place| place.len()).collect();
        self.connection.release_unused();
        self.connection.end_turn(&mut self.inbox);
        lens
    }

    fn resume(&mut self) {
        self.connection.begin_turn(&mut self.inbox);
        self.connection.resume(&mut self.keeper);
        self.connection.end_turn(&mut self.inbox);
    }

    /// Takes all output, 1000 bytes at a time.
    fn take(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let n = self.connection.send_slices(&mut slices);
            let bytes: Vec<u8> =
                slices[..n].iter().flat_map(|slice| slice.iter().copied()).collect();
            if bytes.is_empty() {
                return all;
            }
            let n = bytes.len().min(1000);
            all.extend_from_slice(&bytes[..n]);
            self.connection.sent(n);
        }
    }

    fn take_pdus(&mut self) -> Vec<Pdu> {
        let bytes = self.take();
        let mut rest = &bytes[..];
        let receiver = Receiver { digests: self.digests, ..Receiver::new(Role::Host) };
        let mut pdus = Vec::new();
        while let Some(common) = rest.first_chunk() {
            let frame = Frame::parse(&CommonHeader::parse(common), &receiver).unwrap();
            let (pdu, more) = rest.split_at(frame.plen as usize);
            let header = pdu[..frame.header_len].to_vec();
            if frame.header_digest {
                assert_eq!(pdu[frame.header_len..][..4], digest::of(&header));
            }
            let data = pdu[frame.data_offset..][..frame.data_len as usize].to_vec();
            if frame.data_digest {
                assert_eq!(pdu[pdu.len() - 4..], digest::of(&data));
            }
            pdus.push(Pdu { frame, header, data });
            rest = more;
        }
        pdus
    }

    fn take_one(&mut self) -> Pdu {
        let mut pdus = self.take_pdus();
        assert_eq!(pdus.len(), 1, "{pdus:?}");
        pdus.remove(0)
    }

    fn capsule(&self, command: Command, data: &[u8]) -> Vec<u8> {
        Host { digests: self.digests }.capsule(command, data)
    }

    fn h2c(&self, r2t: R2t, datao: u32, data: &[u8], last: bool) -> Vec<u8> {
        Host { digests: self.digests }.h2c(r2t, datao, data, last)
    }

    /// The target answers its oldest command.
    fn answer(&mut self, status: Status, sqhd: u16) {
        let request = self.keeper.answered_at(status, sqhd);
        self.connection.complete(request);
    }

    fn terminated(&mut self) -> ProtocolError {
        let error = self.take_pdus().last().unwrap().error();
        assert_eq!(self.connection.phase(), Phase::Terminating);
        self.end();
        error
    }

    /// Drops the connection. Then every command comes back, and all memory is in the pool.
    fn end(&mut self) {
        self.connection.end();
        while !self.keeper.lent.is_empty() {
            self.answer(Status::SUCCESS, 0);
        }
        assert_eq!(self.connection.phase(), Phase::Ended);
        assert_eq!(self.connection.at_target(), 0);
        assert!(!self.connection.has_output());
        assert_eq!(self.keeper.pool.get(), POOL, "memory is back");
    }
}
