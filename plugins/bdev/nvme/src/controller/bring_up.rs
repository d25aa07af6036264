//! Connects a controller's admin queue, enables the controller and identifies it. `[app thread]`

use std::rc::Rc;
use std::time::Duration;

use drivebay_nvme_driver::spec::admin::{GetLogPage, Identify, SetFeatures};
use drivebay_nvme_driver::spec::fabrics::{CNTLID_DYNAMIC, Connect, PropertyGet, PropertySet};
use drivebay_nvme_driver::spec::feature::{NumberOfQueues, async_event, fid};
use drivebay_nvme_driver::spec::identify::{self, NamespaceId, cns, csi};
use drivebay_nvme_driver::spec::log::{CommandsSupported, lid};
use drivebay_nvme_driver::spec::property::{Cap, Cc, Csts, css, offset, shn, shst};
use drivebay_nvme_driver::spec::zns::{ZonedController, ZonedNamespace};
use drivebay_nvme_driver::spec::{Command, NSID_ALL, opcode};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::task;

use super::keep_alive::KeepAlive;
use crate::admin::{Admin, Data};
use crate::app;
use crate::options::Timeouts;
use crate::pci;
use crate::reach::{Reach, Way};

/// Entries in an admin queue: the fewest that NVMe over Fabrics allows.
const ADMIN_ENTRIES: u16 = 32;
/// How often the status is read while a controller is enabled or shut down.
const LOOK: Duration = Duration::from_millis(10);
/// The maximum number of namespaces of one controller. More are ignored.
const NAMESPACES_MAX: usize = 4096;

/// A controller that is enabled.
#[derive(Debug)]
pub(crate) struct Enabled {
    pub(crate) admin: Rc<Admin>,
    pub(crate) keep_alive: KeepAlive,
    pub(crate) way: Way,
    pub(crate) cntlid: u16,
    pub(crate) cap: Cap,
    pub(crate) data: identify::Controller,
    /// How many I/O queues the controller allows.
    pub(crate) num_queues: u16,
}

/// What a controller says of a namespace.
#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) data: identify::Namespace,
    pub(crate) ids: Vec<NamespaceId>,
    /// Only for a zoned namespace.
    pub(crate) zoned: Option<Zoned>,
}

/// What a controller says of a zoned namespace.
#[derive(Debug)]
pub(crate) struct Zoned {
    pub(crate) namespace: ZonedNamespace,
    /// The longest append: 2 ^ zasl pages of the smallest size; 0 = as long as any transfer.
    pub(crate) zasl: u8,
    pub(crate) can_append: bool,
}

/// Connects and enables a controller. `keep_alive_ms`: its keep alive timeout; 0 is none. `num_queues`: how many I/O queues to ask for.
pub(crate) async fn enable(
    reach: &Reach,
    keep_alive_ms: u32,
    num_queues: u16,
    timeouts: Timeouts,
) -> Result<Enabled> {
    let (admin, way, cap, cntlid) = match reach {
        Reach::Tcp(target) => {
            let sqsize = ADMIN_ENTRIES - 1;
            let connect = Connect { sqsize, kato_ms: keep_alive_ms, ..Connect::default() };
            let dialed = target.dial(connect, CNTLID_DYNAMIC).await?;
            let cntlid = Some(dialed.cntlid);
            let admin = Rc::new(Admin::new(dialed.stream, dialed.agreed, timeouts)?);
            let cap = admin.enable().await?;
            (admin, Way::Tcp(target.clone()), cap, cntlid)
        }
        Reach::Pci(address) => {
            let (admin, function) = pci::admin::connect(address, timeouts).await?;
            app::get()?.remember_admin(&function, &admin);
            let cap = function.cap();
            (admin, Way::Pci(function), cap, None)
        }
    };
    // Keep alives begin before any step that may take long, such as identifying many namespaces.
    let keep_alive = KeepAlive::start(&admin, keep_alive_ms)?;

    let asked = Identify { cns: cns::CONTROLLER, ..Identify::default() };
    let data = identify::Controller::parse(&admin.identify(asked).await?);
    let cntlid = cntlid.unwrap_or(data.cntlid);
    let num_queues = if num_queues > 0 { admin.set_queues(num_queues).await? } else { 0 };
    let num_queues = match &way {
        Way::Tcp(_) => num_queues,
        Way::Pci(function) => {
            pci::admin::prepare_queues(&admin, function, &data).await?;
            num_queues.min(function.qid_max())
        }
    };
    let mut events = 0;
    for event in [
        async_event::NAMESPACE_ATTRIBUTE,
        async_event::ANA_CHANGE,
        async_event::DISCOVERY_LOG_CHANGE,
    ] {
        events |= data.oaes & event;
    }
    if events != 0 {
        admin.set_feature(fid::ASYNC_EVENT_CONFIGURATION, events).await?;
    }
    Ok(Enabled { admin, keep_alive, way, cntlid, cap, data, num_queues })
}

