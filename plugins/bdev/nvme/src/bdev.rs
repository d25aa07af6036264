//! A namespace on the bus.

use std::sync::Arc;
use std::time::Duration;

use drivebay_nvme_driver::spec::identify::{self, NamespaceId, cmic, oncs, vwc};
use drivebay_nvme_driver::spec::zns::NO_LIMIT;
use drivebay_sdk::bdev::Zoning;
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::NoParams;
use drivebay_sdk::serde_json::{Map, Value};

use crate::app;
use crate::channel::{self, Channel};
use crate::controller::bring_up::{Described, Zoned};
use crate::paths::Paths;

/// Longest read or write in one command, in bytes.
const IO_LEN_MAX: u64 = 1 << 20;
/// How long a command may end with path errors when the controller does not report ANA, in seconds.
const PATH_LIMIT_SEC: u64 = 10;
/// Maximum number of blocks in one command: NLB has 16 bits.
const BLOCKS_MAX: u32 = 1 << 16;

/// Bit 4 of FLBAS: the metadata follows the data of each block. NVM Command Set 1.0, figure 97.
const EXTENDED: u8 = 1 << 4;

/// What identifies a namespace. It is compared at every connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uuid: Option<[u8; 16]>,
    pub(crate) nguid: Option<[u8; 16]>,
    pub(crate) eui64: Option<[u8; 8]>,
    pub(crate) csi: u8,
    /// Length of a block with its metadata, in bytes.
    pub(crate) block_size: u32,
    /// Length of the metadata that follows the data of each block, in bytes.
    pub(crate) md_size: u32,
    /// Type and place of the protection information in the metadata (DPS).
    pub(crate) protection: u8,
    /// Blocks per zone; 0 = not zoned.
    pub(crate) zone_size: u64,
}

/// A namespace that was identified.
#[derive(Clone, Debug)]
pub(crate) struct Identified {
    pub(crate) nsid: u32,
    pub(crate) identity: Identity,
    pub(crate) num_blocks: u64,
    /// Longest read or write in one command, in bytes.
    pub(crate) len_max: u64,
    pub(crate) data: identify::Namespace,
    /// Only for a zoned namespace.
    pub(crate) zoning: Option<Zoning>,
    /// Whether the controller has Zone Append.
    pub(crate) can_append: bool,
}

impl Identified {
    /// Checks what a controller says about a namespace. `transfer_len_max`: longest data of a command, in bytes; `None` = no limit.
    /// `page_len`: the controller's smallest page, in bytes.
    ///
    /// # Errors
    /// `EINVAL` when the namespace cannot be a bdev.
    pub(crate) fn new(
        nsid: u32,
        Described { data, ids, zoned }: Described,
        transfer_len_max: Option<u64>,
        page_len: u64,
    ) -> Result<Self> {
        let refused = |why: &str| Error::new(errno::EINVAL, format!("namespace {nsid}: {why}"));
        let data_size = data.block_size().filter(|size| *size <= 1 << 19);
        let data_size = data_size.ok_or_else(|| refused("its format is not available"))?;
        let md_size = data.lbaf.get(data.format_index()).map_or(0, |format| format.ms.into());
        if md_size > 0 && data.flbas & EXTENDED == 0 {
            return Err(refused(
                "its format has metadata in a separate buffer, which is not supported yet; allowed: metadata that follows the data of each block",
            ));
        }
        let block_size = data_size + md_size;
        Geometry::new_any(block_size, data.nsze).map_err(|error| refused(error.message()))?;
        let mut identity = Identity {
            uuid: None,
            nguid: (data.nguid != [0; 16]).then_some(data.nguid),
            eui64: (data.eui64 != [0; 8]).then_some(data.eui64),
            csi: 0,
            block_size,
            md_size,
            protection: data.dps & 15,
            zone_size: 0,
        };
        for id in ids {
            match id {
                NamespaceId::Uuid(uuid) => identity.uuid = Some(uuid),
                NamespaceId::Nguid(nguid) => identity.nguid = Some(nguid),
                NamespaceId::Eui64(eui64) => identity.eui64 = Some(eui64),
                NamespaceId::Csi(csi) => identity.csi = csi,
            }
        }
        if !matches!(identity.csi, identify::csi::NVM | identify::csi::ZONED) {
            return Err(refused(
                "its command set is neither the NVM command set nor that of zoned namespaces",
            ));
        }
        if zoned.is_some() != (identity.csi == identify::csi::ZONED) {
            return Err(refused("it names several command sets"));
        }
        let len_max = transfer_len_max.unwrap_or(IO_LEN_MAX).min(IO_LEN_MAX);
        if len_max < u64::from(block_size) {
            return Err(refused("its blocks are longer than a command may be"));
        }
        let append_len_max =
            zoned.as_ref().map_or(0, |zoned| append_len_max(zoned, len_max, page_len));
        let can_append = append_len_max >= u64::from(block_size);
        let zoning =
            zoned.map(|zoned| zoning(&zoned, &data, append_len_max / u64::from(block_size)));
        if let Some(Zoning { zone_size, .. }) = zoning {
            if zone_size == 0 || !data.nsze.is_multiple_of(zone_size) {
                let (nsze, why) = (data.nsze, "which are not whole zones");
                return Err(refused(&format!(
                    "it has {nsze} blocks in zones of {zone_size}, {why}"
                )));
            }
            identity.zone_size = zone_size;
        }
        Ok(Self { nsid, identity, num_blocks: data.nsze, len_max, data, zoning, can_append })
    }

