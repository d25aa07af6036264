//! The decisions of the NVMe-oF target. Hosts connect, enable, send commands, reset and leave, in any order and with
//! any fields. There is no I/O. Each request that waits for an event must come back once, and each answer must fit its
//! command.

use crate::look;
use crate::script::Script;
use drivebay_nvmf::controller::admin::{Answer, Outcome, Received, execute};
use drivebay_nvmf::controller::connect::{Attempt, connect};
use drivebay_nvmf::controller::events::REQUESTS_MAX;
use drivebay_nvmf::controller::{QueueId, Ticket};
use drivebay_nvmf::io::{Plan, copy, deallocate, plan};
use drivebay_nvmf::model::reservation::Reservations;
use drivebay_nvmf::model::{
    AnaState, ControllerKind, Geometry, Model, Namespace, Ops, Options, Subsystem, TransportLimits,
    address_of,
};
use drivebay_spec_nvme::fabrics::{CNTLID_DYNAMIC, Connect, ConnectData, PropertySet};
use drivebay_spec_nvme::nvm::BlockCommand;
use drivebay_spec_nvme::opcode::{admin, nvm};
use drivebay_spec_nvme::property::offset;
use drivebay_spec_nvme::text::NulText;
use drivebay_spec_nvme::{Command, nqn};

const NQN: &str = "nqn.2016-06.io.spdk:cnode1";
const HOST: &str = "nqn.2016-06.io.spdk:host1";
/// The value of CC that enables a controller.
const ENABLE: u32 = 0x0046_0001;
const MAX_LEN: u32 = 131_072;
const ADMIN: [u8; 8] = [
    admin::IDENTIFY,
    admin::GET_LOG_PAGE,
    admin::GET_FEATURES,
    admin::SET_FEATURES,
    admin::ASYNC_EVENT_REQUEST,
    admin::ABORT,
    admin::KEEP_ALIVE,
    drivebay_spec_nvme::opcode::FABRICS,
];
const NVM: [u8; 10] = [
    nvm::READ,
    nvm::WRITE,
    nvm::FLUSH,
    nvm::COMPARE,
    nvm::WRITE_ZEROES,
    nvm::DATASET_MANAGEMENT,
    nvm::COPY,
    nvm::RESERVATION_REGISTER,
    nvm::RESERVATION_ACQUIRE,
    nvm::RESERVATION_RELEASE,
];
const RESERVATIONS: [u8; 3] =
    [nvm::RESERVATION_REGISTER, nvm::RESERVATION_ACQUIRE, nvm::RESERVATION_RELEASE];

pub(crate) fn script(data: &[u8]) {
    let mut script = Script(data);
    let mut target = Target::new();
    while let Some(what) = script.byte() {
        match what % 8 {
            0 | 1 => target.connect(&mut script),
            2 => target.enable(&mut script),
            3 => {
                let command = Command::parse(&bytes(&mut script));
                target.execute(&mut script, &command);
            }
            4 | 5 => {
                let opcode = ADMIN[usize::from(script.number()) % ADMIN.len()];
                let mut command = Command::new(opcode).with_cid(script.number().into());
                command.dw[1] = u32::from(script.number() % 4);
                command.dw[10..14].fill_with(|| u32::from_le_bytes(bytes(&mut script)));
                target.execute(&mut script, &command);
            }
            6 => target.change(&mut script),
            _ => plan_io(&mut script),
        }
    }
    target.end();
}

fn bytes<const N: usize>(script: &mut Script<'_>) -> [u8; N] {
    std::array::from_fn(|_| script.number())
}

struct Target {
    model: Model,
    /// Controllers by subsystem and identifier.
    controllers: Vec<(&'static str, u16)>,
    waiting: Vec<Ticket>,
    /// Number of the next ticket.
    number: u64,
}

impl Target {
    /// A subsystem with namespaces 1 and 2 beside the discovery subsystem.
    fn new() -> Self {
        let mut model = Model::default();
        let options = Options { ana_reporting: true, ..Options::default() };
        let mut subsystem = Subsystem::new(NQN, options);
        subsystem.allow_any_host = true;
        let address = address_of("TCP", None, "127.0.0.1", "4420");
        let listener = subsystem.new_listener(address, AnaState::NonOptimized);
        subsystem.listeners.push(listener);
        for nsid in 1..=2 {
            let namespace = Namespace {
                nsid,
                bdev_name: "disk".into(),
                uuid: [3; 16],
                nguid: [3; 16],
                eui64: [0; 8],
                anagrpid: nsid,
                geometry: geometry(0xff),
                ptpl_file: None,
                reservations: Reservations::default(),
            };
            subsystem.namespaces.insert(nsid, namespace);
        }
        model.subsystems.insert(NQN.to_owned(), subsystem);
        Self { model, controllers: Vec::new(), waiting: Vec::new(), number: 0 }
    }

