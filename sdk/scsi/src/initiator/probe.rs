//! Reads the identity, size and limits of a unit.

use super::command::cdb;
use drivebay_sdk::bdev::Geometry;
use drivebay_sdk::{Error, Result, errno};
use drivebay_spec_scsi::CDB_LEN;
use drivebay_spec_scsi::capacity::Capacity;
use drivebay_spec_scsi::inquiry::{DISK, page};
use drivebay_spec_scsi::sense::{Key, Sense, asc};

/// Most attempts of a command that ends with a unit attention or BUSY.
const TRIES: usize = 16;
/// Allocation length of INQUIRY, in bytes.
const ANSWER_LEN: u16 = 4096;

/// Properties of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its designators (page 83h).
    pub identity: Vec<u8>,
    /// Size, in blocks.
    pub num_blocks: u64,
    /// Block size, in bytes.
    pub block_size: u32,
    /// Most blocks of one read or write; 0 = no limit.
    pub transfer_max: u32,
    /// Most blocks of one UNMAP; 0 = it is not supported.
    pub unmap_max: u32,
    /// Whether it has a volatile write cache.
    pub has_write_cache: bool,
    /// Whether it refuses writes.
    pub is_read_only: bool,
}

impl Unit {
    /// Whether the other one is the same unit with the same blocks. The size may differ.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        unit_designators(&self.identity) == unit_designators(&other.identity)
            && self.block_size == other.block_size
    }
}

/// How a command ended, with the data from the unit.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// SCSI status.
    pub status: u8,
    /// The data.
    pub data: Vec<u8>,
    /// The sense data, if the unit sent any that can be parsed.
    pub sense: Option<Sense>,
}

/// Reads the properties of a unit. `execute` runs a command that reads at most the given number of bytes.
///
/// # Errors
/// The errors of `execute`; `ENODEV` when there is no unit, `EINVAL` for a unit that cannot be a bdev, `EBUSY` for one that does not
/// become ready.
pub async fn probe(execute: impl AsyncFnMut([u8; CDB_LEN], u32) -> Result<Answer>) -> Result<Unit> {
    Questions { execute }.ask().await
}

struct Questions<F> {
    execute: F,
}

impl<F: AsyncFnMut([u8; CDB_LEN], u32) -> Result<Answer>> Questions<F> {
    async fn ask(&mut self) -> Result<Unit> {
        let refused = |why: &str| Error::new(errno::EINVAL, format!("the unit {why}"));
        let standard = self.inquiry(0, 0).await?;
        match standard.first() {
            Some(first) if *first == DISK => {}
            Some(first) if first & 0xe0 != 0 => return Err(no_unit()),
            _ => return Err(refused("is no disk")),
        }
        let identity = self.page(page::DEVICE_IDENTIFICATION).await?;
        let capacity = self.capacity().await?;
        let supported = optional(self.inquiry(1, page::SUPPORTED).await)?;
        let has = |code: u8| supported.get(4..).is_some_and(|pages| pages.contains(&code));
        let (mut limits, mut provisioning) = (Vec::new(), Vec::new());
        if has(page::BLOCK_LIMITS) {
            limits = self.page(page::BLOCK_LIMITS).await?;
        }
        if has(page::LOGICAL_BLOCK_PROVISIONING) {
            provisioning = self.page(page::LOGICAL_BLOCK_PROVISIONING).await?;
        }
        let can_unmap = provisioning.get(1).is_some_and(|flags| flags & 0x80 != 0);
        // Header and caching page of MODE SENSE (6), without block descriptors.
        let mode = optional(self.command(&[0x1a, 0x08, 0x08, 0, 0xff], 0xff).await)?;
        let block_size = capacity.block_len;
        let num_blocks = capacity.last_lba.checked_add(1).ok_or_else(|| refused("has no size"))?;
        Geometry::new(block_size, num_blocks).map_err(|error| refused(error.message()))?;
        Ok(Unit {
            identity,
            num_blocks,
            block_size,
            transfer_max: u32_at(&limits, 4),
            unmap_max: if can_unmap { u32_at(&limits, 16) } else { 0 },
            has_write_cache: has_write_cache(&mode),
            is_read_only: mode.get(2).is_some_and(|flags| flags & 0x80 != 0),
        })
    }

