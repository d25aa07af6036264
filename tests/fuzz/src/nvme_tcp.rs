//! A whole NVMe/TCP connection. The host may send anything, in any order and in any pieces. The target behind the
//! connection answers at any time and has little memory. The connection's state machine has no sockets, so this crate
//! compiles the plugin's own files.
//!
//! The input is a script of [`Wire::step`]. A well-formed PDU gets correct digests and lengths, so that the fuzzer
//! also reaches the code behind their checks.

mod request;

use crate::script::Script;
use drivebay_spec_nvme::Command;
use drivebay_spec_nvme::sgl::SglDescriptor;
use drivebay_spec_nvme_tcp::{
    Alignment, C2hData, CapsuleCmd, CommonHeader, Digests, Frame, H2cData, IcReq, PduType,
    Placement, R2t, Receiver, Role, digest,
};
use machine::{Connection, Inbox, Limits, PLACES, Phase, SLICES};
use request::{Keeper, POOL, Piecewise};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};

#[allow(dead_code, unused_imports, reason = "the plugin uses all of it")]
#[path = "../../../plugins/transport/nvmf-tcp/src/connection/mod.rs"]
mod machine;

const LIMITS: Limits = Limits {
    depth: 24,
    in_capsule_len: 4096,
    io_len: 65536,
    h2c_data_len: 8192,
    c2h_success: true,
};

/// A burst has fewer PDUs than this.
const BURST: usize = 16;

/// Maximum number of steps on one connection.
const STEPS: usize = 400;

pub(crate) fn script(data: &[u8]) {
    let mut script = Script(data);
    let mut wire = Wire::new(LIMITS);
    for _ in 0..STEPS {
        if !wire.step(&mut script) {
            break;
        }
        wire.assert_bounds();
    }
    wire.end();
}

/// The connection, and the host at the other end of it.
struct Wire {
    connection: Connection<Piecewise>,
    keeper: Keeper,
    inbox: Inbox,
    /// The digests that the last ICReq requested.
    digests: Digests,
    alignment: Alignment,
    /// Bytes that the connection has sent and the host has not parsed yet.
    received: Vec<u8>,
    /// The PDU that was sent last.
    last: Vec<u8>,
    /// Whether the host has received ICResp.
    is_agreed: bool,
    /// R2Ts whose data the host has not sent yet.
    r2ts: VecDeque<R2t>,
}

impl Wire {
    fn new(limits: Limits) -> Self {
        Self {
            connection: Connection::new(limits),
            keeper: Keeper::default(),
            inbox: Inbox::new(),
            digests: Digests::default(),
            alignment: Alignment::DWORD,
            received: Vec::new(),
            last: Vec::new(),
            is_agreed: false,
            r2ts: VecDeque::new(),
        }
    }

    /// Does the next step of the script. Returns `false` at the end of the script or of the connection.
    fn step(&mut self, script: &mut Script<'_>) -> bool {
        let Some(what) = script.byte() else { return false };
        match what % 13 {
            0 => {
                let len = script.number();
                let bytes = script.bytes(len.into());
                self.send(bytes);
            }
            1 => self.initialize(script.number(), script.number()),
            2 | 3 => self.capsule(script),
            4 | 5 => self.data(script),
            6 => {
                if let Some(request) = self.keeper.answered(script.number(), script.number()) {
                    self.connection.complete(request);
                }
            }
            7 => self.take(usize::from(script.number()) * 64 + 1),
            8 => self.resume(),
            9 => self.keeper.set_limit(script.number()),
            10 => {
                let bits = script.number();
                self.connection.connected((bits & 3).into(), (bits >> 3).into(), bits & 4 != 0);
            }
            11 => self.take(usize::MAX),
            _ => match script.number() {
                0 => self.connection.close(),
                1 => return false,
                times => self.burst(times.into(), script.number().into()),
            },
        }
        self.connection.phase() != Phase::Ended
    }

