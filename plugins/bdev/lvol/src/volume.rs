//! One volume on the bus: the data path.
//!
//! The bus splits I/O at clusters. So an I/O looks up one cluster and goes on to the base unchanged.

use crate::map::{Entry, Map, Shared};
use crate::on_bus;
use crate::requests::{self, Need};
use crate::span::Walk;
use crate::stores::Pool;
use drivebay_blobstore::{BlobId, Info};
use drivebay_sdk::bdev::{Channel as Base, Desc, Info as BaseInfo, Space};
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::NoParams;
use drivebay_sdk::runtime::Resident;
use drivebay_sdk::serde_json;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// A volume on the bus.
#[derive(Debug)]
pub struct LvolBdev {
    pub(crate) id: BlobId,
    pub(crate) store_uuid: String,
    /// Its UUID, or the substitute for it in old stores. It is also the name on the bus.
    name: String,
    alias: String,
    geometry: Geometry,
    is_read_only: bool,
    base: Arc<Desc>,
    base_info: BaseInfo,
    external: Option<Arc<Desc>>,
    blocks_per_cluster: u64,
    shared: Arc<Shared>,
    pool: Arc<Pool>,
}

/// The parts of a volume on the bus.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) info: &'a Info,
    pub(crate) name: String,
    pub(crate) alias: String,
    pub(crate) store_uuid: String,
    pub(crate) base: Arc<Desc>,
    pub(crate) external: Option<Arc<Desc>>,
    pub(crate) blocks_per_cluster: u64,
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Arc<Pool>,
}

impl LvolBdev {
    pub(crate) fn new(parts: Parts<'_>) -> Result<Self> {
        let base_info = parts.base.info()?;
        let blocks = u64::from(parts.info.num_clusters).saturating_mul(parts.blocks_per_cluster);
        Ok(Self {
            id: parts.info.id,
            store_uuid: parts.store_uuid,
            name: parts.name,
            alias: parts.alias,
            geometry: Geometry::new(base_info.block_size(), blocks)?,
            is_read_only: parts.info.is_read_only,
            base: parts.base,
            base_info,
            external: parts.external,
            blocks_per_cluster: parts.blocks_per_cluster,
            shared: parts.shared,
            pool: parts.pool,
        })
    }
}

impl Bdev for LvolBdev {
    type Params = NoParams;
    type Channel = LvolChannel;
    const OPS: OpSet =
        OpSet::READ_WRITE.with(OpSet::FLUSH).with(OpSet::UNMAP).with(OpSet::WRITE_ZEROES);
    const PRODUCT: &'static str = "Logical Volume";
    const BURSTS: bool = true;

