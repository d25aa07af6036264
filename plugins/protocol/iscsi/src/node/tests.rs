//! A node with disks in memory, driven byte by byte: no sockets, no host.

#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

mod bad_input;
mod management;
mod reservations;

use super::*;
use crate::connection::Framing;
use crate::node::Established;
use drivebay_scsi::Identity;
use drivebay_sdk::Status as IoStatus;
use drivebay_spec_iscsi::negotiation::Agreed;
use drivebay_spec_iscsi::pdu::{self, DataIn, DataOut, FINAL, R2t, ScsiCommand, function};
use drivebay_spec_iscsi::{BHS_LEN, Header, NO_TAG, Opcode, pad_len};
use drivebay_spec_scsi::status::Status;

const BLOCK: usize = 512;
const BLOCKS: usize = 2048;

/// Disks in memory, and a pool of buffers; I/Os end when the test says so.
#[derive(Debug, Default)]
struct Disks {
    memory: BTreeMap<u16, Vec<u8>>,
    pool: usize,
    waiting: Vec<(u16, Op, Vec<u8>, IoKey)>,
    left: Vec<u16>,
    changes: Vec<(u16, TaskKey)>,
}

impl Backend for Disks {
    type Buffer = Vec<u8>;

    fn buffer(&mut self, len: u32) -> Option<Vec<u8>> {
        self.pool = self.pool.checked_sub(1)?;
        Some(vec![0xee; len as usize])
    }

    fn submit(&mut self, unit: u16, op: Op, _: IoFlags, buffer: Vec<u8>, key: IoKey) {
        self.waiting.push((unit, op, buffer, key));
    }

    fn settle(&mut self, change: Change, key: TaskKey) {
        self.changes.push((change.unit, key));
    }

    fn unit_left(&mut self, unit: u16) {
        self.left.push(unit);
    }
}

/// A node of units 0 and 1, and one connection.
struct Bench {
    node: Node<Disks>,
    link: u32,
    cmd_sn: u32,
}

fn established(session: SessionId, agreed: Agreed) -> Established {
    Established {
        session,
        cid: 0,
        initiator: "iqn.host".into(),
        identity: Identity { transport_id: vec![session as u8], port: 1 },
        portal_group: 1,
        agreed,
        stat_sn: 1,
        exp_cmd_sn: 1,
        depth: 8,
        reads_max: 8,
        ping_ns: 10,
        timeout_ns: 5,
        rest: Vec::new(),
    }
}

fn disk(unit: u16) -> Disk {
    Disk {
        name: format!("d{unit}"),
        uuid: [unit as u8 + 1; 16],
        block_len: 512,
        blocks: BLOCKS as u64,
        can_unmap: true,
        reads_zeros: true,
        write_cache: true,
        read_only: false,
    }
}

impl Bench {
    fn new(agreed: Agreed) -> Self {
        let mut disks = Disks { pool: 1000, ..Disks::default() };
        let mut device = Device::new("iqn.target".into());
        for unit in 0..2 {
            disks.memory.insert(unit, vec![0; BLOCK * BLOCKS]);
            device.add_unit(unit, disk(unit));
        }
        let mut node = Node::new(device, disks);
        let link = node.attach(established(1, agreed));
        Self { node, link, cmd_sn: 1 }
    }

    fn send(&mut self, bhs: [u8; BHS_LEN], data: &[u8]) {
        let mut bytes = bhs.to_vec();
        bytes.extend(data);
        bytes.resize(bytes.len() + pad_len(data.len()), 0);
        if let Some(inbox) = self.node.inbox(self.link) {
            inbox.push(&bytes);
            self.node.receive(self.link, 0);
        }
    }

    fn command(&mut self, itt: u32, unit: u64, cdb: &[u8], flags: u8, len: u32, data: &[u8]) {
        let mut whole = [0; 16];
        whole[..cdb.len()].copy_from_slice(cdb);
        let command = ScsiCommand {
            flags,
            lun: unit << 48,
            itt,
            expected_len: len,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: 0,
            cdb: whole,
        };
        self.cmd_sn += 1;
        self.send(command.encode(data.len() as u32), data);
    }

