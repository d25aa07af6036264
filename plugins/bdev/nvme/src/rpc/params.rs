//! The parameters of the methods: all that the reference has. For a parameter that is not supported yet, the plugin accepts only the value
//! that means "off".

use drivebay_sdk::bdev::only;
use drivebay_sdk::prelude::*;
use drivebay_sdk::serde_json::{Value, json};

use crate::options::MultipathOptions;

params! {
    /// Parameters of `bdev_nvme_attach_controller`.
    pub struct Attach {
        /// Name of the controller; its bdevs are `<name>n<nsid>`.
        pub name: String,
        /// Transport: `TCP` or `PCIe`.
        pub trtype: String,
        /// Address of the controller: an IPv4 or IPv6 address in digits, or the PCI address of a device that is bound to vfio-pci.
        pub traddr: String,
        /// Address family, `IPv4` or `IPv6`; the family of `traddr` when absent. Must be absent on PCIe.
        pub adrfam: Option<String>,
        /// Port; 4420 when absent. Must be absent on PCIe.
        pub trsvcid: Option<String>,
        /// Priority of the connection; has no effect.
        pub priority: Option<String>,
        /// NQN of the subsystem; the discovery NQN when absent. Must be absent on PCIe.
        #[range(1..=223)]
        pub subnqn: Option<String>,
        /// NQN of this host; one that this process generates when absent.
        #[range(1..=223)]
        pub hostnqn: Option<String>,
        /// Address of this host. Must be absent: not supported yet.
        pub hostaddr: Option<String>,
        /// Port of this host. Must be absent: not supported yet.
        pub hostsvcid: Option<String>,
        /// Whether to check reference tags. Must be false: not supported yet.
        pub prchk_reftag: bool = false,
        /// Whether to check guards. Must be false: not supported yet.
        pub prchk_guard: bool = false,
        /// Whether to ask for header digests.
        pub hdgst: bool = false,
        /// Whether to ask for data digests.
        pub ddgst: bool = false,
        /// How long connecting a queue may take, in microseconds; 10 s when absent.
        pub fabrics_connect_timeout_us: Option<u64>,
        /// What to do when a controller already has that name.
        pub multipath: MultipathMode = MultipathMode::Multipath,
        /// I/O queues to ask for; 128 when absent. Each bdev uses one for each thread.
        #[range(1..=65_536)]
        pub num_io_queues: Option<u32>,
        /// How long to try to reconnect before the bdevs are removed, in seconds; -1 = forever, 0 = forever, and I/O fails
        /// after one try. The value of `bdev_nvme_set_options` when absent.
        pub ctrlr_loss_timeout_sec: Option<i32>,
        /// How long to wait between two tries to reconnect, in seconds. The value of `bdev_nvme_set_options` when absent.
        pub reconnect_delay_sec: Option<u32>,
        /// When I/O fails after the connection is lost, in seconds; 0 = it waits as long as the controller may reconnect. The
        /// value of `bdev_nvme_set_options` when absent.
        pub fast_io_fail_timeout_sec: Option<u32>,
        /// Name of a key for TLS. Must be absent: not supported yet.
        pub psk: Option<String>,
        /// Maximum number of bdevs to make.
        #[range(1..=4096)]
        pub max_bdevs: u32 = 128,
        /// Name of a key for DH-HMAC-CHAP. Must be absent: not supported yet.
        pub dhchap_key: Option<String>,
        /// Name of a key for DH-HMAC-CHAP. Must be absent: not supported yet.
        pub dhchap_ctrlr_key: Option<String>,
        /// Whether to make bdevs of namespaces with an unknown command set. Must be false: not supported yet.
        pub allow_unrecognized_csi: bool = false,
        /// How the bdevs use their paths; the value of `bdev_nvme_set_options` when absent.
        pub multipath_opts: Option<MultipathOptions>,
        /// Whether to disable flow control of the submission queues; has no effect, since the host never sends more than they hold.
        pub disable_sq_flow_control: bool = false,
    }

    /// What to do when a controller already has that name.
    pub enum MultipathMode {
        /// The controller gets another address, which is connected only when the one in use fails.
        Failover = "failover",
        /// The controller becomes another path of the bdevs.
        Multipath = "multipath",
        /// The call fails.
        Disable = "disable",
    }

    /// Parameters of `bdev_nvme_detach_controller`. With an address, only that path is removed.
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
        /// Address of this host.
        pub hostaddr: Option<String>,
        /// Port of this host.
        pub hostsvcid: Option<String>,
    }

    /// Parameters of `bdev_nvme_get_controllers`.
    pub struct GetControllers {
        /// Name of the controller; all when absent.
        pub name: Option<String>,
    }

    /// Parameters of the methods that reset, disable and enable a controller.
    pub struct Control {
        /// Name of the controller.
        pub name: String,
        /// Identifier of the controller, when several share the name; all of them when absent or 0.
        pub cntlid: Option<u16>,
    }

    /// Parameters of `bdev_nvme_set_hotplug`.
    pub struct SetHotplug {
        /// Whether to attach PCIe controllers as they appear.
        pub enable: bool,
        /// Kept and saved, but without effect: the kernel reports new controllers, so nobody has to look for them.
        #[range(0..=10_000_000)]
        pub period_us: u64 = 100_000,
    }
}

