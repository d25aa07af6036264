//! Processes incoming PDUs: header, data, data digest, one after another.

use super::command::{Commands, Grant, State};
use super::transfer::{FABRICS, Transfer, transfer};
use super::{ADMIN_CAPSULE_DATA, BURST, Carrier, Connection, Phase, Target};
use drivebay_spec_nvme::fabrics::ConnectData;
use drivebay_spec_nvme::opcode::fabrics;
use drivebay_spec_nvme::{Command, Status};
use drivebay_spec_nvme_tcp::digest::{self, Crc32c};
use drivebay_spec_nvme_tcp::{
    Alignment, CapsuleCmd, CommonHeader, DIGEST_LEN, Fes, Frame, H2cData, IcReq, IcResp, PduType,
    ProtocolError, Role, TermReq,
};

/// The kind of the next bytes.
#[derive(Debug)]
pub(super) enum Stage {
    /// A header.
    Header,
    /// The data of the PDU whose header was read.
    Data(Data),
    /// The digest of that data.
    Digest(Data),
}

impl Stage {
    /// The command's memory for the next bytes, up to the end of its piece. Empty if the bytes do not go there.
    pub(super) fn direct<'a, R: Carrier>(&self, commands: &'a mut Commands<R>) -> &'a mut [u8] {
        let Self::Data(data) = self else { return &mut [] };
        let request = data.slot.and_then(|slot| commands.get_mut(slot));
        let Some(request) = request.and_then(|command| command.request.as_mut()) else {
            return &mut [];
        };
        let piece = request.data_mut(data.place());
        let len = piece.len().min(data.direct_len());
        piece.get_mut(..len).unwrap_or_default()
    }
}

/// The data of one PDU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Data {
    /// The command that owns the data. `None`: the data is dropped.
    pub(super) slot: Option<u16>,
    /// Whether the command has memory for the data.
    pub(super) has_memory: bool,
    /// Length of the data, in bytes.
    len: u32,
    /// How much of the data has arrived, in bytes.
    come: u32,
    /// The part to keep, in bytes from the start of the PDU's data.
    keep: (u32, u32),
    /// The offset of the kept part in the command's data.
    base: u32,
    digest: Option<Crc32c>,
    then: Then,
}

/// What the end of the data completes.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// The capsule of this command.
    Capsule(u16),
    /// A piece of grant `grant` of the command in `slot`.
    Piece { slot: u16, grant: usize, len: u32 },
}

impl Data {
    /// The number of bytes that can go directly to the command's data.
    fn direct_len(&self) -> usize {
        let kept = self.come >= self.keep.0 && self.come < self.keep.1;
        if kept && self.has_memory && self.slot.is_some() {
            (self.keep.1 - self.come) as usize
        } else {
            0
        }
    }

    /// The number of bytes that have not arrived yet.
    pub(super) fn left(&self) -> usize {
        (self.len - self.come) as usize
    }

    /// The offset of the next byte in the command's data.
    fn place(&self) -> u32 {
        self.base + self.come.saturating_sub(self.keep.0)
    }

    /// The number of next bytes that are all kept, or all dropped.
    fn run_len(&self) -> usize {
        let end = match self.come {
            come if come < self.keep.0 => self.keep.0,
            come if come < self.keep.1 => self.keep.1,
            _ => self.len,
        };
        (end - self.come) as usize
    }
}

enum Step {
    /// Process what follows.
    On,
    /// Process the same header again.
    Again,
    /// More bytes are needed.
    Need,
    /// A slot, memory, or room to answer is needed.
    Stall,
    /// Continue in the next round.
    Pause,
}

impl<R: Carrier> Connection<R> {
    /// Accounts for `n` bytes that arrived in the places of [`Connection::receive_slices`].
    pub(crate) fn received(&mut self, n: usize, target: &mut impl Target<R>) {
        let mut rest = n;
        if self.inbox.is_empty() {
            let piece = self.stage.direct(&mut self.commands);
            let come = piece.len().min(rest);
            if let (Stage::Data(data), Some(bytes)) = (&mut self.stage, piece.get(..come)) {
                if let Some(crc) = &mut data.digest {
                    crc.update(bytes);
                }
                data.come += u32::try_from(come).unwrap_or(0);
                rest -= come;
            }
        }
        self.came_at_once = 0;
        let in_inbox = self.ahead.received(rest, self.inbox.filled().len());
        self.inbox.put(in_inbox);
        self.resume(target);
        self.end_ahead();
    }

