//! Reservation commands, their data, and the notification log page. NVMe Base 2.0, sections 7.2 to 7.5 and 5.16.1.15.

use crate::{Command, Status};

/// Types of reservations. NVMe Base 2.0, figure 424.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Type {
    /// Only the holder may write; every host may read.
    WriteExclusive = 1,
    /// Only the holder may write and read.
    ExclusiveAccess = 2,
    /// Only registrants may write; every host may read.
    WriteExclusiveRegistrants = 3,
    /// Only registrants may write and read.
    ExclusiveAccessRegistrants = 4,
    /// Every registrant is a holder. Only registrants may write; every host may read.
    WriteExclusiveAll = 5,
    /// Every registrant is a holder. Only registrants may write and read.
    ExclusiveAccessAll = 6,
}

impl Type {
    /// Returns the type with this code; `None` for an unknown code.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            1 => Self::WriteExclusive,
            2 => Self::ExclusiveAccess,
            3 => Self::WriteExclusiveRegistrants,
            4 => Self::ExclusiveAccessRegistrants,
            5 => Self::WriteExclusiveAll,
            6 => Self::ExclusiveAccessAll,
            _ => return None,
        })
    }
}

/// The action of Reservation Register (RREGA).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterAction {
    /// Registers a key.
    Register,
    /// Removes the registration.
    Unregister,
    /// Replaces the key.
    Replace,
}

/// How Reservation Register changes persistence through a loss of power (CPTPL).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// Persistence does not change.
    Keep,
    /// A loss of power removes reservations and registrations.
    Off,
    /// Reservations and registrations survive a loss of power.
    On,
}

/// Reservation Register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// The action of the command.
    pub action: RegisterAction,
    /// The controller does not compare the current key (IEKEY).
    pub ignores_key: bool,
    /// Persistence.
    pub persistence: Persistence,
}

/// The action of Reservation Acquire (RACQA).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcquireAction {
    /// Takes the reservation.
    Acquire,
    /// Preempt: removes the registrations with a key, and takes the reservation if one of them holds it.
    Preempt,
    /// Preempt and Abort: also aborts the commands of the removed registrants.
    PreemptAndAbort,
}

/// Reservation Acquire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acquire {
    /// The action of the command.
    pub action: AcquireAction,
    /// Type of the reservation.
    pub kind: Type,
}

/// Reservation Release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// Whether the command clears the reservation and every registration, instead of releasing the reservation.
    pub clears: bool,
    /// Type of the reservation. The controller ignores it when the command clears.
    pub kind: Option<Type>,
}

/// Reservation Report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Length of the data that the host requests, in bytes.
    pub len: u64,
    /// Whether the host requests host identifiers of 128 bits.
    pub is_extended: bool,
}

/// Reservation commands with IEKEY set where it may not be, and fields without a meaning.
const INVALID: Status = Status::INVALID_FIELD.with_dnr();

const fn ignores_key(cdw10: u32) -> bool {
    cdw10 >> 3 & 1 == 1
}

#[allow(clippy::cast_possible_truncation, reason = "8 bits are left")]
const fn kind_bits(cdw10: u32) -> u8 {
    (cdw10 >> 8 & 0xff) as u8
}

impl Register {
    /// Length of its data, in bytes: the current key, then the new one.
    pub const DATA_LEN: usize = 16;

    /// Reads the command's fields.
    ///
    /// # Errors
    /// [`Status::INVALID_FIELD`] for fields without a meaning.
    pub fn from_command(command: &Command) -> Result<Self, Status> {
        let [.., cdw10, _, _, _, _, _] = command.dw;
        let action = match cdw10 & 7 {
            0 => RegisterAction::Register,
            1 => RegisterAction::Unregister,
            2 => RegisterAction::Replace,
            _ => return Err(INVALID),
        };
        let persistence = match cdw10 >> 30 {
            0 => Persistence::Keep,
            2 => Persistence::Off,
            3 => Persistence::On,
            _ => return Err(INVALID),
        };
        Ok(Self { action, ignores_key: ignores_key(cdw10), persistence })
    }
}