/// The family of an address in digits.
pub(super) fn family(traddr: &str) -> &'static str {
    if traddr.contains(':') { "IPv6" } else { "IPv4" }
}

impl Attach {
    /// Refuses parameters of the reference that this plugin does not support yet.
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

    /// The parameters for an address of TCP; all others have their defaults.
    pub(crate) fn tcp(name: String, traddr: String) -> Result<Self> {
        Self::with_defaults("TCP", name, traddr)
    }

    /// The parameters for a controller on PCIe; all others have their defaults.
    pub(crate) fn pcie(name: String, traddr: String) -> Result<Self> {
        Self::with_defaults("PCIe", name, traddr)
    }

    fn with_defaults(trtype: &str, name: String, traddr: String) -> Result<Self> {
        let params = json!({ "name": name, "trtype": trtype, "traddr": traddr });
        drivebay_sdk::rpc::decode(&params.to_string())
            .map_err(|error| Error::new(errno::EINVAL, error.message))
    }

    /// Whether the controller is on PCIe.
    pub(crate) fn is_pci(&self) -> bool {
        self.trtype.eq_ignore_ascii_case("pcie")
    }

    /// Checks the parameters of a controller on PCIe, whose only address is `traddr`.
    pub(crate) fn check_pci(&mut self) -> Result<()> {
        for (field, given) in
            [("adrfam", &self.adrfam), ("trsvcid", &self.trsvcid), ("subnqn", &self.subnqn)]
        {
            if let Some(given) = given {
                return Err(Error::invalid(field, given, "absent with trtype PCIe"));
            }
        }
        self.trtype = "PCIe".into();
        Ok(())
    }

    /// The family of the address; empty on PCIe.
    pub(crate) fn family(&self) -> &'static str {
        if self.is_pci() { "" } else { family(&self.traddr) }
    }

    /// The transport identifier, in the reference's format.
    pub(crate) fn trid(&self) -> Value {
        if self.is_pci() {
            return json!({ "trtype": "PCIe", "traddr": self.traddr });
        }
        json!({
            "trtype": "TCP",
            "adrfam": self.family(),
            "traddr": self.traddr,
            "trsvcid": self.trsvcid.as_deref().unwrap_or("4420"),
            "subnqn": self.subnqn.as_deref().unwrap_or_default(),
        })
    }
}

impl Detach {
    /// Whether the call names this path. An absent parameter matches any path.
    pub(crate) fn names(&self, path: &Attach) -> bool {
        let is = |wanted: &Option<String>, given: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(given))
        };
        let port = if path.is_pci() { "" } else { "4420" };
        is(&self.trtype, &path.trtype)
            && is(&self.traddr, &path.traddr)
            && is(&self.adrfam, path.family())
            && is(&self.trsvcid, path.trsvcid.as_deref().unwrap_or(port))
            && is(&self.subnqn, path.subnqn.as_deref().unwrap_or_default())
            && is(&self.hostaddr, path.hostaddr.as_deref().unwrap_or_default())
            && is(&self.hostsvcid, path.hostsvcid.as_deref().unwrap_or_default())
    }
}