    /// Continues with the received bytes. Call this again when slots, memory or room become free.
    pub(crate) fn resume(&mut self, target: &mut impl Target<R>) {
        (self.stalled, self.paused) = (false, false);
        self.serve_waiting(target);
        while self.is_receiving() {
            let step = match &self.stage {
                Stage::Header => self.header(target),
                Stage::Data(data) => Ok(self.data(*data, target)),
                Stage::Digest(data) => Ok(self.data_digest(*data, target)),
            };
            match step {
                Ok(Step::On | Step::Again) => {}
                Ok(Step::Need) => return,
                Ok(Step::Stall) => {
                    self.stalled = true;
                    return;
                }
                Ok(Step::Pause) => {
                    self.paused = true;
                    return;
                }
                Err(error) => self.terminate(error),
            }
        }
        self.inbox.clear();
    }

    fn header(&mut self, target: &mut impl Target<R>) -> Result<Step, ProtocolError> {
        let bytes = self.inbox.filled();
        let Some(common) = bytes.first_chunk() else { return Ok(Step::Need) };
        let common = CommonHeader::parse(common);
        let frame = self.check(&common)?;
        if self.ahead.foresees(&frame) == Some(false) {
            self.line_up();
            return Ok(Step::Again);
        }
        let Some((header, _)) = bytes.split_at_checked(frame.data_offset) else {
            return Ok(Step::Need);
        };
        if frame.header_digest {
            let (covered, rest) =
                header.split_at_checked(frame.header_len).unwrap_or((header, &[]));
            if rest.first_chunk::<DIGEST_LEN>() != Some(&digest::of(covered)) {
                return Err(ProtocolError::of(Fes::HeaderDigest));
            }
        }
        let step = match frame.pdu_type {
            PduType::IcReq => {
                let request = IcReq::parse(&chunk(header))?;
                self.handshake(&request);
                Step::On
            }
            PduType::CapsuleCmd => {
                let capsule = CapsuleCmd::parse(&chunk(header));
                self.capsule(&capsule, &frame, target)?
            }
            PduType::H2cData => {
                let piece = H2cData::parse(&chunk(header), &frame)?;
                self.piece(&piece, &frame)?;
                Step::On
            }
            _ => {
                // H2CTermReq: the host has reported its reason and waits for the end of the connection.
                let request = TermReq::parse(&chunk(header), Role::Host);
                let TermReq { fes, fei, .. } = request;
                self.fault = Some(format!(
                    "the host ended it with a termination request: status {fes}, information {fei}"
                ));
                self.end();
                return Ok(Step::On);
            }
        };
        if !matches!(step, Step::Stall | Step::Pause | Step::Again) {
            self.inbox.consume(frame.data_offset);
        }
        Ok(step)
    }

    /// Checks that this PDU is allowed now, and finds its parts.
    fn check(&self, common: &CommonHeader) -> Result<Frame, ProtocolError> {
        let frame = Frame::parse(common, &self.accepts)?;
        let in_sequence = match frame.pdu_type {
            PduType::IcReq => self.phase == Phase::Handshake,
            PduType::H2cTermReq => true,
            _ => self.phase == Phase::Open,
        };
        if in_sequence { Ok(frame) } else { Err(ProtocolError::of(Fes::SequenceError)) }
    }

    /// Section 3.6.2.2: grants what the host asks for.
    fn handshake(&mut self, request: &IcReq) {
        let response = IcResp {
            pfv: 0,
            cpda: Alignment::DWORD,
            digests: request.digests,
            maxh2cdata: self.limits.h2c_data_len,
        };
        let mut bytes = [0; IcResp::LEN];
        response.encode(&mut bytes);
        self.outbox.write(&bytes);
        self.accepts.digests = request.digests;
        self.host_alignment = request.hpda;
        self.r2ts = usize::try_from(request.maxr2t).unwrap_or(usize::MAX).saturating_add(1);
        self.phase = Phase::Open;
    }

