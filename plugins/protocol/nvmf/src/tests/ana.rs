//! Asymmetric namespace access.

use super::*;

/// A target that reports ANA and listens at ports 1 and 2. Namespace 1 is in group 1.
fn target_with_ana() -> Target {
    let target = Target::start();
    target.call("nvmf_delete_subsystem", json!({"nqn": NQN}));
    let subsystem = json!({"nqn": NQN, "allow_any_host": true, "ana_reporting": true});
    target.call("nvmf_create_subsystem", subsystem);
    assert_eq!(target.add_ns("disk"), 1);
    for port in ["1", "2"] {
        target.call(
            "nvmf_subsystem_add_listener",
            json!({"nqn": NQN, "listen_address": fake_at(port)}),
        );
    }
    target
}

fn fake_at(port: &str) -> Value {
    json!({"trtype": "fake", "traddr": "127.0.0.1", "trsvcid": port})
}

fn ana_state(port: &str, state: &str, group: u32) -> Value {
    json!({"nqn": NQN, "listen_address": fake_at(port), "ana_state": state, "anagrpid": group})
}

#[test]
fn io_by_a_listener_that_does_not_serve_the_group_ends_with_the_path_status_and_reaches_no_disk() {
    let target = target_with_ana();
    let (_admin, io) = target.controller();
    for (state, status) in [
        ("inaccessible", Status::ANA_INACCESSIBLE),
        ("persistent_loss", Status::ANA_PERSISTENT_LOSS),
        ("change", Status::ANA_TRANSITION),
    ] {
        target.call("nvmf_subsystem_listener_set_ana_state", ana_state("1", state, 1));
        io.read(&blocks(0, 0).to_command(nvm::READ), 512);
        let (completion, data) = target.response(&io);
        assert_eq!((completion.status, data.len()), (status, 0), "{state}");
        io.write(&blocks(0, 0).to_command(nvm::WRITE), &[1; 512]);
        assert_eq!(target.status(&io), status, "{state}");
        io.command(&Command::new(nvm::FLUSH).with_nsid(1));
        assert_eq!(target.status(&io), status, "{state}");
        let (copy, sources) = copy_of(40, &[(0, 0)]);
        io.write(&copy, &sources);
        assert_eq!(target.status(&io), status, "{state}");
    }
    assert_eq!(disk::ops(), []);
    target.call("nvmf_subsystem_listener_set_ana_state", ana_state("1", "non_optimized", 0));
    io.read(&blocks(0, 0).to_command(nvm::READ), 512);
    assert_eq!(target.status(&io), Status::SUCCESS);
}

#[test]
fn other_listeners_and_other_groups_are_served_as_before() {
    let target = target_with_ana();
    let (_admin, io) = target.controller();
    target.call("nvmf_subsystem_listener_set_ana_state", ana_state("2", "inaccessible", 0));
    target.call("nvmf_subsystem_listener_set_ana_state", ana_state("1", "inaccessible", 7));
    io.read(&blocks(0, 0).to_command(nvm::READ), 512);
    assert_eq!(target.status(&io), Status::SUCCESS);
    let group = json!({"nqn": NQN, "nsid": 1, "anagrpid": 7});
    target.call("nvmf_subsystem_set_ns_ana_group", group);
    io.read(&blocks(0, 0).to_command(nvm::READ), 512);
    assert_eq!(target.status(&io), Status::ANA_INACCESSIBLE, "the namespace has moved");
}

#[test]
fn a_namespace_that_is_added_to_a_refused_group_is_refused_from_the_start() {
    let target = target_with_ana();
    target.call("nvmf_subsystem_listener_set_ana_state", ana_state("1", "inaccessible", 0));
    target.call("nvmf_subsystem_remove_ns", json!({"nqn": NQN, "nsid": 1}));
    let (_admin, io) = target.controller();
    assert_eq!(target.add_ns("disk"), 1);
    io.read(&blocks(0, 0).to_command(nvm::READ), 512);
    assert_eq!(target.status(&io), Status::ANA_INACCESSIBLE);
}

#[test]
fn the_hosts_of_a_listener_hear_of_its_change_and_those_of_another_do_not() {
    let target = target_with_ana();
    let (admin, _io) = target.controller();
    admin.command(&Command::new(admin::ASYNC_EVENT_REQUEST).with_cid(4));
    target.call("nvmf_subsystem_listener_set_ana_state", ana_state("2", "inaccessible", 1));
    target.call("nvmf_subsystem_listener_set_ana_state", ana_state("1", "optimized", 1));
    target.run();
    assert!(admin.ends().received.is_empty(), "nothing has changed here");
    target.call("nvmf_subsystem_listener_set_ana_state", ana_state("1", "inaccessible", 1));
    let (completion, _) = target.response(&admin);
    assert_eq!((completion.cid, completion.dw0()), (4, 0x000c_0302));
}

#[test]
fn an_io_queue_comes_by_the_listener_of_its_controller() {
    let target = target_with_ana();
    let (_admin, _io) = target.controller();
    let elsewhere = target.begin_connect_at("2", HOST, 2, 1);
    let refused = Status::CONNECT_INVALID_PARAMETERS.with_dnr();
    assert_eq!(target.status(&elsewhere), refused);
    assert_eq!(target.connect(2, 1).1.status, Status::SUCCESS);
}

#[test]
fn states_are_listed_and_refused_where_ana_is_not_reported_or_the_group_is_too_high() {
    let target = target_with_ana();
    target.call("nvmf_subsystem_listener_set_ana_state", ana_state("2", "inaccessible", 2));
    let listeners = target.call("nvmf_subsystem_get_listeners", json!({"nqn": NQN}));
    let states = |listener: usize| {
        let states = listeners[listener]["ana_states"].as_array().unwrap().clone();
        assert_eq!((states.len(), &states[1]["ana_group"]), (32, &json!(2)));
        [states[0]["ana_state"].clone(), states[1]["ana_state"].clone()]
    };
    assert_eq!(states(0), ["optimized", "optimized"]);
    assert_eq!(states(1), ["optimized", "inaccessible"]);
    let set = "nvmf_subsystem_listener_set_ana_state";
    let error = target.host.call(set, &ana_state("2", "optimized", 33)).unwrap_err();
    assert!(error.message.contains("1 to 32"), "{error}");
    let error = target.host.call(set, &ana_state("3", "optimized", 1)).unwrap_err();
    assert!(error.message.contains("does not listen"), "{error}");
    let plain = "nqn.2016-06.io.spdk:plain";
    target.call("nvmf_create_subsystem", json!({"nqn": plain}));
    let mut listener = ana_state("3", "optimized", 1);
    listener["nqn"] = json!(plain);
    let address = json!({"nqn": plain, "listen_address": fake_at("3")});
    target.call("nvmf_subsystem_add_listener", address);
    let error = target.host.call(set, &listener).unwrap_err();
    assert!(error.message.contains("ana_reporting"), "{error}");
    let listeners = target.call("nvmf_subsystem_get_listeners", json!({"nqn": plain}));
    assert!(listeners[0].get("ana_states").is_none());
}
