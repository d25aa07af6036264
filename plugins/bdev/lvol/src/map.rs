//! The places of a volume's clusters, for the data path.
//!
//! One load is enough for any depth of clones: an entry says where to read the cluster, whichever volume owns it.
//! Entries change on the app thread only. An operation that changes many entries at once, such as a resize,
//! puts a new map in place. Channels notice it by its generation.
//!
//! An entry for a cluster that the volume owns carries the epoch of the map that set it. To give all clusters to
//! a snapshot, a map of the next epoch takes over the same entries.

use drivebay_blobstore::Place;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

// Values of the upper half of an entry. The lower half is the cluster.
const ZERO: u32 = 0;
const EXTERNAL: u32 = 1;
const INHERITED: u32 = 2;
const CHANGING: u32 = 3;
/// Values from here on are epochs: the one in which the volume came to own the cluster.
const FIRST_EPOCH: u32 = 16;

/// Where to read a cluster, as the data path needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// The place of a cluster that the volume may read and write.
    Own(u64),
    /// The place of a cluster that the volume may only read.
    Inherited(u64),
    /// The cluster is in the external parent.
    External,
    /// It reads as zeros.
    Zero,
    /// The store is taking the cluster away. I/O waits until that is done.
    Changing,
}

/// The entries of one size and one set of parents.
#[derive(Clone, Debug)]
pub(crate) struct Map {
    epoch: u32,
    is_thin: bool,
    entries: Arc<[AtomicU64]>,
}

impl Map {
    pub(crate) fn new(is_thin: bool, places: impl Iterator<Item = Place>) -> Self {
        let entries = places.map(|place| AtomicU64::new(encode(place, FIRST_EPOCH))).collect();
        Self { epoch: FIRST_EPOCH, is_thin, entries }
    }

    /// Whether the volume may release clusters.
    pub(crate) fn is_thin(&self) -> bool {
        self.is_thin
    }

    /// The entry of a cluster. A cluster past the end of the map reads as zeros.
    #[inline]
    pub(crate) fn get(&self, index: u64) -> Entry {
        let entry = usize::try_from(index).ok().and_then(|index| self.entries.get(index));
        // Acquire: the store wrote the data of a new cluster before its entry.
        let entry = entry.map_or(0, |entry| entry.load(Ordering::Acquire));
        let (kind, cluster) = ((entry >> 32) as u32, entry & u64::from(u32::MAX));
        match kind {
            own if own == self.epoch => Entry::Own(cluster),
            ZERO => Entry::Zero,
            EXTERNAL => Entry::External,
            CHANGING => Entry::Changing,
            // This covers clusters that the volume owned in an earlier epoch.
            _ => Entry::Inherited(cluster),
        }
    }

    /// Sets an entry. `[app thread]`
    pub(crate) fn set(&self, index: u32, place: Place) {
        self.store(index, encode(place, self.epoch));
    }

    /// Makes I/O of a cluster wait until its entry is set again. `[app thread]`
    pub(crate) fn set_changing(&self, index: u32) {
        self.store(index, u64::from(CHANGING) << 32);
    }

    fn store(&self, index: u32, entry: u64) {
        if let Some(place) = self.entries.get(index as usize) {
            place.store(entry, Ordering::Release);
        }
    }

    /// The same entries, but the volume owns none of the clusters any more.
    pub(crate) fn of_next_epoch(&self) -> Self {
        match self.epoch.checked_add(1) {
            Some(epoch) => Self { epoch, ..self.clone() },
            None => Self {
                epoch: FIRST_EPOCH,
                entries: self
                    .entries
                    .iter()
                    .map(|entry| match entry.load(Ordering::Relaxed) {
                        own if own >> 32 >= u64::from(FIRST_EPOCH) => {
                            AtomicU64::new(u64::from(INHERITED) << 32 | own & u64::from(u32::MAX))
                        }
                        other => AtomicU64::new(other),
                    })
                    .collect(),
                ..*self
            },
        }
    }
}

fn encode(place: Place, epoch: u32) -> u64 {
    let (kind, cluster) = match place {
        Place::Own(cluster) => (epoch, cluster),
        Place::Inherited(cluster) => (INHERITED, cluster),
        Place::External(_) => (EXTERNAL, 0),
        Place::Zero => (ZERO, 0),
    };
    u64::from(kind) << 32 | u64::from(cluster)
}

/// The current map of a volume, for its channels.
#[derive(Debug)]
pub(crate) struct Shared {
    generation: AtomicU32,
    map: Mutex<Arc<Map>>,
}

impl Shared {
    pub(crate) fn new(map: Map) -> Self {
        Self { generation: AtomicU32::new(0), map: Mutex::new(Arc::new(map)) }
    }

    /// The current map.
    pub(crate) fn map(&self) -> Arc<Map> {
        Arc::clone(&self.map.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Stores the current map with its generation.
    #[cold]
    pub(crate) fn load_into(&self, map: &mut (u32, Arc<Map>)) {
        let generation = self.generation();
        *map = (generation, self.map());
    }

    /// Changes whenever the map is replaced.
    #[inline]
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Replaces the map. `[app thread]`
    pub(crate) fn replace(&self, map: Map) {
        *self.map.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(map);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Shows all clusters as a parent's. No write may be in flight. `[app thread]`
    pub(crate) fn freeze(&self) {
        self.replace(self.map().of_next_epoch());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_as_it_was_set() {
        let map = Map::new(true, [Place::Own(7), Place::Inherited(8), Place::Zero].into_iter());
        assert_eq!(map.get(0), Entry::Own(7));
        assert_eq!(map.get(1), Entry::Inherited(8));
        assert_eq!(
            (map.get(2), map.get(3), map.get(u64::MAX)),
            (Entry::Zero, Entry::Zero, Entry::Zero)
        );
        map.set(2, Place::Own(u32::MAX));
        assert_eq!(map.get(2), Entry::Own(u32::MAX.into()));
        map.set_changing(2);
        assert_eq!(map.get(2), Entry::Changing);
    }

    #[test]
    fn another_map_is_found_by_its_generation() {
        let shared = Shared::new(Map::new(true, std::iter::empty()));
        let before = shared.generation();
        shared.replace(Map::new(true, std::iter::once(Place::Own(1))));
        assert_ne!(shared.generation(), before);
        assert_eq!(shared.map().get(0), Entry::Own(1));
    }

    #[test]
    fn after_a_snapshot_old_clusters_are_the_parents_and_new_ones_are_not() {
        let shared = Shared::new(Map::new(true, [Place::Own(7), Place::Zero].into_iter()));
        let old = shared.map();
        shared.freeze();
        let new = shared.map();
        assert_eq!((new.get(0), new.get(1)), (Entry::Inherited(7), Entry::Zero));
        new.set(1, Place::Own(9));
        assert_eq!(new.get(1), Entry::Own(9));
        // A channel that still has the old map asks before it writes.
        assert_eq!(old.get(1), Entry::Inherited(9));
    }

    #[test]
    fn the_last_epoch_is_followed_by_the_first() {
        let map = Map::new(true, [Place::Own(7), Place::Inherited(8), Place::Zero].into_iter());
        let last = Map { epoch: u32::MAX, ..map };
        last.set(2, Place::Own(9));
        let next = last.of_next_epoch();
        assert_eq!([0, 1, 2].map(|index| next.get(index)), [7, 8, 9].map(Entry::Inherited));
    }
}