    /// Why this namespace, which took the place of `before`, cannot serve its bdev; `None` when it can.
    pub(crate) fn differs_from(&self, before: &Self) -> Option<String> {
        if self.identity != before.identity {
            let (now, then) = (&self.identity, &before.identity);
            return Some(format!("it is a different disk now ({now:?}; before: {then:?})"));
        }
        let append =
            |it: &Self| it.zoning.filter(|_| it.can_append).map_or(0, |zoning| zoning.max_append);
        if append(self) < append(before) {
            let (now, then) = (append(self), append(before));
            return Some(format!(
                "the controller appends {now} blocks in one command now, and the bdev was made for {then}"
            ));
        }
        (self.len_max < before.len_max).then(|| {
            let (now, then) = (self.len_max, before.len_max);
            format!(
                "the controller takes {now} bytes in one command now, and the bdev was made for {then}"
            )
        })
    }
}

/// Longest data of an append in bytes, with the metadata of the blocks; 0 = the controller does not append. `len_max`: longest data of a
/// command. Zoned Namespace Command Set 1.1, section 4.1.5.2.
fn append_len_max(zoned: &Zoned, len_max: u64, page_len: u64) -> u64 {
    match (zoned.can_append, zoned.zasl) {
        (false, _) => 0,
        (true, 0) => len_max,
        (true, zasl) => len_max.min(page_len << zasl.min(16)),
    }
}

/// The zones of a namespace.
fn zoning(zoned: &Zoned, data: &identify::Namespace, append_blocks: u64) -> Zoning {
    let namespace = &zoned.namespace;
    let at_most = |less_one: u32| if less_one == NO_LIMIT { 0 } else { less_one + 1 };
    Zoning {
        zone_size: namespace.lbafe.get(data.format_index()).map_or(0, |format| format.zsze),
        max_open: at_most(namespace.mor),
        max_active: at_most(namespace.mar),
        optimal_open: 0,
        max_append: u32::try_from(append_blocks).unwrap_or(u32::MAX).clamp(1, BLOCKS_MAX),
    }
}

