//! The superblock of an array, version 1.0: `module/bdev/raid/bdev_raid.h` of the reference.
//!
//! A header of 256 bytes and 64 bytes for each member, at the start of every member. All numbers are little
//! endian. The CRC is CRC32C with initial value 0 and no final inversion, over `length` bytes with the CRC's own
//! field zero.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | signature `SPDKRAID` |
//! | 8..10, 10..12 | version: major, minor |
//! | 12..16 | length of the whole superblock, in bytes |
//! | 16..20 | CRC |
//! | 20..24 | flags |
//! | 24..40 | UUID of the array |
//! | 40..104 | name, zero padded |
//! | 104..112 | size of the array, in blocks |
//! | 112..116 | block size without metadata, in bytes |
//! | 116..120 | level |
//! | 120..124 | strip size, in blocks; 0 for raid1 |
//! | 124..128 | state, never written by the reference |
//! | 128..136 | sequence number: each update adds one, and the largest is the newest |
//! | 136 | number of members |
//! | 137..255 | zero |
//! | 255 | number of entries that follow |
//!
//! An entry: UUID (16), first data block (8), data blocks (8), state (4), flags (4), slot (1), zero (23).

#![expect(
    clippy::indexing_slicing,
    reason = "every place is a constant below a length that was checked"
)]

use crate::Level;
use std::fmt;

/// First bytes of every superblock.
pub const SIGNATURE: [u8; 8] = *b"SPDKRAID";
/// Length of the part before the entries, in bytes.
pub const HEADER_LEN: usize = 256;
/// Length of one entry, in bytes.
pub const ENTRY_LEN: usize = 64;
/// Length of the name field, in bytes. The reference ends a name with a zero byte within it.
pub const NAME_LEN: usize = 64;
/// Maximum number of members of an array.
pub const MEMBERS_MAX: usize = 255;
/// Members with a superblock have at least this many bytes before their data.
pub const DATA_OFFSET_MIN: u64 = 1 << 20;
/// Longest superblock, in bytes.
const LEN_MAX: usize = HEADER_LEN + MEMBERS_MAX * ENTRY_LEN;
/// The version to write. Only its major version can be read.
const VERSION: (u16, u16) = (1, 0);

/// The state of a member in a superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// The slot is empty.
    Missing,
    /// The member holds its part of the data.
    Configured,
    /// The member failed, and the array removed it.
    Failed,
    /// The member waits to replace another one.
    Spare,
}

impl MemberState {
    const fn number(self) -> u32 {
        match self {
            Self::Missing => 0,
            Self::Configured => 1,
            Self::Failed => 2,
            Self::Spare => 3,
        }
    }

    fn from_number(number: u32) -> Option<Self> {
        [Self::Missing, Self::Configured, Self::Failed, Self::Spare]
            .into_iter()
            .find(|state| state.number() == number)
    }
}

/// One member's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// UUID of the member's bdev. All zero in an empty slot.
    pub uuid: [u8; 16],
    /// First block of the member's data.
    pub data_offset: u64,
    /// Blocks of the member's data.
    pub data_size: u64,
    /// Its state.
    pub state: MemberState,
    /// Kept as they were read.
    pub flags: u32,
    /// Place in the array, from 0.
    pub slot: u8,
}

/// A superblock with every field in its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Kept as they were read.
    pub flags: u32,
    /// UUID of the array.
    pub uuid: [u8; 16],
    /// Name of the array's bdev: 1 to 63 bytes.
    pub name: String,
    /// Size of the array, in blocks.
    pub num_blocks: u64,
    /// Block size without metadata, in bytes.
    pub block_size: u32,
    /// The level.
    pub level: Level,
    /// Strip size, in blocks; 0 for raid1.
    pub strip_blocks: u32,
    /// Kept as it was read.
    pub state: u32,
    /// Sequence number. The superblock with the larger number is newer.
    pub sequence: u64,
    /// Number of slots.
    pub num_members: u8,
    /// The entries, in the order of the disk.
    pub members: Vec<Member>,
}

