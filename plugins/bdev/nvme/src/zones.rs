//! The operations of the bus on zones, as commands of zoned namespaces, and the report that a controller sends.

use drivebay_nvme_driver::spec::zns::{
    REPORT_HEADER_LEN, ReportZones, ZoneDescriptor, ZoneManagementSend, action, parse_report,
};
use drivebay_nvme_driver::spec::{Command, Status as NvmeStatus};
use drivebay_sdk::bdev::{Zone, ZoneAction, ZoneKind, ZoneState};
use drivebay_sdk::prelude::*;

/// Maximum number of zones in one report. Their descriptors are 8 KiB long, and every controller takes that much data.
const ZONES_MAX: usize = 127;

/// The command for a report of at most `most` zones from block `first` on, and the memory for its data.
pub(crate) fn report(nsid: u32, first: u64, most: u64) -> (Command, Vec<u8>) {
    let zones = usize::try_from(most).unwrap_or(ZONES_MAX).min(ZONES_MAX);
    let memory = vec![0; REPORT_HEADER_LEN + zones * ZoneDescriptor::LEN];
    let numd = u32::try_from(memory.len() / 4 - 1).unwrap_or(0);
    (ReportZones { nsid, slba: first, numd, partial: true }.to_command(), memory)
}

/// The command for an action on one zone, or on all.
pub(crate) fn manage(nsid: u32, zone: Option<u64>, zone_action: ZoneAction) -> Command {
    let action = match zone_action {
        ZoneAction::Close => action::CLOSE,
        ZoneAction::Finish => action::FINISH,
        ZoneAction::Open => action::OPEN,
        ZoneAction::Reset => action::RESET,
        ZoneAction::Offline => action::OFFLINE,
    };
    let (slba, all) = (zone.unwrap_or(0), zone.is_none());
    ZoneManagementSend { nsid, slba, action, all }.to_command()
}

/// Passes a controller's report on to the client of `io`. The report begins with the zone at block `first`.
pub(crate) fn reported(io: &BdevIo, first: u64, zone_size: u64, report: &[u8]) -> IoResult {
    match parse(first, zone_size, report) {
        Some(zones) => io.put_zones(zones),
        None => IoResult::new(Status::IO_ERROR),
    }
}

/// The result of an append to the zone at block `zone`, whose data begin at the block that the controller names.
pub(crate) fn appended(zone: u64, nblocks: u64, zone_size: u64, block: u64) -> IoResult {
    match block.checked_sub(zone) {
        Some(into) if into < zone_size && nblocks <= zone_size - into => {
            IoResult::with_block(block)
        }
        _ => IoResult::new(Status::IO_ERROR),
    }
}

/// The zones of a report; `None` when they do not follow each other from `first` on, have an unknown type or state, or blocks beyond
/// their end.
fn parse(first: u64, zone_size: u64, report: &[u8]) -> Option<Vec<Zone>> {
    let mut next = Some(first);
    let to_zone = |zone: ZoneDescriptor| {
        let start = next.filter(|start| *start == zone.zslba)?;
        next = start.checked_add(zone_size);
        to_zone(&zone).filter(|zone| has_room(zone, zone_size))
    };
    parse_report(report).map(to_zone).collect()
}

/// Whether the zone's blocks and its write pointer are inside of it.
fn has_room(zone: &Zone, zone_size: u64) -> bool {
    use ZoneState::{Full, Offline, ReadOnly};
    let has_pointer = !matches!(zone.state, Full | ReadOnly | Offline);
    let written = zone.write_pointer.checked_sub(zone.lba);
    let is_inside = written.is_some_and(|written| written <= zone.capacity);
    zone.capacity <= zone_size && (is_inside || !has_pointer)
}

fn to_zone(zone: &ZoneDescriptor) -> Option<Zone> {
    let kind = ZoneKind::SequentialWriteRequired;
    (zone.kind() == kind as u8).then_some(())?;
    Some(Zone {
        lba: zone.zslba,
        capacity: zone.zcap,
        write_pointer: zone.wp,
        state: ZoneState::from_number(zone.state())?,
        kind,
    })
}

