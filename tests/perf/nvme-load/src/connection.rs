//! One connection as an I/O queue of fixed depth, with as little work for each I/O as goes.
//!
//! Data that comes is dropped unread, data that goes is always the same.

use crate::args::Args;
use crate::latency::Latencies;
use drivebay_nvme_driver::{Host, Namespace};
use drivebay_spec_nvme::fabrics::{Connect, ConnectData, cattr};
use drivebay_spec_nvme::nvm::BlockCommand;
use drivebay_spec_nvme::opcode::nvm;
use drivebay_spec_nvme::sgl::SglDescriptor;
use drivebay_spec_nvme::text::NulText;
use drivebay_spec_nvme::{Command, Completion};
use drivebay_spec_nvme_tcp::{
    Alignment, CapsuleCmd, CapsuleResp, CommonHeader, Digests, H2cData, IcReq, IcResp, PduType, R2t,
    flags,
};
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;

/// How much is received at once, in bytes.
const IN_LEN: usize = 512 << 10;
/// Where the command identifier and the first block are in the capsule's header.
const CID: std::ops::Range<usize> = 10..12;
const SLBA: std::ops::Range<usize> = 48..56;

/// One connection.
pub(crate) struct Connection {
    stream: TcpStream,
    header: [u8; CapsuleCmd::LEN],
    data: Vec<u8>,
    in_capsule: bool,
    max_h2c_data: usize,
    blocks_of_io: u64,
    /// First blocks are below this multiple of `blocks_of_io`.
    places: u64,
    random: u64,
    out: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes of data that are still to come and of no interest.
    skip: usize,
    free: Vec<u16>,
    /// When each command was submitted, in nanoseconds.
    since: Vec<u64>,
    pub(crate) failed: u64,
}

fn bad(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidData, text.into())
}

impl Connection {
    /// Connects I/O queue `qid` of a controller. `in_capsule_len`: data that a capsule may have, in bytes.
    pub(crate) fn open(
        args: &Args,
        namespace: Namespace,
        cntlid: u16,
        qid: u16,
        in_capsule_len: u32,
    ) -> Result<Self> {
        let mut stream = TcpStream::connect(args.address)?;
        stream.set_nodelay(true)?;
        if !args.congestion.is_empty() {
            rustix::net::sockopt::set_tcp_congestion(&stream, &args.congestion)?;
        }
        let digests = Digests::default();
        let mut bytes = [0; IcReq::LEN];
        IcReq { pfv: 0, hpda: Alignment::DWORD, digests, maxr2t: 0 }.encode(&mut bytes);
        stream.write_all(&bytes)?;
        stream.read_exact(&mut bytes)?;
        let agreed = IcResp::parse(&bytes, digests).map_err(|error| bad(error.to_string()))?;
        connect_queue(&mut stream, args, cntlid, qid)?;
        stream.set_nonblocking(true)?;

        let len = args.size;
        let in_capsule = args.writes && len <= in_capsule_len;
        let opcode = if args.writes { nvm::WRITE } else { nvm::READ };
        let blocks = len / namespace.block_size;
        let nlb = u16::try_from(blocks.wrapping_sub(1)).map_err(|_| bad("--size has no blocks"))?;
        let sgl = if in_capsule {
            SglDescriptor::InCapsule { offset: 0, length: len }
        } else {
            SglDescriptor::Transport { length: len }
        };
        let command = BlockCommand { nsid: namespace.nsid, nlb, ..BlockCommand::default() };
        let sqe = command.to_command(opcode).with_sgl1(sgl).encode();
        let mut header = [0; CapsuleCmd::LEN];
        let data_len = if in_capsule { len } else { 0 };
        CapsuleCmd { sqe }.encode(data_len, digests, agreed.cpda, &mut header);
        Ok(Self {
            stream,
            header,
            data: vec![0xda; len as usize],
            in_capsule,
            max_h2c_data: agreed.maxh2cdata as usize,
            blocks_of_io: blocks.into(),
            places: (namespace.num_blocks / u64::from(blocks)).max(1),
            random: 0x9e37_79b9_7f4a_7c15 ^ u64::from(qid),
            out: Vec::new(),
            sent: 0,
            input: vec![0; IN_LEN],
            start: 0,
            end: 0,
            skip: 0,
            free: (0..args.depth).rev().collect(),
            since: vec![0; args.depth.into()],
            failed: 0,
        })
    }

    pub(crate) fn outstanding(&self) -> usize {
        self.since.len() - self.free.len()
    }

    /// Submits up to `most` I/Os, as many as the depth allows; how many.
    pub(crate) fn submit(&mut self, most: u64, now_ns: u64) -> u64 {
        let mut done = 0;
        while done < most
            && let Some(cid) = self.free.pop()
        {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let slba = self.random % self.places * self.blocks_of_io;
            put(&mut self.header, CID, &cid.to_le_bytes());
            put(&mut self.header, SLBA, &slba.to_le_bytes());
            self.out.extend_from_slice(&self.header);
            if self.in_capsule {
                self.out.extend_from_slice(&self.data);
            }
            if let Some(since) = self.since.get_mut(usize::from(cid)) {
                *since = now_ns;
            }
            done += 1;
        }
        done
    }

