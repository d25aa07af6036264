//! Arbitrary input: logins with any text, and a node in full feature phase that gets commands, data and nonsense in any order while
//! I/Os end late, fail or hang, units are removed and connections are lost. Nothing panics, all memory is released, and nothing is left
//! when the connections have ended. Every string of bytes is a script.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "what is wrong panics; small numbers"
)]

use drivebay_iscsi::connection::{Framing, Inbox};
use drivebay_iscsi::login::{Context, Login, Progress, Registry};
use drivebay_iscsi::model::target::Map;
use drivebay_iscsi::model::{
    AuthGroup, ChapPolicy, InitiatorGroup, Model, Portal, PortalGroup, Secret, Target,
};
use drivebay_iscsi::node::{Backend, Established, IoKey, Node};
use drivebay_scsi::{Change, Device, Disk, Identity, Settled, TaskKey};
use drivebay_sdk::Status;
use drivebay_sdk::bdev::{IoFlags, IoResult, Op};
use drivebay_spec_iscsi::negotiation::Agreed;
use drivebay_spec_iscsi::pdu::{self, DataOut, FINAL, R2t, ScsiCommand};
use drivebay_spec_iscsi::{BHS_LEN, Header, Opcode, pad_len};
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

const TARGET: &str = "iqn.2016-06.io.spdk:disk1";
const INITIATOR: &str = "iqn.2001-04.com.example:host1";

// ---- logins -------------------------------------------------------------------------------------

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_login_is_refused_goes_on_or_is_of_the_one_who_may(
        bits in any::<u8>(),
        pdus in proptest::collection::vec((any::<u8>(), proptest::collection::vec(pair(), 0..6)), 1..6),
    ) {
        login(bits, &pdus);
    }

    #[test]
    fn any_steps_leave_nothing_behind(script in proptest::collection::vec(any::<u8>(), 0..600)) {
        session(&script);
    }
}

/// Keys with good and bad values.
fn pair() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] = &[
        "InitiatorName=iqn.2001-04.com.example:host1",
        "TargetName=iqn.2016-06.io.spdk:disk1",
        "SessionType=Normal",
        "SessionType=Discovery",
        "AuthMethod=CHAP,None",
        "AuthMethod=None",
        "CHAP_A=7,5",
        "CHAP_N=host",
        "CHAP_R=0x00112233445566778899aabbccddeeff",
        "CHAP_I=1",
        "CHAP_C=0x0102",
        "HeaderDigest=CRC32C,None",
        "DataDigest=CRC32C",
        "MaxBurstLength=1",
        "MaxRecvDataSegmentLength=0",
        "InitialR2T=No",
        "MaxConnections=65536",
        "SendTargets=All",
    ];
    prop_oneof![4 => proptest::sample::select(KNOWN).prop_map(str::to_owned), 1 => "[ -~]{0,40}"]
}

/// Logs in with PDUs of flags and keys. `bits` selects the requirements of the target.
fn login(bits: u8, pdus: &[(u8, Vec<String>)]) {
    let model = model(bits);
    let mut registry = Registry::default();
    let (local, peer) = ("127.0.0.1:3260".parse().unwrap(), "127.0.0.1:9".parse().unwrap());
    let mut login = Login::new(1, local, peer);
    for (flags, pairs) in pdus {
        let text: Vec<u8> = pairs.iter().flat_map(|pair| pair.bytes().chain([0])).collect();
        let bhs = if flags & 0x20 == 0 {
            let flags = *flags;
            let login = pdu::Login { flags, isid: [1; 6], cmd_sn: 7, ..pdu::Login::default() };
            login.encode_immediate(text.len() as u32)
        } else {
            let text_pdu = pdu::Text { flags: flags & 0xc0, ..pdu::Text::default() };
            text_pdu.encode_immediate(text.len() as u32)
        };
        push(login.inbox(), &bhs, &text);
        let mut context = Context { model: &model, registry: &mut registry };
        match login.work(&mut context) {
            Progress::Waits => {}
            Progress::Over => return,
            Progress::Ready(new, target, _) => {
                assert_eq!((target.as_str(), new.initiator.as_str()), (TARGET, INITIATOR));
                assert!(new.agreed.peer_segment_len >= 512);
                // Nobody knows the secret here.
                assert!(!model.targets[TARGET].chap.required, "in without a secret");
                return;
            }
        }
        login.outbox().take_all();
    }
}

