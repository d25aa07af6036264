//! Sense data. SPC-4, section 4.5.

use crate::bytes::{chunk, put, u8_at, u16_at, u32_at};

/// Sense keys. SPC-4, table 48.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Key {
    /// Nothing to report.
    NoSense = 0x0,
    /// The command succeeded after a recovery.
    RecoveredError = 0x1,
    /// The unit is not ready.
    NotReady = 0x2,
    /// The medium is at fault.
    MediumError = 0x3,
    /// The device is at fault.
    HardwareError = 0x4,
    /// The request is at fault.
    IllegalRequest = 0x5,
    /// A change that the initiator must know.
    UnitAttention = 0x6,
    /// The blocks are write protected.
    DataProtect = 0x7,
    /// EXTENDED COPY failed at its source or destination.
    CopyAborted = 0xa,
    /// The unit aborted the command.
    AbortedCommand = 0xb,
    /// The data differ.
    Miscompare = 0xe,
}

impl Key {
    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits & 0xf {
            0x0 => Self::NoSense,
            0x1 => Self::RecoveredError,
            0x2 => Self::NotReady,
            0x3 => Self::MediumError,
            0x4 => Self::HardwareError,
            0x5 => Self::IllegalRequest,
            0x6 => Self::UnitAttention,
            0x7 => Self::DataProtect,
            0xa => Self::CopyAborted,
            0xb => Self::AbortedCommand,
            0xe => Self::Miscompare,
            _ => return None,
        })
    }
}

/// Additional sense codes with their qualifiers, `asc << 8 | ascq`. SPC-4, annex E.2.
#[allow(missing_docs, reason = "the names are the standard's")]
pub mod asc {
    pub const NONE: u16 = 0x0000;
    pub const OPERATION_IN_PROGRESS: u16 = 0x0016;
    pub const WRITE_ERROR: u16 = 0x0c00;
    pub const THIRD_PARTY_DEVICE_FAILURE: u16 = 0x0d01;
    pub const COPY_TARGET_DEVICE_NOT_REACHABLE: u16 = 0x0d02;
    pub const INCORRECT_COPY_TARGET_DEVICE_TYPE: u16 = 0x0d03;
    pub const UNRECOVERED_READ_ERROR: u16 = 0x1100;
    pub const PARAMETER_LIST_LENGTH_ERROR: u16 = 0x1a00;
    pub const MISCOMPARE_DURING_VERIFY: u16 = 0x1d00;
    pub const INVALID_COMMAND_OPERATION_CODE: u16 = 0x2000;
    pub const LBA_OUT_OF_RANGE: u16 = 0x2100;
    pub const INVALID_FIELD_IN_CDB: u16 = 0x2400;
    pub const LOGICAL_UNIT_NOT_SUPPORTED: u16 = 0x2500;
    pub const INVALID_FIELD_IN_PARAMETER_LIST: u16 = 0x2600;
    pub const INVALID_RELEASE_OF_PERSISTENT_RESERVATION: u16 = 0x2604;
    pub const TOO_MANY_TARGET_DESCRIPTORS: u16 = 0x2606;
    pub const UNSUPPORTED_TARGET_DESCRIPTOR_TYPE: u16 = 0x2607;
    pub const TOO_MANY_SEGMENT_DESCRIPTORS: u16 = 0x2608;
    pub const UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE: u16 = 0x2609;
    pub const WRITE_PROTECTED: u16 = 0x2700;
    pub const SPACE_ALLOCATION_FAILED_WRITE_PROTECT: u16 = 0x2707;
    pub const POWER_ON_OCCURRED: u16 = 0x2901;
    pub const BUS_DEVICE_RESET_FUNCTION_OCCURRED: u16 = 0x2903;
    pub const I_T_NEXUS_LOSS_OCCURRED: u16 = 0x2907;
    pub const MODE_PARAMETERS_CHANGED: u16 = 0x2a01;
    pub const RESERVATIONS_PREEMPTED: u16 = 0x2a03;
    pub const RESERVATIONS_RELEASED: u16 = 0x2a04;
    pub const REGISTRATIONS_PREEMPTED: u16 = 0x2a05;
    pub const CAPACITY_DATA_HAS_CHANGED: u16 = 0x2a09;
    pub const COMMAND_SEQUENCE_ERROR: u16 = 0x2c00;
    pub const COMMANDS_CLEARED_BY_ANOTHER_INITIATOR: u16 = 0x2f00;
    pub const THIN_PROVISIONING_SOFT_THRESHOLD_REACHED: u16 = 0x3807;
    pub const SAVING_PARAMETERS_NOT_SUPPORTED: u16 = 0x3900;
    pub const MEDIUM_NOT_PRESENT: u16 = 0x3a00;
    pub const INQUIRY_DATA_HAS_CHANGED: u16 = 0x3f03;
    pub const DEVICE_IDENTIFIER_CHANGED: u16 = 0x3f05;
    pub const REPORTED_LUNS_DATA_HAS_CHANGED: u16 = 0x3f0e;
    pub const INTERNAL_TARGET_FAILURE: u16 = 0x4400;
    pub const DATA_PHASE_ERROR: u16 = 0x4b00;
    pub const PROTOCOL_SERVICE_CRC_ERROR: u16 = 0x4705;
    pub const UNEXPECTED_UNSOLICITED_DATA: u16 = 0x0c0c;
    pub const INSUFFICIENT_REGISTRATION_RESOURCES: u16 = 0x5504;
    pub const INSUFFICIENT_RESOURCES: u16 = 0x5503;
}