impl Admin {
    /// Enables a controller over fabrics, and returns its capabilities.
    async fn enable(&self) -> Result<Cap> {
        let cap = Cap::from_bits(self.property(offset::CAP, true).await?);
        let css = if cap.css & css::CAP_IOCS != 0 { css::IOCS } else { css::NVM };
        let cc = Cc { en: true, css, iosqes: 6, iocqes: 4, ..Cc::default() };
        self.set_property(offset::CC, cc.bits()).await?;
        let patience = Duration::from_millis(500) * u32::from(cap.to).max(1);
        self.wait_until(patience, "CSTS.RDY", |csts| csts.rdy).await?;
        Ok(cap)
    }

    async fn property(&self, offset: u32, wide: bool) -> Result<u64> {
        let command = PropertyGet { wide, offset }.to_command();
        let answer = self.run("Property Get", command, Data::None).await?.ok("Property Get")?;
        let value = answer.completion.result;
        Ok(if wide { value } else { value & 0xffff_ffff })
    }

    async fn set_property(&self, offset: u32, value: u32) -> Result<()> {
        let command = PropertySet { wide: false, offset, value: value.into() }.to_command();
        self.run("Property Set", command, Data::None).await?.ok("Property Set").map(drop)
    }

    /// Reads the controller's status until `is_done` accepts it, the status is fatal, or `patience` is over.
    async fn wait_until(
        &self,
        patience: Duration,
        what: &str,
        is_done: impl Fn(Csts) -> bool,
    ) -> Result<()> {
        let waiting = async {
            loop {
                let bits = self.property(offset::CSTS, false).await?;
                let csts = Csts::from_bits(u32::try_from(bits).unwrap_or(u32::MAX));
                if csts.cfs {
                    let why = "the controller has a fatal error (CSTS.CFS)";
                    return Err(Error::new(errno::EIO, why));
                }
                if is_done(csts) {
                    return Ok(());
                }
                task::sleep(LOOK).await;
            }
        };
        task::timeout(patience, waiting).await.unwrap_or_else(|elapsed| {
            Err(Error::new(errno::ETIMEDOUT, format!("{what}: {elapsed}")))
        })
    }

    /// Reads a data structure of Identify.
    pub(crate) async fn identify(&self, asked: Identify) -> Result<[u8; identify::LEN]> {
        let data = Data::In(4096);
        let answer = self.run("Identify", asked.to_command(), data).await?.ok("Identify")?;
        let len = answer.data.len();
        answer.data.first_chunk().copied().ok_or_else(|| {
            Error::new(errno::EIO, format!("Identify: the controller sent {len} bytes of 4096"))
        })
    }

    /// Identifiers of the namespaces that are attached to the controller.
    pub(crate) async fn active_namespaces(&self) -> Result<Vec<u32>> {
        let mut nsids: Vec<u32> = Vec::new();
        while nsids.len() < NAMESPACES_MAX {
            let after = nsids.last().copied().unwrap_or(0);
            let cns = cns::ACTIVE_NAMESPACES;
            let page = self.identify(Identify { nsid: after, cns, ..Identify::default() }).await?;
            let before = nsids.len();
            // Takes greater identifiers only, so that a list that repeats itself ends.
            for nsid in identify::parse_namespace_list(&page) {
                if nsids.last().is_none_or(|last| nsid > *last) {
                    nsids.push(nsid);
                }
            }
            if nsids.len() - before < 1024 {
                break;
            }
        }
        nsids.truncate(NAMESPACES_MAX);
        Ok(nsids)
    }

