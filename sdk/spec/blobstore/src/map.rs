//! The mapping of a blob's clusters to clusters of the disk.

/// Number of clusters in one extent page.
pub const CLUSTERS_PER_PAGE: u32 = 512;
/// Maximum number of clusters of a blob. The limit prevents a count from the disk from allocating all
/// memory.
pub const CLUSTERS_MAX: u32 = 1 << 27;

type Chunk = Option<Box<[u32; CLUSTERS_PER_PAGE as usize]>>;

/// The clusters of a blob, in pieces of [`CLUSTERS_PER_PAGE`]. A piece without clusters takes no memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterMap {
    chunks: Vec<Chunk>,
    len: u32,
    allocated: u32,
}

fn split(index: u32) -> (usize, usize) {
    ((index / CLUSTERS_PER_PAGE) as usize, (index % CLUSTERS_PER_PAGE) as usize)
}

impl ClusterMap {
    /// A map of `len` unallocated clusters.
    #[must_use]
    pub fn new(len: u32) -> Self {
        let mut map = Self::default();
        map.resize(len);
        map
    }

    /// Number of clusters of the blob.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether the blob has no clusters.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of allocated clusters.
    #[must_use]
    pub fn allocated(&self) -> u32 {
        self.allocated
    }

    /// The cluster on disk; `None` if it is unallocated or past the end.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<u32> {
        let (chunk, place) = split(index);
        let cluster = *self.chunks.get(chunk)?.as_ref()?.get(place)?;
        (cluster != 0).then_some(cluster)
    }

    /// Sets or clears an entry and returns the old one. Does nothing past the end.
    pub fn set(&mut self, index: u32, cluster: Option<u32>) -> Option<u32> {
        if index >= self.len {
            return None;
        }
        let was = self.get(index);
        let (chunk, place) = split(index);
        if cluster.is_none() && was.is_none() {
            return None;
        }
        let entry = self
            .chunks
            .get_mut(chunk)
            .map(|chunk| chunk.get_or_insert_with(|| Box::new([0; CLUSTERS_PER_PAGE as usize])))
            .and_then(|chunk| chunk.get_mut(place));
        if let Some(entry) = entry {
            *entry = cluster.unwrap_or(0);
            self.allocated += u32::from(cluster.is_some());
            self.allocated -= u32::from(was.is_some());
        }
        was
    }

    /// Changes the length. Removed entries are dropped, new ones are unallocated.
    pub fn resize(&mut self, len: u32) {
        for index in len..self.len {
            self.set(index, None);
        }
        self.chunks.resize(len.div_ceil(CLUSTERS_PER_PAGE) as usize, None);
        self.len = len;
    }

    /// Number of extent pages that the map takes.
    #[must_use]
    pub fn num_pages(&self) -> u32 {
        self.len.div_ceil(CLUSTERS_PER_PAGE)
    }

    /// The entries of one extent page, as on disk.
    #[must_use]
    pub fn page(&self, page: u32) -> Vec<u32> {
        let start = page.saturating_mul(CLUSTERS_PER_PAGE);
        let end = start.saturating_add(CLUSTERS_PER_PAGE).min(self.len);
        (start..end).map(|index| self.get(index).unwrap_or(0)).collect()
    }

    /// Whether an extent page has no allocated cluster.
    #[must_use]
    pub fn page_is_empty(&self, page: u32) -> bool {
        let chunk = self.chunks.get(page as usize).and_then(Option::as_ref);
        chunk.is_none_or(|chunk| chunk.iter().all(|cluster| *cluster == 0))
    }

    /// Index and cluster of each allocated entry, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.chunks.iter().zip(0_u32..).flat_map(|(chunk, number)| {
            let entries = chunk.as_ref().map(|chunk| chunk.iter()).into_iter().flatten();
            entries
                .zip(0_u32..)
                .filter(|(cluster, _)| **cluster != 0)
                .map(move |(cluster, place)| (number * CLUSTERS_PER_PAGE + place, *cluster))
        })
    }
}
