//! Zoned namespaces: Identify data, the commands and the report of zones. Zoned Namespace Command Set 1.1.

use crate::Command;
use crate::command::{join, split};
use crate::layout::{Field, layout};
use crate::opcode::zoned;

layout! {
    /// Identify Namespace of a zoned namespace (CNS 05h, CSI 02h). Section 4.1.5.1.
    pub struct ZonedNamespace[4096] {
        /// Zone operation characteristics.
        0 => zoc: u16,
        /// Optional zoned command support: bit 0 = reads may cross zones.
        2 => ozcs: u16,
        /// Maximum active zones, less one; [`NO_LIMIT`].
        4 => mar: u32,
        /// Maximum open zones, less one; [`NO_LIMIT`].
        8 => mor: u32,
        /// Zoned properties of each LBA format.
        2816 => lbafe: [ZonedFormat; 64],
    }
}

layout! {
    /// The zoned properties of an LBA format.
    pub struct ZonedFormat[16] {
        /// Blocks per zone.
        0 => zsze: u64,
        /// Length of a zone descriptor extension, in units of 64 bytes.
        8 => zdes: u8,
    }
}

layout! {
    /// Identify Controller for zoned namespaces (CNS 06h, CSI 02h). Section 4.1.5.2.
    pub struct ZonedController[4096] {
        /// The longest append is 2 ^ zasl times the smallest page size (CAP.MPSMIN); 0 = as long as any transfer.
        0 => zasl: u8,
    }
}

/// MAR and MOR: no limit.
pub const NO_LIMIT: u32 = u32::MAX;

/// Zone Management Send: an action on a zone. Section 3.4.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZoneManagementSend {
    /// Namespace.
    pub nsid: u32,
    /// First block of the zone.
    pub slba: u64,
    /// Action, one of [`action`].
    pub action: u8,
    /// Select all: the action is for all zones whose state allows it, and `slba` is ignored.
    pub all: bool,
}

/// Zone send actions (ZSA).
pub mod action {
    /// Close.
    pub const CLOSE: u8 = 0x01;
    /// Finish.
    pub const FINISH: u8 = 0x02;
    /// Open.
    pub const OPEN: u8 = 0x03;
    /// Reset.
    pub const RESET: u8 = 0x04;
    /// Offline.
    pub const OFFLINE: u8 = 0x05;
}

impl ZoneManagementSend {
    /// Reads the command's fields.
    #[must_use]
    pub const fn from_command(command: &Command) -> Self {
        Self {
            nsid: command.nsid(),
            slba: join(command.dw[10], command.dw[11]),
            action: (command.dw[13] & 0xff) as u8,
            all: command.dw[13] >> 8 & 1 == 1,
        }
    }

    /// Makes the command.
    #[must_use]
    pub const fn to_command(self) -> Command {
        let mut command = Command::new(zoned::ZONE_MANAGEMENT_SEND).with_nsid(self.nsid);
        (command.dw[10], command.dw[11]) = split(self.slba);
        command.dw[13] = self.action as u32 | (self.all as u32) << 8;
        command
    }
}

/// Zone Management Receive with the action Report Zones: as many of all zones as fit. Section 3.4.2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportZones {
    /// Namespace.
    pub nsid: u32,
    /// The report begins with the zone of this block.
    pub slba: u64,
    /// Length of the data, in dwords, minus one.
    pub numd: u32,
    /// Partial report: the number of zones in the header counts only the descriptors in the data.
    pub partial: bool,
}

impl ReportZones {
    /// Reads the command's fields. Ignores the actions besides Report Zones and its options.
    #[must_use]
    pub const fn from_command(command: &Command) -> Self {
        Self {
            nsid: command.nsid(),
            slba: join(command.dw[10], command.dw[11]),
            numd: command.dw[12],
            partial: command.dw[13] >> 16 & 1 == 1,
        }
    }

    /// Makes the command.
    #[must_use]
    pub const fn to_command(self) -> Command {
        let mut command = Command::new(zoned::ZONE_MANAGEMENT_RECEIVE).with_nsid(self.nsid);
        (command.dw[10], command.dw[11]) = split(self.slba);
        command.dw[12] = self.numd;
        command.dw[13] = (self.partial as u32) << 16;
        command
    }
}

/// Length of the header of a report, in bytes.
pub const REPORT_HEADER_LEN: usize = 64;

layout! {
    /// The descriptor of a zone in a report. Section 3.4.2.2.3.
    pub struct ZoneDescriptor[64] {
        /// Type, in bits 3:0; one of [`ZONE_TYPE_SEQUENTIAL`].
        0 => zt: u8,
        /// State, in bits 7:4; one of [`state`].
        1 => zs: u8,
        /// Attributes.
        2 => za: u8,
        /// Attribute information.
        3 => zai: u8,
        /// Capacity, in blocks.
        8 => zcap: u64,
        /// First block.
        16 => zslba: u64,
        /// Write pointer: the next block to write. Undefined when the zone is full, read-only or offline.
        24 => wp: u64,
    }
}

