//! Parts: a range of another bdev's blocks as a separate bdev, such as a partition.

use super::client::Channel;
use super::desc::{Desc, Info, Space};
use super::io::BdevIo;
use super::module::Bdev;
use super::op::{Geometry, OpSet, Range};
use super::registration::Registration;
use crate::error::{Error, Result};
use crate::notify::Config;
use crate::rpc::NoParams;
use serde_json::{Map, Value};
use std::sync::Arc;

/// A range of blocks of a base, as a bdev. A module creates parts in code and passes them to
/// [`register`](super::register). They share the base's descriptor. A part saves no configuration: the module
/// saves the calls that create it again ([`on_save_config`](super::on_save_config)).
#[derive(Debug)]
pub struct Part {
    /// Unique name.
    pub name: String,
    /// Product name, as `bdev_get_bdevs` shows it.
    pub product: &'static str,
    /// UUID. If all bytes are zero, the bus derives one from the name.
    pub uuid: [u8; 16],
    /// What `bdev_get_bdevs` shows under `driver_specific`.
    pub driver_specific: Map<String, Value>,
    base: Arc<Desc>,
    info: Info,
    offset: u64,
    geometry: Geometry,
}

impl Part {
    /// Creates a part with the blocks `blocks` of an open base.
    ///
    /// # Errors
    /// `EINVAL` when the blocks are not on the base, are not whole write units, or when the base is zoned.
    pub fn new(name: String, base: &Arc<Desc>, blocks: Range) -> Result<Self> {
        let info = base.info()?;
        if info.zoning().is_some() {
            let allowed = "a bdev without zones: a part would show the base's block numbers";
            return Err(Error::invalid("base of a part", info.name(), allowed));
        }
        let end = blocks.lba.checked_add(blocks.nblocks).filter(|end| *end <= info.num_blocks());
        let unit = u64::from(info.raw().write_unit.max(1));
        let is_whole = blocks.lba.is_multiple_of(unit) && blocks.nblocks.is_multiple_of(unit);
        if end.is_none() || !is_whole {
            let given = format!("{} blocks from {} on", blocks.nblocks, blocks.lba);
            let allowed = format!("multiples of {unit} on {} blocks", info.num_blocks());
            return Err(Error::invalid("part", given, allowed));
        }
        Ok(Self {
            name,
            product: Self::PRODUCT,
            uuid: [0; 16],
            driver_specific: Map::new(),
            base: Arc::clone(base),
            geometry: Geometry::new_any(info.block_size(), blocks.nblocks)?,
            info,
            offset: blocks.lba,
        })
    }
}

/// Ops that work on a part unchanged. An op that returns a block is not among them: it would return a block of the base.
const PASSED: OpSet = OpSet::READ_WRITE
    .with(OpSet::FLUSH)
    .with(OpSet::UNMAP)
    .with(OpSet::WRITE_ZEROES)
    .with(OpSet::COMPARE)
    .with(OpSet::COMPARE_AND_WRITE)
    .with(OpSet::COPY)
    .with(OpSet::WRITE_UNCORRECTABLE)
    .with(OpSet::RESET)
    .with(OpSet::ABORT);

impl Bdev for Part {
    type Params = NoParams;
    type Channel = Channel;
    const PRODUCT: &'static str = "Part";
    const OPS: OpSet = PASSED;
    const BURSTS: bool = true;

    fn name(&self) -> &str {
        &self.name
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn describe(&self, registration: &mut Registration) {
        registration.inherit(&self.info);
        registration.product = self.product.into();
        registration.uuid = self.uuid;
        registration.ops = OpSet::from_bits(registration.ops.bits() & PASSED.bits());
        let boundary = u64::from(registration.optimal_boundary.max(1));
        if !self.offset.is_multiple_of(boundary) {
            registration.optimal_boundary = 0; // the bus splits the I/O at the base's boundary, so the part needs none
        }
    }

    fn open_channel(&self) -> Result<Channel> {
        self.base.channel()
    }

    fn submit(&self, base: &mut Channel, io: BdevIo) {
        // An I/O past the end of the part must not wrap around to the first blocks of the base.
        let lba = io.lba().saturating_add(self.offset);
        base.pass_to(io, lba);
    }

    fn flush(&self, base: &mut Channel) {
        base.flush();
    }

    fn space(&self) -> Option<Space> {
        self.base.info().ok()?.space()
    }

    fn write_config(&self, _: &mut Config<'_>, _: &str, _: &Value) {}

    fn driver_specific(&self) -> Map<String, Value> {
        self.driver_specific.clone()
    }
}
