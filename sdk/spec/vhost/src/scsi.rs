//! The virtio SCSI host device. virtio 1.3, section 5.6.

use crate::bytes::Reader;

/// Length of a request's header, in bytes. The data for the device follows it.
pub const REQUEST_LEN: usize = 8 + 8 + 3 + CDB_LEN;
/// Length of a response, in bytes. The data from the device follows it.
pub const RESPONSE_LEN: usize = 12 + SENSE_LEN;
/// Length of the CDB field, in bytes.
pub const CDB_LEN: usize = 32;
/// Length of the field for sense data, in bytes.
pub const SENSE_LEN: usize = 96;
/// Maximum length of a request of the control queue, in bytes.
pub const CONTROL_LEN: usize = 24;
/// Length of an event, in bytes.
pub const EVENT_LEN: usize = 16;

/// Number of the control queue.
pub const CONTROL_QUEUE: usize = 0;
/// Number of the event queue. The queues after it carry requests.
pub const EVENT_QUEUE: usize = 1;

/// Feature bits of the device, as masks.
pub mod feature {
    /// A request may have data in both directions.
    pub const INOUT: u64 = 1 << 0;
    /// Events report that a target was added or removed.
    pub const HOTPLUG: u64 = 1 << 1;
    /// Events report that a unit's parameters changed.
    pub const CHANGE: u64 = 1 << 2;
}

/// Result of a request or of a task management function.
pub mod response {
    /// The request completed, and the SCSI status is valid.
    pub const OK: u8 = 0;
    /// The request has more data than its buffers.
    pub const OVERRUN: u8 = 1;
    /// A task management function ended it.
    pub const ABORTED: u8 = 2;
    /// The target does not exist.
    pub const BAD_TARGET: u8 = 3;
    /// Any other failure.
    pub const FAILURE: u8 = 9;
    /// The function succeeded, for example a query has found its task.
    pub const FUNCTION_SUCCEEDED: u8 = 10;
    /// The function is not supported.
    pub const FUNCTION_REJECTED: u8 = 11;
    /// The unit does not exist.
    pub const INCORRECT_LUN: u8 = 12;
}

/// Events and their reasons.
pub mod event {
    /// Flag in the event number: events were lost.
    pub const MISSED: u32 = 1 << 31;
    /// No event.
    pub const NONE: u32 = 0;
    /// A target was added or removed.
    pub const TRANSPORT_RESET: u32 = 1;
    /// A unit's parameters changed. The reason is the additional sense code, with the code in the low byte.
    pub const PARAMETER_CHANGE: u32 = 3;
    /// Reason of a transport reset: a target was added.
    pub const RESCAN: u32 = 1;
    /// Reason of a transport reset: the target was removed.
    pub const REMOVED: u32 = 2;
    /// Reason of a parameter change: the capacity changed.
    pub const CAPACITY: u32 = 0x092a;
}

/// The address of a unit, in requests and events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The target.
    pub target: u8,
    /// The unit, as an 8-byte LUN of SAM.
    pub lun: u64,
}

impl Address {
    /// Parses 8 bytes: 1, the target, a one-level LUN. `None` for any other form.
    #[must_use]
    pub const fn parse(bytes: [u8; 8]) -> Option<Self> {
        let [1, target, high, low, 0, 0, 0, 0] = bytes else { return None };
        Some(Self { target, lun: (high as u64) << 56 | (low as u64) << 48 })
    }

    /// The address of unit 0 of a target in an event. Linux reads bytes 2 and 3 as the number of the unit, so they have no
    /// address method.
    #[must_use]
    pub const fn of_target(target: u8) -> [u8; 8] {
        [1, target, 0, 0, 0, 0, 0, 0]
    }
}

/// The header of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The unit; `None` when the bytes are not a valid address.
    pub address: Option<Address>,
    /// The driver's tag of the request.
    pub tag: u64,
    /// The command: the first 16 bytes of the CDB field.
    pub cdb: [u8; 16],
}

impl Request {
    /// Parses a header.
    #[must_use]
    pub fn parse(bytes: &[u8; REQUEST_LEN]) -> Option<Self> {
        let mut r = Reader(bytes);
        let (address, tag) = (Address::parse(r.array()?), r.u64()?);
        let _attributes: [u8; 3] = r.array()?;
        Some(Self { address, tag, cdb: r.array()? })
    }

    /// Encodes the header of a request for unit 0 of a target.
    #[must_use]
    pub fn to_bytes(target: u8, tag: u64, cdb: &[u8; 16]) -> [u8; REQUEST_LEN] {
        let mut bytes = [0; REQUEST_LEN];
        let all = Address::of_target(target).into_iter().chain(tag.to_le_bytes());
        // Task attribute (simple), priority and CRN.
        for (place, byte) in bytes.iter_mut().zip(all.chain([0; 3]).chain(*cdb)) {
            *place = byte;
        }
        bytes
    }
}