    fn connect(&mut self, script: &mut Script<'_>) {
        let [where_to, qid, sqsize, whose, host, cattr] = bytes(script);
        let subsystem = if where_to & 1 == 0 { NQN } else { nqn::DISCOVERY };
        let cntlid = match whose {
            0..=127 => self.controllers.last().map_or(CNTLID_DYNAMIC, |(_, cntlid)| *cntlid),
            128..=253 => CNTLID_DYNAMIC,
            _ => u16::from(host),
        };
        let command = Connect {
            recfmt: u16::from(where_to >> 7),
            qid: u16::from(qid % 8),
            sqsize: sqsize.into(),
            cattr,
            kato_ms: u32::from(host) * 1000,
        };
        let data = ConnectData {
            hostid: [host & 1; 16],
            cntlid,
            subnqn: NulText::new(subsystem).unwrap(),
            hostnqn: NulText::new(if host & 2 == 0 { HOST } else { "" }).unwrap(),
        };
        let local =
            address_of("TCP", None, "127.0.0.1", if where_to & 2 == 0 { "4420" } else { "1" });
        let queue = QueueId { group: 0, number: self.number };
        self.number += 1;
        let limits = TransportLimits::default();
        let attempt = Attempt {
            connect: command,
            data: &data,
            queue,
            local: &local,
            limits: &limits,
            now_ns: 1,
        };
        if let Ok(admitted) = connect(&mut self.model, &attempt) {
            let controllers = &self.model.subsystems[subsystem].controllers;
            assert!(controllers[&admitted.cntlid].queues.contains_key(&admitted.qid));
            assert_eq!(u32::from(admitted.entries), u32::from(sqsize) + 1);
            if admitted.qid == 0 {
                self.controllers.push((subsystem, admitted.cntlid));
            }
        }
    }

    fn enable(&mut self, script: &mut Script<'_>) {
        let change = u32::from_le_bytes(bytes(script));
        let set = PropertySet { wide: false, offset: offset::CC, value: (ENABLE ^ change).into() };
        self.execute(script, &set.to_command());
    }

    /// Chooses one of the controllers.
    fn chosen(&self, script: &mut Script<'_>) -> Option<(&'static str, u16)> {
        let which = usize::from(script.number());
        self.controllers.get(which % self.controllers.len().max(1)).copied()
    }

    fn execute(&mut self, script: &mut Script<'_>, command: &Command) {
        let Some((nqn, cntlid)) = self.chosen(script) else { return };
        let len = u32::from(script.number()) * 512;
        let queue = self.model.subsystems[nqn].controllers[&cntlid].queues[&0];
        let ticket = Ticket { queue, number: self.number, cid: command.cid() };
        self.number += 1;
        let data = match command.opcode() {
            admin::SET_FEATURES => script.bytes(len.min(512) as usize),
            _ => &[],
        };
        let received = Received { nqn, cntlid, ticket, command, len, data, now_ns: self.number };
        match execute(&mut self.model, received) {
            Outcome::Answer(answer) => check_answer(&answer, len),
            Outcome::Waits => self.waiting.push(ticket),
            Outcome::AndReset(answer, ended) => {
                check_answer(&answer, len);
                ended.into_iter().for_each(|ticket| self.comes_back(ticket));
            }
            Outcome::AndAbort(answer, aborted) => {
                check_answer(&answer, len);
                self.comes_back(aborted);
            }
        }
        let its = self.waiting.iter().filter(|waiting| waiting.queue == queue);
        assert!(its.count() <= REQUESTS_MAX, "more requests wait than allowed");
    }

    /// Changes something in the target.
    fn change(&mut self, script: &mut Script<'_>) {
        let [what, nsid] = bytes(script);
        match what % 3 {
            0 => {
                let reported = self.model.discovery_changed();
                reported.into_iter().for_each(|(ticket, _)| self.comes_back(ticket));
            }
            1 => {
                let Some((nqn, cntlid)) = self.chosen(script) else { return };
                let subsystem = self.model.subsystems.get_mut(nqn).unwrap();
                let controller = subsystem.controllers.get_mut(&cntlid).unwrap();
                if let Some((ticket, _)) = controller.namespace_changed(nsid.into()) {
                    self.comes_back(ticket);
                }
            }
            _ => self.leave(script),
        }
    }

    /// Disconnects a host.
    fn leave(&mut self, script: &mut Script<'_>) {
        let Some((nqn, cntlid)) = self.chosen(script) else { return };
        let subsystem = self.model.subsystems.get_mut(nqn).unwrap();
        let mut controller = subsystem.controllers.remove(&cntlid).unwrap();
        look(controller.has_timed_out(u64::MAX));
        self.controllers.retain(|one| *one != (nqn, cntlid));
        controller.reset().into_iter().for_each(|ticket| self.comes_back(ticket));
    }

