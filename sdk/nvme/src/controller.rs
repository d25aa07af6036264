//! A controller: its admin queue, and the commands on it.

use crate::{Completed, Data, Error, Namespace, Queue, Request, Token};
use drivebay_spec_nvme::admin::{Abort, GetFeatures, GetLogPage, Identify, SetFeatures};
use drivebay_spec_nvme::event::AsyncEvent;
use drivebay_spec_nvme::fabrics::{
    CNTLID_DYNAMIC, Connect, ConnectData, ConnectResult, PropertyGet, PropertySet,
};
use drivebay_spec_nvme::feature::{NumberOfQueues, fid};
use drivebay_spec_nvme::identify::{self, NamespaceId, cns};
use drivebay_spec_nvme::log::{DiscoveryEntry, DiscoveryHeader, lid};
use drivebay_spec_nvme::property::{Cap, Cc, Csts, Version, css, offset, shn, shst};
use drivebay_spec_nvme::text::NulText;
use drivebay_spec_nvme::{Command, NSID_ALL, nqn, opcode};
use drivebay_spec_nvme_tcp::{Alignment, Digests, IcReq};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

/// Longest data in a capsule of the admin queue and in the Connect capsule, in bytes. NVMe/TCP 1.0, section 3.4.1.
const ADMIN_IN_CAPSULE_LEN: u32 = 8192;
/// Maximum number of entries of a discovery log. A log that claims more is an error.
const MAX_DISCOVERY_ENTRIES: u64 = 16_384;
/// Number of entries of a discovery log that one command reads.
const DISCOVERY_CHUNK: u64 = 64;

/// The host that connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Host NQN.
    pub nqn: String,
    /// Host identifier: a UUID in network byte order.
    pub id: [u8; 16],
}

impl Default for Host {
    fn default() -> Self {
        let id = *b"\xd7\x1e\xba\x1e\x5e\x2a\x4c\x0a\x9d\x00\x64\x72\x69\x76\x65\x31";
        Self { nqn: format!("{}d71eba1e-5e2a-4c0a-9d00-647269766531", nqn::UUID_PREFIX), id }
    }
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address of the controller.
    pub address: SocketAddr,
    /// NQN of the subsystem; [`nqn::DISCOVERY`] for the discovery service.
    pub subsystem: String,
    /// The host to connect as.
    pub host: Host,
    /// Digests to request.
    pub digests: Digests,
    /// Alignment to request for the data that the controller sends.
    pub hpda: Alignment,
    /// Entries of the admin queue: at least 32.
    pub admin_entries: u16,
    /// Keep alive timeout, in milliseconds; 0 is none. The caller must call [`Controller::keep_alive`] in time.
    pub keep_alive_ms: u32,
    /// How long each call may wait.
    pub timeout: Duration,
}

impl Options {
    /// The defaults: no digests, 32 admin entries, no keep alive, 10 seconds of patience.
    #[must_use]
    pub fn new(address: SocketAddr, subsystem: &str) -> Self {
        Self {
            address,
            subsystem: subsystem.into(),
            host: Host::default(),
            digests: Digests::default(),
            hpda: Alignment::DWORD,
            admin_entries: 32,
            keep_alive_ms: 0,
            timeout: Duration::from_secs(10),
        }
    }
}

/// A controller that is enabled.
#[derive(Debug)]
pub struct Controller {
    admin: Queue,
    options: Options,
    cntlid: u16,
    cap: Cap,
    data: identify::Controller,
    events: Vec<Token>,
}

