//! Random operations on a store.

use crate::{Random, SimDisk, run};
use drivebay_blobstore::{
    BlobId, ClearMethod, Disk, Info, NewStoreOptions, NewVolume, Place, Result, Store,
};

/// Size of the disk, 4 MiB. It is small because every power cut copies it.
pub const DISK_BYTES: usize = 4 << 20;
/// Size of a cluster, in bytes.
pub const CLUSTER_BYTES: u32 = 32 << 10;

/// A new store on a disk full of garbage.
#[must_use]
pub fn new_store() -> Store<SimDisk> {
    let options = NewStoreOptions {
        name: "s".into(),
        uuid: uuid(0),
        cluster_size: CLUSTER_BYTES,
        num_md_pages: Some(160),
        md_page_size: 4096,
        clear_method: ClearMethod::None,
    };
    run(Store::create(SimDisk::garbage(DISK_BYTES), &options)).unwrap()
}

fn uuid(number: u64) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

/// An operation with all its parameters, so that it can run again on a copy of the store.
#[derive(Clone, Debug)]
pub enum Op {
    /// Creates a volume.
    Create(NewVolume),
    /// Takes a snapshot with this name and UUID.
    Snapshot(BlobId, String, String),
    /// Creates a clone with this name and UUID.
    Clone(BlobId, String, String),
    /// Deletes a volume.
    Delete(BlobId),
    /// Resizes a volume to this many clusters.
    Resize(BlobId, u64),
    /// Renames a volume.
    Rename(BlobId, String),
    /// Makes a volume read-only.
    ReadOnly(BlobId),
    /// Sets an xattr, or removes it.
    Xattr(BlobId, &'static str, Option<Vec<u8>>),
    /// Sets a parent in the store.
    SetParent(BlobId, BlobId),
    /// Sets a parent outside of the store.
    SetExternal(BlobId),
    /// Allocates all clusters and copies the parents' data.
    Inflate(BlobId),
    /// Copies the data of the next parent only.
    Decouple(BlobId),
    /// Allocates clusters before they are written.
    Allocate(BlobId, Vec<u32>),
    /// Releases clusters.
    Release(BlobId, Vec<u32>),
    /// Renames the store.
    RenameStore(String),
    /// Closes the store.
    Close,
}

impl Op {
    /// The number of kinds.
    pub const KINDS: usize = 18;

    /// The name of the kind.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Create(new) if new.external_parent.is_some() => "create external clone",
            Self::Create(new) if new.thin => "create thin",
            Self::Create(_) => "create thick",
            Self::Snapshot(..) => "snapshot",
            Self::Clone(..) => "clone",
            Self::Delete(_) => "delete",
            Self::Resize(..) => "resize",
            Self::Rename(..) => "rename",
            Self::ReadOnly(_) => "set read-only",
            Self::Xattr(..) => "set xattr",
            Self::SetParent(..) => "set parent",
            Self::SetExternal(_) => "set external parent",
            Self::Inflate(_) => "inflate",
            Self::Decouple(_) => "decouple",
            Self::Allocate(..) => "allocate",
            Self::Release(..) => "release",
            Self::RenameStore(_) => "rename store",
            Self::Close => "close",
        }
    }

    /// Whether the operation may change the data of a volume. If so, a power cut during it may
    /// leave the old or the new data.
    #[must_use]
    pub fn changes_data(&self) -> bool {
        matches!(self, Self::SetParent(..) | Self::SetExternal(_) | Self::Release(..))
    }

    /// Runs the operation.
    ///
    /// # Errors
    /// The errors of the store.
    pub fn apply(&self, store: &Store<SimDisk>) -> Result<()> {
        match self {
            Self::Create(new) => run(store.create_volume(new)).map(drop),
            Self::Snapshot(id, name, uuid) => run(store.snapshot(*id, name, uuid)).map(drop),
            Self::Clone(id, name, uuid) => run(store.clone_snapshot(*id, name, uuid)).map(drop),
            Self::Delete(id) => {
                run(store.delete_volume(*id)).map(|unused| run(store.recycle(unused)))
            }
            Self::Resize(id, size) => {
                run(store.resize(*id, *size)).map(|unused| run(store.recycle(unused)))
            }
            Self::Rename(id, name) => run(store.rename_volume(*id, name)),
            Self::ReadOnly(id) => run(store.set_read_only(*id)),
            Self::Xattr(id, name, value) => run(store.set_xattr(*id, name, value.clone())),
            Self::SetParent(id, parent) => run(store.set_parent(*id, *parent)),
            Self::SetExternal(id) => run(store.set_external_parent(*id, b"outside")),
            Self::Inflate(id) => run(store.inflate(*id)),
            Self::Decouple(id) => run(store.decouple(*id)),
            Self::Allocate(id, indices) => run(store.allocate(*id, indices)),
            Self::Release(id, indices) => run(store.release(*id, indices, |_| {}))
                .map(|released| run(store.recycle(released.unused))),
            Self::RenameStore(name) => run(store.rename_store(name)),
            Self::Close => run(store.close()),
        }
    }
}