/// The position of an invalid field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldPointer {
    /// Whether the field is in the CDB; otherwise it is in the parameter list.
    pub in_cdb: bool,
    /// The byte.
    pub byte: u16,
    /// The most significant bit of the field, if it is narrower than its byte.
    pub bit: Option<u8>,
}

/// Sense data: an error, or a unit attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// The class.
    pub key: Key,
    /// Code and qualifier, one of [`asc`].
    pub asc: u16,
    /// INFORMATION: the block or the offset at fault.
    pub information: Option<u64>,
    /// The invalid field.
    pub field: Option<FieldPointer>,
}

impl Sense {
    /// Length of fixed format sense data, in bytes.
    pub const FIXED_LEN: usize = 18;

    /// Sense data without details.
    #[must_use]
    pub const fn new(key: Key, asc: u16) -> Self {
        Self { key, asc, information: None, field: None }
    }

    /// A field of the CDB has a value that is not allowed.
    #[must_use]
    pub const fn invalid_cdb(byte: u16, bit: Option<u8>) -> Self {
        let field = Some(FieldPointer { in_cdb: true, byte, bit });
        Self { field, ..Self::new(Key::IllegalRequest, asc::INVALID_FIELD_IN_CDB) }
    }

    /// A field of the parameter list has a value that is not allowed.
    #[must_use]
    pub const fn invalid_parameter(byte: u16, bit: Option<u8>) -> Self {
        let field = Some(FieldPointer { in_cdb: false, byte, bit });
        Self { field, ..Self::new(Key::IllegalRequest, asc::INVALID_FIELD_IN_PARAMETER_LIST) }
    }

    /// ILLEGAL REQUEST with another code.
    #[must_use]
    pub const fn illegal(asc: u16) -> Self {
        Self::new(Key::IllegalRequest, asc)
    }

    /// A unit attention.
    #[must_use]
    pub const fn attention(asc: u16) -> Self {
        Self::new(Key::UnitAttention, asc)
    }

    /// With INFORMATION.
    #[must_use]
    pub const fn with_information(mut self, information: u64) -> Self {
        self.information = Some(information);
        self
    }

    /// Encodes it in descriptor format (SPC-4, section 4.5.2), or in fixed format (4.5.3).
    #[must_use]
    pub fn encode(&self, descriptor: bool) -> Vec<u8> {
        if descriptor { self.encode_descriptors() } else { self.encode_fixed() }
    }

    fn encode_fixed(&self) -> Vec<u8> {
        let mut bytes = vec![0; Self::FIXED_LEN];
        // Fixed format has 32 bits for INFORMATION. A larger value is marked as not valid.
        let information = self.information.map(u32::try_from).and_then(Result::ok);
        put(&mut bytes, 0, &[0x70 | if information.is_some() { 0x80 } else { 0 }]);
        put(&mut bytes, 2, &[self.key as u8]);
        put(&mut bytes, 3, &information.unwrap_or(0).to_be_bytes());
        put(&mut bytes, 7, &[10]);
        put(&mut bytes, 12, &self.asc.to_be_bytes());
        if let Some(field) = self.field {
            put(&mut bytes, 15, &field.encode());
        }
        bytes
    }

