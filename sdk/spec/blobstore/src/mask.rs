//! Masks: one bit per page, cluster or blob id, lowest bit first.

use crate::bytes::Reader;
use std::fmt;

/// Length of the type (1) and the number of bits (4) in front of the mask, in bytes.
pub(crate) const HEADER_BYTES: usize = 5;

/// The kind of a mask, from its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MaskKind {
    /// Metadata pages in use.
    Pages = 0,
    /// Clusters in use.
    Clusters = 1,
    /// Blob ids in use.
    Blobs = 2,
}

/// Why a mask is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskError {
    /// Its first byte is that of another kind.
    Kind(u8),
    /// It has fewer bits than the store.
    Short {
        /// Its number of bits.
        bits: u32,
        /// The number of bits that the store needs.
        needed: u32,
    },
}

impl fmt::Display for MaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(kind) => write!(f, "the mask is of kind {kind}"),
            Self::Short { bits, needed } => write!(f, "the mask has {bits} bits, not {needed}"),
        }
    }
}

impl std::error::Error for MaskError {}

/// A set of small numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bits {
    words: Vec<u64>,
    len: u32,
}

impl Bits {
    /// Makes a set of `len` bits, all clear.
    #[must_use]
    pub fn new(len: u32) -> Self {
        Self { words: vec![0; len.div_ceil(64) as usize], len }
    }

    /// Number of bits.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether the set has no bits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the bit is set. False past the end.
    #[must_use]
    pub fn get(&self, bit: u32) -> bool {
        self.words.get((bit / 64) as usize).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    /// Sets a bit. Returns whether it was clear. Does nothing past the end.
    pub fn set(&mut self, bit: u32) -> bool {
        if bit >= self.len {
            return false;
        }
        let was = self.get(bit);
        if let Some(word) = self.words.get_mut((bit / 64) as usize) {
            *word |= 1 << (bit % 64);
        }
        !was
    }

    /// Clears a bit. Returns whether it was set.
    pub fn clear(&mut self, bit: u32) -> bool {
        let was = self.get(bit);
        if let Some(word) = self.words.get_mut((bit / 64) as usize) {
            *word &= !(1 << (bit % 64));
        }
        was
    }

    /// Number of bits set.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// The first clear bit at or after `from`.
    #[must_use]
    pub fn first_clear(&self, from: u32) -> Option<u32> {
        if from >= self.len {
            return None;
        }
        let skipped = (from / 64) as usize;
        for (number, word) in self.words.iter().enumerate().skip(skipped) {
            let taken = if number == skipped { word | ((1 << (from % 64)) - 1) } else { *word };
            if taken != u64::MAX {
                let bit = u32::try_from(number).ok()?.checked_mul(64)? + taken.trailing_ones();
                return (bit < self.len).then_some(bit);
            }
        }
        None
    }

    /// The set bits, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().zip(0_u32..).flat_map(|(&word, number)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| number * 64 + bit)
        })
    }

    /// Also sets the bits that are set in `other`.
    pub fn union(&mut self, other: &Self) {
        other.iter().for_each(|bit| {
            self.set(bit);
        });
    }

    /// Changes the number of bits. New bits are clear.
    pub fn resize(&mut self, len: u32) {
        self.words.resize(len.div_ceil(64) as usize, 0);
        if let (Some(last), 1..) = (self.words.last_mut(), len % 64) {
            *last &= (1 << (len % 64)) - 1;
        }
        self.len = len;
    }

    /// Makes a mask region of `bytes` bytes. Bits that do not fit are left out;
    /// [`SuperBlock`](crate::SuperBlock) ensures that all fit.
    #[must_use]
    pub fn encode(&self, kind: MaskKind, bytes: usize) -> Vec<u8> {
        let mut region = Vec::with_capacity(bytes);
        region.push(kind as u8);
        region.extend_from_slice(&self.len.to_le_bytes());
        for word in &self.words {
            region.extend_from_slice(&word.to_le_bytes());
        }
        region.resize(bytes, 0);
        region
    }

    /// Reads the first `len` bits of a mask region.
    ///
    /// # Errors
    /// When it is another kind of mask, or has too few bits.
    pub fn parse(region: &[u8], kind: MaskKind, len: u32) -> Result<Self, MaskError> {
        let mut fields = Reader(region);
        let short = |bits| MaskError::Short { bits, needed: len };
        let found = fields.u8().ok_or(short(0))?;
        if found != kind as u8 {
            return Err(MaskError::Kind(found));
        }
        let bits = fields.u32().ok_or(short(0))?;
        if bits < len {
            return Err(short(bits));
        }
        let mask = fields.take(len.div_ceil(8) as usize).ok_or(short(0))?;
        let words = mask.chunks(8).map(|bytes| {
            let mut word = [0; 8];
            word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            u64::from_le_bytes(word)
        });
        let mut read = Self { words: words.collect(), len };
        read.resize(len);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_mask_is_read_back_as_it_was(len in 1_u32..3000, set in proptest::collection::vec(any::<u32>(), 0..200)) {
            let mut bits = Bits::new(len);
            for bit in set {
                bits.set(bit % len);
            }
            let region = bits.encode(MaskKind::Clusters, 4096);
            prop_assert_eq!(Bits::parse(&region, MaskKind::Clusters, len), Ok(bits.clone()));
            prop_assert_eq!(bits.iter().count(), bits.count() as usize);
            let first = (0..len).find(|bit| !bits.get(*bit));
            prop_assert_eq!(bits.first_clear(0), first);
        }

        #[test]
        fn any_bytes_are_a_mask_or_refused(region in proptest::collection::vec(any::<u8>(), 0..64), len in any::<u32>()) {
            let len = len % 600;
            if let Ok(bits) = Bits::parse(&region, MaskKind::Pages, len) {
                prop_assert!(bits.iter().all(|bit| bit < len));
            }
        }
    }

    #[test]
    fn a_search_from_the_middle_of_a_word_skips_what_is_before() {
        let mut bits = Bits::new(130);
        (0..130).filter(|bit| *bit != 3 && *bit != 129).for_each(|bit| {
            bits.set(bit);
        });
        assert_eq!(bits.first_clear(0), Some(3));
        assert_eq!(bits.first_clear(4), Some(129));
        assert_eq!(bits.first_clear(130), None);
    }
}
