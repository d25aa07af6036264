//! The shared area that records requests in flight. vhost-user protocol, "Inflight I/O tracking".
//!
//! Each ring has its own part: a header, then one entry for each descriptor. Offsets are in bytes.

/// Version of the format. An area of version 0 is new.
pub const VERSION: u16 = 1;
/// Each part begins at a multiple of this, in bytes.
const ALIGN: usize = 64;

/// Split rings: one entry for each head descriptor.
pub mod split {
    /// Length of the header.
    pub const HEADER_LEN: usize = 16;
    /// `u16` in the header: version of the format.
    pub const VERSION: usize = 8;
    /// `u16` in the header: number of entries.
    pub const NUM: usize = 10;
    /// `u16` in the header: the head that was completed last.
    pub const LAST_BATCH_HEAD: usize = 12;
    /// `u16` in the header: index of the used ring after the last complete batch.
    pub const USED_INDEX: usize = 14;
    /// Length of an entry.
    pub const ENTRY_LEN: usize = 16;
    /// `u8` in an entry: 1 = in flight.
    pub const INFLIGHT: usize = 0;
    /// `u16` in an entry: the head that was completed before this one.
    pub const NEXT: usize = 6;
    /// `u64` in an entry: position in the order in which the device took the requests.
    pub const COUNTER: usize = 8;
}

/// Packed rings: one entry for each descriptor, because the device overwrites the descriptors in the ring. Unused entries
/// form a list; the number of entries marks its end.
pub mod packed {
    /// Length of the header.
    pub const HEADER_LEN: usize = 32;
    /// `u16` in the header: version of the format.
    pub const VERSION: usize = 8;
    /// `u16` in the header: number of entries.
    pub const NUM: usize = 10;
    /// `u16` in the header: first free entry.
    pub const FREE_HEAD: usize = 12;
    /// `u16` in the header: first free entry after the last complete batch.
    pub const OLD_FREE_HEAD: usize = 14;
    /// `u16` in the header: position in the ring of the next descriptor to complete. This and the three fields after it
    /// are in one aligned word of 8 bytes.
    pub const USED_INDEX: usize = 16;
    /// `u16` in the header: `USED_INDEX` after the last complete batch.
    pub const OLD_USED_INDEX: usize = 18;
    /// `u8` in the header: wrap counter of `USED_INDEX`.
    pub const USED_WRAP: usize = 20;
    /// `u8` in the header: wrap counter of `OLD_USED_INDEX`.
    pub const OLD_USED_WRAP: usize = 21;
    /// Length of an entry.
    pub const ENTRY_LEN: usize = 32;
    /// `u8` in a chain's first entry: 1 = in flight.
    pub const INFLIGHT: usize = 0;
    /// `u16` in an entry: the next entry of the chain or of the free list.
    pub const NEXT: usize = 2;
    /// `u16` in a chain's first entry: index of its last entry.
    pub const LAST: usize = 4;
    /// `u16` in a chain's first entry: the number of its entries.
    pub const NUM_ENTRIES: usize = 6;
    /// `u64` in a chain's first entry: position in the order in which the device took the requests.
    pub const COUNTER: usize = 8;
    /// `u16` in an entry: buffer id of the descriptor.
    pub const ID: usize = 16;
    /// `u16` in an entry: flags of the descriptor.
    pub const FLAGS: usize = 18;
    /// `u32` in an entry: length of the descriptor.
    pub const LEN: usize = 20;
    /// `u64` in an entry: address of the descriptor.
    pub const ADDR: usize = 24;
}

/// Length of the part of one ring, in bytes.
#[must_use]
pub const fn part_len(ring_size: u16, is_packed: bool) -> usize {
    let size = ring_size as usize;
    let len = if is_packed {
        packed::HEADER_LEN + size * packed::ENTRY_LEN
    } else {
        split::HEADER_LEN + size * split::ENTRY_LEN
    };
    len.next_multiple_of(ALIGN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_have_the_lengths_that_other_back_ends_give_them() {
        assert_eq!(part_len(128, false), 2112);
        assert_eq!(part_len(128, true), 4160);
        assert_eq!(part_len(1, false), 64);
    }
}
