//! Opening, creating, growing and closing a store.

use crate::disk::Disk;
use crate::error::{Error, Result, errno};
use crate::lock::Lock;
use crate::persist::ClaimedId;
use crate::store::{State, Store, Volume};
use drivebay_spec_blobstore::lvol::{self, Names};
use drivebay_spec_blobstore::{
    Bits, Blob, BlobId, Flags, MaskKind, Model, NewStore, PAGE_BYTES, Region, Replay, SuperBlock,
};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

/// Size of the pieces in which metadata is read, in bytes.
const READ_BYTES: u64 = 1 << 20;
/// Gaps of up to this many unused pages are read too, so that one request reads the used pages around them.
const GAP_PAGES: u32 = 32;

/// How to clear clusters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClearMethod {
    /// Unmap them.
    #[default]
    Unmap,
    /// Write zeros.
    WriteZeroes,
    /// Do not clear them.
    None,
}

/// Options of a new store.
#[derive(Clone, Debug)]
pub struct NewStoreOptions {
    /// Name: 1 to 63 bytes.
    pub name: String,
    /// UUID as text.
    pub uuid: String,
    /// Cluster size, the unit of allocation, in bytes: a multiple of 4096.
    pub cluster_size: u32,
    /// Number of metadata pages; `None` = one per cluster.
    pub num_md_pages: Option<u32>,
    /// Size of a metadata page in bytes.
    pub md_page_size: u32,
    /// How to clear all clusters.
    pub clear_method: ClearMethod,
}

impl<D: Disk> Store<D> {
    /// Creates a store. The old contents of the disk are lost.
    ///
    /// # Errors
    /// A size or name that is not allowed, or the disk's error. After an error the disk has no store.
    pub async fn create(disk: D, options: &NewStoreOptions) -> Result<Self> {
        check_name(&options.name)?;
        let block = SuperBlock::plan(NewStore {
            disk_bytes: disk.size_bytes(),
            block_size: disk.block_size(),
            cluster_size: options.cluster_size,
            num_md_pages: options.num_md_pages,
            md_page_size: options.md_page_size,
            bstype: lvol::BSTYPE,
        })
        .map_err(|error| Error::new(errno::EINVAL, error.to_string()))?;
        let total = block.total_clusters();
        if block.md_clusters() >= total {
            let message = format!("the metadata takes all {total} clusters");
            return Err(Error::new(errno::ENOSPC, message));
        }
        let md_bytes = block.md_page_offset(block.metadata.len);
        disk.write_zeroes(0, md_bytes).await?;
        let rest = disk.size_bytes().saturating_sub(md_bytes);
        match options.clear_method {
            ClearMethod::Unmap => _ = disk.unmap(md_bytes, rest).await,
            ClearMethod::WriteZeroes => disk.write_zeroes(md_bytes, rest).await?,
            ClearMethod::None => {}
        }
        let store = Self::over(disk, block, BTreeMap::new());
        store.flush().await?;
        store.name_new_store(options).await?;
        Ok(store)
    }

    /// Writes the blob with the store's name, then the super block that refers to it. Before that the disk
    /// has no store.
    async fn name_new_store(&self, options: &NewStoreOptions) -> Result<()> {
        let claimed: ClaimedId<'_, D> = self.claim_id()?;
        let mut blob = Blob::new(claimed.id);
        let text = |text: &str| Some([text.as_bytes(), b"\0"].concat());
        blob.set_xattr(lvol::UUID, text(&options.uuid));
        blob.set_xattr(lvol::NAME, text(&options.name));
        self.persist(blob, &BTreeSet::new(), &BTreeSet::new()).await?;
        let id = claimed.keep();
        let block = SuperBlock { super_blob: Some(id), ..self.super_block() };
        self.write_super(block).await
    }

    fn over(disk: D, block: SuperBlock, volumes: BTreeMap<BlobId, Volume>) -> Self {
        let mut used_clusters = Bits::new(block.total_clusters());
        (0..block.md_clusters()).for_each(|cluster| {
            used_clusters.set(cluster);
        });
        let state = State {
            used_pages: Bits::new(block.metadata.len),
            used_clusters,
            unused_clusters: BTreeSet::new(),
            block,
            volumes,
            busy: BTreeMap::new(),
            failed: None,
            notes: Vec::new(),
        };
        Self { disk, state: RefCell::new(state), writer: Lock::default() }
    }

    /// Opens the store on a disk, and finishes interrupted operations.
    ///
    /// # Errors
    /// `EILSEQ` when the disk has no store of logical volumes, or the disk's error.
    pub async fn load(disk: D) -> Result<Self> {
        let (block, model) = Self::read(&disk).await?;
        let mut store = Self::over(disk, block, BTreeMap::new());
        store.take(&model);
        store.end_interrupted(model).await?;
        Ok(store)
    }

