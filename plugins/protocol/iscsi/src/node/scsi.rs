//! SCSI commands, from the PDU to the answer or the abort. RFC 7143, sections 11.3 and 11.4.

use super::link::Link;
use super::table::{Entry, Piece, PieceState};
use super::{Backend, Chore, IoKey, Shared};
use drivebay_scsi::{Data, Io, Next, Offered, Outcome, TaskKey};
use drivebay_spec_iscsi::pdu::{self, FINAL, OVERFLOW, RejectReason, ScsiCommand, UNDERFLOW};
use drivebay_spec_iscsi::{BHS_LEN, NO_TAG};
use drivebay_spec_scsi::Status;
use drivebay_spec_scsi::sense::{Sense, asc};
use std::collections::VecDeque;
use std::time::Instant;

/// Maximum number of I/Os of one task at once.
const PIECES_MAX: usize = 4;
/// Memory of an I/O without data, in bytes. A buffer is never empty.
const NO_DATA_LEN: u32 = 512;

impl<B: AsRef<[u8]> + AsMut<[u8]>> Link<B> {
    /// Handles a SCSI Command PDU.
    pub(super) fn command<K: Backend<Buffer = B>>(
        &mut self,
        bhs: &[u8; BHS_LEN],
        immediate: bool,
        data: &[u8],
        shared: &mut Shared<K>,
    ) {
        let command = ScsiCommand::parse(bhs);
        if command.itt == NO_TAG || self.table.find(command.itt).is_some() {
            return self.reject(bhs, RejectReason::TaskInProgress, shared);
        }
        let reads = command.flags & ScsiCommand::READ != 0;
        let writes = command.flags & ScsiCommand::WRITE != 0;
        let is_final = command.flags & FINAL != 0;
        let has_data_wrongly = !data.is_empty() && (!writes || !self.agreed.immediate_data);
        if (reads && writes) || (!is_final && !writes) || has_data_wrongly {
            return self.reject(bhs, RejectReason::InvalidPduField, shared);
        }
        let nexus = match self.session_mut(shared) {
            Some(session) if !immediate || session.has_room() => {
                session.begin();
                session.nexus
            }
            _ => return self.reject(bhs, RejectReason::ImmediateCommandReject, shared),
        };
        let Some(key) = self.table.next_key() else {
            return self.reject(bhs, RejectReason::ImmediateCommandReject, shared);
        };
        let in_len = if reads { command.expected_len } else { 0 };
        let out_len = if writes { command.expected_len } else { 0 };
        let offered = Offered { out_len, in_len };
        let task = shared.device.begin(nexus, command.lun, &command.cdb, offered, key);
        let mut entry = Box::new(Entry {
            key,
            itt: command.itt,
            lun: command.lun,
            task,
            in_len,
            out_len,
            early: Vec::new(),
            unsolicited: writes && !is_final && !self.agreed.initial_r2t,
            out_sn: 0,
            list_asked: None,
            pieces: VecDeque::new(),
            first_piece: 0,
            sn: 0,
            sent: 0,
            is_aborted: false,
            waits_for_node: false,
            began: shared.histogram.as_ref().map(|_| Instant::now()),
        });
        let first = self.agreed.first_burst_len.min(out_len);
        let taken = data.len().min(usize::try_from(first).unwrap_or(usize::MAX));
        entry.early.extend_from_slice(data.get(..taken).unwrap_or_default());
        self.table.insert(entry);
        self.advance(key, shared);
    }

    /// Runs the next steps of a task until it waits or ends.
    pub(super) fn advance<K: Backend<Buffer = B>>(&mut self, key: TaskKey, shared: &mut Shared<K>) {
        loop {
            let unsent = self.outbox.lent();
            let (reads_max, r2ts_max) =
                (self.reads_max, usize::from(self.agreed.max_outstanding_r2t));
            let found = self.table.get_mut(key);
            let Some(entry) = found.filter(|entry| !entry.is_aborted && !entry.waits_for_node)
            else {
                return;
            };
            match entry.task.step(&shared.device) {
                Next::Receive(len) => {
                    if !self.receive_list(key, len, shared) {
                        return;
                    }
                }
                Next::Io(io) => {
                    let most = match io.data {
                        Data::Out(_) if entry.unsolicited => 1,
                        Data::Out(_) => PIECES_MAX.min(r2ts_max),
                        _ => PIECES_MAX,
                    };
                    let is_full = entry.pieces.len() >= most
                        || (matches!(io.data, Data::In(_)) && unsent >= reads_max);
                    let len = if io.len == 0 { NO_DATA_LEN } else { io.len };
                    let buffer = if is_full { None } else { shared.backend.buffer(len) };
                    let Some(buffer) = buffer else {
                        entry.task.put_back(&io);
                        self.is_held |= is_full;
                        // The task tries again when an I/O ends or data was sent. If neither is outstanding, the next tick tries again.
                        shared.is_short |= !is_full || entry.pieces.is_empty();
                        return;
                    };
                    self.begin_piece(key, io, buffer, shared);
                }
                Next::Wait => return,
                Next::End => return self.finish(key, shared),
            }
        }
    }

