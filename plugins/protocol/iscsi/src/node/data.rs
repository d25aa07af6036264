//! The data of commands: collected by offset, independent of PDU borders, and sent in the order of the offsets. RFC 7143, sections
//! 11.7 and 11.8.

use super::link::Link;
use super::scsi::residual;
use super::table::{PieceState, transfer_tag};
use super::{Backend, Shared};
use crate::connection::Body;
use drivebay_scsi::{Data, PIECE_LEN, TaskKey};
use drivebay_sdk::bdev::{IoResult, Op};
use drivebay_spec_iscsi::pdu::{DataIn, DataOut, FINAL, R2t};
use drivebay_spec_iscsi::{BHS_LEN, NO_TAG};
use drivebay_spec_scsi::sense::{Key, Sense, asc};

impl<B: AsRef<[u8]> + AsMut<[u8]>> Link<B> {
    /// Handles a Data-Out PDU.
    pub(super) fn data_out<K: Backend<Buffer = B>>(
        &mut self,
        bhs: &[u8; BHS_LEN],
        data: &[u8],
        shared: &mut Shared<K>,
    ) {
        let out = DataOut::parse(bhs);
        let is_final = out.flags & FINAL != 0;
        let is_solicited = out.ttt != NO_TAG;
        let found =
            if is_solicited { self.table.find_transfer(out.ttt) } else { self.table.find(out.itt) };
        let Some(key) = found else { return }; // of a task that has ended, or was aborted
        let first_burst = self.agreed.first_burst_len;
        let Some(entry) = self.table.get_mut(key).filter(|entry| !entry.is_aborted) else { return };
        let is_expected = entry.itt == out.itt
            && entry.out_sn == out.data_sn
            && (is_solicited || entry.unsolicited)
            && u64::from(out.offset) + data.len() as u64 <= u64::from(entry.out_len);
        if !is_expected {
            return self.data_error(key, shared);
        }
        entry.out_sn = if is_final { 0 } else { entry.out_sn.wrapping_add(1) };
        if !is_solicited && is_final {
            entry.unsolicited = false;
        }
        if !is_solicited && out.offset >= first_burst {
            return self.data_error(key, shared);
        }
        if self.take_in(key, out.offset, data) {
            self.go_on(key, shared);
        } else {
            self.data_error(key, shared);
        }
    }

    /// Ends a command whose initiator sent unexpected data. Nothing of the piece is written.
    fn data_error<K: Backend<Buffer = B>>(&mut self, key: TaskKey, shared: &mut Shared<K>) {
        let sense = Sense::new(Key::AbortedCommand, asc::DATA_PHASE_ERROR);
        self.fail_task(key, sense, shared);
    }

    /// Stores data by its offset. Returns `false` if it is not the next data. Drops data beyond the command's length.
    fn take_in(&mut self, key: TaskKey, offset: u32, data: &[u8]) -> bool {
        let Some(entry) = self.table.get_mut(key) else { return true };
        let collecting = entry.pieces.iter_mut().find_map(|piece| {
            let Data::Out(start) = piece.io.data else { return None };
            let at = offset.checked_sub(start)?;
            match &mut piece.state {
                PieceState::Collecting { have, .. } if at < piece.io.len && *have == at => {
                    Some((have, piece.io.len, piece.buffer.as_mut()?))
                }
                _ => None,
            }
        });
        let Some((have, len, buffer)) = collecting else {
            // Unsolicited data before there is memory, or a parameter list. Neither is longer than a piece.
            let next = u32::try_from(entry.early.len()).unwrap_or(u32::MAX);
            if offset == next && next < PIECE_LEN && entry.pieces.is_empty() {
                entry.early.extend_from_slice(data);
                return true;
            }
            return u64::from(offset) >= entry.task.wanted();
        };
        let room = usize::try_from(len - *have).unwrap_or(0);
        let taken = data.get(..data.len().min(room)).unwrap_or_default();
        let at = usize::try_from(*have).unwrap_or(0);
        if let Some(place) = buffer.as_mut().get_mut(at..at + taken.len()) {
            place.copy_from_slice(taken);
        }
        *have += u32::try_from(taken.len()).unwrap_or(0);
        true
    }

    /// Submits the pieces that are complete now, and requests more data.
    fn go_on<K: Backend<Buffer = B>>(&mut self, key: TaskKey, shared: &mut Shared<K>) {
        let Some(entry) = self.table.get_mut(key) else { return };
        let first = entry.first_piece;
        let count = u16::try_from(entry.pieces.len()).unwrap_or(0);
        for at in 0..count {
            self.collect(key, first.wrapping_add(at), shared);
        }
        self.advance(key, shared);
    }

