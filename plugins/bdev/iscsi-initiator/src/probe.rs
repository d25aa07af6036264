//! Asks a target what a unit is: identity, size and limits. `[any lightweight thread]`

use std::time::Duration;

use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::net::Stream;
use drivebay_sdk::runtime::task;
use drivebay_spec_iscsi::{BHS_LEN, DIGEST_LEN, Header, pad_len};
use drivebay_spec_scsi::CDB_LEN;
use drivebay_spec_scsi::capacity::Capacity;
use drivebay_spec_scsi::inquiry::{DISK, page};
use drivebay_spec_scsi::sense::{Key, Sense, asc};

use crate::disk::Place;
use crate::login::login;
use crate::session::{Done, Payload, Session, Transfer};

/// Maximum number of attempts of a command that ends with a unit attention or BUSY.
const TRIES: usize = 16;
/// Pause before the next attempt with a busy unit.
const BUSY_DELAY: Duration = Duration::from_millis(100);
/// Time limit of the questions when the operator sets none.
const LIMIT: Duration = Duration::from_secs(30);
/// Longest answer that the plugin asks for, in bytes.
const ANSWER_LEN: u16 = 4096;

/// Properties of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// Its designators (page 83h). The plugin compares them at every login.
    pub(crate) identity: Vec<u8>,
    pub(crate) num_blocks: u64,
    pub(crate) block_size: u32,
    /// Maximum number of blocks of one read or write; 0 = no limit.
    pub(crate) transfer_max: u32,
    /// Maximum number of blocks of one UNMAP; 0 = it is not supported.
    pub(crate) unmap_max: u32,
    /// Unmapped blocks read as zeroes (LBPRZ).
    pub(crate) reads_zeroes: bool,
    pub(crate) has_write_cache: bool,
    pub(crate) is_read_only: bool,
}

impl Unit {
    /// Whether a unit with these designators (page 83h) and this block size is this unit.
    pub(crate) fn is(&self, identity: &[u8], block_size: u32) -> bool {
        unit_designators(identity) == unit_designators(&self.identity)
            && block_size == self.block_size
    }
}

/// Logs in, asks, and disconnects.
///
/// # Errors
/// The errors of [`login`] and of commands; `EINVAL` for a unit that cannot be a bdev.
pub(crate) async fn probe(place: &Place, isid: [u8; 6]) -> Result<Unit> {
    let (stream, session) = login(place, isid).await?;
    let mut talk = Talk { stream, session };
    let asking = talk.ask();
    task::timeout(place.timeout.unwrap_or(LIMIT), asking)
        .await
        .unwrap_or_else(|elapsed| Err(elapsed.into()))
}