    fn read(&mut self, itt: u32, lba: u32, blocks: u16) {
        let cdb = rw(0x28, lba, blocks);
        self.command(itt, 0, &cdb, FINAL | ScsiCommand::READ, u32::from(blocks) * 512, &[]);
    }

    fn write(&mut self, itt: u32, lba: u32, blocks: u16, immediate: &[u8]) {
        let cdb = rw(0x2a, lba, blocks);
        let len = u32::from(blocks) * 512;
        self.command(itt, 0, &cdb, FINAL | ScsiCommand::WRITE, len, immediate);
    }

    fn data_out(&mut self, r2t: &R2t, data: &[u8], size: usize) {
        let part = &data[r2t.offset as usize..(r2t.offset + r2t.len) as usize];
        let count = part.len().div_ceil(size);
        for (sn, piece) in part.chunks(size).enumerate() {
            let out = DataOut {
                flags: if sn + 1 == count { FINAL } else { 0 },
                lun: r2t.lun,
                itt: r2t.itt,
                ttt: r2t.ttt,
                exp_stat_sn: 0,
                data_sn: sn as u32,
                offset: r2t.offset + (sn * size) as u32,
            };
            self.send(out.encode(piece.len() as u32), piece);
        }
    }

    /// Ends I/Os, the last one first, until none is left.
    fn run(&mut self) {
        while let Some((unit, op, mut buffer, key)) = self.node.backend_mut().waiting.pop() {
            let memory = self.node.backend_mut().memory.get_mut(&unit).unwrap();
            let bytes = |range: drivebay_sdk::bdev::Range| {
                range.lba as usize * BLOCK..(range.lba + range.nblocks) as usize * BLOCK
            };
            match op {
                Op::Read(range) => buffer.copy_from_slice(&memory[bytes(range)]),
                Op::Write(range) => memory[bytes(range)].copy_from_slice(&buffer),
                Op::WriteZeroes(range) | Op::Unmap(range) => memory[bytes(range)].fill(0),
                _ => {}
            }
            self.node.ended(key, buffer, IoResult::new(IoStatus::SUCCESS), unit);
        }
    }

    /// What was sent, cut into PDUs.
    fn sent(&mut self) -> Vec<(Opcode, [u8; BHS_LEN], Vec<u8>)> {
        let bytes = self.node.link_mut(self.link).map(|link| link.outbox().take_all());
        self.node.sent(self.link);
        let mut inbox = Inbox::default();
        inbox.push(&bytes.unwrap_or_default());
        let framing = Framing { data_len_max: 1 << 24, ..Framing::default() };
        let mut all = Vec::new();
        while let Ok(Some(frame)) = inbox.front(&framing) {
            let kind = Header::parse(&frame.bhs).kind().unwrap();
            all.push((kind, frame.bhs, inbox.data(&frame).to_vec()));
            inbox.consume(&frame);
        }
        all
    }

    fn statuses(&mut self) -> Vec<(u32, u8)> {
        let all = self.sent().into_iter();
        all.filter_map(|(kind, bhs, _)| match kind {
            Opcode::ScsiResponse => {
                let response = pdu::ScsiResponse::parse(&bhs);
                Some((response.itt, response.status))
            }
            _ => None,
        })
        .collect()
    }

    fn manage(&mut self, itt: u32, function: u8, ref_tag: u32) {
        let request = pdu::TaskManagement {
            function: FINAL | function,
            lun: 0,
            itt,
            ref_tag,
            cmd_sn: self.cmd_sn,
            ..pdu::TaskManagement::default()
        };
        self.send(request.encode_immediate(0), &[]);
    }

    fn managed(&mut self) -> Option<u8> {
        let mut all = self.sent().into_iter();
        all.find_map(|(kind, bhs, _)| {
            (kind == Opcode::TaskManagementResponse)
                .then(|| pdu::TaskManagementResponse::parse(&bhs).response)
        })
    }
}

