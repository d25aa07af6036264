//! A target in full feature phase. Two initiators send commands, data and nonsense in any order, while I/Os end late, fail or hang,
//! units are removed, and connections are lost. Nothing panics, all memory is released, and nothing is left when the connections have
//! ended. Every string of bytes is a script.

use super::disks::{self, BLOCKS, Disks, disk, target};
use super::wire::{self, Digests};
use crate::connection::{Framing, Inbox};
use crate::node::{Established, Node};
use crate::script::Script;
use drivebay_scsi::{Identity, Settled};
use drivebay_sdk::Status;
use drivebay_sdk::bdev::IoResult;
use drivebay_spec_iscsi::negotiation::Agreed;
use drivebay_spec_iscsi::pdu::{DataOut, FINAL, R2t, ScsiCommand};
use drivebay_spec_iscsi::{BHS_LEN, Header, Opcode};

/// Steps of initiators, of the disks and of time.
pub(crate) fn script(data: &[u8]) {
    let mut script = Script(data);
    let mut bench = Bench::new(script.number());
    while let Some(what) = script.byte() {
        match what % 8 {
            0..=2 => bench.command(&mut script),
            3 => bench.data_out(&mut script),
            4 => bench.any_pdu(&mut script),
            5 | 6 => bench.end_ios(&mut script),
            _ => bench.change(&mut script),
        }
        bench.read_answers();
    }
    let Bench { node, links, .. } = bench;
    disks::end(node, &links.map(|(link, _)| link));
}

/// The bits of header and data digests. All connections agree on the same ones.
const DIGESTS: u8 = 0x30;

struct Bench {
    node: Node<Disks>,
    /// The connections, of sessions 1 and 2, and what they count commands by.
    links: [(u32, u32); 2],
    /// The last R2T of each connection.
    r2ts: [Option<R2t>; 2],
    now_ns: u64,
    /// What the connections have agreed on.
    bits: u8,
    digests: Digests,
}

impl Bench {
    fn new(bits: u8) -> Self {
        let mut node = target("iqn.2016-06.io.spdk:disk1", if bits & 1 == 0 { 64 } else { 1 });
        let links = [1, 2].map(|session| (node.attach(established(session, bits)), 1));
        let digests = Digests { header: bits & 16 != 0, data: bits & 32 != 0 };
        Self { node, links, r2ts: [None, None], now_ns: 0, bits, digests }
    }

    fn push(&mut self, which: usize, bhs: &[u8; BHS_LEN], data: &[u8]) {
        self.push_bytes(which, &wire::pdu(bhs, data, self.digests));
    }

    fn push_bytes(&mut self, which: usize, bytes: &[u8]) {
        let (link, _) = self.links[which];
        if let Some(inbox) = self.node.inbox(link) {
            inbox.push(bytes);
            self.node.receive(link, 0);
        }
    }

    /// A command with small numbers in its fields, so that many are good.
    fn command(&mut self, script: &mut Script<'_>) {
        const OPCODES: [u8; 16] = [
            0x28, 0x2a, 0x28, 0x2a, 0x2e, 0x2f, 0x35, 0x41, 0x42, 0x55, 0x5f, 0x83, 0x84, 0x89,
            0x93, 0x12,
        ];
        let [which, opcode, flags, itt, lba, count, len] = bytes(script);
        let which = usize::from(which & 1);
        let opcode = OPCODES[usize::from(opcode) % OPCODES.len()];
        let mut cdb = [0; 16];
        cdb[0] = opcode;
        match opcode {
            0x83 | 0x84 | 0x89 | 0x93 => (cdb[9], cdb[13]) = (lba, count),
            0x55 | 0x5f => (cdb[1], cdb[2], cdb[8]) = (lba & 0x1f, lba >> 4, count),
            _ => (cdb[5], cdb[8]) = (lba, count),
        }
        if flags & 1 != 0 {
            cdb[1..].fill_with(|| script.number());
        }
        let (_, cmd_sn) = &mut self.links[which];
        let command = ScsiCommand {
            flags: flags & (FINAL | ScsiCommand::READ | ScsiCommand::WRITE),
            lun: u64::from(flags >> 1 & 1) << 48,
            itt: u32::from(itt % 8),
            expected_len: u32::from(len) * 512,
            cmd_sn: *cmd_sn,
            exp_stat_sn: 0,
            cdb,
        };
        *cmd_sn = cmd_sn.wrapping_add(u32::from(flags & 8 == 0));
        let len = usize::from(script.number());
        let data = script.bytes(len).to_vec();
        let bhs = if flags & 4 == 0 {
            command.encode(data.len() as u32)
        } else {
            command.encode_immediate(data.len() as u32)
        };
        self.push(which, &bhs, &data);
    }

    /// What an R2T asked for, or something like it: less, more, elsewhere, out of order.
    fn data_out(&mut self, script: &mut Script<'_>) {
        let [which, change, at, part] = bytes(script);
        let which = usize::from(which & 1);
        let Some(r2t) = self.r2ts[which] else { return };
        let len = match change & 0x81 {
            0 => r2t.len,
            0x80 => r2t.len.saturating_add(u32::from(part) * 16).min(1 << 16),
            _ => r2t.len.min(u32::from(part) * 16),
        };
        let out = DataOut {
            flags: if change & 2 == 0 { FINAL } else { 0 },
            lun: r2t.lun,
            itt: r2t.itt ^ u32::from(change & 4),
            ttt: if change & 8 == 0 { r2t.ttt } else { u32::MAX },
            exp_stat_sn: 0,
            data_sn: u32::from(change >> 4 & 3),
            offset: r2t.offset + if change & 0x40 == 0 { 0 } else { u32::from(at) * 8 },
        };
        self.push(which, &out.encode(len), &vec![at; len as usize]);
    }

