//! The metadata of one volume.

use crate::descriptor::{Descriptor, Flags, Run, Slots};
use crate::lvol;
use crate::map::{CLUSTERS_MAX, CLUSTERS_PER_PAGE, ClusterMap};
use crate::page::{BlobId, Page};
use std::fmt;

/// A named value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xattr {
    /// Its name.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// The metadata of a blob. Of its places on disk it has only those of clusters and extent pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Id of the blob; it also says where its first page is.
    pub id: BlobId,
    /// Features that a reader must support.
    pub flags: Flags,
    /// Named values of the user.
    pub xattrs: Vec<Xattr>,
    /// Named values of the store.
    pub internal: Vec<Xattr>,
    /// Entries of unknown types, kept unchanged.
    pub other: Vec<(u8, Vec<u8>)>,
    /// Whether the clusters are in extent pages.
    pub uses_table: bool,
    /// The clusters.
    pub map: ClusterMap,
    /// The place of each extent page; 0 = none.
    pub extent_pages: Vec<u32>,
}

/// Why a blob is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobError {
    /// It has unknown flags.
    Flags(u64),
    /// It lists its clusters in both ways, or twice with different contents.
    TwoLayouts,
    /// It has more clusters than allowed.
    TooLarge(u64),
    /// It is not thin, but a cluster or page is missing.
    NotThin,
    /// The table does not fit the number of clusters.
    Table {
        /// Pages in the table.
        pages: u64,
        /// Number of clusters according to the table.
        clusters: u64,
    },
    /// An internal xattr with a blob id does not have a length of 8.
    Parent,
    /// An extent page belongs to another slot, or has too many clusters.
    ExtentPage {
        /// Its slot in the table.
        slot: u32,
    },
    /// An entry does not fit into a page.
    NoRoom,
}

impl fmt::Display for BlobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flags(bits) => write!(f, "it needs unknown features ({bits:#x})"),
            Self::TwoLayouts => f.write_str("it lists its clusters in two ways"),
            Self::TooLarge(clusters) => {
                write!(f, "it has {clusters} clusters; at most {CLUSTERS_MAX} are allowed")
            }
            Self::NotThin => f.write_str("it is not thin but lacks clusters"),
            Self::Table { pages, clusters } => {
                write!(f, "its table has {pages} pages for {clusters} clusters")
            }
            Self::Parent => f.write_str("the blob id in an xattr is not 8 bytes long"),
            Self::ExtentPage { slot } => write!(f, "extent page {slot} belongs to another slot"),
            Self::NoRoom => f.write_str("an xattr does not fit in a metadata page"),
        }
    }
}

impl std::error::Error for BlobError {}

impl Blob {
    /// An empty blob with an extent table.
    #[must_use]
    pub fn new(id: BlobId) -> Self {
        Self {
            id,
            flags: Flags { invalid: Flags::EXTENT_TABLE, ..Flags::default() },
            xattrs: Vec::new(),
            internal: Vec::new(),
            other: Vec::new(),
            uses_table: true,
            map: ClusterMap::default(),
            extent_pages: Vec::new(),
        }
    }