/// Sequential Write Required.
pub const ZONE_TYPE_SEQUENTIAL: u8 = 0x2;

/// Zone states (ZS).
pub mod state {
    /// Empty.
    pub const EMPTY: u8 = 0x1;
    /// Implicitly opened.
    pub const IMPLICITLY_OPEN: u8 = 0x2;
    /// Explicitly opened.
    pub const EXPLICITLY_OPEN: u8 = 0x3;
    /// Closed.
    pub const CLOSED: u8 = 0x4;
    /// Read only.
    pub const READ_ONLY: u8 = 0xd;
    /// Full.
    pub const FULL: u8 = 0xe;
    /// Offline.
    pub const OFFLINE: u8 = 0xf;
}

impl ZoneDescriptor {
    /// The type, without the reserved bits.
    #[must_use]
    pub const fn kind(&self) -> u8 {
        self.zt & 0xf
    }

    /// The state, without the reserved bits.
    #[must_use]
    pub const fn state(&self) -> u8 {
        self.zs >> 4
    }
}

/// Makes a report of these zones, `len` bytes long. The header counts all of `zones`, or with `partial` those that fit.
#[must_use]
pub fn report(zones: &[ZoneDescriptor], len: usize, partial: bool) -> Vec<u8> {
    let mut data = vec![0; len];
    let (header, descriptors) = data.split_at_mut(REPORT_HEADER_LEN.min(len));
    let (places, _) = descriptors.as_chunks_mut::<{ ZoneDescriptor::LEN }>();
    let fit = places.len().min(zones.len());
    places.iter_mut().zip(zones).for_each(|(place, zone)| *place = zone.encode());
    let count = if partial { fit } else { zones.len() };
    (count as u64).put(header, 0);
    data
}

/// Reads a report: the descriptors that it has and that its header counts.
pub fn parse_report(data: &[u8]) -> impl Iterator<Item = ZoneDescriptor> {
    let count = usize::try_from(u64::take(data, 0)).unwrap_or(usize::MAX);
    let (descriptors, _) =
        data.get(REPORT_HEADER_LEN..).unwrap_or_default().as_chunks::<{ ZoneDescriptor::LEN }>();
    descriptors.iter().take(count).map(ZoneDescriptor::parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(zslba: u64) -> ZoneDescriptor {
        let (zt, zs) = (ZONE_TYPE_SEQUENTIAL, state::FULL << 4);
        ZoneDescriptor { zt, zs, zcap: 7, zslba, wp: zslba, ..ZoneDescriptor::default() }
    }

    #[test]
    fn fields_are_at_the_bytes_of_the_specification() {
        let mut namespace = ZonedNamespace { mar: 13, mor: NO_LIMIT, ..ZonedNamespace::default() };
        namespace.lbafe[1].zsze = 0x1234;
        let bytes = namespace.encode();
        assert_eq!(bytes[4..12], [13, 0, 0, 0, 255, 255, 255, 255]);
        assert_eq!(bytes[2832..2834], [0x34, 0x12]);
        assert_eq!(ZonedNamespace::parse(&bytes), namespace);
        let bytes = zone(0x0102).encode();
        assert_eq!((bytes[0], bytes[1], bytes[8]), (2, 0xe0, 7));
        assert_eq!((bytes[16..18].to_vec(), bytes[24]), (vec![2, 1], 2));
        assert_eq!((zone(1).kind(), zone(1).state()), (2, state::FULL));
    }

    #[test]
    fn commands_keep_their_fields() {
        let send = ZoneManagementSend { nsid: 3, slba: 1 << 40, action: action::RESET, all: true };
        assert_eq!(send.to_command().dw[13], 0x104);
        assert_eq!(ZoneManagementSend::from_command(&send.to_command()), send);
        let report = ReportZones { nsid: 3, slba: 5, numd: 1023, partial: true };
        assert_eq!(report.to_command().dw[13], 1 << 16);
        assert_eq!(ReportZones::from_command(&report.to_command()), report);
    }

    #[test]
    fn a_report_is_read_up_to_its_count_and_its_end() {
        let zones = [zone(0), zone(8), zone(16)];
        let whole = report(&zones, 64 * 4, true);
        assert_eq!(parse_report(&whole).collect::<Vec<_>>(), zones);
        let cut = report(&zones, 64 * 2 + 63, false);
        assert_eq!(cut[0], 3);
        assert_eq!(parse_report(&cut).collect::<Vec<_>>(), zones[..1]);
        let partial = report(&zones, 64 * 3, true);
        assert_eq!((partial[0], parse_report(&partial).count()), (2, 2));
        assert_eq!(parse_report(&[0xff; 40]).count(), 0);
        assert_eq!(parse_report(&[0xff; 128]).count(), 1);
    }
}
