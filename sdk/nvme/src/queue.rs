//! One queue: an NVMe/TCP connection, its commands outstanding, and the PDUs between them.

use crate::Error;
use crate::wire::Wire;
use drivebay_spec_nvme::sgl::SglDescriptor;
use drivebay_spec_nvme::{Command, Completion, Status};
use drivebay_spec_nvme_tcp::{
    C2hData, CapsuleCmd, CapsuleResp, CommonHeader, Digests, Fes, Frame, H2cData, IcReq, IcResp,
    PduType, Placement, ProtocolError, R2t, Receiver, Role, TermReq, digest,
};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Maximum length of waiting output, in bytes. When it is longer, [`Queue::submit`] first sends it.
const MAX_OUT_LEN: usize = 1 << 20;

/// The data of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Data {
    /// None.
    #[default]
    None,
    /// To the controller; at most 4 GiB.
    Out(Vec<u8>),
    /// From the controller: at most this many bytes.
    In(u32),
}

/// A command and its data. The queue fills in the command's identifier and data pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The command.
    pub command: Command,
    /// Its data.
    pub data: Data,
    /// The name of the command, for error texts.
    pub what: &'static str,
}

impl Request {
    /// A command without data.
    #[must_use]
    pub const fn new(what: &'static str, command: Command) -> Self {
        Self { command, data: Data::None, what }
    }

    /// The same command with this data.
    #[must_use]
    pub fn with_data(mut self, data: Data) -> Self {
        self.data = data;
        self
    }
}

/// A request outstanding on a queue: its command identifier, valid until the queue returns the request as [`Completed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u16);

/// A request that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completed {
    /// The token that [`Queue::submit`] returned.
    pub token: Token,
    /// The name of the command.
    pub what: &'static str,
    /// The completion of the command.
    pub completion: Completion,
    /// Data from the controller.
    pub data: Vec<u8>,
}

impl Completed {
    /// The data if the command succeeded.
    ///
    /// # Errors
    /// [`Error::Status`] if it did not.
    pub fn ok(self) -> Result<Vec<u8>, Error> {
        let Completion { status, .. } = self.completion;
        if status.is_success() {
            return Ok(self.data);
        }
        Err(Error::Status { what: self.what, status, dw0: self.completion.dw0() })
    }
}

#[derive(Debug)]
enum Slot {
    Free,
    Outstanding {
        what: &'static str,
        /// Data to send when the controller requests it.
        out: Vec<u8>,
        /// Data received so far.
        data: Vec<u8>,
        /// Maximum amount of data that may arrive, in bytes.
        max_len: usize,
        /// Some of the data had a wrong digest.
        corrupt: bool,
    },
    /// Done, but not returned to the caller yet.
    Done,
}

/// A queue of commands over one connection. Threads do not share a queue.
#[derive(Debug)]
pub struct Queue {
    wire: Wire,
    receiver: Receiver,
    agreed: IcResp,
    timeout: Duration,
    max_in_capsule_len: u32,
    slots: Vec<Slot>,
    free: Vec<u16>,
    done: VecDeque<Completed>,
}

impl Queue {
    /// Opens a connection and initializes it. The caller sends the Connect command.
    ///
    /// `depth`: commands outstanding at once. `timeout`: for the connection, and how long [`Self::reap`] and [`Self::wait`] wait.
    ///
    /// # Errors
    /// The connection or its initialization failed.
    pub fn open(
        address: SocketAddr,
        request: IcReq,
        depth: u16,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let mut wire = Wire::connect(address, timeout)?;
        let mut bytes = [0; IcReq::LEN];
        request.encode(&mut bytes);
        wire.out.extend(bytes);
        let mut queue = Self {
            wire,
            receiver: Receiver { alignment: request.hpda, ..Receiver::new(Role::Host) },
            agreed: IcResp {
                pfv: 0,
                cpda: request.hpda,
                digests: Digests::default(),
                maxh2cdata: IcResp::MIN_MAXH2CDATA,
            },
            timeout,
            max_in_capsule_len: 0,
            slots: (0..depth).map(|_| Slot::Free).collect(),
            free: (0..depth).rev().collect(),
            done: VecDeque::new(),
        };
        let response = queue.first_pdu()?;
        queue.agreed = match IcResp::parse(&response, request.digests) {
            Ok(agreed) => agreed,
            Err(error) => return Err(queue.terminate(error, &response)),
        };
        queue.receiver.digests = queue.agreed.digests;
        Ok(queue)
    }

