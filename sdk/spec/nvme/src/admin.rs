//! Fields of the admin commands. NVMe Base 2.0, section 5.

use crate::Command;
use crate::command::{join, split};
use crate::opcode::admin;

/// Identify. NVMe Base 2.0, section 5.17.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identify {
    /// Namespace, or where a list starts.
    pub nsid: u32,
    /// Requested structure, one of [`crate::identify::cns`].
    pub cns: u8,
    /// Controller, if the structure needs one.
    pub cntid: u16,
    /// Identifier specific to the requested structure.
    pub cnssid: u16,
    /// I/O command set, one of [`crate::identify::csi`].
    pub csi: u8,
}

impl Identify {
    /// Reads the command's fields.
    #[must_use]
    pub const fn from_command(command: &Command) -> Self {
        Self {
            nsid: command.nsid(),
            cns: (command.dw[10] & 0xff) as u8,
            cntid: (command.dw[10] >> 16) as u16,
            cnssid: (command.dw[11] & 0xffff) as u16,
            csi: (command.dw[11] >> 24) as u8,
        }
    }

    /// The command.
    #[must_use]
    pub const fn to_command(self) -> Command {
        let mut command = Command::new(admin::IDENTIFY).with_nsid(self.nsid);
        command.dw[10] = self.cns as u32 | (self.cntid as u32) << 16;
        command.dw[11] = self.cnssid as u32 | (self.csi as u32) << 24;
        command
    }
}

/// Get Log Page. NVMe Base 2.0, section 5.16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GetLogPage {
    /// Namespace; 0 or [`crate::NSID_ALL`] for the controller.
    pub nsid: u32,
    /// Log page, one of [`crate::log::lid`].
    pub lid: u8,
    /// Specific to the page; 7 bits.
    pub lsp: u8,
    /// Retain the asynchronous event: this read does not clear it.
    pub rae: bool,
    /// Requested length, in dwords, minus one.
    pub numd: u32,
    /// Identifier specific to the page.
    pub lsi: u16,
    /// Start offset, in bytes (a multiple of 4), or an index if `offset_type` is set.
    pub offset: u64,
    /// Whether the offset is an index of the page's entries.
    pub offset_type: bool,
    /// I/O command set.
    pub csi: u8,
}

impl GetLogPage {
    /// Reads the command's fields.
    #[must_use]
    pub const fn from_command(command: &Command) -> Self {
        Self {
            nsid: command.nsid(),
            lid: (command.dw[10] & 0xff) as u8,
            lsp: (command.dw[10] >> 8 & 0x7f) as u8,
            rae: command.dw[10] >> 15 & 1 == 1,
            numd: command.dw[10] >> 16 | (command.dw[11] & 0xffff) << 16,
            lsi: (command.dw[11] >> 16) as u16,
            offset: join(command.dw[12], command.dw[13]),
            offset_type: command.dw[14] >> 23 & 1 == 1,
            csi: (command.dw[14] >> 24) as u8,
        }
    }

    /// The command.
    #[must_use]
    pub const fn to_command(self) -> Command {
        let mut command = Command::new(admin::GET_LOG_PAGE).with_nsid(self.nsid);
        command.dw[10] = self.lid as u32
            | (self.lsp as u32 & 0x7f) << 8
            | (self.rae as u32) << 15
            | self.numd << 16;
        command.dw[11] = self.numd >> 16 | (self.lsi as u32) << 16;
        (command.dw[12], command.dw[13]) = split(self.offset);
        command.dw[14] = (self.offset_type as u32) << 23 | (self.csi as u32) << 24;
        command
    }

    /// Requested length, in bytes: 4 to 16 GiB.
    #[must_use]
    pub const fn length_bytes(&self) -> u64 {
        (self.numd as u64 + 1) * 4
    }
}

/// Get Features. NVMe Base 2.0, section 5.15.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GetFeatures {
    /// Namespace.
    pub nsid: u32,
    /// Feature, one of [`crate::feature::fid`].
    pub fid: u8,
    /// Which value, one of [`crate::feature::sel`].
    pub sel: u8,
    /// Specific to the feature.
    pub cdw11: u32,
}

