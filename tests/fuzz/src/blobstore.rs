//! The metadata of a blobstore on a disk.

use crate::look;
use drivebay_spec_blobstore::{Bits, NewStore, PAGE_BYTES, Page, Replay, SuperBlock, lvol, seal};

const DISK_BYTES: u64 = 64 << 20;

/// A super block: the bytes after its signature. The target adds a correct checksum.
pub(crate) fn super_block(data: &[u8]) {
    let page = sealed(data, 0);
    let Ok(block) = SuperBlock::parse(&page, DISK_BYTES) else { return };
    assert_eq!(SuperBlock::parse(&block.encode(), DISK_BYTES), Ok(block.clone()));
    assert!(block.md_clusters() <= block.total_clusters());
    look((block.clusters_max(), block.grown(DISK_BYTES * 2)));
}

/// Metadata pages: for each, two bytes of place and length, then its bytes. For any input, no
/// cluster has two owners that are served.
pub(crate) fn pages(mut data: &[u8]) {
    let new = NewStore {
        disk_bytes: DISK_BYTES,
        block_size: 512,
        cluster_size: 1 << 20,
        num_md_pages: None,
        md_page_size: 4096,
        bstype: lvol::BSTYPE,
    };
    let Ok(block) = SuperBlock::plan(new) else { return };
    let mut replay = Replay::new(&block);
    while let Some((&[place, len], rest)) = data.split_first_chunk::<2>() {
        let (start, later) = rest.split_at(rest.len().min(len.into()));
        let page = sealed(start, usize::from(place >> 7) * 16);
        if let Ok(read) = Page::parse(&page[..]) {
            assert_eq!(Page::parse(&read.encode()[..]), Ok(read));
        }
        replay.page(u32::from(place & 63), &page[..]);
        data = later;
    }
    let model = replay.finish();
    let mut owned = Bits::new(block.total_clusters());
    for volume in model.volumes.values().filter(|volume| volume.faults.is_empty()) {
        for (_, cluster) in volume.blob.map.iter() {
            assert!(owned.set(cluster), "cluster {cluster} has two owners that serve");
        }
        look(volume.blob.to_chain());
        look(lvol::Names::of(&volume.blob));
    }
}

fn sealed(data: &[u8], at: usize) -> Box<[u8; PAGE_BYTES]> {
    let mut page = Box::new([0; PAGE_BYTES]);
    page.iter_mut().skip(at).zip(data).for_each(|(to, from)| *to = *from);
    seal(&mut page);
    page
}
