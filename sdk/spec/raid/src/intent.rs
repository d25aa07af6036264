//! The write-intent record: which regions of an array may differ between its members.
//!
//! The format is Drivebay's own. The record is in the unused space between the superblock and the data of every member. The
//! reference neither reads nor writes it. Little-endian:
//!
//! | bytes | field |
//! |---|---|
//! | 0 to 7 | signature `DRVBINTN` |
//! | 8, 10 | version: major, minor (2 each) |
//! | 12 | length of the record in bytes (4) |
//! | 16 | CRC32C of the record with these four bytes zero |
//! | 20 | region: log2 of its blocks (1), number of absent members (1), flags (1), zero (1) |
//! | 24 | UUID of the array (16) |
//! | 40 | generation: each record has the next number (8) |
//! | 48 | sequence number of the superblock that the record belongs to (8) |
//! | 56 | absent members, 24 each, up to 8: slot (1), zero (7), left at (8), current below (8) |
//! | 248 | one bit for each region: bit `r % 8` of byte `r / 8` |
//!
//! Flags: bit 0, the array stopped cleanly; bit 1, every region got a mark because another program had used the array.

use crate::superblock::{array_at, put, u16_at, u32_at, u64_at};

/// Length of a record, in bytes.
pub const INTENT_LEN: usize = 4096;
/// Byte offsets of the two copies of the record on a member. An array writes them in turn, so a power cut tears at most one.
pub const INTENT_OFFSETS: [u64; 2] = [512 << 10, 768 << 10];

const SIGNATURE: [u8; 8] = *b"DRVBINTN";
const VERSION: (u16, u16) = (1, 0);
const AWAY_AT: usize = 56;
const AWAY_LEN: usize = 24;
/// Maximum number of members that a record lists as away.
pub const AWAY_MAX: usize = 8;
const ENDED_IN_ORDER: u8 = 1;
const USED_BY_ANOTHER: u8 = 2;
const BITS_AT: usize = AWAY_AT + AWAY_MAX * AWAY_LEN;
/// Maximum number of regions of an array.
pub const REGIONS_MAX: u64 = (INTENT_LEN - BITS_AT) as u64 * 8;

/// The record: which regions may differ, and how far absent members are current.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// UUID of the array.
    pub array: [u8; 16],
    /// log2 of the blocks of a region.
    pub region_shift: u8,
    /// The record with the largest generation is the newest.
    pub generation: u64,
    /// Sequence number of the superblock that the record belongs to.
    pub sequence: u64,
    /// Whether the array stopped cleanly: no write was interrupted, so no region differs between the current members.
    pub has_ended_in_order: bool,
    /// Whether every region got a mark because another program had used the array, and some regions still have it.
    pub was_used_by_another: bool,
    /// Members that are not current.
    pub away: Vec<Away>,
    /// One bit for each region that may differ.
    pub regions: Regions,
}

/// A member that is not current. It lacks the regions of the record, and everything from the block `current_below` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Away {
    /// The member's slot.
    pub slot: u8,
    /// Sequence number of the superblock before the member left, or before its rebuild began.
    pub left_at: u64,
    /// Blocks of the array below this one were current on the member then.
    pub current_below: u64,
}

/// A set of regions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Regions(Vec<u64>);

impl Regions {
    /// Adds a region below [`REGIONS_MAX`]. Returns whether it is new.
    pub fn insert(&mut self, region: u64) -> bool {
        let (word, bit) = split(region);
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        let Some(word) = self.0.get_mut(word) else { return false };
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    /// Removes a region.
    pub fn remove(&mut self, region: u64) {
        let (word, bit) = split(region);
        if let Some(word) = self.0.get_mut(word) {
            *word &= !bit;
        }
    }

    /// Whether a region is in the set.
    #[must_use]
    pub fn contains(&self, region: u64) -> bool {
        let (word, bit) = split(region);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    /// The regions, the smallest first.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        (0_u64..).zip(&self.0).filter(|(_, word)| **word != 0).flat_map(|(number, word)| {
            (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| number * 64 + bit)
        })
    }

    /// The number of regions.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether the set has no region.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