/// The result of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Response<'a> {
    /// One of [`response`].
    pub response: u8,
    /// SCSI status.
    pub status: u8,
    /// Number of bytes of the buffers that were not transferred.
    pub residual: u32,
    /// Sense data, truncated to [`SENSE_LEN`].
    pub sense: &'a [u8],
}

impl Response<'_> {
    /// Encodes the response.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; RESPONSE_LEN] {
        let mut bytes = [0; RESPONSE_LEN];
        let sense_len = u32::try_from(self.sense.len().min(SENSE_LEN)).unwrap_or(0);
        let head = sense_len.to_le_bytes().into_iter().chain(self.residual.to_le_bytes());
        let head = head.chain([0, 0, self.status, self.response]);
        for (place, byte) in bytes.iter_mut().zip(head.chain(self.sense.iter().copied())) {
            *place = byte;
        }
        bytes
    }
}

impl<'a> Response<'a> {
    /// Parses a response. The sense data is no longer than its field, whatever length the device gives.
    #[must_use]
    pub fn parse(bytes: &'a [u8; RESPONSE_LEN]) -> Option<Self> {
        let mut r = Reader(bytes);
        let (sense_len, residual) = (r.u32()?, r.u32()?);
        let [_, _, status, response] = r.array()?;
        let sense_len = usize::try_from(sense_len).unwrap_or(SENSE_LEN).min(r.0.len());
        Some(Self { response, status, residual, sense: bytes.get(12..12 + sense_len)? })
    }
}

/// An event of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// One of [`event`], without the flag [`event::MISSED`].
    pub event: u32,
    /// Whether the device lost events.
    pub missed: bool,
    /// The target; `None` when the bytes are not a valid address.
    pub target: Option<u8>,
    /// The reason, which depends on the event.
    pub reason: u32,
}

impl Event {
    /// Parses an event.
    #[must_use]
    pub fn parse(bytes: &[u8; EVENT_LEN]) -> Option<Self> {
        let mut r = Reader(bytes);
        let (event, address) = (r.u32()?, Address::parse(r.array()?));
        Some(Self {
            event: event & !event::MISSED,
            missed: event & event::MISSED != 0,
            target: address.map(|address| address.target),
            reason: r.u32()?,
        })
    }
}

/// Length of the configuration space, in bytes.
pub const CONFIG_LEN: usize = 36;

/// What a driver needs of the configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Number of request queues.
    pub num_queues: u32,
    /// Most segments of the data of a request.
    pub segments_max: u32,
    /// Length of the field for sense data, in bytes.
    pub sense_len: u32,
    /// Length of the CDB field, in bytes.
    pub cdb_len: u32,
    /// Highest target.
    pub target_max: u16,
}

impl Config {
    /// Parses the configuration space. `None` when it is cut off.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader(bytes.get(..CONFIG_LEN)?);
        let (num_queues, segments_max) = (r.u32()?, r.u32()?);
        let (_sectors, _commands, _event_len) = (r.u32()?, r.u32()?, r.u32()?);
        let (sense_len, cdb_len) = (r.u32()?, r.u32()?);
        let (_channel, target_max) = (r.u16()?, r.u16()?);
        Some(Self { num_queues, segments_max, sense_len, cdb_len, target_max })
    }
}

/// A request of the control queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// A task management function.
    Manage {
        /// The function; `None` = unknown.
        function: Option<Function>,
        /// The unit.
        address: Option<Address>,
        /// Tag of the task that the function is for.
        tag: u64,
    },
    /// A query of asynchronous notifications, or a subscription to them.
    Notifications,
}

/// Task management functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are SAM's")]
pub enum Function {
    AbortTask,
    AbortTaskSet,
    ClearTaskSet,
    NexusReset,
    UnitReset,
    QueryTask,
    QueryTaskSet,
}

impl Control {
    /// Parses a request of the control queue. `None` when it is incomplete or unknown.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader(bytes);
        match r.u32()? {
            0 => {
                let function = match r.u32()? {
                    0 => Some(Function::AbortTask),
                    1 => Some(Function::AbortTaskSet),
                    3 => Some(Function::ClearTaskSet),
                    4 => Some(Function::NexusReset),
                    5 => Some(Function::UnitReset),
                    6 => Some(Function::QueryTask),
                    7 => Some(Function::QueryTaskSet),
                    _ => None,
                };
                let (address, tag) = (Address::parse(r.array()?), r.u64()?);
                Some(Self::Manage { function, address, tag })
            }
            1 | 2 => Some(Self::Notifications),
            _ => None,
        }
    }
}

/// Encodes an event.
#[must_use]
pub fn event_bytes(event: u32, target: u8, reason: u32) -> [u8; EVENT_LEN] {
    let mut bytes = [0; EVENT_LEN];
    let lun = if event == event::NONE { [0; 8] } else { Address::of_target(target) };
    let all = event.to_le_bytes().into_iter().chain(lun).chain(reason.to_le_bytes());
    for (place, byte) in bytes.iter_mut().zip(all) {
        *place = byte;
    }
    bytes
}

