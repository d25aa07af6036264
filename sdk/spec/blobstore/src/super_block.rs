//! The super block: page 0 of a store.

use crate::bytes::Reader;
use crate::mask::HEADER_BYTES;
use crate::page::{BlobId, PAGE_BYTES};
use std::fmt;

const SIGNATURE: &[u8; 8] = b"SPDKBLOB";
/// The version that is written. Versions 1 and 2 can be read.
const VERSION: u32 = 3;
const CRC_AT: usize = PAGE_BYTES - 4;
/// Maximum size of a metadata page, in bytes.
const MD_PAGE_BYTES_MAX: u32 = 1 << 20;

/// A range of pages of metadata size, counted from the start of the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// First page.
    pub start: u32,
    /// Number of pages.
    pub len: u32,
}

impl Region {
    fn end(self) -> u64 {
        u64::from(self.start) + u64::from(self.len)
    }
}

/// The super block. Offsets of its fields: `docs/formats/lvstore.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuperBlock {
    /// Version, 1 to 3.
    pub version: u32,
    /// Whether the store was closed properly. Only then are the masks valid.
    pub clean: bool,
    /// The blob with the store's name.
    pub super_blob: Option<BlobId>,
    /// Cluster size, the unit of allocation, in bytes.
    pub cluster_size: u32,
    /// Mask of metadata pages in use.
    pub used_pages: Region,
    /// Mask of clusters in use.
    pub used_clusters: Region,
    /// Mask of blob ids in use. Its length is 0 before version 3.
    pub used_blobs: Region,
    /// The metadata pages.
    pub metadata: Region,
    /// The type of the store: "LVOLSTORE", padded with zeros.
    pub bstype: [u8; 16],
    /// Size of the store in bytes.
    pub size: u64,
    /// Block size of the volumes in bytes.
    pub io_unit_size: u32,
    /// Size of a metadata page in bytes.
    pub md_page_size: u32,
}

/// Why a super block is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuperError {
    /// There is no signature, so the disk has no store.
    NoStore,
    /// A later version wrote the store.
    Version(u32),
    /// The checksum is wrong.
    Crc,
    /// The value of a field is not allowed.
    Field {
        /// Its name.
        name: &'static str,
        /// Its value.
        given: u64,
        /// The maximum, the minimum, or the number that it must be a multiple of.
        bound: u64,
    },
}

impl fmt::Display for SuperError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStore => f.write_str("the disk holds no blobstore"),
            Self::Version(version) => {
                write!(
                    f,
                    "the blobstore has version {version}; versions 1 to {VERSION} are supported"
                )
            }
            Self::Crc => f.write_str("the super block has a wrong checksum"),
            Self::Field { name, given, bound } => {
                write!(f, "the super block's {name} is {given}; that is not allowed with {bound}")
            }
        }
    }
}

impl std::error::Error for SuperError {}

/// Parameters of a new store.
#[derive(Clone, Copy, Debug)]
pub struct NewStore {
    /// Size of the disk in bytes.
    pub disk_bytes: u64,
    /// Block size of the disk in bytes.
    pub block_size: u32,
    /// Cluster size, the unit of allocation, in bytes.
    pub cluster_size: u32,
    /// Number of metadata pages; `None` = one per cluster.
    pub num_md_pages: Option<u32>,
    /// Size of a metadata page in bytes; 4096 for most disks.
    pub md_page_size: u32,
    /// The type of the store.
    pub bstype: [u8; 16],
}

impl SuperBlock {
    /// Parses a super block from a disk of `disk_bytes`.
    ///
    /// # Errors
    /// When the disk has no store, or a store that does not fit on it.
    pub fn parse(page: &[u8; PAGE_BYTES], disk_bytes: u64) -> Result<Self, SuperError> {
        let (signature, fields) = page.split_first_chunk().ok_or(SuperError::NoStore)?;
        if signature != SIGNATURE {
            return Err(SuperError::NoStore);
        }
        let block = Self::read(fields).ok_or(SuperError::NoStore)?;
        if !(1..=VERSION).contains(&block.version) {
            return Err(SuperError::Version(block.version));
        }
        let crc = page.last_chunk().map(|crc| u32::from_le_bytes(*crc));
        if crc != Some(crate::checksum(page)) {
            return Err(SuperError::Crc);
        }
        block.with_defaults(disk_bytes).checked(disk_bytes)
    }

