//! Raw connections: any PDU at any time.

use crate::target::NQN;
use drivebay_nvme_driver::spec::command::Command;
use drivebay_nvme_driver::spec::fabrics::{CNTLID_DYNAMIC, Connect, ConnectData};
use drivebay_nvme_driver::spec::nvm::BlockCommand;
use drivebay_nvme_driver::spec::sgl::SglDescriptor;
use drivebay_nvme_driver::spec::text::NulText;
use drivebay_nvme_driver::spec::{Completion, opcode};
use drivebay_nvme_driver::tcp::{
    Alignment, C2hData, CapsuleCmd, CapsuleResp, Digests, Frame, H2cData, IcReq, IcResp, PduType,
    Placement, R2t, Receiver, Role, digest,
};
use drivebay_nvme_driver::{Host, RawConnection, RawPdu};
use std::net::SocketAddr;
use std::time::Duration;

/// The longest time for any step.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const NO_DIGESTS: Digests = Digests { header: false, data: false };
pub(crate) const BOTH_DIGESTS: Digests = Digests { header: true, data: true };

/// An ICReq with these digests.
pub(crate) fn icreq(digests: Digests) -> IcReq {
    IcReq { pfv: 0, hpda: Alignment::DWORD, digests, maxr2t: 0 }
}

/// A connection that was initialized.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) wire: RawConnection,
    pub(crate) agreed: IcResp,
    alignment: Alignment,
}

impl Raw {
    /// A connection without ICReq.
    pub(crate) fn silent(address: SocketAddr) -> Self {
        let wire = RawConnection::connect(address, PATIENCE).unwrap();
        let agreed = IcResp {
            pfv: 0,
            cpda: Alignment::DWORD,
            digests: NO_DIGESTS,
            maxh2cdata: IcResp::MIN_MAXH2CDATA,
        };
        Self { wire, agreed, alignment: Alignment::DWORD }
    }

    pub(crate) fn open(address: SocketAddr, request: IcReq) -> Self {
        let mut wire = RawConnection::connect(address, PATIENCE).unwrap();
        let agreed = wire.initialize(request).unwrap();
        Self { wire, agreed, alignment: request.hpda }
    }

    /// I/O queue 1 of an existing, enabled controller.
    pub(crate) fn io_queue(address: SocketAddr, cntlid: u16, request: IcReq) -> Self {
        let mut raw = Self::open(address, request);
        let connect = Connect { qid: 1, sqsize: 127, ..Connect::default() };
        let completion = raw.connect(connect, &connect_data(NQN, cntlid));
        assert!(completion.status.is_success(), "{}", completion.status);
        raw
    }

    /// An admin queue.
    pub(crate) fn admin_queue(address: SocketAddr, request: IcReq) -> Self {
        let mut raw = Self::open(address, request);
        let connect = Connect { sqsize: 31, ..Connect::default() };
        let completion = raw.connect(connect, &connect_data(NQN, CNTLID_DYNAMIC));
        assert!(completion.status.is_success(), "{}", completion.status);
        raw
    }

    pub(crate) fn connect(&mut self, connect: Connect, data: &ConnectData) -> Completion {
        self.send(&self.capsule(connect.to_command(), &data.encode()));
        self.completion()
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.wire.send(bytes).unwrap();
    }

    pub(crate) fn capsule(&self, command: Command, data: &[u8]) -> Vec<u8> {
        let mut header = [0; CapsuleCmd::LEN];
        let IcResp { digests, cpda, .. } = self.agreed;
        let sqe = command.encode();
        let data_len = u32::try_from(data.len()).unwrap();
        let placement = CapsuleCmd { sqe }.encode(data_len, digests, cpda, &mut header);
        assemble(placement, &header, data)
    }

    pub(crate) fn h2c(&self, pdu: H2cData, data: &[u8]) -> Vec<u8> {
        let mut header = [0; H2cData::LEN];
        let placement = pdu.encode(self.agreed.digests, self.agreed.cpda, &mut header);
        assemble(placement, &header, data)
    }

    /// The complete data for an R2T in one PDU.
    pub(crate) fn answer(&self, r2t: &R2t, data: &[u8]) -> Vec<u8> {
        let [from, len] = [r2t.r2to, r2t.r2tl].map(|value| usize::try_from(value).unwrap());
        self.h2c(piece_of(r2t), &data[from..from + len])
    }

