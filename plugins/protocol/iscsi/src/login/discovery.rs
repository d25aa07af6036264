//! Discovery sessions: SendTargets, pings, logout. RFC 7143, appendix C.

use super::{Bhs, Login};
use crate::connection::Body;
use crate::model::{Model, Target};
use drivebay_spec_iscsi::pdu::{self, CONTINUE, FINAL, RejectReason};
use drivebay_spec_iscsi::{Header, NO_TAG, Opcode, text};

/// The rest of a long answer, and the expected CmdSN.
#[derive(Debug, Default)]
pub(super) struct State {
    left: Vec<u8>,
    exp_cmd_sn: Option<u32>,
}

impl Login {
    pub(super) fn discovery_pdu(&mut self, bhs: &Bhs, header: &Header, data: &[u8], model: &Model) {
        let cmd_sn = pdu::NopOut::parse(bhs).cmd_sn;
        let next = if header.immediate { cmd_sn } else { cmd_sn.wrapping_add(1) };
        self.discovery.exp_cmd_sn = Some(next);
        match header.kind() {
            Some(Opcode::Text) => self.text(bhs, data, model),
            Some(Opcode::NopOut) => self.nop_out(bhs, data),
            Some(Opcode::Logout) => {
                let (itt, stat_sn) = (pdu::Logout::parse(bhs).itt, self.take_stat_sn());
                let (exp_cmd_sn, max_cmd_sn) = self.window();
                let flags = FINAL;
                let answer = pdu::LogoutResponse {
                    flags,
                    itt,
                    stat_sn,
                    exp_cmd_sn,
                    max_cmd_sn,
                    ..pdu::LogoutResponse::default()
                };
                self.outbox.push(answer.encode(0), Body::None);
                self.is_over = true;
            }
            // Other PDUs are allowed only in sessions with a target (section 4.3).
            _ => {
                let (reason, window) = (RejectReason::CommandNotSupported, self.window());
                let reject = pdu::Reject::new(reason, self.take_stat_sn(), window);
                self.outbox.push(reject.encode(48), Body::Bytes(bhs.to_vec()));
            }
        }
    }

    fn window(&self) -> (u32, u32) {
        let exp_cmd_sn = self.discovery.exp_cmd_sn.unwrap_or(self.first_cmd_sn);
        (exp_cmd_sn, exp_cmd_sn)
    }

    fn take_stat_sn(&mut self) -> u32 {
        let stat_sn = self.stat_sn;
        self.stat_sn = stat_sn.wrapping_add(1);
        stat_sn
    }

    fn nop_out(&mut self, bhs: &Bhs, data: &[u8]) {
        let nop = pdu::NopOut::parse(bhs);
        if nop.itt == NO_TAG {
            return;
        }
        let longest = usize::try_from(self.agreed.peer_segment_len).unwrap_or(0);
        let data = data.get(..data.len().min(longest)).unwrap_or_default().to_vec();
        let window = self.window();
        let answer = pdu::NopIn::answer(&nop, self.take_stat_sn(), window);
        let len = u32::try_from(data.len()).unwrap_or(0);
        self.outbox.push(answer.encode(len), Body::Bytes(data));
    }

    /// A text request: a new one, or the continuation of a long answer.
    fn text(&mut self, bhs: &Bhs, data: &[u8], model: &Model) {
        let request = pdu::Text::parse(bhs);
        if request.ttt == NO_TAG {
            self.discovery.left.clear();
            let Ok(pairs) = text::parse(data) else { return self.is_over = true };
            for (key, value) in pairs {
                let mut answers = std::mem::take(&mut self.discovery.left);
                match key {
                    "SendTargets" => self.send_targets(value, model, &mut answers),
                    _ => text::push(&mut answers, key, "NotUnderstood"),
                }
                self.discovery.left = answers;
            }
        }
        let longest = usize::try_from(self.agreed.peer_segment_len).unwrap_or(512);
        let now = self.discovery.left.len().min(longest);
        let now: Vec<u8> = self.discovery.left.drain(..now).collect();
        let is_all = self.discovery.left.is_empty();
        let (exp_cmd_sn, max_cmd_sn) = self.window();
        let answer = pdu::TextResponse {
            flags: if is_all { FINAL } else { CONTINUE },
            lun: 0,
            itt: request.itt,
            ttt: if is_all { NO_TAG } else { 1 },
            stat_sn: self.take_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
        };
        let len = u32::try_from(now.len()).unwrap_or(0);
        self.outbox.push(answer.encode(len), Body::Bytes(now));
    }

    fn send_targets(&self, wanted: &str, model: &Model, answers: &mut Vec<u8>) {
        for target in model.targets.values() {
            if wanted != "All" && !wanted.eq_ignore_ascii_case(&target.name) {
                continue;
            }
            let addresses = self.addresses(target, model);
            if !addresses.is_empty() {
                text::push(answers, "TargetName", &target.name);
                for address in addresses {
                    text::push(answers, "TargetAddress", &address);
                }
            }
        }
    }

    /// The addresses through which this initiator may use a target.
    fn addresses(&self, target: &Target, model: &Model) -> Vec<String> {
        let peer = self.peer.ip().to_canonical();
        let mut addresses = Vec::new();
        for (tag, group) in &model.portal_groups {
            let is_shown = !group.is_private || *tag == self.pg_tag;
            if !is_shown || !model.admits(target, *tag, &self.names.initiator, peer) {
                continue;
            }
            for address in group.portals.iter().filter_map(|portal| portal.address().ok()) {
                let mut address = address;
                if address.ip().is_unspecified() {
                    address.set_ip(self.local.ip().to_canonical());
                }
                addresses.push(format!("{address},{tag}"));
            }
        }
        addresses
    }
}
