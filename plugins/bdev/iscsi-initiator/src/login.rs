//! Connects to a portal and logs in. RFC 7143, sections 6 and 11.12. `[any lightweight thread]`

use std::time::Duration;

use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::net::{self, Address, Stream};
use drivebay_sdk::runtime::task;
use drivebay_spec_iscsi::chap::{self, Algorithm, CHALLENGE_LEN};
use drivebay_spec_iscsi::negotiation::{Agreed, Answer, Offer, negotiate};
use drivebay_spec_iscsi::pdu::{CONTINUE, FINAL, Login, LoginResponse, LoginStatus, Stage};
use drivebay_spec_iscsi::{BHS_LEN, Header, Opcode, pad_len, text};

use crate::disk::Place;
use crate::session::{Payload, SEGMENT_LEN, Session};
use crate::url::{Url, host_and_port};

/// Time limit of a login when the operator sets none.
const LIMIT: Duration = Duration::from_secs(30);
/// Maximum number of exchanges of a login.
const ROUNDS_MAX: usize = 16;
/// Maximum number of redirections of one login.
const REDIRECTIONS_MAX: usize = 4;
/// CmdSN of the login.
const CMD_SN: u32 = 1;

/// Logs in. The target ends an earlier session with the same `isid`.
///
/// # Errors
/// The error of the system or the target, with the unit's address.
pub(crate) async fn login<R: Payload>(
    place: &Place,
    isid: [u8; 6],
) -> Result<(Stream, Session<R>)> {
    let limit = place.timeout.unwrap_or(LIMIT);
    let timed = task::timeout(limit, try_login(place, isid, limit)).await;
    timed
        .unwrap_or_else(|elapsed| Err(elapsed.into()))
        .map_err(|error| Error::new(error.errno(), format!("{:?}: {}", place.url, error.message())))
}

async fn try_login<R: Payload>(
    place: &Place,
    isid: [u8; 6],
    limit: Duration,
) -> Result<(Stream, Session<R>)> {
    let (mut host, mut port) = (place.url.host.clone(), place.url.port);
    for _ in 0..=REDIRECTIONS_MAX {
        let stream = connect(&host, port, limit).await?;
        let agreed = Agreed::default();
        let mut login = Exchange { stream, isid, exp_stat_sn: 0, agreed, moved_to: None };
        match login.negotiate(place).await {
            Ok(last) => {
                let Exchange { stream, agreed, exp_stat_sn, .. } = login;
                let (cmd_sn, max_cmd_sn) = (last.exp_cmd_sn, last.max_cmd_sn);
                let session = Session::new(place.url.lun, agreed, cmd_sn, max_cmd_sn, exp_stat_sn);
                return Ok((stream, session));
            }
            Err(error) => (host, port) = login.moved_to.ok_or(error)?,
        }
    }
    Err(failed("each portal redirects to another one"))
}

async fn connect(host: &str, port: u16, limit: Duration) -> Result<Stream> {
    let mut last = Error::new(errno::ENOENT, "the name of the host has no address");
    for address in Address::resolve(host, port).await? {
        match net::connect(&address, &net::Options::default(), limit).await {
            Ok(stream) => return Ok(stream),
            Err(error) if error.errno() == errno::ETIMEDOUT => last = error,
            Err(error) => last = failed(error.message()),
        }
    }
    Err(last)
}

struct Exchange {
    stream: Stream,
    isid: [u8; 6],
    exp_stat_sn: u32,
    agreed: Agreed,
    /// The portal to which the target has redirected the login.
    moved_to: Option<(String, u16)>,
}

/// What the initiator wants. The target decides on digests, unless the operator requires them.
fn offer(url: &Url) -> Offer {
    let wanted = Agreed {
        header_digest: true,
        data_digest: true,
        max_burst_len: 1 << 20,
        time2retain: 0,
        ..Agreed::default()
    };
    Offer { wanted, require_header_digest: url.header_digest, require_data_digest: url.data_digest }
}

impl Exchange {
    /// All of the login. Returns the last response.
    async fn negotiate(&mut self, place: &Place) -> Result<LoginResponse> {
        let mut names = Vec::new();
        text::push(&mut names, "InitiatorName", &place.initiator);
        text::push(&mut names, "SessionType", "Normal");
        text::push(&mut names, "TargetName", &place.url.target);
        if let Some((user, secret)) = &place.url.chap {
            let names = std::mem::take(&mut names);
            self.authenticate(names, user, secret, place.url.target_chap.as_ref()).await?;
        }
        self.operational(names, &place.url).await
    }

