//! The properties of a bdev that a unit needs.

use drivebay_sdk::bdev::{Info, OpSet};

/// Longest transfer of one command, in bytes.
const TRANSFER_LEN_MAX: u64 = 64 << 20;
/// Maximum number of bytes of one WRITE SAME or UNMAP.
const COVER_LEN_MAX: u64 = 512 << 20;

/// The properties of a bdev that commands depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Name on the bus.
    pub name: String,
    /// UUID, from which the unit's identifiers are derived.
    pub uuid: [u8; 16],
    /// Length of a block, in bytes.
    pub block_len: u32,
    /// Number of blocks.
    pub blocks: u64,
    /// UNMAP is supported.
    pub can_unmap: bool,
    /// Unmapped blocks read as zeros.
    pub reads_zeros: bool,
    /// The bdev has a volatile write cache.
    pub write_cache: bool,
    /// The bdev is read-only.
    pub read_only: bool,
}

impl From<&Info> for Disk {
    fn from(info: &Info) -> Self {
        Self {
            name: info.name().to_owned(),
            uuid: info.uuid(),
            block_len: info.block_size().max(1),
            blocks: info.num_blocks(),
            can_unmap: info.ops().contains(OpSet::UNMAP),
            reads_zeros: info.unmapped_reads_zeroes(),
            write_cache: info.has_write_cache(),
            read_only: info.is_read_only(),
        }
    }
}

impl Disk {
    /// Maximum number of blocks that one command transfers.
    #[must_use]
    pub fn transfer_max(&self) -> u32 {
        self.blocks_in(TRANSFER_LEN_MAX)
    }

    /// Maximum number of blocks of one WRITE SAME, and of one UNMAP.
    #[must_use]
    pub fn cover_max(&self) -> u32 {
        self.blocks_in(COVER_LEN_MAX)
    }

    /// Maximum number of blocks of one COMPARE AND WRITE: both halves of its data fit in a piece.
    #[must_use]
    pub fn compare_and_write_max(&self) -> u8 {
        let blocks = crate::PIECE_LEN / 2 / self.block_len;
        u8::try_from(blocks).unwrap_or(u8::MAX)
    }

    /// Blocks of one piece of a transfer, at least 1.
    #[must_use]
    pub fn piece_blocks(&self) -> u32 {
        (crate::PIECE_LEN / self.block_len).max(1)
    }

    fn blocks_in(&self, len: u64) -> u32 {
        u32::try_from(len / u64::from(self.block_len)).unwrap_or(u32::MAX).max(1)
    }
}