    /// A PDU of any kind.
    fn any_pdu(&mut self, script: &mut Script<'_>) {
        let how = script.number();
        let which = usize::from(how & 1);
        let mut bhs: [u8; BHS_LEN] = bytes(script);
        let len = script.number();
        if bhs[1] & 1 == 0 {
            bhs[24..28].copy_from_slice(&self.links[which].1.to_be_bytes());
        }
        let data = script.bytes(usize::from(len)).to_vec();
        // A PDU with more data than there is would only wait.
        wire::set_data_len(&mut bhs, data.len());
        let mut pdu = wire::pdu(&bhs, &data, self.digests);
        if how & 0xe == 0xe {
            wire::corrupt(&mut pdu);
        }
        self.push_bytes(which, &pdu);
    }

    /// Some I/Os end, the first or the last one first.
    fn end_ios(&mut self, script: &mut Script<'_>) {
        let [count, how] = bytes(script);
        if let Some((unit, key)) = self.node.backend_mut().changes.pop() {
            let settled = match how >> 4 & 3 {
                0 => Settled::InUse,
                1 => Settled::NotStored,
                _ => Settled::Kept,
            };
            self.node.settled(unit, key, settled);
        }
        for _ in 0..=count % 8 {
            let waiting = &mut self.node.backend_mut().waiting;
            if waiting.is_empty() {
                return;
            }
            let at = if how & 1 == 0 { 0 } else { waiting.len() - 1 };
            let (unit, _, buffer, key) = waiting.remove(at);
            let status = match how >> 1 & 7 {
                0 => Status::MEDIA,
                1 => Status::MISCOMPARE,
                _ => Status::SUCCESS,
            };
            self.node.ended(key, buffer, IoResult::new(status), unit);
        }
    }

    /// Lets time pass, or ends or restarts a connection, or removes or adds a unit.
    fn change(&mut self, script: &mut Script<'_>) {
        let [what, which] = bytes(script);
        let (unit, which) = (u16::from(which & 1), usize::from(which & 1));
        match what % 8 {
            0 | 1 => {
                self.now_ns += u64::from(what) * 40_000_000;
                self.node.tick(self.now_ns);
            }
            2 => self.node.lost(self.links[which].0),
            3 => {
                // Another login of the same port ends the session first.
                let session = which as u16 + 1;
                self.node.end_session(session);
                let bits = what >> 3 & 0x0f | self.bits & DIGESTS;
                self.links[which] = (self.node.attach(established(session, bits)), 1);
                self.r2ts[which] = None;
            }
            4 if self.node.device_mut().unit(unit).is_some() => self.node.remove_unit(unit),
            4 => {
                // As the poll group does: a new unit waits until the unit before it has left.
                if !self.node.is_leaving(unit) {
                    self.node.add_unit(unit, disk(unit));
                }
            }
            5 => self.node.device_mut().resize_unit(unit, BLOCKS >> (what >> 6)),
            6 => self.node.request_logout(|_| true, 1),
            _ => self.node.sent(self.links[which].0),
        }
    }

    /// Reads what was sent.
    fn read_answers(&mut self) {
        for which in 0..2 {
            let (id, _) = self.links[which];
            let Some(link) = self.node.link_mut(id) else { continue };
            let bytes = link.outbox().take_all();
            self.node.sent(id);
            let mut inbox = Inbox::default();
            inbox.push(&bytes);
            let framing = Framing {
                header_digest: self.digests.header,
                data_digest: self.digests.data,
                data_len_max: 1 << 24,
            };
            while let Some(frame) = inbox.front(&framing).expect("the target sends whole PDUs") {
                if Header::parse(&frame.bhs).kind().expect("a known opcode") == Opcode::R2t {
                    self.r2ts[which] = Some(R2t::parse(&frame.bhs));
                }
                inbox.consume(&frame);
            }
        }
    }
}

fn established(session: u16, bits: u8) -> Established {
    let agreed = Agreed {
        initial_r2t: bits & 2 != 0,
        immediate_data: bits & 4 == 0,
        max_outstanding_r2t: if bits & 8 == 0 { 1 } else { 4 },
        header_digest: bits & 16 != 0,
        data_digest: bits & 32 != 0,
        ..Agreed::default()
    };
    Established {
        session,
        cid: 0,
        initiator: "iqn.2001-04.com.example:host1".into(),
        identity: Identity { transport_id: vec![session as u8], port: 1 },
        portal_group: 1,
        agreed,
        stat_sn: 1,
        exp_cmd_sn: 1,
        depth: 8,
        reads_max: 8,
        ping_ns: 1_000_000_000,
        timeout_ns: 1_000_000_000,
        rest: Vec::new(),
    }
}

fn bytes<const N: usize>(script: &mut Script<'_>) -> [u8; N] {
    std::array::from_fn(|_| script.number())
}
