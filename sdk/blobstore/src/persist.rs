//! The write order. No other module writes metadata.
//!
//! Write new pages to unused places; flush; write the first page in place; flush. Only then free old pages.

use crate::disk::{Disk, DiskError};
use crate::error::{Error, Result, errno};
use crate::store::{Store, Volume};
use drivebay_spec_blobstore::{Blob, BlobId, Page};
use std::collections::BTreeSet;

/// Pages reserved for a change. Dropping it frees them, unless `keep` was called.
struct Claim<'a, D> {
    store: &'a Store<D>,
    pages: Vec<u32>,
}

impl<D> Claim<'_, D> {
    fn page(&mut self) -> Result<u32> {
        let mut state = self.store.state.borrow_mut();
        let page = state
            .used_pages
            .first_clear(0)
            .ok_or_else(|| Error::new(errno::ENOSPC, "the store has no metadata page left"))?;
        state.used_pages.set(page);
        self.pages.push(page);
        Ok(page)
    }

    fn keep(mut self) {
        self.pages.clear();
    }
}

impl<D> Drop for Claim<'_, D> {
    fn drop(&mut self) {
        let mut state = self.store.state.borrow_mut();
        for page in &self.pages {
            state.used_pages.clear(*page);
        }
    }
}

impl<D: Disk> Store<D> {
    /// Writes `blob` as the metadata of its volume, then stores it in memory. `dirty`: extent pages whose
    /// entries changed. `moved`: extent pages of the old metadata that now belong to another volume.
    pub(crate) async fn persist(
        &self,
        mut blob: Blob,
        dirty: &BTreeSet<u32>,
        moved: &BTreeSet<u32>,
    ) -> Result<()> {
        self.mark_dirty().await?;
        let mut claim = Claim { store: self, pages: Vec::new() };
        let mut writes = self.place_extents(&mut blob, dirty, &mut claim)?;
        let (places, mut chain) = place_chain(&blob, &mut claim)?;
        let first = chain.remove(0);
        writes.extend(places.iter().skip(1).copied().zip(chain));
        let is_alone = writes.is_empty();
        for (place, page) in writes {
            self.write_page(place, page.encode().to_vec()).await?;
        }
        if !is_alone {
            self.flush().await?;
        }
        let undo = self.first_page(blob.id);
        self.replace(blob.id.page(), first.encode().to_vec(), undo).await?;
        claim.keep();

        let old = self.commit(blob, places);
        let unused: Vec<u32> = old.into_iter().filter(|page| !moved.contains(page)).collect();
        self.erase(&unused).await;
        Ok(())
    }

    /// Finds new places for the extent pages that must be written.
    fn place_extents(
        &self,
        blob: &mut Blob,
        dirty: &BTreeSet<u32>,
        claim: &mut Claim<'_, D>,
    ) -> Result<Vec<(u32, Page)>> {
        let mut writes = Vec::new();
        if !blob.uses_table {
            return Ok(writes);
        }
        blob.extent_pages.resize(blob.map.num_pages() as usize, 0);
        for slot in 0..blob.map.num_pages() {
            let is_empty = blob.map.page_is_empty(slot) && blob.is_thin();
            let Some(place) = blob.extent_pages.get_mut(slot as usize) else {
                continue;
            };
            if is_empty && dirty.contains(&slot) {
                *place = 0;
            } else if !is_empty && (*place == 0 || dirty.contains(&slot)) {
                *place = claim.page()?;
                let place = *place;
                writes.push((place, blob.extent_page(slot)));
            }
        }
        Ok(writes)
    }

    /// Replaces the metadata in memory. Returns the pages that the volume no longer uses.
    fn commit(&self, blob: Blob, pages: Vec<u32>) -> Vec<u32> {
        let mut state = self.state.borrow_mut();
        let id = blob.id;
        let kept: BTreeSet<u32> = pages.iter().chain(&blob.extent_pages).copied().collect();
        let volume = Volume { blob, pages, faults: Vec::new() };
        let Some(old) = state.volumes.insert(id, volume) else {
            return Vec::new();
        };
        let had = old.pages.into_iter().chain(old.blob.extent_pages);
        had.filter(|page| *page != 0 && !kept.contains(page)).collect()
    }

    /// The bytes of a volume's first page as on disk; zeros for a volume that is not on disk yet.
    fn first_page(&self, id: BlobId) -> Vec<u8> {
        let state = self.state.borrow();
        let Some(volume) = state.volumes.get(&id) else {
            return Vec::new();
        };
        let Ok(mut chain) = volume.blob.to_chain() else {
            return Vec::new();
        };
        let mut first = chain.swap_remove(0);
        first.next = volume.pages.get(1).copied();
        first.encode().to_vec()
    }