impl GetFeatures {
    /// Reads the command's fields.
    #[must_use]
    pub const fn from_command(command: &Command) -> Self {
        Self {
            nsid: command.nsid(),
            fid: (command.dw[10] & 0xff) as u8,
            sel: (command.dw[10] >> 8 & 7) as u8,
            cdw11: command.dw[11],
        }
    }

    /// The command.
    #[must_use]
    pub const fn to_command(self) -> Command {
        let mut command = Command::new(admin::GET_FEATURES).with_nsid(self.nsid);
        command.dw[10] = self.fid as u32 | (self.sel as u32 & 7) << 8;
        command.dw[11] = self.cdw11;
        command
    }
}

/// Set Features. NVMe Base 2.0, section 5.27.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetFeatures {
    /// Namespace.
    pub nsid: u32,
    /// Feature, one of [`crate::feature::fid`].
    pub fid: u8,
    /// Whether to save the value across power cycles.
    pub save: bool,
    /// The value, or specific to the feature.
    pub cdw11: u32,
}

impl SetFeatures {
    /// Reads the command's fields.
    #[must_use]
    pub const fn from_command(command: &Command) -> Self {
        Self {
            nsid: command.nsid(),
            fid: (command.dw[10] & 0xff) as u8,
            save: command.dw[10] >> 31 == 1,
            cdw11: command.dw[11],
        }
    }

    /// The command.
    #[must_use]
    pub const fn to_command(self) -> Command {
        let mut command = Command::new(admin::SET_FEATURES).with_nsid(self.nsid);
        command.dw[10] = self.fid as u32 | (self.save as u32) << 31;
        command.dw[11] = self.cdw11;
        command
    }
}

/// Abort. NVMe Base 2.0, section 5.1. Bit 0 of the completion's DW0 is 1 if the command was *not* aborted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abort {
    /// Queue of the command to abort.
    pub sqid: u16,
    /// Command to abort.
    pub cid: u16,
}

impl Abort {
    /// Reads the command's fields.
    #[must_use]
    pub const fn from_command(command: &Command) -> Self {
        Self { sqid: (command.dw[10] & 0xffff) as u16, cid: (command.dw[10] >> 16) as u16 }
    }

    /// The command.
    #[must_use]
    pub const fn to_command(self) -> Command {
        let mut command = Command::new(admin::ABORT);
        command.dw[10] = self.sqid as u32 | (self.cid as u32) << 16;
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn get_log_page_joins_its_split_length_and_offset() {
        let log = GetLogPage {
            nsid: 0,
            lid: 0x70,
            lsp: 0x11,
            rae: true,
            numd: 0x0001_00ff,
            lsi: 5,
            offset: 0x1_0000_0400,
            offset_type: false,
            csi: 2,
        };
        let command = log.to_command();
        assert_eq!(command.dw[10..15], [0x00ff_9170, 0x0005_0001, 0x400, 1, 0x0200_0000]);
        assert_eq!(GetLogPage::from_command(&command), log);
        assert_eq!(log.length_bytes(), 0x4_0400);
        assert_eq!(GetLogPage { numd: u32::MAX, ..log }.length_bytes(), 1 << 34);
    }

    #[test]
    fn the_others_survive_a_round_trip() {
        let identify = Identify { nsid: 3, cns: 0x13, cntid: 0x1234, cnssid: 0, csi: 2 };
        assert_eq!(Identify::from_command(&identify.to_command()), identify);
        let get = GetFeatures { nsid: 1, fid: 7, sel: 3, cdw11: 9 };
        assert_eq!(GetFeatures::from_command(&get.to_command()), get);
        let set = SetFeatures { nsid: 1, fid: 7, save: true, cdw11: 9 };
        assert_eq!(SetFeatures::from_command(&set.to_command()), set);
        let abort = Abort { sqid: 1, cid: 0xffff };
        assert_eq!(Abort::from_command(&abort.to_command()), abort);
    }
}
