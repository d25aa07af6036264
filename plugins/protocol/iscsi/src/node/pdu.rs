//! Handling of PDUs in full feature phase. RFC 7143, section 11.

use super::link::Link;
use super::management::Management;
use super::session::Order;
use super::{Backend, Chore, Shared};
use crate::connection::Body;
use drivebay_spec_iscsi::pdu::{self, FINAL, RejectReason, function};
use drivebay_spec_iscsi::{BHS_LEN, Header, NO_TAG, Opcode, text};
use drivebay_spec_scsi::lun;

/// Longest data that the answer to a ping returns, in bytes.
const PING_LEN: usize = 65_536;

impl<B: AsRef<[u8]> + AsMut<[u8]>> Link<B> {
    /// Handles a PDU. Returns `false` if it must wait for commands on other connections.
    pub(super) fn pdu<K: Backend<Buffer = B>>(
        &mut self,
        bhs: &[u8; BHS_LEN],
        header: &Header,
        data: &[u8],
        shared: &mut Shared<K>,
    ) -> bool {
        let immediate = header.immediate;
        // CmdSN is at the same offset in all requests that have it.
        let cmd_sn = pdu::NopOut::parse(bhs).cmd_sn;
        let is_numbered = match header.kind() {
            Some(
                Opcode::ScsiCommand
                | Opcode::TaskManagement
                | Opcode::Text
                | Opcode::Logout
                | Opcode::Login,
            ) => true,
            Some(Opcode::NopOut) => pdu::NopOut::parse(bhs).itt != NO_TAG,
            _ => false,
        };
        if is_numbered {
            match self.order(cmd_sn, immediate, shared) {
                Order::Next => {}
                Order::Early => return false,
                Order::Outside => return true,
            }
        }
        match header.kind() {
            Some(Opcode::ScsiCommand) => self.command(bhs, immediate, data, shared),
            Some(Opcode::DataOut) => self.data_out(bhs, data, shared),
            Some(Opcode::NopOut) => self.nop_out(bhs, data, shared),
            Some(Opcode::TaskManagement) => self.task_management(bhs, shared),
            Some(Opcode::Logout) => self.logout(bhs, shared),
            Some(Opcode::Text) => self.text(bhs, data, shared),
            Some(Opcode::Snack) => self.reject(bhs, RejectReason::SnackReject, shared),
            Some(Opcode::Login) => {
                // A login is allowed only at the start of a connection.
                self.reject(bhs, RejectReason::ProtocolError, shared);
                self.close_soon();
            }
            _ => self.reject(bhs, RejectReason::CommandNotSupported, shared),
        }
        true
    }

    fn nop_out<K: Backend>(&mut self, bhs: &[u8; BHS_LEN], data: &[u8], shared: &mut Shared<K>) {
        let nop = pdu::NopOut::parse(bhs);
        if nop.ttt != NO_TAG {
            self.pinged = false; // the answer to a ping of ours
        }
        if nop.itt == NO_TAG {
            return;
        }
        let longest = usize::try_from(self.agreed.peer_segment_len).unwrap_or(0).min(PING_LEN);
        let data = data.get(..data.len().min(longest)).unwrap_or_default().to_vec();
        let window = self.window(shared);
        let answer = pdu::NopIn::answer(&nop, self.take_stat_sn(), window);
        self.push_with(|len| answer.encode(len), data);
    }

    /// Pings the initiator.
    pub(super) fn ping<K: Backend>(&mut self, shared: &mut Shared<K>) {
        let (exp_cmd_sn, max_cmd_sn) = self.window(shared);
        let ping = pdu::NopIn {
            flags: FINAL,
            lun: 0,
            itt: NO_TAG,
            ttt: 0,
            stat_sn: self.stat_sn, // not a response: the number is not used up
            exp_cmd_sn,
            max_cmd_sn,
        };
        self.outbox.push(ping.encode(0), Body::None);
    }