    fn capsule(
        &mut self,
        capsule: &CapsuleCmd,
        frame: &Frame,
        target: &mut impl Target<R>,
    ) -> Result<Step, ProtocolError> {
        let command = Command::parse(&capsule.sqe);
        let is_admin = self.queue.is_none_or(|queue| queue.qid == 0);
        let allowed = if is_admin || command.opcode() == FABRICS {
            self.limits.in_capsule_len.max(ADMIN_CAPSULE_DATA)
        } else {
            self.limits.in_capsule_len
        };
        if frame.data_len > allowed {
            return Err(ProtocolError::field(CommonHeader::PLEN_OFFSET));
        }
        if self.outbox.is_full() {
            return Ok(Step::Stall);
        }
        if frame.data_len == 0 && self.taken >= BURST {
            return Ok(Step::Pause);
        }
        let parsed = match self.queue {
            Some(_) => transfer(&command, frame.data_len, self.limits.io_len),
            None => before_connect(&command, frame.data_len),
        };
        let all = Ok(Transfer::InCapsule { offset: 0, len: frame.data_len });
        if parsed != all && self.ahead.foresees(frame).is_some() {
            self.line_up();
            return Ok(Step::Again);
        }
        let (slot, come) = if let Some((request, come)) = self.ahead.next() {
            (self.commands.insert(request), Some(come))
        } else if let Some(slot) = self.commands.take(|slot| target.make(slot)) {
            (slot, None)
        } else {
            // The connection must not wait for a slot if the data of a command lies behind this capsule. It would wait
            // forever.
            let overrun = self.commands.any(|command| command.state == State::Data);
            return if overrun {
                Err(ProtocolError::of(Fes::SequenceError))
            } else {
                Ok(Step::Stall)
            };
        };
        self.ahead.saw(frame.data_len);
        let (from_host, len) = match parsed {
            Ok(Transfer::InCapsule { len, .. } | Transfer::FromHost { len }) => (true, len),
            Ok(Transfer::ToHost { len }) => (false, len),
            Ok(Transfer::None) | Err(_) => (false, 0),
        };
        self.taken += u32::from(frame.data_len == 0);
        self.came_at_once += 1;
        self.depth_seen = self.depth_seen.max(self.came_at_once);
        if let Some(slot) = self.commands.get_mut(slot) {
            slot.state = State::Capsule;
            slot.cid = command.cid();
            slot.from_host = from_host;
            slot.len = len;
            slot.asked = 0;
            slot.since_ns = self.now_ns;
            slot.failed = parsed.err();
            if let Some(request) = &mut slot.request {
                request.begin(&capsule.sqe);
                request.set_transfer(from_host, len);
            }
        }
        match parsed {
            Ok(Transfer::ToHost { .. } | Transfer::FromHost { .. }) => {
                self.await_memory(slot, target);
            }
            _ if frame.data_len > 0 => {
                let keep = match parsed {
                    Ok(Transfer::InCapsule { offset, len }) => (offset, offset + len),
                    _ => (0, 0),
                };
                self.stage = Stage::Data(Data {
                    slot: (keep.1 > keep.0).then_some(slot),
                    has_memory: come.is_some() || keep.1 == keep.0,
                    len: frame.data_len,
                    come: come.unwrap_or(0),
                    keep,
                    base: 0,
                    digest: frame.data_digest.then(Crc32c::new),
                    then: Then::Capsule(slot),
                });
            }
            _ => self.ready(slot, target),
        }
        Ok(Step::On)
    }

    /// Section 3.3.2.1: data must be what the R2T requested, in order, and not beyond the R2T.
    fn piece(&mut self, piece: &H2cData, frame: &Frame) -> Result<(), ProtocolError> {
        const CCCID_OFFSET: u32 = 8;
        const TTAG_OFFSET: u32 = 10;
        let (slot, index) = super::answer::untag(piece.ttag);
        let command = self
            .commands
            .get(slot)
            .filter(|command| command.state == State::Data)
            .ok_or(ProtocolError::field(TTAG_OFFSET))?;
        let grant: Grant = command
            .grants
            .get(index)
            .copied()
            .flatten()
            .ok_or(ProtocolError::field(TTAG_OFFSET))?;
        if command.cid != piece.cccid {
            return Err(ProtocolError::field(CCCID_OFFSET));
        }
        if piece.datao != grant.next || piece.datal > grant.end - grant.next {
            return Err(ProtocolError::of(Fes::DataOutOfRange));
        }
        // The last PDU of an R2T must be marked as the last, and no other.
        if piece.last != (piece.datao + piece.datal == grant.end) {
            return Err(ProtocolError::field(CommonHeader::FLAGS_OFFSET));
        }
        self.stage = Stage::Data(Data {
            slot: Some(slot),
            has_memory: true,
            len: piece.datal,
            come: 0,
            keep: (0, piece.datal),
            base: piece.datao,
            digest: frame.data_digest.then(Crc32c::new),
            then: Then::Piece { slot, grant: index, len: piece.datal },
        });
        Ok(())
    }

