//! The discovery service: its log, referrals, and the events that it sends.

use crate::target::{NQN, Target, listen_address};
use drivebay_nvme_driver::spec::event::AsyncEvent;
use drivebay_nvme_driver::spec::log::{DiscoveryEntry, subtype, trtype};
use drivebay_nvme_driver::spec::nqn::DISCOVERY;
use drivebay_nvme_driver::{Controller, Host, Options};
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn discover(address: SocketAddr) -> Vec<DiscoveryEntry> {
    let mut controller = Controller::connect(Options::new(address, DISCOVERY)).unwrap();
    let entries = controller.discovery_log().unwrap();
    controller.shutdown().unwrap();
    entries
}

/// NQN and port of the entries of one kind, in order.
fn found(entries: &[DiscoveryEntry], kind: u8) -> Vec<(String, String)> {
    let kept = entries.iter().filter(|entry| entry.subtype == kind);
    kept.map(|entry| {
        let port = entry.trsvcid.as_str().unwrap().to_owned();
        (entry.subnqn.as_str().unwrap().to_owned(), port.trim().to_owned())
    })
    .collect()
}

/// A target whose discovery subsystem also listens.
fn with_discovery() -> (Target, SocketAddr) {
    let target = Target::start();
    let address = target.listen(DISCOVERY, Ipv4Addr::LOCALHOST.into());
    (target, address)
}

#[test]
fn the_log_lists_every_subsystem_at_every_listener() {
    let (target, at) = with_discovery();
    let second = target.listen(NQN, Ipv4Addr::LOCALHOST.into());
    let entries = discover(at);
    let mut ports = found(&entries, subtype::NVM);
    ports.sort();
    let mut expected = [target.address, second].map(|a| (NQN.to_owned(), a.port().to_string()));
    expected.sort();
    assert_eq!(ports, expected);
    let entry = entries.iter().find(|entry| entry.subtype == subtype::NVM).unwrap();
    assert_eq!(entry.trtype, trtype::TCP);
    assert_eq!(entry.traddr.as_str().unwrap(), "127.0.0.1");
    assert_eq!(entry.cntlid, 0xffff);
    assert!(entry.asqsz >= 32);
    let itself = found(&entries, subtype::CURRENT_DISCOVERY);
    assert_eq!(itself, [(DISCOVERY.to_owned(), at.port().to_string())]);
}

#[test]
fn a_listener_at_any_address_is_listed_with_the_address_that_the_host_used() {
    let (target, _) = with_discovery();
    let any = target.listen(DISCOVERY, Ipv4Addr::UNSPECIFIED.into());
    let wide = target.listen(NQN, Ipv4Addr::UNSPECIFIED.into());
    let came_by: IpAddr = Ipv4Addr::new(127, 0, 0, 2).into();
    let entries = discover(SocketAddr::new(came_by, any.port()));
    let entry = entries.iter().find(|e| e.trsvcid.as_str() == Some(&wide.port().to_string()));
    let entry = entry.unwrap();
    assert_eq!(entry.traddr.as_str().unwrap(), "127.0.0.2");
    let there = SocketAddr::new(came_by, wide.port());
    Controller::connect(Options::new(there, NQN)).unwrap();
}

#[test]
fn a_host_sees_what_it_may_connect_to() {
    let (target, at) = with_discovery();
    let allow = |allow_any_host| json!({"nqn": NQN, "allow_any_host": allow_any_host});
    target.call("nvmf_subsystem_allow_any_host", allow(false));
    assert!(found(&discover(at), subtype::NVM).is_empty());
    let host = Host::default().nqn;
    target.call("nvmf_subsystem_add_host", json!({"nqn": NQN, "host": host}));
    assert_eq!(found(&discover(at), subtype::NVM).len(), 1);
}

#[test]
fn referrals_come_and_go() {
    let (target, at) = with_discovery();
    let referral =
        |port: u16| json!({"address": listen_address(SocketAddr::from(([127, 0, 0, 1], port)))});
    for port in [20_001, 20_002, 20_003] {
        target.call("nvmf_discovery_add_referral", referral(port));
    }
    let ports = || {
        let mut ports: Vec<String> =
            found(&discover(at), subtype::REFERRAL).into_iter().map(|(_, port)| port).collect();
        ports.sort();
        ports
    };
    assert_eq!(ports(), ["20001", "20002", "20003"]);
    let twice = target.refused("nvmf_discovery_add_referral", referral(20_002));
    assert_eq!(twice.code, -32603, "{twice:?}");
    target.call("nvmf_discovery_remove_referral", referral(20_002));
    assert_eq!(ports(), ["20001", "20003"]);
    target.refused("nvmf_discovery_remove_referral", referral(20_002));
}

#[test]
fn a_long_log_is_read_in_pieces_and_its_generation_counts() {
    let (target, at) = with_discovery();
    for i in 0..100 {
        let nqn = format!("nqn.2026-01.io.drivebay:many-{i}");
        target.add_subsystem(&nqn);
        let params = json!({"nqn": nqn, "listen_address": listen_address(target.address)});
        target.call("nvmf_subsystem_add_listener", params);
    }
    assert_eq!(found(&discover(at), subtype::NVM).len(), 101);
}

#[test]
fn a_change_of_the_log_is_reported_once_until_it_is_read() {
    let (target, at) = with_discovery();
    let mut controller = Controller::connect(Options::new(at, DISCOVERY)).unwrap();
    let changes: [(&str, serde_json::Value); 5] = [
        (
            "nvmf_create_subsystem",
            json!({"nqn": "nqn.2026-01.io.drivebay:x", "allow_any_host": true}),
        ),
        (
            "nvmf_subsystem_add_listener",
            json!({"nqn": "nqn.2026-01.io.drivebay:x", "listen_address": listen_address(at)}),
        ),
        ("nvmf_discovery_add_referral", json!({"address": listen_address(at)})),
        ("nvmf_discovery_remove_referral", json!({"address": listen_address(at)})),
        ("nvmf_delete_subsystem", json!({"nqn": "nqn.2026-01.io.drivebay:x"})),
    ];
    for (method, params) in changes {
        controller.request_event().unwrap();
        assert_eq!(controller.event(Duration::ZERO).unwrap(), None, "{method}");
        target.call(method, params);
        let event = controller.event(20 * SECOND).unwrap();
        assert_eq!(event, Some(AsyncEvent::DISCOVERY_LOG_CHANGE), "{method}");
        controller.discovery_log().unwrap();
    }
    controller.request_event().unwrap();
    target.add_subsystem("nqn.2026-01.io.drivebay:y");
    assert!(controller.event(20 * SECOND).unwrap().is_some());
    // The host has not read the log, so the next change sends no event.
    controller.request_event().unwrap();
    target.add_subsystem("nqn.2026-01.io.drivebay:z");
    assert_eq!(controller.event(SECOND / 5).unwrap(), None);
}