/// What a bdev shares with its controllers.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) paths: Arc<Paths>,
    /// Identify Controller.
    pub(crate) controller: Arc<identify::Controller>,
    /// How many times an I/O is retried; -1 = without limit.
    pub(crate) retry_count: i32,
    /// Whether flushes are also sent to controllers without a volatile write cache.
    pub(crate) enable_flush: bool,
    /// How long a command may take; `None` = forever.
    pub(crate) timeout: Option<Duration>,
    /// Whether the bdev's controllers are on PCIe. Then its channels use rings instead of sockets.
    pub(crate) is_pci: bool,
    /// Whether I/O is counted for each path.
    pub(crate) counts_paths: bool,
}

/// A namespace on the bus.
#[derive(Debug)]
pub struct NvmeBdev {
    name: String,
    geometry: Geometry,
    namespace: Identified,
    shared: Shared,
    /// Its UUID on the bus; all zeroes = derived from the name.
    uuid: [u8; 16],
}

impl NvmeBdev {
    pub(crate) fn new(name: String, namespace: Identified, shared: Shared) -> Result<Self> {
        let geometry = Geometry::new_any(namespace.identity.block_size, namespace.num_blocks)?;
        let identity = &namespace.identity;
        let uuid = identity.uuid.or(identity.nguid).unwrap_or_default();
        Ok(Self { name, geometry, namespace, shared, uuid })
    }

    /// The same bdev with a UUID that is derived from its name.
    pub(crate) fn without_uuid(self) -> Self {
        Self { uuid: [0; 16], ..self }
    }

    fn has_write_cache(&self) -> bool {
        self.shared.controller.vwc & vwc::PRESENT != 0
    }
}

/// How long a command may end with path errors before its I/O fails, in nanoseconds: ANATT, where the controller has one.
fn path_limit_ns(controller: &identify::Controller) -> u64 {
    let has_ana = controller.cmic & cmic::ANA != 0;
    let sec = if has_ana { u64::from(controller.anatt).max(1) } else { PATH_LIMIT_SEC };
    sec * 1_000_000_000
}

impl Bdev for NvmeBdev {
    type Params = NoParams;
    type Channel = Channel;
    /// `describe` removes what the controller does not support. The bus does the reset: it waits for the I/O in flight.
    const OPS: OpSet = OpSet::READ_WRITE
        .with(OpSet::FLUSH)
        .with(OpSet::UNMAP)
        .with(OpSet::WRITE_ZEROES)
        .with(OpSet::COMPARE);
    const PRODUCT: &'static str = "NVMe disk";

    channel_does_io!();