    pub(crate) fn read(&mut self) -> RawPdu {
        self.wire.read_pdu().unwrap()
    }

    pub(crate) fn completion(&mut self) -> Completion {
        let pdu = self.read();
        assert_eq!(pdu.header.pdu_type, PduType::CapsuleResp as u8, "{pdu:02x?}");
        Completion::parse(&CapsuleResp::parse(pdu.bytes.first_chunk().unwrap()).cqe)
    }

    pub(crate) fn r2t(&mut self) -> R2t {
        let pdu = self.read();
        assert_eq!(pdu.header.pdu_type, PduType::R2t as u8, "{pdu:02x?}");
        R2t::parse(pdu.bytes.first_chunk().unwrap()).unwrap()
    }

    /// Receives a C2HData. Returns it with its data, after checking the digest.
    pub(crate) fn c2h_data(&mut self) -> (C2hData, Vec<u8>) {
        let pdu = self.read();
        let digests = self.agreed.digests;
        let alignment = self.alignment;
        let receiver = Receiver { digests, alignment, ..Receiver::new(Role::Host) };
        let frame = Frame::parse(&pdu.header, &receiver).unwrap();
        assert_eq!(frame.pdu_type, PduType::C2hData, "{:02x?}", pdu.header);
        let data = C2hData::parse(pdu.bytes.first_chunk().unwrap(), &frame).unwrap();
        let end = frame.data_offset + usize::try_from(frame.data_len).unwrap();
        let bytes = pdu.bytes[frame.data_offset..end].to_vec();
        if frame.data_digest {
            assert_eq!(pdu.bytes[end..], digest::of(&bytes));
        }
        (data, bytes)
    }

    /// Expects that the controller ends the connection. Returns FES, FEI and the bytes of the PDU in error. PDUs before
    /// it are dropped.
    pub(crate) fn terminated(&mut self) -> (u16, u32, Vec<u8>) {
        loop {
            let pdu = self.read();
            if let Some(request) = pdu.term_req() {
                return (request.fes, request.fei, pdu.bytes[24..].to_vec());
            }
        }
    }

    /// Sends a flush and expects its answer: the connection works, and earlier PDUs were parsed correctly.
    pub(crate) fn assert_alive(&mut self) {
        let flush = Command::new(opcode::nvm::FLUSH).with_nsid(1).with_cid(0xfff0);
        self.send(&self.capsule(flush, &[]));
        let completion = self.completion();
        assert_eq!((completion.cid, completion.status.is_success()), (0xfff0, true));
    }
}

/// Builds a PDU: header, its digest, padding, data, its digest.
pub(crate) fn assemble(placement: Placement, header: &[u8], data: &[u8]) -> Vec<u8> {
    let mut pdu = header.to_vec();
    if placement.header_digest {
        pdu.extend(digest::of(header));
    }
    pdu.resize(pdu.len() + usize::from(placement.pad_len), 0);
    pdu.extend_from_slice(data);
    if placement.data_digest {
        pdu.extend(digest::of(data));
    }
    pdu
}

/// The H2CData that answers an R2T completely.
pub(crate) fn piece_of(r2t: &R2t) -> H2cData {
    H2cData { cccid: r2t.cccid, ttag: r2t.ttag, datao: r2t.r2to, datal: r2t.r2tl, last: true }
}

pub(crate) fn connect_data(subnqn: &str, cntlid: u16) -> ConnectData {
    let Host { nqn, id } = Host::default();
    let name = |text: &str| NulText::new(text).unwrap();
    ConnectData { hostid: id, cntlid, subnqn: name(subnqn), hostnqn: name(&nqn) }
}

/// A write of `blocks` to namespace 1. The controller has to request its data.
pub(crate) fn write(cid: u16, slba: u64, blocks: u16) -> Command {
    blocks_command(opcode::nvm::WRITE, cid, slba, blocks)
}

pub(crate) fn read(cid: u16, slba: u64, blocks: u16) -> Command {
    blocks_command(opcode::nvm::READ, cid, slba, blocks)
}

fn blocks_command(opcode: u8, cid: u16, slba: u64, blocks: u16) -> Command {
    let length = u32::from(blocks) * 512;
    BlockCommand { nsid: 1, slba, nlb: blocks - 1, ..BlockCommand::default() }
        .to_command(opcode)
        .with_cid(cid)
        .with_sgl1(SglDescriptor::Transport { length })
}