/// Encodes the configuration space.
#[must_use]
pub fn config_bytes(num_queues: u32, targets: u16) -> Vec<u8> {
    let event_len = u32::try_from(EVENT_LEN).unwrap_or(0);
    let (sense_len, cdb_len) = (u32::try_from(SENSE_LEN), u32::try_from(CDB_LEN));
    let words = [
        num_queues,
        SEGMENTS_MAX,
        SECTORS_MAX,
        COMMANDS_MAX,
        event_len,
        sense_len.unwrap_or(0),
        cdb_len.unwrap_or(0),
    ];
    let mut bytes = words.map(u32::to_le_bytes).concat();
    bytes.extend_from_slice(&0_u16.to_le_bytes());
    bytes.extend_from_slice(&targets.saturating_sub(1).to_le_bytes());
    bytes.extend_from_slice(&LUN_MAX.to_le_bytes());
    bytes
}

/// Maximum number of segments of a request, without header and response.
const SEGMENTS_MAX: u32 = 126;
/// Maximum length of a request, in sectors of 512 bytes: 64 MiB.
const SECTORS_MAX: u32 = 1 << 17;
/// Maximum number of concurrent commands of a unit.
const COMMANDS_MAX: u32 = 128;
/// Highest LUN. Drivers search for units up to it.
const LUN_MAX: u32 = 16383;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_its_unit_and_carries_its_command() {
        let mut bytes = [0; REQUEST_LEN];
        bytes[..4].copy_from_slice(&[1, 3, 0x40, 2]);
        bytes[8..16].copy_from_slice(&9_u64.to_le_bytes());
        bytes[19] = 0x28;
        let request = Request::parse(&bytes).unwrap();
        assert_eq!(request.address, Some(Address { target: 3, lun: 0x4002 << 48 }));
        assert_eq!((request.tag, request.cdb[0]), (9, 0x28));
        bytes[0] = 0xc1;
        assert_eq!(Request::parse(&bytes).unwrap().address, None);
    }

    #[test]
    fn a_response_has_its_fields_in_their_places() {
        let response = Response { response: 1, status: 2, residual: 512, sense: &[0x70, 0, 5] };
        let bytes = response.to_bytes();
        assert_eq!(bytes[..12], [3, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2, 1]);
        assert_eq!(bytes[12..16], [0x70, 0, 5, 0]);
        let long = Response { sense: &[1; 200], ..Response::default() }.to_bytes();
        assert_eq!(long[..4], [96, 0, 0, 0]);
    }

    #[test]
    fn known_functions_are_told_apart_from_unknown_ones() {
        let mut bytes = [0; CONTROL_LEN];
        bytes[4] = 5;
        bytes[8] = 1;
        let address = Some(Address { target: 0, lun: 0 });
        let function = Some(Function::UnitReset);
        assert_eq!(Control::parse(&bytes), Some(Control::Manage { function, address, tag: 0 }));
        bytes[4] = 2;
        assert!(matches!(Control::parse(&bytes), Some(Control::Manage { function: None, .. })));
        bytes[0] = 1;
        assert_eq!(Control::parse(&bytes), Some(Control::Notifications));
        bytes[0] = 3;
        assert_eq!(Control::parse(&bytes), None);
        assert_eq!(Control::parse(&[0; 23]), None, "cut off");
    }

    #[test]
    fn an_event_names_its_target() {
        let mut bytes = event_bytes(event::TRANSPORT_RESET, 4, event::REMOVED);
        assert_eq!(bytes, [1, 0, 0, 0, 1, 4, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]);
        let (event, reason) = (event::TRANSPORT_RESET, event::REMOVED);
        let read = Event { event, missed: false, target: Some(4), reason };
        assert_eq!(Event::parse(&bytes), Some(read));
        bytes[3] = 0x80;
        assert_eq!(Event::parse(&bytes), Some(Event { missed: true, ..read }));
    }

    #[test]
    fn the_driver_reads_what_the_device_writes() {
        let cdb = [7; 16];
        let header = Request::to_bytes(3, 9, &cdb);
        let address = Some(Address { target: 3, lun: 0 });
        assert_eq!(Request::parse(&header), Some(Request { address, tag: 9, cdb }));
        let response = Response { response: 1, status: 2, residual: 512, sense: &[0x70, 0, 5] };
        assert_eq!(Response::parse(&response.to_bytes()), Some(response));
        let mut lies = response.to_bytes();
        lies[..4].copy_from_slice(&[0xff; 4]);
        assert_eq!(Response::parse(&lies).unwrap().sense.len(), SENSE_LEN);
        let config = Config::parse(&config_bytes(4, 8)).unwrap();
        assert_eq!((config.num_queues, config.target_max, config.cdb_len), (4, 7, 32));
        assert_eq!(Config::parse(&config_bytes(4, 8)[..35]), None);
    }
}
