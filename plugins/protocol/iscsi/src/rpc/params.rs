//! The parameters of the methods: all those of the reference, with its defaults.

use drivebay_sdk::rpc::params;

params! {
    /// Parameters of `iscsi_set_options`.
    pub struct SetOptions {
        /// File of CHAP secrets. Stored and shown, but not read.
        pub auth_file: Option<String>,
        /// Prefix of a target name that does not start with `iqn.`, `eui.` or `naa.`.
        #[range(1..=200)]
        pub node_base: String = "iqn.2016-06.io.spdk".to_owned(),
        /// Longest wait for the answer to a NOP-In, in seconds.
        #[range(0..=2147483647)]
        pub nop_timeout: i32 = 60,
        /// Silence of a connection after which the target sends a NOP-In, in seconds; 0: never.
        #[range(0..=60)]
        pub nop_in_interval: i32 = 30,
        /// Refuse CHAP in discovery sessions.
        pub disable_chap: bool = false,
        /// Require CHAP in discovery sessions.
        pub require_chap: bool = false,
        /// Require mutual CHAP in discovery sessions.
        pub mutual_chap: bool = false,
        /// Authentication group of discovery sessions; 0: none.
        pub chap_group: i32 = 0,
        /// Maximum number of sessions at once.
        #[range(1..=65535)]
        pub max_sessions: u32 = 128,
        /// Maximum number of commands of a session in progress.
        #[range(1..=256)]
        pub max_queue_depth: u32 = 64,
        /// Maximum number of connections of a session.
        #[range(1..=65535)]
        pub max_connections_per_session: u32 = 2,
        /// DefaultTime2Wait, in seconds.
        #[range(0..=3600)]
        pub default_time2wait: u32 = 2,
        /// DefaultTime2Retain, in seconds.
        #[range(0..=3600)]
        pub default_time2retain: u32 = 20,
        /// FirstBurstLength, in bytes. Larger values count as 65536.
        #[range(512..=16777215)]
        pub first_burst_length: u32 = 8192,
        /// Whether commands may carry data (ImmediateData).
        pub immediate_data: bool = true,
        /// ErrorRecoveryLevel. Stored and shown; the target always negotiates 0.
        #[range(0..=2)]
        pub error_recovery_level: u32 = 0,
        /// Stored and shown, without effect.
        pub allow_duplicated_isid: bool = false,
        /// Maximum number of buffers of read data that a connection has not sent yet.
        #[range(1..=65535)]
        pub max_large_datain_per_connection: u32 = 64,
        /// Maximum number of outstanding R2Ts of a command (MaxOutstandingR2T).
        #[range(1..=65535)]
        pub max_r2t_per_connection: u32 = 4,
        /// Stored and shown, without effect: there is no pool.
        pub pdu_pool_size: u32 = 36_864,
        /// Stored and shown, without effect.
        pub immediate_data_pool_size: u32 = 16_384,
        /// Stored and shown, without effect.
        pub data_out_pool_size: u32 = 2048,
    }

    /// Parameters of `iscsi_set_discovery_auth`.
    pub struct DiscoveryAuth {
        /// Refuse CHAP.
        pub disable_chap: bool = false,
        /// Require CHAP.
        pub require_chap: bool = false,
        /// Require mutual CHAP: the target must prove its identity, too.
        pub mutual_chap: bool = false,
        /// Authentication group with the secrets; 0: none.
        pub chap_group: i32 = 0,
    }

    /// The secrets of a user.
    pub struct AuthSecret {
        /// The initiator's name for CHAP.
        pub user: String,
        /// The initiator's secret.
        pub secret: String,
        /// The target's name for mutual CHAP.
        pub muser: Option<String>,
        /// The target's secret.
        pub msecret: Option<String>,
    }

    /// Parameters of `iscsi_create_auth_group`.
    pub struct CreateAuthGroup {
        /// Tag of the group.
        #[range(1..=2147483647)]
        pub tag: i32,
        /// Users of the group, with their secrets.
        pub secrets: Vec<AuthSecret> = Vec::new(),
    }

    /// Parameters of `iscsi_auth_group_add_secret`.
    pub struct AddSecret {
        /// Tag of the group.
        pub tag: i32,
        /// The initiator's name for CHAP.
        pub user: String,
        /// The initiator's secret.
        pub secret: String,
        /// The target's name for mutual CHAP.
        pub muser: Option<String>,
        /// The target's secret.
        pub msecret: Option<String>,
    }

    /// Parameters of `iscsi_auth_group_remove_secret`.
    pub struct RemoveSecret {
        /// Tag of the group.
        pub tag: i32,
        /// CHAP name of the user.
        pub user: String,
    }

    /// Parameters of methods that name a group.
    pub struct OneTag {
        /// Tag of the group.
        pub tag: i32,
    }

    /// Parameters of `iscsi_create_initiator_group`.
    pub struct CreateInitiatorGroup {
        /// Tag of the group.
        #[range(1..=2147483647)]
        pub tag: i32,
        /// Initiator names, or `ANY`. A `!` in front excludes a name.
        #[range(1..=256)]
        pub initiators: Vec<String>,
        /// IP addresses with or without a prefix length, or `ANY`.
        #[range(1..=256)]
        pub netmasks: Vec<String>,
    }

    /// Parameters of `iscsi_initiator_group_add_initiators` and `…_remove_initiators`.
    pub struct ChangeInitiatorGroup {
        /// Tag of the group.
        pub tag: i32,
        /// Initiator names.
        pub initiators: Vec<String> = Vec::new(),
        /// IP addresses with or without a prefix length, or `ANY`.
        pub netmasks: Vec<String> = Vec::new(),
    }

    /// An address to listen on.
    pub struct PortalParams {
        /// IP address; `*`: all IPv4 addresses; `[*]`: all IPv6 addresses.
        pub host: String,
        /// TCP port.
        pub port: String,
    }

    /// Parameters of `iscsi_create_portal_group`.
    pub struct CreatePortalGroup {
        /// Tag of the group.
        #[range(1..=65535)]
        pub tag: i32,
        /// Portals of the group.
        #[range(1..=1024)]
        pub portals: Vec<PortalParams>,
        /// Show the group only to discovery sessions through the group itself.
        pub private: bool = false,
        /// Accept no connections before `iscsi_start_portal_group`.
        pub wait: bool = false,
    }

    /// Parameters of `iscsi_portal_group_set_auth`.
    pub struct PortalGroupAuth {
        /// Tag of the group.
        pub tag: i32,
        /// Refuse CHAP.
        pub disable_chap: bool = false,
        /// Require CHAP.
        pub require_chap: bool = false,
        /// Require mutual CHAP: the target must prove its identity, too.
        pub mutual_chap: bool = false,
        /// Authentication group with the secrets; 0: none.
        pub chap_group: i32 = 0,
    }

    /// A map: the initiator group may use the portal group.
    pub struct PgIgMap {
        /// Tag of the initiator group.
        pub ig_tag: i32,
        /// Tag of the portal group.
        pub pg_tag: i32,
    }

    /// A LUN of a target node.
    pub struct ScsiLun {
        /// Name of the bdev.
        pub bdev_name: String,
        /// Number of the LUN.
        #[range(0..=16383)]
        pub lun_id: i32 = 0,
        /// File that keeps persistent reservations through a restart; each LUN needs its own. Without it, they end with the process.
        pub ptpl_file: Option<String>,
    }

    /// Parameters of `iscsi_create_target_node`.
    pub struct CreateTargetNode {
        /// Name of the target node. A name that does not start with `iqn.`, `eui.` or `naa.` gets the `node_base` in front.
        #[range(1..=223)]
        pub name: String,
        /// Alias for people.
        #[range(0..=255)]
        pub alias_name: String,
        /// Which initiator groups may use which portal groups.
        #[range(1..=256)]
        pub pg_ig_maps: Vec<PgIgMap>,
        /// LUNs of the target node.
        #[range(1..=256)]
        pub luns: Vec<ScsiLun>,
        /// Maximum number of commands of a session in progress. A value outside of 1 to `max_queue_depth` counts as `max_queue_depth`.
        pub queue_depth: i32,
        /// Refuse CHAP.
        pub disable_chap: bool = false,
        /// Require CHAP.
        pub require_chap: bool = false,
        /// Require mutual CHAP: the target must prove its identity, too.
        pub mutual_chap: bool = false,
        /// Authentication group with the secrets; 0: none.
        pub chap_group: i32 = 0,
        /// Require header digests.
        pub header_digest: bool = false,
        /// Require data digests.
        pub data_digest: bool = false,
    }

    /// Parameters of `iscsi_target_node_set_auth`.
    pub struct TargetAuth {
        /// Name of the target node.
        pub name: String,
        /// Refuse CHAP.
        pub disable_chap: bool = false,
        /// Require CHAP.
        pub require_chap: bool = false,
        /// Require mutual CHAP: the target must prove its identity, too.
        pub mutual_chap: bool = false,
        /// Authentication group with the secrets; 0: none.
        pub chap_group: i32 = 0,
    }

    /// Parameters of `iscsi_target_node_add_pg_ig_maps` and `…_remove_pg_ig_maps`.
    pub struct ChangeMaps {
        /// Name of the target node.
        pub name: String,
        /// Which initiator groups may use which portal groups.
        #[range(1..=256)]
        pub pg_ig_maps: Vec<PgIgMap>,
    }

    /// Parameters of methods that name a target.
    pub struct OneTarget {
        /// Name of the target node.
        pub name: String,
    }

    /// Parameters of `iscsi_target_node_add_lun`.
    pub struct AddLun {
        /// Name of the target node.
        pub name: String,
        /// Name of the bdev.
        pub bdev_name: String,
        /// Number of the LUN. Absent or -1: the lowest free number.
        #[range(-1..=16383)]
        pub lun_id: i32 = -1,
        /// File that keeps persistent reservations through a restart; each LUN needs its own. Without it, they end with the process.
        pub ptpl_file: Option<String>,
    }

    /// Parameters of `iscsi_target_node_set_redirect`.
    pub struct SetRedirect {
        /// Name of the target node.
        pub name: String,
        /// Tag of the portal group.
        pub pg_tag: i32,
        /// IP address to redirect initiators to. Without address and port, the redirection ends.
        pub redirect_host: Option<String>,
        /// TCP port at that address.
        pub redirect_port: Option<String>,
    }

    /// Parameters of `iscsi_enable_histogram`.
    pub struct EnableHistogram {
        /// Name of the target node.
        pub name: String,
        /// `true` starts the histogram; `false` stops it and drops the counts.
        pub enable: bool,
    }

    /// Parameters of `iscsi_target_node_request_logout`.
    pub struct RequestLogout {
        /// Name of the target node.
        pub name: String,
        /// Ask only the initiators that came through this portal group. Absent or -1: all.
        pub pg_tag: i32 = -1,
    }
}