    fn read(fields: &[u8]) -> Option<Self> {
        let mut fields = Reader(fields);
        let version = fields.u32()?;
        let _length = fields.u32()?;
        let clean = fields.u32()? == 1;
        let super_blob = BlobId::from_raw(fields.u64()?);
        let cluster_size = fields.u32()?;
        let region =
            |fields: &mut Reader<'_>| Some(Region { start: fields.u32()?, len: fields.u32()? });
        let used_pages = region(&mut fields)?;
        let used_clusters = region(&mut fields)?;
        let metadata = region(&mut fields)?;
        let bstype = fields.take(16)?.try_into().ok()?;
        let used_blobs = region(&mut fields)?;
        let size = fields.u64()?;
        let io_unit_size = fields.u32()?;
        let md_page_size = fields.u32()?;
        Some(Self {
            version,
            clean,
            super_blob,
            cluster_size,
            used_pages,
            used_clusters,
            used_blobs,
            metadata,
            bstype,
            size,
            io_unit_size,
            md_page_size,
        })
    }

    /// Fills in fields that older versions left at zero.
    fn with_defaults(mut self, disk_bytes: u64) -> Self {
        if self.size == 0 {
            self.size = disk_bytes;
        }
        for size in [&mut self.io_unit_size, &mut self.md_page_size] {
            if *size == 0 {
                *size = 4096;
            }
        }
        self
    }

    fn checked(self, disk_bytes: u64) -> Result<Self, SuperError> {
        let field = |name, given: u64, bound: u64| Err(SuperError::Field { name, given, bound });
        let page = self.md_page_size;
        if !page.is_power_of_two() || !(4096..=MD_PAGE_BYTES_MAX).contains(&page) {
            return field("md_page_size", page.into(), 4096);
        }
        if self.cluster_size == 0 || !self.cluster_size.is_multiple_of(page) {
            return field("cluster_size", self.cluster_size.into(), page.into());
        }
        let unit = self.io_unit_size;
        if unit < 512 || !unit.is_power_of_two() || !self.cluster_size.is_multiple_of(unit) {
            return field("io_unit_size", unit.into(), self.cluster_size.into());
        }
        if self.size > disk_bytes {
            return field("size", self.size, disk_bytes);
        }
        let clusters = self.size / u64::from(self.cluster_size);
        if u32::try_from(clusters).is_err() {
            return field("size in clusters", clusters, u32::MAX.into());
        }
        if u64::from(self.md_clusters()) > clusters {
            return field("md_len", self.metadata.len.into(), clusters);
        }
        for (name, region, bits) in [
            ("used_page_mask_len", self.used_pages, u64::from(self.metadata.len)),
            ("used_cluster_mask_len", self.used_clusters, clusters),
            ("used_blobid_mask_len", self.used_blobs, u64::from(self.metadata.len)),
        ] {
            let is_absent = region.len == 0 && region == self.used_blobs;
            if !is_absent && self.mask_bits(region) < bits {
                return field(name, region.len.into(), bits);
            }
        }
        self.check_overlap()
    }

    fn check_overlap(self) -> Result<Self, SuperError> {
        let mut regions = [
            ("super block", Region { start: 0, len: 1 }),
            ("used_page_mask_start", self.used_pages),
            ("used_cluster_mask_start", self.used_clusters),
            ("used_blobid_mask_start", self.used_blobs),
            ("md_start", self.metadata),
        ];
        regions.sort_by_key(|(_, region)| (region.start, region.len));
        let mut end = 0;
        for (name, region) in regions {
            if region.len != 0 && u64::from(region.start) < end {
                return Err(SuperError::Field { name, given: region.start.into(), bound: end });
            }
            end = end.max(region.end());
        }
        Ok(self)
    }