    async fn read_super(disk: &D) -> Result<SuperBlock> {
        let first = disk.read(0, PAGE_BYTES).await?;
        let first = first.first_chunk().ok_or_else(|| Error::new(errno::EIO, "short read"))?;
        let block = SuperBlock::parse(first, disk.size_bytes())?;
        if !block.io_unit_size.is_multiple_of(disk.block_size()) {
            let message = format!(
                "the store has blocks of {} bytes, the disk of {}",
                block.io_unit_size,
                disk.block_size()
            );
            return Err(Error::new(errno::EINVAL, message));
        }
        Ok(block)
    }

    /// Reads the store on a disk without changing anything.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub async fn read(disk: &D) -> Result<(SuperBlock, Model)> {
        let block = Self::read_super(disk).await?;
        let pages = Self::used_pages(disk, &block).await?;
        Self::read_pages(disk, block, pages).await
    }

    /// As [`read`](Self::read), but also reads the pages that the masks mark as free.
    pub(crate) async fn read_all(disk: &D) -> Result<(SuperBlock, Model)> {
        let block = Self::read_super(disk).await?;
        Self::read_pages(disk, block, None).await
    }

    /// Reads the given metadata pages, or all.
    async fn read_pages(
        disk: &D,
        block: SuperBlock,
        pages: Option<Bits>,
    ) -> Result<(SuperBlock, Model)> {
        let pages = pages.unwrap_or_else(|| {
            let mut all = Bits::new(block.metadata.len);
            for page in 0..block.metadata.len {
                all.set(page);
            }
            all
        });
        let mut replay = Replay::new(&block);
        let page_size = block.md_page_size as usize;
        let mut take = |(start, bytes): (u32, Vec<u8>)| {
            for (index, page) in (start..).zip(bytes.chunks(page_size)) {
                replay.page(index, page);
            }
        };
        // The disk reads a run while the pages of the run before are parsed.
        let mut previous = None;
        for run in runs(&pages, GAP_PAGES, READ_BYTES / u64::from(block.md_page_size)) {
            let read = disk.read(block.md_page_offset(run.start), run.len as usize * page_size);
            let bytes = meanwhile(read, || previous.take().into_iter().for_each(&mut take)).await?;
            previous = Some((run.start, bytes));
        }
        previous.into_iter().for_each(take);
        let mut model = replay.finish();
        if model.volumes.values().any(|volume| !volume.faults.is_empty()) {
            Self::keep_what_the_masks_say(disk, &block, &mut model).await;
        }
        Ok((block, model))
    }

    /// The mask of used pages, if it is valid.
    async fn used_pages(disk: &D, block: &SuperBlock) -> Result<Option<Bits>> {
        if !block.clean || block.used_blobs.len == 0 {
            return Ok(None);
        }
        let region = read_region(disk, block, block.used_pages).await?;
        Ok(Bits::parse(&region, MaskKind::Pages, block.metadata.len).ok())
    }

    /// Adds the bits of the masks on disk. A quarantined volume may use more than its pages show.
    async fn keep_what_the_masks_say(disk: &D, block: &SuperBlock, model: &mut Model) {
        for (region, kind, bits) in [
            (block.used_pages, MaskKind::Pages, &mut model.used_pages),
            (block.used_clusters, MaskKind::Clusters, &mut model.used_clusters),
        ] {
            let Ok(bytes) = read_region(disk, block, region).await else {
                continue;
            };
            if let Ok(mask) = Bits::parse(&bytes, kind, bits.len()) {
                bits.union(&mask);
            }
        }
    }

    fn take(&mut self, model: &Model) {
        let state = self.state.get_mut();
        state.used_pages = model.used_pages.clone();
        state.used_clusters = model.used_clusters.clone();
        state.notes.clone_from(&model.notes);
        state.volumes = model
            .volumes
            .iter()
            .map(|(id, volume)| {
                let volume = Volume {
                    blob: volume.blob.clone(),
                    pages: volume.pages.clone(),
                    faults: volume.faults.clone(),
                };
                (*id, volume)
            })
            .collect();
    }

    async fn end_interrupted(&self, model: Model) -> Result<()> {
        for (id, pages) in &model.dropped {
            self.mark_dirty().await?;
            self.write_page(id.page(), Vec::new()).await?;
            self.flush().await?;
            let rest = pages.iter().filter(|page| **page != id.page()).copied();
            // Do not erase pages that a volume uses now.
            let rest: Vec<u32> = rest.filter(|page| !model.used_pages.get(*page)).collect();
            self.erase(&rest).await;
        }
        for id in &model.changed {
            let Ok(blob) = self.blob(*id) else { continue };
            let all = (0..blob.map.num_pages()).collect();
            self.persist(blob, &all, &BTreeSet::new()).await?;
        }
        Ok(())
    }

    /// Closes the store properly: writes the masks, flushes, and writes the super block with the mark "clean".
    ///
    /// # Errors
    /// The disk's error. The store is then not clean, and the next load takes longer.
    pub async fn close(&self) -> Result<()> {
        let _writer = self.writer.lock().await;
        if self.super_block().clean {
            return Ok(());
        }
        self.mark_dirty().await?;
        let masks = {
            let state = self.state.borrow();
            let (block, len) = (&state.block, state.block.metadata.len);
            let mut blobs = Bits::new(len);
            state.volumes.keys().for_each(|id| {
                blobs.set(id.page());
            });
            let mut clusters = state.used_clusters.clone();
            for cluster in &state.unused_clusters {
                clusters.clear(*cluster);
            }
            let bytes = |region: Region| region.len as usize * block.md_page_size as usize;
            [
                (block.used_pages, MaskKind::Pages, &state.used_pages),
                (block.used_clusters, MaskKind::Clusters, &clusters),
                (block.used_blobs, MaskKind::Blobs, &blobs),
            ]
            .map(|(region, kind, bits)| {
                (block.page_offset(region.start.into()), bits.encode(kind, bytes(region)))
            })
        };
        for (offset, bytes) in masks {
            if !bytes.is_empty() {
                self.disk.write(offset, bytes).await?;
            }
        }
        self.flush().await?;
        let block = SuperBlock { clean: true, ..self.super_block() };
        self.write_super(block).await
    }

    /// Grows the store after its disk has become larger.
    ///
    /// # Errors
    /// `ENOSPC` when the disk has become smaller, or when the mask of clusters has no room.
    pub async fn grow(&self) -> Result<()> {
        let _writer = self.writer.lock().await;
        self.mark_dirty().await?;
        let grown = self.super_block().grown(self.disk.size_bytes());
        let grown = grown.map_err(|error| Error::new(errno::ENOSPC, error.to_string()))?;
        let Some(block) = grown else { return Ok(()) };
        let total = block.total_clusters();
        self.write_super(block).await?;
        self.state.borrow_mut().used_clusters.resize(total);
        Ok(())
    }

    /// Destroys the store: overwrites the super block with zeros.
    ///
    /// # Errors
    /// The disk's error.
    pub async fn destroy(&self) -> Result<()> {
        let _writer = self.writer.lock().await;
        self.disk.write_zeroes(0, PAGE_BYTES as u64).await?;
        self.flush().await?;
        self.state.borrow_mut().failed = Some("the store was destroyed".into());
        Ok(())
    }

    /// Renames the store.
    ///
    /// # Errors
    /// A name that is not allowed, or the disk's error.
    pub async fn rename_store(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let _writer = self.writer.lock().await;
        let id = self.super_block().super_blob;
        let id = id.ok_or_else(|| Error::new(errno::ENODEV, "no blob names the store"))?;
        let mut blob = self.blob(id)?;
        blob.set_xattr(lvol::NAME, Some([name.as_bytes(), b"\0"].concat()));
        self.persist(blob, &BTreeSet::new(), &BTreeSet::new()).await
    }
}