    fn name(&self) -> &str {
        &self.name
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn describe(&self, registration: &mut Registration) {
        let (controller, data) = (&self.shared.controller, &self.namespace.data);
        let identity = &self.namespace.identity;
        registration.uuid = self.uuid;
        registration.has_write_cache = self.has_write_cache();
        for (bit, op) in [
            (oncs::COMPARE, OpSet::COMPARE),
            (oncs::DATASET_MANAGEMENT, OpSet::UNMAP),
            (oncs::WRITE_ZEROES, OpSet::WRITE_ZEROES),
        ] {
            if controller.oncs & bit == 0 {
                registration.ops = registration.ops.without(op);
            }
        }
        registration.zoning = self.namespace.zoning;
        if self.namespace.zoning.is_some() {
            registration.ops = registration.ops.with(OpSet::ZONES);
        }
        if self.namespace.can_append {
            registration.ops = registration.ops.with(OpSet::ZONE_APPEND);
        }
        if identity.md_size > 0 {
            registration.md_size = identity.md_size;
            registration.md_interleave = true;
            // DPS: bits 2 to 0 are the type, bit 3 says that the protection information comes first in the metadata.
            registration.dif_type = identity.protection & 7;
            registration.dif_is_head = identity.protection & 8 != 0;
        }
        let block_size = u64::from(identity.block_size);
        let blocks_max = u32::try_from(self.namespace.len_max / block_size).unwrap_or(BLOCKS_MAX);
        registration.max_io_blocks = blocks_max.clamp(1, BLOCKS_MAX);
        registration.max_write_zeroes = BLOCKS_MAX;
        registration.max_unmap = u32::MAX;
        registration.optimal_boundary = data.noiob.into();
        let own_units = data.nsfeat & identify::nsfeat::ATOMIC_UNITS != 0;
        let awupf = if own_units { data.nawupf } else { controller.awupf };
        registration.atomic_write_unit = u32::from(awupf) + 1;
    }

    fn open_channel(&self) -> Result<Channel> {
        let namespace = channel::Namespace {
            nsid: self.namespace.nsid,
            block_size: self.namespace.identity.block_size,
            zone_size: self.namespace.identity.zone_size,
            is_pci: self.shared.is_pci,
            flushes: self.has_write_cache() || self.shared.enable_flush,
            retry_count: self.shared.retry_count,
            crdt: self.shared.controller.crdt,
            timeout: self.shared.timeout,
            path_limit_ns: path_limit_ns(&self.shared.controller),
            counts_paths: self.shared.counts_paths,
        };
        Channel::open(namespace, Arc::clone(&self.shared.paths))
    }

    fn driver_specific(&self) -> Map<String, Value> {
        // The host asks on the app thread.
        app::get().ok().and_then(|app| app.show_bdev(&self.name)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drivebay_nvme_driver::spec::zns::ZonedNamespace;

    fn identified(ms: u16, flbas: u8) -> Result<Identified> {
        let mut data = identify::Namespace { nsze: 1000, flbas, ..identify::Namespace::default() };
        data.lbaf[0].lbads = 9;
        data.lbaf[0].ms = ms;
        let described = Described { data, ids: Vec::new(), zoned: None };
        Identified::new(1, described, None, 4096)
    }

    /// A zoned namespace of 1000 blocks, with the largest transfer of 64 KiB.
    fn zoned(zsze: u64, zasl: u8, mor: u32) -> Result<Identified> {
        let mut data = identify::Namespace { nsze: 1000, ..identify::Namespace::default() };
        data.lbaf[0].lbads = 9;
        let mut namespace = ZonedNamespace { mor, mar: NO_LIMIT, ..ZonedNamespace::default() };
        namespace.lbafe[0].zsze = zsze;
        let zoned = Some(Zoned { namespace, zasl, can_append: true });
        let ids = vec![NamespaceId::Csi(identify::csi::ZONED)];
        Identified::new(1, Described { data, ids, zoned }, Some(1 << 16), 4096)
    }

    #[test]
    fn zones_are_whole_and_appends_are_as_long_as_zasl_and_mdts_allow() {
        let zoning = zoned(200, 2, 13).unwrap().zoning.unwrap();
        assert_eq!((zoning.zone_size, zoning.max_open, zoning.max_active), (200, 14, 0));
        assert_eq!(zoning.max_append, 32, "four pages");
        assert_eq!(zoned(200, 0, 0).unwrap().zoning.unwrap().max_append, 128, "any transfer");
        assert_eq!(zoned(200, 255, 0).unwrap().zoning.unwrap().max_append, 128);
        assert!(zoned(0, 0, 0).unwrap_err().message().contains("zones of 0"));
        assert!(zoned(300, 0, 0).unwrap_err().message().contains("whole zones"));
        let (before, after) = (zoned(200, 0, 0).unwrap(), zoned(100, 0, 0).unwrap());
        assert!(after.differs_from(&before).is_some());
    }

    #[test]
    fn metadata_that_follows_the_data_is_part_of_the_block_and_separate_metadata_is_refused() {
        let plain = identified(0, 0).unwrap();
        assert_eq!((plain.identity.block_size, plain.identity.md_size), (512, 0));
        let extended = identified(8, EXTENDED).unwrap();
        assert_eq!((extended.identity.block_size, extended.identity.md_size), (520, 8));
        assert!(identified(8, 0).unwrap_err().message().contains("separate buffer"));
        assert!(extended.differs_from(&plain).is_some());
        let mut protected = extended.clone();
        protected.identity.protection = 1;
        assert!(protected.differs_from(&extended).is_some());
    }
}