    fn begin_piece<K: Backend<Buffer = B>>(
        &mut self,
        key: TaskKey,
        io: Io,
        mut buffer: B,
        shared: &mut Shared<K>,
    ) {
        let Some(entry) = self.table.get_mut(key) else { return };
        if let Data::Out(_) = io.data {
            let piece = entry.next_piece();
            let state = PieceState::Collecting { have: 0, asked: 0 };
            entry.pieces.push_back(Piece { io, buffer: Some(buffer), state });
            self.collect(key, piece, shared);
            return;
        }
        if io.data == Data::Own {
            entry.task.prepare(buffer.as_mut());
        }
        let piece = entry.next_piece();
        entry.pieces.push_back(Piece { io, buffer: Some(buffer), state: PieceState::Collected });
        self.submit(key, piece, shared);
    }

    /// Submits a piece whose data is complete.
    pub(super) fn submit<K: Backend<Buffer = B>>(
        &mut self,
        key: TaskKey,
        number: u16,
        shared: &mut Shared<K>,
    ) {
        let Some(entry) = self.table.get_mut(key) else { return };
        if !entry.task.is_admitted() {
            return;
        }
        let Some(piece) = entry.piece_mut(number) else { return };
        let unit = piece.io.unit;
        let Some(buffer) = piece.buffer.take() else { return };
        piece.state = PieceState::InFlight;
        *shared.in_flight.entry(unit).or_default() += 1;
        let key = IoKey { task: key, piece: number };
        shared.backend.submit(unit, piece.io.op, piece.io.flags, buffer, key);
    }

    /// Submits the pieces that were collected while the task waited for its turn.
    pub(super) fn submit_collected<K: Backend<Buffer = B>>(
        &mut self,
        key: TaskKey,
        shared: &mut Shared<K>,
    ) {
        let Some(entry) = self.table.get_mut(key) else { return };
        let first = entry.first_piece;
        let collected = entry.pieces.iter().zip(0_u16..);
        let collected = collected.filter(|(piece, _)| piece.state == PieceState::Collected);
        let collected = collected.map(|(_, at)| first.wrapping_add(at));
        for number in collected.collect::<Vec<_>>() {
            self.submit(key, number, shared);
        }
    }

    /// Answers a task that has ended, and frees its slot. A change of reservations and a PREEMPT AND ABORT may first leave work to the
    /// node, which then calls [`resume`](Self::resume).
    fn finish<K: Backend<Buffer = B>>(&mut self, key: TaskKey, shared: &mut Shared<K>) {
        if let Some(entry) = self.table.get_mut(key) {
            if let Some(change) = shared.device.take_change() {
                entry.waits_for_node = true;
                return shared.chores.push(Chore::Settle(key, change));
            }
            if let Some(preempted) = shared.device.take_preempted() {
                entry.waits_for_node = true;
                return shared.chores.push(Chore::Preempted(key, preempted));
            }
        }
        let Some(mut entry) = self.table.remove(key) else { return };
        let (wanted, sent) = (entry.task.wanted(), entry.sent);
        self.let_go(&mut entry, shared);
        let expected = if entry.out_len > 0 { entry.out_len } else { entry.in_len };
        let Entry { task, itt, sn, in_len, .. } = *entry;
        let mut outcome = task.into_outcome();
        let mut data = std::mem::take(&mut outcome.data);
        let moved = match outcome.status {
            Status::Good | Status::ConditionMet => wanted,
            _ => u64::from(sent),
        };
        data.truncate(usize::try_from(in_len).unwrap_or(usize::MAX));
        let (flag, residual) = residual(moved, expected);
        if !data.is_empty() {
            let with_status = outcome.status == Status::Good;
            self.send_data(itt, data, with_status.then_some((flag, residual)), shared);
            if with_status {
                return;
            }
        }
        self.respond(itt, sn, &outcome, (flag, residual), shared);
    }

    /// Answers a task after the node has done the work that it left, with another outcome if given. Returns whether the task still
    /// exists.
    pub(super) fn resume<K: Backend<Buffer = B>>(
        &mut self,
        key: TaskKey,
        other: Option<Outcome>,
        shared: &mut Shared<K>,
    ) -> bool {
        let Some(entry) = self.table.get_mut(key) else { return false };
        entry.waits_for_node = false;
        if let Some(outcome) = other {
            entry.task.end_with(outcome);
        }
        self.advance(key, shared);
        true
    }

