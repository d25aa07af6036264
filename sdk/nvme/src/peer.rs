//! A small target for the tests: one RAM namespace, one thread for each connection, and the faults that a
//! test requests.

use drivebay_spec_nvme::admin::{GetLogPage, Identify, SetFeatures};
use drivebay_spec_nvme::event::AsyncEvent;
use drivebay_spec_nvme::fabrics::{Connect, ConnectData, PropertyGet, PropertySet};
use drivebay_spec_nvme::feature::fid;
use drivebay_spec_nvme::identify::{self, NamespaceId, cns};
use drivebay_spec_nvme::log::{DiscoveryEntry, DiscoveryHeader, subtype, trtype};
use drivebay_spec_nvme::nvm::{BlockCommand, DsmRange};
use drivebay_spec_nvme::opcode::{self, admin, fabrics, nvm};
use drivebay_spec_nvme::property::{Cap, Cc, Csts, Version, css, offset, shst};
use drivebay_spec_nvme::sgl::CapsuleData;
use drivebay_spec_nvme::text::{NulText, SpaceText};
use drivebay_spec_nvme::{Command, Completion, Status};
use drivebay_spec_nvme_tcp::{
    Alignment, C2hData, CapsuleCmd, CapsuleResp, CommonHeader, Digests, Frame, H2cData, IcReq,
    IcResp, PduType, Placement, R2t, Receiver, Role, digest,
};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

pub(crate) const BLOCK_SIZE: usize = 512;
pub(crate) const NUM_BLOCKS: usize = 4096;
pub(crate) const SUBNQN: &str = "nqn.2016-06.io.spdk:cnode1";

/// How a test wants the target to behave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behaviour {
    /// Digests that it accepts.
    pub(crate) digests: Digests,
    pub(crate) cpda: u8,
    /// In-capsule data of I/O queues, in bytes.
    pub(crate) in_capsule_len: u32,
    /// Reads end with the SUCCESS flag instead of a response.
    pub(crate) success_flag: bool,
    /// The target holds reads back until it has this many, then answers them, the last one first.
    pub(crate) hold_reads: usize,
    /// Maximum amount of data of one C2HData or R2T, in bytes.
    pub(crate) chunk_len: usize,
    pub(crate) wrong_data_digest: bool,
    pub(crate) wrong_header_digest: bool,
    /// C2HData has an offset that is too large.
    pub(crate) wrong_offset: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            digests: Digests::default(),
            cpda: 0,
            in_capsule_len: 4096,
            success_flag: true,
            hold_reads: 1,
            chunk_len: 8192,
            wrong_data_digest: false,
            wrong_header_digest: false,
            wrong_offset: false,
        }
    }
}

struct Shared {
    behaviour: Behaviour,
    disk: Mutex<Vec<u8>>,
    cc: AtomicU32,
}

/// Starts the target; it ends with the test's process.
pub(crate) fn start(behaviour: Behaviour) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let shared = Arc::new(Shared {
        behaviour,
        disk: Mutex::new(vec![0; NUM_BLOCKS * BLOCK_SIZE]),
        cc: AtomicU32::new(0),
    });
    thread::spawn(move || {
        for stream in listener.incoming() {
            let shared = Arc::clone(&shared);
            thread::spawn(move || Connection::serve(stream.unwrap(), shared));
        }
    });
    address
}

struct Connection {
    stream: TcpStream,
    shared: Arc<Shared>,
    receiver: Receiver,
    hpda: Alignment,
    qid: u16,
    held: Vec<Command>,
    /// Capsules that arrived while the target waited for data.
    waiting: VecDeque<Pdu>,
    event: Option<u16>,
}

/// A PDU: its frame, header and data.
struct Pdu {
    frame: Frame,
    header: Vec<u8>,
    data: Vec<u8>,
}

impl Connection {
    fn serve(stream: TcpStream, shared: Arc<Shared>) {
        stream.set_nodelay(true).unwrap();
        let mut connection = Self {
            stream,
            shared,
            receiver: Receiver { max_h2c_data_len: 8192, ..Receiver::new(Role::Controller) },
            hpda: Alignment::DWORD,
            qid: 0,
            held: Vec::new(),
            waiting: VecDeque::new(),
            event: None,
        };
        connection.initialize();
        while let Some(pdu) = connection.waiting.pop_front().or_else(|| connection.read()) {
            if pdu.frame.pdu_type != PduType::CapsuleCmd {
                return;
            }
            let capsule = CapsuleCmd::parse(pdu.header.first_chunk().unwrap());
            connection.command(Command::parse(&capsule.sqe), pdu.data);
        }
    }