    /// Builds a blob from its chain. The caller adds its extent pages afterwards with
    /// [`add_extent_page`](Self::add_extent_page).
    ///
    /// # Errors
    /// When the chain contradicts itself or has unknown features.
    pub fn from_chain<'a>(
        id: BlobId,
        chain: impl Iterator<Item = &'a Page>,
    ) -> Result<Self, BlobError> {
        let mut blob = Self { flags: Flags::default(), uses_table: false, ..Self::new(id) };
        let mut runs: Option<Vec<Run>> = None;
        let mut table: Option<(u64, Vec<Slots>)> = None;
        for descriptor in chain.flat_map(|page| &page.descriptors) {
            match descriptor {
                Descriptor::Flags(flags) => blob.flags = *flags,
                Descriptor::Xattr { internal, name, value } => {
                    let list = if *internal { &mut blob.internal } else { &mut blob.xattrs };
                    list.push(Xattr { name: name.clone(), value: value.clone() });
                }
                Descriptor::ExtentRle(more) => runs.get_or_insert_default().extend(more),
                Descriptor::ExtentTable { num_clusters, slots } => {
                    let (said, all) = table.get_or_insert_with(|| (*num_clusters, Vec::new()));
                    if *said != *num_clusters {
                        return Err(BlobError::TwoLayouts);
                    }
                    all.extend(slots);
                }
                Descriptor::ExtentPage { .. } => return Err(BlobError::TwoLayouts),
                Descriptor::Other { kind, bytes } => blob.other.push((*kind, bytes.clone())),
            }
        }
        if blob.flags.unknown_invalid() != 0 {
            return Err(BlobError::Flags(blob.flags.unknown_invalid()));
        }
        for name in [lvol::PARENT, lvol::SNAPSHOT_IN_PROGRESS, lvol::SNAPSHOT_PENDING_REMOVAL] {
            if blob.internal_xattr(name).is_some_and(|value| value.len() != 8) {
                return Err(BlobError::Parent);
            }
        }
        match (runs, table) {
            (Some(_), Some(_)) => return Err(BlobError::TwoLayouts),
            (Some(runs), None) => blob.take_runs(&runs)?,
            (None, Some((clusters, slots))) => blob.take_table(clusters, &slots)?,
            (None, None) => {}
        }
        Ok(blob)
    }

    fn take_runs(&mut self, runs: &[Run]) -> Result<(), BlobError> {
        let clusters: u64 = runs.iter().map(|run| u64::from(run.len)).sum();
        self.resize_checked(clusters)?;
        let mut index = 0;
        for run in runs {
            if run.cluster == 0 && run.len != 0 && !self.is_thin() {
                return Err(BlobError::NotThin);
            }
            for step in 0..run.len {
                let cluster = run.cluster.checked_add(step).filter(|_| run.cluster != 0);
                self.map.set(index, cluster);
                index += 1;
            }
        }
        Ok(())
    }

    fn take_table(&mut self, clusters: u64, slots: &[Slots]) -> Result<(), BlobError> {
        let pages: u64 = slots.iter().map(|slot| u64::from(slot.len)).sum();
        let wrong = BlobError::Table { pages, clusters };
        // The table of an empty blob may have one slot without a page.
        if pages.saturating_sub(1) * u64::from(CLUSTERS_PER_PAGE) > clusters
            || pages * u64::from(CLUSTERS_PER_PAGE) < clusters
        {
            return Err(wrong);
        }
        self.uses_table = true;
        self.resize_checked(clusters)?;
        self.extent_pages.clear();
        for slot in slots {
            if slot.page == 0 && slot.len != 0 && clusters != 0 && !self.is_thin() {
                return Err(BlobError::NotThin);
            }
            for _ in 0..slot.len {
                self.extent_pages.push(slot.page);
            }
        }
        self.extent_pages.truncate(self.map.num_pages() as usize);
        Ok(())
    }

    fn resize_checked(&mut self, clusters: u64) -> Result<(), BlobError> {
        let len = u32::try_from(clusters).ok().filter(|len| *len <= CLUSTERS_MAX);
        self.map.resize(len.ok_or(BlobError::TooLarge(clusters))?);
        Ok(())
    }

    /// Adds the clusters of the extent page in `slot` of the table. An interrupted resize leaves a page that is too
    /// short, or longer than the blob. The shorter of the two then determines the length of the blob.
    ///
    /// # Errors
    /// When the page belongs to another slot, is too short but not the last, or has gaps although the blob is not thin.
    pub fn add_extent_page(&mut self, slot: u32, page: &Page) -> Result<(), BlobError> {
        let wrong = BlobError::ExtentPage { slot };
        let [Descriptor::ExtentPage { start, clusters }] = page.descriptors.as_slice() else {
            return Err(wrong);
        };
        let is_last = slot + 1 == self.map.num_pages();
        let first = slot.saturating_mul(CLUSTERS_PER_PAGE);
        let expected = self.map.len().saturating_sub(first).min(CLUSTERS_PER_PAGE);
        let given = u32::try_from(clusters.len()).unwrap_or(u32::MAX);
        let is_short = given < expected && !is_last;
        if *start != first || page.sequence != 0 || page.next.is_some() || is_short {
            return Err(wrong);
        }
        for (index, cluster) in (first..self.map.len()).zip(clusters) {
            if *cluster == 0 && !self.is_thin() {
                return Err(BlobError::NotThin);
            }
            self.map.set(index, (*cluster != 0).then_some(*cluster));
        }
        if given < expected {
            self.map.resize(first + given);
        }
        Ok(())
    }

    /// The extent page for `slot` of the table.
    #[must_use]
    pub fn extent_page(&self, slot: u32) -> Page {
        let start = slot.saturating_mul(CLUSTERS_PER_PAGE);
        let clusters = self.map.page(slot);
        Page {
            descriptors: vec![Descriptor::ExtentPage { start, clusters }],
            ..Page::new(self.id, 0)
        }
    }

    /// The pages of the chain, in order, not linked yet.
    ///
    /// # Errors
    /// When an xattr is larger than a page.
    pub fn to_chain(&self) -> Result<Vec<Page>, BlobError> {
        let mut chain = Chain { id: self.id, pages: vec![Page::new(self.id, 0)] };
        chain.push(Descriptor::Flags(self.flags))?;
        for (internal, list) in [(false, &self.xattrs), (true, &self.internal)] {
            for Xattr { name, value } in list {
                let (name, value) = (name.clone(), value.clone());
                chain.push(Descriptor::Xattr { internal, name, value })?;
            }
        }
        for (kind, bytes) in &self.other {
            chain.push(Descriptor::Other { kind: *kind, bytes: bytes.clone() })?;
        }
        if self.uses_table {
            let num_clusters = self.map.len().into();
            let slots = slots(&self.extent_pages);
            chain.push_parts(&slots, 13, |part| Descriptor::ExtentTable {
                num_clusters,
                slots: part.to_vec(),
            })?;
        } else if !self.map.is_empty() {
            let runs = self.runs();
            chain.push_parts(&runs, 5, |part| Descriptor::ExtentRle(part.to_vec()))?;
        }
        Ok(chain.pages)
    }

    fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for index in 0..self.map.len() {
            let cluster = self.map.get(index).unwrap_or(0);
            match runs.last_mut() {
                Some(run) if run.cluster == 0 && cluster == 0 => run.len += 1,
                Some(run) if run.cluster != 0 && run.cluster + run.len == cluster => run.len += 1,
                _ => runs.push(Run { cluster, len: 1 }),
            }
        }
        runs
    }

    /// Whether clusters may be unallocated.
    #[must_use]
    pub fn is_thin(&self) -> bool {
        self.flags.invalid & Flags::THIN != 0
    }

    /// Returns a named value of the user.
    #[must_use]
    pub fn xattr(&self, name: &[u8]) -> Option<&[u8]> {
        value(&self.xattrs, name)
    }

    /// Returns a named value of the store.
    #[must_use]
    pub fn internal_xattr(&self, name: &[u8]) -> Option<&[u8]> {
        value(&self.internal, name)
    }

    /// Returns the blob id in an internal xattr.
    #[must_use]
    pub fn internal_blob(&self, name: &[u8]) -> Option<BlobId> {
        let value = self.internal_xattr(name)?.try_into().ok()?;
        BlobId::from_raw(u64::from_le_bytes(value))
    }

    /// The parent in the store. A thick blob and a clone of an external disk have none.
    #[must_use]
    pub fn parent(&self) -> Option<BlobId> {
        let has_parent = self.is_thin() && !self.is_external_clone();
        has_parent.then(|| self.internal_blob(lvol::PARENT)).flatten()
    }

    /// Whether the parent is outside of the store.
    #[must_use]
    pub fn is_external_clone(&self) -> bool {
        self.flags.invalid & Flags::EXTERNAL_SNAPSHOT != 0
    }

    /// Sets or removes a named value of the user.
    pub fn set_xattr(&mut self, name: &[u8], value: Option<Vec<u8>>) {
        set_value(&mut self.xattrs, name, value);
    }

    /// Sets or removes a named value of the store, and updates the flag that says whether there are any.
    pub fn set_internal(&mut self, name: &[u8], value: Option<Vec<u8>>) {
        set_value(&mut self.internal, name, value);
        if self.internal.is_empty() {
            self.flags.invalid &= !Flags::INTERNAL_XATTR;
        } else {
            self.flags.invalid |= Flags::INTERNAL_XATTR;
        }
    }

    /// Sets a named value of the store to a blob id.
    pub fn set_internal_blob(&mut self, name: &[u8], id: BlobId) {
        self.set_internal(name, Some(BlobId::to_raw(Some(id)).to_le_bytes().to_vec()));
    }
}