    fn create(_: &App, _: NoParams) -> Result<Self> {
        Err(Error::new(errno::EOPNOTSUPP, "create volumes with bdev_lvol_create"))
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn describe(&self, registration: &mut Registration) {
        let raw = self.base_info.raw();
        registration.aliases = vec![self.alias.clone()];
        if let Ok(uuid) = self.name.parse::<Uuid>() {
            registration.uuid = uuid.0;
        }
        registration.has_write_cache = self.base_info.has_write_cache();
        registration.is_read_only = self.is_read_only;
        // A released cluster reads as zeros. An unmap inside a cluster goes to the base. If the base cannot unmap, the blocks stay as
        // they are.
        registration.unmapped_reads_zeroes =
            self.base_info.unmapped_reads_zeroes() || !self.base_info.ops().contains(OpSet::UNMAP);
        registration.phys_block_size = raw.phys_block_size;
        registration.align = raw.align;
        registration.numa = raw.numa;
        registration.base = Some(self.base_info.name().to_owned());
        registration.max_children = 1;
        registration.optimal_boundary = u32::try_from(self.blocks_per_cluster).unwrap_or(0);
    }

    fn open_channel(&self) -> Result<LvolChannel> {
        let external = self.external.as_ref().map(|desc| desc.channel()).transpose()?;
        let external_blocks = self
            .external
            .as_ref()
            .map_or(Ok(0), |desc| desc.info().map(|info| info.num_blocks()))?;
        let state = ThreadState {
            id: self.id,
            store_uuid: self.store_uuid.clone(),
            blocks_per_cluster: self.blocks_per_cluster,
            cluster_shift: self
                .blocks_per_cluster
                .is_power_of_two()
                .then(|| self.blocks_per_cluster.trailing_zeros()),
            base: RefCell::new(Some(self.base.channel()?)),
            external: RefCell::new(external),
            external_blocks,
            shared: Arc::clone(&self.shared),
            map: RefCell::new((self.shared.generation(), self.shared.map())),
            base_unmaps: self.base_info.ops().contains(OpSet::UNMAP),
            waiting: RefCell::default(),
            unmaps: RefCell::default(),
            last_unmap: Cell::new(0),
        };
        let resident = Resident::here_with(state)?;
        let state = resident.here();
        let state =
            state.ok_or_else(|| Error::new(errno::EIO, "a channel is not on its thread"))?;
        Ok(LvolChannel { state, resident })
    }

    fn submit(&self, channel: &mut LvolChannel, io: BdevIo) {
        channel.state.submit(&channel.resident, io);
    }

    fn flush(&self, channel: &mut LvolChannel) {
        channel.state.flush();
    }

    /// Only a thin volume takes clusters while it is written.
    fn space(&self) -> Option<Space> {
        self.shared.map().is_thin().then(|| self.pool.space(self.blocks_per_cluster))
    }

    fn driver_specific(&self) -> serde_json::Map<String, serde_json::Value> {
        on_bus::driver_specific(&self.store_uuid, self.id)
    }
}

/// One thread's channel of a volume. `[reactor]`
#[derive(Debug)]
pub struct LvolChannel {
    state: Rc<ThreadState>,
    /// With this the app thread reports that a cluster is allocated.
    resident: Resident<ThreadState>,
}

impl Drop for LvolChannel {
    fn drop(&mut self) {
        // The app thread may hold the state a moment longer than the base stays open.
        self.state.base.take();
        self.state.external.take();
    }
}

/// The state of a channel.
#[derive(Debug)]
pub(crate) struct ThreadState {
    pub(crate) id: BlobId,
    pub(crate) store_uuid: String,
    pub(crate) blocks_per_cluster: u64,
    cluster_shift: Option<u32>,
    pub(crate) base: RefCell<Option<Base>>,
    pub(crate) base_unmaps: bool,
    external: RefCell<Option<Base>>,
    external_blocks: u64,
    shared: Arc<Shared>,
    map: RefCell<(u32, Arc<Map>)>,
    /// I/O that waits, by cluster. The bus limits its number: each is a request of the channel.
    waiting: RefCell<BTreeMap<u32, Waiting>>,
    /// Unmaps that wait for the store, by number.
    unmaps: RefCell<BTreeMap<u64, Walk>>,
    last_unmap: Cell<u64>,
}

/// I/O that waits for one cluster.
#[derive(Debug, Default)]
struct Waiting {
    ios: IoQueue,
    walks: Vec<Walk>,
}

impl ThreadState {
    #[inline]
    fn submit(self: &Rc<Self>, own: &Resident<Self>, io: BdevIo) {
        let (range, is_read) = match io.op() {
            Op::Read(range) => (range, true),
            Op::Write(range) => (range, false),
            _ => return self.submit_other(own, io),
        };
        let index = self.cluster_of(range.lba);
        match self.entry(index) {
            Entry::Own(cluster) => self.pass_to_cluster(io, index, cluster),
            Entry::Inherited(cluster) if is_read => self.pass_to_cluster(io, index, cluster),
            entry => self.submit_elsewhere(own, io, range, entry),
        }
    }

    #[inline(never)]
    fn submit_other(self: &Rc<Self>, own: &Resident<Self>, io: BdevIo) {
        match io.op() {
            Op::WriteZeroes(range) => self.begin_write_zeroes(own, io, range),
            Op::Unmap(range) => self.unmap(own, io, range),
            Op::Flush => self.pass(io, 0),
            _ => io.complete(Status::NOT_SUPPORTED),
        }
    }

    /// Handles a read or write of a cluster that the base does not have, or must not change.
    #[inline(never)]
    fn submit_elsewhere(
        self: &Rc<Self>,
        own: &Resident<Self>,
        io: BdevIo,
        range: Range,
        entry: Entry,
    ) {
        let index = range.lba / self.blocks_per_cluster;
        match (entry, io.op()) {
            (Entry::Zero, Op::Read(_)) => {
                io.buffers().zero();
                io.complete(Status::SUCCESS);
            }
            (Entry::External, Op::Read(_)) => self.read_external(own, io, range, index),
            (Entry::Changing, _) => {
                self.wait(own, index, Need::Settled, |waiting| waiting.ios.push(io));
            }
            _ => self.wait(own, index, Need::Cluster, |waiting| waiting.ios.push(io)),
        }
    }

