//! The row log of raid5 and raid6: what an array is about to write to a row, so that a crash leaves no row half written.
//!
//! The format is Drivebay's own. The log is on every member, between 1 MiB and the data. It has slots of the same length; a row
//! uses the slot `row % slots`. Before an array changes a row, each member that the change writes to gets its part of it: the
//! blocks that the member will hold. Such an entry ends at the end of its slot: first the blocks, then a header. Little-endian:
//!
//! | bytes | field |
//! |---|---|
//! | 0 to 7 | signature `DRVBRLOG` |
//! | 8, 10 | version: major, minor (2 each) |
//! | 12 | length of the blocks, in bytes (4) |
//! | 16 | CRC32C of the header with these four bytes zero, and then of the blocks |
//! | 20 | first block in the strip (4) |
//! | 24 | UUID of the array (16) |
//! | 40 | row (8) |
//! | 48 | number of the change: sequence number of the superblock at the start of the array (8), counter (8) |
//! | 64 | slot of the member (1), zero (7) |
//! | 72 | members of the change, one bit each (32) |
//!
//! The rest of the header is zero.

use crate::superblock::{MEMBERS_MAX, array_at, put, u16_at, u32_at, u64_at};

/// First byte of the log on a member.
const LOG_AT: u64 = 1 << 20;
const SIGNATURE: [u8; 8] = *b"DRVBRLOG";
const VERSION: (u16, u16) = (1, 0);
/// Bytes of a header that have fields.
const FIELDS_LEN: usize = 104;
/// Minimum length of a header, in bytes, so that a header shares no physical block with other data.
const HEADER_LEN_MIN: u64 = 4096;
/// The log has as many slots as fit in this many bytes, but 8 to 64.
const LOG_LEN: u64 = 4 << 20;

/// Where the entries of the log lie on a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogArea {
    strip_len: u64,
    header_len: u64,
    slots: u32,
}

impl LogArea {
    /// The log of an array whose strips and blocks have these lengths, in bytes.
    #[must_use]
    pub fn new(strip_len: u64, block_size: u32) -> Self {
        let header_len = HEADER_LEN_MIN.max(block_size.into());
        let slots = (LOG_LEN / (strip_len + header_len)).clamp(8, 64);
        Self { strip_len, header_len, slots: u32::try_from(slots).unwrap_or(8) }
    }

    /// Number of slots.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Bytes of a header.
    #[must_use]
    pub fn header_len(&self) -> u64 {
        self.header_len
    }

    /// The slot of a row.
    #[must_use]
    #[inline]
    pub fn slot_of(&self, row: u64) -> u32 {
        u32::try_from(row % u64::from(self.slots)).unwrap_or(0)
    }

    /// First byte of the header of a slot on a member.
    #[must_use]
    #[inline]
    pub fn header_at(&self, slot: u32) -> u64 {
        LOG_AT + u64::from(slot) * (self.strip_len + self.header_len) + self.strip_len
    }

    /// First byte behind the log.
    #[must_use]
    pub fn end(&self) -> u64 {
        LOG_AT + u64::from(self.slots) * (self.strip_len + self.header_len)
    }
}

/// A set of members of an array, by slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberSet([u64; 4]);

impl MemberSet {
    /// Adds a member.
    #[inline]
    pub fn insert(&mut self, member: u8) {
        if let Some(word) = self.0.get_mut(usize::from(member / 64)) {
            *word |= 1 << (member % 64);
        }
    }

    /// Whether a member is in the set.
    #[must_use]
    #[inline]
    pub fn contains(&self, member: u8) -> bool {
        self.0.get(usize::from(member / 64)).is_some_and(|word| word >> (member % 64) & 1 != 0)
    }

    /// The members in order.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        let bits = |word: u64| {
            let mut left = word;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                left &= left.wrapping_sub(1);
                u8::try_from(bit).ok().filter(|bit| *bit < 64)
            })
        };
        (0_u8..).zip(self.0).flat_map(move |(word, set)| bits(set).map(move |bit| 64 * word + bit))
    }
}

impl FromIterator<u8> for MemberSet {
    fn from_iter<I: IntoIterator<Item = u8>>(members: I) -> Self {
        let mut set = Self::default();
        members.into_iter().for_each(|member| set.insert(member));
        set
    }
}

/// The header of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// UUID of the array.
    pub array: [u8; 16],
    /// Number of the row.
    pub row: u64,
    /// The change that the entry is a part of. No other change of the array has the same number.
    pub change: (u64, u64),
    /// Slot of the member that has the entry.
    pub member: u8,
    /// The members that got parts of the change.
    pub members: MemberSet,
    /// First block in the member's strip.
    pub first: u32,
    /// Bytes of the blocks.
    pub len: u32,
}