    fn initialize(&mut self) {
        let Some(pdu) = self.read() else { return };
        let request = IcReq::parse(pdu.header.first_chunk().unwrap()).unwrap();
        let Behaviour { digests, cpda, .. } = self.shared.behaviour;
        let digests = Digests {
            header: digests.header && request.digests.header,
            data: digests.data && request.digests.data,
        };
        let cpda = Alignment::from_bits(cpda).unwrap();
        let mut bytes = [0; 128];
        IcResp { pfv: 0, cpda, digests, maxh2cdata: 8192 }.encode(&mut bytes);
        self.stream.write_all(&bytes).unwrap();
        self.hpda = request.hpda;
        self.receiver.digests = digests;
        self.receiver.alignment = cpda;
    }

    fn read(&mut self) -> Option<Pdu> {
        let mut header = vec![0; 8];
        self.stream.read_exact(&mut header).ok()?;
        let common = CommonHeader::parse(header.first_chunk().unwrap());
        let frame = Frame::parse(&common, &self.receiver).unwrap();
        header.resize(usize::try_from(frame.plen).unwrap(), 0);
        self.stream.read_exact(&mut header[8..]).unwrap();
        let mut data = header.split_off(frame.data_offset);
        if frame.data_digest {
            let digest = data.split_off(data.len() - 4);
            assert_eq!(digest, digest::of(&data), "data digest");
        }
        if frame.header_digest {
            let digest = &header[frame.header_len..frame.header_len + 4];
            assert_eq!(digest, digest::of(&header[..frame.header_len]), "header digest");
        }
        Some(Pdu { frame, header, data })
    }

    fn send(&mut self, placement: Placement, header: &[u8], data: &[u8]) {
        let mut bytes = header.to_vec();
        if placement.header_digest {
            bytes.extend(digest::of(header));
            if self.shared.behaviour.wrong_header_digest && !data.is_empty() {
                bytes[header.len()] ^= 1;
            }
        }
        bytes.resize(bytes.len() + usize::from(placement.pad_len), 0);
        bytes.extend(data);
        if placement.data_digest {
            bytes.extend(digest::of(data));
            if self.shared.behaviour.wrong_data_digest && self.qid > 0 {
                *bytes.last_mut().unwrap() ^= 1;
            }
        }
        let _ = self.stream.write_all(&bytes);
    }

    fn respond(&mut self, completion: Completion) {
        let mut header = [0; 24];
        let capsule = CapsuleResp { cqe: completion.encode() };
        let placement = capsule.encode(self.receiver.digests, &mut header);
        self.send(placement, &header, &[]);
    }

    fn finish(&mut self, command: &Command, status: Status) {
        self.respond(Completion::new(command.cid(), status));
    }

    /// The data of a command to the controller: from the capsule, or requested by R2T.
    fn fetch(&mut self, command: &Command, in_capsule: Vec<u8>) -> Vec<u8> {
        let length = match command.sgl1().capsule_data().unwrap() {
            CapsuleData::InCapsule { offset, length } => {
                assert_eq!((offset, usize::try_from(length).unwrap()), (0, in_capsule.len()));
                return in_capsule;
            }
            CapsuleData::Transport { length } => usize::try_from(length).unwrap(),
        };
        let mut data = Vec::new();
        while data.len() < length {
            // Larger than MAXH2CDATA, so that the host has to split it.
            let r2tl = (length - data.len()).min(3 * 8192);
            let r2to = u32::try_from(data.len()).unwrap();
            let r2t = R2t {
                cccid: command.cid(),
                ttag: 0xbeef,
                r2to,
                r2tl: u32::try_from(r2tl).unwrap(),
            };
            let mut header = [0; 24];
            let placement = r2t.encode(self.receiver.digests, &mut header);
            self.send(placement, &header, &[]);
            let end = data.len() + r2tl;
            while data.len() < end {
                let pdu = self.read().unwrap();
                if pdu.frame.pdu_type != PduType::H2cData {
                    self.waiting.push_back(pdu);
                    continue;
                }
                let found = H2cData::parse(pdu.header.first_chunk().unwrap(), &pdu.frame).unwrap();
                assert_eq!((found.cccid, found.ttag), (command.cid(), 0xbeef));
                assert_eq!(usize::try_from(found.datao).unwrap(), data.len());
                data.extend(pdu.data);
                assert_eq!(found.last, data.len() == end);
            }
        }
        data
    }

