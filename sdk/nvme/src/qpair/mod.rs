//! A queue pair over NVMe/TCP without I/O: commands in, bytes out; bytes in, completions out.
//!
//! The owner has a socket. It writes the bytes that [`Qpair::output`] shows, and calls [`Qpair::sent`] with the number of bytes
//! that the socket took. It reads into the places that [`Qpair::input`] shows, and calls [`Qpair::received`] with the number of
//! bytes that arrived. The queue pair never copies data that it sends. It copies only the received data that arrived in the
//! inbox with a header. [`Qpair::completed`] returns the requests that are done.
//!
//! Whatever a target sends, the queue pair returns a request once, touches its memory only inside its length, and has no more
//! requests than the depth of the queue. The first [`Fault`] ends the connection.

mod inbox;
mod outbox;
mod receive;
#[cfg(test)]
mod tests;

use inbox::Inbox;
use outbox::Outbox;
use receive::Stage;

use drivebay_spec_nvme::sgl::SglDescriptor;
use drivebay_spec_nvme::{Command, Completion};
use drivebay_spec_nvme_tcp::{Alignment, CapsuleCmd, IcResp, ProtocolError, Receiver, Role};
use std::collections::VecDeque;
use std::fmt;

/// A command's data, in its owner's memory.
pub trait Payload {
    /// Copies bytes that arrived to `offset`. The queue pair stays inside the length that was given to [`Qpair::submit`].
    fn put(&mut self, offset: u32, bytes: &[u8]);

    /// Shows the `len` bytes from `offset` on, in pieces, to compute digests.
    fn look(&self, offset: u32, len: u32, see: &mut dyn FnMut(&[u8]));
}

/// The direction of a command's data, and its length in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transfer {
    /// The command has no data.
    #[default]
    None,
    /// To the controller.
    Out(u32),
    /// From the controller.
    In(u32),
}

/// The values that host and controller agreed on when they connected.
#[derive(Clone, Copy, Debug)]
pub struct Agreed {
    /// The answer to ICReq.
    pub ic: IcResp,
    /// The alignment that the host requested for the data that the controller sends.
    pub hpda: Alignment,
    /// Maximum number of commands outstanding at once.
    pub depth: u16,
    /// Longest data in a capsule, in bytes; 0 is none.
    pub in_capsule_len: u32,
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The controller broke the protocol. If no other output was pending, the output has the PDU that reports this to the
    /// controller.
    Protocol(ProtocolError),
    /// The controller reports that the host broke the protocol.
    Terminated {
        /// Fatal error status.
        fes: u16,
        /// Fatal error information.
        fei: u32,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(error) => write!(f, "the target broke the protocol: {error}"),
            Self::Terminated { fes, fei } => {
                write!(f, "the target ended the connection: fes {fes:02x}h, fei {fei:08x}h")
            }
        }
    }
}

impl std::error::Error for Fault {}

/// A request that is done.
#[derive(Debug)]
pub struct Completed<R> {
    /// What was submitted.
    pub request: R,
    /// How it ended.
    pub completion: Completion,
    /// How much data arrived, in bytes: at most as much as was requested. The owner decides whether less is enough.
    pub received: u32,
}

/// A part of the output.
#[derive(Debug)]
pub enum Segment<'a, R> {
    /// Headers, digests, padding.
    Bytes(&'a [u8]),
    /// `len` bytes of a request's data from `offset` on.
    Data {
        /// The request that owns the data.
        request: &'a R,
        /// Where the data begins, in bytes.
        offset: u32,
        /// How much data, in bytes.
        len: u32,
    },
}

/// The places for the next input.
#[derive(Debug)]
pub struct Input<'a, R> {
    /// The next bytes are data of this request: its offset, and the maximum number of bytes.
    pub direct: Option<(&'a R, u32, u32)>,
    /// The place for all bytes after that.
    pub inbox: &'a mut [u8],
}

#[derive(Debug)]
struct Outstanding<R> {
    request: R,
    transfer: Transfer,
    /// Where its capsule begins in the output.
    place: u64,
    /// Data that arrived, in bytes.
    come: u32,
    /// Data in the capsule or already requested, in bytes.
    granted: u32,
    /// Data in the outbox, in bytes.
    unsent: u32,
    /// Whether some data had a wrong digest.
    is_corrupt: bool,
    /// The answer, if it arrived while data is still in the outbox.
    answer: Option<Completion>,
}

/// A queue pair.
#[derive(Debug)]
pub struct Qpair<R> {
    agreed: Agreed,
    receiver: Receiver,
    slots: Vec<Option<Outstanding<R>>>,
    free: Vec<u16>,
    outbox: Outbox,
    inbox: Inbox,
    stage: Stage,
    done: VecDeque<Completed<R>>,
    /// Whether the next bytes that are read go to a request's data first.
    is_direct: bool,
    fault: Option<Fault>,
}

impl<R: Payload> Qpair<R> {
    /// Creates a queue pair on a connection whose handshake is complete.
    #[must_use]
    pub fn new(agreed: Agreed) -> Self {
        let receiver = Receiver {
            digests: agreed.ic.digests,
            alignment: agreed.hpda,
            ..Receiver::new(Role::Host)
        };
        Self {
            agreed,
            receiver,
            slots: (0..agreed.depth).map(|_| None).collect(),
            free: (0..agreed.depth).rev().collect(),
            outbox: Outbox::default(),
            inbox: Inbox::new(),
            stage: Stage::Header,
            done: VecDeque::new(),
            is_direct: false,
            fault: None,
        }
    }