/// Why bytes are not a superblock that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SuperblockError {
    /// The signature is missing, so the bdev is not a member of an array.
    NoSignature,
    /// The superblock is longer than the bytes: read this many and try again.
    TooShort {
        /// Bytes needed.
        needed: usize,
    },
    /// The CRC does not match: torn, or damaged.
    Crc {
        /// CRC in the superblock.
        found: u32,
        /// CRC of its bytes.
        computed: u32,
    },
    /// A major version that this code cannot read.
    Version {
        /// Major version found.
        major: u16,
        /// Minor version found.
        minor: u16,
    },
    /// A field with a value that is not allowed.
    Field {
        /// Name of the field.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// What it may hold.
        allowed: &'static str,
    },
}

impl fmt::Display for SuperblockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSignature => f.write_str("no RAID superblock"),
            Self::TooShort { needed } => write!(f, "the superblock has {needed} bytes"),
            Self::Crc { found, computed } => {
                write!(f, "superblock CRC is {found:#010x}, its bytes give {computed:#010x}")
            }
            Self::Version { major, minor } => {
                write!(f, "superblock version {major}.{minor}; this program reads 1.x")
            }
            Self::Field { field, value, allowed } => {
                write!(f, "superblock field {field} is {value}; allowed: {allowed}")
            }
        }
    }
}

impl std::error::Error for SuperblockError {}

/// Length that the superblock at the start of `bytes` declares. `None` unless at least a header with the
/// signature is present and the length is one that a superblock can have.
#[must_use]
pub fn declared_len(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<HEADER_LEN>()?;
    let len = usize::try_from(u32_at(header, 12)).ok()?;
    (header.starts_with(&SIGNATURE) && (HEADER_LEN..=LEN_MAX).contains(&len)).then_some(len)
}

/// Gives the bytes of a superblock their CRC. Does nothing if they are shorter than a header.
pub fn seal(bytes: &mut [u8]) {
    if bytes.len() >= HEADER_LEN {
        let crc = crc(bytes);
        put(bytes, 16, &crc.to_le_bytes());
    }
}

