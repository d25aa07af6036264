//! The properties of an array as a bdev, from the properties of its members.

use crate::member::Member;
use drivebay_sdk::bdev::Info;
use drivebay_sdk::prelude::*;
use drivebay_spec_raid::{Layout, Level, MEMBERS_MAX};
use std::rc::Rc;

/// The properties of an array as a bdev. Only its size may change while it is online.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pub(crate) name: String,
    pub(crate) uuid: [u8; 16],
    pub(crate) geometry: Geometry,
    pub(crate) ops: OpSet,
    pub(crate) has_write_cache: bool,
    unmapped_reads_zeroes: bool,
    has_log: bool,
    optimal_boundary: u32,
    write_unit: u32,
    phys_block_size: u32,
    align: u32,
    max_children: u32,
    format: Info,
}

/// Ops of arrays without parity. Unmap comes with members that all support it.
const OPS: OpSet =
    OpSet::READ_WRITE.with(OpSet::FLUSH).with(OpSet::RESET).with(OpSet::WRITE_ZEROES);

impl Profile {
    /// # Errors
    /// `EINVAL` for a size that no bdev can have.
    pub(crate) fn new(
        name: &str,
        uuid: [u8; 16],
        layout: &Layout,
        members: &[Rc<Member>],
    ) -> Result<Self> {
        let format = members.first().ok_or_else(Error::no_such_device)?.info.clone();
        let can_unmap = members.iter().all(|member| member.info.ops().contains(OpSet::UNMAP));
        let is_split = match layout.level() {
            Level::Raid1 => false,
            Level::Raid0 => layout.members() > 1,
            _ => true,
        };
        let strip = u32::try_from(layout.strip_blocks()).unwrap_or(0);
        let stripe = stripe_blocks(name, layout, format.block_size())?;
        let has_log = layout.level().has_log();
        let ops = match stripe {
            0 => OPS,
            // The parity needs the data of a write.
            _ => OpSet::READ_WRITE.with(OpSet::FLUSH).with(OpSet::RESET),
        };
        let largest = |of: fn(&Info) -> u32| members.iter().map(|m| of(&m.info)).max().unwrap_or(0);
        Ok(Self {
            name: name.to_owned(),
            uuid,
            geometry: Geometry::new_any(format.block_size(), layout.num_blocks())?,
            ops: if can_unmap && stripe == 0 { ops.with(OpSet::UNMAP) } else { ops },
            // With a row log, all writes that the array acknowledges are durable.
            has_write_cache: !has_log && members.iter().any(|member| member.info.has_write_cache()),
            has_log,
            unmapped_reads_zeroes: members.iter().all(|member| member.info.unmapped_reads_zeroes()),
            optimal_boundary: match (is_split, stripe) {
                (false, _) => 0,
                (true, 0) => strip,
                (true, stripe) => stripe,
            },
            write_unit: if has_log { 0 } else { stripe },
            phys_block_size: largest(|info| info.raw().phys_block_size),
            align: largest(|info| info.raw().align),
            // A raid1 may get more members. A degraded read of a stripe sends up to two children to a member.
            max_children: match layout.level() {
                Level::Raid1 => u32::try_from(MEMBERS_MAX).unwrap_or(u32::MAX),
                _ => 2 * u32::from(layout.members()),
            },
            format,
        })
    }

    /// Fills in the registration of the array.
    pub(crate) fn describe(&self, registration: &mut Registration) {
        let raw = self.format.raw();
        registration.uuid = self.uuid;
        registration.ops = self.ops;
        registration.must_flags = IoFlags::FUA;
        registration.has_write_cache = self.has_write_cache;
        registration.unmapped_reads_zeroes = self.unmapped_reads_zeroes;
        registration.optimal_boundary = self.optimal_boundary;
        registration.write_unit = self.write_unit;
        registration.phys_block_size = self.phys_block_size;
        registration.align = self.align;
        registration.max_children = self.max_children;
        registration.md_size = raw.md_size;
        registration.md_interleave = raw.md_interleave != 0;
        registration.dif_type = raw.dif_type;
        registration.dif_is_head = raw.dif_is_head != 0;
        registration.dif_pi_format = raw.dif_pi_format;
    }

    /// Refuses a bdev that lacks a property that the array has announced to clients.
    ///
    /// # Errors
    /// `EINVAL` naming the property.
    pub(crate) fn check_new(&self, info: &Info) -> Result<()> {
        let refuse = |what: &str| {
            let message = format!("bdev {} {what} of array {}", info.name(), self.name);
            Err(Error::new(errno::EINVAL, message))
        };
        if info.has_write_cache() && !self.has_write_cache && !self.has_log {
            return refuse("has a write cache, unlike the first members");
        }
        if self.ops.contains(OpSet::UNMAP) && !info.ops().contains(OpSet::UNMAP) {
            return refuse("cannot unmap, unlike the first members");
        }
        if self.unmapped_reads_zeroes && !info.unmapped_reads_zeroes() {
            return refuse("does not read zeroes where it was unmapped, unlike the first members");
        }
        Ok(())
    }
}

/// Bytes of the longest stripe without a row log, which is the largest write unit of the bus, and of the longest strip with one.
const STRIPE_LEN_MAX: u64 = 1 << 20;

/// Blocks of a stripe of a level with parity, else 0.
fn stripe_blocks(name: &str, layout: &Layout, block_size: u32) -> Result<u32> {
    let blocks = layout.row_blocks();
    check_strip(layout.level(), layout.strip_blocks().saturating_mul(block_size.into()))?;
    if !layout.level().has_log() && blocks * u64::from(block_size) > STRIPE_LEN_MAX {
        let message = format!(
            "array {name} has stripes of {} KiB of data; allowed: at most {} KiB, so use smaller strips or fewer members",
            blocks * u64::from(block_size) / 1024,
            STRIPE_LEN_MAX / 1024
        );
        return Err(Error::new(errno::EINVAL, message));
    }
    Ok(u32::try_from(blocks).unwrap_or(0))
}

/// Refuses strips that are too long for a level with a row log. `strip_len` is in bytes.
///
/// # Errors
/// `EINVAL`.
pub(crate) fn check_strip(level: Level, strip_len: u64) -> Result<()> {
    if level.has_log() && strip_len > STRIPE_LEN_MAX {
        let allowed = format!("at most {} for {level}", STRIPE_LEN_MAX / 1024);
        return Err(Error::invalid("strip_size_kb", strip_len / 1024, allowed));
    }
    Ok(())
}

/// Refuses a bdev whose block format differs from that of the array.
///
/// # Errors
/// `EINVAL` naming the property.
pub(crate) fn check_format(
    array: &str,
    has_superblock: bool,
    of: &Info,
    as_of: &Info,
) -> Result<()> {
    let format = |info: &Info| {
        let raw = info.raw();
        (raw.md_size, raw.md_interleave, raw.dif_type, raw.dif_is_head, raw.dif_pi_format)
    };
    let refuse = |why: String| Err(Error::new(errno::EINVAL, why));
    if of.block_size() != as_of.block_size() {
        return refuse(format!(
            "bdev {} has blocks of {} bytes; array {array} needs {}",
            of.name(),
            of.block_size(),
            as_of.block_size()
        ));
    }
    if format(of) != format(as_of) {
        return refuse(format!(
            "bdev {} has another metadata format than array {array}",
            of.name()
        ));
    }
    if has_superblock && !crate::superblock::is_possible(of) {
        return refuse(format!(
            "bdev {} has protection information or metadata in its blocks; an array with a superblock cannot use it",
            of.name()
        ));
    }
    Ok(())
}