    fn initialize(&mut self, bits: u8, maxr2t: u8) {
        let digests = Digests { header: bits & 1 != 0, data: bits & 2 != 0 };
        let hpda = Alignment::from_bits(bits >> 3).unwrap_or_default();
        if self.connection.phase() == Phase::Handshake {
            (self.digests, self.alignment) = (digests, hpda);
        }
        let mut bytes = [0; IcReq::LEN];
        IcReq { pfv: 0, hpda, digests, maxr2t: maxr2t.into() }.encode(&mut bytes);
        self.send(&bytes);
        // Few commands are allowed before Connect, so half of the connections start as a queue.
        if maxr2t & 1 == 0 {
            self.connection.connected(1, LIMITS.depth, true);
        }
    }

    fn capsule(&mut self, script: &mut Script<'_>) {
        let [opcode, cid, kind, a, b, wrong] = std::array::from_fn(|_| script.number());
        let (length, data_len) = (u32::from(a) * 97, u32::from(b) * 41);
        let sgl = match kind % 4 {
            0 => SglDescriptor::Transport { length },
            1 => SglDescriptor::InCapsule { offset: 0, length: data_len },
            2 => SglDescriptor::InCapsule { offset: (kind >> 2).into(), length },
            _ => SglDescriptor::from_dwords([length, b.into(), a.into(), u32::from(kind) << 24]),
        };
        let data = if kind % 4 == 0 { Vec::new() } else { vec![wrong; data_len as usize] };
        let command = Command::new(opcode).with_cid(cid.into()).with_nsid(1).with_sgl1(sgl);
        let mut header = [0; CapsuleCmd::LEN];
        let placement = CapsuleCmd { sqe: command.encode() }.encode(
            u32::try_from(data.len()).unwrap(),
            self.digests,
            Alignment::DWORD,
            &mut header,
        );
        self.assembled(&header, placement, &data, wrong);
    }

    /// Sends the last PDU `times` times. All bytes except the last `behind * 31` arrive at once. The others follow.
    fn burst(&mut self, times: usize, behind: usize) {
        let bytes = self.last.repeat(times % BURST);
        let (first, rest) = bytes.split_at(bytes.len().saturating_sub(behind * 31));
        self.send(first);
        self.send(rest);
    }

    /// Sends the data of an R2T, or data that no R2T requested.
    fn data(&mut self, script: &mut Script<'_>) {
        let [which, part, wrong] = std::array::from_fn(|_| script.number());
        let none = R2t { cccid: which.into(), ttag: part.into(), r2to: 0, r2tl: 64 };
        let at = usize::from(which) % self.r2ts.len().max(1);
        let place = self.r2ts.get_mut(at);
        let r2t = place.as_deref().copied().unwrap_or(none);
        // Sends a part now and the rest later.
        let len = (r2t.r2tl.saturating_mul(u32::from(part) + 1) / 256).max(1);
        let last = len >= r2t.r2tl;
        match place {
            Some(place) if !last => (place.r2to, place.r2tl) = (r2t.r2to + len, r2t.r2tl - len),
            _ => drop(self.r2ts.remove(at)),
        }
        let piece = H2cData {
            cccid: r2t.cccid,
            ttag: r2t.ttag,
            datao: r2t.r2to,
            datal: len,
            last: last ^ (wrong == 0x7f),
        };
        let mut header = [0; H2cData::LEN];
        let placement = piece.encode(self.digests, Alignment::DWORD, &mut header);
        self.assembled(&header, placement, &vec![which; len as usize], wrong);
    }

    /// Sends a PDU. If `wrong` is odd, one bit of it is flipped.
    fn assembled(&mut self, header: &[u8], placement: Placement, data: &[u8], wrong: u8) {
        let mut bytes = header.to_vec();
        if placement.header_digest {
            bytes.extend_from_slice(&digest::of(header));
        }
        bytes.resize(bytes.len() + usize::from(placement.pad_len), 0);
        bytes.extend_from_slice(data);
        if placement.data_digest {
            bytes.extend_from_slice(&digest::of(data));
        }
        if wrong & 1 != 0 {
            let at = usize::from(wrong >> 1) % bytes.len();
            bytes[at] ^= 1 << (wrong >> 5);
        }
        self.send(&bytes);
        self.last = bytes;
    }