    fn data(&mut self, mut data: Data, target: &mut impl Target<R>) -> Step {
        if !data.has_memory {
            if self.waits_for_rest(&data) {
                return Step::Need;
            }
            let request = data.slot.and_then(|slot| self.commands.get_mut(slot));
            data.has_memory = request.is_some_and(|command| {
                let len = command.len;
                command.since_ns = self.now_ns;
                command.request.as_mut().is_some_and(|request| request.obtain(len))
            });
            if !data.has_memory {
                return Step::Stall;
            }
            self.stage = Stage::Data(data);
        }
        while data.come < data.len {
            let bytes = self.inbox.filled();
            let mut n = bytes.len().min(data.run_len());
            if n == 0 {
                self.stage = Stage::Data(data);
                return Step::Need;
            }
            if data.direct_len() > 0 {
                let request = data.slot.and_then(|slot| self.commands.get_mut(slot));
                if let Some(request) = request.and_then(|command| command.request.as_mut()) {
                    let piece = request.data_mut(data.place());
                    n = n.min(piece.len());
                    if let (Some(to), Some(from)) = (piece.get_mut(..n), bytes.get(..n)) {
                        to.copy_from_slice(from);
                    }
                }
                if n == 0 {
                    // Memory always has the requested length. This check only guards against an endless loop.
                    self.terminate(ProtocolError::of(Fes::DataOutOfRange));
                    return Step::On;
                }
            }
            if let (Some(crc), Some(bytes)) = (&mut data.digest, bytes.get(..n)) {
                crc.update(bytes);
            }
            data.come += u32::try_from(n).unwrap_or(0);
            self.inbox.consume(n);
        }
        if data.digest.is_some() {
            self.stage = Stage::Digest(data);
        } else {
            self.stage = Stage::Header;
            self.data_received(data.then, target);
        }
        Step::On
    }

    fn data_digest(&mut self, data: Data, target: &mut impl Target<R>) -> Step {
        let Some(received) = self.inbox.filled().first_chunk::<DIGEST_LEN>() else {
            return Step::Need;
        };
        let matches = data.digest.is_none_or(|crc| crc.bytes() == *received);
        self.inbox.consume(DIGEST_LEN);
        let (Then::Capsule(slot) | Then::Piece { slot, .. }) = data.then;
        if let Some(command) = self.commands.get_mut(slot).filter(|_| !matches) {
            // Section 3.4.1.2: this is not fatal. The command fails, and the host may retry it.
            command.failed.get_or_insert(Status::TRANSIENT_TRANSPORT_ERROR);
        }
        self.stage = Stage::Header;
        self.data_received(data.then, target);
        Step::On
    }

    fn data_received(&mut self, then: Then, target: &mut impl Target<R>) {
        match then {
            Then::Capsule(slot) => self.ready(slot, target),
            Then::Piece { slot, grant, len } => self.piece_received(slot, grant, len, target),
        }
    }

    /// Reports the violation to the host. From now on the connection only waits for the host to close.
    fn terminate(&mut self, error: ProtocolError) {
        self.fault = Some(format!("terminated, because the host violated the protocol: {error}"));
        self.line_up();
        let header = self.inbox.filled();
        let len = header.get(2).copied().unwrap_or(0).clamp(8, 128);
        let header = header.get(..usize::from(len)).unwrap_or(header);
        let mut request = [0; TermReq::LEN];
        TermReq::new(Role::Controller, error)
            .encode(u8::try_from(header.len()).unwrap_or(u8::MAX), &mut request);
        self.outbox.end_burst();
        self.outbox.write(&request);
        self.outbox.write(header);
        self.phase = Phase::Terminating;
        self.stop_receiving();
    }
}

/// The data of a command before the connection is a queue. Only Connect has data, and any other command is out of
/// sequence. So a peer that never connects gets no memory.
fn before_connect(command: &Command, in_capsule: u32) -> Result<Transfer, Status> {
    let is_connect = command.opcode() == FABRICS && command.fctype() == fabrics::CONNECT;
    if !is_connect {
        return Err(Status::COMMAND_SEQUENCE_ERROR.with_dnr());
    }
    match transfer(command, in_capsule, ADMIN_CAPSULE_DATA)? {
        all @ (Transfer::InCapsule { len, .. } | Transfer::FromHost { len })
            if len as usize == ConnectData::LEN =>
        {
            Ok(all)
        }
        _ => Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr()),
    }
}

/// The first `N` bytes of a header that is at least as long.
fn chunk<const N: usize>(header: &[u8]) -> [u8; N] {
    header.first_chunk().copied().unwrap_or([0; N])
}