/// Word and bit of a region. Larger numbers than [`REGIONS_MAX`] count as [`REGIONS_MAX`], a region that no record has.
fn split(region: u64) -> (usize, u64) {
    let region = region.min(REGIONS_MAX);
    (usize::try_from(region / 64).unwrap_or(usize::MAX), 1 << (region % 64))
}

/// The log2 of the number of blocks in a region. A region has at least `least` blocks, and the array has no more regions than
/// a record has room for.
#[must_use]
pub fn region_shift(num_blocks: u64, least: u64) -> u8 {
    let mut shift = 0;
    while (1 << shift) < least || num_blocks >> shift >= REGIONS_MAX {
        shift += 1;
    }
    shift
}

impl Intent {
    /// The member of a slot, if it is absent.
    #[must_use]
    pub fn away(&self, slot: u8) -> Option<&Away> {
        self.away.iter().find(|away| away.slot == slot)
    }

    /// The record with larger regions. `None` if its regions are larger already.
    #[must_use]
    pub fn with_region_shift(mut self, region_shift: u8) -> Option<Self> {
        let by = region_shift.checked_sub(self.region_shift)?;
        if by > 0 {
            let mut larger = Regions::default();
            self.regions
                .iter()
                .for_each(|region| _ = larger.insert(region.checked_shr(by.into()).unwrap_or(0)));
            (self.regions, self.region_shift) = (larger, region_shift);
        }
        Some(self)
    }

    /// Lists a member as away, or changes its entry. A full list stays as it is, and the member counts as lacking everything.
    pub fn set_away(&mut self, away: Away) {
        self.away.retain(|other| other.slot != away.slot);
        if self.away.len() < AWAY_MAX {
            self.away.push(away);
        }
    }

    /// Reads a record. `None` when the bytes are no record, or it is damaged or of another major version.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let record = bytes.first_chunk::<INTENT_LEN>()?;
        let is_ours = record.starts_with(&SIGNATURE)
            && u16_at(record, 8) == VERSION.0
            && u32_at(record, 12) == u32::try_from(INTENT_LEN).ok()?
            && u32_at(record, 16) == crc(record);
        let (region_shift, num_away, flags) = (record[20], usize::from(record[21]), record[22]);
        if !is_ours || region_shift > 62 || num_away > AWAY_MAX {
            return None;
        }
        let mut intent = Self {
            array: array_at(record, 24),
            region_shift,
            generation: u64_at(record, 40),
            sequence: u64_at(record, 48),
            has_ended_in_order: flags & ENDED_IN_ORDER != 0,
            was_used_by_another: flags & USED_BY_ANOTHER != 0,
            away: Vec::new(),
            regions: Regions::default(),
        };
        for entry in record[AWAY_AT..BITS_AT].chunks_exact(AWAY_LEN).take(num_away) {
            let (left_at, current_below) = (u64_at(entry, 8), u64_at(entry, 16));
            let [slot] = array_at(entry, 0);
            intent.set_away(Away { slot, left_at, current_below });
        }
        for (byte, bits) in (0_u64..).zip(&record[BITS_AT..]) {
            for bit in (0..8).filter(|bit| bits >> bit & 1 != 0) {
                intent.regions.insert(byte * 8 + bit);
            }
        }
        Some(intent)
    }

    /// The bytes, with their CRC.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; INTENT_LEN] {
        let mut bytes = [0; INTENT_LEN];
        put(&mut bytes, 0, &SIGNATURE);
        put(&mut bytes, 8, &VERSION.0.to_le_bytes());
        put(&mut bytes, 10, &VERSION.1.to_le_bytes());
        put(&mut bytes, 12, &u32::try_from(INTENT_LEN).unwrap_or(0).to_le_bytes());
        let num_away = self.away.len().min(AWAY_MAX);
        let in_order = if self.has_ended_in_order { ENDED_IN_ORDER } else { 0 };
        let by_another = if self.was_used_by_another { USED_BY_ANOTHER } else { 0 };
        let num_away = u8::try_from(num_away).unwrap_or(0);
        put(&mut bytes, 20, &[self.region_shift, num_away, in_order | by_another]);
        put(&mut bytes, 24, &self.array);
        put(&mut bytes, 40, &self.generation.to_le_bytes());
        put(&mut bytes, 48, &self.sequence.to_le_bytes());
        for (away, entry) in
            self.away.iter().zip(bytes[AWAY_AT..BITS_AT].chunks_exact_mut(AWAY_LEN))
        {
            put(entry, 0, &[away.slot]);
            put(entry, 8, &away.left_at.to_le_bytes());
            put(entry, 16, &away.current_below.to_le_bytes());
        }
        for region in self.regions.iter().filter(|region| *region < REGIONS_MAX) {
            let byte = BITS_AT + usize::try_from(region / 8).unwrap_or(0);
            if let Some(byte) = bytes.get_mut(byte) {
                *byte |= 1 << (region % 8);
            }
        }
        let crc = crc(&bytes);
        put(&mut bytes, 16, &crc.to_le_bytes());
        bytes
    }
}

