//! `save_config`: the calls that create the target again, in an order that can be replayed.

use crate::app::{AppState, app};
use crate::model::{Model, Subsystem, hex, uuid_text};
use crate::rpc::{address_view, ana_word, transport_options};
use drivebay_sdk::notify::Config;
use drivebay_spec_nvme::nqn;
use serde_json::{Value, json};

/// Writes the target's configuration. `[app thread]`
pub(crate) fn write(config: &mut Config<'_>) {
    let Some(app) = app() else { return };
    for (method, params) in calls(&app) {
        config.call(method, &params);
    }
}

fn calls(app: &AppState) -> Vec<(&'static str, Value)> {
    let config = app.config.borrow();
    let mut calls: Vec<_> = config.iter().map(|c| ("nvmf_set_config", json!(c))).collect();
    let model = app.model.borrow();
    calls.extend(of_target(&model));
    for (trtype, entry) in app.transports.borrow().iter() {
        calls.push(("nvmf_create_transport", transport_options(trtype, &entry.transport.dump())));
    }
    calls.extend(of_subsystems(&model));
    calls
}

fn of_target(model: &Model) -> Vec<(&'static str, Value)> {
    let [crdt1, crdt2, crdt3] = model.crdt;
    vec![
        ("nvmf_set_max_subsystems", json!({"max_subsystems": model.max_subsystems})),
        ("nvmf_set_crdt", json!({"crdt1": crdt1, "crdt2": crdt2, "crdt3": crdt3})),
    ]
}

/// The calls for referrals; then for each subsystem before its hosts and namespaces; then for listeners, so that no host sees a part of a
/// subsystem.
fn of_subsystems(model: &Model) -> Vec<(&'static str, Value)> {
    let mut calls: Vec<_> = model
        .referrals
        .iter()
        .map(|referral| {
            let params = json!({
                "address": address_view(&referral.address),
                "secure_channel": referral.secure_channel,
                "subnqn": referral.subnqn,
            });
            ("nvmf_discovery_add_referral", params)
        })
        .collect();
    let made = || model.subsystems.values().filter(|s| s.nqn != nqn::DISCOVERY);
    calls.extend(discovery(model));
    calls.extend(made().map(create));
    calls.extend(model.subsystems.values().flat_map(hosts));
    calls.extend(made().flat_map(namespaces));
    calls.extend(model.subsystems.values().flat_map(listeners));
    calls
}

/// The call that changes the discovery subsystem, which exists from the start, to its present state; `None` when it is unchanged.
fn discovery(model: &Model) -> Option<(&'static str, Value)> {
    let name = nqn::DISCOVERY;
    match model.subsystems.get(name) {
        None => Some(("nvmf_delete_subsystem", json!({"nqn": name}))),
        Some(discovery) if !discovery.allow_any_host => {
            let params = json!({"nqn": name, "allow_any_host": false});
            Some(("nvmf_subsystem_allow_any_host", params))
        }
        Some(_) => None,
    }
}

fn create(subsystem: &Subsystem) -> (&'static str, Value) {
    let options = &subsystem.options;
    let mut params = json!({
        "nqn": subsystem.nqn,
        "allow_any_host": subsystem.allow_any_host,
        "serial_number": options.serial_number,
        "model_number": options.model_number,
        "max_namespaces": subsystem.max_namespaces(),
        "min_cntlid": options.cntlids.start(),
        "max_cntlid": options.cntlids.end(),
        "ana_reporting": options.ana_reporting,
        "dmrsl": options.dmrsl,
        "wzsl": options.wzsl,
        "passthrough": false,
        "enable_nssr": false,
    });
    if let (Some(params), false) = (params.as_object_mut(), options.admin_label.is_empty()) {
        params.insert("admin_label".into(), json!(options.admin_label));
    }
    ("nvmf_create_subsystem", params)
}