    /// Sends what the system takes.
    pub(crate) fn send(&mut self) -> Result<()> {
        while let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }

    /// Receives once; how many I/Os that ended.
    pub(crate) fn receive(
        &mut self,
        now_ns: impl Fn() -> u64,
        latencies: &mut Latencies,
    ) -> Result<u64> {
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let place = self.input.get_mut(self.end..).unwrap_or_default();
        match self.stream.read(place) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => self.end += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error),
        }
        let (now_ns, mut ended) = (now_ns(), 0);
        loop {
            let n = self.skip.min(self.end - self.start);
            self.skip -= n;
            self.start += n;
            let Some(header) = self.input.get(self.start..self.end).and_then(|b| b.first_chunk())
            else {
                return Ok(ended);
            };
            let header: [u8; 24] = *header;
            let common = CommonHeader::parse(chunk(&header));
            self.start += header.len();
            match PduType::from_bits(common.pdu_type) {
                Some(PduType::C2hData) => {
                    self.skip = (common.plen as usize).saturating_sub(header.len());
                    if common.flags & flags::SUCCESS != 0 {
                        let [.., low, high, _, _, _, _, _, _, _, _, _, _, _, _] = header;
                        self.end_io(u16::from_le_bytes([low, high]), now_ns, latencies);
                        ended += 1;
                    }
                }
                Some(PduType::CapsuleResp) => {
                    let completion = Completion::parse(&CapsuleResp::parse(&header).cqe);
                    self.failed += u64::from(!completion.status.is_success());
                    self.end_io(completion.cid, now_ns, latencies);
                    ended += 1;
                }
                Some(PduType::R2t) => {
                    let r2t = R2t::parse(&header).map_err(|error| bad(error.to_string()))?;
                    self.answer(r2t);
                }
                _ => return Err(bad(format!("PDU type {} came", common.pdu_type))),
            }
        }
    }

    fn end_io(&mut self, cid: u16, now_ns: u64, latencies: &mut Latencies) {
        if let Some(since) = self.since.get(usize::from(cid)) {
            latencies.add(now_ns.saturating_sub(*since));
            self.free.push(cid);
        }
    }

    fn answer(&mut self, r2t: R2t) {
        let (mut datao, mut left) = (r2t.r2to, r2t.r2tl as usize);
        while left > 0 {
            let len = left.min(self.max_h2c_data).min(self.data.len());
            left -= len;
            let datal = u32::try_from(len).unwrap_or(0);
            let pdu =
                H2cData { cccid: r2t.cccid, ttag: r2t.ttag, datao, datal, last: left == 0 };
            let mut header = [0; H2cData::LEN];
            pdu.encode(Digests::default(), Alignment::DWORD, &mut header);
            self.out.extend_from_slice(&header);
            self.out.extend_from_slice(self.data.get(..len).unwrap_or_default());
            datao += datal;
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn connect_queue(stream: &mut TcpStream, args: &Args, cntlid: u16, qid: u16) -> Result<()> {
    let host = Host::default();
    let name = |text: &str| NulText::new(text).ok_or_else(|| bad("the NQN is too long"));
    let data = ConnectData {
        hostid: host.id,
        cntlid,
        subnqn: name(&args.nqn)?,
        hostnqn: name(&host.nqn)?,
    }
    .encode();
    let sqsize = args.depth;
    let cattr = if args.no_flow_control { cattr::DISABLE_SQ_FLOW_CONTROL } else { 0 };
    let command: Command = Connect { qid, sqsize, cattr, ..Connect::default() }.to_command();
    let sgl = SglDescriptor::InCapsule { offset: 0, length: 1024 };
    let mut header = [0; CapsuleCmd::LEN];
    CapsuleCmd { sqe: command.with_sgl1(sgl).encode() }.encode(
        1024,
        Digests::default(),
        Alignment::DWORD,
        &mut header,
    );
    stream.write_all(&header)?;
    stream.write_all(&data)?;
    let mut response = [0; CapsuleResp::LEN];
    stream.read_exact(&mut response)?;
    let completion = Completion::parse(&CapsuleResp::parse(&response).cqe);
    if completion.status.is_success() {
        Ok(())
    } else {
        Err(bad(format!("Connect of queue {qid}: {}", completion.status)))
    }
}

fn put(header: &mut [u8], place: std::ops::Range<usize>, bytes: &[u8]) {
    if let Some(place) = header.get_mut(place) {
        place.copy_from_slice(bytes);
    }
}

fn chunk(header: &[u8; 24]) -> &[u8; 8] {
    header.first_chunk().unwrap_or(&[0; 8])
}