    /// The values that both sides agreed on when the connection was initialized.
    #[must_use]
    pub const fn agreed(&self) -> &IcResp {
        &self.agreed
    }

    /// From now on, data of at most this many bytes goes in the capsule; 0 is none. The controller accepts 8192 on the admin
    /// queue, and `ioccsz * 16 - 64` of Identify Controller on an I/O queue.
    pub const fn set_max_in_capsule_len(&mut self, len_bytes: u32) {
        self.max_in_capsule_len = len_bytes;
    }

    /// How long [`Self::reap`] and [`Self::wait`] wait.
    pub const fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Spins while it waits, instead of sleeping in the kernel.
    ///
    /// # Errors
    /// The error of the kernel.
    pub fn set_polled(&mut self, polled: bool) -> Result<(), Error> {
        self.wire.set_polled(polled)
    }

    /// Number of commands that are outstanding, or have completed and were not returned to the caller yet.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Queues a command. It is sent at the next [`Self::poll`], [`Self::reap`], [`Self::wait`] or [`Self::flush`].
    ///
    /// # Errors
    /// [`Error::QueueFull`]; or more than 4 GiB of data; or the queued output could not be sent.
    pub fn submit(&mut self, request: Request) -> Result<Token, Error> {
        if self.wire.out.len() > MAX_OUT_LEN {
            self.flush()?;
        }
        let Request { command, data, what } = request;
        let (out, max_len) = match data {
            Data::None => (Vec::new(), 0),
            Data::Out(out) => (out, 0),
            Data::In(max_len) => (Vec::new(), max_len),
        };
        let out_len = u32::try_from(out.len())
            .map_err(|_| Error::Argument(format!("{what}: data is at most 4 GiB - 1")))?;
        let cid = self.free.pop().ok_or(Error::QueueFull { depth: self.depth() })?;

        let in_capsule = out_len > 0 && out_len <= self.max_in_capsule_len;
        let sgl = if in_capsule {
            SglDescriptor::InCapsule { offset: 0, length: out_len }
        } else {
            SglDescriptor::Transport { length: out_len.max(max_len) }
        };
        let sqe = command.with_cid(cid).with_sgl1(sgl).encode();
        let mut header = [0; CapsuleCmd::LEN];
        let data_len = if in_capsule { out_len } else { 0 };
        let IcResp { digests, cpda, .. } = self.agreed;
        let placement = CapsuleCmd { sqe }.encode(data_len, digests, cpda, &mut header);
        append(&mut self.wire.out, placement, &header, if in_capsule { &out } else { &[] });

        let out = if in_capsule { Vec::new() } else { out };
        let max_len = usize::try_from(max_len).unwrap_or(usize::MAX);
        if let Some(slot) = self.slots.get_mut(usize::from(cid)) {
            *slot = Slot::Outstanding { what, out, data: Vec::new(), max_len, corrupt: false };
        }
        Ok(Token(cid))
    }