fn rw(op: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let [a, b, c, d] = lba.to_be_bytes();
    let [high, low] = blocks.to_be_bytes();
    [op, 0, a, b, c, d, 0, high, low, 0]
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 13 + at / 512) as u8).collect()
}

fn read_data(sent: &[(Opcode, [u8; BHS_LEN], Vec<u8>)]) -> (Vec<u8>, bool) {
    let mut data = Vec::new();
    let mut has_status = false;
    for (sn, (_, bhs, part)) in sent.iter().filter(|(kind, ..)| *kind == Opcode::DataIn).enumerate()
    {
        let header = DataIn::parse(bhs);
        assert_eq!((header.data_sn as usize, header.offset as usize), (sn, data.len()));
        assert!(!has_status, "data behind the status");
        has_status = header.flags & DataIn::STATUS != 0;
        data.extend(part);
    }
    (data, has_status)
}

#[test]
fn a_long_read_comes_in_order_though_its_pieces_end_in_another() {
    let mut bench = Bench::new(Agreed::default());
    let data = pattern(1000 * BLOCK);
    bench.node.backend_mut().memory.get_mut(&0).unwrap()[..data.len()].copy_from_slice(&data);
    bench.read(1, 0, 1000);
    assert!(bench.node.backend_mut().waiting.len() > 1, "one piece after the other");
    bench.run();
    let sent = bench.sent();
    assert!(sent.iter().all(|(.., part)| part.len() <= 8192), "longer than the initiator takes");
    assert_eq!(read_data(&sent), (data, true));
}

#[test]
fn data_is_collected_by_offset_whatever_pdus_it_comes_in() {
    let data = pattern(600 * BLOCK);
    for (size, immediate) in [(8192, 0), (5_792, 5_792), (512, 100), (65_536, 65_536), (333, 1)] {
        let mut bench = Bench::new(Agreed { max_outstanding_r2t: 4, ..Agreed::default() });
        bench.write(1, 7, 600, &data[..immediate]);
        loop {
            let asked: Vec<R2t> = bench
                .sent()
                .iter()
                .filter(|(kind, ..)| *kind == Opcode::R2t)
                .map(|(_, bhs, _)| R2t::parse(bhs))
                .collect();
            if asked.is_empty() && bench.node.backend_mut().waiting.is_empty() {
                break;
            }
            for r2t in &asked {
                bench.data_out(r2t, &data, size);
            }
            let ended = bench.node.backend_mut().waiting.len();
            if asked.is_empty() || ended > 0 {
                bench.run();
            }
        }
        let memory = &bench.node.backend_mut().memory[&0];
        assert_eq!(memory[7 * BLOCK..607 * BLOCK], data, "{size} {immediate}");
        assert_eq!(memory[607 * BLOCK], 0);
    }
}

#[test]
fn a_write_is_answered_when_all_of_it_is_written() {
    let mut bench = Bench::new(Agreed::default());
    bench.write(1, 0, 1, &[5; 512]);
    assert!(bench.statuses().is_empty());
    bench.run();
    assert_eq!(bench.statuses(), [(1, 0)]);
}

#[test]
fn unsolicited_data_comes_before_anything_is_asked_for() {
    let agreed = Agreed { initial_r2t: false, first_burst_len: 2048, ..Agreed::default() };
    let mut bench = Bench::new(agreed);
    let data = pattern(16 * BLOCK);
    bench.command(1, 0, &rw(0x2a, 0, 16), ScsiCommand::WRITE, 8192, &data[..700]);
    assert_eq!(bench.sent().len(), 0, "asked for what is on its way");
    let out = DataOut { flags: FINAL, itt: 1, ttt: NO_TAG, offset: 700, ..DataOut::default() };
    bench.send(out.encode(1348), &data[700..2048]);
    let sent = bench.sent();
    let r2t = R2t::parse(&sent[0].1);
    assert_eq!((r2t.offset, r2t.len), (2048, 8192 - 2048));
    bench.data_out(&r2t, &data, 1000);
    bench.run();
    assert_eq!(bench.statuses(), [(1, 0)]);
    assert_eq!(bench.node.backend_mut().memory[&0][..8192], data);
}

