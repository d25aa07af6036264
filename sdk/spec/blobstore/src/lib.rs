//! The blobstore format, versions 1 to 3, and the logical volume store in it. Converts between bytes and
//! values; does no I/O. `docs/formats/lvstore.md` has the byte tables and the write order.
//!
//! - [`SuperBlock`] is page 0: geometry, and whether the store was closed cleanly.
//! - [`Page`] is one metadata page, [`Descriptor`] one entry in it, [`Bits`] a mask of the store.
//! - [`Blob`] is the metadata of one volume. It is built from pages and converted back to pages.
//! - [`Replay`] reads every metadata page once and returns a [`Model`]: the masks, each blob with its
//!   faults, and how to finish interrupted operations.
//! - [`lvol`] has the names that a logical volume store keeps in blobs.
//!
//! All input comes from a disk that others may have written. A wrong value gives an error that names
//! the place and never a panic. A count from the disk is checked before it determines the size of an
//! allocation.
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

/// CRC of a super block or a metadata page: CRC-32C over all bytes except the last four.
#[must_use]
pub(crate) fn checksum(page: &[u8]) -> u32 {
    crc32c::crc32c(page.get(..page.len().saturating_sub(4)).unwrap_or_default())
}