fn crc(record: &[u8; INTENT_LEN]) -> u32 {
    let mut record = *record;
    put(&mut record, 16, &[0; 4]);
    crc32c::crc32c(&record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example() -> Intent {
        let mut regions = Regions::default();
        for region in [0, 7, 8, 63, 64, REGIONS_MAX - 1] {
            assert!(regions.insert(region));
        }
        Intent {
            array: [3; 16],
            region_shift: 11,
            generation: 9,
            sequence: 4,
            has_ended_in_order: true,
            was_used_by_another: false,
            away: vec![Away { slot: 1, left_at: 3, current_below: u64::MAX }],
            regions,
        }
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let intent = example();
        assert_eq!(Intent::parse(&intent.to_bytes()), Some(intent.clone()));
        let other =
            Intent { has_ended_in_order: false, was_used_by_another: true, ..intent.clone() };
        assert_eq!(Intent::parse(&other.to_bytes()), Some(other));
        assert_eq!(
            (intent.regions.len(), intent.regions.iter().last()),
            (6, Some(REGIONS_MAX - 1))
        );
        assert_eq!(intent.away(1).map(|away| away.left_at), Some(3));
        assert_eq!(intent.away(0), None);
    }

    #[test]
    fn a_record_may_get_larger_regions_and_no_smaller_ones() {
        let intent = example();
        assert_eq!(intent.clone().with_region_shift(11), Some(intent.clone()));
        assert_eq!(intent.clone().with_region_shift(10), None);
        let larger = intent.with_region_shift(14).unwrap();
        let regions: Vec<u64> = larger.regions.iter().collect();
        assert_eq!(regions, [0, 1, 7, 8, (REGIONS_MAX - 1) / 8]);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = example().to_bytes();
        for bit in (0..INTENT_LEN * 8).step_by(7) {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Intent::parse(&bytes), None, "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn an_array_has_no_more_regions_than_a_record(num_blocks in 1_u64..1 << 63, least in 1_u64..1 << 20) {
            let shift = region_shift(num_blocks, least);
            prop_assert!(1_u64 << shift >= least);
            prop_assert!((num_blocks - 1) >> shift < REGIONS_MAX);
        }

        #[test]
        fn regions_are_a_set(numbers in prop::collection::vec(0..REGIONS_MAX, 0..50)) {
            let mut regions = Regions::default();
            let mut model = std::collections::BTreeSet::new();
            for number in &numbers {
                prop_assert_eq!(regions.insert(*number), model.insert(*number));
            }
            for number in numbers.iter().step_by(3) {
                regions.remove(*number);
                model.remove(number);
            }
            prop_assert_eq!(regions.len(), model.len() as u64);
            prop_assert_eq!(regions.iter().collect::<Vec<_>>(), model.into_iter().collect::<Vec<_>>());
        }
    }
}
