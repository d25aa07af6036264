//! `zone-block`: divides any disk into zones, as SPDK's module of that name does.
//!
//! The zones exist in memory only. All of them are full at first, so that what is on the base can be read; a reset makes a zone
//! writable.
#![forbid(unsafe_code)]

use drivebay_sdk::bdev::{
    Channel, Delete, Geometry, StatefulFilter, ZoneAction, Zoning, check_name, delete_filter,
    make_filter, name_filters,
};
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::{Call, Method, RpcError};
use drivebay_sdk::serde_json::{Map, Value, json};

#[cfg(test)]
mod tests;
mod zones;

use zones::Zones;

plugin! {
    name: "zone-block",
    kind: "filter",
    provides: [],
    requires: [],
    methods: ["bdev_zone_block_create", "bdev_zone_block_delete"],
    unsafe(threads_move),
    start: start,
}

params! {
    /// Parameters of `bdev_zone_block_create`.
    pub struct Create {
        /// Name of the new bdev.
        name: String,
        /// Name of the base bdev. If there is no such bdev yet, the filter waits for it.
        base_bdev: String,
        /// Number of blocks of a zone that can be written. The size of a zone is the next power of two.
        #[range(1..=9223372036854775808)]
        zone_capacity: u64,
        /// Number of zones that a client should have open at once. For the client only: any number may be open.
        #[range(1..=4294967295)]
        optimal_open_zones: u64,
    }
}

/// JSON-RPC 2.0, section 5.1. SPDK uses this code for every refusal of a creation.
const INTERNAL_ERROR: i64 = -32603;

fn start(app: &App) -> Result<()> {
    name_filters(app, "zone_block");
    Method::new(
        "bdev_zone_block_create",
        "Divides a bdev into zones.\n\nAll zones are full at first: reset a zone before you write to it.",
        create,
    )
    .describe(|method| {
        method.result("Name of the new bdev.").error(
            INTERNAL_ERROR,
            "internal_error",
            "The name is taken, or the base cannot be divided.",
        )
    })
    .register(app)?;
    Method::new(
        "bdev_zone_block_delete",
        "Deletes a bdev that `bdev_zone_block_create` made. The data on its base stays.",
        |app, call, params: Delete| delete_filter::<ZoneBlock>(app, &params.name, call),
    )
    .describe(|method| {
        method.result("true").error(-19, "no_such_device", "No zone-block bdev has that name.")
    })
    .register(app)
}

fn create(app: &App, call: Call, params: Create) {
    match make_filter::<ZoneBlock>(app, params) {
        Ok(name) => call.reply(name),
        Err(error) => {
            let message = format!("Failed to create block zoned vbdev: {error}");
            call.fail(RpcError::new(INTERNAL_ERROR, "internal_error", message));
        }
    }
}

struct ZoneBlock {
    options: Create,
    /// Empty until the base is there.
    zones: Zones,
    /// Whether a reset of a zone also unmaps its blocks.
    can_unmap: bool,
}

/// Ops of a zone-block bdev, as far as its base has them.
const PASSED: OpSet = OpSet::READ_WRITE.with(OpSet::FLUSH).with(OpSet::RESET).with(OpSet::ABORT);

impl ZoneBlock {
    fn append(&self, base: &Channel, io: BdevIo, Range { lba, nblocks }: Range) {
        let Some(first) = self.zones.append(lba, nblocks) else {
            return io.complete(Status::INVALID);
        };
        let mut append = io.fan_out();
        append.succeed_with(IoResult::with_block(first));
        append.send(base, Op::Write(Range::new(first, nblocks)), 0);
    }

    fn manage(&self, base: &Channel, io: BdevIo, zone: Option<u64>, action: ZoneAction) {
        let Some(lba) = zone else {
            // A reset of all zones unmaps nothing: another thread may already write to a zone that was empty before.
            let is_known = self.zones.act_on_all(action);
            return io.complete(if is_known { Status::SUCCESS } else { Status::INVALID });
        };
        match self.zones.act(lba, action) {
            None => io.complete(Status::INVALID),
            Some(true) if action == ZoneAction::Reset && self.can_unmap => {
                io.fan_out().send(base, Op::Unmap(self.zones.blocks(lba)), 0);
            }
            Some(_) => io.complete(Status::SUCCESS),
        }
    }
}

impl StatefulFilter for ZoneBlock {
    type Params = Create;
    type State = Channel;
    const PRODUCT: &'static str = "zone_block";
    const FOLLOWS_SIZE: bool = false;

    fn create(_: &App, options: Create) -> Result<Self> {
        check_name(options.name.clone())?;
        Ok(Self { options, zones: Zones::default(), can_unmap: false })
    }

    fn name(&self) -> &str {
        &self.options.name
    }

    fn base_name(&self) -> &str {
        &self.options.base_bdev
    }

    fn check_base(&mut self, base: &Info) -> Result<()> {
        if base.zoning().is_some() {
            return Err(Error::new(
                errno::EEXIST,
                format!("bdev {} is already zoned", base.name()),
            ));
        }
        let unit = u64::from(base.raw().write_unit.max(1));
        if !self.options.zone_capacity.is_multiple_of(unit) {
            let allowed = format!("a multiple of the write unit, {unit} blocks");
            return Err(Error::invalid("zone_capacity", self.options.zone_capacity, allowed));
        }
        self.zones = Zones::new(base.num_blocks(), self.options.zone_capacity)?;
        self.can_unmap = base.ops().contains(OpSet::UNMAP);
        Ok(())
    }

    fn describe(&self, base: &Info, registration: &mut Registration) {
        if let Ok(geometry) = Geometry::new_any(base.block_size(), self.zones.num_blocks()) {
            registration.geometry = geometry;
        }
        let passed = OpSet::from_bits(registration.ops.bits() & PASSED.bits());
        registration.ops = passed.with(OpSet::ZONES).with(OpSet::ZONE_APPEND);
        registration.unmapped_reads_zeroes = false;
        registration.zoning = Some(Zoning {
            zone_size: self.zones.size(),
            optimal_open: u32::try_from(self.options.optimal_open_zones).unwrap_or(u32::MAX),
            ..Zoning::default()
        });
    }

    fn open_channel(&self, base: Channel) -> Result<Channel> {
        Ok(base)
    }

    fn submit(&self, base: &mut Channel, io: BdevIo) {
        match io.op() {
            Op::Read(Range { lba, nblocks }) if self.zones.can_read(lba, nblocks) => base.pass(io),
            Op::Write(Range { lba, nblocks }) if self.zones.write(lba, nblocks) => base.pass(io),
            Op::Read(_) | Op::Write(_) => io.complete(Status::INVALID),
            Op::ZoneAppend(range) => self.append(base, io, range),
            Op::ZoneReport { first, .. } => io.complete_with_zones(self.zones.report(first)),
            Op::ZoneManage { zone, action } => self.manage(base, io, zone, action),
            _ => base.pass(io),
        }
    }

    fn flush(&self, base: &mut Channel) {
        base.flush();
    }

    fn driver_specific(&self) -> Map<String, Value> {
        let Create { name, base_bdev, zone_capacity, optimal_open_zones } = &self.options;
        let shown = json!({
            "name": name,
            "base_bdev": base_bdev,
            "zone_capacity": zone_capacity,
            "optimal_open_zones": optimal_open_zones,
        });
        Map::from_iter([("zoned_block".to_owned(), shown)])
    }
}
