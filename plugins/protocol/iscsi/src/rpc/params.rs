//! The parameters of the methods: every one that the reference has, with its defaults.

use drivebay_sdk::rpc::params;

params! {
    /// Parameters of `iscsi_set_options`.
    pub struct SetOptions {
        /// A file of secrets; kept and told, not read.
        pub auth_file: Option<String>,
        /// What comes before a target's name that is none by itself.
        #[range(1..=200)]
        pub node_base: String = "iqn.2016-06.io.spdk".to_owned(),
        /// Time-out of pings, in seconds.
        #[range(0..=3600)]
        pub nop_timeout: i32 = 60,
        /// Silence after which a connection is pinged, in seconds; 0 = never.
        #[range(0..=60)]
        pub nop_in_interval: i32 = 30,
        /// CHAP is refused for discovery.
        pub disable_chap: bool = false,
        /// CHAP is required for discovery.
        pub require_chap: bool = false,
        /// Mutual CHAP is required for discovery.
        pub mutual_chap: bool = false,
        /// Authentication group for discovery; 0 = none.
        pub chap_group: i32 = 0,
        /// Most sessions.
        #[range(1..=65000)]
        pub max_sessions: u32 = 128,
        /// Most commands of a session under way.
        #[range(1..=256)]
        pub max_queue_depth: u32 = 64,
        /// Most connections of a session.
        #[range(1..=65535)]
        pub max_connections_per_session: u32 = 2,
        /// DefaultTime2Wait, in seconds.
        #[range(0..=3600)]
        pub default_time2wait: u32 = 2,
        /// DefaultTime2Retain, in seconds.
        #[range(0..=3600)]
        pub default_time2retain: u32 = 20,
        /// FirstBurstLength, in bytes; more than 65536 is taken as that.
        #[range(512..=16777215)]
        pub first_burst_length: u32 = 8192,
        /// Commands may carry data.
        pub immediate_data: bool = true,
        /// ErrorRecoveryLevel; initiators are always told 0.
        #[range(0..=2)]
        pub error_recovery_level: u32 = 0,
        /// Kept and told, without effect.
        pub allow_duplicated_isid: bool = false,
        /// Buffers of reads of a connection that are not sent yet.
        #[range(1..=65535)]
        pub max_large_datain_per_connection: u32 = 64,
        /// R2Ts of a command that are outstanding.
        #[range(1..=65535)]
        pub max_r2t_per_connection: u32 = 4,
        /// Kept and told, without effect: there is no pool.
        pub pdu_pool_size: u32 = 36_864,
        /// Kept and told, without effect.
        pub immediate_data_pool_size: u32 = 16_384,
        /// Kept and told, without effect.
        pub data_out_pool_size: u32 = 2048,
    }

    /// Parameters of `iscsi_set_discovery_auth`.
    pub struct DiscoveryAuth {
        /// CHAP is refused.
        pub disable_chap: bool = false,
        /// CHAP is required.
        pub require_chap: bool = false,
        /// The target must prove itself too.
        pub mutual_chap: bool = false,
        /// Authentication group; 0 = none.
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
        /// Its tag.
        #[range(1..=2147483647)]
        pub tag: i32,
        /// Its users.
        pub secrets: Vec<AuthSecret> = Vec::new(),
    }

    /// Parameters of `iscsi_auth_group_add_secret`.
    pub struct AddSecret {
        /// The group.
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
        /// The group.
        pub tag: i32,
        /// The user.
        pub user: String,
    }

    /// Parameters of methods that name a group.
    pub struct OneTag {
        /// Its tag.
        pub tag: i32,
    }

    /// Parameters of `iscsi_create_initiator_group`.
    pub struct CreateInitiatorGroup {
        /// Its tag.
        #[range(1..=2147483647)]
        pub tag: i32,
        /// Names of initiators, `ANY`, or names excluded by a `!` in front.
        #[range(1..=256)]
        pub initiators: Vec<String>,
        /// Addresses with or without a prefix length, or `ANY`.
        #[range(1..=256)]
        pub netmasks: Vec<String>,
    }

    /// Parameters of `iscsi_initiator_group_add_initiators` and `…_remove_initiators`.
    pub struct ChangeInitiatorGroup {
        /// The group.
        pub tag: i32,
        /// Names of initiators.
        pub initiators: Vec<String> = Vec::new(),
        /// Addresses.
        pub netmasks: Vec<String> = Vec::new(),
    }

    /// Where a target listens.
    pub struct PortalParams {
        /// Address, `*` or `[*]`.
        pub host: String,
        /// Port.
        pub port: String,
    }

    /// Parameters of `iscsi_create_portal_group`.
    pub struct CreatePortalGroup {
        /// Its tag.
        #[range(1..=65535)]
        pub tag: i32,
        /// Its portals.
        #[range(1..=1024)]
        pub portals: Vec<PortalParams>,
        /// Discovery does not tell it to those that come by another group.
        pub private: bool = false,
        /// Connections are not accepted before `iscsi_start_portal_group`.
        pub wait: bool = false,
    }

    /// Parameters of `iscsi_portal_group_set_auth`.
    pub struct PortalGroupAuth {
        /// The group.
        pub tag: i32,
        /// CHAP is refused.
        pub disable_chap: bool = false,
        /// CHAP is required.
        pub require_chap: bool = false,
        /// The target must prove itself too.
        pub mutual_chap: bool = false,
        /// Authentication group; 0 = none.
        pub chap_group: i32 = 0,
    }

    /// Who may come by where.
    pub struct PgIgMap {
        /// The initiator group.
        pub ig_tag: i32,
        /// The portal group.
        pub pg_tag: i32,
    }

    /// A unit.
    pub struct ScsiLun {
        /// Its bdev.
        pub bdev_name: String,
        /// Its number.
        #[range(0..=16383)]
        pub lun_id: i32,
        /// File that keeps its persistent reservations through a loss of power; without it they end with the process.
        pub ptpl_file: Option<String>,
    }

    /// Parameters of `iscsi_create_target_node`.
    pub struct CreateTargetNode {
        /// Its name; without `iqn.`, `eui.` or `naa.` in front it is put behind the node base.
        #[range(1..=223)]
        pub name: String,
        /// What people call it.
        #[range(0..=255)]
        pub alias_name: String,
        /// Who may come by where.
        #[range(1..=256)]
        pub pg_ig_maps: Vec<PgIgMap>,
        /// Its units.
        #[range(1..=256)]
        pub luns: Vec<ScsiLun>,
        /// Most commands of a session under way.
        #[range(1..=256)]
        pub queue_depth: i32,
        /// CHAP is refused.
        pub disable_chap: bool = false,
        /// CHAP is required.
        pub require_chap: bool = false,
        /// The target must prove itself too.
        pub mutual_chap: bool = false,
        /// Authentication group; 0 = none.
        pub chap_group: i32 = 0,
        /// Header digests are required.
        pub header_digest: bool = false,
        /// Data digests are required.
        pub data_digest: bool = false,
    }

    /// Parameters of `iscsi_target_node_set_auth`.
    pub struct TargetAuth {
        /// The target.
        pub name: String,
        /// CHAP is refused.
        pub disable_chap: bool = false,
        /// CHAP is required.
        pub require_chap: bool = false,
        /// The target must prove itself too.
        pub mutual_chap: bool = false,
        /// Authentication group; 0 = none.
        pub chap_group: i32 = 0,
    }

    /// Parameters of `iscsi_target_node_add_pg_ig_maps` and `…_remove_pg_ig_maps`.
    pub struct ChangeMaps {
        /// The target.
        pub name: String,
        /// Who may come by where.
        #[range(1..=256)]
        pub pg_ig_maps: Vec<PgIgMap>,
    }

    /// Parameters of methods that name a target.
    pub struct OneTarget {
        /// The target.
        pub name: String,
    }

    /// Parameters of `iscsi_target_node_add_lun`.
    pub struct AddLun {
        /// The target.
        pub name: String,
        /// The bdev.
        pub bdev_name: String,
        /// The unit's number; the first free one when absent or -1.
        #[range(-1..=16383)]
        pub lun_id: i32 = -1,
        /// File that keeps its persistent reservations through a loss of power; without it they end with the process.
        pub ptpl_file: Option<String>,
    }

    /// Parameters of `iscsi_target_node_set_redirect`.
    pub struct SetRedirect {
        /// The target.
        pub name: String,
        /// The portal group.
        pub pg_tag: i32,
        /// Where initiators are sent to; with neither address nor port they are not sent away any more.
        pub redirect_host: Option<String>,
        /// The port there.
        pub redirect_port: Option<String>,
    }

    /// Parameters of `iscsi_enable_histogram`.
    pub struct EnableHistogram {
        /// The target.
        pub name: String,
        /// Latencies are counted from now on, or not any more; then the counts are lost.
        pub enable: bool,
    }

    /// Parameters of `iscsi_target_node_request_logout`.
    pub struct RequestLogout {
        /// The target.
        pub name: String,
        /// Only those that came by this portal group; all when absent or -1.
        pub pg_tag: i32 = -1,
    }
}
