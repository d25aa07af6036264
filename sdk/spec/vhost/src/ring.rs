//! The layout of virtqueues in the guest's memory. virtio 1.3, sections 2.7 (split) and 2.8 (packed).

/// Maximum number of entries of a queue. The size of a split ring must also be a power of two.
pub const SIZE_MAX: u16 = 1 << 15;

/// Feature bits that change the rings, as masks.
pub mod feature {
    /// Indirect descriptor tables.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Notifications at a chosen entry (`used_event`, `avail_event`; for packed rings, event areas).
    pub const EVENT_IDX: u64 = 1 << 29;
    /// Virtio 1.x: little-endian for any guest.
    pub const VERSION_1: u64 = 1 << 32;
    /// Packed rings.
    pub const RING_PACKED: u64 = 1 << 34;
}

/// Descriptor flag: the chain continues.
pub const F_NEXT: u16 = 1;
/// Descriptor flag: the device writes this buffer.
pub const F_WRITE: u16 = 2;
/// Descriptor flag: the buffer contains a table of descriptors.
pub const F_INDIRECT: u16 = 4;
/// Packed descriptor flag: available, compared with the driver's wrap counter.
pub const F_AVAIL: u16 = 1 << 7;
/// Packed descriptor flag: used, compared with the device's wrap counter.
pub const F_USED: u16 = 1 << 15;

/// Flag of an available ring: the driver does not need interrupts.
pub const AVAIL_NO_INTERRUPT: u16 = 1;
/// Flag of a used ring: the device does not need kicks.
pub const USED_NO_NOTIFY: u16 = 1;

/// Packed event area: notify always.
pub const EVENT_ENABLE: u16 = 0;
/// Packed event area: never notify.
pub const EVENT_DISABLE: u16 = 1;
/// Packed event area: notify at a descriptor.
pub const EVENT_DESC: u16 = 2;

/// Length of a descriptor, in bytes.
pub const DESCRIPTOR_LEN: usize = 16;

/// A descriptor of a split or packed ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest address of the buffer.
    pub addr: u64,
    /// Its length, in bytes.
    pub len: u32,
    /// `F_NEXT`, `F_WRITE`, `F_INDIRECT`, and for packed rings `F_AVAIL` and `F_USED`.
    pub flags: u16,
    /// Split: index of the next descriptor. Packed: buffer id.
    pub link: u16,
}

impl Descriptor {
    /// Parses a descriptor of a split ring: address, length, flags, next.
    #[must_use]
    pub const fn split(bytes: [u8; DESCRIPTOR_LEN]) -> Self {
        let (addr, len, first, second) = Self::parts(bytes);
        Self { addr, len, flags: first, link: second }
    }

    /// Parses a descriptor of a packed ring: address, length, id, flags.
    #[must_use]
    pub const fn packed(bytes: [u8; DESCRIPTOR_LEN]) -> Self {
        let (addr, len, first, second) = Self::parts(bytes);
        Self { addr, len, flags: second, link: first }
    }

    const fn parts(bytes: [u8; DESCRIPTOR_LEN]) -> (u64, u32, u16, u16) {
        let word = u128::from_le_bytes(bytes);
        #[expect(clippy::cast_possible_truncation, reason = "the casts cut out parts of the word")]
        (word as u64, (word >> 64) as u32, (word >> 96) as u16, (word >> 112) as u16)
    }
}

/// Whether a device that moved its used index from `old` to `new` must notify a driver that requested a notification at
/// `event`. All indices wrap at 2^16. virtio 1.3, section 2.7.7.2.
#[must_use]
pub const fn passes(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// Lengths of a split ring's descriptor table, available ring and used ring, in bytes.
#[must_use]
pub const fn split_len(size: u16) -> (usize, usize, usize) {
    let size = size as usize;
    (size * DESCRIPTOR_LEN, 4 + 2 * size + 2, 4 + 8 * size + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_descriptor_have_the_same_bytes_in_another_order() {
        let mut bytes = [0; DESCRIPTOR_LEN];
        bytes[..8].copy_from_slice(&0x1122_3344_5566_7788_u64.to_le_bytes());
        bytes[8..12].copy_from_slice(&512_u32.to_le_bytes());
        bytes[12..14].copy_from_slice(&F_NEXT.to_le_bytes());
        bytes[14..].copy_from_slice(&7_u16.to_le_bytes());
        let (addr, len) = (0x1122_3344_5566_7788, 512);
        assert_eq!(Descriptor::split(bytes), Descriptor { addr, len, flags: F_NEXT, link: 7 });
        assert_eq!(Descriptor::packed(bytes), Descriptor { addr, len, flags: 7, link: F_NEXT });
    }

    #[test]
    fn a_driver_is_notified_when_its_event_is_passed_and_only_then() {
        assert!(passes(5, 6, 5));
        assert!(!passes(6, 6, 5));
        assert!(!passes(4, 6, 5));
        assert!(passes(65_535, 0, 65_535));
        assert!(passes(65_535, 3, 65_530));
        assert!(!passes(3, 3, 65_530));
        assert!(!passes(3, 3, 3), "nothing was used");
    }

    #[test]
    fn the_parts_of_a_split_ring_have_their_lengths() {
        assert_eq!(split_len(256), (4096, 518, 2054));
    }
}