    fn task_management<K: Backend>(&mut self, bhs: &[u8; BHS_LEN], shared: &mut Shared<K>) {
        let request = pdu::TaskManagement::parse(bhs);
        let function = request.function & 0x7f;
        let unit = lun::decode(request.lun);
        let (link, session) = (self.id, self.session());
        let (itt, ref_tag) = (request.itt, request.ref_tag);
        let management = Management { link, session, itt, function, unit, ref_tag };
        shared.chores.push(Chore::Manage(management));
        if function == function::TARGET_COLD_RESET {
            self.close_soon();
        }
    }

    /// Answers a task management function.
    pub(super) fn managed<K: Backend>(
        &mut self,
        itt: u32,
        response: pdu::FunctionResponse,
        shared: &mut Shared<K>,
    ) {
        let (exp_cmd_sn, max_cmd_sn) = self.window(shared);
        let answer = pdu::TaskManagementResponse {
            flags: FINAL,
            response: response as u8,
            itt,
            stat_sn: self.take_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
        };
        self.outbox.push(answer.encode(0), Body::None);
    }

    /// Section 11.14. Closing a connection or the session aborts its commands.
    fn logout<K: Backend<Buffer = B>>(&mut self, bhs: &[u8; BHS_LEN], shared: &mut Shared<K>) {
        let request = pdu::Logout::parse(bhs);
        let reason = request.reason & 0x7f;
        let others: Vec<u32> =
            self.session_mut(shared).map(|s| s.links.clone()).unwrap_or_default();
        let response = match reason {
            0 => {
                let others = others.into_iter().filter(|other| *other != self.id);
                shared.chores.extend(others.map(Chore::EndLink));
                0
            }
            1 if request.cid == self.cid() => 0,
            1 => 1, // of another connection: that one has to say so itself
            2 => 2, // error recovery level 0
            _ => return self.reject(bhs, RejectReason::InvalidPduField, shared),
        };
        let (exp_cmd_sn, max_cmd_sn) = self.window(shared);
        let answer = pdu::LogoutResponse {
            flags: FINAL,
            response,
            itt: request.itt,
            stat_sn: self.take_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
            time2wait: self.agreed.time2wait,
            time2retain: 0,
        };
        if response == 0 {
            for key in self.table.keys() {
                self.abort(key, shared);
            }
            self.outbox.push(answer.encode(0), Body::None);
            self.close_soon();
        } else {
            self.outbox.push(answer.encode(0), Body::None);
        }
    }

    /// Text in full feature phase. Only the initiator's segment length can change, and SendTargets returns only this target.
    fn text<K: Backend>(&mut self, bhs: &[u8; BHS_LEN], data: &[u8], shared: &mut Shared<K>) {
        let request = pdu::Text::parse(bhs);
        let Ok(pairs) = text::parse(data) else {
            return self.reject(bhs, RejectReason::ProtocolError, shared);
        };
        if request.flags & FINAL == 0 {
            return self.reject(bhs, RejectReason::LongOperationReject, shared);
        }
        let mut answers = Vec::new();
        for (key, value) in pairs {
            match (key, value) {
                ("SendTargets", "" | "All") => {
                    text::push(&mut answers, "TargetName", shared.device.name());
                }
                ("MaxRecvDataSegmentLength", length) => match text::number(length) {
                    Some(length @ 512..=0xff_ffff) => {
                        self.agreed.peer_segment_len = u32::try_from(length).unwrap_or(512);
                    }
                    _ => text::push(&mut answers, key, "Reject"),
                },
                (key, _) => text::push(&mut answers, key, "NotUnderstood"),
            }
        }
        let (exp_cmd_sn, max_cmd_sn) = self.window(shared);
        let answer = pdu::TextResponse {
            flags: FINAL,
            lun: 0,
            itt: request.itt,
            ttt: NO_TAG,
            stat_sn: self.take_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
        };
        answers.truncate(usize::try_from(self.agreed.peer_segment_len).unwrap_or(512));
        self.push_with(|len| answer.encode(len), answers);
    }

    /// Appends a PDU that owns its data.
    pub(super) fn push_with(&mut self, encode: impl FnOnce(u32) -> [u8; BHS_LEN], data: Vec<u8>) {
        let len = u32::try_from(data.len()).unwrap_or(0);
        let body = if data.is_empty() { Body::None } else { Body::Bytes(data) };
        self.outbox.push(encode(len), body);
    }
}