    /// Writes a page in place and flushes. If that fails, writes the old bytes again.
    pub(crate) async fn replace(&self, page: u32, new: Vec<u8>, undo: Vec<u8>) -> Result<()> {
        let result = match self.write_page(page, new).await {
            Ok(()) => self.flush().await,
            Err(error) => Err(error),
        };
        let Err(error) = result else { return Ok(()) };
        let undone = match self.write_page(page, undo).await {
            Ok(()) => self.flush().await,
            Err(error) => Err(error),
        };
        if undone.is_err() {
            let why =
                format!("metadata page {page} could not be written, nor written back: {error}");
            self.fail(why);
        }
        Err(error.into())
    }

    /// Deletes a volume: erases its first page, flushes, and erases the other pages. Returns its metadata. `moved`:
    /// extent pages that now belong to another volume.
    pub(crate) async fn erase_volume(&self, id: BlobId, moved: &BTreeSet<u32>) -> Result<Blob> {
        self.mark_dirty().await?;
        let undo = self.first_page(id);
        self.replace(id.page(), Vec::new(), undo).await?;
        let volume = {
            let mut state = self.state.borrow_mut();
            state.used_pages.clear(id.page());
            state.volumes.remove(&id).ok_or_else(|| crate::store::no_volume(id))?
        };
        let rest = volume.pages.into_iter().skip(1).chain(volume.blob.extent_pages.clone());
        let rest: Vec<u32> = rest.filter(|page| *page != 0 && !moved.contains(page)).collect();
        self.erase(&rest).await;
        Ok(volume.blob)
    }

    /// Zeroes pages that no metadata refers to any more, and frees them. A page that cannot be zeroed stays
    /// in use until the next load.
    pub(crate) async fn erase(&self, pages: &[u32]) {
        for page in pages {
            if self.write_page(*page, Vec::new()).await.is_ok() {
                self.state.borrow_mut().used_pages.clear(*page);
            }
        }
    }

    /// Ensures that the super block on disk marks the store as open. This must happen before any other write of
    /// metadata.
    pub(crate) async fn mark_dirty(&self) -> Result<()> {
        let block = {
            let state = self.state.borrow();
            if let Some(why) = &state.failed {
                let message = format!("the store takes no changes until it is loaded again: {why}");
                return Err(Error::new(errno::EIO, message));
            }
            state.block.clone()
        };
        if block.clean {
            let open = drivebay_spec_blobstore::SuperBlock { clean: false, ..block };
            self.write_super(open).await?;
        }
        Ok(())
    }

    /// Writes the super block and flushes, then changes it in memory.
    pub(crate) async fn write_super(
        &self,
        block: drivebay_spec_blobstore::SuperBlock,
    ) -> Result<()> {
        self.disk.write(0, block.encode().to_vec()).await?;
        self.flush().await?;
        self.state.borrow_mut().block = block;
        Ok(())
    }

    /// Writes a metadata page, padded with zeros.
    pub(crate) async fn write_page(&self, page: u32, mut bytes: Vec<u8>) -> Result<(), DiskError> {
        let (offset, len) = {
            let block = &self.state.borrow().block;
            (block.md_page_offset(page), block.md_page_size)
        };
        bytes.resize(len as usize, 0);
        self.disk.write(offset, bytes).await
    }

    /// Reserves a metadata page for a new volume.
    pub(crate) fn claim_id(&self) -> Result<ClaimedId<'_, D>> {
        let mut claim = Claim { store: self, pages: Vec::new() };
        let id = BlobId::of_page(claim.page()?);
        Ok(ClaimedId { id, claim })
    }

    pub(crate) async fn flush(&self) -> Result<(), DiskError> {
        if self.disk.has_write_cache() { self.disk.flush().await } else { Ok(()) }
    }
}

/// The id of a volume that is being created.
pub(crate) struct ClaimedId<'a, D> {
    pub(crate) id: BlobId,
    claim: Claim<'a, D>,
}

impl<D> ClaimedId<'_, D> {
    pub(crate) fn keep(self) -> BlobId {
        self.claim.keep();
        self.id
    }
}

/// Links the pages of the chain. The first page stays in its place; the others go to unused places.
fn place_chain<D>(blob: &Blob, claim: &mut Claim<'_, D>) -> Result<(Vec<u32>, Vec<Page>)> {
    let mut chain = blob.to_chain()?;
    let mut places = vec![blob.id.page()];
    for _ in 1..chain.len() {
        places.push(claim.page()?);
    }
    for (page, next) in chain.iter_mut().zip(places.iter().skip(1)) {
        page.next = Some(*next);
    }
    Ok((places, chain))
}
