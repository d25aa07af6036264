//! Fields of the NVM command set's I/O commands. NVM Command Set 1.0, section 3.2.

use crate::Command;
use crate::command::{join, split};
use crate::layout::{Field, layout};
use crate::opcode::nvm;

/// The range and flags that Read, Write, Compare, Write Zeroes, Verify and Zone Append share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCommand {
    /// Namespace.
    pub nsid: u32,
    /// First logical block; for Zone Append, that of the zone.
    pub slba: u64,
    /// Number of logical blocks, minus one.
    pub nlb: u16,
    /// Force unit access: the data is on the media before the command completes.
    pub fua: bool,
    /// Limited retry.
    pub limited_retry: bool,
    /// Write Zeroes: deallocate.
    pub deac: bool,
    /// Protection information action and checks, 4 bits: bit 3 PRACT, bit 2 guard check, bit 1 application tag check, bit 0
    /// reference tag check.
    pub prinfo: u8,
}

impl BlockCommand {
    /// Reads the command's fields.
    #[must_use]
    #[inline]
    pub const fn from_command(command: &Command) -> Self {
        let cdw12 = command.dw[12];
        Self {
            nsid: command.nsid(),
            slba: join(command.dw[10], command.dw[11]),
            nlb: (cdw12 & 0xffff) as u16,
            fua: cdw12 >> 30 & 1 == 1,
            limited_retry: cdw12 >> 31 == 1,
            deac: cdw12 >> 25 & 1 == 1,
            prinfo: (cdw12 >> 26 & 0xf) as u8,
        }
    }

    /// Makes the command with this opcode of [`crate::opcode::nvm`] or [`crate::opcode::zoned`].
    #[must_use]
    pub const fn to_command(self, opcode: u8) -> Command {
        let mut command = Command::new(opcode).with_nsid(self.nsid);
        (command.dw[10], command.dw[11]) = split(self.slba);
        command.dw[12] = self.nlb as u32
            | (self.deac as u32) << 25
            | (self.prinfo as u32 & 0xf) << 26
            | (self.fua as u32) << 30
            | (self.limited_retry as u32) << 31;
        command
    }

    /// Number of logical blocks, 1 to 65536.
    #[must_use]
    #[inline]
    pub const fn num_blocks(&self) -> u32 {
        self.nlb as u32 + 1
    }

    /// Whether the whole range is within a namespace of `nsze` blocks.
    #[must_use]
    #[inline]
    pub const fn fits(&self, nsze: u64) -> bool {
        match self.slba.checked_add(self.num_blocks() as u64) {
            Some(end) => end <= nsze,
            None => false,
        }
    }
}

/// Dataset Management. NVM Command Set 1.0, section 3.2.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatasetManagement {
    /// Namespace.
    pub nsid: u32,
    /// Number of ranges, minus one.
    pub nr: u8,
    /// Integral dataset for read.
    pub integral_read: bool,
    /// Integral dataset for write.
    pub integral_write: bool,
    /// Deallocate the ranges.
    pub deallocate: bool,
}

impl DatasetManagement {
    /// Maximum number of ranges of one command.
    pub const MAX_RANGES: usize = 256;

    /// Reads the command's fields.
    #[must_use]
    #[inline]
    pub const fn from_command(command: &Command) -> Self {
        Self {
            nsid: command.nsid(),
            nr: (command.dw[10] & 0xff) as u8,
            integral_read: command.dw[11] & 1 != 0,
            integral_write: command.dw[11] & 2 != 0,
            deallocate: command.dw[11] & 4 != 0,
        }
    }

    /// The command.
    #[must_use]
    pub const fn to_command(self) -> Command {
        let mut command = Command::new(nvm::DATASET_MANAGEMENT).with_nsid(self.nsid);
        command.dw[10] = self.nr as u32;
        command.dw[11] = self.integral_read as u32
            | (self.integral_write as u32) << 1
            | (self.deallocate as u32) << 2;
        command
    }

    /// Number of ranges, 1 to 256.
    #[must_use]
    pub const fn num_ranges(&self) -> usize {
        self.nr as usize + 1
    }
}

layout! {
    /// One range of Dataset Management. NVM Command Set 1.0, figure 41.
    pub struct DsmRange[16] {
        /// Context attributes: hints.
        0 => cattr: u32,
        /// Length, in logical blocks; 0 = an empty range.
        4 => nlb: u32,
        /// First logical block.
        8 => slba: u64,
    }
}