fn value<'a>(list: &'a [Xattr], name: &[u8]) -> Option<&'a [u8]> {
    list.iter().find(|xattr| xattr.name == name).map(|xattr| xattr.value.as_slice())
}

fn set_value(list: &mut Vec<Xattr>, name: &[u8], value: Option<Vec<u8>>) {
    match (list.iter_mut().find(|xattr| xattr.name == name), value) {
        (Some(xattr), Some(value)) => xattr.value = value,
        (None, Some(value)) => list.push(Xattr { name: name.to_vec(), value }),
        (_, None) => list.retain(|xattr| xattr.name != name),
    }
}

/// Groups the pages of the table into entries. Consecutive slots without a page share one entry.
fn slots(pages: &[u32]) -> Vec<Slots> {
    let mut slots: Vec<Slots> = Vec::new();
    for page in pages {
        match slots.last_mut() {
            Some(last) if last.page == 0 && *page == 0 => last.len += 1,
            _ => slots.push(Slots { page: *page, len: 1 }),
        }
    }
    slots
}

/// Pages that are filled one after another.
struct Chain {
    id: BlobId,
    pages: Vec<Page>,
}

impl Chain {
    fn last_with_room(&mut self, bytes: usize) -> Result<&mut Page, BlobError> {
        if self.pages.last().is_none_or(|page| page.room() < bytes) {
            let sequence = u32::try_from(self.pages.len()).map_err(|_| BlobError::NoRoom)?;
            self.pages.push(Page::new(self.id, sequence));
        }
        self.pages.last_mut().filter(|page| page.room() >= bytes).ok_or(BlobError::NoRoom)
    }