impl Acquire {
    /// Length of its data, in bytes: the current key, then the key to preempt.
    pub const DATA_LEN: usize = 16;

    /// Reads the command's fields.
    ///
    /// # Errors
    /// [`Status::INVALID_FIELD`] for fields without a meaning.
    pub fn from_command(command: &Command) -> Result<Self, Status> {
        let [.., cdw10, _, _, _, _, _] = command.dw;
        let action = match cdw10 & 7 {
            0 => AcquireAction::Acquire,
            1 => AcquireAction::Preempt,
            2 => AcquireAction::PreemptAndAbort,
            _ => return Err(INVALID),
        };
        match Type::from_bits(kind_bits(cdw10)) {
            Some(kind) if !ignores_key(cdw10) => Ok(Self { action, kind }),
            _ => Err(INVALID),
        }
    }
}

impl Release {
    /// Length of its data, in bytes: the current key.
    pub const DATA_LEN: usize = 8;

    /// Reads the command's fields.
    ///
    /// # Errors
    /// [`Status::INVALID_FIELD`] for fields without a meaning.
    pub fn from_command(command: &Command) -> Result<Self, Status> {
        let [.., cdw10, _, _, _, _, _] = command.dw;
        let kind = Type::from_bits(kind_bits(cdw10));
        match cdw10 & 7 {
            _ if ignores_key(cdw10) => Err(INVALID),
            0 if kind.is_some() => Ok(Self { clears: false, kind }),
            1 => Ok(Self { clears: true, kind }),
            _ => Err(INVALID),
        }
    }
}

impl Report {
    /// Reads the command's fields.
    #[must_use]
    pub fn from_command(command: &Command) -> Self {
        let [.., numd, cdw11, _, _, _, _] = command.dw;
        Self { len: (u64::from(numd) + 1) * 4, is_extended: cdw11 & 1 == 1 }
    }
}

/// The two keys of a command's data; zeroes past its end.
#[must_use]
pub fn keys(data: &[u8]) -> (u64, u64) {
    let at = |offset: usize| {
        let bytes = data.get(offset..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    (at(0), at(8))
}

/// A registered controller in the data of Reservation Report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Identifier of the controller; FFFFh when the host has no controller now.
    pub cntlid: u16,
    /// Whether its host holds the reservation.
    pub holds: bool,
    /// Key of the registration.
    pub key: u64,
    /// Identifier of the host.
    pub hostid: [u8; 16],
}

/// The data of Reservation Report with identifiers of 128 bits. `is_persistent`: reservations outlast a loss of power.
#[must_use]
pub fn extended_report(
    generation: u32,
    kind: Option<Type>,
    is_persistent: bool,
    registered: &[Registered],
) -> Vec<u8> {
    let mut data = Vec::with_capacity(64 * (registered.len() + 1));
    let count = u16::try_from(registered.len()).unwrap_or(u16::MAX);
    data.extend(generation.to_le_bytes());
    data.push(kind.map_or(0, |kind| kind as u8));
    data.extend(count.to_le_bytes());
    data.extend([0, 0, u8::from(is_persistent)]);
    data.resize(64, 0);
    for one in registered {
        data.extend(one.cntlid.to_le_bytes());
        data.extend([u8::from(one.holds), 0, 0, 0, 0, 0]);
        data.extend(one.key.to_le_bytes());
        data.extend(one.hostid);
        data.extend([0; 32]);
    }
    data
}

/// The kind of a reservation notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Notification {
    /// The host's registration was preempted.
    RegistrationPreempted = 1,
    /// The reservation was released.
    ReservationReleased = 2,
    /// The reservation and all registrations were preempted.
    ReservationPreempted = 3,
}

