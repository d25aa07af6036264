//! Reads the identity, size and limits of a unit.

use std::time::Duration;

use super::command::cdb;
use drivebay_sdk::bdev::Geometry;
use drivebay_sdk::runtime::task;
use drivebay_sdk::{Error, Result, errno};
use drivebay_spec_scsi::CDB_LEN;
use drivebay_spec_scsi::capacity::Capacity;
use drivebay_spec_scsi::inquiry::{DISK, page};
use drivebay_spec_scsi::sense::{Key, Sense, asc};

/// Most attempts of a command that ends with a unit attention or BUSY.
const TRIES: usize = 16;
/// Pause before the next attempt of a command that a busy unit did not execute.
const BUSY_DELAY: Duration = Duration::from_millis(100);
/// Allocation length of INQUIRY, in bytes.
const ANSWER_LEN: u16 = 4096;

/// Properties of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its designators (page 83h). At least one names the unit itself.
    pub identity: Vec<u8>,
    /// Size, in blocks.
    pub num_blocks: u64,
    /// Block size, in bytes.
    pub block_size: u32,
    /// Most blocks of one read or write; 0 = no limit.
    pub transfer_max: u32,
    /// Most blocks of one UNMAP; 0 = it is not supported.
    pub unmap_max: u32,
    /// Whether unmapped blocks read as zeroes (LBPRZ).
    pub reads_zeroes: bool,
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

/// Reads the properties of a unit. `execute` runs a command that reads at most the given number of bytes. `[any lightweight thread]`
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
        if unit_designators(&identity).is_empty() {
            let why =
                "has no designator (page 83h), so the plugin could not tell it from another unit";
            return Err(refused(why));
        }
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
            reads_zeroes: can_unmap && capacity.reads_zeros,
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
                (0x02, Some(Sense { key: Key::UnitAttention, .. })) => {}
                // BUSY and TASK SET FULL.
                (0x02, Some(Sense { key: Key::NotReady, .. })) | (0x08 | 0x28, _) => {
                    task::sleep(BUSY_DELAY).await;
                }
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

/// The designators of the unit itself. Designators of the port are left out, because they differ between portals.
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