    /// CHAP. `target`: the user and secret with which the target must prove its identity too.
    async fn authenticate(
        &mut self,
        mut names: Vec<u8>,
        user: &str,
        secret: &str,
        target: Option<&(String, String)>,
    ) -> Result<()> {
        let methods = if target.is_some() { "CHAP" } else { "CHAP,None" };
        text::push(&mut names, "AuthMethod", methods);
        let (_, answer) = self.turn(Stage::Security, None, &names).await?;
        if key(&answer, "AuthMethod")?.as_deref() != Some("CHAP") {
            if target.is_some() {
                return Err(unproved());
            }
            self.turn(Stage::Security, Some(Stage::Operational), &[]).await?;
            return Ok(());
        }
        let mut ask = Vec::new();
        text::push(&mut ask, "CHAP_A", "7,5");
        let (_, challenge) = self.turn(Stage::Security, None, &ask).await?;
        let wrong = || failed("the target's challenge for CHAP is incomplete");
        let chosen = key(&challenge, "CHAP_A")?.ok_or_else(wrong)?;
        let algorithm = Algorithm::choose(&chosen).ok_or_else(wrong)?;
        let id = key(&challenge, "CHAP_I")?.and_then(|id| text::number(&id));
        let id = id.and_then(|id| u8::try_from(id).ok()).ok_or_else(wrong)?;
        let theirs = key(&challenge, "CHAP_C")?.and_then(|text| chap::decode(&text));
        let theirs = theirs.ok_or_else(wrong)?;
        let response = algorithm.response(id, secret.as_bytes(), &theirs);
        let mut answer = Vec::new();
        text::push(&mut answer, "CHAP_N", user);
        text::push(&mut answer, "CHAP_R", &chap::encode(&response));
        let mut random = [0; CHALLENGE_LEN + 1];
        getrandom::fill(&mut random)
            .map_err(|error| failed(&format!("random numbers: {error}")))?;
        let [own_id, own @ ..] = random;
        if target.is_some() {
            text::push(&mut answer, "CHAP_I", &own_id.to_string());
            text::push(&mut answer, "CHAP_C", &chap::encode(&own));
        }
        let (_, proof) = self.turn(Stage::Security, Some(Stage::Operational), &answer).await?;
        if let Some((user, secret)) = target {
            let expected = algorithm.response(own_id, secret.as_bytes(), &own);
            let given = key(&proof, "CHAP_R")?.and_then(|text| chap::decode(&text));
            let is_right = given.is_some_and(|given| chap::is_same(&given, &expected));
            if !is_right || key(&proof, "CHAP_N")?.as_ref() != Some(user) {
                return Err(unproved());
            }
        }
        Ok(())
    }

    /// Negotiates the operational keys. Returns the last response.
    async fn operational(&mut self, mut keys: Vec<u8>, url: &Url) -> Result<LoginResponse> {
        let Offer { wanted, require_header_digest, require_data_digest } = offer(url);
        let digest = |is_required| if is_required { "CRC32C" } else { "None,CRC32C" }.to_owned();
        for (name, value) in [
            ("HeaderDigest", digest(require_header_digest)),
            ("DataDigest", digest(require_data_digest)),
            ("MaxRecvDataSegmentLength", SEGMENT_LEN.to_string()),
            ("InitialR2T", "Yes".to_owned()),
            ("ImmediateData", "Yes".to_owned()),
            ("MaxBurstLength", wanted.max_burst_len.to_string()),
            ("FirstBurstLength", wanted.first_burst_len.to_string()),
            ("MaxOutstandingR2T", wanted.max_outstanding_r2t.to_string()),
            ("MaxConnections", "1".to_owned()),
            ("DefaultTime2Wait", wanted.time2wait.to_string()),
            ("DefaultTime2Retain", wanted.time2retain.to_string()),
            ("DataPDUInOrder", "Yes".to_owned()),
            ("DataSequenceInOrder", "Yes".to_owned()),
            ("ErrorRecoveryLevel", "0".to_owned()),
        ] {
            text::push(&mut keys, name, &value);
        }
        for _ in 0..ROUNDS_MAX {
            let (response, answer) =
                self.turn(Stage::Operational, Some(Stage::FullFeature), &keys).await?;
            self.agree(&answer, url)?;
            if response.flags & FINAL != 0 {
                self.check_digests(url)?;
                return Ok(response);
            }
            keys.clear();
        }
        Err(failed("the target does not finish the login"))
    }