impl Notification {
    /// The bit of this kind in the Reservation Notification Mask.
    #[must_use]
    pub const fn mask_bit(self) -> u32 {
        1 << self as u32
    }
}

/// Encodes the Reservation Notification log page. `count` is the number of this page among all pages of the controller, `left` the number
/// of pages that follow it. Without a notification the page is empty.
#[must_use]
pub fn notification_page(
    count: u64,
    notification: Option<(Notification, u32)>,
    left: usize,
) -> [u8; 64] {
    let mut page = [0; 64];
    let Some((notification, nsid)) = notification else { return page };
    let left = u8::try_from(left).unwrap_or(u8::MAX);
    let head: Vec<u8> =
        [count.to_le_bytes().as_slice(), &[notification as u8, left, 0, 0], &nsid.to_le_bytes()]
            .concat();
    for (place, byte) in page.iter_mut().zip(head) {
        *place = byte;
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opcode::nvm;

    fn command(opcode: u8, cdw10: u32) -> Command {
        let mut command = Command::new(opcode);
        command.dw[10] = cdw10;
        command
    }

    #[test]
    fn fields_lie_where_the_figures_say() {
        let register = Register::from_command(&command(nvm::RESERVATION_REGISTER, 3 << 30 | 0xa));
        let expected = Register {
            action: RegisterAction::Replace,
            ignores_key: true,
            persistence: Persistence::On,
        };
        assert_eq!(register, Ok(expected));
        let acquire = Acquire::from_command(&command(nvm::RESERVATION_ACQUIRE, 4 << 8 | 1));
        let expected =
            Acquire { action: AcquireAction::Preempt, kind: Type::ExclusiveAccessRegistrants };
        assert_eq!(acquire, Ok(expected));
        let release = Release::from_command(&command(nvm::RESERVATION_RELEASE, 1));
        assert_eq!(release, Ok(Release { clears: true, kind: None }));
        let mut report = command(nvm::RESERVATION_REPORT, 15);
        report.dw[11] = 1;
        assert_eq!(Report::from_command(&report), Report { len: 64, is_extended: true });
        assert_eq!(keys(&[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]), (1, 2));
        assert_eq!(keys(&[1, 0, 0, 0, 0, 0, 0, 0, 2]), (1, 0));
    }

    #[test]
    fn fields_without_a_meaning_are_refused() {
        for cdw10 in [3, 1 << 30] {
            assert_eq!(Register::from_command(&command(0, cdw10)), Err(INVALID), "{cdw10:#x}");
        }
        for cdw10 in [0, 1 << 8 | 3, 1 << 8 | 8, 7 << 8] {
            assert_eq!(Acquire::from_command(&command(0, cdw10)), Err(INVALID), "{cdw10:#x}");
        }
        for cdw10 in [0, 2, 1 << 8 | 8, 7 << 8] {
            assert_eq!(Release::from_command(&command(0, cdw10)), Err(INVALID), "{cdw10:#x}");
        }
    }

    #[test]
    fn a_report_has_a_header_and_64_bytes_for_each_registrant() {
        let one = Registered { cntlid: 0x0102, holds: true, key: 5, hostid: [9; 16] };
        let data = extended_report(7, Some(Type::WriteExclusiveAll), true, &[one]);
        assert_eq!(data.len(), 128);
        assert_eq!(data[..10], [7, 0, 0, 0, 5, 1, 0, 0, 0, 1]);
        assert_eq!(data[64..68], [2, 1, 1, 0]);
        assert_eq!((data[72], data[80], data[95], data[96]), (5, 9, 9, 0));
    }

    #[test]
    fn a_notification_page_names_the_namespace() {
        let reported = Some((Notification::ReservationReleased, 3));
        let page = notification_page(4, reported, 2);
        assert_eq!((page[0], page[8], page[9], page[12]), (4, 2, 2, 3));
        assert_eq!(notification_page(4, None, 0), [0; 64]);
        assert_eq!(Notification::ReservationPreempted.mask_bit(), 8);
    }
}
