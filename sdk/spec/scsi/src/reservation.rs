//! Data of PERSISTENT RESERVE IN and OUT. SPC-4, sections 6.15 and 6.16.

use crate::bytes::{len32, put, u8_at, u16_at, u32_at, u64_at};
use crate::sense::{Sense, asc};

/// Types of persistent reservations. SPC-4, section 6.15.3.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Type {
    /// The holder writes, all read.
    WriteExclusive = 1,
    /// The holder writes and reads.
    ExclusiveAccess = 3,
    /// Registrants write, all read.
    WriteExclusiveRegistrants = 5,
    /// Registrants write and read.
    ExclusiveAccessRegistrants = 6,
    /// Registrants are holders and write, all read.
    WriteExclusiveAll = 7,
    /// Registrants are holders, write and read.
    ExclusiveAccessAll = 8,
}

impl Type {
    /// The type with this code.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            1 => Self::WriteExclusive,
            3 => Self::ExclusiveAccess,
            5 => Self::WriteExclusiveRegistrants,
            6 => Self::ExclusiveAccessRegistrants,
            7 => Self::WriteExclusiveAll,
            8 => Self::ExclusiveAccessAll,
            _ => return None,
        })
    }
}

/// Service actions of PERSISTENT RESERVE IN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum InAction {
    /// The keys.
    ReadKeys = 0,
    /// The reservation.
    ReadReservation = 1,
    /// The supported capabilities.
    ReportCapabilities = 2,
    /// All registrants, with their identities.
    ReadFullStatus = 3,
}

impl InAction {
    /// The action with this code.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::ReadKeys,
            1 => Self::ReadReservation,
            2 => Self::ReportCapabilities,
            3 => Self::ReadFullStatus,
            _ => return None,
        })
    }
}

/// Service actions of PERSISTENT RESERVE OUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OutAction {
    /// Registers, changes or removes the initiator's own key. The current key must be given.
    Register = 0,
    /// Takes the reservation.
    Reserve = 1,
    /// Releases the reservation.
    Release = 2,
    /// Removes the reservation and every registration.
    Clear = 3,
    /// Removes others' registrations and takes their reservation.
    Preempt = 4,
    /// Like PREEMPT, and aborts their commands.
    PreemptAndAbort = 5,
    /// Like REGISTER, but ignores the current key.
    RegisterAndIgnore = 6,
    /// Registers another initiator and gives it the reservation.
    RegisterAndMove = 7,
}

impl OutAction {
    /// The action with this code.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Register,
            1 => Self::Reserve,
            2 => Self::Release,
            3 => Self::Clear,
            4 => Self::Preempt,
            5 => Self::PreemptAndAbort,
            6 => Self::RegisterAndIgnore,
            7 => Self::RegisterAndMove,
            _ => return None,
        })
    }
}

/// Longest supported parameter list of PERSISTENT RESERVE OUT, in bytes.
pub const OUT_LEN_MAX: u32 = 4096;

/// The parameter list of PERSISTENT RESERVE OUT. SPC-4, sections 6.16.3 and 6.16.4.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutParameters {
    /// The current key of the initiator.
    pub key: u64,
    /// The key to register, or the key of the registrants to preempt.
    pub service_action_key: u64,
    /// APTPL: keep reservations through a loss of power.
    pub aptpl: bool,
    /// ALL_TG_PT: for all target ports.
    pub all_ports: bool,
    /// SPEC_I_PT: the initiators to register follow.
    pub has_initiators: bool,
    /// UNREG, of REGISTER AND MOVE: remove the initiator's own registration.
    pub unregister: bool,
    /// RELATIVE TARGET PORT IDENTIFIER, of REGISTER AND MOVE.
    pub relative_port: u16,
    /// TransportIDs as received.
    pub transport_ids: Vec<u8>,
}

impl OutParameters {
    /// Length of the list without TransportIDs, in bytes.
    pub const LEN: usize = 24;