    /// The cluster of a block. A shift takes less time than a division, and nearly all stores have clusters of 2^n blocks.
    #[inline]
    fn cluster_of(&self, lba: u64) -> u64 {
        match self.cluster_shift {
            Some(shift) => lba >> shift,
            None => lba / self.blocks_per_cluster,
        }
    }

    /// Looks a cluster up in the map of the volume.
    #[inline]
    pub(crate) fn entry(&self, index: u64) -> Entry {
        let mut map = self.map.borrow_mut();
        if map.0 != self.shared.generation() {
            self.shared.load_into(&mut map);
        }
        map.1.get(index)
    }

    /// The current map of the volume.
    pub(crate) fn map(&self) -> Arc<Map> {
        self.shared.map()
    }

    #[expect(clippy::inline_always, reason = "a call costs 14 instructions per I/O")]
    #[inline(always)]
    fn pass_to_cluster(&self, io: BdevIo, index: u64, cluster: u64) {
        let offset = cluster.wrapping_sub(index).wrapping_mul(self.blocks_per_cluster);
        self.pass(io, offset);
    }

    #[expect(clippy::inline_always, reason = "a call costs 14 instructions per I/O")]
    #[inline(always)]
    fn pass(&self, io: BdevIo, offset: u64) {
        match &*self.base.borrow() {
            Some(base) => base.pass_at_offset(io, offset),
            None => io.complete(Status::IO_ERROR),
        }
    }

    fn read_external(self: &Rc<Self>, own: &Resident<Self>, io: BdevIo, range: Range, index: u64) {
        let external = self.external.borrow();
        let Some(external) = &*external else {
            return io.complete(Status::IO_ERROR);
        };
        if range.lba >= self.external_blocks {
            io.buffers().zero();
            io.complete(Status::SUCCESS);
        } else if range.lba + range.nblocks <= self.external_blocks {
            external.pass(io);
        } else {
            // The read goes past the parent's end. The store copies the cluster and fills the rest with
            // zeros.
            self.wait(own, index, Need::Cluster, |waiting| waiting.ios.push(io));
        }
    }

    /// Makes I/O wait until the store has answered. `add` puts the I/O in the queue.
    #[cold]
    fn wait(
        self: &Rc<Self>,
        own: &Resident<Self>,
        index: u64,
        need: Need,
        add: impl FnOnce(&mut Waiting),
    ) {
        // The number fits, because no volume has more than `u32::MAX` clusters.
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let mut waiting = self.waiting.borrow_mut();
        let is_first = !waiting.contains_key(&index);
        add(waiting.entry(index).or_default());
        if is_first {
            requests::wait_for(&self.store_uuid, self.id, index, need, own.clone());
        }
    }

    pub(crate) fn hold(self: &Rc<Self>, own: &Resident<Self>, index: u64, need: Need, walk: Walk) {
        self.wait(own, index, need, |waiting| waiting.walks.push(walk));
    }

    /// Resumes the I/O that waits for a cluster: the store has answered with `status`.
    pub(crate) fn answered(self: &Rc<Self>, own: &Resident<Self>, index: u32, status: Status) {
        let waiting = self.waiting.borrow_mut().remove(&index);
        let Some(Waiting { mut ios, walks }) = waiting else { return };
        while let Some(io) = ios.pop() {
            if status.is_success() {
                self.submit(own, io);
            } else {
                io.complete(status);
            }
        }
        for walk in walks {
            if status.is_success() {
                self.write_zeroes(own, walk);
            } else {
                walk.fail(status);
            }
        }
        self.flush();
    }

    /// Keeps an unmap until the store has answered. Returns its number.
    pub(crate) fn add_unmap(&self, walk: Walk) -> u64 {
        let number = self.last_unmap.get() + 1;
        self.last_unmap.set(number);
        self.unmaps.borrow_mut().insert(number, walk);
        number
    }

    pub(crate) fn take_unmap(&self, number: u64) -> Option<Walk> {
        self.unmaps.borrow_mut().remove(&number)
    }

    pub(crate) fn flush(&self) {
        if let Some(base) = &*self.base.borrow() {
            base.flush();
        }
        if let Some(external) = &*self.external.borrow() {
            external.flush();
        }
    }
}
