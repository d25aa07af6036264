//! A unit on the bus.

use std::sync::Arc;

use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::NoParams;
use drivebay_sdk::serde_json::{Map, Value, json};

use crate::channel::Channel;
use crate::disk::Disk;

/// Longest read or write in one command, in bytes.
const IO_LEN_MAX: u32 = 1 << 20;

/// A unit of a target as a bdev.
#[derive(Debug)]
pub struct IscsiBdev {
    disk: Arc<Disk>,
    geometry: Geometry,
}

impl IscsiBdev {
    pub(crate) fn new(disk: Arc<Disk>) -> Result<Self> {
        let geometry = Geometry::new(disk.unit.block_size, disk.unit.num_blocks)?;
        Ok(Self { disk, geometry })
    }
}

impl Bdev for IscsiBdev {
    type Params = NoParams;
    type Channel = Channel;
    /// `describe` removes what the unit does not support.
    const OPS: OpSet = OpSet::READ_WRITE.with(OpSet::FLUSH).with(OpSet::UNMAP);
    const PRODUCT: &'static str = "iSCSI LUN";

    channel_does_io!();

    fn name(&self) -> &str {
        &self.disk.name
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn describe(&self, registration: &mut Registration) {
        let unit = &self.disk.unit;
        registration.has_write_cache = unit.has_write_cache;
        registration.is_read_only = unit.is_read_only;
        registration.unmapped_reads_zeroes = unit.reads_zeroes;
        if unit.unmap_max == 0 {
            registration.ops = registration.ops.without(OpSet::UNMAP);
        }
        let ours = (IO_LEN_MAX / unit.block_size).max(1);
        registration.max_io_blocks =
            if unit.transfer_max == 0 { ours } else { unit.transfer_max.min(ours) };
        registration.max_unmap = unit.unmap_max;
    }

    fn open_channel(&self) -> Result<Channel> {
        Channel::open(Arc::clone(&self.disk))
    }

    fn driver_specific(&self) -> Map<String, Value> {
        let place = &self.disk.place;
        let mut map = Map::new();
        // `Url`'s Debug text leaves out user and secret.
        let url = json!(format!("iscsi://{:?}", place.url));
        map.insert("iscsi".into(), json!({"initiator_name": place.initiator, "url": url}));
        map
    }
}