fn model(bits: u8) -> Model {
    let mut model = Model::default();
    let chap = ChapPolicy {
        disabled: bits & 1 != 0,
        required: bits & 2 != 0,
        mutual: bits & 4 != 0,
        group: i32::from(bits & 8 != 0),
    };
    let portals = vec![Portal { host: "0.0.0.0".into(), port: "3260".into() }];
    model.portal_groups.insert(1, PortalGroup { portals, is_private: false, chap });
    let mut group = InitiatorGroup::default();
    group.add(&[INITIATOR.into()], &["127.0.0.0/8".into()]).unwrap();
    model.initiator_groups.insert(1, group);
    let mut secrets = AuthGroup::default();
    let mutual = Some(("target".into(), "secret-of-the-target".into()));
    secrets
        .add(Secret { user: "host".into(), secret: "secret-of-the-host".into(), mutual })
        .unwrap();
    model.auth_groups.insert(1, secrets);
    let target = Target {
        name: TARGET.into(),
        alias: "first".into(),
        maps: vec![Map { pg_tag: 1, ig_tag: 1 }],
        luns: BTreeMap::new(),
        queue_depth: 8,
        chap,
        header_digest: bits & 16 != 0,
        data_digest: bits & 32 != 0,
        redirects: BTreeMap::new(),
        id: 0,
        has_histogram: false,
    };
    model.targets.insert(TARGET.into(), target);
    model
}

// ---- full feature phase -------------------------------------------------------------------------

/// Steps of initiators, of the disks and of time.
fn session(data: &[u8]) {
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
    bench.end();
}

/// The rest of a script. After its end, all numbers are 0.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn number(&mut self) -> u8 {
        self.byte().unwrap_or(0)
    }

    /// Up to `len` of them.
    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// Memory of an I/O. The pool counts the memory in use.
#[derive(Debug)]
struct Memory(Vec<u8>, Rc<Cell<usize>>);

