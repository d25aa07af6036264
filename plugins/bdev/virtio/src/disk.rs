//! A disk on the bus: a block device, or a unit of a SCSI host.

use std::sync::Arc;

use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::NoParams;
use drivebay_sdk::serde_json::{Map, Value, json};
use drivebay_virtio::driver::DriverQueue;

use crate::agreement::Agreement;
use crate::channel::Channel;
use crate::link::Link;
use crate::{blk, scsi};

/// Properties of a disk, for the bus.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Properties {
    pub(crate) product: &'static str,
    pub(crate) geometry: Geometry,
    /// In bytes; 0 = the block size.
    pub(crate) phys_block_size: u32,
    pub(crate) has_write_cache: bool,
    pub(crate) is_read_only: bool,
    /// Ops of the device.
    pub(crate) ops: OpSet,
    /// Maximum number of blocks of each op; 0 = no limit.
    pub(crate) max_io_blocks: u32,
    pub(crate) max_unmap: u32,
    pub(crate) max_write_zeroes: u32,
}

/// A disk of a controller.
#[derive(Debug)]
pub struct VirtioDisk {
    name: String,
    path: String,
    properties: Properties,
    agreement: Agreement,
    dialect: Dialect,
    link: Arc<Link>,
}

impl VirtioDisk {
    pub(crate) fn new(
        name: &str,
        path: &str,
        agreement: Agreement,
        (properties, dialect): (Properties, Dialect),
        link: Arc<Link>,
    ) -> Self {
        Self { name: name.to_owned(), path: path.to_owned(), properties, agreement, dialect, link }
    }
}

/// A controller, as methods show it.
pub(crate) fn view(path: &str, agreement: &Agreement) -> Value {
    json!({
        "vq_count": agreement.num_queues,
        "vq_size": agreement.layout.size,
        "packed_ring": agreement.layout.packed,
        "type": "user",
        "socket": path,
    })
}

impl Bdev for VirtioDisk {
    type Params = NoParams;
    type Channel = Channel;
    /// `describe` says which product it is.
    const PRODUCT: &'static str = "VirtioBlk Disk";
    /// `describe` says which of them the device has.
    const OPS: OpSet =
        OpSet::READ_WRITE.with(OpSet::FLUSH).with(OpSet::UNMAP).with(OpSet::WRITE_ZEROES);

    channel_does_io!(woke);

    fn name(&self) -> &str {
        &self.name
    }

    fn geometry(&self) -> Geometry {
        self.properties.geometry
    }

    fn describe(&self, registration: &mut Registration) {
        let properties = &self.properties;
        properties.product.clone_into(&mut registration.product);
        registration.ops = properties.ops;
        registration.is_read_only = properties.is_read_only;
        registration.has_write_cache = properties.has_write_cache;
        registration.phys_block_size = properties.phys_block_size;
        registration.max_io_blocks = properties.max_io_blocks;
        registration.max_unmap = properties.max_unmap;
        registration.max_write_zeroes = properties.max_write_zeroes;
    }

    fn open_channel(&self) -> Result<Channel> {
        Channel::open(self.dialect.clone(), Arc::clone(&self.link))
    }

    fn driver_specific(&self) -> Map<String, Value> {
        let mut virtio = view(&self.path, &self.agreement);
        if let Value::Object(map) = &mut virtio {
            let state = format!("{:?}", self.link.phase()).to_lowercase();
            map.insert("state".into(), state.into());
        }
        Map::from_iter([("virtio".to_owned(), virtio)])
    }
}

/// Turns I/O into requests of the device.
#[derive(Clone, Debug)]
pub(crate) enum Dialect {
    Blk(blk::Dialect),
    Scsi(scsi::Dialect),
}

/// What a channel does with an I/O whose request has ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// Completes it.
    Done(IoResult),
    /// Sends it again.
    Again {
        /// Whether it must wait until the controller has looked which unit the target has. [`Dialect::may_submit`] says when.
        is_doubtful: bool,
    },
}

impl Dialect {
    /// Whether the device may get I/O now.
    #[inline]
    pub(crate) fn may_submit(&self) -> bool {
        match self {
            Self::Blk(_) => true,
            Self::Scsi(scsi) => scsi.standing.is_clear(),
        }
    }

    /// Puts an I/O into a queue that has room. Returns its slot.
    ///
    /// # Errors
    /// Why the device cannot execute it.
    #[inline]
    pub(crate) fn submit(&self, queue: &mut DriverQueue, io: &BdevIo) -> Result<u16, Status> {
        match self {
            Self::Blk(blk) => blk.submit(queue, io).ok_or(Status::NOT_SUPPORTED),
            Self::Scsi(scsi) => scsi.submit(queue, io),
        }
    }

    /// Reads the result of a request that the device gave back. Copies its data into the I/O.
    #[inline]
    pub(crate) fn finish(&self, queue: &DriverQueue, slot: u16, io: &BdevIo) -> Ended {
        match self {
            Self::Blk(blk) => Ended::Done(IoResult::new(blk.finish(queue, slot, io))),
            Self::Scsi(scsi) => scsi.finish(queue, slot, io),
        }
    }
}