impl Controller {
    /// Connects an admin queue, enables the controller, waits until it is ready and identifies it.
    ///
    /// # Errors
    /// One of these steps failed; [`Error::Status`] names the command.
    pub fn connect(options: Options) -> Result<Self, Error> {
        let (mut admin, cntlid) =
            connect_queue(&options, 0, options.admin_entries, CNTLID_DYNAMIC)?;
        let cap = Cap::from_bits(property(&mut admin, offset::CAP, true)?);
        let css = if cap.css & css::CAP_IOCS != 0 { css::IOCS } else { css::NVM };
        let cc = Cc { en: true, css, iosqes: 6, iocqes: 4, ..Cc::default() };
        set_property(&mut admin, offset::CC, cc.bits())?;
        let patience = Duration::from_millis(500) * u32::from(cap.to).max(1);
        wait_csts(&mut admin, patience, "CSTS.RDY", |csts| csts.rdy)?;
        let mut controller = Self {
            admin,
            options,
            cntlid,
            cap,
            data: identify::Controller::default(),
            events: Vec::new(),
        };
        let asked = Identify { cns: cns::CONTROLLER, ..Identify::default() };
        controller.data = identify::Controller::parse(&controller.identify(asked)?);
        Ok(controller)
    }

    /// Controller identifier.
    #[must_use]
    pub const fn cntlid(&self) -> u16 {
        self.cntlid
    }

    /// Its capabilities.
    #[must_use]
    pub const fn cap(&self) -> Cap {
        self.cap
    }

    /// Identify Controller, read when the controller was connected.
    #[must_use]
    pub const fn data(&self) -> &identify::Controller {
        &self.data
    }

    /// The admin queue, for commands that have no method here.
    pub const fn admin(&mut self) -> &mut Queue {
        &mut self.admin
    }

    /// Reads a property, one of [`offset`]; `wide` if it has 8 bytes.
    ///
    /// # Errors
    /// The command or the connection failed.
    pub fn property(&mut self, offset: u32, wide: bool) -> Result<u64, Error> {
        property(&mut self.admin, offset, wide)
    }

    /// Sets a property of 4 bytes.
    ///
    /// # Errors
    /// The command or the connection failed.
    pub fn set_property(&mut self, offset: u32, value: u32) -> Result<(), Error> {
        set_property(&mut self.admin, offset, value)
    }

    /// The controller's status.
    ///
    /// # Errors
    /// The command or the connection failed.
    pub fn csts(&mut self) -> Result<Csts, Error> {
        csts(&mut self.admin)
    }

    /// The controller's version.
    ///
    /// # Errors
    /// The command or the connection failed.
    pub fn version(&mut self) -> Result<Version, Error> {
        let bits = self.property(offset::VS, false)?;
        Ok(Version::from_bits((bits & 0xffff_ffff) as u32))
    }

    /// Reads any structure of Identify.
    ///
    /// # Errors
    /// The command or the connection failed, or the answer is short.
    pub fn identify(&mut self, asked: Identify) -> Result<[u8; identify::LEN], Error> {
        let request = Request::new("Identify", asked.to_command()).with_data(Data::In(4096));
        let data = self.admin.run(request)?.ok()?;
        data.first_chunk().copied().ok_or_else(|| short("Identify", data.len(), 4096))
    }

    /// Identifiers of all active namespaces.
    ///
    /// # Errors
    /// The command or the connection failed.
    pub fn namespaces(&mut self) -> Result<Vec<u32>, Error> {
        let mut nsids: Vec<u32> = Vec::new();
        loop {
            let after = nsids.last().copied().unwrap_or(0);
            let cns = cns::ACTIVE_NAMESPACES;
            let page = self.identify(Identify { nsid: after, cns, ..Identify::default() })?;
            let before = nsids.len();
            // Take only greater identifiers, so that the loop ends even if the controller repeats its list.
            nsids.extend(identify::parse_namespace_list(&page).filter(|&nsid| nsid > after));
            if nsids.len() - before < 1024 {
                return Ok(nsids);
            }
        }
    }

    /// Identify Namespace.
    ///
    /// # Errors
    /// The command or the connection failed.
    pub fn identify_namespace(&mut self, nsid: u32) -> Result<identify::Namespace, Error> {
        let asked = Identify { nsid, cns: cns::NAMESPACE, ..Identify::default() };
        Ok(identify::Namespace::parse(&self.identify(asked)?))
    }