    /// Plans a new store that is not clean and has no super blob. The result's fields say where everything is.
    ///
    /// # Errors
    /// When a size is not allowed, or when the metadata leaves no room for clusters.
    pub fn plan(new: NewStore) -> Result<Self, SuperError> {
        let field = |name, given: u64, bound: u64| Err(SuperError::Field { name, given, bound });
        if new.cluster_size == 0 || !new.cluster_size.is_multiple_of(4096) {
            return field("cluster_size", new.cluster_size.into(), 4096);
        }
        let clusters = new.disk_bytes / u64::from(new.cluster_size);
        let Ok(total_clusters) = u32::try_from(clusters) else {
            return field("size in clusters", clusters, u32::MAX.into());
        };
        let md_len = new.num_md_pages.unwrap_or(total_clusters).max(1);
        let page = new.md_page_size.max(4096).max(new.block_size);
        let mask_len = |bits: u32| {
            (u32::try_from(HEADER_BYTES).unwrap_or(5) + bits.div_ceil(8)).div_ceil(page)
        };
        let used_pages = Region { start: 1, len: mask_len(md_len) };
        let used_clusters = Region { start: 1 + used_pages.len, len: mask_len(total_clusters) };
        // The mask of clusters may grow up to the size of a mask with one bit per metadata page.
        let reserved = used_clusters.len.max(mask_len(md_len));
        let used_blobs = Region { start: used_clusters.start + reserved, len: mask_len(md_len) };
        let metadata = Region { start: used_blobs.start + used_blobs.len, len: md_len };
        let block = Self {
            version: VERSION,
            clean: false,
            super_blob: None,
            cluster_size: new.cluster_size,
            used_pages,
            used_clusters,
            used_blobs,
            metadata,
            bstype: new.bstype,
            size: new.disk_bytes,
            io_unit_size: new.block_size,
            md_page_size: page,
        };
        block.checked(new.disk_bytes)
    }

    /// Encodes the page that [`parse`](Self::parse) reads.
    #[must_use]
    pub fn encode(&self) -> Box<[u8; PAGE_BYTES]> {
        let mut fields = Vec::with_capacity(PAGE_BYTES);
        fields.extend_from_slice(SIGNATURE);
        let words = |fields: &mut Vec<u8>, words: &[u32]| {
            words.iter().for_each(|word| fields.extend_from_slice(&word.to_le_bytes()));
        };
        words(&mut fields, &[self.version, 4096, u32::from(self.clean)]);
        fields.extend_from_slice(&BlobId::to_raw(self.super_blob).to_le_bytes());
        words(&mut fields, &[self.cluster_size]);
        for region in [self.used_pages, self.used_clusters, self.metadata] {
            words(&mut fields, &[region.start, region.len]);
        }
        fields.extend_from_slice(&self.bstype);
        words(&mut fields, &[self.used_blobs.start, self.used_blobs.len]);
        fields.extend_from_slice(&self.size.to_le_bytes());
        words(&mut fields, &[self.io_unit_size, self.md_page_size]);
        fields.resize(CRC_AT, 0);
        fields.extend_from_slice(&[0; 4]);
        let mut page = Box::new([0; PAGE_BYTES]);
        page.copy_from_slice(&fields);
        crate::page::set_checksum(&mut page);
        page
    }

    /// Number of clusters of the store, including those of the metadata.
    #[must_use]
    pub fn total_clusters(&self) -> u32 {
        u32::try_from(self.size / u64::from(self.cluster_size)).unwrap_or(u32::MAX)
    }

    /// Number of clusters at the start that the metadata uses.
    #[must_use]
    pub fn md_clusters(&self) -> u32 {
        let pages_per_cluster = u64::from(self.cluster_size / self.md_page_size).max(1);
        u32::try_from(self.metadata.end().div_ceil(pages_per_cluster)).unwrap_or(u32::MAX)
    }

    /// Byte offset of a page of a region, counted from the start of the disk.
    #[must_use]
    pub fn page_offset(&self, page: u64) -> u64 {
        page.saturating_mul(self.md_page_size.into())
    }

    /// Byte offset of metadata page `index`.
    #[must_use]
    pub fn md_page_offset(&self, index: u32) -> u64 {
        self.page_offset(u64::from(self.metadata.start) + u64::from(index))
    }

    /// Byte offset of a cluster.
    #[must_use]
    pub fn cluster_offset(&self, cluster: u32) -> u64 {
        u64::from(cluster) * u64::from(self.cluster_size)
    }

    /// Number of blocks in a cluster.
    #[must_use]
    pub fn blocks_per_cluster(&self) -> u64 {
        u64::from(self.cluster_size / self.io_unit_size.max(1))
    }

    fn mask_bits(&self, region: Region) -> u64 {
        let bytes = self.page_offset(region.len.into());
        bytes.saturating_sub(HEADER_BYTES as u64).saturating_mul(8)
    }