    /// Removes a task that has ended and whose last data carries the status.
    pub(super) fn forget<K: Backend<Buffer = B>>(&mut self, key: TaskKey, shared: &mut Shared<K>) {
        if let Some(mut entry) = self.table.remove(key) {
            self.let_go(&mut entry, shared);
        }
    }

    /// Releases the resources of a task.
    fn let_go<K: Backend>(&mut self, entry: &mut Entry<B>, shared: &mut Shared<K>) {
        shared.device.finish(&mut entry.task);
        if let (Some(histogram), Some(began)) = (&mut shared.histogram, entry.began) {
            histogram.add(began.elapsed());
        }
        shared.chores.push(Chore::Turn(entry.task.gate_unit()));
        if let Some(session) = self.session_mut(shared) {
            session.end();
        }
    }

    /// Sends the SCSI Response.
    pub(super) fn respond<K: Backend>(
        &mut self,
        itt: u32,
        data_pdus: u32,
        outcome: &Outcome,
        (flag, residual): (u8, u32),
        shared: &mut Shared<K>,
    ) {
        let (exp_cmd_sn, max_cmd_sn) = self.window(shared);
        let response = pdu::ScsiResponse {
            flags: FINAL | flag,
            response: 0,
            status: outcome.status as u8,
            itt,
            snack_tag: 0,
            stat_sn: self.take_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
            exp_data_sn: data_pdus,
            bidi_residual: 0,
            residual,
        };
        let mut data = Vec::new();
        if !outcome.sense.is_empty() {
            data.extend(u16::try_from(outcome.sense.len()).unwrap_or(0).to_be_bytes());
            data.extend(&outcome.sense);
        }
        self.push_with(|len| response.encode(len), data);
    }

    /// Aborts a task: it ends without a response, as soon as its I/Os have ended. Its tag is free at once.
    pub(super) fn abort<K: Backend<Buffer = B>>(&mut self, key: TaskKey, shared: &mut Shared<K>) {
        let Some(entry) = self.table.get_mut(key) else { return };
        entry.is_aborted = true;
        entry.early = Vec::new();
        entry.pieces.iter_mut().filter(|piece| piece.state != PieceState::InFlight).for_each(
            |piece| {
                piece.buffer = None;
                piece.state = PieceState::Ended;
            },
        );
        self.table.forget_tag(key);
        self.drop_aborted(key, shared);
    }

    /// Drops an aborted task that has no I/O in flight.
    pub(super) fn drop_aborted<K: Backend<Buffer = B>>(
        &mut self,
        key: TaskKey,
        shared: &mut Shared<K>,
    ) {
        let Some(entry) = self.table.get_mut(key) else { return };
        let is_busy = entry.pieces.iter().any(|piece| piece.state == PieceState::InFlight);
        if entry.is_aborted
            && !is_busy
            && let Some(mut entry) = self.table.remove(key)
        {
            self.let_go(&mut entry, shared);
        }
    }

    /// Ends the tasks that need a removed unit with an error.
    pub(super) fn fail_unit<K: Backend<Buffer = B>>(&mut self, unit: u16, shared: &mut Shared<K>) {
        for key in self.table.keys() {
            let found = self.table.get_mut(key);
            if let Some(entry) = found.filter(|entry| entry.task.touches(unit)) {
                // The command needs no more work of the node.
                entry.waits_for_node = false;
                self.fail_task(key, Sense::illegal(asc::LOGICAL_UNIT_NOT_SUPPORTED), shared);
            }
        }
    }

    /// Ends a task with an error as soon as its I/Os have ended. It waits for no more data from the initiator.
    pub(super) fn fail_task<K: Backend<Buffer = B>>(
        &mut self,
        key: TaskKey,
        sense: Sense,
        shared: &mut Shared<K>,
    ) {
        let Some(entry) = self.table.get_mut(key).filter(|entry| !entry.is_aborted) else { return };
        let mut dropped = 0;
        for piece in &mut entry.pieces {
            if matches!(piece.state, PieceState::Collecting { .. } | PieceState::Collected) {
                piece.buffer = None;
                piece.state = PieceState::Ended;
                dropped += 1;
            }
        }
        for _ in 0..dropped {
            entry.task.forget_io();
        }
        entry.task.fail(sense);
        self.advance(key, shared);
    }
}

/// The residual flag and count: the bytes that the initiator expected in vain (underflow), or did not expect (overflow).
pub(super) fn residual(wanted: u64, expected: u32) -> (u8, u32) {
    let count = wanted.abs_diff(expected.into());
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    match wanted.cmp(&expected.into()) {
        std::cmp::Ordering::Equal => (0, 0),
        std::cmp::Ordering::Greater => (OVERFLOW, count),
        std::cmp::Ordering::Less => (UNDERFLOW, count),
    }
}