    /// Continues a piece: takes early data, requests missing data, and submits the piece when it is complete.
    pub(super) fn collect<K: Backend<Buffer = B>>(
        &mut self,
        key: TaskKey,
        number: u16,
        shared: &mut Shared<K>,
    ) {
        let burst = self.agreed.max_burst_len;
        let Some(entry) = self.table.get_mut(key) else { return };
        let (unsolicited, itt, lun, sn) = (entry.unsolicited, entry.itt, entry.lun, entry.sn);
        let early = std::mem::take(&mut entry.early);
        let Some(piece) = entry.piece_mut(number) else { return };
        let (Data::Out(start), len) = (piece.io.data, piece.io.len) else { return };
        let PieceState::Collecting { have, asked } = &mut piece.state else { return };
        if !early.is_empty() && start == 0 && *have == 0 {
            let taken = early.len().min(usize::try_from(len).unwrap_or(0));
            if let (Some(buffer), Some(early)) = (&mut piece.buffer, early.get(..taken))
                && let Some(place) = buffer.as_mut().get_mut(..taken)
            {
                place.copy_from_slice(early);
            }
            *have = u32::try_from(taken).unwrap_or(0);
        }
        if *have >= len {
            piece.state = PieceState::Collected;
            return self.submit(key, number, shared);
        }
        if unsolicited || *have < *asked {
            return; // more of it is on its way
        }
        let missing = (len - *have).min(burst);
        let from = *have;
        *asked = from + missing;
        entry.sn = sn.wrapping_add(1);
        self.ask(key, (itt, lun, sn), start + from, missing, shared);
    }

    /// Sends an R2T.
    fn ask<K: Backend>(
        &mut self,
        key: TaskKey,
        (itt, lun, r2t_sn): (u32, u64, u32),
        offset: u32,
        len: u32,
        shared: &mut Shared<K>,
    ) {
        let (exp_cmd_sn, max_cmd_sn) = self.window(shared);
        let r2t = R2t {
            flags: FINAL,
            lun,
            itt,
            ttt: transfer_tag(key),
            stat_sn: self.stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            r2t_sn,
            offset,
            len,
        };
        self.outbox.push(r2t.encode(0), Body::None);
    }

    /// Collects a parameter list of `len` bytes. Returns whether it was complete and passed to the device.
    pub(super) fn receive_list<K: Backend<Buffer = B>>(
        &mut self,
        key: TaskKey,
        len: u32,
        shared: &mut Shared<K>,
    ) -> bool {
        let burst = self.agreed.max_burst_len;
        let Some(entry) = self.table.get_mut(key) else { return false };
        let have = u32::try_from(entry.early.len()).unwrap_or(u32::MAX);
        if have >= len {
            let list = std::mem::take(&mut entry.early);
            let list = list.get(..usize::try_from(len).unwrap_or(0)).unwrap_or_default();
            shared.device.received(&mut entry.task, list);
            return true;
        }
        if entry.unsolicited || entry.list_asked.is_some_and(|asked| have < asked) {
            return false;
        }
        let missing = (len - have).min(burst);
        entry.list_asked = Some(have + missing);
        let about = (entry.itt, entry.lun, entry.sn);
        entry.sn = entry.sn.wrapping_add(1);
        self.ask(key, about, have, missing, shared);
        false
    }

    /// Handles the end of a piece's I/O.
    pub(super) fn piece_ended<K: Backend<Buffer = B>>(
        &mut self,
        key: TaskKey,
        number: u16,
        buffer: B,
        result: IoResult,
        shared: &mut Shared<K>,
    ) {
        let Some(entry) = self.table.get_mut(key) else { return };
        let is_aborted = entry.is_aborted;
        let Some(piece) = entry.piece_mut(number) else { return };
        if piece.io.verify
            && !is_aborted
            && result.status.is_success()
            && let Op::Write(range) = piece.io.op
        {
            (piece.io.op, piece.io.verify) = (Op::Compare(range), false);
            piece.buffer = Some(buffer);
            piece.state = PieceState::Collected;
            return self.submit(key, number, shared);
        }
        piece.state = PieceState::Ended;
        let io = piece.io;
        match io.data {
            Data::In(_) if result.status.is_success() => {
                piece.buffer = Some(buffer);
                entry.task.ended(&io, result, None);
            }
            Data::Own => entry.task.ended(&io, result, Some(buffer.as_ref())),
            _ => entry.task.ended(&io, result, None),
        }
        if is_aborted {
            return self.drop_aborted(key, shared);
        }
        self.send_ended(key, shared);
        self.advance(key, shared);
    }