    /// Whether a command can be submitted.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.has_room_for(1)
    }

    /// Whether `count` commands can be submitted one after another, such as a fused pair.
    #[must_use]
    pub fn has_room_for(&self, count: usize) -> bool {
        self.free.len() >= count && self.fault.is_none()
    }

    /// How many commands are outstanding.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Queues a command and returns its command identifier. It fills in the identifier and the data pointer.
    ///
    /// # Errors
    /// Returns the request when the queue is full or the connection is over.
    #[inline]
    pub fn submit(&mut self, command: &Command, transfer: Transfer, request: R) -> Result<u16, R> {
        if self.fault.is_some() {
            return Err(request);
        }
        let Some(cid) = self.free.pop() else { return Err(request) };
        let out_len = match transfer {
            Transfer::Out(len) if len <= self.agreed.in_capsule_len => len,
            _ => 0,
        };
        let sgl = match transfer {
            Transfer::Out(len) if out_len > 0 => {
                SglDescriptor::InCapsule { offset: 0, length: len }
            }
            Transfer::Out(length) | Transfer::In(length) => SglDescriptor::Transport { length },
            Transfer::None => SglDescriptor::Transport { length: 0 },
        };
        let sqe = command.with_cid(cid).with_sgl1(sgl).encode();
        let mut header = [0; CapsuleCmd::LEN];
        let IcResp { digests, cpda, .. } = self.agreed.ic;
        let placement = CapsuleCmd { sqe }.encode(out_len, digests, cpda, &mut header);
        let place = self.outbox.end();
        self.outbox.pdu(placement, &header, cid, 0, out_len, &request);
        if let Some(slot) = self.slots.get_mut(usize::from(cid)) {
            *slot = Some(Outstanding {
                request,
                transfer,
                place,
                come: 0,
                granted: out_len,
                unsent: out_len,
                is_corrupt: false,
                answer: None,
            });
        }
        Ok(cid)
    }

    /// Whether there is output to send.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Shows the output in order until `see` returns false.
    pub fn output<'a>(&'a self, mut see: impl FnMut(Segment<'a, R>) -> bool) {
        self.outbox.show(|segment| match segment {
            outbox::Part::Bytes(bytes) => see(Segment::Bytes(bytes)),
            outbox::Part::Data { cid, offset, len } => {
                let slot = self.slots.get(usize::from(cid)).and_then(Option::as_ref);
                slot.is_some_and(|slot| see(Segment::Data { request: &slot.request, offset, len }))
            }
        });
    }

    /// Reports that the socket took `len` bytes of the output.
    pub fn sent(&mut self, len: usize) {
        let (slots, free, done) = (&mut self.slots, &mut self.free, &mut self.done);
        self.outbox.sent(len, |cid, len| {
            let Some(slot) = slots.get_mut(usize::from(cid)) else { return };
            let Some(outstanding) = slot else { return };
            outstanding.unsent = outstanding.unsent.saturating_sub(len);
            if outstanding.unsent == 0
                && let Some(completion) = outstanding.answer
            {
                finish(slot, completion, free, done);
            }
        });
    }

    /// The place for the next input, for an owner that cannot read into a request's data. Data that is read there is copied.
    pub fn inbox(&mut self) -> &mut [u8] {
        self.is_direct = false;
        self.inbox.space()
    }

    /// The places for the next input.
    pub fn input(&mut self) -> Input<'_, R> {
        let direct = match &self.stage {
            Stage::Data(data) if self.inbox.is_empty() => {
                let slot = self.slots.get(usize::from(data.cid)).and_then(Option::as_ref);
                slot.map(|slot| (&slot.request, slot.come, data.left))
            }
            _ => None,
        };
        self.is_direct = direct.is_some();
        Input { direct, inbox: self.inbox.space() }
    }

    /// Reports that `len` bytes were read into the places that [`Self::input`] or [`Self::inbox`] showed, in order.
    ///
    /// # Errors
    /// The connection is over. Requests stay outstanding until [`Self::into_outstanding`].
    pub fn received(&mut self, len: usize) -> Result<(), Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        self.take_in(len).map_err(|fault| self.end(fault))
    }

    /// Takes the next request that is done.
    #[inline]
    pub fn completed(&mut self) -> Option<Completed<R>> {
        self.done.pop_front()
    }

    /// The requests outstanding, with their command identifiers.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &R)> {
        let cids = 0..self.agreed.depth;
        cids.zip(&self.slots).filter_map(|(cid, slot)| Some((cid, &slot.as_ref()?.request)))
    }

    /// Returns the outstanding requests, after the connection is over.
    pub fn into_outstanding(self) -> impl Iterator<Item = R> {
        let done = self.done.into_iter().map(|done| done.request);
        let rest = self.slots.into_iter().flatten().map(|slot| slot.request);
        done.chain(rest)
    }
}

/// Moves a request to the requests that are done.
fn finish<R>(
    slot: &mut Option<Outstanding<R>>,
    completion: Completion,
    free: &mut Vec<u16>,
    done: &mut VecDeque<Completed<R>>,
) {
    if let Some(Outstanding { request, come, .. }) = slot.take() {
        free.push(completion.cid);
        done.push_back(Completed { request, completion, received: come });
    }
}