impl LogEntry {
    /// Writes the header with the CRC of itself and of `blocks`. `header` has the length of a header.
    pub fn write(&self, header: &mut [u8], blocks: &[u8]) {
        header.fill(0);
        if header.len() < FIELDS_LEN {
            return;
        }
        put(header, 0, &SIGNATURE);
        put(header, 8, &VERSION.0.to_le_bytes());
        put(header, 10, &VERSION.1.to_le_bytes());
        put(header, 12, &self.len.to_le_bytes());
        put(header, 20, &self.first.to_le_bytes());
        put(header, 24, &self.array);
        put(header, 40, &self.row.to_le_bytes());
        put(header, 48, &self.change.0.to_le_bytes());
        put(header, 56, &self.change.1.to_le_bytes());
        put(header, 64, &[self.member]);
        for (number, word) in self.members.0.iter().enumerate() {
            put(header, 72 + 8 * number, &word.to_le_bytes());
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(header), blocks);
        put(header, 16, &crc.to_le_bytes());
    }

    /// Reads a header. `None` when the bytes are no header, or a header of another version. Does not check the CRC:
    /// [`is_whole`](Self::is_whole) does so with the blocks.
    #[must_use]
    pub fn parse(header: &[u8]) -> Option<Self> {
        let fields = header.first_chunk::<FIELDS_LEN>()?;
        if !fields.starts_with(&SIGNATURE) || u16_at(fields, 8) != VERSION.0 {
            return None;
        }
        let [member] = array_at(fields, 64);
        let words = std::array::from_fn(|number| u64_at(fields, 72 + 8 * number));
        let entry = Self {
            array: array_at(fields, 24),
            row: u64_at(fields, 40),
            change: (u64_at(fields, 48), u64_at(fields, 56)),
            member,
            members: MemberSet(words),
            first: u32_at(fields, 20),
            len: u32_at(fields, 12),
        };
        (usize::from(member) < MEMBERS_MAX && entry.members.contains(member)).then_some(entry)
    }

    /// Whether a header and its blocks are as they were written.
    #[must_use]
    pub fn is_whole(header: &[u8], blocks: &[u8]) -> bool {
        let (Some(before), Some(after)) = (header.get(..16), header.get(20..)) else {
            return false;
        };
        let crc = [before, &[0; 4], after, blocks]
            .iter()
            .fold(0, |crc, part| crc32c::crc32c_append(crc, part));
        u32_at(header, 16) == crc
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example() -> LogEntry {
        let members = [0, 3, 64, 254].into_iter().collect();
        LogEntry { array: [3; 16], row: 7, change: (5, 9), member: 3, members, first: 2, len: 1024 }
    }

    #[test]
    fn an_entry_reads_as_it_was_written() {
        let (mut header, blocks) = (vec![0xff; 4096], vec![6; 1024]);
        example().write(&mut header, &blocks);
        assert_eq!(LogEntry::parse(&header), Some(example()));
        assert!(LogEntry::is_whole(&header, &blocks));
        assert_eq!(example().members.iter().collect::<Vec<_>>(), [0, 3, 64, 254]);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (mut header, mut blocks) = (vec![0; 4096], vec![6; 1024]);
        example().write(&mut header, &blocks);
        for bit in 0..4096 * 8 {
            header[bit / 8] ^= 1 << (bit % 8);
            assert!(!LogEntry::is_whole(&header, &blocks), "bit {bit} of the header");
            header[bit / 8] ^= 1 << (bit % 8);
        }
        for bit in 0..1024 * 8 {
            blocks[bit / 8] ^= 1 << (bit % 8);
            assert!(!LogEntry::is_whole(&header, &blocks), "bit {bit} of the blocks");
            blocks[bit / 8] ^= 1 << (bit % 8);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_no_entry_or_one_that_can_be_written_again(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if bytes.len() > 12 {
                put(&mut bytes, 0, &SIGNATURE);
                put(&mut bytes, 8, &VERSION.0.to_le_bytes());
            }
            if let Some(entry) = LogEntry::parse(&bytes) {
                let mut again = vec![0; 512];
                entry.write(&mut again, &[]);
                prop_assert_eq!(LogEntry::parse(&again), Some(entry));
            }
        }

        #[test]
        fn slots_lie_one_behind_the_other_in_the_log(shift in 0_u32..11, block_shift in 9_u32..17, row in any::<u64>()) {
            let block_size = 1_u32 << block_shift;
            let strip_len = u64::from(block_size) << shift;
            let log = LogArea::new(strip_len, block_size);
            prop_assert!((8..=64).contains(&log.slots()));
            let slot = log.slot_of(row);
            prop_assert!(slot < log.slots());
            let (begin, end) = (log.header_at(slot) - strip_len, log.header_at(slot) + log.header_len());
            prop_assert!(begin >= LOG_AT && end <= log.end());
            prop_assert_eq!((begin % 512, log.header_len() % u64::from(block_size)), (0, 0));
            if slot > 0 {
                prop_assert_eq!(log.header_at(slot - 1) + log.header_len(), begin);
            }
        }
    }
}
