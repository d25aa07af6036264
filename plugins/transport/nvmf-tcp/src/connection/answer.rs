//! The PDUs for a command: R2Ts for its data, then data and response.

use super::command::{Grant, R2TS, State};
use super::outbox::Outbox;
use super::{Carrier, Connection, Phase, Target};
use drivebay_spec_nvme::{Completion, Status};
use drivebay_spec_nvme_tcp::digest::{self, Crc32c};
use drivebay_spec_nvme_tcp::{C2hData, CapsuleResp, Placement, R2t};

const INDEX_BITS: u32 = R2TS.trailing_zeros();

/// The transfer tag of one R2T of a slot.
fn tag(slot: u16, index: usize) -> u16 {
    slot << INDEX_BITS | u16::try_from(index).unwrap_or(0)
}

/// The slot and R2T of a transfer tag.
pub(super) fn untag(tag: u16) -> (u16, usize) {
    (tag >> INDEX_BITS, usize::from(tag) & (R2TS - 1))
}

impl<R: Carrier> Connection<R> {
    /// All data of the command, if it has any, has arrived. Lends the command to the target, or
    /// answers it if it has failed.
    pub(super) fn ready(&mut self, slot: u16, target: &mut impl Target<R>) {
        let Some(command) = self.commands.get_mut(slot) else { return };
        if let Some(status) = command.failed {
            return self.refuse(slot, status);
        }
        command.state = State::Lent;
        if let Some(request) = command.request.take() {
            target.exec(request);
        }
    }

    /// Gets memory for data that is not in the command's capsule, now or when it is this command's
    /// turn.
    pub(super) fn await_memory(&mut self, slot: u16, target: &mut impl Target<R>) {
        if let Some(command) = self.commands.get_mut(slot) {
            command.state = State::Memory;
        }
        if !self.waiting.is_empty() || !self.obtain(slot, target) {
            self.waiting.push_back(slot);
        }
    }

    /// Serves the commands that wait for memory, as far as the memory goes.
    pub(super) fn serve_waiting(&mut self, target: &mut impl Target<R>) {
        while let Some(slot) = self.waiting.front().copied() {
            if !self.obtain(slot, target) {
                return;
            }
            self.waiting.pop_front();
        }
    }

    #[inline]
    fn obtain(&mut self, slot: u16, target: &mut impl Target<R>) -> bool {
        let Some(command) = self.commands.get_mut(slot) else { return true };
        let len = command.len;
        if !command.request.as_mut().is_some_and(|request| request.obtain(len)) {
            return false;
        }
        if command.from_host {
            command.state = State::Data;
            command.since_ns = self.now_ns;
            self.send_r2ts(slot);
        } else {
            self.ready(slot, target);
        }
        true
    }

    /// Sends as many R2Ts as may be outstanding.
    fn send_r2ts(&mut self, slot: u16) {
        let (digests, most) = (self.accepts.digests, self.limits.h2c_data_len);
        let Some(command) = self.commands.get_mut(slot) else { return };
        for (index, grant) in command.grants.iter_mut().enumerate().take(self.r2ts) {
            if grant.is_some() || command.asked >= command.len || command.failed.is_some() {
                continue;
            }
            let len = (command.len - command.asked).min(most);
            *grant = Some(Grant { next: command.asked, end: command.asked + len });
            let r2t =
                R2t { cccid: command.cid, ttag: tag(slot, index), r2to: command.asked, r2tl: len };
            command.asked += len;
            self.awaited += u64::from(len);
            let mut header = [0; R2t::LEN];
            let placement = r2t.encode(digests, &mut header);
            put_header(&mut self.outbox, &header, &placement);
        }
    }

    /// Accounts for `come` bytes of data that arrived for R2T `index` of the command.
    pub(super) fn piece_received(
        &mut self,
        slot: u16,
        index: usize,
        come: u32,
        target: &mut impl Target<R>,
    ) {
        let Some(command) = self.commands.get_mut(slot) else { return };
        let Some(place) = command.grants.get_mut(index) else { return };
        let Some(grant) = place else { return };
        self.awaited = self.awaited.saturating_sub(come.into());
        grant.next += come;
        if grant.next < grant.end {
            return;
        }
        *place = None;
        self.send_r2ts(slot);
        let outstanding = |grants: &[Option<Grant>; R2TS]| grants.iter().any(Option::is_some);
        if self.commands.get(slot).is_some_and(|command| !outstanding(&command.grants)) {
            self.ready(slot, target);
        }
    }