impl Superblock {
    /// Reads a superblock from the start of `bytes`, which may be longer.
    ///
    /// # Errors
    /// [`SuperblockError`]; `TooShort` says how many bytes to read.
    pub fn parse(bytes: &[u8]) -> Result<Self, SuperblockError> {
        use SuperblockError as E;
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(if bytes.starts_with(&SIGNATURE) {
                E::TooShort { needed: HEADER_LEN }
            } else {
                E::NoSignature
            });
        };
        if !header.starts_with(&SIGNATURE) {
            return Err(E::NoSignature);
        }
        let Some(len) = declared_len(header) else {
            let value = u32_at(header, 12).into();
            return Err(field("length", value, "256 to 16576"));
        };
        let whole = bytes.get(..len).ok_or(E::TooShort { needed: len })?;
        let (found, computed) = (u32_at(header, 16), crc(whole));
        if found != computed {
            return Err(E::Crc { found, computed });
        }
        let (major, minor) = (u16_at(header, 8), u16_at(header, 10));
        if major != VERSION.0 {
            return Err(E::Version { major, minor });
        }
        Self::from_checked(header, whole)
    }

    /// Reads the fields of bytes whose length, CRC and version are right.
    fn from_checked(header: &[u8; HEADER_LEN], whole: &[u8]) -> Result<Self, SuperblockError> {
        let num_members = header[136];
        let entries = usize::from(header[255]);
        if whole.len() != HEADER_LEN + entries * ENTRY_LEN {
            return Err(field("length", whole.len() as u64, "256 + 64 for each entry"));
        }
        if entries < num_members.into() {
            return Err(field("base_bdevs_size", entries as u64, "at least num_base_bdevs"));
        }
        let number = u32_at(header, 116);
        let level = Level::from_number(number)
            .ok_or_else(|| field("level", number.into(), "0, 1, 5, 6, 10, 95, 99"))?;
        if num_members < level.members_min() {
            return Err(field("num_base_bdevs", num_members.into(), "the level's minimum or more"));
        }
        let block_size = u32_at(header, 112);
        if !block_size.is_power_of_two() || !(512..=65_536).contains(&block_size) {
            return Err(field("block_size", block_size.into(), "a power of two, 512 to 65536"));
        }
        let strip_blocks = u32_at(header, 120);
        if level.has_strips() && !strip_blocks.is_power_of_two() {
            return Err(field("strip_size", strip_blocks.into(), "a power of two"));
        }
        if !level.has_strips() && strip_blocks != 0 {
            return Err(field("strip_size", strip_blocks.into(), "0 for raid1"));
        }
        let num_blocks = u64_at(header, 104);
        if num_blocks == 0 {
            return Err(field("raid_size", 0, "at least 1"));
        }
        let (entries, _) = whole[HEADER_LEN..].as_chunks::<ENTRY_LEN>();
        Ok(Self {
            flags: u32_at(header, 20),
            uuid: array_at(header, 24),
            name: name(&header[40..104])?,
            num_blocks,
            block_size,
            level,
            strip_blocks,
            state: u32_at(header, 124),
            sequence: u64_at(header, 128),
            num_members,
            members: members(entries, num_members)?,
        })
    }

    /// The bytes, with their CRC. The same value always gives the same bytes.
    ///
    /// # Panics
    /// When there are more than 255 members: the caller builds arrays of at most [`MEMBERS_MAX`].
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let Ok(entries) = u8::try_from(self.members.len()) else {
            panic!("an array has at most {MEMBERS_MAX} members")
        };
        let len = HEADER_LEN + self.members.len() * ENTRY_LEN;
        let mut bytes = vec![0; len];
        put(&mut bytes, 0, &SIGNATURE);
        put(&mut bytes, 8, &VERSION.0.to_le_bytes());
        put(&mut bytes, 10, &VERSION.1.to_le_bytes());
        put(&mut bytes, 12, &u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        put(&mut bytes, 20, &self.flags.to_le_bytes());
        put(&mut bytes, 24, &self.uuid);
        let name = self.name.as_bytes();
        put(&mut bytes, 40, &name[..name.len().min(NAME_LEN - 1)]);
        put(&mut bytes, 104, &self.num_blocks.to_le_bytes());
        put(&mut bytes, 112, &self.block_size.to_le_bytes());
        put(&mut bytes, 116, &self.level.number().to_le_bytes());
        put(&mut bytes, 120, &self.strip_blocks.to_le_bytes());
        put(&mut bytes, 124, &self.state.to_le_bytes());
        put(&mut bytes, 128, &self.sequence.to_le_bytes());
        put(&mut bytes, 136, &[self.num_members]);
        put(&mut bytes, 255, &[entries]);
        for (member, entry) in
            self.members.iter().zip(bytes[HEADER_LEN..].chunks_exact_mut(ENTRY_LEN))
        {
            put(entry, 0, &member.uuid);
            put(entry, 16, &member.data_offset.to_le_bytes());
            put(entry, 24, &member.data_size.to_le_bytes());
            put(entry, 32, &member.state.number().to_le_bytes());
            put(entry, 36, &member.flags.to_le_bytes());
            put(entry, 40, &[member.slot]);
        }
        seal(&mut bytes);
        bytes
    }

    /// The entry of a slot.
    #[must_use]
    pub fn member(&self, slot: u8) -> Option<&Member> {
        self.members.iter().find(|member| member.slot == slot)
    }

    /// Changes the entry of a slot. The first slot without an entry is a new slot.
    pub fn set_member(&mut self, entry: Member) {
        match self.members.iter_mut().find(|member| member.slot == entry.slot) {
            Some(known) => *known = entry,
            None => self.members.push(entry),
        }
        self.num_members = self.num_members.max(entry.slot.saturating_add(1));
    }

    /// Removes the last slot and its entry.
    pub fn remove_last_member(&mut self) {
        self.num_members = self.num_members.saturating_sub(1);
        self.members.retain(|member| member.slot < self.num_members);
    }

    /// The entry of a bdev.
    #[must_use]
    pub fn member_by_uuid(&self, uuid: [u8; 16]) -> Option<&Member> {
        self.members.iter().find(|member| member.uuid == uuid && uuid != [0; 16])
    }
}

