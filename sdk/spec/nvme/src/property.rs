//! Controller properties (registers on PCIe). NVMe Base 2.0, section 3.1.3.

use core::fmt;

/// Offsets of the properties of a Fabrics controller, in bytes.
pub mod offset {
    /// Controller Capabilities, 8 bytes.
    pub const CAP: u32 = 0x00;
    /// Version, 4 bytes.
    pub const VS: u32 = 0x08;
    /// Controller Configuration, 4 bytes.
    pub const CC: u32 = 0x14;
    /// Controller Status, 4 bytes.
    pub const CSTS: u32 = 0x1c;
    /// NVM Subsystem Reset, 4 bytes.
    pub const NSSR: u32 = 0x20;
}

/// Command set bits of CAP.CSS and values of CC.CSS.
pub mod css {
    /// CAP: the NVM command set.
    pub const CAP_NVM: u8 = 1;
    /// CAP: one or more I/O command sets, selected by CSI.
    pub const CAP_IOCS: u8 = 1 << 6;
    /// CAP: no I/O command set.
    pub const CAP_NO_IO: u8 = 1 << 7;
    /// CC: the NVM command set.
    pub const NVM: u8 = 0;
    /// CC: all I/O command sets supported.
    pub const IOCS: u8 = 6;
    /// CC: admin commands only.
    pub const ADMIN_ONLY: u8 = 7;
}

macro_rules! register {
    (
        $(#[$meta:meta])*
        pub struct $name:ident($raw:ident) {
            $( $(#[$field_meta:meta])* $shift:literal, $bits:literal => $field:ident: $ty:ident, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name { $( $(#[$field_meta])* pub $field: $ty, )* }

        impl $name {
            /// Parses the property. Ignores reserved bits.
            #[must_use]
            pub const fn from_bits(raw: $raw) -> Self {
                Self { $( $field: register!(@get $ty, raw >> $shift & ((1 << $bits) - 1)), )* }
            }

            /// The property's value. Reserved bits are zero; values too large for their field are truncated.
            #[must_use]
            pub const fn bits(self) -> $raw {
                0 $( | (self.$field as $raw & ((1 << $bits) - 1)) << $shift )*
            }
        }
    };
    (@get bool, $value:expr) => { $value != 0 };
    (@get u8, $value:expr) => { ($value & 0xff) as u8 };
    (@get u16, $value:expr) => { ($value & 0xffff) as u16 };
}

register! {
    /// Controller Capabilities (CAP). NVMe Base 2.0, section 3.1.3.1.
    pub struct Cap(u64) {
        /// Maximum queue size, in entries, minus one.
        0, 16 => mqes: u16,
        /// Queues must be contiguous; always set over fabrics.
        16, 1 => cqr: bool,
        /// Arbitration mechanisms in addition to round robin.
        17, 2 => ams: u8,
        /// Maximum time to become ready, in 500 ms.
        24, 8 => to: u8,
        /// Doorbell stride; 0 over fabrics.
        32, 4 => dstrd: u8,
        /// NVM subsystem reset supported.
        36, 1 => nssrs: bool,
        /// Command sets supported, bits of [`css`].
        37, 8 => css: u8,
        /// Minimum memory page size: 2 ^ (12 + mpsmin) bytes.
        48, 4 => mpsmin: u8,
        /// Maximum memory page size: 2 ^ (12 + mpsmax) bytes.
        52, 4 => mpsmax: u8,
        /// The ready mode "with media" is supported.
        59, 1 => crwms: bool,
        /// The ready mode "independent of media" is supported.
        60, 1 => crims: bool,
    }
}

register! {
    /// Controller Configuration (CC). NVMe Base 2.0, section 3.1.3.5.
    pub struct Cc(u32) {
        /// Enable.
        0, 1 => en: bool,
        /// Selected I/O command set, one of [`css`].
        4, 3 => css: u8,
        /// Memory page size: 2 ^ (12 + mps) bytes.
        7, 4 => mps: u8,
        /// Arbitration mechanism.
        11, 3 => ams: u8,
        /// Shutdown notification, one of [`shn`].
        14, 2 => shn: u8,
        /// I/O submission queue entry size, a power of two: 6.
        16, 4 => iosqes: u8,
        /// I/O completion queue entry size, a power of two: 4.
        20, 4 => iocqes: u8,
        /// Whether the ready mode "independent of media" is enabled.
        24, 1 => crime: bool,
    }
}

register! {
    /// Controller Status (CSTS). NVMe Base 2.0, section 3.1.3.6.
    pub struct Csts(u32) {
        /// Ready.
        0, 1 => rdy: bool,
        /// Fatal error.
        1, 1 => cfs: bool,
        /// Shutdown status, one of [`shst`].
        2, 2 => shst: u8,
        /// An NVM subsystem reset occurred.
        4, 1 => nssro: bool,
        /// Command processing is paused.
        5, 1 => pp: bool,
    }
}

register! {
    /// Version (VS). NVMe Base 2.0, section 3.1.3.2.
    pub struct Version(u32) {
        /// Tertiary.
        0, 8 => tertiary: u8,
        /// Minor.
        8, 8 => minor: u8,
        /// Major.
        16, 16 => major: u16,
    }
}

impl Version {
    /// NVMe 1.3.
    pub const V1_3: Self = Self { major: 1, minor: 3, tertiary: 0 };
    /// NVMe 1.4.
    pub const V1_4: Self = Self { major: 1, minor: 4, tertiary: 0 };
    /// NVMe 2.0.
    pub const V2_0: Self = Self { major: 2, minor: 0, tertiary: 0 };
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.tertiary)
    }
}

/// Values of CC.SHN.
pub mod shn {
    /// None.
    pub const NONE: u8 = 0;
    /// Normal shutdown.
    pub const NORMAL: u8 = 1;
    /// Abrupt shutdown.
    pub const ABRUPT: u8 = 2;
}

/// Values of CSTS.SHST.
pub mod shst {
    /// Normal operation.
    pub const NORMAL: u8 = 0;
    /// The shutdown is in progress.
    pub const OCCURRING: u8 = 1;
    /// The shutdown is complete.
    pub const COMPLETE: u8 = 2;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values_have_known_bits() {
        let cap = Cap {
            mqes: 127,
            cqr: true,
            to: 30,
            css: css::CAP_NVM | css::CAP_IOCS,
            ..Cap::default()
        };
        assert_eq!(cap.bits(), 0x0000_0820_1e01_007f);
        let cc = Cc { en: true, iosqes: 6, iocqes: 4, ..Cc::default() };
        assert_eq!(cc.bits(), 0x0046_0001);
        let csts = Csts { rdy: true, shst: shst::COMPLETE, ..Csts::default() };
        assert_eq!(csts.bits(), 0x9);
        assert_eq!(Version::V1_3.bits(), 0x0001_0300);
        assert_eq!(Version::V2_0.to_string(), "2.0.0");
    }

    proptest! {
        #[test]
        fn decoding_then_encoding_keeps_every_defined_bit(raw: u64, small: u32) {
            prop_assert_eq!(Cap::from_bits(Cap::from_bits(raw).bits()), Cap::from_bits(raw));
            prop_assert_eq!(Cc::from_bits(small).bits(), small & 0x01ff_fff1);
            prop_assert_eq!(Csts::from_bits(small).bits(), small & 0x3f);
            prop_assert_eq!(Version::from_bits(small).bits(), small);
        }
    }
}
