//! Logins, PDU by PDU, without sockets.

#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

use super::*;
use crate::model::target::Map;
use crate::model::{InitiatorGroup, Portal, PortalGroup};
use drivebay_spec_iscsi::pad_len;
use drivebay_spec_iscsi::pdu::{LoginResponse, TextResponse};

const NAME: &str = "InitiatorName=iqn.2001-04.com.example:h\0";

fn model() -> Model {
    let mut model = Model::default();
    let portals = vec![Portal { host: "0.0.0.0".into(), port: "3260".into() }];
    let chap = ChapPolicy::default();
    model.portal_groups.insert(1, PortalGroup { portals, is_private: false, chap });
    let mut group = InitiatorGroup::default();
    group.add(&["iqn.2001-04.com.example:h".into()], &["127.0.0.0/8".into()]).unwrap();
    model.initiator_groups.insert(2, group);
    for name in ["iqn.2016-06.io.spdk:a", "iqn.2016-06.io.spdk:b"] {
        let maps =
            if name.ends_with('a') { vec![Map { pg_tag: 1, ig_tag: 2 }] } else { Vec::new() };
        let target = Target {
            name: name.into(),
            alias: String::new(),
            maps,
            luns: std::collections::BTreeMap::new(),
            queue_depth: 8,
            chap: ChapPolicy::default(),
            header_digest: false,
            data_digest: false,
            redirects: std::collections::BTreeMap::new(),
            id: 0,
            has_histogram: false,
        };
        model.targets.insert(name.into(), target);
    }
    model
}

struct Bench {
    model: Model,
    registry: Registry,
    login: Login,
}

impl Bench {
    fn new() -> Self {
        let (local, peer) = ("127.0.0.1:3260", "127.0.0.1:9");
        let login = Login::new(1, local.parse().unwrap(), peer.parse().unwrap());
        Self { model: model(), registry: Registry::default(), login }
    }

    fn send(&mut self, bhs: [u8; BHS_LEN], text: &str) -> Progress {
        let mut bytes = bhs.to_vec();
        bytes.extend(text.as_bytes());
        bytes.resize(bytes.len() + pad_len(text.len()), 0);
        self.login.inbox().push(&bytes);
        let mut context = Context { model: &self.model, registry: &mut self.registry };
        self.login.work(&mut context)
    }

    /// Handles a login PDU: returns its outcome, the status, and the text of the answer.
    fn login(&mut self, flags: u8, text: &str) -> (Progress, u16, String) {
        let login = pdu::Login { flags, isid: [1; 6], cmd_sn: 7, ..pdu::Login::default() };
        let progress = self.send(login.encode_immediate(text.len() as u32), text);
        let sent = self.login.outbox().take_all();
        let Some(bhs) = sent.first_chunk() else { return (progress, u16::MAX, String::new()) };
        let response = LoginResponse::parse(bhs);
        (progress, response.status, String::from_utf8_lossy(&sent[BHS_LEN..]).into_owned())
    }
}

fn normal(target: &str) -> String {
    format!("{NAME}SessionType=Normal\0TargetName=iqn.2016-06.io.spdk:{target}\0")
}

#[test]
fn a_login_in_one_step_negotiates_and_hands_the_connection_over() {
    let mut bench = Bench::new();
    let text = normal("a") + "HeaderDigest=CRC32C,None\0MaxBurstLength=4096\0InitialR2T=No\0";
    let (progress, status, answer) = bench.login(0x87, &text);
    assert_eq!(status, 0);
    for pair in
        ["HeaderDigest=CRC32C", "MaxBurstLength=4096", "InitialR2T=Yes", "TargetPortalGroupTag=1"]
    {
        assert!(answer.contains(pair), "{answer}");
    }
    let Progress::Ready(new, target, None) = progress else { panic!("{progress:?}") };
    assert_eq!((target.as_str(), new.exp_cmd_sn, new.depth), ("iqn.2016-06.io.spdk:a", 7, 8));
    assert!(new.agreed.header_digest && new.agreed.max_burst_len == 4096);
    assert_eq!(bench.registry.iter().count(), 1);
}