    fn comes_back(&mut self, ticket: Ticket) {
        let place = self.waiting.iter().position(|waiting| *waiting == ticket);
        self.waiting.remove(place.expect("a request that waited comes back once"));
    }

    fn end(&mut self) {
        while !self.controllers.is_empty() {
            self.leave(&mut Script(&[]));
        }
        assert!(self.waiting.is_empty(), "requests are lost: {:?}", self.waiting);
        assert!(self.model.subsystems.values().all(|subsystem| {
            subsystem.kind == ControllerKind::Discovery || subsystem.controllers.is_empty()
        }));
    }
}

fn check_answer(answer: &Answer, len: u32) {
    assert!(answer.data.len() <= len as usize, "more data than was asked for");
    assert!(answer.status.is_success() || answer.data.is_empty());
}

fn geometry(bits: u8) -> Geometry {
    let has = |bit: u8| bits & 1 << bit != 0;
    Geometry {
        num_blocks: 1024,
        block_size: if has(7) { 512 } else { 4096 },
        phys_block_size: 4096,
        optimal_boundary: 0,
        atomic_write_unit: 1,
        has_write_cache: has(0),
        is_read_only: !has(1),
        keeps_no_data: false,
        deallocated_reads_zeroes: has(3),
        ops: Ops {
            flush: has(2),
            unmap: has(3),
            write_zeroes: has(4),
            compare: has(5),
            fua: has(6),
        },
    }
}

/// Checks that the disk request of a command lies on the disk and is as long as its data.
fn plan_io(script: &mut Script<'_>) {
    let [opcode, bits, kind, slba, nlb, len] = bytes(script);
    let geometry = geometry(bits);
    let opcode = NVM[usize::from(opcode) % NVM.len()];
    let blocks = BlockCommand {
        nsid: 1,
        slba: u64::from(slba) * 4,
        nlb: nlb.into(),
        ..BlockCommand::default()
    };
    let mut command = blocks.to_command(opcode);
    if kind & 1 != 0 {
        command = Command::parse(&bytes(script));
    }
    let len = if kind & 2 == 0 {
        (u32::from(nlb) + 1) * geometry.block_size
    } else {
        u32::from(len) * 16
    };
    let on_disk =
        |start: u64, blocks: u64| start.checked_add(blocks).is_some_and(|end| end <= 1024);
    match plan(&command, &geometry, len, MAX_LEN) {
        Ok(Plan::Read(range) | Plan::Write(range, _) | Plan::Compare(range)) => {
            assert!(on_disk(range.lba, range.nblocks));
            assert_eq!(range.nblocks * u64::from(geometry.block_size), u64::from(len));
            assert!(len <= MAX_LEN);
        }
        Ok(Plan::WriteZeroes(range, _)) => assert!(on_disk(range.lba, range.nblocks)),
        Ok(Plan::Deallocate(count)) => {
            // The target ignores bytes behind the ranges.
            assert!(count * 16 <= len as usize);
            let blocks_max = u32::from(script.number()).saturating_mul(8);
            if let Ok(ranges) = deallocate(script.bytes(count * 16), &geometry, blocks_max) {
                assert!(ranges.iter().all(|range| on_disk(range.lba, range.nblocks)));
            }
        }
        Ok(Plan::Copy(command)) => {
            let data = script.bytes(command.num_ranges() * 32);
            assert!(command.num_ranges() * 32 <= len as usize);
            if let Ok(plan) = copy(command, data, &geometry) {
                assert!(plan.sources.iter().all(|range| on_disk(range.lba, range.nblocks)));
                assert!(on_disk(plan.to, plan.sources.iter().map(|range| range.nblocks).sum()));
            }
        }
        Ok(Plan::Flush | Plan::Nothing) => {}
        Ok(Plan::Reservation) => reserve(script, command),
        Err(status) => assert!(!status.is_success()),
    }
}

/// Three hosts change the reservations of a namespace. A reservation must not outlive the last registrant, because then nobody could
/// release it.
fn reserve(script: &mut Script<'_>, mut command: Command) {
    let mut reservations = Reservations::default();
    for _ in 0..8 {
        let [host, key, other_key, action, kind, opcode] = bytes(script);
        let keys = [u64::from(key % 4), u64::from(other_key % 4)];
        let data: Vec<u8> = keys.iter().flat_map(|key| key.to_le_bytes()).collect();
        if let Ok(change) = reservations.change([host % 3; 16], &command, &data, true) {
            reservations = change.after;
        }
        let table = &reservations.table;
        assert!(table.held().is_none() || !table.registrants().is_empty(), "nobody can release it");
        command = Command::new(RESERVATIONS[usize::from(opcode) % RESERVATIONS.len()]);
        command.dw[10] = u32::from(action) | u32::from(kind % 8) << 8;
    }
}