    /// Sends the submitted commands.
    ///
    /// # Errors
    /// The connection failed, or accepted no bytes for as long as the timeout.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.wire.flush(Instant::now() + self.timeout)
    }

    /// Returns the next command that is done. Waits up to `patience` for one; `None` if none is done by then.
    ///
    /// # Errors
    /// The connection failed.
    pub fn poll(&mut self, patience: Duration) -> Result<Option<Completed>, Error> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(completed) = self.ready() {
                return Ok(Some(completed));
            }
            if !self.work()? && Instant::now() >= deadline {
                return Ok(None);
            }
        }
    }

    /// Returns the next command that is known to be done, without reading from the connection.
    pub fn ready(&mut self) -> Option<Completed> {
        let completed = self.done.pop_front()?;
        self.release(completed.token);
        Some(completed)
    }

    /// Returns the next command that is done.
    ///
    /// # Errors
    /// The connection failed, or no request is done within the timeout.
    pub fn reap(&mut self) -> Result<Completed, Error> {
        self.poll(self.timeout)?.ok_or(Error::Timeout { what: "a completion" })
    }

    /// Returns this command when it is done. Keeps others that are done for later calls.
    ///
    /// # Errors
    /// The connection failed, or the command is not done within the timeout.
    pub fn wait(&mut self, token: Token) -> Result<Completed, Error> {
        self.wait_for(token, self.timeout)?.ok_or(Error::Timeout { what: "a completion" })
    }

    /// Waits up to `patience` for this command, and returns it; `None` if it is not done by then. Keeps others that are done for
    /// later calls.
    ///
    /// # Errors
    /// The connection failed.
    pub fn wait_for(
        &mut self,
        token: Token,
        patience: Duration,
    ) -> Result<Option<Completed>, Error> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(index) = self.done.iter().position(|done| done.token == token) {
                self.release(token);
                return Ok(self.done.remove(index));
            }
            if !self.work()? && Instant::now() >= deadline {
                return Ok(None);
            }
        }
    }

    /// Submits a command and waits for it. The completion has the command's status.
    ///
    /// # Errors
    /// The connection failed, the queue is full, or the command is not done within the timeout.
    pub fn run(&mut self, request: Request) -> Result<Completed, Error> {
        let token = self.submit(request)?;
        self.wait(token)
    }

    fn depth(&self) -> u16 {
        u16::try_from(self.slots.len()).unwrap_or(u16::MAX)
    }

    fn release(&mut self, Token(cid): Token) {
        if let Some(slot) = self.slots.get_mut(usize::from(cid)) {
            *slot = Slot::Free;
            self.free.push(cid);
        }
    }

    /// Handles the PDUs that have arrived, or exchanges bytes until one may have arrived. Returns whether it handled any.
    fn work(&mut self) -> Result<bool, Error> {
        let mut handled = false;
        let need = loop {
            match self.next_frame()? {
                Next::Pdu(frame) => {
                    self.handle(&frame)?;
                    handled = true;
                }
                Next::Need(need) => break need,
            }
        };
        if handled {
            // Data that an R2T requested is sent before the caller works on the completed commands.
            self.wire.write_some()?;
        } else {
            self.wire.step(need)?;
        }
        Ok(handled)
    }

    fn first_pdu(&mut self) -> Result<[u8; IcResp::LEN], Error> {
        let deadline = Instant::now() + self.timeout;
        loop {
            match self.next_frame()? {
                Next::Pdu(frame) if frame.pdu_type == PduType::IcResp => {
                    let bytes = self.header::<{ IcResp::LEN }>();
                    self.wire.consume(IcResp::LEN);
                    return Ok(bytes);
                }
                Next::Pdu(frame) if frame.pdu_type == PduType::C2hTermReq => {
                    return Err(self.terminated());
                }
                Next::Pdu(_) => {
                    let bytes = self.header::<{ CommonHeader::LEN }>();
                    return Err(self.terminate(ProtocolError::of(Fes::SequenceError), &bytes));
                }
                Next::Need(need) => self.wire.step(need)?,
            }
            if Instant::now() >= deadline {
                return Err(Error::Timeout { what: "ICResp" });
            }
        }
    }

    /// The frame at the start of the input; `None` until the whole PDU has arrived.
    fn next_frame(&mut self) -> Result<Next, Error> {
        let Some(common) = self.wire.input().first_chunk() else {
            return Ok(Next::Need(CommonHeader::LEN));
        };
        let common = *common;
        let frame = match Frame::parse(&CommonHeader::parse(&common), &self.receiver) {
            Ok(frame) => frame,
            Err(error) => return Err(self.terminate(error, &common)),
        };
        if self.wire.input().len() < frame.header_end() {
            return Ok(Next::Need(frame.header_end()));
        }
        // Check this before waiting for the rest of it, so that a controller cannot make the host store data that was not
        // requested.
        if let Err(error) = self.check_header(&frame) {
            return Err(self.terminate_frame(error, &frame));
        }
        let plen = usize::try_from(frame.plen).unwrap_or(usize::MAX);
        if self.wire.input().len() < plen {
            return Ok(Next::Need(plen));
        }
        Ok(Next::Pdu(frame))
    }

    /// Checks the header's digest, and that a command expects the data.
    fn check_header(&self, frame: &Frame) -> Result<(), ProtocolError> {
        if frame.header_digest {
            match self.wire.input().split_at_checked(frame.header_len) {
                Some((header, rest)) if rest.starts_with(&digest::of(header)) => {}
                _ => return Err(ProtocolError::of(Fes::HeaderDigest)),
            }
        }
        if frame.pdu_type != PduType::C2hData {
            return Ok(());
        }
        let pdu = C2hData::parse(&self.header(), frame)?;
        let slot = self.slots.get(usize::from(pdu.cccid));
        let Some(Slot::Outstanding { data, max_len, .. }) = slot else {
            return Err(ProtocolError::field(8));
        };
        let offset = usize::try_from(pdu.datao).unwrap_or(usize::MAX);
        let len = usize::try_from(pdu.datal).unwrap_or(usize::MAX);
        // The data of a command arrives in order.
        if offset == data.len() && len <= max_len - data.len() {
            Ok(())
        } else {
            Err(ProtocolError::of(Fes::DataOutOfRange))
        }
    }

    fn handle(&mut self, frame: &Frame) -> Result<(), Error> {
        if frame.pdu_type == PduType::C2hTermReq {
            return Err(self.terminated());
        }
        let result = match frame.pdu_type {
            PduType::CapsuleResp => self.response(),
            PduType::C2hData => self.data(frame),
            PduType::R2t => self.ready_to_transfer(),
            _ => Err(ProtocolError::of(Fes::SequenceError)),
        };
        if let Err(error) = result {
            return Err(self.terminate_frame(error, frame));
        }
        self.wire.consume(usize::try_from(frame.plen).unwrap_or(usize::MAX));
        Ok(())
    }

    fn response(&mut self) -> Result<(), ProtocolError> {
        let capsule = CapsuleResp::parse(&self.header());
        self.complete(Completion::parse(&capsule.cqe))
    }

    fn complete(&mut self, mut completion: Completion) -> Result<(), ProtocolError> {
        // Byte 20 of the PDU: the command identifier.
        let unknown = ProtocolError::field(20);
        let slot = self.slots.get_mut(usize::from(completion.cid)).ok_or(unknown)?;
        match std::mem::replace(slot, Slot::Done) {
            Slot::Outstanding { what, data, corrupt, .. } => {
                if corrupt && completion.status.is_success() {
                    completion.status = Status::TRANSIENT_TRANSPORT_ERROR;
                }
                let token = Token(completion.cid);
                self.done.push_back(Completed { token, what, completion, data });
                Ok(())
            }
            other => {
                *slot = other;
                Err(unknown)
            }
        }
    }

    fn data(&mut self, frame: &Frame) -> Result<(), ProtocolError> {
        let pdu = C2hData::parse(&self.header(), frame)?;
        let out_of_range = ProtocolError::of(Fes::DataOutOfRange);
        let rest = self.wire.input().get(frame.data_offset..).ok_or(out_of_range)?;
        let (bytes, digest) = rest
            .split_at_checked(usize::try_from(pdu.datal).unwrap_or(usize::MAX))
            .ok_or(out_of_range)?;
        let slot = self.slots.get_mut(usize::from(pdu.cccid));
        let Some(Slot::Outstanding { data, corrupt, .. }) = slot else {
            return Err(ProtocolError::field(8));
        };
        data.extend_from_slice(bytes);
        if frame.data_digest && !digest.starts_with(&digest::of(bytes)) {
            *corrupt = true;
        }
        if pdu.success {
            self.complete(Completion::new(pdu.cccid, Status::SUCCESS))?;
        }
        Ok(())
    }

    fn ready_to_transfer(&mut self) -> Result<(), ProtocolError> {
        let r2t = R2t::parse(&self.header())?;
        let Some(Slot::Outstanding { out, .. }) = self.slots.get(usize::from(r2t.cccid)) else {
            return Err(ProtocolError::field(8));
        };
        let range = r2t
            .r2to
            .checked_add(r2t.r2tl)
            .and_then(|end| out.get(usize::try_from(r2t.r2to).ok()?..usize::try_from(end).ok()?));
        let mut rest = range.ok_or(ProtocolError::of(Fes::DataOutOfRange))?;
        let mut datao = r2t.r2to;
        let chunk_len = usize::try_from(self.agreed.maxh2cdata).unwrap_or(usize::MAX);
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(chunk_len.min(rest.len()));
            rest = after;
            let datal = u32::try_from(chunk.len()).unwrap_or(0);
            let last = rest.is_empty();
            let pdu = H2cData { cccid: r2t.cccid, ttag: r2t.ttag, datao, datal, last };
            let mut header = [0; H2cData::LEN];
            let placement = pdu.encode(self.agreed.digests, self.agreed.cpda, &mut header);
            append(&mut self.wire.out, placement, &header, chunk);
            datao += datal;
        }
        Ok(())
    }

    /// The first bytes of the input. They have arrived, because [`Self::next_frame`] returned the frame; missing ones would be
    /// zeros.
    fn header<const N: usize>(&self) -> [u8; N] {
        self.wire.input().first_chunk().copied().unwrap_or([0; N])
    }

    fn terminated(&self) -> Error {
        let TermReq { fes, fei, .. } = TermReq::parse(&self.header(), Role::Controller);
        Error::Terminated { fes, fei }
    }

    fn terminate_frame(&mut self, error: ProtocolError, frame: &Frame) -> Error {
        let header: Vec<u8> = self.wire.input().iter().copied().take(frame.header_len).collect();
        self.terminate(error, &header)
    }

    /// Reports to the controller how it broke the protocol.
    fn terminate(&mut self, error: ProtocolError, header: &[u8]) -> Error {
        let header = header.get(..TermReq::MAX_DATA_LEN).unwrap_or(header);
        let mut bytes = [0; TermReq::LEN];
        let data_len = u8::try_from(header.len()).unwrap_or(0);
        TermReq::new(Role::Host, error).encode(data_len, &mut bytes);
        self.wire.out.extend(bytes);
        self.wire.out.extend(header);
        // The connection is over in any case, so it does not matter whether this arrives.
        let _ = self.wire.flush(Instant::now() + Duration::from_millis(100));
        Error::Protocol(error)
    }
}

enum Next {
    /// A whole PDU.
    Pdu(Frame),
    /// This many bytes must arrive first.
    Need(usize),
}

/// Appends a PDU to the output: header, its digest, padding, data, its digest.
fn append(out: &mut Vec<u8>, placement: Placement, header: &[u8], data: &[u8]) {
    out.extend_from_slice(header);
    if placement.header_digest {
        out.extend_from_slice(&digest::of(header));
    }
    out.resize(out.len() + usize::from(placement.pad_len), 0);
    out.extend_from_slice(data);
    if placement.data_digest {
        out.extend_from_slice(&digest::of(data));
    }
}
