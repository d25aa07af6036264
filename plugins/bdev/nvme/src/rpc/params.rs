//! The parameters of the methods: every one that the reference has. What has no effect here is taken at the value that means "off"
//! and otherwise refused.

use drivebay_sdk::bdev::only;
use drivebay_sdk::prelude::*;
use drivebay_sdk::serde_json::{Value, json};

use crate::options::MultipathOptions;

params! {
    /// Parameters of `bdev_nvme_attach_controller`.
    pub struct Attach {
        /// Name of the controller; its bdevs are `<name>n<nsid>`.
        pub name: String,
        /// Transport. Only `TCP` is supported yet.
        pub trtype: String,
        /// Address of the controller, an IPv4 or IPv6 address in digits.
        pub traddr: String,
        /// Address family, `IPv4` or `IPv6`; the address says it, too.
        pub adrfam: Option<String>,
        /// Port; 4420 when absent.
        pub trsvcid: Option<String>,
        /// Priority of the connection; has no effect.
        pub priority: Option<String>,
        /// NQN of the subsystem.
        #[range(1..=223)]
        pub subnqn: Option<String>,
        /// NQN of this host; one that stays as long as this process when absent.
        #[range(1..=223)]
        pub hostnqn: Option<String>,
        /// Address at this end. Only absent is supported yet.
        pub hostaddr: Option<String>,
        /// Port at this end. Only absent is supported yet.
        pub hostsvcid: Option<String>,
        /// Whether reference tags are checked. Only false is supported yet.
        pub prchk_reftag: bool = false,
        /// Whether guards are checked. Only false is supported yet.
        pub prchk_guard: bool = false,
        /// Whether headers have digests.
        pub hdgst: bool = false,
        /// Whether data has digests.
        pub ddgst: bool = false,
        /// How long connecting a queue may take, in microseconds; 10 s when absent.
        pub fabrics_connect_timeout_us: Option<u64>,
        /// What happens when a controller has that name.
        pub multipath: MultipathMode = MultipathMode::Multipath,
        /// I/O queues to ask for; 128 when absent. Each bdev takes one on each thread that uses it.
        #[range(1..=65_536)]
        pub num_io_queues: Option<u32>,
        /// How long the controller is waited for before its bdevs go, in seconds; -1 = for ever, 0 = they stay, and their I/O fails
        /// after one try. As `bdev_nvme_set_options` has it when absent.
        pub ctrlr_loss_timeout_sec: Option<i32>,
        /// How long to wait between two tries to connect, in seconds.
        pub reconnect_delay_sec: Option<u32>,
        /// After how long I/O fails while the controller is away, in seconds; 0 = it waits as long as the controller is waited for.
        pub fast_io_fail_timeout_sec: Option<u32>,
        /// Name of a key for TLS. Only absent is supported yet.
        pub psk: Option<String>,
        /// Bdevs that are made at most.
        #[range(1..=4096)]
        pub max_bdevs: u32 = 128,
        /// Name of a key for DH-HMAC-CHAP. Only absent is supported yet.
        pub dhchap_key: Option<String>,
        /// Name of a key for DH-HMAC-CHAP. Only absent is supported yet.
        pub dhchap_ctrlr_key: Option<String>,
        /// Whether namespaces of an unknown command set become bdevs. Only false is supported yet.
        pub allow_unrecognized_csi: bool = false,
        /// How the bdevs use their paths.
        pub multipath_opts: Option<MultipathOptions>,
        /// Whether the submission queues have no flow control; has no effect, since no more is ever outstanding than they hold.
        pub disable_sq_flow_control: bool = false,
    }

    /// What happens when a controller has the name already.
    pub enum MultipathMode {
        /// It gets another path, for when the first one fails.
        Failover = "failover",
        /// Its bdevs get another path.
        Multipath = "multipath",
        /// The call fails.
        Disable = "disable",
    }

    /// Parameters of `bdev_nvme_detach_controller`. With an address only that path goes.
    pub struct Detach {
        /// Name of the controller.
        pub name: String,
        /// Transport of the path.
        pub trtype: Option<String>,
        /// Address of the path.
        pub traddr: Option<String>,
        /// Address family of the path.
        pub adrfam: Option<String>,
        /// Port of the path.
        pub trsvcid: Option<String>,
        /// NQN of the subsystem.
        pub subnqn: Option<String>,
        /// Address at this end.
        pub hostaddr: Option<String>,
        /// Port at this end.
        pub hostsvcid: Option<String>,
    }

    /// Parameters of `bdev_nvme_get_controllers`.
    pub struct GetControllers {
        /// Name of the controller; all when absent.
        pub name: Option<String>,
    }

    /// Parameters of `bdev_nvme_reset_controller`.
    pub struct Reset {
        /// Name of the controller.
        pub name: String,
        /// Identifier of the controller, where several have the name; all when absent or 0.
        pub cntlid: Option<u16>,
    }

    /// Parameters of `bdev_nvme_set_hotplug`.
    pub struct SetHotplug {
        /// Whether to look for controllers.
        pub enable: bool,
        /// How often, in microseconds.
        #[range(0..=10_000_000)]
        pub period_us: u64 = 100_000,
    }
}

impl Attach {
    /// Refuses what the reference takes and this plugin does not do yet.
    pub(crate) fn refuse_what_is_not_there_yet(&self) -> Result<()> {
        only("prchk_reftag", self.prchk_reftag, false)?;
        only("prchk_guard", self.prchk_guard, false)?;
        only("allow_unrecognized_csi", self.allow_unrecognized_csi, false)?;
        for (field, given) in [
            ("hostaddr", &self.hostaddr),
            ("hostsvcid", &self.hostsvcid),
            ("psk", &self.psk),
            ("dhchap_key", &self.dhchap_key),
            ("dhchap_ctrlr_key", &self.dhchap_ctrlr_key),
        ] {
            if let Some(given) = given {
                return Err(Error::invalid(field, given, "absent: it is not supported yet"));
            }
        }
        match &self.multipath_opts {
            Some(multipath) => multipath.check(),
            None => Ok(()),
        }
    }

    /// Where the controller is, as the reference shows it.
    pub(crate) fn trid(&self) -> Value {
        json!({
            "trtype": "TCP",
            "adrfam": self.adrfam.as_deref().unwrap_or("IPv4"),
            "traddr": self.traddr,
            "trsvcid": self.trsvcid.as_deref().unwrap_or("4420"),
            "subnqn": self.subnqn.as_deref().unwrap_or_default(),
        })
    }
}

impl Detach {
    /// Whether the path that is named is that one: what is absent is any.
    pub(crate) fn names(&self, path: &Attach) -> bool {
        let is = |wanted: &Option<String>, given: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(given))
        };
        is(&self.trtype, "TCP")
            && is(&self.traddr, &path.traddr)
            && is(&self.adrfam, path.adrfam.as_deref().unwrap_or("IPv4"))
            && is(&self.trsvcid, path.trsvcid.as_deref().unwrap_or("4420"))
            && is(&self.subnqn, path.subnqn.as_deref().unwrap_or_default())
    }
}