/// The name up to its first zero byte.
fn name(bytes: &[u8]) -> Result<String, SuperblockError> {
    let len = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    match std::str::from_utf8(&bytes[..len]) {
        Ok(name) if (1..NAME_LEN).contains(&len) && !name.chars().any(char::is_control) => {
            Ok(name.to_owned())
        }
        _ => Err(field("name", len as u64, "1 to 63 bytes of printable UTF-8")),
    }
}

fn members(entries: &[[u8; ENTRY_LEN]], num_members: u8) -> Result<Vec<Member>, SuperblockError> {
    let mut members: Vec<Member> = Vec::with_capacity(entries.len());
    for entry in entries {
        let number = u32_at(entry, 32);
        let state = MemberState::from_number(number)
            .ok_or_else(|| field("base_bdev state", number.into(), "0 to 3"))?;
        let member = Member {
            uuid: array_at(entry, 0),
            data_offset: u64_at(entry, 16),
            data_size: u64_at(entry, 24),
            state,
            flags: u32_at(entry, 36),
            slot: entry[40],
        };
        if member.slot >= num_members {
            return Err(field("slot", member.slot.into(), "below num_base_bdevs"));
        }
        if member.data_offset.checked_add(member.data_size).is_none() {
            return Err(field("data_size", member.data_size, "an end below 2^64 blocks"));
        }
        let is_known = member.state == MemberState::Configured;
        if is_known && member.uuid == [0; 16] {
            return Err(field("base_bdev uuid", 0, "not zero while the member is configured"));
        }
        if members.iter().any(|other| other.slot == member.slot) {
            return Err(field("slot", member.slot.into(), "one entry for each slot"));
        }
        if is_known && members.iter().any(|other| other.uuid == member.uuid) {
            return Err(field("base_bdev uuid", member.slot.into(), "one slot for each bdev"));
        }
        members.push(member);
    }
    Ok(members)
}

fn field(field: &'static str, value: u64, allowed: &'static str) -> SuperblockError {
    SuperblockError::Field { field, value, allowed }
}

/// CRC32C from 0 without the final inversion, with the bytes of the CRC's own field taken as zero.
fn crc(whole: &[u8]) -> u32 {
    // The library inverts before and after; inverted twice, that is the plain form.
    let plain = |crc: u32, bytes: &[u8]| !crc32c::crc32c_append(!crc, bytes);
    let (head, rest) = whole.split_at(16);
    plain(plain(plain(0, head), &[0; 4]), &rest[4..])
}

pub(crate) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

