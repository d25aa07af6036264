//! Registration and resize of bdevs.

use super::names::{NAME_MAX_LEN, bus, by_id, names, uuid_of};
use super::{events, examine, refused, zones};
use crate::bdev::state::stats::Totals;
use crate::bdev::state::{Bdev, Control};
use crate::{Error, Result};
use drivebay_plugin_api::*;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// The texts of a registration, already copied.
#[derive(Debug)]
pub(crate) struct Texts {
    pub(crate) name: String,
    pub(crate) product: String,
    pub(crate) aliases: Vec<String>,
    pub(crate) base: Option<String>,
}

/// Registers a bdev on the bus.
///
/// # Errors
/// `EINVAL` with the name of the wrong field; `EEXIST` with the name that is taken.
///
/// # Safety
/// `ops` and `record.ctx` belong together and stay valid until the bdev is destructed.
pub(crate) unsafe fn register(
    owner: usize,
    texts: Texts,
    record: bay_bdev_reg,
    ops: bay_bdev_ops,
) -> Result<u64> {
    check(&texts.name, &record, &ops)?;
    let uuid = if record.uuid == [0; 16] { uuid_of(&texts.name) } else { record.uuid };
    let id = bus(|bus| {
        let names = names(&texts.name, &uuid, &texts.aliases);
        if let Some(taken) = names.iter().find(|name| bus.by_name.contains_key(*name)) {
            return Err(Error::new(libc::EEXIST, format!("bdev {taken} already exists")));
        }
        for name in &names {
            bus.check_free(owner, &texts.name, name)?;
        }
        bus.next_id += 1;
        let bdev = Arc::new(Bdev {
            id: bus.next_id,
            name: texts.name.clone(),
            product: texts.product,
            uuid,
            base: texts.base,
            owner,
            record,
            ops,
            ctx: record.ctx,
            num_blocks: AtomicU64::new(record.num_blocks),
            reach: AtomicU64::new(record.num_blocks),
            removed: AtomicBool::new(false),
            resetting: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            quarantined: AtomicU32::new(0),
            reported_wrong_thread: AtomicBool::new(false),
            channels: AtomicU32::new(0),
            retired: Totals::default(),
            control: Mutex::new(Control { aliases: texts.aliases, ..Control::default() }),
        });
        bus.by_id.insert(bdev.id, Arc::clone(&bdev));
        for name in names {
            bus.by_name.insert(name, Arc::clone(&bdev));
        }
        Ok(bdev.id)
    })?;
    tracing::debug!(bdev = texts.name, "registered");
    events::notify("bdev_register", &texts.name);
    examine::show(&texts.name);
    Ok(id)
}

/// Changes the size of a bdev.
///
/// # Errors
/// `ENODEV` when there is no such bdev; `EINVAL` for a size that is not allowed; `EBUSY` when the
/// bdev is open and would shrink.
pub fn resize(id: u64, num_blocks: u64) -> Result<()> {
    let bdev = by_id(id).ok_or_else(Error::no_such_device)?;
    check_size(bdev.record.block_size, num_blocks)
        .and_then(|()| zones::check_size(bdev.record.zone_size, num_blocks))
        .map_err(|why| Error::new(libc::EINVAL, format!("bdev {}: {why}", bdev.name)))?;
    let old = bdev.num_blocks();
    if num_blocks < old && !bdev.control().descs.is_empty() {
        let message = format!(
            "bdev {} is open and cannot shrink from {old} to {num_blocks} blocks",
            bdev.name
        );
        return Err(Error::new(libc::EBUSY, message));
    }
    bdev.num_blocks.store(num_blocks, Ordering::Relaxed);
    if !bdev.is_removed() {
        bdev.reach.store(num_blocks, Ordering::Relaxed);
    }
    if num_blocks != old {
        events::notify("bdev_resize", &bdev.name);
        events::send(&bdev, BAY_EVENT_RESIZE, num_blocks);
    }
    Ok(())
}

fn check(name: &str, record: &bay_bdev_reg, ops: &bay_bdev_ops) -> Result<()> {
    let bad = |what: String| Err(Error::new(libc::EINVAL, format!("bdev {name}: {what}")));
    if name.is_empty() || name.len() > NAME_MAX_LEN || name.contains('\0') {
        return bad(format!("name must be 1 to {NAME_MAX_LEN} bytes long"));
    }
    if ops.submit.is_none()
        || ops.chan_create.is_none()
        || ops.chan_destroy.is_none()
        || ops.destruct.is_none()
    {
        return bad("submit, chan_create, chan_destroy and destruct are required".into());
    }
    if record.block_size == 0 || record.block_size > 1 << 20 {
        return bad(format!("block_size {} must be 1 to 1048576", record.block_size));
    }
    check_size(record.block_size, record.num_blocks).or_else(bad)?;
    if !record.align.is_power_of_two() && record.align != 0 || record.align > 4096 {
        return bad(format!("align {} must be a power of two up to 4096", record.align));
    }
    check_limits(record).or_else(bad)?;
    zones::check(record).or_else(bad)?;
    refused::check(record).or_else(bad)?;
    if record.drv_ctx_size > 1 << 16 {
        return bad(format!("drv_ctx_size {} must be at most 65536", record.drv_ctx_size));
    }
    Ok(())
}

/// The one rule for sizes, at registration and at resize: the size in bytes fits a signed 64-bit
/// number, as file offsets do.
fn check_size(block_size: u32, num_blocks: u64) -> Result<(), String> {
    let most = i64::MAX.unsigned_abs() / u64::from(block_size.max(1));
    if (1..=most).contains(&num_blocks) {
        return Ok(());
    }
    Err(format!("num_blocks {num_blocks} is not allowed; allowed: 1 to {most}"))
}

/// Checks that every limit leaves room for the smallest write, so that the bus can split every I/O
/// to fit.
fn check_limits(record: &bay_bdev_reg) -> Result<(), String> {
    let unit = record.write_unit.max(1);
    if u64::from(unit) * u64::from(record.block_size) > 1 << 20 {
        return Err(format!("write_unit {unit} must be at most 1048576 bytes"));
    }
    if !record.optimal_boundary.is_multiple_of(unit) {
        return Err(format!(
            "optimal_boundary {} must be a multiple of write_unit {unit}",
            record.optimal_boundary
        ));
    }
    for (name, limit) in [
        ("max_io_blocks", record.max_io_blocks),
        ("max_unmap", record.max_unmap),
        ("max_write_zeroes", record.max_write_zeroes),
    ] {
        if limit != 0 && limit < unit {
            return Err(format!("{name} {limit} must be 0 or at least the write_unit, {unit}"));
        }
    }
    let bytes = u64::from(unit) * u64::from(record.block_size);
    if record.max_segment_size != 0 && u64::from(record.max_segment_size) < bytes {
        return Err(format!(
            "max_segment_size {} must be 0 or at least {bytes}, the smallest write",
            record.max_segment_size
        ));
    }
    Ok(())
}
