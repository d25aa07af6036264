//! The results of the methods, with the members that the reference has.

use super::ana_word;
use crate::app::ConnectedQueue;
use crate::controller::Controller;
use crate::group::Stats;
use crate::model::{ControllerKind, Listener, Namespace, Referral, Subsystem, hex, uuid_text};
use drivebay_sdk::nvmf::protocol::Address;
use drivebay_sdk::rpc::params;

/// Ticks per second of the host's clock, which counts nanoseconds.
const TICK_RATE: u64 = 1_000_000_000;

params! {
    /// A transport address.
    pub(crate) struct AddressView {
        /// Transport type, such as `TCP`.
        trtype: String,
        /// Address family, such as `IPv4`.
        adrfam: String,
        /// Address.
        traddr: String,
        /// Service, such as a port number.
        trsvcid: String,
    }

    /// One subsystem of `nvmf_get_subsystems`. The discovery subsystem has only the first five members.
    pub(super) struct SubsystemView {
        /// Name.
        pub(super) nqn: String,
        /// `NVMe` or `Discovery`.
        pub(super) subtype: String,
        /// Where it listens.
        pub(super) listen_addresses: Vec<AddressView>,
        /// Whether hosts may connect that are not listed.
        pub(super) allow_any_host: bool,
        /// Hosts that may connect.
        pub(super) hosts: Vec<HostView>,
        /// Serial number.
        pub(super) serial_number: Option<String>,
        /// Model number.
        pub(super) model_number: Option<String>,
        /// Administrative label.
        pub(super) admin_label: Option<String>,
        /// Highest number of a namespace.
        pub(super) max_namespaces: Option<u32>,
        /// Always false: commands are not passed through.
        pub(super) passthrough: Option<bool>,
        /// Lowest controller id.
        pub(super) min_cntlid: Option<u16>,
        /// Highest controller id.
        pub(super) max_cntlid: Option<u16>,
        /// Most blocks of one range of a Dataset Management command; 0 = no limit.
        pub(super) dmrsl: Option<u32>,
        /// Most data of one Write Zeroes command, as a power of two of pages; 0 = no limit.
        pub(super) wzsl: Option<u8>,
        /// The namespaces.
        pub(super) namespaces: Option<Vec<NamespaceView>>,
    }
    pub(super) struct HostView {
        /// Name of the host.
        nqn: String,
    }
    pub(super) struct NamespaceView {
        /// Number.
        nsid: u32,
        /// Name of the bdev.
        bdev_name: String,
        /// As `bdev_name`.
        name: String,
        /// NGUID, in hexadecimal.
        nguid: Option<String>,
        /// EUI-64, in hexadecimal.
        eui64: Option<String>,
        /// UUID.
        uuid: Option<String>,
        /// ANA group; only with `ana_reporting`.
        anagrpid: Option<u32>,
    }

    /// One controller of `nvmf_subsystem_get_controllers`.
    pub(super) struct ControllerView {
        /// Controller id.
        cntlid: u16,
        /// `io` or `discovery`.
        cntrltype: String,
        /// Name of the host.
        hostnqn: String,
        /// Id of the host.
        hostid: String,
        /// Number of I/O queues.
        num_io_qpairs: u64,
    }

    /// One queue of `nvmf_subsystem_get_qpairs`.
    pub(super) struct QpairView {
        /// Controller id.
        cntlid: u16,
        /// Queue id.
        qid: u16,
        /// `enabled` or `deactivating`.
        state: String,
        /// Its poll group's thread.
        thread: String,
        /// Name of the host.
        hostnqn: String,
        /// The target's address.
        listen_address: AddressView,
        /// The host's address.
        peer_address: AddressView,
    }

    /// One listener of `nvmf_subsystem_get_listeners`.
    pub(super) struct ListenerView {
        /// Address.
        address: AddressView,
        /// State of each ANA group; only with `ana_reporting`.
        ana_states: Option<Vec<AnaStateView>>,
    }
    pub(super) struct AnaStateView {
        /// ANA group.
        ana_group: u32,
        /// State.
        ana_state: String,
    }

    /// One referral of `nvmf_discovery_get_referrals`.
    pub(super) struct ReferralView {
        /// Address.
        address: AddressView,
        /// Whether the host must use a secure channel.
        secure_channel: bool,
        /// Name of the subsystem.
        subnqn: String,
    }

    /// Result of `nvmf_get_stats`.
    pub(super) struct StatsView {
        /// Ticks in a second.
        tick_rate: u64,
        /// The poll groups.
        pub(super) poll_groups: Vec<PollGroupView>,
    }
    pub(super) struct PollGroupView {
        /// Name of its thread.
        pub(super) name: String,
        /// Admin queues since the start.
        admin_qpairs: u32,
        /// I/O queues since the start.
        io_qpairs: u32,
        /// Admin queues now.
        current_admin_qpairs: u32,
        /// I/O queues now.
        current_io_qpairs: u32,
        /// Connections that are not queues yet.
        current_unassociated_qpairs: u32,
        /// I/Os in the bdevs.
        pending_bdev_io: u64,
        /// Completed I/Os.
        completed_nvme_io: u64,
        /// The transports.
        pub(super) transports: Vec<TransportView>,
    }
    pub(super) struct TransportView {
        /// Transport type.
        pub(super) trtype: String,
    }
}