    /// Parses the list of `action`.
    ///
    /// # Errors
    /// A list of a wrong length.
    pub fn parse(action: OutAction, list: &[u8]) -> Result<Self, Sense> {
        let wrong_len = Sense::illegal(asc::PARAMETER_LIST_LENGTH_ERROR);
        if list.len() < Self::LEN {
            return Err(wrong_len);
        }
        let mut read =
            Self { key: u64_at(list, 0), service_action_key: u64_at(list, 8), ..Self::default() };
        if action == OutAction::RegisterAndMove {
            read.unregister = u8_at(list, 17) & 2 != 0;
            read.aptpl = u8_at(list, 17) & 1 != 0;
            read.relative_port = u16_at(list, 18);
            let len = usize::try_from(u32_at(list, 20)).map_err(|_| wrong_len)?;
            let ids = list.get(24..).filter(|ids| ids.len() == len && len >= 24);
            read.transport_ids = ids.ok_or(wrong_len)?.to_vec();
            return Ok(read);
        }
        let flags = u8_at(list, 20);
        read.has_initiators = flags & 8 != 0;
        read.all_ports = flags & 4 != 0;
        read.aptpl = flags & 1 != 0;
        if read.has_initiators {
            let len = usize::try_from(u32_at(list, 24)).map_err(|_| wrong_len)?;
            let ids = list.get(28..).filter(|ids| ids.len() == len);
            read.transport_ids = ids.ok_or(wrong_len)?.to_vec();
        } else if list.len() != Self::LEN {
            return Err(wrong_len);
        }
        Ok(read)
    }

    /// The list of every action but REGISTER AND MOVE.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; Self::LEN];
        put(&mut bytes, 0, &self.key.to_be_bytes());
        put(&mut bytes, 8, &self.service_action_key.to_be_bytes());
        let flags = u8::from(self.has_initiators) << 3 | u8::from(self.all_ports) << 2;
        put(&mut bytes, 20, &[flags | u8::from(self.aptpl)]);
        if self.has_initiators {
            bytes.extend(len32(self.transport_ids.len()));
            bytes.extend(&self.transport_ids);
        }
        bytes
    }
}

/// The data of READ KEYS.
#[must_use]
pub fn encode_keys(generation: u32, keys: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let mut bytes = generation.to_be_bytes().to_vec();
    bytes.extend([0; 4]);
    for key in keys {
        bytes.extend(key.to_be_bytes());
    }
    let len = len32(bytes.len() - 8);
    put(&mut bytes, 4, &len);
    bytes
}

/// The data of READ RESERVATION. The key is 0 if all registrants hold the reservation.
#[must_use]
pub fn encode_reservation(generation: u32, holder: Option<(u64, Type)>) -> Vec<u8> {
    let mut bytes = generation.to_be_bytes().to_vec();
    let Some((key, kind)) = holder else {
        bytes.extend([0; 4]);
        return bytes;
    };
    bytes.extend(len32(16));
    bytes.extend(key.to_be_bytes());
    bytes.extend([0, 0, 0, 0, 0, kind as u8, 0, 0]);
    bytes
}

/// The data of REPORT CAPABILITIES: all types, SPEC_I_PT, ALL_TG_PT and APTPL as the arguments say.
#[must_use]
pub fn encode_capabilities(initiators: bool, all_ports: bool, aptpl: Option<bool>) -> [u8; 8] {
    // Byte 2: CRH 0x10 (reserve 6 and 10 are handled as SPC-2 says beside SPC-3), SIP_C 0x08, ATP_C 0x04, PTPL_C 0x01.
    let supported =
        u8::from(initiators) << 3 | u8::from(all_ports) << 2 | u8::from(aptpl.is_some());
    let in_use = u8::from(aptpl == Some(true));
    // Byte 3: TMV 0x80, ALLOW COMMANDS 001b (TEST UNIT READY passes any reservation), PTPL_A.
    [0, 8, supported | 0x10, 0x90 | in_use, 0xea, 0x01, 0, 0]
}

/// One registrant in READ FULL STATUS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullStatus<'a> {
    /// Its key.
    pub key: u64,
    /// The type of the reservation that it holds.
    pub holds: Option<Type>,
    /// The target port of the registration; `None`: all target ports.
    pub port: Option<u16>,
    /// Its TransportID.
    pub transport_id: &'a [u8],
}