    /// The properties of a namespace that requests need.
    ///
    /// # Errors
    /// The command or the connection failed, or the namespace's format is not supported.
    pub fn namespace(&mut self, nsid: u32) -> Result<Namespace, Error> {
        Namespace::new(nsid, &self.identify_namespace(nsid)?)
    }

    /// The identifiers of a namespace: NGUID, EUI64, UUID, command set.
    ///
    /// # Errors
    /// The command or the connection failed.
    pub fn namespace_ids(&mut self, nsid: u32) -> Result<Vec<NamespaceId>, Error> {
        let cns = cns::NAMESPACE_ID_DESCRIPTORS;
        let page = self.identify(Identify { nsid, cns, ..Identify::default() })?;
        Ok(identify::parse_namespace_id_descriptors(&page))
    }

    /// Reads `len` bytes (a multiple of 4, at least 4) of a log page from `offset` on.
    ///
    /// # Errors
    /// The length is not allowed, or the command or the connection failed.
    pub fn log_page(&mut self, lid: u8, offset: u64, len: u32) -> Result<Vec<u8>, Error> {
        let numd = match len / 4 {
            0 => None,
            dwords if len.is_multiple_of(4) => Some(dwords - 1),
            _ => None,
        };
        let numd = numd.ok_or_else(|| {
            Error::Argument(format!(
                "length {len} of a log page must be a multiple of 4, at least 4"
            ))
        })?;
        let log = GetLogPage { nsid: NSID_ALL, lid, numd, offset, ..GetLogPage::default() };
        let nsid = if lid == lid::DISCOVERY { 0 } else { NSID_ALL };
        let command = GetLogPage { nsid, ..log }.to_command();
        self.admin.run(Request::new("Get Log Page", command).with_data(Data::In(len)))?.ok()
    }

    /// Reads all entries of the discovery log.
    ///
    /// # Errors
    /// A command or the connection failed, or the log kept changing while it was read.
    pub fn discovery_log(&mut self) -> Result<Vec<DiscoveryEntry>, Error> {
        for _ in 0..8 {
            let before = self.discovery_header()?;
            let numrec = before.numrec;
            if numrec > MAX_DISCOVERY_ENTRIES {
                return Err(Error::Unexpected(format!(
                    "the discovery log says it has {numrec} entries; at most {MAX_DISCOVERY_ENTRIES} are read"
                )));
            }
            let mut entries = Vec::new();
            let mut next = 0;
            while next < numrec {
                let count = DISCOVERY_CHUNK.min(numrec - next);
                let len = u32::try_from(count * 1024).unwrap_or(0);
                let data = self.log_page(lid::DISCOVERY, (next + 1) * 1024, len)?;
                entries.extend(
                    data.chunks_exact(1024)
                        .filter_map(|entry| entry.first_chunk().map(DiscoveryEntry::parse)),
                );
                next += count;
            }
            if self.discovery_header()? == before {
                return Ok(entries);
            }
        }
        Err(Error::Unexpected("the discovery log changed each of the 8 times it was read".into()))
    }

    fn discovery_header(&mut self) -> Result<DiscoveryHeader, Error> {
        let data = self.log_page(lid::DISCOVERY, 0, 1024)?;
        let header = data.first_chunk().ok_or_else(|| short("Get Log Page", data.len(), 1024))?;
        Ok(DiscoveryHeader::parse(header))
    }

    /// Reads a feature's value: DW0 of the answer. For features with data use [`Self::admin`].
    ///
    /// # Errors
    /// The command or the connection failed.
    pub fn feature(&mut self, fid: u8) -> Result<u32, Error> {
        let command = GetFeatures { fid, ..GetFeatures::default() }.to_command();
        self.dw0(Request::new("Get Features", command))
    }

