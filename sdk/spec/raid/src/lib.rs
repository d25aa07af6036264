//! RAID on disk: the superblock, the write-intent record and the row log of every member, and the layout of the blocks of each level.
//!
//! The crate does no I/O. [`Superblock`] and [`Intent`] turn bytes into checked values and back. Only [`Layout`] knows which
//! member holds a block: reads, writes, rebuilds, scrubs and repairs all ask it, so they cannot disagree.
//!
//! ```text
//! bytes ─▶ Superblock::parse ─▶ Level, strip, members ─▶ Layout::new ─▶ place, copies, stripe, and back
//! ```

mod gf;
mod intent;
mod layout;
mod level;
mod log;
mod row;
mod superblock;
mod xor;

pub use gf::add_data;
pub use intent::{
    AWAY_MAX, Away, INTENT_LEN, INTENT_OFFSETS, Intent, REGIONS_MAX, Regions, region_shift,
};
pub use layout::{Copies, Layout, LayoutError, Piece, Place, Row, RowRole};
pub use level::Level;
pub use log::{LogArea, LogEntry, MemberSet};
pub use row::{fill_parity, recover};
pub use superblock::{
    DATA_OFFSET_MIN, ENTRY_LEN, HEADER_LEN, MEMBERS_MAX, Member, MemberState, NAME_LEN, SIGNATURE,
    Superblock, SuperblockError, declared_len, seal,
};
pub use xor::xor_into;