/// Whether the unit has a volatile write cache, from the data of MODE SENSE (6): WCE of the caching page. Without that page, Linux
/// assumes none too. SPC-4, section 7.5.5; SBC-3, section 6.4.5.
fn has_write_cache(mode: &[u8]) -> bool {
    let descriptors_len = mode.get(3).copied().map_or(0, usize::from);
    let page = mode.get(4 + descriptors_len..).unwrap_or_default();
    matches!(*page, [code, _, flags, ..] if code & 0x3f == 0x08 && flags & 0x04 != 0)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use drivebay_sdk::testing::FakeHost;
    use drivebay_sdk::thread;
    use std::cell::Cell;
    use std::rc::Rc;

    /// A designator of the unit itself (association 0), and one of its port (association 1).
    const OF_UNIT: [u8; 6] = [1, 0x03, 0, 2, 7, 7];
    const OF_PORT: [u8; 5] = [1, 0x14, 0, 1, 9];

    /// The data of a thin provisioned unit of 8 blocks of 512 bytes. It knows no MODE SENSE.
    fn answer(cdb: &[u8; CDB_LEN], designators: &[u8]) -> Answer {
        let page = |code: u8, body: &[u8]| {
            let len = u8::try_from(body.len()).unwrap();
            [[DISK, code, 0, len].as_slice(), body].concat()
        };
        let data = match *cdb {
            [0x12, 0, ..] => vec![DISK; 36],
            [0x12, 1, page::SUPPORTED, ..] => {
                page(page::SUPPORTED, &[page::BLOCK_LIMITS, page::LOGICAL_BLOCK_PROVISIONING])
            }
            [0x12, 1, page::DEVICE_IDENTIFICATION, ..] => {
                page(page::DEVICE_IDENTIFICATION, designators)
            }
            [0x12, 1, page::BLOCK_LIMITS, ..] => {
                let mut limits = [0; 60];
                (limits[7], limits[19]) = (64, 128);
                page(page::BLOCK_LIMITS, &limits)
            }
            [0x12, 1, page::LOGICAL_BLOCK_PROVISIONING, ..] => {
                page(page::LOGICAL_BLOCK_PROVISIONING, &[0, 0x80, 0, 0])
            }
            [0x9e, ..] => {
                let mut capacity = vec![0; 32];
                (capacity[7], capacity[10], capacity[14]) = (7, 2, 0xc0);
                capacity
            }
            _ => {
                let sense = Some(Sense::illegal(asc::INVALID_COMMAND_OPERATION_CODE));
                return Answer { status: 2, data: Vec::new(), sense };
            }
        };
        Answer { data, ..Answer::default() }
    }

    /// Probes on a fake host. `execute` gets the number of earlier commands too.
    fn probed(
        host: &FakeHost,
        execute: impl Fn(u32, &[u8; CDB_LEN]) -> Answer + 'static,
    ) -> Result<Unit> {
        let result = Rc::new(Cell::new(None));
        let to = Rc::clone(&result);
        let count = Cell::new(0);
        let run = async move {
            let next = async |cdb, _| Ok(execute(count.replace(count.get() + 1), &cdb));
            to.set(Some(probe(next).await));
        };
        task::spawn("probe", run).unwrap().detach();
        host.wait(|| {
            host.advance(BUSY_DELAY);
            result.take()
        })
    }

    #[test]
    fn a_unit_tells_its_size_and_limits() {
        let unit = probed(&FakeHost::new(), |_, cdb| answer(cdb, &OF_UNIT)).unwrap();
        let expected = Unit {
            identity: OF_UNIT.to_vec(),
            num_blocks: 8,
            block_size: 512,
            transfer_max: 64,
            unmap_max: 128,
            reads_zeroes: true,
            has_write_cache: false,
            is_read_only: false,
        };
        assert_eq!(unit, expected);
    }

    #[test]
    fn a_unit_that_nothing_tells_from_another_is_refused() {
        let error = probed(&FakeHost::new(), |_, cdb| answer(cdb, &OF_PORT)).unwrap_err();
        assert_eq!(error.errno(), errno::EINVAL);
        assert!(error.message().contains("has no designator"), "{error}");
    }

    #[test]
    fn a_busy_unit_gets_time_and_one_that_stays_busy_is_given_up() {
        let busy = |status| Answer { status, ..Answer::default() };
        let host = FakeHost::new();
        let begin_ns = thread::now_ns();
        let unit = probed(&host, move |before, cdb| match before {
            0..3 => busy(0x08),
            3 => busy(0x28),
            _ => answer(cdb, &OF_UNIT),
        });
        assert_eq!(unit.unwrap().num_blocks, 8);
        let waited = Duration::from_nanos(thread::now_ns() - begin_ns);
        assert!(waited >= BUSY_DELAY * 4, "{waited:?}");
        let error = probed(&host, move |_, _| busy(0x08)).unwrap_err();
        assert_eq!(error.errno(), errno::EBUSY);
    }

    #[test]
    fn a_lun_without_a_unit_does_not_exist() {
        let unknown = Some(Sense::illegal(asc::LOGICAL_UNIT_NOT_SUPPORTED));
        let refuses = move |_, _: &_| Answer { status: 2, sense: unknown, ..Answer::default() };
        assert_eq!(probed(&FakeHost::new(), refuses).unwrap_err().errno(), errno::ENODEV);
        // Peripheral qualifier 3: the target has no unit at this LUN.
        let says = |_, _: &_| Answer { data: vec![0x7f; 36], ..Answer::default() };
        assert_eq!(probed(&FakeHost::new(), says).unwrap_err().errno(), errno::ENODEV);
    }

    #[test]
    fn the_write_cache_is_found_behind_block_descriptors_and_in_no_other_page() {
        let page = [0x88, 0x12, 0x04, 0];
        assert!(has_write_cache(&[[23, 0, 0, 0].as_slice(), &page].concat()));
        assert!(has_write_cache(&[[31, 0, 0, 8].as_slice(), &[0; 8], &page].concat()));
        assert!(!has_write_cache(&[23, 0, 0, 0, 0x88, 0x12, 0, 0]));
        assert!(!has_write_cache(&[23, 0, 0, 0, 0x0a, 0x0a, 0x04, 0]));
        assert!(!has_write_cache(&[3, 0, 0, 200]));
        assert!(!has_write_cache(&[]));
    }

    #[test]
    fn only_the_designators_of_the_unit_itself_tell_which_unit_it_is() {
        let page = [OF_UNIT.as_slice(), &OF_PORT].concat();
        assert_eq!(unit_designators(&page), [OF_UNIT.as_slice()]);
        assert_eq!(unit_designators(&[1, 3, 0, 200, 1]).len(), 1);
        assert!(unit_designators(&[1, 3, 0]).is_empty());
    }
}