    /// Identify Namespace, and the namespace's identifiers. Old controllers need not have the latter.
    pub(crate) async fn namespace(&self, nsid: u32) -> Result<Described> {
        let asked = Identify { nsid, cns: cns::NAMESPACE, ..Identify::default() };
        let data = identify::Namespace::parse(&self.identify(asked).await?);
        let cns = cns::NAMESPACE_ID_DESCRIPTORS;
        let ids = match self.identify(Identify { nsid, cns, ..Identify::default() }).await {
            Ok(page) => identify::parse_namespace_id_descriptors(&page),
            Err(error) if error.errno() == errno::EINVAL => Vec::new(),
            Err(error) => return Err(error),
        };
        let is_zoned = ids.contains(&NamespaceId::Csi(csi::ZONED));
        let zoned = if is_zoned { Some(self.zoned(nsid).await?) } else { None };
        Ok(Described { data, ids, zoned })
    }

    /// What the controller says of a zoned namespace.
    async fn zoned(&self, nsid: u32) -> Result<Zoned> {
        let asked = Identify { cns: cns::CSI_NAMESPACE, csi: csi::ZONED, ..Identify::default() };
        let namespace = ZonedNamespace::parse(&self.identify(Identify { nsid, ..asked }).await?);
        let asked = Identify { cns: cns::CSI_CONTROLLER, ..asked };
        let zasl = ZonedController::parse(&self.identify(asked).await?).zasl;
        let can_append = self.supports(csi::ZONED, opcode::zoned::ZONE_APPEND).await?;
        Ok(Zoned { namespace, zasl, can_append })
    }

    /// Whether the controller lists an opcode of a command set as supported. A controller without the log supports none.
    async fn supports(&self, csi: u8, opcode: u8) -> Result<bool> {
        const LEN: u32 = 4096;
        let lid = lid::COMMANDS_SUPPORTED;
        let asked =
            GetLogPage { nsid: NSID_ALL, lid, numd: LEN / 4 - 1, csi, ..GetLogPage::default() };
        let answer = self.run("Get Log Page", asked.to_command(), Data::In(LEN)).await?;
        let page = match answer.ok("Get Log Page") {
            Ok(answer) => answer.data,
            Err(error) if self.is_lost() => return Err(error),
            Err(_) => return Ok(false),
        };
        let page = page.first_chunk().map(CommandsSupported::parse);
        let effects = page.and_then(|page| page.io.get(usize::from(opcode)).copied());
        Ok(effects.is_some_and(|effects| effects & 1 == 1))
    }

    async fn set_feature(&self, fid: u8, cdw11: u32) -> Result<u32> {
        let command = SetFeatures { fid, cdw11, ..SetFeatures::default() }.to_command();
        let answer = self.run("Set Features", command, Data::None).await?.ok("Set Features")?;
        Ok(answer.completion.dw0())
    }

    /// Asks for this many I/O queues, and returns how many the controller allows.
    async fn set_queues(&self, count: u16) -> Result<u16> {
        let n = count.saturating_sub(1);
        let asked = NumberOfQueues { nsq: n, ncq: n }.to_dword();
        let given =
            NumberOfQueues::from_dword(self.set_feature(fid::NUMBER_OF_QUEUES, asked).await?);
        Ok(given.nsq.min(given.ncq).min(n) + 1)
    }

    /// Reads `len` bytes of a log page from `offset` on; both are multiples of 4.
    pub(crate) async fn log_page(
        &self,
        lid: u8,
        nsid: u32,
        offset: u64,
        len: u32,
    ) -> Result<Vec<u8>> {
        let numd = (len / 4).saturating_sub(1);
        let command = GetLogPage { nsid, lid, numd, offset, ..GetLogPage::default() }.to_command();
        let answer = self.run("Get Log Page", command, Data::In(len)).await?;
        answer.ok("Get Log Page").map(|answer| answer.data)
    }

    /// Sends Keep Alive and waits for the answer.
    pub(crate) async fn keep_alive(&self) -> Result<()> {
        let command = Command::new(opcode::admin::KEEP_ALIVE);
        self.run("Keep Alive", command, Data::None).await?.ok("Keep Alive").map(drop)
    }

    /// Shuts a controller over fabrics down and waits until it has done so.
    pub(crate) async fn shut_down(&self) -> Result<()> {
        let bits = self.property(offset::CC, false).await?;
        let cc = Cc::from_bits(u32::try_from(bits).unwrap_or(0));
        self.set_property(offset::CC, Cc { shn: shn::NORMAL, ..cc }.bits()).await?;
        let patience = Duration::from_secs(5);
        self.wait_until(patience, "CSTS.SHST", |csts| csts.shst == shst::COMPLETE).await
    }
}