    /// Sends the data of ended pieces in the order of their offsets, and removes the pieces.
    fn send_ended<K: Backend<Buffer = B>>(&mut self, key: TaskKey, shared: &mut Shared<K>) {
        loop {
            let segment = self.agreed.peer_segment_len;
            let Some(entry) = self.table.get_mut(key) else { return };
            if entry.pieces.front().is_none_or(|piece| piece.state != PieceState::Ended) {
                return;
            }
            let Some(piece) = entry.pieces.pop_front() else { return };
            entry.first_piece = entry.first_piece.wrapping_add(1);
            let (Data::In(offset), Some(buffer)) = (piece.io.data, piece.buffer) else { continue };
            let len = piece.io.len.min(entry.in_len.saturating_sub(offset));
            if len == 0 {
                continue;
            }
            let (itt, first_sn) = (entry.itt, entry.sn);
            // If a piece is longer than a burst, every PDU is a sequence.
            let burst = self.agreed.max_burst_len;
            let segment = segment.min(burst);
            let count = len.div_ceil(segment);
            entry.sn = first_sn.wrapping_add(count);
            entry.sent += len;
            // The last data of a successful command carries the status. RFC 7143, section 11.7.3.
            let is_last = entry.pieces.is_empty() && entry.task.is_done();
            let status = is_last.then(|| residual(entry.task.wanted(), entry.in_len));
            if is_last {
                // Remove the task before the PDU reports the command window, so that the window has room for another command.
                self.forget(key, shared);
            }
            let place = self.outbox.lend(buffer, usize::try_from(count).unwrap_or(1));
            for at in 0..count {
                let from = at * segment;
                let now = segment.min(len - from);
                let is_end = at + 1 == count;
                let told = status.filter(|_| is_end);
                let about = (itt, first_sn.wrapping_add(at), offset + from);
                let bhs = self.data_in(about, now, is_end || burst < len, told, shared);
                let from = usize::try_from(from).unwrap_or(0);
                let range = from..from + usize::try_from(now).unwrap_or(0);
                self.outbox.push(bhs, Body::Lent(place, range));
            }
            if is_last {
                return;
            }
        }
    }

    /// The header of a Data-In PDU. `status`: it carries the status GOOD and these residuals.
    fn data_in<K: Backend>(
        &mut self,
        (itt, data_sn, offset): (u32, u32, u32),
        len: u32,
        ends: bool,
        status: Option<(u8, u32)>,
        shared: &mut Shared<K>,
    ) -> [u8; BHS_LEN] {
        let (exp_cmd_sn, max_cmd_sn) = self.window(shared);
        let (flag, residual) = status.unwrap_or((0, 0));
        let with_status = if status.is_some() { DataIn::STATUS } else { 0 };
        let stat_sn = if status.is_some() { self.take_stat_sn() } else { 0 };
        let data_in = DataIn {
            flags: if ends { FINAL } else { 0 } | with_status | flag,
            status: 0,
            lun: 0,
            itt,
            ttt: NO_TAG,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            data_sn,
            offset,
            residual,
        };
        data_in.encode(len)
    }

    /// Sends data that does not come from blocks. `status`: the last PDU carries the status GOOD and these residuals.
    pub(super) fn send_data<K: Backend>(
        &mut self,
        itt: u32,
        data: Vec<u8>,
        status: Option<(u8, u32)>,
        shared: &mut Shared<K>,
    ) {
        let segment = usize::try_from(self.agreed.peer_segment_len).unwrap_or(512);
        let count = data.len().div_ceil(segment);
        for (at, part) in data.chunks(segment).enumerate() {
            let ends = at + 1 == count;
            let (sn, offset) =
                (u32::try_from(at).unwrap_or(0), u32::try_from(at * segment).unwrap_or(0));
            let len = u32::try_from(part.len()).unwrap_or(0);
            let bhs = self.data_in((itt, sn, offset), len, ends, status.filter(|_| ends), shared);
            self.outbox.push(bhs, Body::Bytes(part.to_vec()));
        }
    }
}