pub(crate) fn address(address: &Address) -> AddressView {
    AddressView {
        trtype: address.trtype.clone(),
        adrfam: address.adrfam.clone(),
        traddr: address.traddr.clone(),
        trsvcid: address.trsvcid.clone(),
    }
}

pub(super) fn subsystem(subsystem: &Subsystem) -> SubsystemView {
    let of_discovery = SubsystemView {
        nqn: subsystem.nqn.clone(),
        subtype: subtype(subsystem.kind).to_owned(),
        listen_addresses: subsystem.listeners.iter().map(|l| address(&l.address)).collect(),
        allow_any_host: subsystem.allow_any_host,
        hosts: subsystem.hosts.iter().map(|nqn| HostView { nqn: nqn.clone() }).collect(),
        serial_number: None,
        model_number: None,
        admin_label: None,
        max_namespaces: None,
        passthrough: None,
        min_cntlid: None,
        max_cntlid: None,
        dmrsl: None,
        wzsl: None,
        namespaces: None,
    };
    if subsystem.kind == ControllerKind::Discovery {
        return of_discovery;
    }
    let options = &subsystem.options;
    let namespaces = subsystem.namespaces.values();
    SubsystemView {
        serial_number: Some(options.serial_number.clone()),
        model_number: Some(options.model_number.clone()),
        admin_label: Some(options.admin_label.clone()).filter(|label| !label.is_empty()),
        max_namespaces: Some(subsystem.max_namespaces()),
        passthrough: Some(false),
        min_cntlid: Some(*options.cntlids.start()),
        max_cntlid: Some(*options.cntlids.end()),
        dmrsl: Some(options.dmrsl),
        wzsl: Some(options.wzsl),
        namespaces: Some(namespaces.map(|each| namespace(each, options.ana_reporting)).collect()),
        ..of_discovery
    }
}

const fn subtype(kind: ControllerKind) -> &'static str {
    match kind {
        ControllerKind::Io => "NVMe",
        ControllerKind::Discovery => "Discovery",
    }
}

fn namespace(namespace: &Namespace, has_ana: bool) -> NamespaceView {
    let name = &namespace.bdev_name;
    NamespaceView {
        nsid: namespace.nsid,
        bdev_name: name.clone(),
        name: name.clone(),
        nguid: (namespace.nguid != [0; 16]).then(|| hex(&namespace.nguid)),
        eui64: (namespace.eui64 != [0; 8]).then(|| hex(&namespace.eui64)),
        uuid: (namespace.uuid != [0; 16]).then(|| uuid_text(&namespace.uuid)),
        anagrpid: has_ana.then_some(namespace.anagrpid),
    }
}

