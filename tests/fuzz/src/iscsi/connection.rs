//! A connection to a target, from its first byte: a login, then a discovery session, or a session with commands. Whatever the initiator
//! sends, nobody who must prove their identity and does not gets in or learns of a target, every answer is a PDU with right digests,
//! and nothing is left at the end.
//!
//! The input is a script: a byte with the target's requirements, then steps. The corpus has recorded sessions of libiscsi as scripts.
//! A PDU gets right lengths and digests unless its step says otherwise, so that the fuzzer also reaches the code behind their checks.

use super::disks::{self, Disks, target};
use super::wire::{self, Digests};
use crate::connection::{Framing, Inbox};
use crate::login::{Context, Login, Progress, Registry};
use crate::model::target::Map;
use crate::model::{
    AuthGroup, ChapPolicy, InitiatorGroup, Model, Portal, PortalGroup, Secret, Target,
};
use crate::node::Node;
use crate::script::Script;
use drivebay_spec_iscsi::chap::{self, Algorithm};
use drivebay_spec_iscsi::pdu::{FINAL, LoginResponse, Stage};
use drivebay_spec_iscsi::{BHS_LEN, Header, Opcode, text};
use std::collections::BTreeMap;

const TARGET: &str = "iqn.2016-06.io.spdk:disk1";
const INITIATOR: &str = "iqn.2001-04.com.example:host1";
const SECRET: &str = "secret-of-the-host";

/// Most steps of a script.
const STEPS: usize = 400;

// Bits of a step.
/// The kind of a step: 0 to 4 = a PDU, 5 = bytes, 6 = time, 7 = the end of I/Os.
const KIND: u8 = 0x07;
/// The I/Os do not end after this step.
const HANGS: u8 = 0x08;
/// The PDU's last digest is wrong.
const CORRUPT: u8 = 0x10;
/// The PDU's text gets the right response to the target's challenge.
const PROVE: u8 = 0x20;
/// The PDU keeps the lengths that its header says.
const KEEP_LENGTHS: u8 = 0x40;

pub(crate) fn script(data: &[u8]) {
    let mut script = Script(data);
    let mut wire = Wire::new(script.number());
    for _ in 0..STEPS {
        let Some(how) = script.byte() else { break };
        match how & KIND {
            0..=4 => {
                let bytes = record(&mut script);
                wire.send_pdu(how, bytes);
            }
            5 => {
                let bytes = record(&mut script);
                wire.send(bytes);
            }
            6 => wire.wait(script.number()),
            _ => wire.end_ios(),
        }
        wire.hear_all();
        if how & HANGS == 0 {
            wire.end_ios();
        }
    }
    wire.end();
}

/// Two bytes of length, then that many bytes.
fn record<'a>(script: &mut Script<'a>) -> &'a [u8] {
    let len = u16::from_le_bytes([script.number(), script.number()]);
    script.bytes(len.into())
}

/// The connection, and what the initiator knows of it.
struct Wire {
    model: Model,
    registry: Registry,
    phase: Phase,
    now_ns: u64,
    digests: Digests,
    is_full_feature: bool,
    /// The target's challenge: algorithm, identifier, challenge.
    challenge: Option<(Algorithm, u8, Vec<u8>)>,
    /// The initiator has sent the right response.
    has_proved: bool,
}

enum Phase {
    /// A login, or a discovery session.
    Login(Box<Login>),
    /// Full feature phase, with the number of its link.
    Node(Box<Node<Disks>>, u32),
    Over,
}

impl Wire {
    fn new(bits: u8) -> Self {
        let (local, peer) = ("127.0.0.1:3260".parse().unwrap(), "127.0.0.1:9".parse().unwrap());
        Self {
            model: model(bits),
            registry: Registry::default(),
            phase: Phase::Login(Box::new(Login::new(1, local, peer))),
            now_ns: 0,
            digests: Digests::default(),
            is_full_feature: false,
            challenge: None,
            has_proved: false,
        }
    }

    fn send_pdu(&mut self, how: u8, bytes: &[u8]) {
        let mut bhs = [0; BHS_LEN];
        let len = bytes.len().min(BHS_LEN);
        bhs[..len].copy_from_slice(&bytes[..len]);
        let mut data = bytes[len..].to_vec();
        if how & PROVE != 0 {
            self.prove(&mut data);
        }
        if how & KEEP_LENGTHS == 0 {
            wire::set_data_len(&mut bhs, data.len());
        }
        let digests = if self.is_full_feature { self.digests } else { Digests::default() };
        let mut pdu = wire::pdu(&bhs, &data, digests);
        if how & CORRUPT != 0 {
            wire::corrupt(&mut pdu);
        }
        self.send(&pdu);
    }

    /// Replaces CHAP_R by the right response, if the target has sent a challenge.
    fn prove(&mut self, data: &mut Vec<u8>) {
        let (Some((algorithm, id, challenge)), Ok(pairs)) = (&self.challenge, text::parse(data))
        else {
            return;
        };
        let mut proved = Vec::new();
        for (key, value) in pairs {
            if key == "CHAP_R" {
                let response = algorithm.response(*id, SECRET.as_bytes(), challenge);
                text::push(&mut proved, key, &chap::encode(&response));
                self.has_proved = true;
            } else {
                text::push(&mut proved, key, value);
            }
        }
        *data = proved;
    }