    /// Sends bytes like the socket does, until the connection has no room.
    fn send(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.connection.begin_turn(&mut self.inbox);
            let has_room = self.connection.can_receive();
            let mut n = 0;
            let mut places = std::array::from_fn::<_, PLACES, _>(|_| IoSliceMut::new(&mut []));
            let filled = self.connection.receive_slices(&mut self.keeper, &mut places);
            for slice in &mut places[..filled] {
                let len = slice.len().min(bytes.len() - n);
                slice[..len].copy_from_slice(&bytes[n..n + len]);
                n += len;
                if len < slice.len() {
                    break;
                }
            }
            if n > 0 {
                self.connection.received(n, &mut self.keeper);
            }
            self.connection.end_turn(&mut self.inbox);
            assert_eq!(n > 0, has_room, "`has_room` must agree with the room");
            bytes = &bytes[n..];
            while self.connection.is_paused() {
                self.resume();
            }
            if n == 0 {
                return;
            }
        }
    }

    fn resume(&mut self) {
        self.connection.begin_turn(&mut self.inbox);
        self.connection.resume(&mut self.keeper);
        self.connection.end_turn(&mut self.inbox);
    }

    /// The host reads up to `limit` bytes.
    fn take(&mut self, limit: usize) {
        let mut left = limit;
        while left > 0 && self.connection.has_output() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = self.connection.send_slices(&mut slices);
            let bytes: Vec<u8> = slices[..filled]
                .iter()
                .flat_map(|slice| slice.iter().copied())
                .take(left)
                .collect();
            assert!(!bytes.is_empty(), "the output must not be empty");
            self.connection.sent(bytes.len());
            self.received.extend_from_slice(&bytes);
            left -= bytes.len();
        }
        self.understand();
    }

    /// Checks that the connection's output is in order, whatever the host sent.
    fn understand(&mut self) {
        let mut rest = &self.received[..];
        while let Some(common) = rest.first_chunk() {
            let digests = if self.is_agreed { self.digests } else { Digests::default() };
            let receiver =
                Receiver { digests, alignment: self.alignment, ..Receiver::new(Role::Host) };
            let frame = Frame::parse(&CommonHeader::parse(common), &receiver)
                .expect("a PDU that a host takes");
            let Some((pdu, more)) = rest.split_at_checked(frame.plen as usize) else { break };
            let header = &pdu[..frame.header_len];
            if frame.header_digest {
                assert_eq!(pdu[frame.header_len..][..4], digest::of(header));
            }
            let data = &pdu[frame.data_offset..][..frame.data_len as usize];
            if frame.data_digest {
                assert_eq!(pdu[pdu.len() - 4..], digest::of(data));
            }
            match frame.pdu_type {
                PduType::IcResp => self.is_agreed = true,
                PduType::R2t => {
                    self.r2ts.push_back(R2t::parse(header.first_chunk().unwrap()).unwrap())
                }
                PduType::C2hData => {
                    let reported = C2hData::parse(header.first_chunk().unwrap(), &frame).unwrap();
                    assert!(reported.last && reported.datal <= LIMITS.io_len);
                }
                PduType::C2hTermReq => assert!(more.is_empty(), "C2HTermReq must be the last PDU"),
                PduType::CapsuleResp => assert!(self.is_agreed, "an answer before ICResp"),
                other => panic!("{other:?} is a PDU of the host"),
            }
            rest = more;
        }
        self.received = rest.to_vec();
    }

    fn assert_bounds(&self) {
        assert!(self.keeper.made() <= usize::from(LIMITS.depth), "more requests than slots");
    }

    /// Drops the connection. Then every command comes back, and all memory is in the pool.
    fn end(&mut self) {
        self.take(usize::MAX);
        self.connection.end();
        while let Some(request) = self.keeper.answered(0, 0) {
            self.connection.complete(request);
        }
        assert_eq!(self.connection.phase(), Phase::Ended);
        assert!(!self.connection.has_output() && !self.connection.can_receive());
        assert_eq!(self.keeper.free(), POOL, "all memory must be back");
    }
}
