//! The start of a queue's connection, without I/O: ICReq and ICResp, then Connect and its response.
//! NVMe/TCP 1.0, section 3.4; NVMe over Fabrics 1.1, section 3.3.
//!
//! The owner sends the bytes that [`Handshake::begin`] and [`Handshake::received`] return, and reads exactly [`Handshake::need`]
//! bytes at a
//! time, so that it does not lose the bytes that follow.

use crate::qpair::{Agreed, Fault};
use drivebay_spec_nvme::fabrics::{Connect, ConnectData, ConnectResult};
use drivebay_spec_nvme::sgl::SglDescriptor;
use drivebay_spec_nvme::{Completion, Status};
use drivebay_spec_nvme_tcp::{
    Alignment, CapsuleCmd, CapsuleResp, CommonHeader, DIGEST_LEN, Digests, Fes, Frame, IcReq,
    IcResp, PduType, ProtocolError, Receiver, Role, TermReq, digest,
};

/// Longest data in a capsule of the admin queue, and in the Connect capsule of any queue, in bytes. NVMe/TCP 1.0, section 3.4.1.
pub const ADMIN_IN_CAPSULE_LEN: u32 = 8192;

/// How to connect a queue.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Digests to request.
    pub digests: Digests,
    /// The Connect command.
    pub connect: Connect,
    /// The data of the Connect command.
    pub data: ConnectData,
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The connection failed.
    Fault(Fault),
    /// Connect failed. If the status is an invalid parameter, DW0 names the field.
    Status(Status, u32),
    /// The controller requires authentication.
    Authentication,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(f),
            Self::Status(status, dw0) => write!(f, "Connect failed: {status}, dw0 {dw0:08x}h"),
            Self::Authentication => {
                f.write_str("the controller requires authentication, which is not supported yet")
            }
        }
    }
}

impl std::error::Error for Refusal {}

/// What the owner does next.
#[derive(Debug)]
pub enum Step {
    /// Read more.
    Read,
    /// Send these bytes, then read more.
    Send(Vec<u8>),
    /// The queue is connected.
    Connected {
        /// For [`Qpair::new`](crate::qpair::Qpair::new).
        agreed: Agreed,
        /// The controller's identifier.
        cntlid: u16,
    },
}

/// A connection that is being set up.
#[derive(Debug)]
pub struct Handshake {
    wanted: Wanted,
    receiver: Receiver,
    agreed: Option<IcResp>,
    bytes: Vec<u8>,
    need: usize,
}

impl Handshake {
    /// Creates a handshake, and returns the bytes to send first.
    #[must_use]
    pub fn begin(wanted: Wanted) -> (Self, Vec<u8>) {
        let request = IcReq { pfv: 0, hpda: Alignment::DWORD, digests: wanted.digests, maxr2t: 0 };
        let mut bytes = vec![0; IcReq::LEN];
        if let Some(place) = bytes.first_chunk_mut() {
            request.encode(place);
        }
        let receiver = Receiver::new(Role::Host);
        let need = CommonHeader::LEN;
        (Self { wanted, receiver, agreed: None, bytes: Vec::new(), need }, bytes)
    }

    /// How many bytes to read next: exactly this many, at most 152.
    #[must_use]
    pub fn need(&self) -> usize {
        self.need
    }

    /// Takes the bytes that [`Self::need`] requested, and returns what to do next.
    ///
    /// # Errors
    /// The queue could not be connected.
    pub fn received(&mut self, bytes: &[u8]) -> Result<Step, Refusal> {
        self.bytes.extend_from_slice(bytes);
        let fault = |error| Refusal::Fault(Fault::Protocol(error));
        let Some(common) = self.bytes.first_chunk() else { return Ok(Step::Read) };
        let frame = Frame::parse(&CommonHeader::parse(common), &self.receiver).map_err(fault)?;
        // The host requested no data, so it does not wait for any.
        if frame.pdu_type == PduType::C2hData {
            return Err(fault(ProtocolError::of(Fes::SequenceError)));
        }
        let plen = usize::try_from(frame.plen).unwrap_or(usize::MAX);
        if self.bytes.len() < plen {
            self.need = plen - self.bytes.len();
            return Ok(Step::Read);
        }
        let pdu = std::mem::take(&mut self.bytes);
        self.need = CommonHeader::LEN;
        match (frame.pdu_type, self.agreed) {
            (PduType::C2hTermReq, _) => {
                let TermReq { fes, fei, .. } = TermReq::parse(&chunk(&pdu), Role::Controller);
                Err(Refusal::Fault(Fault::Terminated { fes, fei }))
            }
            (PduType::IcResp, None) => {
                let ic = IcResp::parse(&chunk(&pdu), self.wanted.digests).map_err(fault)?;
                self.agreed = Some(ic);
                self.receiver.digests = ic.digests;
                Ok(Step::Send(self.connect(&ic)))
            }
            (PduType::CapsuleResp, Some(ic)) => {
                if frame.header_digest {
                    let (header, rest) =
                        pdu.split_at_checked(frame.header_len).unwrap_or((&pdu, &[]));
                    if rest.first_chunk::<DIGEST_LEN>() != Some(&digest::of(header)) {
                        return Err(fault(ProtocolError::of(Fes::HeaderDigest)));
                    }
                }
                let completion = Completion::parse(&CapsuleResp::parse(&chunk(&pdu)).cqe);
                self.connected(ic, &completion)
            }
            _ => Err(fault(ProtocolError::of(Fes::SequenceError))),
        }
    }

    /// The Connect capsule. It always contains its data.
    fn connect(&self, ic: &IcResp) -> Vec<u8> {
        let data = self.wanted.data.encode();
        let len = u32::try_from(data.len()).unwrap_or(0);
        let sgl = SglDescriptor::InCapsule { offset: 0, length: len };
        let sqe = self.wanted.connect.to_command().with_cid(0).with_sgl1(sgl).encode();
        let mut header = [0; CapsuleCmd::LEN];
        let placement = CapsuleCmd { sqe }.encode(len, ic.digests, ic.cpda, &mut header);
        let mut bytes = header.to_vec();
        if placement.header_digest {
            bytes.extend(digest::of(&header));
        }
        bytes.resize(bytes.len() + usize::from(placement.pad_len), 0);
        bytes.extend(data);
        if placement.data_digest {
            bytes.extend(digest::of(&data));
        }
        bytes
    }

    fn connected(&self, ic: IcResp, completion: &Completion) -> Result<Step, Refusal> {
        if completion.cid != 0 {
            // Byte 20 of the PDU: the command identifier.
            return Err(Refusal::Fault(Fault::Protocol(ProtocolError::field(20))));
        }
        if !completion.status.is_success() {
            return Err(Refusal::Status(completion.status, completion.dw0()));
        }
        let result = ConnectResult::from_dw0(completion.dw0());
        if result.authreq != 0 {
            return Err(Refusal::Authentication);
        }
        let agreed = Agreed {
            ic,
            hpda: Alignment::DWORD,
            // One entry of a queue is never used.
            depth: self.wanted.connect.sqsize,
            in_capsule_len: ADMIN_IN_CAPSULE_LEN,
        };
        Ok(Step::Connected { agreed, cntlid: result.cntlid })
    }
}

/// The first bytes of a PDU whose length was checked.
fn chunk<const N: usize>(pdu: &[u8]) -> [u8; N] {
    pdu.first_chunk().copied().unwrap_or([0; N])
}
