//! The results of the methods, with the members that the reference has.

use super::ana_word;
use crate::app::ConnectedQueue;
use crate::controller::Controller;
use crate::group::Stats;
use crate::model::{ControllerKind, Listener, Namespace, Referral, Subsystem, hex, uuid_text};
use drivebay_sdk::nvmf::protocol::Address;
use serde_json::{Map, Value, json};

/// Ticks per second of the host's clock, which counts nanoseconds.
const TICK_RATE: u64 = 1_000_000_000;

pub(crate) fn address(address: &Address) -> Value {
    json!({
        "trtype": address.trtype,
        "adrfam": address.adrfam,
        "traddr": address.traddr,
        "trsvcid": address.trsvcid,
    })
}

pub(super) fn subsystem(subsystem: &Subsystem) -> Value {
    let listeners: Vec<Value> = subsystem.listeners.iter().map(|l| address(&l.address)).collect();
    let hosts: Vec<Value> = subsystem.hosts.iter().map(|host| json!({"nqn": host})).collect();
    let mut view = Map::new();
    view.insert("nqn".into(), json!(subsystem.nqn));
    view.insert("subtype".into(), json!(subtype(subsystem.kind)));
    view.insert("listen_addresses".into(), json!(listeners));
    view.insert("allow_any_host".into(), json!(subsystem.allow_any_host));
    view.insert("hosts".into(), json!(hosts));
    if subsystem.kind == ControllerKind::Discovery {
        return Value::Object(view);
    }
    let options = &subsystem.options;
    view.insert("serial_number".into(), json!(options.serial_number));
    view.insert("model_number".into(), json!(options.model_number));
    if !options.admin_label.is_empty() {
        view.insert("admin_label".into(), json!(options.admin_label));
    }
    view.insert("max_namespaces".into(), json!(subsystem.max_namespaces()));
    view.insert("passthrough".into(), json!(false));
    view.insert("min_cntlid".into(), json!(options.cntlids.start()));
    view.insert("max_cntlid".into(), json!(options.cntlids.end()));
    view.insert("dmrsl".into(), json!(options.dmrsl));
    view.insert("wzsl".into(), json!(options.wzsl));
    let namespaces: Vec<Value> =
        subsystem.namespaces.values().map(|each| namespace(each, options.ana_reporting)).collect();
    view.insert("namespaces".into(), json!(namespaces));
    Value::Object(view)
}

const fn subtype(kind: ControllerKind) -> &'static str {
    match kind {
        ControllerKind::Io => "NVMe",
        ControllerKind::Discovery => "Discovery",
    }
}

fn namespace(namespace: &Namespace, has_ana: bool) -> Value {
    let mut view = Map::new();
    view.insert("nsid".into(), json!(namespace.nsid));
    view.insert("bdev_name".into(), json!(namespace.bdev_name));
    view.insert("name".into(), json!(namespace.bdev_name));
    if namespace.nguid != [0; 16] {
        view.insert("nguid".into(), json!(hex(&namespace.nguid)));
    }
    if namespace.eui64 != [0; 8] {
        view.insert("eui64".into(), json!(hex(&namespace.eui64)));
    }
    if namespace.uuid != [0; 16] {
        view.insert("uuid".into(), json!(uuid_text(&namespace.uuid)));
    }
    if has_ana {
        view.insert("anagrpid".into(), json!(namespace.anagrpid));
    }
    Value::Object(view)
}

pub(super) fn controller(controller: &Controller) -> Value {
    let kind = match controller.kind {
        ControllerKind::Io => "io",
        ControllerKind::Discovery => "discovery",
    };
    json!({
        "cntlid": controller.cntlid,
        "cntrltype": kind,
        "hostnqn": controller.hostnqn,
        "hostid": uuid_text(&controller.hostid),
        "num_io_qpairs": controller.num_io_queues(),
    })
}

pub(super) fn qpair(queue: &ConnectedQueue, group: usize, is_ending: bool) -> Value {
    json!({
        "cntlid": queue.cntlid,
        "qid": queue.qid,
        "state": if is_ending { "deactivating" } else { "enabled" },
        "thread": group_name(group),
        "hostnqn": queue.hostnqn,
        "listen_address": address(&queue.local),
        "peer_address": address(&queue.peer),
    })
}

/// The name of a poll group's thread.
pub(crate) fn group_name(index: usize) -> String {
    format!("nvmf_tgt_poll_group_{index:03}")
}

pub(super) fn listeners(subsystem: &Subsystem) -> Vec<Value> {
    let groups = 1..=subsystem.max_namespaces();
    let view = |listener: &Listener| {
        let mut view = Map::new();
        view.insert("address".into(), address(&listener.address));
        if subsystem.options.ana_reporting {
            let state = |group| ana_word(listener.access.state(group));
            let states = groups.clone().map(|g| json!({"ana_group": g, "ana_state": state(g)}));
            view.insert("ana_states".into(), states.collect());
        }
        Value::Object(view)
    };
    subsystem.listeners.iter().map(view).collect()
}

pub(super) fn referral(referral: &Referral) -> Value {
    json!({
        "address": address(&referral.address),
        "secure_channel": referral.secure_channel,
        "subnqn": referral.subnqn,
    })
}

pub(super) fn stats(stats: &mut [Stats], trtypes: &[String]) -> Value {
    stats.sort_by_key(|stats| stats.index);
    let transports: Vec<Value> = trtypes.iter().map(|trtype| json!({"trtype": trtype})).collect();
    let group = |stats: &Stats| {
        json!({
            "name": group_name(stats.index),
            "admin_qpairs": stats.admin_qpairs,
            "io_qpairs": stats.io_qpairs,
            "current_admin_qpairs": stats.current_admin_qpairs,
            "current_io_qpairs": stats.current_io_qpairs,
            "current_unassociated_qpairs": stats.current_unassociated_qpairs,
            "pending_bdev_io": stats.pending_bdev_io,
            "completed_nvme_io": stats.completed_nvme_io,
            "transports": transports,
        })
    };
    let groups: Vec<Value> = stats.iter().map(group).collect();
    json!({"tick_rate": TICK_RATE, "poll_groups": groups})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests;

    #[test]
    fn a_subsystem_has_the_reference_s_members() {
        let view = super::subsystem(&tests::subsystem());
        assert_eq!(view["subtype"], "NVMe");
        assert_eq!(view["listen_addresses"][0]["traddr"], "127.0.0.1");
        assert_eq!(view["namespaces"][0]["nguid"], "03".repeat(16));
        assert_eq!(view["namespaces"][0]["name"], "Malloc1");
        assert_eq!(view["max_namespaces"], 32);
    }

    #[test]
    fn the_discovery_subsystem_has_the_first_five_only() {
        let model = tests::model();
        let view = super::subsystem(&model.subsystems["nqn.2014-08.org.nvmexpress.discovery"]);
        assert_eq!(view.as_object().unwrap().len(), 5);
        assert_eq!(view["allow_any_host"], true);
    }

    #[test]
    fn poll_groups_are_told_in_their_order() {
        let at = |index| Stats { index, ..Stats::default() };
        let view = stats(&mut [at(1), at(0)], &["TCP".into()]);
        assert_eq!(view["poll_groups"][0]["name"], "nvmf_tgt_poll_group_000");
        assert_eq!(view["poll_groups"][1]["transports"][0]["trtype"], "TCP");
    }
}