    /// Sets a feature; returns DW0 of the answer.
    ///
    /// # Errors
    /// The command or the connection failed.
    pub fn set_feature(&mut self, fid: u8, cdw11: u32) -> Result<u32, Error> {
        let command = SetFeatures { fid, cdw11, ..SetFeatures::default() }.to_command();
        self.dw0(Request::new("Set Features", command))
    }

    /// Requests `count` I/O queues (1 to 65535); returns how many the controller allows.
    ///
    /// # Errors
    /// The command or the connection failed, or `count` is 0.
    pub fn set_queues(&mut self, count: u16) -> Result<u16, Error> {
        let n = count
            .checked_sub(1)
            .ok_or_else(|| Error::Argument("at least one I/O queue must be requested".into()))?;
        let asked = NumberOfQueues { nsq: n, ncq: n }.to_dword();
        let got = NumberOfQueues::from_dword(self.set_feature(fid::NUMBER_OF_QUEUES, asked)?);
        Ok(got.nsq.min(got.ncq).min(n) + 1)
    }

    /// Connects I/O queue `qid` (1 or more) with `entries` entries; it takes one command less than that at once.
    ///
    /// # Errors
    /// The command or the connection failed, or there are fewer than 2 entries.
    pub fn io_queue(&self, qid: u16, entries: u16) -> Result<Queue, Error> {
        let (mut queue, _) = connect_queue(&self.options, qid, entries, self.cntlid)?;
        let capsule = self.data.ioccsz.saturating_mul(16).saturating_sub(64);
        // No NVMe/TCP controller uses an offset of the data in the capsule.
        queue.set_max_in_capsule_len(if self.data.icdoff == 0 { capsule } else { 0 });
        Ok(queue)
    }

    /// Keep Alive.
    ///
    /// # Errors
    /// The command or the connection failed.
    pub fn keep_alive(&mut self) -> Result<(), Error> {
        let command = Command::new(opcode::admin::KEEP_ALIVE);
        self.dw0(Request::new("Keep Alive", command)).map(|_| ())
    }

    /// Aborts command `cid` of queue `sqid`; returns whether it was aborted.
    ///
    /// # Errors
    /// The command or the connection failed.
    pub fn abort(&mut self, sqid: u16, cid: u16) -> Result<bool, Error> {
        let command = Abort { sqid, cid }.to_command();
        Ok(self.dw0(Request::new("Abort", command))? & 1 == 0)
    }

    /// Sends an Asynchronous Event Request; [`Self::event`] returns its event.
    ///
    /// # Errors
    /// The connection failed or the admin queue is full.
    pub fn request_event(&mut self) -> Result<Token, Error> {
        let command = Command::new(opcode::admin::ASYNC_EVENT_REQUEST);
        let token = self.admin.submit(Request::new("Asynchronous Event Request", command))?;
        self.admin.flush()?;
        self.events.push(token);
        Ok(token)
    }

    /// Waits up to `patience` for the next event. Each event uses up one [`Self::request_event`].
    ///
    /// # Errors
    /// The connection failed, or the request was refused.
    pub fn event(&mut self, patience: Duration) -> Result<Option<AsyncEvent>, Error> {
        let deadline = Instant::now() + patience;
        loop {
            for index in 0..self.events.len() {
                let Some(&token) = self.events.get(index) else { break };
                let Some(completed) = self.admin.wait_for(token, Duration::ZERO)? else { continue };
                self.events.swap_remove(index);
                let dw0 = completed.completion.dw0();
                completed.ok()?;
                return Ok(Some(AsyncEvent::from_dw0(dw0)));
            }
            if self.events.is_empty() || Instant::now() >= deadline {
                return Ok(None);
            }
        }
    }