fn hosts(subsystem: &Subsystem) -> impl Iterator<Item = (&'static str, Value)> + '_ {
    subsystem
        .hosts
        .iter()
        .map(|host| ("nvmf_subsystem_add_host", json!({"nqn": subsystem.nqn, "host": host})))
}

fn namespaces(subsystem: &Subsystem) -> impl Iterator<Item = (&'static str, Value)> + '_ {
    subsystem.namespaces.values().map(|namespace| {
        let mut params = json!({
            "nsid": namespace.nsid,
            "bdev_name": namespace.bdev_name,
            "nguid": hex(&namespace.nguid),
            "uuid": uuid_text(&namespace.uuid),
            "anagrpid": namespace.anagrpid,
            "no_auto_visible": false,
        });
        if let (Some(params), Some(file)) = (params.as_object_mut(), &namespace.ptpl_file) {
            params.insert("ptpl_file".into(), json!(file));
        }
        if let (Some(params), true) = (params.as_object_mut(), namespace.eui64 != [0; 8]) {
            params.insert("eui64".into(), json!(hex(&namespace.eui64)));
        }
        ("nvmf_subsystem_add_ns", json!({"nqn": subsystem.nqn, "namespace": params}))
    })
}

fn listeners(subsystem: &Subsystem) -> impl Iterator<Item = (&'static str, Value)> + '_ {
    subsystem.listeners.iter().flat_map(|listener| {
        let (nqn, address) = (&subsystem.nqn, address_view(&listener.address));
        let mut params = json!({"nqn": nqn, "listen_address": address, "secure_channel": false});
        let has_ana = subsystem.options.ana_reporting;
        if let (Some(params), true) = (params.as_object_mut(), has_ana) {
            let state = ana_word(listener.access.default_state());
            params.insert("ana_state".into(), json!(state));
        }
        let mut calls = vec![("nvmf_subsystem_add_listener", params)];
        let exceptions = listener.access.exceptions().filter(|_| has_ana);
        calls.extend(exceptions.map(|(group, state)| {
            let params = json!({
                "nqn": nqn,
                "listen_address": address,
                "ana_state": ana_word(state),
                "anagrpid": group,
            });
            ("nvmf_subsystem_listener_set_ana_state", params)
        }));
        calls
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::AnaState;
    use crate::model::tests::model;

    #[test]
    fn a_subsystem_is_made_before_what_belongs_to_it_and_listens_last() {
        let mut model = model();
        let subsystem = model.subsystems.get_mut("nqn.2016-06.io.spdk:cnode1").unwrap();
        subsystem.hosts.insert("nqn.2016-06.io.spdk:host1".into());
        let methods: Vec<_> = of_subsystems(&model).into_iter().map(|(method, _)| method).collect();
        assert_eq!(
            methods,
            [
                "nvmf_create_subsystem",
                "nvmf_subsystem_add_host",
                "nvmf_subsystem_add_ns",
                "nvmf_subsystem_add_listener"
            ]
        );
    }

    #[test]
    fn the_states_of_ana_groups_follow_their_listener() {
        let mut model = model();
        let subsystem = model.subsystems.get_mut("nqn.2016-06.io.spdk:cnode1").unwrap();
        subsystem.options.ana_reporting = true;
        subsystem.listeners[0].access.set(None, AnaState::NonOptimized);
        subsystem.listeners[0].access.set(Some(3), AnaState::Inaccessible);
        let calls = of_subsystems(&model);
        assert_eq!(calls[0].1["ana_reporting"], true);
        let [.., (_, listener), (method, state)] = &calls[..] else { panic!("{calls:?}") };
        assert_eq!(listener["ana_state"], "non_optimized");
        assert_eq!(*method, "nvmf_subsystem_listener_set_ana_state");
        assert_eq!((&state["ana_state"], &state["anagrpid"]), (&json!("inaccessible"), &json!(3)));
    }

    #[test]
    fn the_discovery_subsystem_stays_deleted_and_keeps_its_hosts() {
        let mut model = Model::default();
        assert_eq!(of_subsystems(&model), []);
        let discovery = model.subsystems.get_mut(nqn::DISCOVERY).unwrap();
        discovery.allow_any_host = false;
        discovery.hosts.insert("nqn.2016-06.io.spdk:host1".into());
        let methods: Vec<_> = of_subsystems(&model).into_iter().map(|(method, _)| method).collect();
        assert_eq!(methods, ["nvmf_subsystem_allow_any_host", "nvmf_subsystem_add_host"]);
        model.subsystems.clear();
        let expected = json!({"nqn": nqn::DISCOVERY});
        assert_eq!(of_subsystems(&model), [("nvmf_delete_subsystem", expected)]);
    }

    #[test]
    fn a_namespace_keeps_its_number_and_identity() {
        let (_, params) = of_subsystems(&model()).remove(1);
        assert_eq!(params["namespace"]["nsid"], 1);
        assert_eq!(params["namespace"]["uuid"], "03030303-0303-0303-0303-030303030303");
        assert_eq!(params["namespace"]["nguid"], "03".repeat(16));
    }
}