    fn push(&mut self, descriptor: Descriptor) -> Result<(), BlobError> {
        self.last_with_room(descriptor.bytes())?.descriptors.push(descriptor);
        Ok(())
    }

    /// Splits 8-byte entries into descriptors. A descriptor without entries takes `head` bytes.
    fn push_parts<T>(
        &mut self,
        entries: &[T],
        head: usize,
        make: impl Fn(&[T]) -> Descriptor,
    ) -> Result<(), BlobError> {
        let mut rest = entries;
        loop {
            let page = self.last_with_room(head + 8)?;
            let (now, later) = rest.split_at(rest.len().min((page.room() - head) / 8));
            page.descriptors.push(make(now));
            rest = later;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn roundtrip(blob: &Blob) -> Blob {
        let chain = blob.to_chain().unwrap();
        let chain: Vec<Page> =
            chain.iter().map(|page| Page::parse(&page.encode()[..]).unwrap()).collect();
        let mut read = Blob::from_chain(blob.id, chain.iter()).unwrap();
        for slot in 0..blob.map.num_pages() {
            if blob.uses_table && blob.extent_pages[slot as usize] != 0 {
                read.add_extent_page(slot, &blob.extent_page(slot)).unwrap();
            }
        }
        read
    }

    proptest! {
        #[test]
        fn a_blob_is_read_back_as_it_was(
            uses_table: bool,
            len in 1_u32..5000,
            entries in proptest::collection::vec((any::<u32>(), 1_u32..1_000_000), 0..400),
            xattrs in proptest::collection::vec(0_usize..3000, 0..5),
        ) {
            let mut blob = Blob::new(BlobId::of_page(7));
            blob.uses_table = uses_table;
            blob.flags.invalid = Flags::THIN;
            blob.map.resize(len);
            for (index, cluster) in entries {
                blob.map.set(index % len, Some(cluster));
            }
            if uses_table {
                blob.extent_pages = (0..blob.map.num_pages())
                    .map(|page| if blob.map.page_is_empty(page) { 0 } else { 100 + page })
                    .collect();
            }
            for (number, len) in xattrs.into_iter().enumerate() {
                blob.set_xattr(format!("x{number}").as_bytes(), Some(vec![7; len]));
            }
            prop_assert_eq!(roundtrip(&blob), blob);
        }
    }

    #[test]
    fn counts_that_ask_for_all_memory_are_refused() {
        let id = BlobId::of_page(1);
        let thin = Descriptor::Flags(Flags { invalid: Flags::THIN, ..Flags::default() });
        for huge in [
            Descriptor::ExtentRle(vec![Run { cluster: 0, len: u32::MAX }; 4]),
            Descriptor::ExtentTable {
                num_clusters: u64::MAX,
                slots: vec![Slots { page: 0, len: u32::MAX }; 3],
            },
            Descriptor::ExtentTable {
                num_clusters: 1 << 40,
                slots: vec![Slots { page: 0, len: 1 << 31 }],
            },
        ] {
            let page = Page { descriptors: vec![thin.clone(), huge], ..Page::new(id, 0) };
            assert!(Blob::from_chain(id, [&page].into_iter()).is_err());
        }
    }

    #[test]
    fn a_thick_blob_with_a_gap_is_refused() {
        let id = BlobId::of_page(1);
        let gap = Descriptor::ExtentRle(vec![Run { cluster: 0, len: 1 }]);
        let page = Page { descriptors: vec![gap], ..Page::new(id, 0) };
        assert_eq!(Blob::from_chain(id, [&page].into_iter()), Err(BlobError::NotThin));
    }
}
