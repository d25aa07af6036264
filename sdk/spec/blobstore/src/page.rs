//! A metadata page: its owner, its position in the chain, its entries, and its checksum.

use crate::bytes::Reader;
use crate::descriptor::Descriptor;
use std::fmt;

/// Length of the used part of a metadata page, in bytes. The rest of a larger page is padding.
pub const PAGE_BYTES: usize = 4096;
/// Length of the descriptors in a page, in bytes.
pub(crate) const DESCRIPTOR_BYTES: usize = 4072;
const NO_PAGE: u32 = u32::MAX;

/// Id of a blob: the number of its first page, with a mark in the high bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId(u64);

impl BlobId {
    const HIGH_BIT: u64 = 1 << 32;

    /// The id of the blob whose first page is metadata page `page`.
    #[must_use]
    pub fn of_page(page: u32) -> Self {
        Self(Self::HIGH_BIT | u64::from(page))
    }

    /// The blob's first metadata page.
    #[must_use]
    pub fn page(self) -> u32 {
        u32::try_from(self.0 & u64::from(u32::MAX)).unwrap_or(u32::MAX)
    }

    /// Converts an id from disk; all ones means no blob.
    #[must_use]
    pub fn from_raw(raw: u64) -> Option<Self> {
        (raw != u64::MAX).then_some(Self(raw))
    }

    /// The id as on disk.
    #[must_use]
    pub fn to_raw(id: Option<Self>) -> u64 {
        id.map_or(u64::MAX, |id| id.0)
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A metadata page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The blob that wrote the page. An extent page keeps this id when another blob takes it over.
    pub id: BlobId,
    /// Position in the chain; 0 for the first page, and for extent pages.
    pub sequence: u32,
    /// Next page of the chain.
    pub next: Option<u32>,
    /// Its entries, in order.
    pub descriptors: Vec<Descriptor>,
}

/// Why a page is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageError {
    /// The checksum is wrong, so the page has no valid contents.
    Crc,
    /// An entry does not fit, or contradicts itself.
    Descriptor {
        /// Its type.
        kind: u8,
        /// Its offset in the page, in bytes.
        at: usize,
    },
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crc => f.write_str("wrong checksum"),
            Self::Descriptor { kind, at } => {
                write!(f, "the descriptor of type {kind} at byte {at} is malformed")
            }
        }
    }
}

impl std::error::Error for PageError {}

impl Page {
    /// Makes a page without entries.
    #[must_use]
    pub fn new(id: BlobId, sequence: u32) -> Self {
        Self { id, sequence, next: None, descriptors: Vec::new() }
    }

    /// Parses a page.
    ///
    /// # Errors
    /// When the checksum is wrong or an entry is malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, PageError> {
        let page = bytes.get(..PAGE_BYTES).ok_or(PageError::Crc)?;
        let crc = page.last_chunk().map(|crc| u32::from_le_bytes(*crc));
        if crc != Some(crate::checksum(page)) {
            return Err(PageError::Crc);
        }
        let mut fields = Reader(page);
        let head = (|| {
            let id = BlobId(fields.u64()?);
            let sequence = fields.u32()?;
            let _reserved = fields.u32()?;
            let descriptors = fields.take(DESCRIPTOR_BYTES)?;
            Some((id, sequence, descriptors, fields.u32()?))
        })();
        let (id, sequence, descriptors, next) = head.ok_or(PageError::Crc)?;
        Ok(Self {
            id,
            sequence,
            next: (next != NO_PAGE).then_some(next),
            descriptors: Descriptor::parse_all(descriptors)
                .map_err(|(kind, at)| PageError::Descriptor { kind, at: at + 16 })?,
        })
    }

    /// Free space for entries, in bytes.
    #[must_use]
    pub fn room(&self) -> usize {
        let used: usize = self.descriptors.iter().map(Descriptor::bytes).sum();
        DESCRIPTOR_BYTES.saturating_sub(used)
    }

    /// The page's bytes, with its checksum. Entries beyond the [`room`](Self::room) are left out.
    #[must_use]
    pub fn encode(&self) -> Box<[u8; PAGE_BYTES]> {
        let mut fields = Vec::with_capacity(PAGE_BYTES);
        fields.extend_from_slice(&self.id.0.to_le_bytes());
        fields.extend_from_slice(&self.sequence.to_le_bytes());
        fields.extend_from_slice(&[0; 4]);
        for descriptor in &self.descriptors {
            descriptor.encode(&mut fields);
        }
        fields.resize(PAGE_BYTES - 8, 0);
        fields.extend_from_slice(&self.next.unwrap_or(NO_PAGE).to_le_bytes());
        fields.extend_from_slice(&[0; 4]);
        let mut page = Box::new([0; PAGE_BYTES]);
        page.copy_from_slice(&fields);
        set_checksum(&mut page);
        page
    }
}

/// Writes the checksum of a page or super block into it.
pub(crate) fn set_checksum(page: &mut [u8; PAGE_BYTES]) {
    let crc = crate::checksum(page).to_le_bytes();
    if let Some(at) = page.last_chunk_mut() {
        *at = crc;
    }
}

/// Writes the checksum into a page, for tools and tests that change pages by hand.
pub fn seal(page: &mut [u8; PAGE_BYTES]) {
    set_checksum(page);
}

/// Whether all bytes are zero, as in a page that was never written.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| *word == [0; 16]) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_sealed_page_is_read_or_refused_and_what_is_read_is_written_again(
            start in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut page = [0; PAGE_BYTES];
            page[16..16 + start.len()].copy_from_slice(&start);
            seal(&mut page);
            if let Ok(read) = Page::parse(&page) {
                prop_assert_eq!(Page::parse(&read.encode()[..]), Ok(read));
            }
        }
    }

    #[test]
    fn a_page_of_zeros_has_a_wrong_checksum() {
        assert_eq!(Page::parse(&[0; PAGE_BYTES]), Err(PageError::Crc));
        assert!(is_zero(&[0; PAGE_BYTES]));
    }
}