/// Whether a zone refuses the command, so that the same command would fail again.
pub(crate) fn is_refusal(status: NvmeStatus) -> bool {
    matches!(
        status.code(),
        NvmeStatus::ZONE_BOUNDARY_ERROR
            | NvmeStatus::ZONE_IS_FULL
            | NvmeStatus::ZONE_IS_READ_ONLY
            | NvmeStatus::ZONE_IS_OFFLINE
            | NvmeStatus::ZONE_INVALID_WRITE
            | NvmeStatus::TOO_MANY_ACTIVE_ZONES
            | NvmeStatus::TOO_MANY_OPEN_ZONES
            | NvmeStatus::INVALID_ZONE_STATE_TRANSITION
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use drivebay_nvme_driver::spec::zns::{self, ZONE_TYPE_SEQUENTIAL, state};

    fn zone(zslba: u64) -> ZoneDescriptor {
        let (zt, zs) = (ZONE_TYPE_SEQUENTIAL, state::CLOSED << 4);
        ZoneDescriptor { zt, zs, zcap: 6, zslba, wp: zslba + 1, ..ZoneDescriptor::default() }
    }

    #[test]
    fn a_report_asks_for_the_zones_that_the_client_wants_up_to_a_limit() {
        let (command, memory) = report(3, 16, 2);
        let asked = ReportZones::from_command(&command);
        assert_eq!((asked.slba, asked.numd, asked.partial), (16, 47, true));
        assert_eq!(memory.len(), 192);
        assert_eq!(report(3, 0, u64::MAX).1.len(), 8192);
    }

    #[test]
    fn a_report_that_makes_no_sense_is_refused() {
        let parsed = |zones: &[ZoneDescriptor]| parse(8, 8, &zns::report(zones, 64 * 4, true));
        let good = parsed(&[zone(8), zone(16)]).unwrap();
        assert_eq!((good[1].lba, good[1].write_pointer), (16, 17));
        assert_eq!(good[0].state, ZoneState::Closed);
        assert_eq!(parsed(&[zone(16)]), None, "it begins elsewhere");
        assert_eq!(parsed(&[zone(8), zone(8)]), None, "the same zone twice");
        assert_eq!(parsed(&[zone(8), zone(24)]), None, "a gap");
        assert_eq!(parsed(&[ZoneDescriptor { zcap: 9, ..zone(8) }]), None, "it is too long");
        for wp in [7, 15, u64::MAX] {
            assert_eq!(parsed(&[ZoneDescriptor { wp, ..zone(8) }]), None, "writes go elsewhere");
        }
        let full = ZoneDescriptor { zs: state::FULL << 4, wp: u64::MAX, ..zone(8) };
        assert!(parsed(&[full]).is_some(), "a full zone has no write pointer");
        let last = parse(u64::MAX - 7, 8, &zns::report(&[zone(u64::MAX - 7), zone(0)], 256, true));
        assert_eq!(last, None, "behind the last block");
        assert_eq!(parsed(&[ZoneDescriptor { zs: 0, ..zone(8) }]), None, "no such state");
        assert_eq!(parsed(&[ZoneDescriptor { zt: 1, ..zone(8) }]), None, "no such type");
    }

    #[test]
    fn an_append_that_landed_outside_of_its_zone_has_failed() {
        let first = |block| appended(8, 2, 8, block);
        assert_eq!(first(14), IoResult::with_block(14));
        for block in [0, 7, 15, 16, u64::MAX] {
            assert_eq!(first(block), IoResult::new(Status::IO_ERROR), "{block}");
        }
    }

    #[test]
    fn an_action_on_all_zones_names_none() {
        let send = ZoneManagementSend::from_command(&manage(1, None, ZoneAction::Finish));
        assert_eq!((send.all, send.slba, send.action), (true, 0, action::FINISH));
        let send = ZoneManagementSend::from_command(&manage(1, Some(8), ZoneAction::Offline));
        assert_eq!((send.all, send.slba, send.action), (false, 8, action::OFFLINE));
    }
}
