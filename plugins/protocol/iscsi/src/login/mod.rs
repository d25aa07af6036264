//! The login of a connection, without its socket, and discovery sessions. RFC 7143, section 6. Everything here is on the app
//! thread.
//!
//! ```text
//! Security ──▶ Operational ──▶ full feature ──▶ Normal: the connection moves to the thread of its target
//!     ╰──────────────╯                      ╰─▶ Discovery: it stays here
//! ```

pub mod chap;
mod discovery;
pub mod registry;
#[cfg(test)]
mod tests;

pub use registry::{Record, Registry};

use crate::connection::{Body, Framing, Inbox, Outbox};
use crate::model::{ChapPolicy, Model, Target};
use crate::node::Established;
use crate::node::SEGMENT_LEN;
use chap::Chap;
use drivebay_scsi::Identity;
use drivebay_spec_iscsi::negotiation::{Agreed, Answer, Offer, negotiate};
use drivebay_spec_iscsi::pdu::{self, CONTINUE, FINAL, LoginStatus, Stage};
use drivebay_spec_iscsi::{BHS_LEN, Opcode, name, text};
use drivebay_spec_scsi::reservation::iscsi_transport_id;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Longest data of a login PDU, in bytes: the default of MaxRecvDataSegmentLength.
const LOGIN_DATA_LEN: u32 = 8192;
/// Maximum number of PDUs of one login.
const PDUS_MAX: u32 = 64;
/// Bytes in the outbox above which a discovery session handles no further PDUs.
const OUTBOX_LEN: usize = 256 << 10;
/// Longest first burst, in bytes: it fits in the first piece of a transfer.
const FIRST_BURST_LEN: u32 = 65_536;
/// MaxBurstLength, in bytes.
const MAX_BURST_LEN: u32 = 262_144;

/// The state that a login reads and changes.
#[derive(Debug)]
pub struct Context<'a> {
    /// The configuration.
    pub model: &'a Model,
    /// The sessions.
    pub registry: &'a mut Registry,
}

/// The result of handling received bytes.
#[derive(Debug)]
pub enum Progress {
    /// The login waits for more bytes.
    Waits,
    /// A session with a target has begun: the data for the target's thread, the target's name, and the session that it replaces.
    Ready(Box<Established>, String, Option<u16>),
    /// The connection ends when the outbox is sent.
    Over,
}

/// A connection that logs in, or a discovery session.
#[derive(Debug)]
pub struct Login {
    pg_tag: i32,
    local: SocketAddr,
    peer: SocketAddr,
    inbox: Inbox,
    outbox: Outbox<Vec<u8>>,
    stage: Stage,
    is_over: bool,
    pdus: u32,
    stat_sn: u32,
    text: Vec<u8>,
    seen: BTreeSet<String>,
    names: Names,
    chap: Chap,
    /// The initiator is authenticated, or need not be.
    is_trusted: bool,
    agreed: Agreed,
    isid: [u8; 6],
    cid: u16,
    first_cmd_sn: u32,
    discovery: discovery::State,
    tsih: u16,
}

#[derive(Debug, Default)]
struct Names {
    initiator: String,
    target: Option<String>,
    is_discovery: bool,
    are_known: bool,
    /// The target has declared its alias and portal group, which it does once.
    are_told: bool,
    segment_is_told: bool,
}

/// The status of a failed login, and the text of the response.
#[derive(Debug)]
struct Refused(LoginStatus, Vec<u8>);

impl From<LoginStatus> for Refused {
    fn from(status: LoginStatus) -> Self {
        Self(status, Vec::new())
    }
}

impl From<chap::Unproved> for Refused {
    fn from(_: chap::Unproved) -> Self {
        LoginStatus::AuthenticationFailure.into()
    }
}

