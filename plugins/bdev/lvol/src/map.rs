//! Where the clusters of a volume are, for the data path.
//!
//! One load answers for any depth of clones: an entry says where the cluster is read, whoever owns it. An
//! entry changes on the app thread only. What moves many entries at once, such as a resize, puts
//! a new map in place, which channels find by its generation.

use drivebay_blobstore::Place;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Set when the cluster is an ancestor's: it is read, and copied before it is written.
const INHERITED: u64 = 1 << 62;
/// Set when the cluster is read from outside of the store.
const EXTERNAL: u64 = 1 << 61;

/// Where a cluster is read, as the data path needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It may be read and written there.
    Own(u64),
    /// It may be read there.
    Inherited(u64),
    /// It is read from the external parent.
    External,
    /// It reads as zeros.
    Zero,
}

/// The entries of one size and one set of parents.
#[derive(Debug)]
pub(crate) struct Map(Box<[AtomicU64]>);

impl Map {
    pub(crate) fn new(places: impl Iterator<Item = Place>) -> Self {
        Self(places.map(|place| AtomicU64::new(encode(place))).collect())
    }

    /// The entry of a cluster; what is not in the map reads as zeros.
    #[inline]
    pub(crate) fn get(&self, index: u64) -> Entry {
        let entry = usize::try_from(index).ok().and_then(|index| self.0.get(index));
        // Acquire: what the store wrote to a new cluster is older than its entry.
        match entry.map_or(0, |entry| entry.load(Ordering::Acquire)) {
            0 => Entry::Zero,
            EXTERNAL => Entry::External,
            cluster if cluster & INHERITED != 0 => Entry::Inherited(cluster & !INHERITED),
            cluster => Entry::Own(cluster),
        }
    }

    /// Sets an entry. `[app thread]`
    pub(crate) fn set(&self, index: u32, place: Place) {
        if let Some(entry) = self.0.get(index as usize) {
            entry.store(encode(place), Ordering::Release);
        }
    }
}

fn encode(place: Place) -> u64 {
    match place {
        Place::Own(cluster) => cluster.into(),
        Place::Inherited(cluster) => u64::from(cluster) | INHERITED,
        Place::External(_) => EXTERNAL,
        Place::Zero => 0,
    }
}

/// The map of a volume that its channels look at.
#[derive(Debug)]
pub(crate) struct Shared {
    generation: AtomicU64,
    map: Mutex<Arc<Map>>,
}

impl Shared {
    pub(crate) fn new(map: Map) -> Self {
        Self { generation: AtomicU64::new(0), map: Mutex::new(Arc::new(map)) }
    }

    /// The map now.
    pub(crate) fn map(&self) -> Arc<Map> {
        Arc::clone(&self.map.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes when there is another map.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Puts another map in place. `[app thread]`
    pub(crate) fn replace(&self, map: Map) {
        *self.map.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(map);
        self.generation.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_as_it_was_set() {
        let map = Map::new([Place::Own(7), Place::Inherited(8), Place::Zero].into_iter());
        assert_eq!(map.get(0), Entry::Own(7));
        assert_eq!(map.get(1), Entry::Inherited(8));
        assert_eq!(
            (map.get(2), map.get(3), map.get(u64::MAX)),
            (Entry::Zero, Entry::Zero, Entry::Zero)
        );
        map.set(2, Place::Own(u32::MAX));
        assert_eq!(map.get(2), Entry::Own(u32::MAX.into()));
    }

    #[test]
    fn another_map_is_found_by_its_generation() {
        let shared = Shared::new(Map::new(std::iter::empty()));
        let before = shared.generation();
        shared.replace(Map::new(std::iter::once(Place::Own(1))));
        assert_ne!(shared.generation(), before);
        assert_eq!(shared.map().get(0), Entry::Own(1));
    }
}