#[test]
fn security_comes_first_where_the_initiator_begins_there() {
    let mut bench = Bench::new();
    let (_, status, answer) = bench.login(0x81, &(normal("a") + "AuthMethod=CHAP,None\0"));
    assert_eq!(status, 0);
    assert!(answer.contains("AuthMethod=None"));
    let (progress, status, _) = bench.login(0x87, "MaxBurstLength=512\0");
    assert_eq!(status, 0);
    assert!(matches!(progress, Progress::Ready(..)));
}

#[test]
fn what_is_wrong_is_reported_by_its_status() {
    for (flags, text, status) in [
        (0x87, "SessionType=Normal\0".to_owned(), LoginStatus::MissingParameter),
        (0x87, NAME.to_owned(), LoginStatus::MissingParameter),
        (0x87, normal("nobody"), LoginStatus::NotFound),
        (0x87, normal("b"), LoginStatus::AuthorizationFailure),
        (0x87, format!("{NAME}SessionType=Odd\0"), LoginStatus::SessionTypeNotSupported),
        (
            0x87,
            normal("a") + "MaxBurstLength=512\0MaxBurstLength=512\0",
            LoginStatus::InitiatorError,
        ),
        (0x87, "no pair\0".to_owned(), LoginStatus::InitiatorError),
        (0x84, normal("a"), LoginStatus::InvalidDuringLogin),
        (0x81, normal("a") + "AuthMethod=SPKM1\0", LoginStatus::AuthenticationFailure),
    ] {
        let mut bench = Bench::new();
        let (progress, told, _) = bench.login(flags, &text);
        assert_eq!(told, status as u16, "{text}");
        assert!(matches!(progress, Progress::Over));
        assert_eq!(bench.registry.iter().count(), 0);
    }
}

#[test]
fn where_chap_is_required_nothing_goes_without_it() {
    for flags in [0x87, 0x83, 0x81] {
        let mut bench = Bench::new();
        let chap = ChapPolicy::new(false, true, false, 1).unwrap();
        bench.model.targets.get_mut("iqn.2016-06.io.spdk:a").unwrap().chap = chap;
        let (progress, status, answer) = bench.login(flags, &normal("a"));
        assert_eq!(status, LoginStatus::AuthenticationFailure as u16, "{flags:x} {answer}");
        assert!(matches!(progress, Progress::Over));
    }
}

#[test]
fn a_required_digest_cannot_be_passed_over() {
    let mut bench = Bench::new();
    bench.model.targets.get_mut("iqn.2016-06.io.spdk:a").unwrap().data_digest = true;
    assert_eq!(bench.login(0x87, &normal("a")).1, LoginStatus::InitiatorError as u16);
}

#[test]
fn text_may_come_in_several_pdus() {
    let mut bench = Bench::new();
    let text = normal("a");
    let (first, rest) = text.split_at(20);
    assert_eq!(bench.login(0x44, first).1, 0);
    let (progress, status, _) = bench.login(0x87, rest);
    assert_eq!(status, 0);
    assert!(matches!(progress, Progress::Ready(..)));
}

