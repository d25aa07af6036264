//! The addresses at which the target listens.

use crate::host::eventually;
use crate::target::{NQN, Target, free_port, listen_address};
use drivebay_nvme_driver::{Controller, Error, Options};
use serde_json::json;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const LOCAL_4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LOCAL_6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

fn connect(address: SocketAddr) -> Result<Controller, Error> {
    Controller::connect(Options::new(address, NQN))
}

#[test]
fn both_families_and_their_any_addresses_are_reached() {
    let target = Target::start();
    for (listened, from) in [
        (LOCAL_4, LOCAL_4),
        (LOCAL_6, LOCAL_6),
        (Ipv4Addr::UNSPECIFIED.into(), LOCAL_4),
        (Ipv6Addr::UNSPECIFIED.into(), LOCAL_6),
    ] {
        let address = target.listen(NQN, listened);
        let controller = connect(SocketAddr::new(from, address.port()));
        controller.unwrap_or_else(|error| panic!("{listened}: {error}")).shutdown().unwrap();
    }
}

#[test]
fn an_any_address_of_one_family_does_not_take_the_others_connections() {
    let target = Target::start();
    let six = target.listen(NQN, Ipv6Addr::UNSPECIFIED.into());
    let error = connect(SocketAddr::new(LOCAL_4, six.port())).unwrap_err();
    assert!(
        matches!(&error, Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused),
        "{error}"
    );
    let four = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), six.port());
    let params = json!({"nqn": NQN, "listen_address": listen_address(four)});
    target.call("nvmf_subsystem_add_listener", params);
    connect(SocketAddr::new(LOCAL_4, six.port())).unwrap();
}

#[test]
fn a_port_in_use_is_said_so_and_nothing_is_left_behind() {
    let target = Target::start();
    let taken = std::net::TcpListener::bind((LOCAL_4, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let params = json!({"nqn": NQN, "listen_address": listen_address(address)});
    let refused = target.refused("nvmf_subsystem_add_listener", params.clone());
    assert_eq!(refused.code, -32602);
    assert!(refused.message.contains(&format!("listening on {address}")), "{refused:?}");
    assert!(refused.message.contains("in use"), "{refused:?}");
    let listeners = target.call("nvmf_subsystem_get_listeners", json!({"nqn": NQN}));
    assert_eq!(listeners.as_array().unwrap().len(), 1);
    drop(taken);
    target.call("nvmf_subsystem_add_listener", params.clone());
    connect(address).unwrap();
    // Adding the same listener twice gives a different error than adding a port that another
    // program uses.
    let refused = target.refused("nvmf_subsystem_add_listener", params);
    assert!(refused.message.contains("already"), "{refused:?}");
}

#[test]
fn an_address_is_the_same_however_it_is_written() {
    let target = Target::start();
    let port = free_port(LOCAL_6).port();
    let at = |traddr: &str, trsvcid: String| {
        let address =
            json!({"trtype": "tcp", "adrfam": "ipv6", "traddr": traddr, "trsvcid": trsvcid});
        json!({"nqn": NQN, "listen_address": address})
    };
    target.call("nvmf_subsystem_add_listener", at("0:0:0:0:0:0:0:1", format!("0{port}")));
    connect(SocketAddr::new(LOCAL_6, port)).unwrap();
    let twice = target.refused("nvmf_subsystem_add_listener", at("::1", port.to_string()));
    assert!(twice.message.contains("already"), "{twice:?}");
    target.call("nvmf_subsystem_remove_listener", at("::0001", port.to_string()));
    assert!(connect(SocketAddr::new(LOCAL_6, port)).is_err());
}

#[test]
fn any_addresses_of_both_families_share_a_port_and_one_goes_without_the_others_hosts() {
    let target = Target::start();
    let six = target.listen(NQN, Ipv6Addr::UNSPECIFIED.into());
    let four = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), six.port());
    let params = |address| json!({"nqn": NQN, "listen_address": listen_address(address)});
    target.call("nvmf_subsystem_add_listener", params(four));
    let [mut by_four, mut by_six] =
        [LOCAL_4, LOCAL_6].map(|ip| connect(SocketAddr::new(ip, six.port())).unwrap());
    target.call("nvmf_subsystem_remove_listener", params(four));
    eventually("those of the removed listener end", || by_four.keep_alive().err());
    by_six.keep_alive().unwrap();
}

#[test]
fn an_address_of_another_machine_and_a_name_are_refused() {
    let target = Target::start();
    for (traddr, expected) in [("192.0.2.1", "listening on 192.0.2.1"), ("localhost", "localhost")]
    {
        let mut listen = listen_address(free_port(LOCAL_4));
        listen["traddr"] = traddr.into();
        let params = json!({"nqn": NQN, "listen_address": listen});
        let refused = target.refused("nvmf_subsystem_add_listener", params);
        assert!(refused.message.contains(expected), "{refused:?}");
    }
}

#[test]
fn a_removed_listener_is_not_reached_any_more_and_may_come_again() {
    let target = Target::start();
    let params = json!({"nqn": NQN, "listen_address": listen_address(target.address)});
    let mut controller = target.connect();
    target.call("nvmf_subsystem_remove_listener", params.clone());
    eventually("its connections end", || controller.keep_alive().err());
    assert!(connect(target.address).is_err());
    target.call("nvmf_subsystem_add_listener", params);
    connect(target.address).unwrap();
}

#[test]
fn two_subsystems_share_a_listener_and_the_last_to_go_closes_it() {
    let target = Target::start();
    let other = "nqn.2026-01.io.drivebay:other";
    target.add_subsystem(other);
    let listen = |nqn| json!({"nqn": nqn, "listen_address": listen_address(target.address)});
    // Only the first subsystem listens here, so the second one cannot be reached.
    assert!(Controller::connect(Options::new(target.address, other)).is_err());
    target.call("nvmf_subsystem_add_listener", listen(other));
    Controller::connect(Options::new(target.address, other)).unwrap();
    target.call("nvmf_subsystem_remove_listener", listen(NQN));
    assert!(matches!(connect(target.address), Err(Error::Status { .. })));
    Controller::connect(Options::new(target.address, other)).unwrap();
    target.call("nvmf_subsystem_remove_listener", listen(other));
    assert!(matches!(connect(target.address), Err(Error::Io(_))));
}