pub(crate) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example() -> Superblock {
        let member = |slot: u8| Member {
            uuid: [slot + 1; 16],
            data_offset: 2048,
            data_size: 65_536,
            state: MemberState::Configured,
            flags: 0,
            slot,
        };
        Superblock {
            flags: 0,
            uuid: [7; 16],
            name: "r0".to_owned(),
            num_blocks: 131_072,
            block_size: 512,
            level: Level::Raid0,
            strip_blocks: 128,
            state: 0,
            sequence: 3,
            num_members: 2,
            members: vec![member(0), member(1)],
        }
    }

    /// Changes bytes and gives them a correct CRC.
    fn changed(at: usize, to: &[u8]) -> Vec<u8> {
        let mut bytes = example().to_bytes();
        put(&mut bytes, at, to);
        with_crc(&bytes)
    }

    fn with_crc(bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        seal(&mut bytes);
        bytes
    }

    fn refused(bytes: &[u8]) -> &'static str {
        match Superblock::parse(bytes) {
            Err(SuperblockError::Field { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_superblock_reads_as_it_was_written() {
        let bytes = example().to_bytes();
        assert_eq!(bytes.len(), 256 + 2 * 64);
        assert_eq!(declared_len(&bytes), Some(bytes.len()));
        assert_eq!(Superblock::parse(&bytes), Ok(example()));
    }

    #[test]
    fn a_superblock_may_get_a_slot_and_lose_it_again() {
        let mut wider = example();
        wider.set_member(Member { uuid: [9; 16], slot: 2, ..wider.members[0] });
        assert_eq!((wider.num_members, wider.members.len()), (3, 3));
        assert_eq!(Superblock::parse(&wider.to_bytes()), Ok(wider.clone()));
        wider.set_member(Member { data_size: 7, ..wider.members[1] });
        assert_eq!((wider.num_members, wider.members[1].data_size), (3, 7));
        wider.set_member(example().members[1]);
        wider.remove_last_member();
        assert_eq!(wider, example());
    }

    #[test]
    fn what_follows_a_superblock_does_not_matter() {
        let mut bytes = example().to_bytes();
        bytes.resize(4096, 0xaa);
        assert_eq!(Superblock::parse(&bytes), Ok(example()));
    }

    #[test]
    fn the_crc_starts_at_zero_and_is_not_inverted() {
        // CRC32C of "123456789" is e3069283 in the usual form; this form gives another value.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(!crc32c::crc32c_append(!0, b"123456789"), 0x58e3_fa20);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = example().to_bytes();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Superblock::parse(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_short_read_says_how_much_is_needed() {
        let bytes = example().to_bytes();
        let needed = |len| Superblock::parse(&bytes[..len]);
        assert_eq!(needed(300), Err(SuperblockError::TooShort { needed: 384 }));
        assert_eq!(needed(100), Err(SuperblockError::TooShort { needed: 256 }));
        assert_eq!(Superblock::parse(&[0; 512]), Err(SuperblockError::NoSignature));
    }

    #[test]
    fn fields_that_cannot_be_are_named() {
        assert_eq!(refused(&changed(12, &0_u32.to_le_bytes())), "length");
        assert_eq!(refused(&with_crc(&changed(12, &256_u32.to_le_bytes())[..256])), "length");
        assert_eq!(refused(&changed(116, &[4, 0, 0, 0])), "level");
        assert_eq!(refused(&changed(120, &[3, 0, 0, 0])), "strip_size");
        assert_eq!(refused(&changed(112, &[0; 4])), "block_size");
        assert_eq!(refused(&changed(104, &[0; 8])), "raid_size");
        assert_eq!(refused(&changed(136, &[0])), "num_base_bdevs");
        assert_eq!(refused(&changed(136, &[3])), "base_bdevs_size");
        assert_eq!(refused(&changed(40, &[0; 64])), "name");
        assert_eq!(refused(&changed(40, &[b'a'; 64])), "name");
        assert_eq!(refused(&changed(256 + 32, &[9, 0, 0, 0])), "base_bdev state");
        assert_eq!(refused(&changed(256 + 40, &[2])), "slot");
        assert_eq!(refused(&changed(256 + 40, &[1])), "slot");
        assert_eq!(refused(&changed(256 + 24, &[0xff; 8])), "data_size");
        assert_eq!(refused(&changed(256, &[0; 16])), "base_bdev uuid");
        assert_eq!(refused(&changed(256, &[2; 16])), "base_bdev uuid");
    }

    #[test]
    fn a_newer_minor_is_read_and_another_major_is_not() {
        assert!(Superblock::parse(&changed(10, &[9, 0])).is_ok());
        let error = Superblock::parse(&changed(8, &[2, 0]));
        assert_eq!(error, Err(SuperblockError::Version { major: 2, minor: 0 }));
    }

    proptest! {
        #[test]
        fn no_bytes_with_a_right_crc_panic(mut bytes in prop::collection::vec(any::<u8>(), 256..700)) {
            put(&mut bytes, 0, &SIGNATURE);
            put(&mut bytes, 8, &[1, 0, 0, 0]);
            let entries = (bytes.len() - HEADER_LEN) / ENTRY_LEN;
            let len = HEADER_LEN + entries * ENTRY_LEN;
            put(&mut bytes, 12, &u32::try_from(len).unwrap().to_le_bytes());
            bytes[255] = u8::try_from(entries).unwrap();
            seal(&mut bytes[..len]);
            if let Ok(read) = Superblock::parse(&bytes) {
                prop_assert_eq!(Superblock::parse(&read.to_bytes()), Ok(read));
            }
        }
    }
}