#[test]
fn a_pool_that_runs_dry_delays_and_loses_nothing() {
    let mut bench = Bench::new(Agreed::default());
    bench.node.backend_mut().pool = 0;
    let data = pattern(4 * BLOCK);
    bench.write(1, 0, 4, &data[..1000]);
    bench.read(2, 100, 1);
    assert!(bench.node.is_short());
    bench.node.backend_mut().pool = 2;
    bench.node.tick(1);
    let sent = bench.sent();
    let r2t = R2t::parse(&sent[0].1);
    assert_eq!((r2t.offset, r2t.len), (1000, 1048));
    bench.data_out(&r2t, &data, 100);
    bench.run();
    assert_eq!(bench.node.backend_mut().memory[&0][..2048], data);
}

#[test]
fn wrong_offsets_and_numbers_end_the_command() {
    for (offset, data_sn) in [(1, 0), (0, 1), (512, 0)] {
        let mut bench = Bench::new(Agreed::default());
        bench.write(1, 0, 1, &[]);
        let r2t = R2t::parse(&bench.sent()[0].1);
        let out =
            DataOut { flags: FINAL, itt: 1, ttt: r2t.ttt, offset, data_sn, ..DataOut::default() };
        bench.send(out.encode(512), &[0; 512]);
        assert_eq!(bench.statuses(), [(1, 2)], "{offset} {data_sn}");
        assert_eq!(bench.node.backend_mut().waiting.len(), 0);
    }
}

#[test]
fn residuals_say_how_much_less_or_more_there_was() {
    let mut bench = Bench::new(Agreed::default());
    bench.command(1, 0, &rw(0x28, 0, 2), FINAL | ScsiCommand::READ, 512, &[]);
    bench.command(2, 0, &rw(0x28, 0, 2), FINAL | ScsiCommand::READ, 4096, &[]);
    bench.run();
    for (_, bhs, part) in bench.sent() {
        let header = DataIn::parse(&bhs);
        let told = (header.itt, header.flags & 6, header.residual, part.len());
        assert!(told == (1, pdu::OVERFLOW, 512, 512) || told == (2, pdu::UNDERFLOW, 3072, 1024));
    }
}

#[test]
fn a_command_that_comes_early_goes_on_after_the_one_before_it_on_another_connection() {
    let mut bench = Bench::new(Agreed::default());
    let new = Established { cid: 1, ..established(1, Agreed::default()) };
    let second = bench.node.attach(new);
    let first = std::mem::replace(&mut bench.link, second);
    bench.cmd_sn = 2;
    bench.command(2, 0, &[0; 6], FINAL, 0, &[]);
    assert!(bench.statuses().is_empty());
    (bench.link, bench.cmd_sn) = (first, 1);
    bench.command(1, 0, &[0; 6], FINAL, 0, &[]);
    assert_eq!(bench.statuses(), [(1, 0)]);
    bench.link = second;
    assert_eq!(bench.statuses(), [(2, 0)]);
}

#[test]
fn an_early_command_does_not_let_the_inbox_grow_without_limit() {
    let mut bench = Bench::new(Agreed::default());
    bench.cmd_sn = 2;
    bench.command(2, 0, &[0; 6], FINAL, 0, &[]);
    assert!(bench.node.link(bench.link).is_some_and(Link::wants_bytes));
    bench.node.inbox(bench.link).unwrap().push(&vec![0; 256 << 10]);
    assert!(!bench.node.link(bench.link).is_some_and(Link::wants_bytes));
}

