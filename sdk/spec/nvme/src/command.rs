//! The 64-byte submission queue entry. NVMe Base 2.0, section 3.3.3.1.

use crate::layout::Field;
use crate::sgl::SglDescriptor;

/// One command: sixteen dwords, in host byte order.
///
/// Cheap to copy. The typed forms of a command ([`crate::admin`], [`crate::nvm`], [`crate::fabrics`]) convert from it and to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// CDW0 to CDW15.
    pub dw: [u32; 16],
}

/// Whether the command is half of a fused pair. NVMe Base 2.0, figure 86.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fuse {
    /// Not fused.
    Normal,
    /// First command of a pair.
    First,
    /// Second command of a pair.
    Second,
    /// Reserved (11b).
    Reserved,
}

/// The form of the data pointer. NVMe Base 2.0, figure 86. Over fabrics only [`Psdt::Sgl`] is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Psdt {
    /// PRPs.
    Prp,
    /// SGL, with metadata at an address.
    Sgl,
    /// SGL, with metadata described by an SGL segment.
    SglMetadataSgl,
    /// Reserved (11b).
    Reserved,
}

impl Command {
    /// Encoded length, in bytes.
    pub const LEN: usize = 64;

    /// Makes a command with this opcode. The data pointer is an SGL (the only form over fabrics); all else is zero.
    #[must_use]
    pub const fn new(opcode: u8) -> Self {
        let mut dw = [0; 16];
        dw[0] = opcode as u32 | 1 << 14;
        Self { dw }
    }

    /// Parses a command. Accepts any content.
    #[must_use]
    #[inline]
    pub fn parse(bytes: &[u8; 64]) -> Self {
        let (dwords, _) = bytes.as_chunks();
        let mut dw = [0; 16];
        for (to, from) in dw.iter_mut().zip(dwords) {
            *to = u32::from_le_bytes(*from);
        }
        Self { dw }
    }

    /// Writes the command.
    #[must_use]
    pub fn encode(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        self.dw.put(&mut bytes, 0);
        bytes
    }

    /// Opcode.
    #[must_use]
    #[inline]
    pub const fn opcode(&self) -> u8 {
        (self.dw[0] & 0xff) as u8
    }

    /// Whether the command is half of a fused pair.
    #[must_use]
    #[inline]
    pub const fn fuse(&self) -> Fuse {
        match self.dw[0] >> 8 & 3 {
            0 => Fuse::Normal,
            1 => Fuse::First,
            2 => Fuse::Second,
            _ => Fuse::Reserved,
        }
    }

    /// PRP or SGL.
    #[must_use]
    #[inline]
    pub const fn psdt(&self) -> Psdt {
        match self.dw[0] >> 14 & 3 {
            0 => Psdt::Prp,
            1 => Psdt::Sgl,
            2 => Psdt::SglMetadataSgl,
            _ => Psdt::Reserved,
        }
    }

    /// Command identifier, unique among the outstanding commands of a queue.
    #[must_use]
    #[inline]
    pub const fn cid(&self) -> u16 {
        (self.dw[0] >> 16) as u16
    }

    /// The same command with this identifier.
    #[must_use]
    pub const fn with_cid(mut self, cid: u16) -> Self {
        self.dw[0] = self.dw[0] & 0xffff | (cid as u32) << 16;
        self
    }

    /// Namespace identifier. In a Fabrics command this dword has other fields.
    #[must_use]
    #[inline]
    pub const fn nsid(&self) -> u32 {
        self.dw[1]
    }

    /// The same command for this namespace.
    #[must_use]
    pub const fn with_nsid(mut self, nsid: u32) -> Self {
        self.dw[1] = nsid;
        self
    }

    /// Fabrics command type (byte 4). Only meaningful if the opcode is [`crate::opcode::FABRICS`].
    #[must_use]
    #[inline]
    pub const fn fctype(&self) -> u8 {
        (self.dw[1] & 0xff) as u8
    }

    /// Metadata pointer.
    #[must_use]
    pub const fn mptr(&self) -> u64 {
        join(self.dw[4], self.dw[5])
    }

    /// SGL1, the data pointer.
    #[must_use]
    #[inline]
    pub const fn sgl1(&self) -> SglDescriptor {
        SglDescriptor::from_dwords([self.dw[6], self.dw[7], self.dw[8], self.dw[9]])
    }

    /// The same command with this data pointer.
    #[must_use]
    pub const fn with_sgl1(mut self, sgl: SglDescriptor) -> Self {
        [self.dw[6], self.dw[7], self.dw[8], self.dw[9]] = sgl.to_dwords();
        self
    }

    /// Command dword 10.
    #[must_use]
    pub const fn cdw10(&self) -> u32 {
        self.dw[10]
    }

    /// Command dword 11.
    #[must_use]
    pub const fn cdw11(&self) -> u32 {
        self.dw[11]
    }

    /// Command dword 12.
    #[must_use]
    pub const fn cdw12(&self) -> u32 {
        self.dw[12]
    }

    /// Command dword 13.
    #[must_use]
    pub const fn cdw13(&self) -> u32 {
        self.dw[13]
    }

    /// Command dword 14.
    #[must_use]
    pub const fn cdw14(&self) -> u32 {
        self.dw[14]
    }

    /// Command dword 15.
    #[must_use]
    pub const fn cdw15(&self) -> u32 {
        self.dw[15]
    }
}

/// Joins two dwords to a u64.
#[inline]
pub(crate) const fn join(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// Splits a u64 into two dwords, low dword first.
#[inline]
pub(crate) const fn split(value: u64) -> (u32, u32) {
    ((value & 0xffff_ffff) as u32, (value >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_are_where_the_specification_puts_them() {
        let mut bytes = [0; 64];
        bytes[0] = 0x02;
        bytes[1] = 0b0100_0001;
        bytes[2..4].copy_from_slice(&[0x34, 0x12]);
        bytes[4] = 7;
        bytes[16] = 0xaa;
        bytes[40] = 10;
        bytes[60] = 15;
        let command = Command::parse(&bytes);
        assert_eq!(command.opcode(), 2);
        assert_eq!(command.fuse(), Fuse::First);
        assert_eq!(command.psdt(), Psdt::Sgl);
        assert_eq!(command.cid(), 0x1234);
        assert_eq!(command.nsid(), 7);
        assert_eq!(command.fctype(), 7);
        assert_eq!(command.mptr(), 0xaa);
        assert_eq!((command.cdw10(), command.cdw15()), (10, 15));
    }

    #[test]
    fn all_values_of_psdt_are_told_apart_whatever_the_cid() {
        for (bits, psdt) in
            [(0, Psdt::Prp), (1, Psdt::Sgl), (2, Psdt::SglMetadataSgl), (3, Psdt::Reserved)]
        {
            for cid in [0, 1, 0xffff] {
                let command = Command { dw: [bits << 14; 16] }.with_cid(cid);
                assert_eq!((command.psdt(), command.cid()), (psdt, cid));
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_survive_a_round_trip(bytes in any::<[u8; 32]>()) {
            let mut whole = [0; 64];
            whole[..32].copy_from_slice(&bytes);
            whole[32..].copy_from_slice(&bytes);
            prop_assert_eq!(Command::parse(&whole).encode(), whole);
        }
    }
}