#[test]
fn discovery_tells_only_what_the_initiator_may_use() {
    let mut bench = Bench::new();
    assert_eq!(bench.login(0x87, &format!("{NAME}SessionType=Discovery\0")).1, 0);
    let text = "SendTargets=All\0";
    let request = pdu::Text { flags: FINAL, itt: 1, ttt: u32::MAX, ..pdu::Text::default() };
    bench.send(request.encode(text.len() as u32), text);
    let sent = bench.login.outbox().take_all();
    let response = TextResponse::parse(sent.first_chunk().unwrap());
    assert_eq!((response.flags, response.itt), (FINAL, 1));
    let answer = String::from_utf8_lossy(&sent[BHS_LEN..]);
    let expected = "TargetName=iqn.2016-06.io.spdk:a\0TargetAddress=127.0.0.1:3260,1\0";
    assert_eq!(answer.trim_end_matches('\0'), expected.trim_end_matches('\0'));
    let logout = pdu::Logout { reason: FINAL, itt: 2, ..pdu::Logout::default() };
    assert!(matches!(bench.send(logout.encode_immediate(0), ""), Progress::Over));
}

#[test]
fn discovery_without_authority_tells_nothing() {
    // The portal group requires CHAP.
    for flags in [0x87, 0x83] {
        let mut bench = Bench::new();
        let group = bench.model.portal_groups.get_mut(&1).unwrap();
        group.chap = ChapPolicy::new(false, true, false, 1).unwrap();
        let (progress, status, answer) =
            bench.login(flags, &format!("{NAME}SessionType=Discovery\0"));
        assert_eq!(status, LoginStatus::AuthenticationFailure as u16);
        assert!(matches!(progress, Progress::Over) && !answer.contains("spdk"), "{answer}");
    }
    // The initiator is in no group, whatever it asks for.
    for text in ["SendTargets=All\0", "SendTargets=iqn.2016-06.io.spdk:a\0"] {
        let mut bench = Bench::new();
        let stranger = "InitiatorName=iqn.2001-04.com.example:x\0SessionType=Discovery\0";
        assert_eq!(bench.login(0x87, stranger).1, 0);
        let request = pdu::Text { flags: FINAL, itt: 1, ttt: u32::MAX, ..pdu::Text::default() };
        bench.send(request.encode(text.len() as u32), text);
        let sent = bench.login.outbox().take_all();
        assert!(!String::from_utf8_lossy(&sent).contains("spdk"), "{text}");
    }
}

#[test]
fn a_discovery_session_handles_no_more_requests_until_its_answers_are_sent() {
    let mut bench = Bench::new();
    assert_eq!(bench.login(0x87, &format!("{NAME}SessionType=Discovery\0")).1, 0);
    let (data, request) = ("x".repeat(8192), pdu::NopOut { itt: 1, ..pdu::NopOut::default() });
    for _ in 0..100 {
        bench.send(request.encode(8192), &data);
    }
    let len = bench.login.outbox().len();
    assert!((256 << 10..272 << 10).contains(&len), "{len}");
    let mut sent = 0;
    while !bench.login.outbox().is_empty() {
        sent += bench.login.outbox().take_all().len();
        let mut context = Context { model: &bench.model, registry: &mut bench.registry };
        bench.login.work(&mut context);
    }
    assert_eq!(sent, 100 * (BHS_LEN + 8192));
}

#[test]
fn a_target_that_is_deleted_during_its_login_is_not_found() {
    let mut bench = Bench::new();
    assert_eq!(bench.login(0x81, &(normal("a") + "AuthMethod=None\0")).1, 0);
    bench.model.targets.clear();
    let (progress, status, _) = bench.login(0x87, "MaxBurstLength=512\0");
    assert_eq!(status, LoginStatus::NotFound as u16);
    assert!(matches!(progress, Progress::Over));
    assert_eq!(bench.registry.iter().count(), 0);
}

#[test]
fn a_target_that_moved_says_where() {
    let mut bench = Bench::new();
    let to = ("10.0.0.1".to_owned(), "3260".to_owned());
    bench.model.targets.get_mut("iqn.2016-06.io.spdk:a").unwrap().redirects.insert(1, to);
    let (_, status, answer) = bench.login(0x87, &normal("a"));
    assert_eq!(status, LoginStatus::TargetMovedTemporarily as u16);
    assert!(answer.starts_with("TargetAddress=10.0.0.1:3260\0"), "{answer}");
}