#[test]
fn a_unit_that_goes_ends_its_commands_and_no_others() {
    let mut bench = Bench::new(Agreed::default());
    bench.write(1, 0, 1, &[]);
    bench.read(2, 0, 1);
    bench.command(3, 1, &rw(0x28, 0, 1), FINAL | ScsiCommand::READ, 512, &[]);
    bench.node.remove_unit(0);
    assert!(bench.node.backend_mut().left.is_empty(), "an I/O is in flight");
    assert!(bench.node.is_leaving(0));
    assert_eq!(bench.statuses(), [(1, 2)]);
    bench.run();
    assert_eq!(bench.node.backend_mut().left, [0]);
    assert!(!bench.node.is_leaving(0));
    let sent = bench.sent();
    let ended: Vec<_> = sent.iter().map(|(kind, bhs, _)| (*kind, bhs[19])).collect();
    assert!(ended.contains(&(Opcode::DataIn, 3)) && ended.contains(&(Opcode::ScsiResponse, 2)));
}

#[test]
fn a_silent_peer_is_pinged_and_given_up_with_its_commands() {
    let mut bench = Bench::new(Agreed::default());
    bench.write(1, 0, 1, &[]);
    bench.read(2, 0, 1);
    bench.sent();
    bench.node.tick(11);
    assert_eq!(bench.sent()[0].0, Opcode::NopIn);
    bench.node.tick(14);
    assert_eq!(bench.node.sessions().count(), 1);
    bench.node.tick(16);
    assert_eq!(bench.node.sessions().count(), 0);
    assert!(
        bench.node.link(bench.link).is_some_and(|link| link.is_over()),
        "its read has not ended"
    );
    bench.run();
    assert!(bench.node.link(bench.link).is_none() && bench.node.is_empty());
}

#[test]
fn a_peer_that_answers_pings_stays() {
    let mut bench = Bench::new(Agreed::default());
    for round in 1..5 {
        bench.node.tick(round * 11);
        let sent = bench.sent();
        assert_eq!(sent[0].0, Opcode::NopIn);
        let answer = pdu::NopOut {
            itt: NO_TAG,
            ttt: pdu::NopIn::parse(&sent[0].1).ttt,
            cmd_sn: bench.cmd_sn,
            ..pdu::NopOut::default()
        };
        bench.send(answer.encode_immediate(0), &[]);
        bench.node.tick(round * 11 + 1);
    }
    assert_eq!(bench.node.sessions().count(), 1);
}

#[test]
fn a_peer_that_does_not_read_the_answer_to_its_logout_is_given_up() {
    let mut bench = Bench::new(Agreed::default());
    let logout =
        pdu::Logout { reason: FINAL, itt: 5, cmd_sn: bench.cmd_sn, ..pdu::Logout::default() };
    bench.send(logout.encode_immediate(0), &[]);
    bench.node.tick(15);
    assert!(bench.node.link(bench.link).is_some());
    bench.node.tick(16);
    assert!(bench.node.link(bench.link).is_none() && bench.node.is_empty());
}

#[test]
fn commands_outside_of_the_window_are_ignored() {
    let mut bench = Bench::new(Agreed::default());
    bench.cmd_sn = 9; // the window is 1 to 8
    bench.command(1, 0, &[0; 6], FINAL, 0, &[]);
    bench.cmd_sn = 0;
    bench.command(2, 0, &[0; 6], FINAL, 0, &[]);
    assert_eq!(bench.sent().len(), 0);
    bench.command(3, 0, &[0; 6], FINAL, 0, &[]);
    assert_eq!(bench.statuses().len(), 1);
}

#[test]
fn a_logout_is_answered_and_ends_the_session() {
    let mut bench = Bench::new(Agreed::default());
    let logout =
        pdu::Logout { reason: FINAL, itt: 5, cmd_sn: bench.cmd_sn, ..pdu::Logout::default() };
    bench.send(logout.encode_immediate(0), &[]);
    let sent = bench.sent();
    assert_eq!(
        (sent[0].0, pdu::LogoutResponse::parse(&sent[0].1).response),
        (Opcode::LogoutResponse, 0)
    );
    assert!(bench.node.link(bench.link).is_some_and(|link| link.is_over()));
    bench.node.lost(bench.link);
    assert!(bench.node.is_empty() && bench.node.sessions().count() == 0);
}