/// Logs in for I/O, and checks that the unit is `expected`. Returns its current number of blocks too.
///
/// # Errors
/// As [`probe`]; `ENODEV` for another unit.
pub(crate) async fn connect<R: Payload>(
    place: &Place,
    isid: [u8; 6],
    expected: &Unit,
) -> Result<(Stream, Session<R>, u64)> {
    let (stream, session) = login(place, isid).await?;
    let mut talk = Talk { stream, session };
    let looking = async {
        let identity = talk.page(page::DEVICE_IDENTIFICATION).await?;
        let capacity = talk.capacity().await?;
        Ok::<_, Error>((identity, capacity))
    };
    let limit = place.timeout.unwrap_or(LIMIT);
    let looked = task::timeout(limit, looking).await.unwrap_or_else(|elapsed| Err(elapsed.into()));
    let (identity, capacity) = looked?;
    if !expected.is(&identity, capacity.block_len) {
        let why = format!("{:?}: the unit is not the same as before", place.url);
        return Err(Error::new(errno::ENODEV, why));
    }
    let Talk { stream, session } = talk;
    Ok((stream, session.with_payload(), capacity.last_lba.saturating_add(1)))
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

struct Talk {
    stream: Stream,
    session: Session<Vec<u8>>,
}

impl Talk {
    async fn ask(&mut self) -> Result<Unit> {
        let standard = self.inquiry(0, 0).await?;
        let refused = |why: &str| Error::new(errno::EINVAL, format!("the unit {why}"));
        match standard.first() {
            Some(first) if *first == DISK => {}
            Some(first) if first & 0xe0 != 0 => return Err(refused("does not exist")),
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
        let limits = match has(page::BLOCK_LIMITS) {
            true => self.page(page::BLOCK_LIMITS).await?,
            false => Vec::new(),
        };
        let provisioning = match has(page::LOGICAL_BLOCK_PROVISIONING) {
            true => self.page(page::LOGICAL_BLOCK_PROVISIONING).await?,
            false => Vec::new(),
        };
        let can_unmap = provisioning.get(1).is_some_and(|flags| flags & 0x80 != 0);
        let mode = optional(self.mode_sense().await)?;
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
        self.command(&[0x12, evpd, code, high, low, 0], ANSWER_LEN.into()).await
    }

    /// The body of a page.
    async fn page(&mut self, code: u8) -> Result<Vec<u8>> {
        let page = self.inquiry(1, code).await?;
        match page.as_slice() {
            [_, told, high, low, body @ ..] if *told == code => {
                let len = usize::from(u16::from_be_bytes([*high, *low]));
                Ok(body.get(..len).unwrap_or(body).to_vec())
            }
            _ => Err(Error::new(errno::EIO, format!("page {code:#04x} is malformed"))),
        }
    }

    async fn capacity(&mut self) -> Result<Capacity> {
        let mut cdb = [0; CDB_LEN];
        (cdb[0], cdb[1], cdb[13]) = (0x9e, 0x10, 32);
        let data = self.command(&cdb, 32).await?;
        let wrong = || Error::new(errno::EIO, "the capacity is malformed");
        let data: &[u8; Capacity::LEN] = data.first_chunk().ok_or_else(wrong)?;
        Ok(Capacity::parse(data))
    }

    /// Header and caching page of MODE SENSE (6), without block descriptors.
    async fn mode_sense(&mut self) -> Result<Vec<u8>> {
        self.command(&[0x1a, 0x08, 0x08, 0, 0xff, 0], 0xff).await
    }

    /// Sends a command that reads at most `len` bytes.
    async fn command(&mut self, cdb: &[u8], len: u32) -> Result<Vec<u8>> {
        let mut whole = [0; CDB_LEN];
        whole.iter_mut().zip(cdb).for_each(|(place, byte)| *place = *byte);
        for _ in 0..TRIES {
            let Done { request, status, sense, .. } = self.once(whole, len).await?;
            match (status, sense) {
                (0, _) => return Ok(request),
                (0x02, Some(Sense { key: Key::UnitAttention, .. })) => {}
                (0x02, Some(Sense { key: Key::NotReady, .. })) | (0x08 | 0x28, _) => {
                    task::sleep(BUSY_DELAY).await;
                }
                (0x02, Some(Sense { asc: asc::LOGICAL_UNIT_NOT_SUPPORTED, .. })) => {
                    return Err(Error::new(errno::EINVAL, "the unit does not exist"));
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

    async fn once(&mut self, cdb: [u8; CDB_LEN], len: u32) -> Result<Done<Vec<u8>>> {
        let memory = vec![0; usize::try_from(len).unwrap_or(0)];
        if self.session.submit(cdb, Transfer::In(len), memory).is_err() {
            return Err(Error::new(errno::EBUSY, "the target accepts no commands"));
        }
        loop {
            let bytes = self.session.output().to_vec();
            self.session.sent(bytes.len());
            self.stream.write_all(&bytes).await?;
            if let Some(done) = self.session.done() {
                return Ok(done);
            }
            self.receive_pdu().await?;
        }
    }

    /// Reads one PDU with its digests.
    async fn receive_pdu(&mut self) -> Result<()> {
        let mut bhs = [0; BHS_LEN];
        self.stream.read_exact(&mut bhs).await?;
        let header = Header::parse(&bhs);
        let data_len = usize::try_from(header.data_len).unwrap_or(0);
        let (header_digest, data_digest) = self.session.digests();
        let mut left = usize::from(header.ahs_len) + data_len + pad_len(data_len);
        left += if header_digest { DIGEST_LEN } else { 0 };
        left += if data_digest && data_len > 0 { DIGEST_LEN } else { 0 };
        self.take(&bhs)?;
        let mut bytes = [0; 4096];
        while left > 0 {
            let len = left.min(bytes.len());
            let piece = bytes.get_mut(..len).unwrap_or_default();
            self.stream.read_exact(piece).await?;
            self.take(piece)?;
            left -= len;
        }
        Ok(())
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = self.session.room();
            let len = room.len().min(bytes.len());
            let (now, later) = bytes.split_at(len);
            if let Some(place) = room.get_mut(..len) {
                place.copy_from_slice(now);
            }
            let taken = self.session.received(len);
            taken.map_err(|fault| Error::new(errno::EIO, fault.to_string()))?;
            bytes = later;
        }
        Ok(())
    }
}

/// Turns the error of a command that the unit does not support into an empty answer.
fn optional(answer: Result<Vec<u8>>) -> Result<Vec<u8>> {
    match answer {
        Err(error) if error.errno() == errno::EOPNOTSUPP => Ok(Vec::new()),
        answer => answer,
    }
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
        let unit = [1, 0x03, 0, 2, 7, 7];
        let port = [1, 0x14, 0, 1, 9];
        let page = [unit.as_slice(), &port].concat();
        assert_eq!(unit_designators(&page), [unit.as_slice()]);
        assert_eq!(unit_designators(&[1, 3, 0, 200, 1]).len(), 1);
        assert!(unit_designators(&[1, 3, 0]).is_empty());
    }
}