/// The data of READ FULL STATUS.
#[must_use]
pub fn encode_full_status<'a>(
    generation: u32,
    registrants: impl IntoIterator<Item = FullStatus<'a>>,
) -> Vec<u8> {
    let mut bytes = generation.to_be_bytes().to_vec();
    bytes.extend([0; 4]);
    for one in registrants {
        bytes.extend(one.key.to_be_bytes());
        bytes.extend([0; 4]);
        let flags = u8::from(one.port.is_none()) << 1 | u8::from(one.holds.is_some());
        bytes.extend([flags, one.holds.map_or(0, |kind| kind as u8), 0, 0, 0, 0]);
        bytes.extend(one.port.unwrap_or(0).to_be_bytes());
        bytes.extend(len32(one.transport_id.len()));
        bytes.extend(one.transport_id);
    }
    let len = len32(bytes.len() - 8);
    put(&mut bytes, 4, &len);
    bytes
}

/// The TransportID of an iSCSI initiator port: name and ISID. SPC-4, section 7.6.4.6.
#[must_use]
pub fn iscsi_transport_id(name: &str, isid: [u8; 6]) -> Vec<u8> {
    let mut text = format!("{name},i,0x");
    for byte in isid {
        text.push_str(&format!("{byte:02x}"));
    }
    let mut value = text.into_bytes();
    value.resize((value.len() + 1).next_multiple_of(4).max(20), 0);
    let mut bytes = vec![0x45, 0];
    bytes.extend(crate::bytes::len16(value.len()));
    bytes.extend(value);
    bytes
}

/// Splits the first TransportID from a list. Returns the whole descriptor and the rest.
///
/// # Errors
/// A protocol other than iSCSI, or an incomplete descriptor.
pub fn split_transport_id(list: &[u8]) -> Result<(&[u8], &[u8]), Sense> {
    let wrong = Sense::illegal(asc::INVALID_FIELD_IN_PARAMETER_LIST);
    if u8_at(list, 0) & 0x0f != 5 {
        return Err(wrong);
    }
    let len = 4 + usize::from(u16_at(list, 2));
    list.split_at_checked(len).filter(|_| len >= 24 && len.is_multiple_of(4)).ok_or(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_must_be_as_long_as_its_action_says() {
        let mut out = OutParameters { key: 1, service_action_key: 2, ..OutParameters::default() };
        let list = out.encode();
        assert_eq!(OutParameters::parse(OutAction::Register, &list), Ok(out.clone()));
        assert!(OutParameters::parse(OutAction::Register, &list[..23]).is_err());
        assert!(OutParameters::parse(OutAction::Register, &[list, vec![0]].concat()).is_err());
        out.has_initiators = true;
        out.aptpl = true;
        out.transport_ids = iscsi_transport_id("iqn.a", [1, 2, 3, 4, 5, 6]);
        assert_eq!(OutParameters::parse(OutAction::Register, &out.encode()), Ok(out));
    }

    #[test]
    fn transport_ids_are_taken_off_one_by_one() {
        let one = iscsi_transport_id("iqn.2001-04.com.example:a", [0x40, 0, 1, 0x37, 0, 0]);
        assert_eq!(one[0], 0x45);
        assert!(
            String::from_utf8_lossy(&one).contains("iqn.2001-04.com.example:a,i,0x400001370000")
        );
        let two = [one.clone(), one.clone()].concat();
        assert_eq!(split_transport_id(&two), Ok((one.as_slice(), one.as_slice())));
        assert!(split_transport_id(&one[..20]).is_err());
        assert!(split_transport_id(&[6; 24]).is_err());
    }

    #[test]
    fn reports_have_their_lengths() {
        assert_eq!(encode_keys(7, [1]), [0, 0, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(encode_reservation(1, None), [0, 0, 0, 1, 0, 0, 0, 0]);
        let held = encode_reservation(1, Some((5, Type::WriteExclusive)));
        assert_eq!((held[7], held[15], held[21]), (16, 5, 1));
        let id = [9; 24];
        let one = FullStatus { key: 3, holds: None, port: Some(2), transport_id: &id };
        let full = encode_full_status(1, [one]);
        assert_eq!((full[7], full[15], full[27], full[31]), (48, 3, 2, 24));
    }
}