pub(super) fn controller(controller: &Controller) -> ControllerView {
    let kind = match controller.kind {
        ControllerKind::Io => "io",
        ControllerKind::Discovery => "discovery",
    };
    ControllerView {
        cntlid: controller.cntlid,
        cntrltype: kind.to_owned(),
        hostnqn: controller.hostnqn.clone(),
        hostid: uuid_text(&controller.hostid),
        num_io_qpairs: controller.num_io_queues() as u64,
    }
}

pub(super) fn qpair(queue: &ConnectedQueue, group: usize, is_ending: bool) -> QpairView {
    QpairView {
        cntlid: queue.cntlid,
        qid: queue.qid,
        state: if is_ending { "deactivating" } else { "enabled" }.to_owned(),
        thread: group_name(group),
        hostnqn: queue.hostnqn.clone(),
        listen_address: address(&queue.local),
        peer_address: address(&queue.peer),
    }
}

/// The name of a poll group's thread.
pub(crate) fn group_name(index: usize) -> String {
    format!("nvmf_tgt_poll_group_{index:03}")
}

pub(super) fn listeners(subsystem: &Subsystem) -> Vec<ListenerView> {
    let groups = 1..=subsystem.max_namespaces();
    let view = |listener: &Listener| {
        let state = |ana_group| AnaStateView {
            ana_group,
            ana_state: ana_word(listener.access.state(ana_group)).to_owned(),
        };
        ListenerView {
            address: address(&listener.address),
            ana_states: subsystem
                .options
                .ana_reporting
                .then(|| groups.clone().map(state).collect()),
        }
    };
    subsystem.listeners.iter().map(view).collect()
}

pub(super) fn referral(referral: &Referral) -> ReferralView {
    ReferralView {
        address: address(&referral.address),
        secure_channel: referral.secure_channel,
        subnqn: referral.subnqn.clone(),
    }
}

pub(super) fn stats(stats: &mut [Stats], trtypes: &[String]) -> StatsView {
    stats.sort_by_key(|stats| stats.index);
    let transport = |trtype: &String| TransportView { trtype: trtype.clone() };
    let group = |stats: &Stats| PollGroupView {
        name: group_name(stats.index),
        admin_qpairs: stats.admin_qpairs,
        io_qpairs: stats.io_qpairs,
        current_admin_qpairs: stats.current_admin_qpairs,
        current_io_qpairs: stats.current_io_qpairs,
        current_unassociated_qpairs: stats.current_unassociated_qpairs,
        pending_bdev_io: stats.pending_bdev_io,
        completed_nvme_io: stats.completed_nvme_io,
        transports: trtypes.iter().map(transport).collect(),
    };
    StatsView { tick_rate: TICK_RATE, poll_groups: stats.iter().map(group).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests;
    use serde_json::json;

    #[test]
    fn a_subsystem_has_the_reference_s_members() {
        let view = json!(super::subsystem(&tests::subsystem()));
        assert_eq!(view["subtype"], "NVMe");
        assert_eq!(view["listen_addresses"][0]["traddr"], "127.0.0.1");
        assert_eq!(view["namespaces"][0]["nguid"], "03".repeat(16));
        assert_eq!(view["namespaces"][0]["name"], "Malloc1");
        assert_eq!(view["max_namespaces"], 32);
    }

    #[test]
    fn the_discovery_subsystem_has_the_first_five_only() {
        let model = tests::model();
        let discovery = &model.subsystems["nqn.2014-08.org.nvmexpress.discovery"];
        let view = json!(super::subsystem(discovery));
        assert_eq!(view.as_object().unwrap().len(), 5);
        assert_eq!(view["allow_any_host"], true);
    }

    #[test]
    fn poll_groups_are_listed_in_their_order() {
        let at = |index| Stats { index, ..Stats::default() };
        let view = stats(&mut [at(1), at(0)], &["TCP".into()]);
        assert_eq!(view.poll_groups[0].name, "nvmf_tgt_poll_group_000");
        assert_eq!(view.poll_groups[1].transports[0].trtype, "TCP");
    }
}