/// A run of random operations.
#[derive(Debug)]
pub struct Scenario {
    /// The source of all choices.
    pub random: Random,
    names: u64,
}

impl Scenario {
    /// Starts a run from a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), names: 0 }
    }

    /// Chooses the next operation for a store.
    pub fn choose(&mut self, store: &Store<SimDisk>) -> Op {
        let volumes = store.volumes();
        if volumes.len() < 3 {
            return self.create();
        }
        let pick = self.random.below(volumes.len());
        let volume = &volumes[pick];
        let id = volume.id;
        match self.random.below(20) {
            0 | 1 if volumes.len() < 12 => self.create(),
            2..=4 if volumes.len() < 14 => {
                let (name, uuid) = self.fresh();
                Op::Snapshot(id, name, uuid)
            }
            5 | 6 if volumes.len() < 14 => {
                let (name, uuid) = self.fresh();
                let source = volumes.iter().rfind(|volume| volume.is_read_only);
                Op::Clone(source.map_or(id, |volume| volume.id), name, uuid)
            }
            0..=9 => self.delete_or_resize(volume),
            10 => Op::Rename(id, self.fresh().0),
            11 if self.random.below(4) == 0 => Op::ReadOnly(id),
            11 | 12 => {
                let len = self.random.below(3800);
                let value = (self.random.below(4) > 0).then(|| vec![7; len]);
                Op::Xattr(id, if len.is_multiple_of(2) { "a" } else { "b" }, value)
            }
            13 => {
                let parent = &volumes[self.random.below(volumes.len())];
                Op::SetParent(id, parent.id)
            }
            14 if self.random.below(3) == 0 => Op::SetExternal(id),
            14 => Op::Inflate(id),
            15 => Op::Decouple(id),
            16 => Op::Release(id, self.owned(store, volume)),
            17 => match self.random.below(4) {
                0 => Op::RenameStore(self.fresh().0),
                _ => Op::Close,
            },
            _ => Op::Allocate(id, self.indices(volume)),
        }
    }

    /// Writes some clusters that a volume owns, and flushes.
    pub fn write(&mut self, store: &Store<SimDisk>) {
        for volume in store.volumes().iter().filter(|volume| !volume.is_read_only) {
            for index in self.indices(volume) {
                if let Place::Own(cluster) = store.place(volume.id, index) {
                    let fill = self.random.number() as u8;
                    let data = vec![fill; CLUSTER_BYTES as usize / 2];
                    run(store.disk().write(store.cluster_offset(cluster), data)).unwrap();
                }
            }
        }
        run(store.disk().flush()).unwrap();
    }

    fn fresh(&mut self) -> (String, String) {
        self.names += 1;
        (format!("v{}", self.names), uuid(self.names))
    }

    fn create(&mut self) -> Op {
        let (name, uuid) = self.fresh();
        let kind = self.random.below(5);
        let num_clusters = match kind {
            0 | 1 => self.random.below(12),
            _ => [3, 9, 600, 1300][self.random.below(4)],
        } as u64;
        let external_parent = (kind == 4).then(|| b"outside".to_vec());
        let clear_method =
            [None, Some(ClearMethod::None), Some(ClearMethod::WriteZeroes)][kind % 3];
        Op::Create(NewVolume {
            name,
            uuid,
            num_clusters,
            thin: kind > 1,
            clear_method,
            external_parent,
        })
    }

    fn delete_or_resize(&mut self, volume: &Info) -> Op {
        if self.random.below(3) > 0 {
            return Op::Delete(volume.id);
        }
        let largest = if volume.is_thin { 1400 } else { 14 };
        Op::Resize(volume.id, self.random.below(largest) as u64)
    }

    /// Up to four places where a volume owns a cluster.
    fn owned(&mut self, store: &Store<SimDisk>, volume: &Info) -> Vec<u32> {
        let is_own = |index: &u32| matches!(store.place(volume.id, *index), Place::Own(_));
        let owned: Vec<u32> = (0..volume.num_clusters).filter(is_own).collect();
        let count = owned.len().min(4);
        (0..count).map(|_| owned[self.random.below(owned.len())]).collect()
    }

    fn indices(&mut self, volume: &Info) -> Vec<u32> {
        let count = self.random.below(4) + 1;
        let size = volume.num_clusters as usize;
        (0..count).map(|_| self.random.below(size) as u32).collect()
    }
}
