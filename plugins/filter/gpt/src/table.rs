//! The GUID partition table: UEFI Specification 2.10, section 5.

use std::fmt;

use drivebay_sdk::prelude::*;

/// Section 5.2.3: type of the partition of a protective MBR.
const PROTECTIVE: u8 = 0xee;
/// Section 5.3.2, table 5.5.
const SIGNATURE: &[u8; 8] = b"EFI PART";
const HEADER_LEN: usize = 92;
const ENTRY_LEN: usize = 128;
/// The maximum number of entries to read. Tools write this many.
const ENTRIES_MAX: u32 = 128;
/// SPDK's type of partitions.
const TYPE: u128 = 0x6527994e_2c5a_4eec_9613_8f5944074e8b;
/// SPDK's old type of partitions. Their disks are one block shorter than the entries say, and must stay so.
const TYPE_OLD: u128 = 0x7c5222bd_8f5d_4087_9c00_bf9843c7b58c;

/// A GUID as a number with the digits of its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guid(u128);

impl Guid {
    /// Appendix A: the first three fields are stored with the last byte first.
    fn read(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
        let first = u64::from_be_bytes([d, c, b, a, f, e, h, g]);
        Self(u128::from(first) << 64 | u128::from(u64::from_be_bytes(rest)))
    }

    pub(crate) fn bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid(self.bytes()).fmt(f)
    }
}

/// The fields of a header that this plugin uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    disk: Guid,
    first_usable: u64,
    last_usable: u64,
    pub(crate) entries_lba: u64,
    entries: u32,
    entries_crc: u32,
}

/// A complete table.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) disk: Guid,
    pub(crate) partitions: Vec<Partition>,
}

/// A partition, within the blocks that the header allows.
#[derive(Clone, Debug)]
pub(crate) struct Partition {
    /// Number of the partition, from 1 on.
    pub(crate) number: usize,
    pub(crate) kind: Guid,
    pub(crate) unique: Guid,
    pub(crate) first: u64,
    last: u64,
    pub(crate) name: String,
}

impl Partition {
    /// Whether its type is one of the two that become disks.
    pub(crate) fn is_ours(&self) -> bool {
        self.kind == Guid(TYPE) || self.kind == Guid(TYPE_OLD)
    }

    pub(crate) fn blocks(&self) -> Range {
        let missing = u64::from(self.kind == Guid(TYPE_OLD));
        Range::new(self.first, self.last - self.first + 1 - missing)
    }
}

/// Bytes `at..at + N`, or zeroes past the end.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk().copied()).unwrap_or([0; N])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

/// Whether the protective partition covers the whole disk after the MBR. Section 5.2.3.
pub(crate) fn has_protective_mbr(mbr: &[u8], num_blocks: u64) -> bool {
    let entries = [446, 462, 478, 494].map(|at| field::<16>(mbr, at));
    let protective = entries.iter().find(|entry| field::<1>(*entry, 4) == [PROTECTIVE]);
    field(mbr, 510) == [0x55, 0xaa]
        && protective.is_some_and(|entry| {
            let nblocks = u32_at(entry, 12);
            let wanted = u32::try_from(num_blocks - 1).unwrap_or(u32::MAX);
            u32_at(entry, 8) == 1 && (nblocks == wanted || nblocks == u32::MAX)
        })
}

fn broken(what: &str) -> Error {
    Error::new(errno::EINVAL, format!("partition table: {what}"))
}

impl Header {
    /// Parses the header in block `lba`. Section 5.3.2.
    pub(crate) fn parse(block: &[u8], lba: u64, num_blocks: u64) -> Result<Self> {
        let len = usize::try_from(u32_at(block, 12)).unwrap_or(0);
        if field(block, 0) != *SIGNATURE {
            return Err(broken("no signature"));
        }
        let Some(header) = block.get(..len).filter(|_| len >= HEADER_LEN) else {
            return Err(broken("the header has a wrong length"));
        };
        let (crc, without_crc) = (16..20, header.iter().enumerate());
        let without_crc: Vec<u8> =
            without_crc.map(|(at, byte)| if crc.contains(&at) { 0 } else { *byte }).collect();
        if crc32(&without_crc) != u32_at(header, 16) || u64_at(header, 24) != lba {
            return Err(broken("the header has a wrong CRC or block number"));
        }
        let found = Self {
            disk: Guid::read(field(header, 56)),
            first_usable: u64_at(header, 40),
            last_usable: u64_at(header, 48),
            entries_lba: u64_at(header, 72),
            entries: u32_at(header, 80),
            entries_crc: u32_at(header, 88),
        };
        let is_usable = found.first_usable <= found.last_usable
            && found.last_usable < num_blocks
            && !(found.first_usable < 1 && found.last_usable > 1);
        if !is_usable {
            return Err(broken("the usable blocks are not on the disk"));
        }
        if found.entries > ENTRIES_MAX || u32_at(header, 84) as usize != ENTRY_LEN {
            return Err(broken("more than 128 entries, or entries that are not 128 bytes long"));
        }
        Ok(found)
    }

    /// Length of all entries, in bytes.
    pub(crate) fn entries_len(&self) -> u64 {
        u64::from(self.entries) * ENTRY_LEN as u64
    }

    /// Section 5.3.3: makes the table from these entries.
    pub(crate) fn table(&self, entries: &[u8]) -> Result<Table> {
        let entries = usize::try_from(self.entries_len()).ok().and_then(|len| entries.get(..len));
        let Some(entries) = entries.filter(|entries| crc32(entries) == self.entries_crc) else {
            return Err(broken("the entries have a wrong CRC"));
        };
        let all = entries.chunks_exact(ENTRY_LEN).zip(1..);
        let partitions = all.filter_map(|(entry, number)| self.partition(entry, number)).collect();
        Ok(Table { disk: self.disk, partitions })
    }

    fn partition(&self, entry: &[u8], number: usize) -> Option<Partition> {
        let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
        let is_usable =
            first != 0 && first >= self.first_usable && first <= last && last <= self.last_usable;
        let units = entry.get(56..)?.chunks_exact(2).map(|unit| u16::from_le_bytes(field(unit, 0)));
        let name = char::decode_utf16(units.take_while(|unit| *unit != 0));
        is_usable.then(|| Partition {
            number,
            kind: Guid::read(field(entry, 0)),
            unique: Guid::read(field(entry, 16)),
            first,
            last,
            name: name.map(|letter| letter.unwrap_or(char::REPLACEMENT_CHARACTER)).collect(),
        })
    }
}

/// Section 5.3.1: CRC-32 of ISO 3309.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}