    /// Shuts the controller down through CC.SHN, then closes its admin queue. Close the I/O queues first.
    ///
    /// # Errors
    /// A command or the connection failed.
    pub fn shutdown(mut self) -> Result<(), Error> {
        let cc = Cc { shn: shn::NORMAL, ..self.cc()? };
        self.set_property(offset::CC, cc.bits())?;
        let patience = self.options.timeout;
        wait_csts(&mut self.admin, patience, "CSTS.SHST", |csts| csts.shst == shst::COMPLETE)
    }

    fn cc(&mut self) -> Result<Cc, Error> {
        let bits = self.property(offset::CC, false)?;
        Ok(Cc::from_bits((bits & 0xffff_ffff) as u32))
    }

    fn dw0(&mut self, request: Request) -> Result<u32, Error> {
        let completed = self.admin.run(request)?;
        let dw0 = completed.completion.dw0();
        completed.ok().map(|_| dw0)
    }
}

fn connect_queue(
    options: &Options,
    qid: u16,
    entries: u16,
    cntlid: u16,
) -> Result<(Queue, u16), Error> {
    let sqsize = match entries.checked_sub(1) {
        Some(sqsize @ 1..) => sqsize,
        _ => return Err(Error::Argument("a queue has at least 2 entries".into())),
    };
    let name = |text: &str| {
        NulText::new(text).ok_or_else(|| {
            Error::Argument(format!("NQN {text:?} has more than 255 bytes or a NUL"))
        })
    };
    let data = ConnectData {
        hostid: options.host.id,
        cntlid,
        subnqn: name(&options.subsystem)?,
        hostnqn: name(&options.host.nqn)?,
    };
    let request = IcReq { pfv: 0, hpda: options.hpda, digests: options.digests, maxr2t: 0 };
    // One entry of a queue is never used.
    let mut queue = Queue::open(options.address, request, sqsize, options.timeout)?;
    queue.set_max_in_capsule_len(ADMIN_IN_CAPSULE_LEN);
    let kato_ms = if qid == 0 { options.keep_alive_ms } else { 0 };
    let connect = Connect { qid, sqsize, kato_ms, ..Connect::default() };
    let request =
        Request::new("Connect", connect.to_command()).with_data(Data::Out(data.encode().to_vec()));
    let completed: Completed = queue.run(request)?;
    let result = ConnectResult::from_dw0(completed.completion.dw0());
    completed.ok()?;
    if result.authreq != 0 {
        return Err(Error::Unexpected(
            "the controller requires authentication, which is not supported".into(),
        ));
    }
    Ok((queue, result.cntlid))
}

fn property(admin: &mut Queue, offset: u32, wide: bool) -> Result<u64, Error> {
    let command = PropertyGet { wide, offset }.to_command();
    let completed = admin.run(Request::new("Property Get", command))?;
    let value = completed.completion.result;
    completed.ok()?;
    Ok(if wide { value } else { value & 0xffff_ffff })
}

fn set_property(admin: &mut Queue, offset: u32, value: u32) -> Result<(), Error> {
    let command = PropertySet { wide: false, offset, value: value.into() }.to_command();
    admin.run(Request::new("Property Set", command))?.ok().map(|_| ())
}

fn csts(admin: &mut Queue) -> Result<Csts, Error> {
    let bits = property(admin, offset::CSTS, false)?;
    Ok(Csts::from_bits((bits & 0xffff_ffff) as u32))
}

fn wait_csts(
    admin: &mut Queue,
    patience: Duration,
    what: &'static str,
    done: impl Fn(Csts) -> bool,
) -> Result<(), Error> {
    let deadline = Instant::now() + patience;
    loop {
        let csts = csts(admin)?;
        if csts.cfs {
            return Err(Error::Unexpected("the controller has a fatal error (CSTS.CFS)".into()));
        }
        if done(csts) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Error::Timeout { what });
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn short(what: &str, found: usize, wanted: usize) -> Error {
    Error::Unexpected(format!("{what}: {found} bytes of data arrived, {wanted} were requested"))
}
