//! Identify Namespace (CNS 00h, 05h, 08h). NVM Command Set 1.0, figure 97; NVMe Base 2.0, figure 280.

use super::controller::bits;
use crate::layout::layout;

layout! {
    /// Identify Namespace. Lengths are in logical blocks. Fields marked "less one" contain the number minus one.
    pub struct Namespace[4096] {
        /// Size, in blocks.
        0 => nsze: u64,
        /// Capacity, in blocks.
        8 => ncap: u64,
        /// Utilization, in blocks.
        16 => nuse: u64,
        /// Features, bits of [`nsfeat`].
        24 => nsfeat: u8,
        /// LBA formats, less one.
        25 => nlbaf: u8,
        /// Format in use: its index in bits 3:0 and 6:5; bit 4 = the metadata follows the data.
        26 => flbas: u8,
        /// Metadata capabilities.
        27 => mc: u8,
        /// Protection information capabilities.
        28 => dpc: u8,
        /// Protection information in use.
        29 => dps: u8,
        /// Sharing, bits of [`nmic`].
        30 => nmic: u8,
        /// Reservation capabilities.
        31 => rescap: u8,
        /// Format progress.
        32 => fpi: u8,
        /// Deallocation, bits of [`dlfeat`].
        33 => dlfeat: u8,
        /// Atomic write unit, less one.
        34 => nawun: u16,
        /// Atomic write unit at power fail, less one.
        36 => nawupf: u16,
        /// Atomic compare and write unit, less one.
        38 => nacwu: u16,
        /// Atomic boundary size, less one.
        40 => nabsn: u16,
        /// Atomic boundary offset.
        42 => nabo: u16,
        /// Atomic boundary size at power fail, less one.
        44 => nabspf: u16,
        /// Optimal I/O boundary; 0 = none.
        46 => noiob: u16,
        /// Capacity, in bytes.
        48 => nvmcap: u128,
        /// Preferred write granularity, less one.
        64 => npwg: u16,
        /// Preferred write alignment, less one.
        66 => npwa: u16,
        /// Preferred deallocate granularity, less one.
        68 => npdg: u16,
        /// Preferred deallocate alignment, less one.
        70 => npda: u16,
        /// Optimal write size, less one.
        72 => nows: u16,
        /// Copy: maximum length of a source range.
        74 => mssrl: u16,
        /// Copy: maximum total length.
        76 => mcl: u32,
        /// Copy: maximum number of source ranges, less one.
        80 => msrc: u8,
        /// ANA group.
        92 => anagrpid: u32,
        /// Attributes: bit 0 = write protected.
        99 => nsattr: u8,
        /// NVM set.
        100 => nvmsetid: u16,
        /// Endurance group.
        102 => endgid: u16,
        /// Globally unique identifier, as bytes.
        104 => nguid: [u8; 16],
        /// Extended unique identifier, as bytes.
        120 => eui64: [u8; 8],
        /// LBA formats.
        128 => lbaf: [LbaFormat; 64],
    }
}

layout! {
    /// An LBA format.
    pub struct LbaFormat[4] {
        /// Metadata size, in bytes.
        0 => ms: u16,
        /// Data size: 2 ^ lbads bytes; 0 = the format is not available.
        2 => lbads: u8,
        /// Relative performance; 2 bits, 0 = best.
        3 => rp: u8,
    }
}

impl Namespace {
    /// Index of the format in use.
    #[must_use]
    pub const fn format_index(&self) -> usize {
        let low = (self.flbas & 0xf) as usize;
        if self.nlbaf < 16 { low } else { low | ((self.flbas >> 5 & 3) as usize) << 4 }
    }

    /// Data size of a block, in bytes; `None` if the format in use is not available.
    #[must_use]
    pub fn block_size(&self) -> Option<u32> {
        let format = self.lbaf.get(self.format_index())?;
        if format.lbads < 9 { None } else { 1u32.checked_shl(format.lbads.into()) }
    }
}

layout! {
    /// Identify Namespace for the NVM command set (CNS 05h, CSI 00h). NVM Command Set 1.0, figure 100.
    pub struct NvmNamespace[4096] {
        /// Storage tag mask.
        0 => lbstm: u64,
        /// Protection information capabilities.
        8 => pic: u8,
        /// Extended LBA formats.
        12 => elbaf: [u32; 64],
    }
}

layout! {
    /// Properties of namespaces of any I/O command set (CNS 08h). NVMe Base 2.0, figure 280.
    pub struct IndependentNamespace[4096] {
        /// Features.
        0 => nsfeat: u8,
        /// Sharing, bits of [`nmic`].
        1 => nmic: u8,
        /// Reservation capabilities.
        2 => rescap: u8,
        /// Format progress.
        3 => fpi: u8,
        /// ANA group.
        4 => anagrpid: u32,
        /// Attributes: bit 0 = write protected.
        8 => nsattr: u8,
        /// NVM set.
        10 => nvmsetid: u16,
        /// Endurance group.
        12 => endgid: u16,
        /// Status: bit 0 = ready.
        14 => nstat: u8,
    }
}

bits! {
    /// Bits of NSFEAT.
    nsfeat: u8 {
        1, THIN_PROVISIONING "Thin provisioned.";
        1 << 1, ATOMIC_UNITS "The namespace's own atomic units are set.";
        1 << 2, DEALLOCATED_ERROR "Can report reads of deallocated blocks as errors.";
        1 << 3, UID_NOT_REUSED "Identifiers are never reused.";
        1 << 4, OPTIMAL_PERFORMANCE "NPWG, NPWA, NPDG, NPDA and NOWS are set.";
    }
    /// Bits of NMIC.
    nmic: u8 {
        1, SHARED "May be attached to several controllers at once.";
    }
    /// Bits of DLFEAT.
    dlfeat: u8 {
        1, READS_ZEROES "Deallocated blocks read as zeroes.";
        2, READS_ONES "Deallocated blocks read as FFh.";
        1 << 3, WRITE_ZEROES_DEALLOCATE "Write Zeroes can deallocate.";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_at_the_bytes_of_the_specification() {
        let mut namespace = Namespace {
            nsze: 0x1_0000,
            nmic: nmic::SHARED,
            anagrpid: 1,
            nguid: [0xaa; 16],
            eui64: [0xbb; 8],
            ..Namespace::default()
        };
        namespace.lbaf[0] = LbaFormat { ms: 8, lbads: 12, rp: 0 };
        let bytes = namespace.encode();
        assert_eq!(bytes[..4], [0, 0, 1, 0]);
        assert_eq!((bytes[30], bytes[92]), (1, 1));
        assert_eq!(bytes[103..105], [0, 0xaa]);
        assert_eq!(bytes[119..129], [0xaa, 0xbb, 0xbb, 0xbb, 0xbb, 0xbb, 0xbb, 0xbb, 0xbb, 8]);
        assert_eq!(bytes[128..132], [8, 0, 12, 0]);
        assert_eq!(Namespace::parse(&bytes), namespace);
        assert_eq!(namespace.block_size(), Some(4096));
    }

    #[test]
    fn a_format_that_is_not_there_has_no_block_size() {
        let mut namespace = Namespace::default();
        assert_eq!(namespace.block_size(), None);
        namespace.lbaf[0].lbads = 255;
        assert_eq!(namespace.block_size(), None);
        let bytes = [0xff; 4096];
        assert_eq!(Namespace::parse(&bytes).format_index(), 63);
    }
}
