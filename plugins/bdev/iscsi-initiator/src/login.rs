//! Connects to a portal and logs in. RFC 7143, sections 6 and 11.12. `[any lightweight thread]`

use std::time::Duration;

use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::net::{self, Address, Stream};
use drivebay_sdk::runtime::task;
use drivebay_spec_iscsi::chap::{self, Algorithm};
use drivebay_spec_iscsi::negotiation::{Agreed, Answer, Offer, negotiate};
use drivebay_spec_iscsi::pdu::{CONTINUE, FINAL, Login, LoginResponse, Stage};
use drivebay_spec_iscsi::{BHS_LEN, Header, Opcode, pad_len, text};

use crate::disk::Place;
use crate::session::{Payload, SEGMENT_LEN, Session};

/// Time limit of a login when the operator sets none.
const LIMIT: Duration = Duration::from_secs(30);
/// Maximum number of exchanges of a login.
const ROUNDS_MAX: usize = 16;
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
    let stream = connect(place, limit).await?;
    let mut login = Exchange { stream, isid, exp_stat_sn: 0, agreed: Agreed::default() };
    let mut names = Vec::new();
    text::push(&mut names, "InitiatorName", &place.initiator);
    text::push(&mut names, "SessionType", "Normal");
    text::push(&mut names, "TargetName", &place.url.target);
    if let Some((user, secret)) = &place.url.chap {
        login.authenticate(std::mem::take(&mut names), user, secret).await?;
    }
    let last = login.operational(names).await?;
    let Exchange { stream, agreed, exp_stat_sn, .. } = login;
    let (cmd_sn, max_cmd_sn) = (last.exp_cmd_sn, last.max_cmd_sn);
    Ok((stream, Session::new(place.url.lun, agreed, cmd_sn, max_cmd_sn, exp_stat_sn)))
}

async fn connect(place: &Place, limit: Duration) -> Result<Stream> {
    let mut last = Error::new(errno::ENOENT, "the name of the host has no address");
    for address in Address::resolve(&place.url.host, place.url.port).await? {
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
}

/// What the initiator wants. The target decides on digests.
fn offer() -> Offer {
    let wanted = Agreed {
        header_digest: true,
        data_digest: true,
        max_burst_len: 1 << 20,
        time2retain: 0,
        ..Agreed::default()
    };
    Offer { wanted, require_header_digest: false, require_data_digest: false }
}

impl Exchange {
    /// One-way CHAP.
    async fn authenticate(&mut self, mut names: Vec<u8>, user: &str, secret: &str) -> Result<()> {
        text::push(&mut names, "AuthMethod", "CHAP,None");
        let (_, answer) = self.turn(Stage::Security, None, &names).await?;
        if key(&answer, "AuthMethod")?.as_deref() == Some("CHAP") {
            let mut ask = Vec::new();
            text::push(&mut ask, "CHAP_A", "7,5");
            let (_, challenge) = self.turn(Stage::Security, None, &ask).await?;
            let wrong = || failed("the target's challenge for CHAP is incomplete");
            let chosen = key(&challenge, "CHAP_A")?.ok_or_else(wrong)?;
            let algorithm = Algorithm::choose(&chosen).ok_or_else(wrong)?;
            let id = key(&challenge, "CHAP_I")?.and_then(|id| text::number(&id));
            let id = id.and_then(|id| u8::try_from(id).ok()).ok_or_else(wrong)?;
            let bytes = key(&challenge, "CHAP_C")?.and_then(|text| chap::decode(&text));
            let response = algorithm.response(id, secret.as_bytes(), &bytes.ok_or_else(wrong)?);
            let mut answer = Vec::new();
            text::push(&mut answer, "CHAP_N", user);
            text::push(&mut answer, "CHAP_R", &chap::encode(&response));
            self.turn(Stage::Security, Some(Stage::Operational), &answer).await?;
        } else {
            self.turn(Stage::Security, Some(Stage::Operational), &[]).await?;
        }
        Ok(())
    }

    /// Negotiates the operational keys. Returns the last response.
    async fn operational(&mut self, mut keys: Vec<u8>) -> Result<LoginResponse> {
        let wanted = offer().wanted;
        for (name, value) in [
            ("HeaderDigest", "None,CRC32C".to_owned()),
            ("DataDigest", "None,CRC32C".to_owned()),
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
            self.agree(&answer)?;
            if response.flags & FINAL != 0 {
                return Ok(response);
            }
            keys.clear();
        }
        Err(failed("the target does not finish the login"))
    }

    fn agree(&mut self, answer: &[u8]) -> Result<()> {
        for (key, value) in pairs(answer)? {
            let is_told = matches!(key, "TargetPortalGroupTag" | "TargetAlias" | "TargetAddress");
            if is_told || matches!(value, "NotUnderstood" | "Irrelevant") {
                continue;
            }
            if negotiate(key, value, &offer(), &mut self.agreed, false) == Answer::Reject {
                return Err(failed(&format!("the target's {key}={value} is not acceptable")));
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
            0x0201 => Err(Error::new(errno::EPERM, "the target refuses the user or secret")),
            0x0202 => Err(Error::new(errno::EPERM, "the target refuses this initiator")),
            0x0203 => Err(Error::new(errno::ENOENT, "there is no such target")),
            status => Err(failed(&format!("the target refuses the login, status {status:#06x}"))),
        }
    }
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