impl DsmRange {
    /// Returns the ranges in `data`. Ignores trailing bytes that are shorter than a range.
    pub fn iter(data: &[u8]) -> impl ExactSizeIterator<Item = Self> {
        data.chunks_exact(Self::LEN).map(|range| Self::take(range, 0))
    }
}

/// Copy. NVM Command Set 1.0, section 3.2.2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyCommand {
    /// Namespace of the destination.
    pub nsid: u32,
    /// First logical block of the destination.
    pub sdlba: u64,
    /// Number of source ranges, less one.
    pub nr: u8,
    /// Descriptor format of the source ranges; 4 bits.
    pub format: u8,
    /// Force unit access: the data is on the media before the command completes.
    pub fua: bool,
}

impl CopyCommand {
    /// Reads the command's fields.
    #[must_use]
    pub const fn from_command(command: &Command) -> Self {
        let cdw12 = command.dw[12];
        Self {
            nsid: command.nsid(),
            sdlba: join(command.dw[10], command.dw[11]),
            nr: (cdw12 & 0xff) as u8,
            format: (cdw12 >> 8 & 0xf) as u8,
            fua: cdw12 >> 30 & 1 == 1,
        }
    }

    /// The command.
    #[must_use]
    pub const fn to_command(self) -> Command {
        let mut command = Command::new(nvm::COPY).with_nsid(self.nsid);
        (command.dw[10], command.dw[11]) = split(self.sdlba);
        command.dw[12] = self.nr as u32 | (self.format as u32 & 0xf) << 8 | (self.fua as u32) << 30;
        command
    }

    /// Number of source ranges, 1 to 256.
    #[must_use]
    pub const fn num_ranges(&self) -> usize {
        self.nr as usize + 1
    }
}

layout! {
    /// One source range of Copy, descriptor format 0. NVM Command Set 1.0, figure 33.
    pub struct CopyRange[32] {
        /// First logical block.
        8 => slba: u64,
        /// Length, in logical blocks, less one.
        16 => nlb: u16,
    }
}

impl CopyRange {
    /// Returns the ranges in `data`. Ignores trailing bytes that are shorter than a range.
    pub fn iter(data: &[u8]) -> impl ExactSizeIterator<Item = Self> {
        data.chunks_exact(Self::LEN).map(|range| Self::take(range, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_with_fua_has_the_dwords_of_the_specification() {
        let write = BlockCommand {
            nsid: 1,
            slba: 0x1_0000_0002,
            nlb: 7,
            fua: true,
            ..BlockCommand::default()
        };
        let command = write.to_command(nvm::WRITE);
        assert_eq!(command.dw[10..13], [2, 1, 0x4000_0007]);
        assert_eq!(BlockCommand::from_command(&command), write);
    }

    #[test]
    fn a_range_must_end_inside_the_namespace() {
        let io = |slba, nlb| BlockCommand { slba, nlb, ..BlockCommand::default() };
        assert!(io(0, 7).fits(8));
        assert!(io(7, 0).fits(8));
        assert!(!io(7, 1).fits(8));
        assert!(!io(8, 0).fits(8));
        assert!(!io(u64::MAX, 0).fits(u64::MAX));
        assert!(!io(u64::MAX, u16::MAX).fits(u64::MAX));
    }

    #[test]
    fn ranges_are_read_one_by_one_and_a_torn_one_is_left_out() {
        let range = DsmRange { cattr: 0, nlb: 8, slba: 16 };
        let mut data = range.encode().to_vec();
        data.extend(range.encode());
        data.push(1);
        assert_eq!(DsmRange::iter(&data).collect::<Vec<_>>(), [range.clone(), range]);
    }

    #[test]
    fn deallocate_is_bit_two() {
        let dsm = DatasetManagement { nsid: 1, nr: 255, deallocate: true, ..Default::default() };
        assert_eq!(dsm.to_command().dw[10..12], [255, 4]);
        assert_eq!(dsm.num_ranges(), DatasetManagement::MAX_RANGES);
    }

    #[test]
    fn a_copy_has_its_destination_and_format_where_the_specification_has_them() {
        let copy = CopyCommand { nsid: 1, sdlba: 0x1_0000_0002, nr: 3, format: 0, fua: true };
        let command = copy.to_command();
        assert_eq!(command.dw[10..13], [2, 1, 0x4000_0003]);
        assert_eq!(CopyCommand::from_command(&command), copy);
        let range = CopyRange { slba: 9, nlb: 7 }.encode();
        assert_eq!((range[8], range[16]), (9, 7));
    }
}