    fn give(&mut self, command: &Command, data: &[u8]) {
        let Behaviour { success_flag, chunk_len, wrong_offset, .. } = self.shared.behaviour;
        let length = usize::try_from(command.sgl1().capsule_data().unwrap().length()).unwrap();
        let data = &data[..length.min(data.len())];
        let mut datao = u32::from(wrong_offset && self.qid > 0) * 512;
        for (index, chunk) in data.chunks(chunk_len).enumerate() {
            let last = (index + 1) * chunk_len >= data.len();
            let datal = u32::try_from(chunk.len()).unwrap();
            let pdu =
                C2hData { cccid: command.cid(), datao, datal, last, success: last && success_flag };
            let mut header = [0; 24];
            let placement = pdu.encode(self.receiver.digests, self.hpda, &mut header);
            self.send(placement, &header, chunk);
            datao += datal;
        }
        if !success_flag {
            self.finish(command, Status::SUCCESS);
        }
    }

    fn command(&mut self, command: Command, data: Vec<u8>) {
        match (command.opcode(), self.qid) {
            (opcode::FABRICS, _) => self.fabrics(&command, &data),
            (_, 0) => self.admin(&command),
            _ => self.io(command, data),
        }
    }

    fn fabrics(&mut self, command: &Command, data: &[u8]) {
        let mut completion = Completion::new(command.cid(), Status::SUCCESS);
        match command.fctype() {
            fabrics::CONNECT => {
                let connect = Connect::from_command(command);
                let data = ConnectData::parse(data.first_chunk().unwrap());
                if data.subnqn.as_str() == Some("nqn.2016-06.io.spdk:unknown") {
                    completion = Completion::new(
                        command.cid(),
                        Status::CONNECT_INVALID_PARAMETERS.with_dnr(),
                    )
                    .with_dw0(0x0001_0100);
                } else {
                    assert_eq!(data.cntlid, if connect.qid == 0 { 0xffff } else { 7 });
                    self.qid = connect.qid;
                    completion.result = 7;
                    if connect.qid > 0 {
                        let max = self.shared.behaviour.in_capsule_len;
                        self.receiver.max_in_capsule_len = max;
                    }
                }
            }
            fabrics::PROPERTY_GET => {
                let cc = Cc::from_bits(self.shared.cc.load(Ordering::Relaxed));
                completion.result = match PropertyGet::from_command(command).unwrap().offset {
                    offset::CAP => {
                        Cap { mqes: 127, cqr: true, to: 2, css: css::CAP_NVM, ..Cap::default() }
                            .bits()
                    }
                    offset::VS => Version::V2_0.bits().into(),
                    offset::CC => cc.bits().into(),
                    offset::CSTS => {
                        let shst = if cc.shn > 0 { shst::COMPLETE } else { shst::NORMAL };
                        Csts { rdy: cc.en, shst, ..Csts::default() }.bits().into()
                    }
                    other => panic!("property {other:#x}"),
                };
            }
            fabrics::PROPERTY_SET => {
                let set = PropertySet::from_command(command).unwrap();
                assert_eq!(set.offset, offset::CC);
                self.shared.cc.store(u32::try_from(set.value).unwrap(), Ordering::Relaxed);
            }
            other => panic!("fabrics command {other:#x}"),
        }
        self.respond(completion);
    }

    fn admin(&mut self, command: &Command) {
        match command.opcode() {
            admin::IDENTIFY => {
                let data = self.identify(Identify::from_command(command));
                self.give(command, &data);
            }
            admin::GET_LOG_PAGE => {
                let log = GetLogPage::from_command(command);
                let entry = |port: &str| DiscoveryEntry {
                    trtype: trtype::TCP,
                    subtype: subtype::NVM,
                    trsvcid: SpaceText::new(port),
                    traddr: SpaceText::new("127.0.0.1"),
                    subnqn: NulText::new(SUBNQN).unwrap(),
                    ..DiscoveryEntry::default()
                };
                let header = DiscoveryHeader { genctr: 3, numrec: 2, recfmt: 0 };
                let mut page = header.encode().to_vec();
                page.extend(entry("4420").encode());
                page.extend(entry("4421").encode());
                let start = usize::try_from(log.offset).unwrap();
                let end = start + usize::try_from(log.length_bytes()).unwrap();
                self.give(command, &page[start..end]);
            }
            admin::SET_FEATURES => {
                let set = SetFeatures::from_command(command);
                let dw0 = if set.fid == fid::NUMBER_OF_QUEUES { 0x0003_0003 } else { 0 };
                self.respond(Completion::new(command.cid(), Status::SUCCESS).with_dw0(dw0));
            }
            admin::ASYNC_EVENT_REQUEST => self.event = Some(command.cid()),
            admin::KEEP_ALIVE => {
                self.finish(command, Status::SUCCESS);
                if let Some(cid) = self.event.take() {
                    let dw0 = AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED.to_dw0();
                    self.respond(Completion::new(cid, Status::SUCCESS).with_dw0(dw0));
                }
            }
            admin::ABORT => {
                self.respond(Completion::new(command.cid(), Status::SUCCESS).with_dw0(1));
            }
            _ => self.finish(command, Status::INVALID_OPCODE.with_dnr()),
        }
    }

