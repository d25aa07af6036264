//! The parameters of the methods: every one that the reference has. What has no effect here is taken at the value that means "off"
//! and otherwise refused.

use drivebay_sdk::rpc::params;
use serde_json::Value;

params! {
    /// A transport address.
    pub struct ListenAddress {
        /// Transport type, such as `TCP`.
        #[range(1..=31)]
        pub trtype: String,
        /// Address family, `ipv4` or `ipv6`; found out when absent.
        #[range(0..=31)]
        pub adrfam: Option<String>,
        /// Address.
        #[range(1..=255)]
        pub traddr: String,
        /// Service, such as a port.
        #[range(0..=31)]
        pub trsvcid: Option<String>,
    }

    /// Parameters of `nvmf_create_transport`. All but the first two are the fabric's, which has the defaults.
    pub struct CreateTransport {
        /// Transport type, such as `TCP`.
        #[range(1..=31)]
        pub trtype: String,
        /// Target; there is one.
        pub tgt_name: Option<String>,
        /// Entries of an I/O queue.
        pub max_queue_depth: Option<u16>,
        /// I/O queues of a controller.
        pub max_io_qpairs_per_ctrlr: Option<u16>,
        /// Bytes of data in a command capsule.
        pub in_capsule_data_size: Option<u32>,
        /// Bytes of data of one command.
        pub max_io_size: Option<u32>,
        /// Bytes of a buffer; has no effect.
        pub io_unit_size: Option<u32>,
        /// Entries of an admin queue.
        pub max_aq_depth: Option<u32>,
        /// Shared buffers; has no effect.
        pub num_shared_buffers: Option<u32>,
        /// Buffers cached by a thread; has no effect.
        pub buf_cache_size: Option<u32>,
        /// Small buffers cached by a thread.
        pub iobuf_small_cache_size: Option<u32>,
        /// Large buffers cached by a thread.
        pub iobuf_large_cache_size: Option<u32>,
        /// Zero copy; has no effect, since data is not copied where that can be helped.
        pub zcopy: Option<bool>,
        /// Completion queue entries; RDMA.
        pub num_cqe: Option<i32>,
        /// Entries of a shared receive queue; RDMA.
        pub max_srq_depth: Option<u32>,
        /// No shared receive queue; RDMA.
        pub no_srq: Option<bool>,
        /// Success without a response capsule; TCP.
        pub c2h_success: Option<bool>,
        /// Protection information is made and checked here.
        pub dif_insert_or_strip: Option<bool>,
        /// Priority of sockets; TCP.
        pub sock_priority: Option<u32>,
        /// Connections that wait to be accepted.
        pub acceptor_backlog: Option<i32>,
        /// How long an abort waits, in seconds.
        pub abort_timeout_sec: Option<u32>,
        /// No batches of work requests; RDMA.
        pub no_wr_batching: Option<bool>,
        /// Control messages per group; TCP.
        pub control_msg_num: Option<u16>,
        /// BAR0 is not mapped; vfio-user.
        pub disable_mappable_bar0: Option<bool>,
        /// Interrupts are not adapted; vfio-user.
        pub disable_adaptive_irq: Option<bool>,
        /// No shadow doorbells; vfio-user.
        pub disable_shadow_doorbells: Option<bool>,
        /// How often connections are accepted, in microseconds.
        pub acceptor_poll_rate: Option<u32>,
        /// How long an acknowledgement may take, in milliseconds.
        pub ack_timeout: Option<u32>,
        /// Work requests for data; RDMA.
        pub data_wr_pool_size: Option<u32>,
        /// Vendor commands are not passed through.
        pub disable_command_passthru: Option<bool>,
        /// Granularity of the keep alive timeout, in 100 ms.
        pub kas: Option<u16>,
        /// Shortest keep alive timeout, in milliseconds.
        pub min_kato: Option<u32>,
        /// Connections from one address at most.
        pub max_connections_per_address: Option<u32>,
        /// Connections by one listener at most.
        pub max_connections_per_listener: Option<u32>,
        /// Queues of one host, by its name, in all subsystems at most.
        pub max_connections_per_host: Option<u32>,
        /// Optional commands that are not offered.
        pub masked_oncs: Option<Value>,
        /// Fused operations that are not offered.
        pub masked_fuses: Option<Value>,
    }

    /// Parameters of `nvmf_get_transports`.
    pub struct GetTransports {
        /// Target; there is one.
        pub tgt_name: Option<String>,
        /// Transport type; all when absent.
        pub trtype: Option<String>,
    }

    /// Parameters of `nvmf_create_subsystem`.
    pub struct CreateSubsystem {
        /// Name.
        #[range(1..=223)]
        pub nqn: String,
        /// Target; there is one.
        pub tgt_name: Option<String>,
        /// Serial number.
        pub serial_number: Option<String>,
        /// Model number.
        pub model_number: Option<String>,
        /// What an administrator calls it.
        #[range(0..=255)]
        pub admin_label: Option<String>,
        /// Most namespaces; 0 = 32.
        #[range(0..=65536)]
        pub max_namespaces: Option<u32>,
        /// Hosts that are not listed may connect.
        pub allow_any_host: bool = false,
        /// Hosts are told how well each listener serves each ANA group.
        pub ana_reporting: bool = false,
        /// Lowest controller identifier.
        pub min_cntlid: u16 = 1,
        /// Highest controller identifier.
        pub max_cntlid: u16 = 0xffef,
        /// Most blocks of one range of Dataset Management, as told to hosts; 0 = no limit.
        pub dmrsl: u32 = 0,
        /// Largest Write Zeroes as told to hosts, a power of two of 4 KiB; 0 = no limit.
        pub wzsl: u8 = 0,
        /// SPDK 26.05 and earlier's name of dmrsl, in KiB: blocks of 512 bytes.
        pub max_discard_size_kib: Option<u64>,
        /// SPDK 26.05 and earlier's name of wzsl, in KiB: 0, or a power of two from 8 on.
        pub max_write_zeroes_size_kib: Option<u64>,
        /// Commands go to the NVMe device below; only false.
        pub passthrough: bool = false,
        /// A host may reset the subsystem; only false.
        pub enable_nssr: bool = false,
    }

    /// Parameters that name a subsystem.
    pub struct OneSubsystem {
        /// Name of the subsystem.
        pub nqn: String,
        /// Target; there is one.
        pub tgt_name: Option<String>,
    }

    /// Parameters of `nvmf_get_subsystems`.
    pub struct GetSubsystems {
        /// Name of one subsystem; all when absent.
        pub nqn: Option<String>,
        /// Target; there is one.
        pub tgt_name: Option<String>,
    }

    /// Parameters of `nvmf_subsystem_add_listener`.
    pub struct AddListener {
        /// Name of the subsystem.
        pub nqn: String,
        /// Target; there is one.
        pub tgt_name: Option<String>,
        /// Where to listen.
        pub listen_address: ListenAddress,
        /// TLS; only false.
        pub secure_channel: bool = false,
        /// State of all ANA groups at this listener; optimized when absent.
        pub ana_state: Option<AnaState>,
        /// Kind of sockets; only posix.
        pub sock_impl: Option<String>,
        /// NUMA node; only -1, any.
        pub numa_id: Option<i32>,
    }

    /// How a listener serves an ANA group.
    pub enum AnaState {
        /// Best.
        Optimized = "optimized",
        /// Works, but slower.
        NonOptimized = "non_optimized",
        /// Not now: I/O is refused.
        Inaccessible = "inaccessible",
        /// Not until the namespace is added again: I/O is refused.
        PersistentLoss = "persistent_loss",
        /// It will soon have another state: I/O is refused.
        Change = "change",
    }

    /// Parameters of `nvmf_subsystem_listener_set_ana_state`.
    pub struct SetAnaState {
        /// Name of the subsystem.
        pub nqn: String,
        /// Target; there is one.
        pub tgt_name: Option<String>,
        /// Where it listens.
        pub listen_address: ListenAddress,
        /// The state.
        pub ana_state: AnaState,
        /// The ANA group; all when absent or 0.
        pub anagrpid: Option<u32>,
    }

    /// Parameters of `nvmf_subsystem_set_ns_ana_group`.
    pub struct SetNsAnaGroup {
        /// Name of the subsystem.
        pub nqn: String,
        /// Number of the namespace.
        pub nsid: u32,
        /// The ANA group, from 1 to the most namespaces that the subsystem may have.
        pub anagrpid: u32,
        /// Target; there is one.
        pub tgt_name: Option<String>,
    }

    /// Parameters of `nvmf_subsystem_remove_listener`.
    pub struct RemoveListener {
        /// Name of the subsystem.
        pub nqn: String,
        /// Target; there is one.
        pub tgt_name: Option<String>,
        /// Where it listens.
        pub listen_address: ListenAddress,
    }

    /// A namespace to add.
    pub struct NamespaceParams {
        /// Number; the lowest free one when absent or 0.
        pub nsid: Option<u32>,
        /// Name of the bdev.
        pub bdev_name: String,
        /// Globally unique identifier, 32 hexadecimal digits; the UUID when absent.
        pub nguid: Option<String>,
        /// Extended unique identifier, 16 hexadecimal digits.
        pub eui64: Option<String>,
        /// UUID; the bdev's when absent.
        pub uuid: Option<String>,
        /// File that keeps reservations through a loss of power; without it they end with the process.
        pub ptpl_file: Option<String>,
        /// ANA group; the number of the namespace when absent.
        pub anagrpid: Option<u32>,
        /// Hosts see it when they are told to only; only false.
        pub no_auto_visible: bool = false,
        /// Metadata is not shown; only false.
        pub hide_metadata: bool = false,
    }

    /// Parameters of `nvmf_subsystem_add_ns`.
    pub struct AddNs {
        /// Name of the subsystem.
        pub nqn: String,
        /// The namespace.
        pub namespace: NamespaceParams,
        /// Target; there is one.
        pub tgt_name: Option<String>,
    }

    /// Parameters of `nvmf_subsystem_remove_ns`.
    pub struct RemoveNs {
        /// Name of the subsystem.
        pub nqn: String,
        /// Number of the namespace.
        pub nsid: u32,
        /// Target; there is one.
        pub tgt_name: Option<String>,
    }

    /// Parameters of `nvmf_subsystem_add_host`.
    pub struct AddHost {
        /// Name of the subsystem.
        pub nqn: String,
        /// Name of the host.
        pub host: String,
        /// Target; there is one.
        pub tgt_name: Option<String>,
        /// Key for TLS; only absent.
        pub psk: Option<String>,
        /// Key by which the host shows who it is; only absent.
        pub dhchap_key: Option<String>,
        /// Key by which the target shows who it is; only absent.
        pub dhchap_ctrlr_key: Option<String>,
    }

    /// Parameters of `nvmf_subsystem_remove_host`.
    pub struct RemoveHost {
        /// Name of the subsystem.
        pub nqn: String,
        /// Name of the host.
        pub host: String,
        /// Target; there is one.
        pub tgt_name: Option<String>,
        /// How long to wait for its connections to end, in milliseconds; the transports bound it.
        pub timeout_ms: Option<u64>,
    }

    /// Parameters of `nvmf_subsystem_allow_any_host`.
    pub struct AllowAnyHost {
        /// Name of the subsystem.
        pub nqn: String,
        /// Hosts that are not listed may connect.
        pub allow_any_host: bool,
        /// Target; there is one.
        pub tgt_name: Option<String>,
    }

    /// Parameters that name the target.
    pub struct OneTarget {
        /// Target; there is one.
        pub tgt_name: Option<String>,
    }

    /// What of admin commands goes to the NVMe device below.
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

    /// What of the same host on several connections.
    pub enum DupHostPolicy {
        /// Anything.
        Allow = "allow",
        /// One connection per listener.
        RestrictPerListener = "restrict_per_listener",
    }

    /// Parameters of `nvmf_set_config`.
    pub struct SetConfig {
        /// Admin commands that go to the device below; none.
        pub admin_cmd_passthru: Option<AdminCmdPassthru>,
        /// Cores that have poll groups, as `0x3` or `[0,1]`; all when absent.
        pub poll_groups_mask: Option<String>,
        /// Former form of `discovery_filters`: `match_any`, or names with commas between them.
        pub discovery_filter: Option<String>,
        /// What a listener must share with the connection that reads the discovery log: `transport`, `address`, `svcid`.
        pub discovery_filters: Option<Value>,
        /// Digests for authentication, which is not there yet; any.
        pub dhchap_digests: Option<Value>,
        /// Groups for authentication, which is not there yet; any.
        pub dhchap_dhgroups: Option<Value>,
        /// What of the same host on several connections; only allow.
        pub dup_host_policy: Option<DupHostPolicy>,
    }

    /// Parameters of `nvmf_set_max_subsystems`.
    pub struct SetMaxSubsystems {
        /// Most subsystems, the discovery subsystem included.
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
        /// Target; there is one.
        pub tgt_name: Option<String>,
        /// Where.
        pub address: ListenAddress,
        /// It needs a secure channel.
        pub secure_channel: bool = false,
        /// Its name; the discovery subsystem when absent.
        pub subnqn: Option<String>,
    }

    /// Parameters of `nvmf_discovery_remove_referral`.
    pub struct RemoveReferral {
        /// Target; there is one.
        pub tgt_name: Option<String>,
        /// Where.
        pub address: ListenAddress,
        /// Its name; the discovery subsystem when absent.
        pub subnqn: Option<String>,
    }
}