    /// Maximum number of clusters that the store can grow to: the capacity of its mask of clusters.
    #[must_use]
    pub fn clusters_max(&self) -> u64 {
        let end =
            if self.used_blobs.len == 0 { self.metadata.start } else { self.used_blobs.start };
        let len = end.saturating_sub(self.used_clusters.start);
        self.mask_bits(Region { start: 0, len }).min(u32::MAX.into())
    }

    /// The super block after the store has grown to a disk of `disk_bytes`; `None` if it already has that
    /// size.
    ///
    /// # Errors
    /// When the disk has become smaller, or the mask of clusters has no room.
    pub fn grown(&self, disk_bytes: u64) -> Result<Option<Self>, SuperError> {
        let clusters = disk_bytes / u64::from(self.cluster_size);
        if disk_bytes < self.size {
            return Err(SuperError::Field { name: "size", given: self.size, bound: disk_bytes });
        }
        if clusters > self.clusters_max() {
            let bound = self.clusters_max();
            return Err(SuperError::Field { name: "size in clusters", given: clusters, bound });
        }
        if disk_bytes == self.size {
            return Ok(None);
        }
        let bytes = clusters.div_ceil(8) + HEADER_BYTES as u64;
        let len = bytes.div_ceil(self.md_page_size.into());
        let used_clusters =
            Region { len: u32::try_from(len).unwrap_or(u32::MAX), ..self.used_clusters };
        Ok(Some(Self { size: disk_bytes, used_clusters, clean: false, ..self.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn store(disk_bytes: u64, cluster_size: u32) -> NewStore {
        NewStore {
            disk_bytes,
            block_size: 512,
            cluster_size,
            num_md_pages: None,
            md_page_size: 4096,
            bstype: *b"LVOLSTORE\0\0\0\0\0\0\0",
        }
    }

    #[test]
    fn a_planned_store_is_read_back_as_it_was() {
        let block = SuperBlock::plan(store(1 << 30, 4 << 20)).unwrap();
        assert_eq!(SuperBlock::parse(&block.encode(), 1 << 30), Ok(block.clone()));
        assert_eq!(block.total_clusters(), 256);
        assert_eq!(block.md_clusters(), 1);
        assert!(block.clusters_max() >= 256);
    }

    #[test]
    fn a_wrong_byte_anywhere_is_refused() {
        let page = SuperBlock::plan(store(1 << 30, 1 << 20)).unwrap().encode();
        for at in 0..PAGE_BYTES {
            let mut page = page.clone();
            page[at] ^= 1;
            assert!(SuperBlock::parse(&page, 1 << 30).is_err(), "byte {at}");
        }
    }

    #[test]
    fn masks_that_overlap_or_a_store_past_the_end_are_refused() {
        let block = SuperBlock::plan(store(1 << 30, 1 << 20)).unwrap();
        let overlap = SuperBlock { used_blobs: block.used_pages, ..block.clone() };
        assert!(matches!(
            SuperBlock::parse(&overlap.encode(), 1 << 30),
            Err(SuperError::Field { .. })
        ));
        assert!(SuperBlock::parse(&block.encode(), (1 << 30) - 1).is_err());
    }

    #[test]
    fn a_store_grows_as_far_as_its_mask_and_never_shrinks() {
        let block = SuperBlock::plan(store(1 << 30, 1 << 20)).unwrap();
        let grown = block.grown(2 << 30).unwrap().unwrap();
        assert_eq!(grown.total_clusters(), 2048);
        assert_eq!(SuperBlock::parse(&grown.encode(), 2 << 30), Ok(grown));
        assert!(block.grown(1 << 29).is_err());
        assert!(block.grown(1 << 40).is_err());
        assert_eq!(block.grown(1 << 30), Ok(None));
    }

    proptest! {
        #[test]
        fn any_page_with_a_right_checksum_is_read_or_refused(
            mut fields in proptest::collection::vec(any::<u8>(), 88),
            version in 1_u32..=3,
        ) {
            fields[..4].copy_from_slice(&version.to_le_bytes());
            let mut page = [0; PAGE_BYTES];
            page[..8].copy_from_slice(SIGNATURE);
            page[8..96].copy_from_slice(&fields);
            crate::page::set_checksum(&mut page);
            if let Ok(block) = SuperBlock::parse(&page, 1 << 40) {
                prop_assert!(block.md_clusters() <= block.total_clusters());
            }
        }
    }
}