    async fn inquiry(&mut self, evpd: u8, code: u8) -> Result<Vec<u8>> {
        let [high, low] = ANSWER_LEN.to_be_bytes();
        self.command(&[0x12, evpd, code, high, low], ANSWER_LEN.into()).await
    }

    /// The body of a page.
    async fn page(&mut self, code: u8) -> Result<Vec<u8>> {
        let page = self.inquiry(1, code).await?;
        match page.as_slice() {
            [_, given, high, low, body @ ..] if *given == code => {
                let len = usize::from(u16::from_be_bytes([*high, *low]));
                Ok(body.get(..len).unwrap_or(body).to_vec())
            }
            _ => Err(Error::new(errno::EIO, format!("page {code:#04x} is malformed"))),
        }
    }

    async fn capacity(&mut self) -> Result<Capacity> {
        let bytes = [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32];
        let data = self.command(&bytes, 32).await?;
        let data: Option<&[u8; Capacity::LEN]> = data.first_chunk();
        let data = data.ok_or_else(|| Error::new(errno::EIO, "the capacity is malformed"))?;
        Ok(Capacity::parse(data))
    }

    /// Executes a command until it has an answer.
    async fn command(&mut self, bytes: &[u8], len: u32) -> Result<Vec<u8>> {
        let whole = cdb(bytes);
        for _ in 0..TRIES {
            let Answer { status, data, sense } = (self.execute)(whole, len).await?;
            match (status, sense) {
                (0, _) => return Ok(data),
                (0x02, Some(Sense { key: Key::UnitAttention | Key::NotReady, .. }))
                | (0x08 | 0x28, _) => {}
                (0x02, Some(Sense { asc: asc::LOGICAL_UNIT_NOT_SUPPORTED, .. })) => {
                    return Err(no_unit());
                }
                (0x02, Some(Sense { key: Key::IllegalRequest, .. })) => {
                    let why = format!("the unit does not support command {:#04x}", whole[0]);
                    return Err(Error::new(errno::EOPNOTSUPP, why));
                }
                (_, sense) => {
                    let why =
                        format!("command {:#04x} ended with {status:#04x} {sense:?}", whole[0]);
                    return Err(Error::new(errno::EIO, why));
                }
            }
        }
        Err(Error::new(errno::EBUSY, "the unit does not become ready"))
    }
}

fn no_unit() -> Error {
    Error::new(errno::ENODEV, "the unit does not exist")
}

/// Turns the error of a command that the unit does not support into an empty answer.
fn optional(answer: Result<Vec<u8>>) -> Result<Vec<u8>> {
    match answer {
        Err(error) if error.errno() == errno::EOPNOTSUPP => Ok(Vec::new()),
        answer => answer,
    }
}

/// The designators of the unit itself. Those of the port differ between portals.
fn unit_designators(page: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    let mut rest = page;
    while let [_, kind, _, len, ..] = *rest {
        let len = 4 + usize::from(len);
        let (one, later) = rest.split_at(len.min(rest.len()));
        if kind & 0x30 == 0 {
            all.push(one);
        }
        rest = later;
    }
    all
}

/// Whether the unit has a volatile write cache, from the data of MODE SENSE (6): WCE of the caching page. SPC-4, section 7.5.5; SBC-3,
/// section 6.4.5.
fn has_write_cache(mode: &[u8]) -> bool {
    let descriptors_len = mode.get(3).copied().map_or(0, usize::from);
    let page = mode.get(4 + descriptors_len..).unwrap_or_default();
    matches!(*page, [code, _, flags, ..] if code & 0x3f == 0x08 && flags & 0x04 != 0)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |bytes| u32::from_be_bytes(*bytes))
}
