//! Zones: ranges of blocks that are written from the first block to the last, and reset as a whole.
//!
//! NVM Express Zoned Namespace Command Set 1.1 has the rules and the states.

use super::io::{BdevIo, IoResult};
use super::op::Op;
use crate::error::Status;
use drivebay_plugin_api::{self as api, bay_zone};

/// How a bdev is divided into zones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Zoning {
    /// Blocks per zone.
    pub zone_size: u64,
    /// Maximum number of open zones; 0 = no limit.
    pub max_open: u32,
    /// Maximum number of active zones: open or closed. 0 = no limit.
    pub max_active: u32,
    /// Number of zones that should be open at once for the best speed; 0 = unknown.
    pub optimal_open: u32,
    /// Maximum blocks of one append. 0 = no limit; the bus tells a client the real limit.
    pub max_append: u32,
}

/// One zone, as a bdev reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone {
    /// First block.
    pub lba: u64,
    /// Number of blocks that can be written, from the first one on.
    pub capacity: u64,
    /// The next block to write. It means nothing when the zone is full, read-only or offline.
    pub write_pointer: u64,
    /// State.
    pub state: ZoneState,
    /// Type.
    pub kind: ZoneKind,
}

/// The state of a zone. Zoned Namespace Command Set 1.1, section 2.1.1.2; the numbers are those of `ZS` in a zone descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneState {
    /// No block is written.
    Empty = 0x1,
    /// A write opened the zone.
    ImplicitlyOpen = 0x2,
    /// An action opened the zone.
    ExplicitlyOpen = 0x3,
    /// The zone is partly written and not open.
    Closed = 0x4,
    /// The zone can be read only, and not be reset.
    ReadOnly = 0xd,
    /// No block can be written before a reset.
    Full = 0xe,
    /// The zone cannot be used.
    Offline = 0xf,
}

/// The type of a zone; the numbers are those of `ZT` in a zone descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneKind {
    /// Sequential Write Required: writes must begin at the write pointer.
    SequentialWriteRequired = 0x2,
}

/// An action on a zone. Zoned Namespace Command Set 1.1, section 3.4.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneAction {
    /// Close the zone.
    Close,
    /// Finish the zone. It is full afterwards.
    Finish,
    /// Open the zone explicitly.
    Open,
    /// Reset the zone. It is empty afterwards.
    Reset,
    /// Take the zone offline.
    Offline,
}

impl ZoneState {
    /// The state with that number, if there is one.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0x1 => Self::Empty,
            0x2 => Self::ImplicitlyOpen,
            0x3 => Self::ExplicitlyOpen,
            0x4 => Self::Closed,
            0xd => Self::ReadOnly,
            0xe => Self::Full,
            0xf => Self::Offline,
            _ => return None,
        })
    }
}

impl ZoneAction {
    pub(super) const fn from_raw(raw: u64) -> Option<Self> {
        Some(match raw {
            api::BAY_ZONE_CLOSE => Self::Close,
            api::BAY_ZONE_FINISH => Self::Finish,
            api::BAY_ZONE_OPEN => Self::Open,
            api::BAY_ZONE_RESET => Self::Reset,
            api::BAY_ZONE_OFFLINE => Self::Offline,
            _ => return None,
        })
    }

    pub(super) const fn raw(self) -> u64 {
        match self {
            Self::Close => api::BAY_ZONE_CLOSE,
            Self::Finish => api::BAY_ZONE_FINISH,
            Self::Open => api::BAY_ZONE_OPEN,
            Self::Reset => api::BAY_ZONE_RESET,
            Self::Offline => api::BAY_ZONE_OFFLINE,
        }
    }
}

impl Zone {
    /// Length of one record in the data of a report, in bytes.
    pub const RECORD_LEN: usize = size_of::<bay_zone>();

    /// Writes the record of a report. All targets are little-endian.
    fn to_record(self) -> [u8; Self::RECORD_LEN] {
        let Self { lba, capacity, write_pointer, state, kind } = self;
        let mut record = [0; Self::RECORD_LEN];
        let words = [lba, capacity, write_pointer].into_iter().flat_map(u64::to_le_bytes);
        let bytes = words.chain([state as u8, kind as u8]);
        record.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
        record
    }

    /// Reads the records of a report: as many as `data` has. `None` for a record that no zone can have.
    pub(crate) fn from_records(data: &[u8]) -> impl Iterator<Item = Option<Self>> {
        let (records, _) = data.as_chunks::<{ Self::RECORD_LEN }>();
        records.iter().map(Self::from_record)
    }

    fn from_record(record: &[u8; Self::RECORD_LEN]) -> Option<Self> {
        let ([lba, capacity, write_pointer, rest], _) = record.as_chunks::<8>() else {
            return None;
        };
        let [state, kind, ..] = *rest;
        let is_known = kind == ZoneKind::SequentialWriteRequired as u8;
        Some(Self {
            lba: u64::from_le_bytes(*lba),
            capacity: u64::from_le_bytes(*capacity),
            write_pointer: u64::from_le_bytes(*write_pointer),
            state: ZoneState::from_number(state)?,
            kind: is_known.then_some(ZoneKind::SequentialWriteRequired)?,
        })
    }
}

impl BdevIo {
    /// Completes a [`Op::ZoneReport`] with the first zones of `zones`, as many as the client wants.
    pub fn complete_with_zones(self, zones: impl IntoIterator<Item = Zone>) {
        let result = self.put_zones(zones);
        self.complete_with(result);
    }

    /// Writes zones into the buffers of a [`Op::ZoneReport`], as many as the client wants. Returns the result to complete it with.
    #[must_use]
    pub fn put_zones(&self, zones: impl IntoIterator<Item = Zone>) -> IoResult {
        let Op::ZoneReport { most, .. } = self.op() else { return IoResult::new(Status::INVALID) };
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let count = zones.into_iter().take(most).enumerate().fold(0, |_, (place, zone)| {
            self.buffers().fill_at(place * Zone::RECORD_LEN, &zone.to_record());
            place as u64 + 1
        });
        IoResult::with_block(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_read_as_it_was_written() {
        let zone = Zone {
            lba: 1 << 40,
            capacity: 77,
            write_pointer: (1 << 40) + 5,
            state: ZoneState::ImplicitlyOpen,
            kind: ZoneKind::SequentialWriteRequired,
        };
        let mut records = [zone.to_record(), zone.to_record()].concat();
        assert_eq!(Zone::from_records(&records).collect::<Vec<_>>(), [Some(zone); 2]);
        records[24] = 9; // no such state
        records[32 + 25] = 1; // no such type
        assert_eq!(Zone::from_records(&records).collect::<Vec<_>>(), [None; 2]);
    }

    #[test]
    fn states_and_actions_keep_their_numbers() {
        let states = (0..=u8::MAX).filter_map(|n| Some((n, ZoneState::from_number(n)? as u8)));
        assert!(states.into_iter().all(|(number, state)| number == state));
        let actions = (0..=8).filter_map(|n| Some((n, ZoneAction::from_raw(n)?.raw())));
        assert_eq!(actions.filter(|(number, raw)| number == raw).count(), 5);
    }
}