    fn encode_descriptors(&self) -> Vec<u8> {
        let [asc, ascq] = self.asc.to_be_bytes();
        let mut bytes = vec![0x72, self.key as u8, asc, ascq, 0, 0, 0, 0];
        if let Some(information) = self.information {
            bytes.extend([0x00, 0x0a, 0x80, 0]);
            bytes.extend(information.to_be_bytes());
        }
        if let Some(field) = self.field {
            bytes.extend([0x02, 0x06, 0, 0]);
            bytes.extend(field.encode());
            bytes.push(0);
        }
        let additional = u8::try_from(bytes.len() - 8).unwrap_or(0);
        put(&mut bytes, 7, &[additional]);
        bytes
    }

    /// Parses either format; `None` for other formats and reserved keys.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let code = u8_at(bytes, 0);
        match code & 0x7f {
            0x70 if bytes.len() >= 14 => {
                let key = Key::from_bits(u8_at(bytes, 2))?;
                let is_valid = code & 0x80 != 0;
                Some(Self {
                    key,
                    asc: u16_at(bytes, 12),
                    information: is_valid.then(|| u32_at(bytes, 3).into()),
                    field: FieldPointer::parse(chunk(bytes, 15)),
                })
            }
            0x72 if bytes.len() >= 8 => {
                let mut sense = Self::new(Key::from_bits(u8_at(bytes, 1))?, u16_at(bytes, 2));
                let mut rest = bytes.get(8..).unwrap_or_default();
                while let [kind, len, ..] = *rest {
                    let (one, later) = rest.split_at_checked(2 + usize::from(len))?;
                    match kind {
                        0x00 if len >= 10 => {
                            sense.information = Some(u64::from_be_bytes(chunk(one, 4)));
                        }
                        0x02 if len >= 6 => sense.field = FieldPointer::parse(chunk(one, 4)),
                        _ => {}
                    }
                    rest = later;
                }
                Some(sense)
            }
            _ => None,
        }
    }
}

impl FieldPointer {
    fn encode(self) -> [u8; 3] {
        let [high, low] = self.byte.to_be_bytes();
        let bit = self.bit.map_or(0, |bit| 0x08 | bit & 7);
        [0x80 | if self.in_cdb { 0x40 } else { 0 } | bit, high, low]
    }

    fn parse([flags, high, low]: [u8; 3]) -> Option<Self> {
        (flags & 0x80 != 0).then(|| Self {
            in_cdb: flags & 0x40 != 0,
            byte: u16::from_be_bytes([high, low]),
            bit: (flags & 0x08 != 0).then_some(flags & 7),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_invalid_field_points_at_its_place_in_both_formats() {
        let sense = Sense::invalid_cdb(2, Some(4));
        let fixed = sense.encode(false);
        assert_eq!(fixed[..4], [0x70, 0, 5, 0]);
        assert_eq!(fixed[12..18], [0x24, 0, 0, 0xcc, 0, 2]);
        let descriptor = sense.encode(true);
        assert_eq!(descriptor, [0x72, 5, 0x24, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0xcc, 0, 2, 0]);
    }

    #[test]
    fn fixed_format_drops_information_that_does_not_fit() {
        let sense = Sense::new(Key::Miscompare, asc::MISCOMPARE_DURING_VERIFY);
        assert_eq!(sense.with_information(7).encode(false)[..7], [0xf0, 0, 0xe, 0, 0, 0, 7]);
        let large = sense.with_information(1 << 32);
        assert_eq!(large.encode(false)[..7], [0x70, 0, 0xe, 0, 0, 0, 0]);
        assert_eq!(Sense::parse(&large.encode(true)), Some(large));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(sense) = Sense::parse(&bytes) {
                prop_assert_eq!(Sense::parse(&sense.encode(true)), Some(sense));
            }
        }
    }
}