    /// Answers a command that the target never sees.
    fn refuse(&mut self, slot: u16, status: Status) {
        let Some(command) = self.commands.get(slot) else { return };
        let mut completion = Completion::new(command.cid, status);
        let size = self.queue.map_or(u16::MAX, |queue| queue.size.max(1));
        // Commands before Connect do not count: the queue begins with the Connect.
        if self.queue.is_some() {
            self.answered_here = (self.answered_here + 1) % size;
        }
        completion.sqhd = self.head_with_own(self.head);
        self.respond(&completion.encode());
        self.commands.release(slot);
    }

    /// Takes a request back from the target.
    pub(crate) fn complete(&mut self, request: R) {
        let (slot, response) = (request.slot(), request.response());
        let len = request.response_len();
        let Some(command) = self.commands.get_mut(slot) else { return };
        let (cid, to_host) = (command.cid, !command.from_host && command.len > 0);
        let len = len.min(command.len);
        command.request = Some(request);
        if !matches!(self.phase, Phase::Open) {
            self.commands.release(slot);
            return;
        }
        let mut completion = Completion::parse(&response);
        self.head = completion.sqhd;
        completion.sqhd = self.head_with_own(completion.sqhd);
        if !to_host || len == 0 || !completion.status.is_success() {
            self.respond(&completion.encode());
            self.commands.release(slot);
            return;
        }
        let success = self.limits.c2h_success
            && completion.result == 0
            && completion.status == Status::SUCCESS
            && self.queue.is_some_and(|queue| !queue.flow_control);
        self.send_data(slot, cid, len, success);
        if !success {
            self.respond(&completion.encode());
        }
    }

    /// Section 3.3.2.2: all data in one PDU. The slot becomes free when the data is sent.
    fn send_data(&mut self, slot: u16, cccid: u16, len: u32, success: bool) {
        let data = C2hData { cccid, datao: 0, datal: len, last: true, success };
        let mut header = [0; C2hData::LEN];
        let placement = data.encode(self.accepts.digests, self.host_alignment, &mut header);
        put_header(&mut self.outbox, &header, &placement);
        let Some(command) = self.commands.get_mut(slot) else { return };
        command.state = State::Sending;
        let digest = command.request.as_ref().filter(|_| placement.data_digest).map(|request| {
            let mut crc = Crc32c::new();
            request.data(0, len).for_each(|piece| crc.update(piece));
            crc.bytes()
        });
        self.outbox.data(slot, len);
        if let Some(digest) = digest {
            self.outbox.write(&digest);
        }
    }

    fn respond(&mut self, cqe: &[u8; 16]) {
        let mut header = [0; CapsuleResp::LEN];
        let placement = CapsuleResp { cqe: *cqe }.encode(self.accepts.digests, &mut header);
        self.outbox.respond(&header, placement.header_digest.then(|| digest::of(&header)));
        // A burst ends at half of the host's commands in flight. The host works on these while the
        // target serves the other half.
        if self.outbox.burst_is_long(self.depth_seen / 2) {
            self.outbox.end_burst();
        }
    }

    /// The submission queue head: the target's, plus the commands that were answered without the
    /// target.
    fn head_with_own(&self, head: u16) -> u16 {
        match self.queue {
            Some(queue) if queue.flow_control && queue.size > 0 && self.answered_here > 0 => {
                let sum = u32::from(head) + u32::from(self.answered_here);
                u16::try_from(sum % u32::from(queue.size)).unwrap_or(0)
            }
            _ => head,
        }
    }
}

/// Appends a header, its digest, and the padding after it.
#[inline]
fn put_header(outbox: &mut Outbox, header: &[u8; 24], placement: &Placement) {
    outbox.write(header);
    if placement.header_digest {
        outbox.write(&digest::of(header));
    }
    if placement.pad_len > 0 {
        outbox.pad(placement.pad_len.into());
    }
}