pub(crate) async fn read_region<D: Disk>(
    disk: &D,
    block: &SuperBlock,
    region: Region,
) -> Result<Vec<u8>> {
    let len = region.len as usize * block.md_page_size as usize;
    Ok(disk.read(block.page_offset(region.start.into()), len).await?)
}

/// Starts a future, does other work, and then waits for the future.
async fn meanwhile<T>(future: impl Future<Output = T>, work: impl FnOnce()) -> T {
    let mut future = pin!(future);
    let started = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
    work();
    match started {
        Poll::Ready(done) => done,
        Poll::Pending => future.await,
    }
}

/// Ranges of set bits. A range may include gaps of up to `gap` bits and is at most `max` bits long.
fn runs(bits: &Bits, gap: u32, max: u64) -> Vec<Region> {
    let mut runs: Vec<Region> = Vec::new();
    for bit in bits.iter() {
        match runs.last_mut() {
            Some(run)
                if bit - (run.start + run.len) <= gap
                    && u64::from(bit - run.start) < max.max(1) =>
            {
                run.len = bit - run.start + 1;
            }
            _ => runs.push(Region { start: bit, len: 1 }),
        }
    }
    runs
}

/// Checks a name of a store or a volume.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let allowed = 1..lvol::NAME_BYTES;
    if allowed.contains(&name.len()) && !name.contains('\0') {
        return Ok(());
    }
    let message = format!("name {name:?} is not allowed; allowed: 1 to {} bytes", allowed.end - 1);
    Err(Error::new(errno::EINVAL, message))
}

/// Stores the names of a new volume as xattrs.
pub(crate) fn set_names(blob: &mut Blob, name: &str, uuid: &str) {
    for (key, value) in Names::values(name, uuid) {
        blob.set_xattr(key, Some(value));
    }
}

/// The flag bits of a clear method.
pub(crate) fn clear_flags(method: ClearMethod) -> u64 {
    (match method {
        ClearMethod::None => 1,
        ClearMethod::Unmap => 2,
        ClearMethod::WriteZeroes => 3,
    }) & Flags::CLEAR_METHOD
}