    fn identify(&self, asked: Identify) -> [u8; identify::LEN] {
        match asked.cns {
            cns::CONTROLLER => identify::Controller {
                cntlid: 7,
                sn: SpaceText::new("PEER"),
                ioccsz: 4 + self.shared.behaviour.in_capsule_len / 16,
                iorcsz: 1,
                nn: 1,
                ..identify::Controller::default()
            }
            .encode(),
            cns::NAMESPACE => {
                let nsze = u64::try_from(NUM_BLOCKS).unwrap();
                let mut namespace =
                    identify::Namespace { nsze, ncap: nsze, ..identify::Namespace::default() };
                namespace.lbaf[0].lbads = 9;
                namespace.encode()
            }
            cns::ACTIVE_NAMESPACES => identify::namespace_list([1], asked.nsid),
            cns::NAMESPACE_ID_DESCRIPTORS => {
                identify::namespace_id_descriptors(&[NamespaceId::Uuid([5; 16])])
            }
            other => panic!("cns {other:#x}"),
        }
    }

    fn io(&mut self, command: Command, data: Vec<u8>) {
        let range = BlockCommand::from_command(&command);
        let in_range = range.fits(u64::try_from(NUM_BLOCKS).unwrap());
        let blocks = |slba: u64, blocks: u32| {
            let start = usize::try_from(slba).unwrap() * BLOCK_SIZE;
            start..start + usize::try_from(blocks).unwrap() * BLOCK_SIZE
        };
        let shared = Arc::clone(&self.shared);
        let status = match command.opcode() {
            nvm::FLUSH => Status::SUCCESS,
            nvm::READ => {
                self.held.push(command);
                if self.held.len() >= shared.behaviour.hold_reads {
                    while let Some(command) = self.held.pop() {
                        self.read_blocks(&command);
                    }
                }
                return;
            }
            nvm::DATASET_MANAGEMENT => {
                let data = self.fetch(&command, data);
                for range in DsmRange::iter(&data) {
                    shared.disk.lock().unwrap()[blocks(range.slba, range.nlb)].fill(0);
                }
                Status::SUCCESS
            }
            nvm::WRITE | nvm::COMPARE if in_range => {
                let data = self.fetch(&command, data);
                let mut disk = shared.disk.lock().unwrap();
                let place = &mut disk[blocks(range.slba, range.num_blocks())];
                if command.opcode() == nvm::WRITE {
                    place.copy_from_slice(&data);
                    Status::SUCCESS
                } else if *place == data {
                    Status::SUCCESS
                } else {
                    Status::COMPARE_FAILURE
                }
            }
            nvm::WRITE_ZEROES if in_range => {
                shared.disk.lock().unwrap()[blocks(range.slba, range.num_blocks())].fill(0);
                Status::SUCCESS
            }
            _ => Status::LBA_OUT_OF_RANGE.with_dnr(),
        };
        self.finish(&command, status);
    }

    fn read_blocks(&mut self, command: &Command) {
        let range = BlockCommand::from_command(command);
        if !range.fits(u64::try_from(NUM_BLOCKS).unwrap()) {
            return self.finish(command, Status::LBA_OUT_OF_RANGE.with_dnr());
        }
        let start = usize::try_from(range.slba).unwrap() * BLOCK_SIZE;
        let end = start + usize::try_from(range.num_blocks()).unwrap() * BLOCK_SIZE;
        let data = self.shared.disk.lock().unwrap()[start..end].to_vec();
        self.give(command, &data);
    }
}