    fn agree(&mut self, answer: &[u8], url: &Url) -> Result<()> {
        for (key, value) in pairs(answer)? {
            let is_told = matches!(key, "TargetPortalGroupTag" | "TargetAlias" | "TargetAddress");
            if is_told || matches!(value, "NotUnderstood" | "Irrelevant") {
                continue;
            }
            if negotiate(key, value, &offer(url), &mut self.agreed, false) == Answer::Reject {
                return Err(failed(&format!("the target's {key}={value} is not acceptable")));
            }
        }
        Ok(())
    }

    /// A target may leave a key without an answer, which means the default: no digest.
    fn check_digests(&self, url: &Url) -> Result<()> {
        for (is_required, is_used, what) in [
            (url.header_digest, self.agreed.header_digest, "header"),
            (url.data_digest, self.agreed.data_digest, "data"),
        ] {
            if is_required && !is_used {
                return Err(failed(&format!("the target refuses {what} digests")));
            }
        }
        Ok(())
    }

    /// Sends text. Returns the last response, with the text of all responses.
    async fn turn(
        &mut self,
        stage: Stage,
        next: Option<Stage>,
        text: &[u8],
    ) -> Result<(LoginResponse, Vec<u8>)> {
        let flags = (stage as u8) << 2 | next.map_or(0, |next| FINAL | next as u8);
        let mut answer = Vec::new();
        let mut text = text;
        for _ in 0..ROUNDS_MAX {
            self.send(flags, text).await?;
            let response = self.receive(&mut answer).await?;
            if response.flags & CONTINUE == 0 {
                return Ok((response, answer));
            }
            text = &[];
        }
        Err(failed("the target's text does not end"))
    }

    async fn send(&mut self, flags: u8, text: &[u8]) -> Result<()> {
        let (isid, exp_stat_sn) = (self.isid, self.exp_stat_sn);
        let login = Login { flags, isid, cmd_sn: CMD_SN, exp_stat_sn, ..Login::default() };
        let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
        let mut bytes = login.encode_immediate(len).to_vec();
        bytes.extend(text);
        bytes.extend(std::iter::repeat_n(0, pad_len(text.len())));
        self.stream.write_all(&bytes).await
    }

    async fn receive(&mut self, text: &mut Vec<u8>) -> Result<LoginResponse> {
        let mut bhs = [0; BHS_LEN];
        self.stream.read_exact(&mut bhs).await?;
        let header = Header::parse(&bhs);
        let len = usize::try_from(header.data_len).unwrap_or(usize::MAX);
        let is_login = header.kind() == Some(Opcode::LoginResponse) && header.ahs_len == 0;
        if !is_login || text.len().saturating_add(len) > text::LEN_MAX {
            return Err(failed("the answer is not a login response, or its text is too long"));
        }
        let mut data = vec![0; len + pad_len(len)];
        self.stream.read_exact(&mut data).await?;
        data.truncate(len);
        text.extend(data);
        let response = LoginResponse::parse(&bhs);
        self.exp_stat_sn = response.stat_sn.wrapping_add(1);
        match response.status {
            0 => Ok(response),
            MOVED_TEMPORARILY | MOVED_PERMANENTLY => {
                let address = key(text, "TargetAddress")?;
                // The tag of the portal group may follow.
                let portal = address.as_deref().and_then(|address| address.split(',').next());
                self.moved_to = portal.and_then(host_and_port);
                Err(failed("the target redirects, but not to HOST[:PORT]"))
            }
            0x0201 => Err(Error::new(errno::EPERM, "the target refuses the user or secret")),
            0x0202 => Err(Error::new(errno::EPERM, "the target refuses this initiator")),
            0x0203 => Err(Error::new(errno::ENOENT, "there is no such target")),
            status => Err(failed(&format!("the target refuses the login, status {status:#06x}"))),
        }
    }
}

const MOVED_TEMPORARILY: u16 = LoginStatus::TargetMovedTemporarily as u16;
const MOVED_PERMANENTLY: u16 = LoginStatus::TargetMovedPermanently as u16;

fn unproved() -> Error {
    Error::new(
        errno::EPERM,
        "the target does not prove its identity with target_user and target_password",
    )
}

fn failed(why: &str) -> Error {
    Error::new(errno::EIO, why)
}

fn pairs(text: &[u8]) -> Result<Vec<(&str, &str)>> {
    text::parse(text).map_err(|_| failed("the target's text is malformed"))
}

fn key(text: &[u8], name: &str) -> Result<Option<String>> {
    let found = pairs(text)?.into_iter().find(|(key, _)| *key == name);
    Ok(found.map(|(_, value)| value.to_owned()))
}