impl Login {
    /// A new connection through a portal group.
    #[must_use]
    pub fn new(pg_tag: i32, local: SocketAddr, peer: SocketAddr) -> Self {
        Self {
            pg_tag,
            local,
            peer,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            stage: Stage::Security,
            is_over: false,
            pdus: 0,
            stat_sn: 0,
            text: Vec::new(),
            seen: BTreeSet::new(),
            names: Names::default(),
            chap: Chap::Idle,
            is_trusted: false,
            agreed: Agreed::default(),
            isid: [0; 6],
            cid: 0,
            first_cmd_sn: 0,
            discovery: discovery::State::default(),
            tsih: 0,
        }
    }

    /// The inbox for received bytes.
    pub fn inbox(&mut self) -> &mut Inbox {
        &mut self.inbox
    }

    /// The PDUs to send.
    pub fn outbox(&mut self) -> &mut Outbox<Vec<u8>> {
        &mut self.outbox
    }

    /// Whether PDUs wait until the peer has received more answers.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.outbox.len() > OUTBOX_LEN
    }

    /// The initiator's address.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The portal's address.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The tag of the portal group.
    #[must_use]
    pub fn pg_tag(&self) -> i32 {
        self.pg_tag
    }

    /// Its session, once it has one: TSIH and CID.
    #[must_use]
    pub fn session(&self) -> Option<(u16, u16)> {
        (self.tsih != 0).then_some((self.tsih, self.cid))
    }

    /// Leaves the session to its target, which ends it.
    pub fn forget_session(&mut self) {
        self.tsih = 0;
    }

    /// Whether it is a discovery session in full feature phase.
    #[must_use]
    pub fn is_discovery(&self) -> bool {
        self.stage == Stage::FullFeature && self.names.is_discovery
    }

    /// Its phase, in the reference's words.
    #[must_use]
    pub fn phase(&self) -> &'static str {
        match self.stage {
            Stage::Security => "security_negotiation_phase",
            Stage::Operational => "operational_negotiation_phase",
            Stage::FullFeature => "full_feature_phase",
        }
    }

    /// Handles the PDUs that are complete.
    pub fn work(&mut self, context: &mut Context<'_>) -> Progress {
        let mut inbox = std::mem::take(&mut self.inbox);
        let progress = self.work_on(&mut inbox, context);
        match progress {
            Progress::Ready(mut new, target, replaced) => {
                new.rest = inbox.rest().to_vec();
                Progress::Ready(new, target, replaced)
            }
            other => {
                self.inbox = inbox;
                other
            }
        }
    }

    fn work_on(&mut self, inbox: &mut Inbox, context: &mut Context<'_>) -> Progress {
        while !self.is_over {
            if self.is_full() {
                return Progress::Waits;
            }
            let is_ready = self.stage == Stage::FullFeature;
            let framing = Framing {
                header_digest: is_ready && self.agreed.header_digest,
                data_digest: is_ready && self.agreed.data_digest,
                data_len_max: LOGIN_DATA_LEN,
            };
            let frame = match inbox.front(&framing) {
                Ok(Some(frame)) => frame,
                Ok(None) => return Progress::Waits,
                Err(_) => break,
            };
            if is_ready {
                self.discovery_pdu(&frame.bhs, &frame.header, inbox.data(&frame), context.model);
                inbox.consume(&frame);
                continue;
            }
            self.pdus += 1;
            if frame.header.kind() != Some(Opcode::Login) || self.pdus > PDUS_MAX {
                break; // nothing was agreed in which an answer could be given
            }
            let login = pdu::Login::parse(&frame.bhs);
            let answered = self.login(&login, inbox.data(&frame), context);
            inbox.consume(&frame);
            match answered {
                Ok(Some((new, target, replaced))) => {
                    return Progress::Ready(new, target, replaced);
                }
                Ok(None) => {}
                Err(Refused(status, text)) => {
                    let code = status as u16;
                    tracing::info!(
                        initiator = self.names.initiator,
                        "login refused: status {code:04x}h"
                    );
                    self.answer(&login, 0, status, text);
                    break;
                }
            }
        }
        self.is_over = true;
        Progress::Over
    }

    /// Handles one login PDU. Returns the data for the target's thread if it completes the login to a target.
    #[expect(clippy::type_complexity, reason = "the parts of Progress::Ready")]
    fn login(
        &mut self,
        login: &pdu::Login,
        data: &[u8],
        context: &mut Context<'_>,
    ) -> Result<Option<(Box<Established>, String, Option<u16>)>, Refused> {
        let current = login.current().ok_or(LoginStatus::InitiatorError)?;
        let next = login.next();
        if self.pdus == 1 {
            self.stat_sn = login.exp_stat_sn;
            self.first_cmd_sn = login.cmd_sn;
            (self.isid, self.cid) = (login.isid, login.cid);
            self.stage = current;
        }
        if login.version_min > 0 {
            return Err(LoginStatus::UnsupportedVersion.into());
        }
        let is_transit = login.flags & FINAL != 0;
        let goes_back = is_transit && next.is_none_or(|next| next as u8 <= current as u8);
        if current != self.stage || current == Stage::FullFeature || goes_back {
            return Err(LoginStatus::InvalidDuringLogin.into());
        }
        self.text.extend_from_slice(data);
        if self.text.len() > text::LEN_MAX {
            return Err(LoginStatus::InitiatorError.into());
        }
        if login.flags & CONTINUE != 0 {
            if is_transit {
                return Err(LoginStatus::InitiatorError.into());
            }
            self.answer(login, 0, LoginStatus::Success, Vec::new());
            return Ok(None);
        }
        let text = std::mem::take(&mut self.text);
        let pairs = text::parse(&text).map_err(|_| LoginStatus::InitiatorError)?;
        self.declare(login, &pairs, context)?;
        let target = self.names.target.as_ref().and_then(|name| context.model.targets.get(name));
        if target.is_none() && !self.names.is_discovery {
            return Err(LoginStatus::NotFound.into()); // deleted since the first PDU
        }
        let policy = context.model.policy(target, self.pg_tag);
        let mut answers = Vec::new();
        self.tell(target, &mut answers);
        let may_go_on = match current {
            Stage::Security => self.security(&pairs, context.model, policy, &mut answers)?,
            _ => {
                if !self.is_trusted && policy.required {
                    return Err(LoginStatus::AuthenticationFailure.into());
                }
                self.operational(&pairs, context.model, target, &mut answers)?;
                true
            }
        };
        let Some(next) = next.filter(|_| is_transit && may_go_on) else {
            self.answer(login, 0, LoginStatus::Success, answers);
            return Ok(None);
        };
        self.stage = next;
        let flags = FINAL | next as u8;
        if next != Stage::FullFeature {
            self.answer(login, flags, LoginStatus::Success, answers);
            return Ok(None);
        }
        let lacks = |needed: bool, agreed: bool| needed && !agreed;
        let lacks_digest = target.is_some_and(|target| {
            lacks(target.header_digest, self.agreed.header_digest)
                || lacks(target.data_digest, self.agreed.data_digest)
        });
        if lacks_digest {
            return Err(LoginStatus::InitiatorError.into());
        }
        let replaced = self.enter_session(login, context)?;
        self.agreed.first_burst_len = self.agreed.first_burst_len.min(self.agreed.max_burst_len);
        self.answer(login, flags, LoginStatus::Success, answers);
        let Some(target) =
            self.names.target.as_ref().and_then(|name| context.model.targets.get(name))
        else {
            self.outbox.set_digests(self.agreed.header_digest, self.agreed.data_digest);
            return Ok(None); // discovery
        };
        let new = self.established(target, context.model);
        Ok(Some((Box::new(new), target.name.clone(), replaced)))
    }

    /// Reads the declarations of the first text: initiator, target and session type.
    fn declare(
        &mut self,
        login: &pdu::Login,
        pairs: &[(&str, &str)],
        context: &Context<'_>,
    ) -> Result<(), Refused> {
        if self.names.are_known {
            return Ok(());
        }
        let value = |key| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        let initiator = value("InitiatorName").ok_or(LoginStatus::MissingParameter)?;
        if initiator.is_empty() || initiator.len() > name::LEN_MAX {
            return Err(LoginStatus::InitiatorError.into());
        }
        initiator.clone_into(&mut self.names.initiator);
        self.names.is_discovery = match value("SessionType") {
            Some("Discovery") => true,
            Some("Normal") | None => false,
            Some(_) => return Err(LoginStatus::SessionTypeNotSupported.into()),
        };
        if self.names.is_discovery {
            if login.tsih != 0 {
                return Err(LoginStatus::SessionDoesNotExist.into());
            }
        } else {
            let name = value("TargetName").ok_or(LoginStatus::MissingParameter)?;
            let target = context.model.target(name).ok_or(LoginStatus::NotFound)?;
            let peer = self.peer.ip().to_canonical();
            if !context.model.admits(target, self.pg_tag, initiator, peer) {
                return Err(LoginStatus::AuthorizationFailure.into());
            }
            if let Some((host, port)) = target.redirects.get(&self.pg_tag) {
                let mut text = Vec::new();
                text::push(&mut text, "TargetAddress", &format!("{host}:{port}"));
                return Err(Refused(LoginStatus::TargetMovedTemporarily, text));
            }
            self.names.target = Some(target.name.clone());
        }
        self.names.are_known = true;
        Ok(())
    }

    /// Appends the target's declarations to the first answer.
    fn tell(&mut self, target: Option<&Target>, answers: &mut Vec<u8>) {
        if std::mem::replace(&mut self.names.are_told, true) {
            return;
        }
        let Some(target) = target else { return };
        if !target.alias.is_empty() {
            text::push(answers, "TargetAlias", &target.alias);
        }
        text::push(answers, "TargetPortalGroupTag", &self.pg_tag.to_string());
    }

    /// Negotiates security. Returns whether this stage may end.
    fn security(
        &mut self,
        pairs: &[(&str, &str)],
        model: &Model,
        policy: ChapPolicy,
        answers: &mut Vec<u8>,
    ) -> Result<bool, Refused> {
        for (key, value) in pairs {
            match *key {
                "AuthMethod" => {
                    if !self.seen.insert((*key).to_owned()) {
                        return Err(LoginStatus::InitiatorError.into());
                    }
                    if chap::choose_method(value, policy)? {
                        self.chap = Chap::Begun;
                        text::push(answers, key, "CHAP");
                    } else {
                        self.is_trusted = true;
                        text::push(answers, key, "None");
                    }
                }
                key if key.starts_with("CHAP_") || is_declared(key) => {}
                // Operational keys wait for the next stage (section 6.2.2), and other keys are unknown.
                key => text::push(answers, key, "NotUnderstood"),
            }
        }
        self.chap.step(pairs, model, policy, answers)?;
        match self.chap {
            Chap::Proved => self.is_trusted = true,
            Chap::Idle if !policy.required => self.is_trusted = true,
            Chap::Idle => return Err(LoginStatus::AuthenticationFailure.into()),
            _ => {}
        }
        Ok(self.is_trusted)
    }

    fn operational(
        &mut self,
        pairs: &[(&str, &str)],
        model: &Model,
        target: Option<&Target>,
        answers: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        let offer = offer(model, target);
        for (key, value) in pairs.iter().filter(|(key, _)| !is_declared(key)) {
            // The initiator may negotiate each key once. Section 6.3.
            if !self.seen.insert((*key).to_owned()) {
                return Err(LoginStatus::InitiatorError.into());
            }
            let is_discovery = self.names.is_discovery;
            let answer = negotiate(key, value, &offer, &mut self.agreed, is_discovery);
            if let Some(answer) = answer.text() {
                text::push(answers, key, answer);
            }
            let is_needed = matches!(*key, "HeaderDigest" | "DataDigest");
            if answer == Answer::Reject && is_needed {
                return Err(LoginStatus::InitiatorError.into());
            }
        }
        if !std::mem::replace(&mut self.names.segment_is_told, true) {
            let len = if self.names.is_discovery { LOGIN_DATA_LEN } else { SEGMENT_LEN };
            text::push(answers, "MaxRecvDataSegmentLength", &len.to_string());
        }
        Ok(())
    }

    /// Begins a session, or joins one.
    fn enter_session(
        &mut self,
        login: &pdu::Login,
        context: &mut Context<'_>,
    ) -> Result<Option<u16>, Refused> {
        let record = Record {
            target: self.names.target.clone(),
            initiator: self.names.initiator.clone(),
            isid: self.isid,
            pg_tag: self.pg_tag,
            cids: vec![self.cid],
        };
        if login.tsih != 0 {
            context.registry.join(
                login.tsih,
                &record,
                self.agreed.max_connections.max(
                    u16::try_from(context.model.options.max_connections_per_session).unwrap_or(1),
                ),
            )?;
            self.tsih = login.tsih;
            return Ok(None);
        }
        let (tsih, replaced) = context.registry.open(record, context.model.options.max_sessions)?;
        self.tsih = tsih;
        Ok(replaced)
    }

    fn established(&self, target: &Target, model: &Model) -> Established {
        let options = &model.options;
        let seconds = |value: i32| u64::try_from(value).unwrap_or(0) * 1_000_000_000;
        Established {
            session: self.tsih,
            cid: self.cid,
            initiator: self.names.initiator.clone(),
            identity: Identity {
                transport_id: iscsi_transport_id(&self.names.initiator, self.isid),
                port: u16::try_from(self.pg_tag).unwrap_or(0),
            },
            portal_group: self.pg_tag,
            agreed: self.agreed,
            stat_sn: self.stat_sn,
            exp_cmd_sn: self.first_cmd_sn,
            depth: target.queue_depth.min(options.max_queue_depth),
            reads_max: usize::try_from(options.max_large_datain_per_connection).unwrap_or(64),
            ping_ns: seconds(options.nop_in_interval),
            timeout_ns: seconds(options.nop_timeout),
            rest: Vec::new(),
        }
    }

    /// Sends a login response. `flags`: transit and the next stage.
    fn answer(&mut self, login: &pdu::Login, flags: u8, status: LoginStatus, text: Vec<u8>) {
        let stage = login.flags & 0x0c;
        let is_refused = status as u16 >> 8 == 2 || status as u16 >> 8 == 3;
        let response = pdu::LoginResponse {
            flags: if is_refused { 0 } else { flags | stage },
            version_max: 0,
            version_active: 0,
            isid: login.isid,
            tsih: if flags & 3 == 3 { self.tsih } else { login.tsih },
            itt: login.itt,
            stat_sn: if is_refused { 0 } else { self.stat_sn },
            exp_cmd_sn: login.cmd_sn,
            max_cmd_sn: login.cmd_sn,
            status: status as u16,
        };
        self.stat_sn = self.stat_sn.wrapping_add(1);
        let len = u32::try_from(text.len()).unwrap_or(0);
        let body = if text.is_empty() { Body::None } else { Body::Bytes(text) };
        self.outbox.push(response.encode(len), body);
    }
}

/// Whether a key is a declaration of the initiator, which gets no answer.
fn is_declared(key: &str) -> bool {
    matches!(key, "InitiatorName" | "InitiatorAlias" | "TargetName" | "SessionType")
}

/// The values that this target offers.
fn offer(model: &Model, target: Option<&Target>) -> Offer {
    let options = &model.options;
    let small = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
    Offer {
        wanted: Agreed {
            header_digest: true,
            data_digest: true,
            max_connections: small(options.max_connections_per_session).max(1),
            initial_r2t: true,
            immediate_data: options.immediate_data,
            peer_segment_len: LOGIN_DATA_LEN,
            max_burst_len: MAX_BURST_LEN,
            first_burst_len: options.first_burst_length.clamp(512, FIRST_BURST_LEN),
            time2wait: small(options.default_time2wait),
            time2retain: small(options.default_time2retain),
            max_outstanding_r2t: small(options.max_r2t_per_connection).max(1),
            error_recovery_level: 0,
        },
        require_header_digest: target.is_some_and(|target| target.header_digest),
        require_data_digest: target.is_some_and(|target| target.data_digest),
    }
}

/// A basic header segment.
type Bhs = [u8; BHS_LEN];