impl Drop for Memory {
    fn drop(&mut self) {
        self.1.set(self.1.get() - 1);
    }
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsMut<[u8]> for Memory {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// Disks that hold nothing; their I/Os end when the script says so.
#[derive(Debug)]
struct Disks {
    lent: Rc<Cell<usize>>,
    lent_max: usize,
    waiting: Vec<(u16, Op, Memory, IoKey)>,
    changes: Vec<(u16, TaskKey)>,
}

impl Backend for Disks {
    type Buffer = Memory;

    fn buffer(&mut self, len: u32) -> Option<Memory> {
        assert!(len <= drivebay_scsi::PIECE_LEN, "a piece of {len} bytes");
        (self.lent.get() < self.lent_max).then(|| {
            self.lent.set(self.lent.get() + 1);
            Memory(vec![0; len as usize], Rc::clone(&self.lent))
        })
    }

    fn submit(&mut self, unit: u16, op: Op, _: IoFlags, buffer: Memory, key: IoKey) {
        if let Op::Read(range) | Op::Write(range) | Op::WriteZeroes(range) | Op::Unmap(range) = op {
            assert!(range.lba.checked_add(range.nblocks).is_some_and(|end| end <= BLOCKS));
        }
        self.waiting.push((unit, op, buffer, key));
    }

    fn settle(&mut self, change: Change, key: TaskKey) {
        self.changes.push((change.unit, key));
    }

    fn unit_left(&mut self, unit: u16) {
        assert!(self.waiting.iter().all(|(of, ..)| *of != unit), "unit {unit} left under I/O");
    }
}

/// Blocks of a disk.
const BLOCKS: u64 = 4096;

struct Bench {
    node: Node<Disks>,
    /// The connections, of sessions 1 and 2, and what they count commands by.
    links: [(u32, u32); 2],
    /// The last R2T of each connection.
    r2ts: [Option<R2t>; 2],
    now_ns: u64,
}

impl Bench {
    fn new(bits: u8) -> Self {
        let lent_max = if bits & 1 == 0 { 64 } else { 1 };
        let disks =
            Disks { lent: Rc::default(), lent_max, waiting: Vec::new(), changes: Vec::new() };
        let mut device = Device::new(TARGET.into());
        device.settle_reservations();
        let mut node = Node::new(device, disks);
        for unit in 0..2 {
            node.add_unit(unit, disk(unit));
            node.device_mut().keep_reservations(unit, None);
        }
        let links = [1, 2].map(|session| (node.attach(established(session, bits)), 1));
        Self { node, links, r2ts: [None, None], now_ns: 0 }
    }

    fn push(&mut self, which: usize, bhs: &[u8; BHS_LEN], data: &[u8]) {
        let (link, _) = self.links[which];
        if let Some(inbox) = self.node.inbox(link) {
            push(inbox, bhs, data);
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

    /// What an R2T asked for, or something like it.
    fn data_out(&mut self, script: &mut Script<'_>) {
        let [which, change, at, part] = bytes(script);
        let which = usize::from(which & 1);
        let Some(r2t) = self.r2ts[which] else { return };
        let len = if change & 1 == 0 { r2t.len } else { r2t.len.min(u32::from(part) * 16) };
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
        let which = usize::from(script.number() & 1);
        let mut bhs: [u8; BHS_LEN] = bytes(script);
        let len = script.number();
        // A header of its own and no more data than it says; longer ones only wait.
        (bhs[4], bhs[5], bhs[6], bhs[7]) = (0, 0, 0, len);
        if bhs[1] & 1 == 0 {
            bhs[24..28].copy_from_slice(&self.links[which].1.to_be_bytes());
        }
        let data = script.bytes(usize::from(len)).to_vec();
        bhs[7] = data.len() as u8;
        self.push(which, &bhs, &data);
    }

    /// Some I/Os end, in order or in reverse order.
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
                self.links[which] = (self.node.attach(established(session, what >> 3)), 1);
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
            let framing = Framing { data_len_max: 1 << 24, ..Framing::default() };
            while let Some(frame) = inbox.front(&framing).expect("the target sends whole PDUs") {
                if Header::parse(&frame.bhs).kind().expect("a known opcode") == Opcode::R2t {
                    self.r2ts[which] = Some(R2t::parse(&frame.bhs));
                }
                inbox.consume(&frame);
            }
        }
    }

    /// Ends the connections, then the I/Os that hang.
    fn end(mut self) {
        for (link, _) in self.links {
            self.node.lost(link);
        }
        while let Some((unit, _, buffer, key)) = self.node.backend_mut().waiting.pop() {
            self.node.ended(key, buffer, IoResult::new(Status::SUCCESS), unit);
        }
        assert!(self.node.is_empty(), "something is left of a connection");
        assert_eq!(self.node.backend().lent.get(), 0, "memory does not come back");
    }
}

fn disk(unit: u16) -> Disk {
    Disk {
        name: format!("d{unit}"),
        uuid: [unit as u8 + 1; 16],
        block_len: 512,
        blocks: BLOCKS,
        can_unmap: true,
        write_cache: unit == 0,
        read_only: false,
    }
}

fn established(session: u16, bits: u8) -> Established {
    let agreed = Agreed {
        initial_r2t: bits & 2 != 0,
        immediate_data: bits & 4 == 0,
        max_outstanding_r2t: if bits & 8 == 0 { 1 } else { 4 },
        ..Agreed::default()
    };
    Established {
        session,
        cid: 0,
        initiator: INITIATOR.into(),
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

fn push(inbox: &mut Inbox, bhs: &[u8; BHS_LEN], data: &[u8]) {
    inbox.push(bhs);
    inbox.push(data);
    inbox.push(&[0; 3][..pad_len(data.len())]);
}

fn bytes<const N: usize>(script: &mut Script<'_>) -> [u8; N] {
    std::array::from_fn(|_| script.number())
}
