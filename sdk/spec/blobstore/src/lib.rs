//! The blobstore format, versions 1 to 3, and the logical volume store in it. Bytes to values and
//! back; no I/O. `docs/formats/lvstore.md` has the byte tables and the write order.
//!
//! - [`SuperBlock`] is page 0: geometry, and whether the store was closed cleanly.
//! - [`Page`] is one metadata page, [`Descriptor`] one entry in it, [`Bits`] a mask of the store.
//! - [`Blob`] is one volume's metadata: it is built from its pages and gives pages back.
//! - [`Replay`] takes every metadata page once and gives a [`Model`]: the masks, each blob with a
//!   verdict, and what an interrupted operation left to finish.
//! - [`lvol`] has the names that a logical volume store keeps in blobs.
//!
//! Everything here comes from a disk that somebody else may have written. A wrong value is an error
//! that names the place; nothing panics on it, and no count from the disk sizes an allocation
//! before it is checked.
#![forbid(unsafe_code)]

mod blob;
mod bytes;
mod descriptor;
pub mod lvol;
mod map;
mod mask;
mod page;
mod replay;
mod super_block;

pub use blob::{Blob, BlobError, Xattr};
pub use descriptor::{Descriptor, Flags, Run, Slots};
pub use map::{CLUSTERS_MAX, CLUSTERS_PER_PAGE, ClusterMap};
pub use mask::{Bits, MaskError, MaskKind};
pub use page::{BlobId, PAGE_BYTES, Page, PageError, is_zero, seal};
pub use replay::{Fault, Model, Note, Replay, Stray, Volume};
pub use super_block::{NewStore, Region, SuperBlock, SuperError};

/// CRC of a super block or a metadata page: CRC-32C over all bytes but the last four.
#[must_use]
pub(crate) fn checksum(page: &[u8]) -> u32 {
    crc32c::crc32c(page.get(..page.len().saturating_sub(4)).unwrap_or_default())
}
