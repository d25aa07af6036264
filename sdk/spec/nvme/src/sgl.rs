//! SGL descriptors. NVMe Base 2.0, section 4.1.2 and NVMe over Fabrics 1.1, section 4.3.

use crate::Status;
use crate::command::{join, split};

/// One 16-byte SGL descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SglDescriptor {
    /// Data block at a memory address (type 0h, subtype 0h), on PCIe.
    Address {
        /// Address.
        address: u64,
        /// Length, in bytes.
        length: u32,
    },
    /// Data block at an offset inside the command capsule (type 0h, subtype 1h).
    InCapsule {
        /// Offset from the start of the in-capsule data, in bytes.
        offset: u64,
        /// Length, in bytes.
        length: u32,
    },
    /// Transport data block (type 5h, subtype Ah). The transport transfers the data; TCP uses R2T or C2HData.
    Transport {
        /// Length, in bytes.
        length: u32,
    },
    /// Keyed data block (type 4h), on RDMA.
    Keyed {
        /// Remote address.
        address: u64,
        /// Length, in bytes; 24 bits.
        length: u32,
        /// Remote key.
        key: u32,
        /// Whether to invalidate the key with the completion (subtype Fh).
        invalidate: bool,
    },
    /// Any other type or subtype.
    Other {
        /// The four dwords, as received.
        dwords: [u32; 4],
    },
}

/// The place of a command's data, for a message-based transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapsuleData {
    /// In the capsule itself.
    InCapsule {
        /// Offset from the start of the in-capsule data, in bytes.
        offset: u64,
        /// Length, in bytes.
        length: u32,
    },
    /// The transport transfers it.
    Transport {
        /// Length, in bytes.
        length: u32,
    },
}

impl CapsuleData {
    /// Length of the data, in bytes.
    #[must_use]
    #[inline]
    pub const fn length(self) -> u32 {
        match self {
            Self::InCapsule { length, .. } | Self::Transport { length } => length,
        }
    }
}

impl SglDescriptor {
    /// Encoded length, in bytes.
    pub const LEN: usize = 16;

    /// Parses the four dwords of a descriptor. Accepts any content.
    #[must_use]
    #[inline]
    pub const fn from_dwords(dwords: [u32; 4]) -> Self {
        let address = join(dwords[0], dwords[1]);
        match dwords[3] >> 24 {
            0x00 => Self::Address { address, length: dwords[2] },
            0x01 => Self::InCapsule { offset: address, length: dwords[2] },
            0x5a => Self::Transport { length: dwords[2] },
            id if id == 0x40 || id == 0x4f => Self::Keyed {
                address,
                length: dwords[2] & 0xff_ffff,
                key: dwords[2] >> 24 | (dwords[3] & 0xff_ffff) << 8,
                invalidate: id == 0x4f,
            },
            _ => Self::Other { dwords },
        }
    }

    /// The four dwords of the descriptor. Truncates the length of `Keyed` to 24 bits.
    #[must_use]
    pub const fn to_dwords(self) -> [u32; 4] {
        match self {
            Self::Address { address, length } => {
                let (low, high) = split(address);
                [low, high, length, 0]
            }
            Self::InCapsule { offset, length } => {
                let (low, high) = split(offset);
                [low, high, length, 0x01 << 24]
            }
            Self::Transport { length } => [0, 0, length, 0x5a << 24],
            Self::Keyed { address, length, key, invalidate } => {
                let (low, high) = split(address);
                let id = if invalidate { 0x4f } else { 0x40 };
                [low, high, length & 0xff_ffff | key << 24, key >> 8 | id << 24]
            }
            Self::Other { dwords } => dwords,
        }
    }

    /// The place of the data, for a transport such as TCP that transfers capsules and supports neither addresses nor keys.
    ///
    /// # Errors
    /// [`Status::SGL_DESCRIPTOR_TYPE_INVALID`] for any other descriptor, including keyed ones.
    #[inline]
    pub const fn capsule_data(self) -> Result<CapsuleData, Status> {
        match self {
            Self::InCapsule { offset, length } => Ok(CapsuleData::InCapsule { offset, length }),
            Self::Transport { length } => Ok(CapsuleData::Transport { length }),
            Self::Address { .. } | Self::Keyed { .. } | Self::Other { .. } => {
                Err(Status::SGL_DESCRIPTOR_TYPE_INVALID)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn in_capsule_and_transport_descriptors_are_what_tcp_takes() {
        let in_capsule = SglDescriptor::from_dwords([16, 0, 4096, 0x0100_0000]);
        assert_eq!(
            in_capsule.capsule_data(),
            Ok(CapsuleData::InCapsule { offset: 16, length: 4096 })
        );
        let transport = SglDescriptor::from_dwords([0, 0, 8192, 0x5a00_0000]);
        assert_eq!(transport.capsule_data(), Ok(CapsuleData::Transport { length: 8192 }));
    }

    #[test]
    fn keyed_and_address_descriptors_are_recognised_and_refused() {
        let keyed = SglDescriptor::from_dwords([0x1000, 0, 0x4400_0200, 0x4011_2233]);
        assert_eq!(
            keyed,
            SglDescriptor::Keyed {
                address: 0x1000,
                length: 0x200,
                key: 0x1122_3344,
                invalidate: false
            }
        );
        for sgl in [
            keyed,
            SglDescriptor::Address { address: 0, length: 1 },
            SglDescriptor::from_dwords([0, 0, 0, 0x5b00_0000]),
            SglDescriptor::from_dwords([0, 0, 0, 0x2000_0000]),
        ] {
            assert_eq!(sgl.capsule_data(), Err(Status::SGL_DESCRIPTOR_TYPE_INVALID), "{sgl:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_decoded_encodes_to_what_decodes_the_same(dwords in any::<[u32; 4]>()) {
            let sgl = SglDescriptor::from_dwords(dwords);
            prop_assert_eq!(SglDescriptor::from_dwords(sgl.to_dwords()), sgl);
        }
    }
}