    fn send(&mut self, bytes: &[u8]) {
        match &mut self.phase {
            Phase::Login(login) => {
                login.inbox().push(bytes);
                let mut context = Context { model: &self.model, registry: &mut self.registry };
                match login.work(&mut context) {
                    Progress::Waits => {}
                    Progress::Over => {
                        self.hear_all();
                        self.phase = Phase::Over;
                    }
                    Progress::Ready(new, name, replaced) => {
                        // The case of names does not matter.
                        let names = [(&name, TARGET), (&new.initiator, INITIATOR)];
                        for (given, known) in names {
                            assert!(given.eq_ignore_ascii_case(known), "{given} is not {known}");
                        }
                        assert_eq!(replaced, None, "there is no other session");
                        assert!(new.agreed.peer_segment_len >= 512);
                        self.check_proof("a login");
                        self.hear_all();
                        let (header, data) = (new.agreed.header_digest, new.agreed.data_digest);
                        self.digests = Digests { header, data };
                        self.is_full_feature = true;
                        let mut node = target(TARGET, 64);
                        let link = node.attach(*new);
                        node.receive(link, 0);
                        self.phase = Phase::Node(Box::new(node), link);
                    }
                }
            }
            Phase::Node(node, link) => {
                if let Some(inbox) = node.inbox(*link) {
                    inbox.push(bytes);
                    node.receive(*link, bytes.len());
                }
            }
            Phase::Over => {}
        }
    }

    fn check_proof(&self, what: &str) {
        let is_required = self.model.targets[TARGET].chap.required;
        assert!(!is_required || self.has_proved, "{what} without a secret");
    }

    /// Reads the answers.
    fn hear_all(&mut self) {
        let bytes = match &mut self.phase {
            Phase::Login(login) => login.outbox().take_all(),
            Phase::Node(node, link) => {
                let bytes = node.link_mut(*link).map(|link| link.outbox().take_all());
                node.sent(*link);
                bytes.unwrap_or_default()
            }
            Phase::Over => return,
        };
        let mut inbox = Inbox::default();
        inbox.push(&bytes);
        loop {
            let framing = Framing {
                header_digest: self.is_full_feature && self.digests.header,
                data_digest: self.is_full_feature && self.digests.data,
                data_len_max: 1 << 24,
            };
            let Some(frame) = inbox.front(&framing).expect("the target sends right digests") else {
                break;
            };
            let data = inbox.data(&frame).to_vec();
            inbox.consume(&frame);
            self.hear(&frame.bhs, &data);
        }
        assert_eq!(inbox.rest(), b"", "the target sends whole PDUs");
    }

    fn hear(&mut self, bhs: &[u8; BHS_LEN], data: &[u8]) {
        match Header::parse(bhs).kind().expect("a known opcode") {
            Opcode::LoginResponse => {
                let response = LoginResponse::parse(bhs);
                self.learn(&text::parse(data).expect("the target sends pairs"));
                let last = FINAL | Stage::FullFeature as u8;
                self.is_full_feature |= response.flags & last == last;
            }
            Opcode::TextResponse => {
                let tells = data.windows(TARGET.len()).any(|part| part == TARGET.as_bytes());
                if tells {
                    self.check_proof("a discovery");
                }
            }
            _ => {}
        }
    }

    fn learn(&mut self, pairs: &[(&str, &str)]) {
        let value = |key| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        self.digests.header |= value("HeaderDigest") == Some("CRC32C");
        self.digests.data |= value("DataDigest") == Some("CRC32C");
        if let (Some(algorithm), Some(id), Some(challenge)) =
            (value("CHAP_A"), value("CHAP_I"), value("CHAP_C"))
        {
            let algorithm = Algorithm::choose(algorithm).expect("an offered algorithm");
            let challenge = chap::decode(challenge).expect("a challenge");
            self.challenge = Some((algorithm, id.parse().expect("an identifier"), challenge));
        }
    }

    /// Lets time pass, in units of 100 ms.
    fn wait(&mut self, units: u8) {
        self.now_ns += u64::from(units) * 100_000_000;
        if let Phase::Node(node, _) = &mut self.phase {
            node.tick(self.now_ns);
        }
    }

    /// Ends all I/Os, also those that follow when there is room for answers.
    fn end_ios(&mut self) {
        while let Phase::Node(node, _) = &mut self.phase {
            if !disks::end_all(node) {
                break;
            }
            self.hear_all();
        }
    }

    fn end(self) {
        if let Phase::Node(node, link) = self.phase {
            disks::end(*node, &[link]);
        }
    }
}

/// A configuration with one target. `bits` selects its requirements: CHAP in bits 0 to 3, digests in bits 4 and 5.
fn model(bits: u8) -> Model {
    let mut model = Model::default();
    let chap = ChapPolicy {
        disabled: bits & 1 != 0,
        required: bits & 2 != 0,
        mutual: bits & 4 != 0,
        group: i32::from(bits & 8 != 0),
    };
    let portals = vec![Portal { host: "0.0.0.0".into(), port: "3260".into() }];
    model.portal_groups.insert(1, PortalGroup { portals, is_private: false, chap });
    let mut group = InitiatorGroup::default();
    group.add(&[INITIATOR.into()], &["127.0.0.0/8".into()]).unwrap();
    model.initiator_groups.insert(1, group);
    let mut secrets = AuthGroup::default();
    let mutual = Some(("target".into(), "secret-of-the-target".into()));
    secrets.add(Secret { user: "host".into(), secret: SECRET.into(), mutual }).unwrap();
    model.auth_groups.insert(1, secrets);
    let target = Target {
        name: TARGET.into(),
        alias: "first".into(),
        maps: vec![Map { pg_tag: 1, ig_tag: 1 }],
        luns: BTreeMap::new(),
        queue_depth: 8,
        chap,
        header_digest: bits & 16 != 0,
        data_digest: bits & 32 != 0,
        redirects: BTreeMap::new(),
        id: 0,
        has_histogram: false,
    };
    model.targets.insert(TARGET.into(), target);
    model
}
