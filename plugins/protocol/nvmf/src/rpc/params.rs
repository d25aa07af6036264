//! The parameters of the methods: all that the reference has. A parameter that is not supported here accepts only the value that means
//! "off".

use drivebay_sdk::rpc::params;
use serde_json::Value;

params! {
    /// A transport address.
    pub struct ListenAddress {
        /// Transport type, such as `TCP`.
        #[range(1..=31)]
        pub trtype: String,
        /// Address family, `ipv4` or `ipv6`; taken from the address when absent.
        #[range(0..=31)]
        pub adrfam: Option<String>,
        /// Address, such as an IP address.
        #[range(1..=255)]
        pub traddr: String,
        /// Service identifier, such as a TCP port.
        #[range(0..=31)]
        pub trsvcid: Option<String>,
    }

    /// Parameters of `nvmf_create_transport`. The fabric handles all but the first two, and has their defaults.
    pub struct CreateTransport {
        /// Transport type, such as `TCP`.
        #[range(1..=31)]
        pub trtype: String,
        /// Name of the target; only `nvmf_tgt`.
        pub tgt_name: Option<String>,
        /// Maximum number of entries of an I/O queue.
        pub max_queue_depth: Option<u16>,
        /// Maximum number of I/O queues of a controller.
        pub max_io_qpairs_per_ctrlr: Option<u16>,
        /// Maximum number of bytes of data in a command capsule.
        pub in_capsule_data_size: Option<u32>,
        /// Maximum number of bytes of data of one command.
        pub max_io_size: Option<u32>,
        /// Maximum number of bytes of one buffer for data.
        pub io_unit_size: Option<u32>,
        /// Maximum number of entries of an admin queue.
        pub max_aq_depth: Option<u32>,
        /// Shared buffers; has no effect.
        pub num_shared_buffers: Option<u32>,
        /// Buffers that each thread caches; has no effect.
        pub buf_cache_size: Option<u32>,
        /// Small buffers that each thread caches.
        pub iobuf_small_cache_size: Option<u32>,
        /// Large buffers that each thread caches.
        pub iobuf_large_cache_size: Option<u32>,
        /// Zero copy; has no effect, because the target avoids copies anyway.
        pub zcopy: Option<bool>,
        /// Entries of a completion queue; RDMA only.
        pub num_cqe: Option<i32>,
        /// Entries of a shared receive queue; RDMA only.
        pub max_srq_depth: Option<u32>,
        /// Use no shared receive queue; RDMA only.
        pub no_srq: Option<bool>,
        /// Report the success of a read in its last data PDU, without a response capsule; TCP only.
        pub c2h_success: Option<bool>,
        /// Insert and strip protection information in the transport.
        pub dif_insert_or_strip: Option<bool>,
        /// Priority of the sockets; TCP only.
        pub sock_priority: Option<u32>,
        /// Maximum number of connections that wait to be accepted.
        pub acceptor_backlog: Option<i32>,
        /// How long an abort may wait, in seconds.
        pub abort_timeout_sec: Option<u32>,
        /// Do not batch work requests; RDMA only.
        pub no_wr_batching: Option<bool>,
        /// Control messages of each poll group; TCP only.
        pub control_msg_num: Option<u16>,
        /// Do not let the client map BAR0; vfio-user only.
        pub disable_mappable_bar0: Option<bool>,
        /// Do not adapt the rate of interrupts; vfio-user only.
        pub disable_adaptive_irq: Option<bool>,
        /// Use no shadow doorbells; vfio-user only.
        pub disable_shadow_doorbells: Option<bool>,
        /// Time between two checks for new connections, in microseconds.
        pub acceptor_poll_rate: Option<u32>,
        /// How long a peer may take to acknowledge data, in milliseconds.
        pub ack_timeout: Option<u32>,
        /// Work requests for data; RDMA only.
        pub data_wr_pool_size: Option<u32>,
        /// Do not pass vendor specific commands through.
        pub disable_command_passthru: Option<bool>,
        /// Granularity of the keep alive timeout, in 100 ms.
        pub kas: Option<u16>,
        /// Shortest keep alive timeout, in milliseconds.
        pub min_kato: Option<u32>,
        /// Maximum number of connections from one address.
        pub max_connections_per_address: Option<u32>,
        /// Maximum number of connections to one listener.
        pub max_connections_per_listener: Option<u32>,
        /// Maximum number of queues of one host, by its name, in all subsystems together.
        pub max_connections_per_host: Option<u32>,
        /// Optional commands that the target does not offer.
        pub masked_oncs: Option<Value>,
        /// Fused operations that the target does not offer.
        pub masked_fuses: Option<Value>,
    }

    /// Parameters of `nvmf_get_transports`.
    pub struct GetTransports {
        /// Name of the target; only `nvmf_tgt`.
        pub tgt_name: Option<String>,
        /// Transport type; all when absent.
        pub trtype: Option<String>,
    }

    /// Parameters of `nvmf_create_subsystem`.
    pub struct CreateSubsystem {
        /// Name (NQN) of the subsystem.
        #[range(1..=223)]
        pub nqn: String,
        /// Name of the target; only `nvmf_tgt`.
        pub tgt_name: Option<String>,
        /// Serial number.
        pub serial_number: Option<String>,
        /// Model number.
        pub model_number: Option<String>,
        /// A label for administrators.
        #[range(0..=255)]
        pub admin_label: Option<String>,
        /// Maximum number of namespaces; 0 means 32.
        #[range(0..=65536)]
        pub max_namespaces: Option<u32>,
        /// Let hosts connect that are not listed.
        pub allow_any_host: bool = false,
        /// Report to hosts how well each listener serves each ANA group.
        pub ana_reporting: bool = false,
        /// Lowest controller identifier.
        pub min_cntlid: u16 = 1,
        /// Highest controller identifier.
        pub max_cntlid: u16 = 0xffef,
        /// Maximum number of blocks of one range of Dataset Management; 0 means no limit.
        pub dmrsl: u32 = 0,
        /// Longest Write Zeroes: 4 KiB times two to this power; 0 means no limit.
        pub wzsl: u8 = 0,
        /// Name of dmrsl in SPDK 26.05 and earlier, in KiB with blocks of 512 bytes.
        pub max_discard_size_kib: Option<u64>,
        /// Name of wzsl in SPDK 26.05 and earlier, in KiB: 0, or a power of two of at least 8.
        pub max_write_zeroes_size_kib: Option<u64>,
        /// Pass commands through to the NVMe device; only false.
        pub passthrough: bool = false,
        /// Let a host reset the subsystem; only false.
        pub enable_nssr: bool = false,
    }

    /// Parameters that name a subsystem.
    pub struct OneSubsystem {
        /// Name of the subsystem.
        pub nqn: String,
        /// Name of the target; only `nvmf_tgt`.
        pub tgt_name: Option<String>,
    }

    /// Parameters of `nvmf_get_subsystems`.
    pub struct GetSubsystems {
        /// Name of one subsystem; all when absent.
        pub nqn: Option<String>,
        /// Name of the target; only `nvmf_tgt`.
        pub tgt_name: Option<String>,
    }

    /// Parameters of `nvmf_subsystem_add_listener`.
    pub struct AddListener {
        /// Name of the subsystem.
        pub nqn: String,
        /// Name of the target; only `nvmf_tgt`.
        pub tgt_name: Option<String>,
        /// Where to listen.
        pub listen_address: ListenAddress,
        /// Require TLS; only false.
        pub secure_channel: bool = false,
        /// State of all ANA groups at this listener; optimized when absent.
        pub ana_state: Option<AnaState>,
        /// Socket implementation; only posix.
        pub sock_impl: Option<String>,
        /// NUMA node; only -1, which means any.
        pub numa_id: Option<i32>,
    }

    /// How a listener serves an ANA group.
    pub enum AnaState {
        /// The best path.
        Optimized = "optimized",
        /// A slower path.
        NonOptimized = "non_optimized",
        /// I/O is refused for now.
        Inaccessible = "inaccessible",
        /// I/O is refused until the namespace is added again.
        PersistentLoss = "persistent_loss",
        /// I/O is refused until the group has another state, which will be soon.
        Change = "change",
    }

    /// Parameters of `nvmf_subsystem_listener_set_ana_state`.
    pub struct SetAnaState {
        /// Name of the subsystem.
        pub nqn: String,
        /// Name of the target; only `nvmf_tgt`.
        pub tgt_name: Option<String>,
        /// Address of the listener.
        pub listen_address: ListenAddress,
        /// The state.
        pub ana_state: AnaState,
        /// The ANA group; all groups when absent or 0.
        pub anagrpid: Option<u32>,
    }

    /// Parameters of `nvmf_subsystem_set_ns_ana_group`.
    pub struct SetNsAnaGroup {
        /// Name of the subsystem.
        pub nqn: String,
        /// Number of the namespace.
        pub nsid: u32,
        /// The ANA group, from 1 to the max_namespaces of the subsystem.
        pub anagrpid: u32,
        /// Name of the target; only `nvmf_tgt`.
        pub tgt_name: Option<String>,
    }

    /// Parameters of `nvmf_subsystem_remove_listener`.
    pub struct RemoveListener {
        /// Name of the subsystem.
        pub nqn: String,
        /// Name of the target; only `nvmf_tgt`.
        pub tgt_name: Option<String>,
        /// Address of the listener.
        pub listen_address: ListenAddress,
    }

    /// A namespace to add.
    pub struct NamespaceParams {
        /// Number; the lowest free one when absent or 0.
        pub nsid: Option<u32>,
        /// Name of the bdev.
        pub bdev_name: String,
        /// Globally unique identifier (NGUID), 32 hexadecimal digits; the UUID when absent.
        pub nguid: Option<String>,
        /// Extended unique identifier (EUI64), 16 hexadecimal digits.
        pub eui64: Option<String>,
        /// UUID; that of the bdev when absent.
        pub uuid: Option<String>,
        /// File that keeps reservations across a loss of power. Without it they end with the process. Each namespace needs its own file.
        pub ptpl_file: Option<String>,
        /// ANA group; the number of the namespace when absent.
        pub anagrpid: Option<u32>,
        /// Hide the namespace from hosts until it is made visible; only false.
        pub no_auto_visible: bool = false,
        /// Hide metadata from hosts; only false.
        pub hide_metadata: bool = false,
    }

    /// Parameters of `nvmf_subsystem_add_ns`.
    pub struct AddNs {
        /// Name of the subsystem.
        pub nqn: String,
        /// The namespace.
        pub namespace: NamespaceParams,
        /// Name of the target; only `nvmf_tgt`.
        pub tgt_name: Option<String>,
    }

    /// Parameters of `nvmf_subsystem_remove_ns`.
    pub struct RemoveNs {
        /// Name of the subsystem.
        pub nqn: String,
        /// Number of the namespace.
        pub nsid: u32,
        /// Name of the target; only `nvmf_tgt`.
        pub tgt_name: Option<String>,
    }

    /// Parameters of `nvmf_subsystem_add_host`.
    pub struct AddHost {
        /// Name of the subsystem.
        pub nqn: String,
        /// Name of the host.
        pub host: String,
        /// Name of the target; only `nvmf_tgt`.
        pub tgt_name: Option<String>,
        /// Key for TLS; must be absent.
        pub psk: Option<String>,
        /// Key with which the host authenticates; must be absent.
        pub dhchap_key: Option<String>,
        /// Key with which the target authenticates; must be absent.
        pub dhchap_ctrlr_key: Option<String>,
    }

    /// Parameters of `nvmf_subsystem_remove_host`.
    pub struct RemoveHost {
        /// Name of the subsystem.
        pub nqn: String,
        /// Name of the host.
        pub host: String,
        /// Name of the target; only `nvmf_tgt`.
        pub tgt_name: Option<String>,
        /// How long to wait for the end of its connections, in milliseconds; has no effect, because the transports limit this time.
        pub timeout_ms: Option<u64>,
    }

    /// Parameters of `nvmf_subsystem_allow_any_host`.
    pub struct AllowAnyHost {
        /// Name of the subsystem.
        pub nqn: String,
        /// Whether hosts may connect that are not listed.
        pub allow_any_host: bool,
        /// Name of the target; only `nvmf_tgt`.
        pub tgt_name: Option<String>,
    }

    /// Parameters that name the target.
    pub struct OneTarget {
        /// Name of the target; only `nvmf_tgt`.
        pub tgt_name: Option<String>,
    }

    /// Admin commands that the target passes through to the NVMe device.
    pub struct AdminCmdPassthru {
        /// Only false.
        pub identify_ctrlr: bool = false,
        /// Only false.
        pub identify_uuid_list: bool = false,
        /// Only false.
        pub get_log_page: bool = false,
        /// Only false.
        pub get_set_features: bool = false,
        /// Only false.
        pub sanitize: bool = false,
        /// Only false.
        pub security_send_recv: bool = false,
        /// Only false.
        pub fw_update: bool = false,
        /// Only false.
        pub nvme_mi: bool = false,
        /// Only false.
        pub vendor_specific: bool = false,
    }

    /// How many connections of the same host are allowed.
    pub enum DupHostPolicy {
        /// Any number.
        Allow = "allow",
        /// One for each listener.
        RestrictPerListener = "restrict_per_listener",
    }

    /// Parameters of `nvmf_set_config`.
    pub struct SetConfig {
        /// Admin commands that the target passes through; none.
        pub admin_cmd_passthru: Option<AdminCmdPassthru>,
        /// Cores that get poll groups, such as `0x3` or `[0,1]`; all when absent.
        pub poll_groups_mask: Option<String>,
        /// Older form of `discovery_filters`: `match_any`, or names separated by commas.
        pub discovery_filter: Option<String>,
        /// What listeners in the discovery log must have in common with the connection that reads it: `transport`, `address`, `svcid`.
        pub discovery_filters: Option<Value>,
        /// Digests for authentication; has no effect yet.
        pub dhchap_digests: Option<Value>,
        /// Diffie-Hellman groups for authentication; has no effect yet.
        pub dhchap_dhgroups: Option<Value>,
        /// How many connections of the same host are allowed; only `allow` is supported.
        pub dup_host_policy: Option<DupHostPolicy>,
    }

    /// Parameters of `nvmf_set_max_subsystems`.
    pub struct SetMaxSubsystems {
        /// Maximum number of subsystems, the discovery subsystem included.
        #[range(1..=65536)]
        pub max_subsystems: u32,
    }

    /// Parameters of `nvmf_set_crdt`.
    pub struct SetCrdt {
        /// Command retry delay 1, in 100 ms.
        pub crdt1: u16 = 0,
        /// Command retry delay 2, in 100 ms.
        pub crdt2: u16 = 0,
        /// Command retry delay 3, in 100 ms.
        pub crdt3: u16 = 0,
    }

    /// Parameters of `nvmf_discovery_add_referral`.
    pub struct AddReferral {
        /// Name of the target; only `nvmf_tgt`.
        pub tgt_name: Option<String>,
        /// Address that the referral points to.
        pub address: ListenAddress,
        /// Whether it needs a secure channel.
        pub secure_channel: bool = false,
        /// Name of the subsystem there; the discovery subsystem when absent.
        pub subnqn: Option<String>,
    }

    /// Parameters of `nvmf_discovery_remove_referral`.
    pub struct RemoveReferral {
        /// Name of the target; only `nvmf_tgt`.
        pub tgt_name: Option<String>,
        /// Address that the referral points to.
        pub address: ListenAddress,
        /// Name of the subsystem there; the discovery subsystem when absent.
        pub subnqn: Option<String>,
    }
}
