//! The initiator's session with any input from a target.
//!
//! A script says which digests are in use and how long bursts are, then has steps. A step submits a command, sends, or receives a PDU
//! or bytes. The session returns each request once, touches its memory only within its length, and remembers only a bounded number of
//! bytes to send.

use super::wire::{self, Digests};
use crate::script::Script;
use crate::session::{Payload, Session};
use drivebay_scsi::initiator::Transfer;
use drivebay_spec_iscsi::negotiation::Agreed;
use drivebay_spec_iscsi::pdu::{self, DataIn, FINAL, R2t, ScsiResponse};
use drivebay_spec_iscsi::{BHS_LEN, NO_TAG};

/// Most bytes to send: the data of all commands, their headers, and answers to pings.
const OUTPUT_LEN_MAX: usize = (1 << 20) + 128 * (DATA_LEN_MAX as usize * 2 + 4096);
/// Longest data of a command, in bytes.
const DATA_LEN_MAX: u32 = 256 * 64;

struct Memory {
    name: usize,
    bytes: Vec<u8>,
}

impl Payload for Memory {
    fn take_data(&mut self, offset: u32, bytes: &[u8]) {
        let offset = offset as usize;
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn give_data(&self, offset: u32, len: u32, out: &mut Vec<u8>) {
        out.extend(&self.bytes[offset as usize..][..len as usize]);
    }
}

pub(crate) fn script(data: &[u8]) {
    let mut script = Script(data);
    let bits = script.number();
    let digests = Digests { header: bits & 1 != 0, data: bits & 2 != 0 };
    let agreed = Agreed {
        header_digest: digests.header,
        data_digest: digests.data,
        immediate_data: bits & 4 == 0,
        first_burst_len: 512,
        peer_segment_len: 512 << (bits >> 6),
        max_burst_len: if bits & 8 == 0 { 4096 } else { 1 << 20 },
        ..Agreed::default()
    };
    let mut target = Target { session: Session::new(0, agreed, 1, 8, 1), digests, is_over: false };
    let mut out: Vec<bool> = Vec::new();
    while let Some(step) = script.byte() {
        match step % 8 {
            0 | 1 => {
                let len = (u32::from(script.number()) + 1) * 64;
                let transfer = match step >> 4 & 3 {
                    0 => Transfer::None,
                    1 => Transfer::Out(len),
                    _ => Transfer::In(len),
                };
                let memory = Memory { name: out.len(), bytes: vec![7; len as usize] };
                if target.session.submit([step; 16], transfer, memory).is_ok() {
                    out.push(false);
                }
            }
            2 => {
                let len = usize::from(script.number()) * 64;
                target.session.sent(len.min(target.session.output().len()));
            }
            3 if target.session.output().is_empty() => target.session.ping(),
            3 => {}
            4 => {
                let len = usize::from(script.number());
                target.push(script.bytes(len));
            }
            _ => target.answer(&mut script),
        }
        assert!(target.session.output().len() < OUTPUT_LEN_MAX, "bytes to send pile up");
        while let Some(done) = target.session.done() {
            let was_returned = std::mem::replace(&mut out[done.request.name], true);
            assert!(!was_returned, "a request came back twice");
        }
    }
    let rest = target.session.into_requests().count();
    assert_eq!(rest, out.iter().filter(|is_returned| !**is_returned).count());
}

struct Target {
    session: Session<Memory>,
    digests: Digests,
    is_over: bool,
}

impl Target {
    /// A PDU with small numbers in its fields, so that many fit.
    fn answer(&mut self, script: &mut Script<'_>) {
        let [kind, flags, itt, at, len, sn] = std::array::from_fn(|_| script.number());
        let itt = u32::from(itt % 16);
        let (offset, len) = (u32::from(at) * 64, u32::from(len) * 64);
        let (stat_sn, exp_cmd_sn) = (sn.into(), u32::from(sn >> 4));
        let max_cmd_sn = exp_cmd_sn.wrapping_add(u32::from(sn & 15)).wrapping_sub(1);
        let mut data = Vec::new();
        let mut bhs: [u8; BHS_LEN] = match kind % 8 {
            0..=2 => {
                data = vec![9; len as usize];
                let flags = flags & (FINAL | DataIn::STATUS | pdu::UNDERFLOW);
                let pdu = DataIn {
                    flags,
                    itt,
                    stat_sn,
                    exp_cmd_sn,
                    max_cmd_sn,
                    offset,
                    ..DataIn::default()
                };
                pdu.encode(0)
            }
            3 => {
                data = script.bytes(flags.into()).to_vec();
                let status = if flags & 1 == 0 { 0 } else { 2 };
                let pdu = ScsiResponse {
                    itt,
                    status,
                    stat_sn,
                    exp_cmd_sn,
                    max_cmd_sn,
                    ..ScsiResponse::default()
                };
                pdu.encode(0)
            }
            4 | 5 => {
                R2t { itt, ttt: 1, exp_cmd_sn, max_cmd_sn, offset, len, ..R2t::default() }.encode(0)
            }
            6 => {
                let ttt = if flags & 1 == 0 { 5 } else { NO_TAG };
                pdu::NopIn {
                    itt: NO_TAG,
                    ttt,
                    stat_sn,
                    exp_cmd_sn,
                    max_cmd_sn,
                    ..pdu::NopIn::default()
                }
                .encode(0)
            }
            _ => std::array::from_fn(|_| script.number()),
        };
        wire::set_data_len(&mut bhs, data.len());
        let mut bytes = wire::pdu(&bhs, &data, self.digests);
        if flags & 6 == 6 {
            wire::corrupt(&mut bytes);
        }
        self.push(&bytes);
    }

    fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_over {
            let room = self.session.room();
            let len = room.len().min(bytes.len());
            let (now, later) = bytes.split_at(len);
            room[..len].copy_from_slice(now);
            self.is_over = self.session.received(len).is_err();
            bytes = later;
        }
    }
}
