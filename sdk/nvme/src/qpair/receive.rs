//! Parses PDUs as they arrive: header, data, data digest, one after another.

use super::outbox::LIMIT;
use super::{Fault, Payload, Qpair, Transfer, finish};
use drivebay_spec_nvme::{Completion, Status};
use drivebay_spec_nvme_tcp::digest::{self, Crc32c};
use drivebay_spec_nvme_tcp::{
    C2hData, CapsuleResp, CommonHeader, DIGEST_LEN, Fes, Frame, H2cData, IcResp, PduType,
    ProtocolError, R2t, Role, TermReq,
};

/// Byte offset of CCCID in C2HData and R2T.
const CCCID_OFFSET: u32 = 8;
/// Byte offset of the command identifier in a response capsule.
const CID_OFFSET: u32 = 20;

/// The kind of the next bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    Header,
    Data(Data),
    /// The digest of the data.
    Digest(Data),
}

/// The data of one PDU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Data {
    pub(super) cid: u16,
    /// Length of the data that has not arrived yet, in bytes.
    pub(super) left: u32,
    digest: Option<Crc32c>,
    /// Whether the command has succeeded when all of the data has arrived.
    success: bool,
}

impl<R: Payload> Qpair<R> {
    /// Parses the `len` bytes that were read.
    pub(super) fn take_in(&mut self, len: usize) -> Result<(), Fault> {
        let mut rest = len;
        if let Stage::Data(data) = &mut self.stage
            && std::mem::take(&mut self.is_direct)
        {
            let direct = u32::try_from(len).unwrap_or(u32::MAX).min(data.left);
            rest -= direct as usize;
            let slot = self.slots.get_mut(usize::from(data.cid)).and_then(Option::as_mut);
            if let Some(slot) = slot {
                if let Some(crc) = &mut data.digest {
                    slot.request.look(slot.come, direct, &mut |bytes| crc.update(bytes));
                }
                slot.come += direct;
            }
            data.left -= direct;
        }
        self.inbox.put(rest);
        loop {
            let goes_on = match self.stage {
                Stage::Header => self.header()?,
                Stage::Data(data) => self.data(data)?,
                Stage::Digest(data) => self.digest(data)?,
            };
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Ends the connection.
    pub(super) fn end(&mut self, fault: Fault) -> Fault {
        if let Fault::Protocol(error) = fault {
            let header = self.inbox.filled();
            let len = header.first_chunk::<{ CommonHeader::LEN }>().map_or(0, |bytes| {
                let common = CommonHeader::parse(bytes);
                usize::from(common.hlen).min(header.len())
            });
            self.outbox.terminate(error, header.get(..len).unwrap_or_default());
        }
        self.fault = Some(fault);
        fault
    }

    /// Parses a header; false when it has not arrived in full.
    fn header(&mut self) -> Result<bool, Fault> {
        let bytes = self.inbox.filled();
        let Some(common) = bytes.first_chunk() else { return Ok(false) };
        let frame =
            Frame::parse(&CommonHeader::parse(common), &self.receiver).map_err(Fault::Protocol)?;
        let Some((header, _)) = bytes.split_at_checked(frame.data_offset) else {
            return Ok(false);
        };
        if frame.header_digest {
            let (covered, rest) =
                header.split_at_checked(frame.header_len).unwrap_or((header, &[]));
            if rest.first_chunk::<DIGEST_LEN>() != Some(&digest::of(covered)) {
                return Err(Fault::Protocol(ProtocolError::of(Fes::HeaderDigest)));
            }
        }
        let Some(header) = header.first_chunk::<24>().copied() else {
            return Err(Fault::Protocol(ProtocolError::field(CommonHeader::HLEN_OFFSET)));
        };
        let handled = match frame.pdu_type {
            PduType::CapsuleResp => {
                self.response(Completion::parse(&CapsuleResp::parse(&header).cqe))
            }
            PduType::C2hData => self.data_begins(&header, &frame),
            PduType::R2t => R2t::parse(&header).and_then(|r2t| self.ready_to_transfer(&r2t)),
            PduType::C2hTermReq => {
                let TermReq { fes, fei, .. } = TermReq::parse(&header, Role::Controller);
                return Err(Fault::Terminated { fes, fei });
            }
            _ => Err(ProtocolError::of(Fes::SequenceError)),
        };
        handled.map_err(Fault::Protocol)?;
        self.inbox.consume(frame.data_offset);
        Ok(true)
    }

    fn response(&mut self, mut completion: Completion) -> Result<(), ProtocolError> {
        let unknown = ProtocolError::field(CID_OFFSET);
        let slot = self.slots.get_mut(usize::from(completion.cid)).ok_or(unknown)?;
        let outstanding = slot.as_mut().ok_or(unknown)?;
        // Without this check, a target that answers commands before they are sent could make the send queue grow without limit.
        if outstanding.answer.is_some() || !self.outbox.has_sent(outstanding.place) {
            return Err(unknown);
        }
        if outstanding.is_corrupt && completion.status.is_success() {
            completion.status = Status::TRANSIENT_TRANSPORT_ERROR;
        }
        if outstanding.unsent > 0 {
            // Its data is being sent. The owner gets the memory back when all of the data is sent.
            outstanding.answer = Some(completion);
        } else {
            finish(slot, completion, &mut self.free, &mut self.done);
        }
        Ok(())
    }

    fn data_begins(&mut self, header: &[u8; 24], frame: &Frame) -> Result<(), ProtocolError> {
        let pdu = C2hData::parse(header, frame)?;
        let unknown = ProtocolError::field(CCCID_OFFSET);
        let slot = self.slots.get(usize::from(pdu.cccid)).ok_or(unknown)?;
        let slot = slot.as_ref().ok_or(unknown)?;
        let Transfer::In(len) = slot.transfer else { return Err(unknown) };
        // The controller sends a command's data in order, and no more than the command asks for.
        if pdu.datao != slot.come || pdu.datal > len - slot.come || slot.answer.is_some() {
            return Err(ProtocolError::of(Fes::DataOutOfRange));
        }
        self.stage = Stage::Data(Data {
            cid: pdu.cccid,
            left: pdu.datal,
            digest: frame.data_digest.then(Crc32c::new),
            success: pdu.success,
        });
        Ok(())
    }

    /// Copies data from the inbox; false when more of it has to arrive.
    fn data(&mut self, mut data: Data) -> Result<bool, Fault> {
        let filled = self.inbox.filled();
        let len = u32::try_from(filled.len()).unwrap_or(u32::MAX).min(data.left);
        let bytes = filled.get(..len as usize).unwrap_or_default();
        if let Some(crc) = &mut data.digest {
            crc.update(bytes);
        }
        if let Some(Some(slot)) = self.slots.get_mut(usize::from(data.cid)) {
            slot.request.put(slot.come, bytes);
            slot.come += len;
        }
        self.inbox.consume(len as usize);
        data.left -= len;
        self.stage = Stage::Data(data);
        if data.left > 0 {
            return Ok(false);
        }
        if data.digest.is_some() {
            self.stage = Stage::Digest(data);
        } else {
            self.data_ends(data)?;
        }
        Ok(true)
    }

    fn digest(&mut self, data: Data) -> Result<bool, Fault> {
        let Some(digest) = self.inbox.filled().first_chunk::<DIGEST_LEN>() else {
            return Ok(false);
        };
        if data.digest.map(Crc32c::bytes).as_ref() != Some(digest)
            && let Some(Some(slot)) = self.slots.get_mut(usize::from(data.cid))
        {
            slot.is_corrupt = true;
        }
        self.inbox.consume(DIGEST_LEN);
        self.data_ends(data)?;
        Ok(true)
    }

    fn data_ends(&mut self, data: Data) -> Result<(), Fault> {
        self.stage = Stage::Header;
        if data.success {
            let completion = Completion::new(data.cid, Status::SUCCESS);
            self.response(completion).map_err(Fault::Protocol)?;
        }
        Ok(())
    }

    /// Sends the data that the controller requests. A command has one R2T at a time (MAXR2T is 0), and never sends more bytes in all
    /// than its data has.
    fn ready_to_transfer(&mut self, r2t: &R2t) -> Result<(), ProtocolError> {
        let unknown = ProtocolError::field(CCCID_OFFSET);
        let slot = self.slots.get_mut(usize::from(r2t.cccid)).ok_or(unknown)?;
        let slot = slot.as_mut().ok_or(unknown)?;
        let Transfer::Out(len) = slot.transfer else { return Err(unknown) };
        let end = r2t.r2to.checked_add(r2t.r2tl).filter(|end| *end <= len);
        let end = end.ok_or(ProtocolError::of(Fes::DataOutOfRange))?;
        let is_early = slot.unsent > 0 || !self.outbox.has_sent(slot.place);
        if is_early || slot.answer.is_some() || r2t.r2tl > len - slot.granted {
            return Err(LIMIT);
        }
        slot.granted += r2t.r2tl;
        slot.unsent = r2t.r2tl;
        let IcResp { digests, cpda, maxh2cdata, .. } = self.agreed.ic;
        let mut datao = r2t.r2to;
        while datao < end {
            let datal = maxh2cdata.min(end - datao);
            let last = datao + datal == end;
            let pdu = H2cData { cccid: r2t.cccid, ttag: r2t.ttag, datao, datal, last };
            let mut header = [0; H2cData::LEN];
            let placement = pdu.encode(digests, cpda, &mut header);
            self.outbox.pdu(placement, &header, r2t.cccid, datao, datal, &slot.request);
            datao += datal;
        }
        Ok(())
    }
}
