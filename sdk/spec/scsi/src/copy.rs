//! EXTENDED COPY and RECEIVE COPY RESULTS with list identifiers of one byte (LID1). SPC-4, sections 5.17, 6.4 and 6.24.

use crate::bytes::{chunk, len16, len32, put, u8_at, u16_at, u32_at, u64_at};
use crate::sense::{Sense, asc};

/// Service actions of EXTENDED COPY.
pub mod out_action {
    /// EXTENDED COPY (LID1).
    pub const EXTENDED_COPY: u8 = 0x00;
}

/// Service actions of RECEIVE COPY RESULTS.
pub mod in_action {
    /// RECEIVE COPY STATUS (LID1).
    pub const STATUS: u8 = 0x00;
    /// RECEIVE COPY OPERATING PARAMETERS.
    pub const OPERATING_PARAMETERS: u8 = 0x03;
}

/// The descriptor type of a segment from one block device to another one.
const BLOCK_TO_BLOCK: u8 = 0x02;
/// The descriptor type of a device that one of its designators names.
const IDENTIFICATION: u8 = 0xe4;

/// Length of the header of the parameter list, in bytes.
const HEADER_LEN: usize = 16;
/// Length of the descriptor of a device, in bytes.
const DEVICE_LEN: usize = 32;
/// Length of the descriptor of a segment from block device to block device, in bytes.
const SEGMENT_LEN: usize = 28;

/// The limits of a copy manager. EXTENDED COPY refuses more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of devices of one command.
    pub devices: u16,
    /// Maximum number of segments of one command.
    pub segments: u16,
    /// Longest segment, in bytes.
    pub segment_len: u32,
    /// Maximum number of commands in progress.
    pub copies: u8,
}

impl Limits {
    /// MAXIMUM DESCRIPTOR LIST LENGTH, in bytes.
    #[must_use]
    pub fn list_len(&self) -> usize {
        usize::from(self.devices) * DEVICE_LEN + usize::from(self.segments) * SEGMENT_LEN
    }

    /// The data of RECEIVE COPY OPERATING PARAMETERS. SPC-4, section 6.24.4.
    #[must_use]
    pub fn encode_operating_parameters(&self) -> Vec<u8> {
        let mut bytes = vec![0; 44];
        put(&mut bytes, 4, &[1]); // SNLID: a command may have no list identifier
        put(&mut bytes, 8, &self.devices.to_be_bytes());
        put(&mut bytes, 10, &self.segments.to_be_bytes());
        put(&mut bytes, 12, &len32(self.list_len()));
        put(&mut bytes, 16, &self.segment_len.to_be_bytes());
        put(&mut bytes, 34, &u16::from(self.copies).to_be_bytes());
        put(&mut bytes, 36, &[self.copies]);
        put(&mut bytes, 43, &[2]);
        bytes.extend([BLOCK_TO_BLOCK, IDENTIFICATION]);
        let len = len32(bytes.len() - 4);
        put(&mut bytes, 0, &len);
        bytes
    }

    /// The body of the Third-party Copy page. SPC-4, section 7.8.17.
    #[must_use]
    pub fn encode_page(&self) -> Vec<u8> {
        let mut body = Vec::new();
        let mut add = |kind: u16, data: &[u8]| {
            let mut data = data.to_vec();
            data.resize(data.len().next_multiple_of(4), 0);
            body.extend(kind.to_be_bytes());
            body.extend(len16(data.len()));
            body.extend(data);
        };
        let (out, results) =
            (crate::opcode::THIRD_PARTY_COPY_OUT, crate::opcode::THIRD_PARTY_COPY_IN);
        let commands = [
            [out, 1, out_action::EXTENDED_COPY].as_slice(),
            &[results, 2, in_action::STATUS, in_action::OPERATING_PARAMETERS],
        ]
        .concat();
        let len = u8::try_from(commands.len()).unwrap_or(0);
        add(0x0001, &[&[len], commands.as_slice()].concat());
        let mut parameters = vec![0; 28];
        put(&mut parameters, 4, &self.devices.to_be_bytes());
        put(&mut parameters, 6, &self.segments.to_be_bytes());
        put(&mut parameters, 8, &len32(self.list_len()));
        add(0x0004, &parameters);
        add(0x0008, &[2, BLOCK_TO_BLOCK, IDENTIFICATION]);
        let mut operations = vec![0; 32];
        put(&mut operations, 0, &u32::from(self.copies).to_be_bytes());
        put(&mut operations, 4, &u32::from(self.copies).to_be_bytes());
        put(&mut operations, 8, &self.segment_len.to_be_bytes());
        add(0x8001, &operations);
        body
    }
}

/// A device of an EXTENDED COPY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// NUL: there is no device, and its data is discarded.
    pub is_null: bool,
    /// The first bytes of a designator (SPC-4, section 7.8.6): code set, association and type, reserved, length; then its value.
    pub designator: Vec<u8>,
}

/// Blocks to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The source: an index of the list of devices.
    pub source: u16,
    /// The destination: an index of the list of devices.
    pub destination: u16,
    /// Number of blocks. `counts_destination` says whose block size counts.
    pub blocks: u16,
    /// DC: if true, `blocks` counts blocks of the destination, otherwise of the source.
    pub counts_destination: bool,
    /// The first block of the source.
    pub source_lba: u64,
    /// The first block of the destination.
    pub destination_lba: u64,
}

/// The parameter list of EXTENDED COPY (LID1). SPC-4, section 6.4.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// LIST IDENTIFIER; `None` if the initiator will not request the status.
    pub list: Option<u8>,
    /// The devices that segments refer to.
    pub devices: Vec<Named>,
    /// The segments, in the order in which they are copied.
    pub segments: Vec<Segment>,
}

impl Parameters {
    /// Parses a list.
    ///
    /// # Errors
    /// An invalid length, type or field, or more than the limits.
    pub fn parse(list: &[u8], limits: &Limits) -> Result<Self, Sense> {
        let wrong_len = Sense::illegal(asc::PARAMETER_LIST_LENGTH_ERROR);
        if list.len() < HEADER_LEN {
            return Err(wrong_len);
        }
        let devices_len = usize::from(u16_at(list, 2));
        let len = |at| usize::try_from(u32_at(list, at)).map_err(|_| wrong_len);
        let (segments_len, inline_len) = (len(8)?, len(12)?);
        let rest = list.get(HEADER_LEN..).unwrap_or_default();
        let (devices, rest) = rest.split_at_checked(devices_len).ok_or(wrong_len)?;
        let (segments, inline) = rest.split_at_checked(segments_len).ok_or(wrong_len)?;
        if inline.len() != inline_len || devices_len + segments_len > limits.list_len() {
            return Err(wrong_len);
        }
        if inline_len > 0 {
            return Err(Sense::invalid_parameter(12, None)); // no segment of ours has inline data
        }
        let list = match (u8_at(list, 1) >> 3 & 3, u8_at(list, 0)) {
            (0 | 2, list) => Some(list),
            (3, 0) => None,
            (3, _) => return Err(Sense::invalid_parameter(0, None)),
            _ => return Err(Sense::invalid_parameter(1, Some(4))),
        };
        let (devices, segments) =
            (parse_devices(devices, limits)?, parse_segments(segments, limits)?);
        Ok(Self { list, devices, segments })
    }

    /// The list as an initiator sends it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN];
        put(&mut bytes, 0, &[self.list.unwrap_or(0), if self.list.is_some() { 0 } else { 0x18 }]);
        put(&mut bytes, 2, &len16(self.devices.len() * DEVICE_LEN));
        put(&mut bytes, 8, &len32(self.segments.len() * SEGMENT_LEN));
        for device in &self.devices {
            let mut one = [0; DEVICE_LEN];
            put(&mut one, 0, &[IDENTIFICATION, u8::from(device.is_null) << 5]);
            put(&mut one, 4, &device.designator);
            bytes.extend(one);
        }
        for segment in &self.segments {
            let mut one = [0; SEGMENT_LEN];
            put(&mut one, 0, &[BLOCK_TO_BLOCK, u8::from(segment.counts_destination) << 1]);
            put(&mut one, 2, &len16(SEGMENT_LEN - 4));
            put(&mut one, 4, &segment.source.to_be_bytes());
            put(&mut one, 6, &segment.destination.to_be_bytes());
            put(&mut one, 10, &segment.blocks.to_be_bytes());
            put(&mut one, 12, &segment.source_lba.to_be_bytes());
            put(&mut one, 20, &segment.destination_lba.to_be_bytes());
            bytes.extend(one);
        }
        bytes
    }
}

/// Descriptors of devices. SPC-4, section 6.4.5.
fn parse_devices(list: &[u8], limits: &Limits) -> Result<Vec<Named>, Sense> {
    let mut devices = Vec::new();
    for (number, one) in list.chunks(DEVICE_LEN).enumerate() {
        let at = |byte: usize| {
            u16::try_from(HEADER_LEN + number * DEVICE_LEN + byte).unwrap_or(u16::MAX)
        };
        if devices.len() >= usize::from(limits.devices) {
            return Err(Sense::illegal(asc::TOO_MANY_TARGET_DESCRIPTORS));
        }
        if u8_at(one, 0) != IDENTIFICATION {
            return Err(Sense::illegal(asc::UNSUPPORTED_TARGET_DESCRIPTOR_TYPE));
        }
        if one.len() < DEVICE_LEN {
            return Err(Sense::illegal(asc::PARAMETER_LIST_LENGTH_ERROR));
        }
        let len = usize::from(u8_at(one, 7));
        let designator = one.get(4..8 + len).filter(|_| len <= 20);
        let designator = designator.ok_or(Sense::invalid_parameter(at(7), None))?.to_vec();
        devices.push(Named { is_null: u8_at(one, 1) & 0x20 != 0, designator });
    }
    Ok(devices)
}

/// Descriptors of segments. SPC-4, section 6.4.6.
fn parse_segments(mut list: &[u8], limits: &Limits) -> Result<Vec<Segment>, Sense> {
    let mut segments = Vec::new();
    while !list.is_empty() {
        if segments.len() >= usize::from(limits.segments) {
            return Err(Sense::illegal(asc::TOO_MANY_SEGMENT_DESCRIPTORS));
        }
        if u8_at(list, 0) != BLOCK_TO_BLOCK {
            return Err(Sense::illegal(asc::UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE));
        }
        let (one, rest) = list
            .split_at_checked(SEGMENT_LEN)
            .filter(|(one, _)| chunk(one, 2) == len16(SEGMENT_LEN - 4))
            .ok_or(Sense::illegal(asc::PARAMETER_LIST_LENGTH_ERROR))?;
        segments.push(Segment {
            source: u16_at(one, 4),
            destination: u16_at(one, 6),
            blocks: u16_at(one, 10),
            counts_destination: u8_at(one, 1) & 2 != 0,
            source_lba: u64_at(one, 12),
            destination_lba: u64_at(one, 20),
        });
        list = rest;
    }
    Ok(segments)
}

/// The state of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Progress {
    /// The copy has not ended.
    InProgress = 0,
    /// The copy has succeeded.
    Completed = 1,
    /// The copy has failed.
    Failed = 2,
}

/// The data of RECEIVE COPY STATUS (LID1): number of copied segments, and their length in bytes. SPC-4, section 6.24.2.
#[must_use]
pub fn encode_status(progress: Progress, segments: u16, len: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    put(&mut bytes, 0, &len32(8));
    put(&mut bytes, 4, &[progress as u8]);
    put(&mut bytes, 5, &segments.to_be_bytes());
    // TRANSFER COUNT is in bytes if the number fits, else in KiB.
    let (units, count) = match u32::try_from(len) {
        Ok(len) => (0, len),
        Err(_) => (1, u32::try_from(len >> 10).unwrap_or(u32::MAX)),
    };
    put(&mut bytes, 7, &[units]);
    put(&mut bytes, 8, &count.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { devices: 2, segments: 3, segment_len: 1 << 20, copies: 4 };

    fn list() -> Parameters {
        let device = Named { is_null: false, designator: vec![1, 3, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8] };
        let segment = Segment {
            source: 0,
            destination: 1,
            blocks: 9,
            counts_destination: true,
            source_lba: 1 << 40,
            destination_lba: 5,
        };
        Parameters { list: Some(7), devices: vec![device; 2], segments: vec![segment; 3] }
    }

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let mut list = list();
        assert_eq!(Parameters::parse(&list.encode(), &LIMITS), Ok(list.clone()));
        list.list = None;
        assert_eq!(Parameters::parse(&list.encode(), &LIMITS), Ok(list));
    }

    #[test]
    fn a_cut_list_and_one_beyond_the_limits_are_refused() {
        let code = |bytes: &[u8]| Parameters::parse(bytes, &LIMITS).unwrap_err().asc;
        let mut many = list();
        let bytes = many.encode();
        for len in [0, 15, 16, 47, bytes.len() - 1] {
            assert_eq!(code(&bytes[..len]), asc::PARAMETER_LIST_LENGTH_ERROR, "{len}");
        }
        many.devices.push(many.devices[0].clone());
        assert_eq!(code(&many.encode()), asc::PARAMETER_LIST_LENGTH_ERROR);
        many.segments.truncate(1);
        assert_eq!(code(&many.encode()), asc::TOO_MANY_TARGET_DESCRIPTORS);
        many.devices.truncate(1);
        many.segments.resize(4, many.segments[0]);
        assert_eq!(code(&many.encode()), asc::TOO_MANY_SEGMENT_DESCRIPTORS);
    }

    #[test]
    fn other_types_are_told_apart() {
        let code = |at: usize, value: u8| {
            let mut bytes = list().encode();
            bytes[at] = value;
            Parameters::parse(&bytes, &LIMITS).unwrap_err().asc
        };
        assert_eq!(code(16, 0xe0), asc::UNSUPPORTED_TARGET_DESCRIPTOR_TYPE);
        assert_eq!(code(16 + 64, 3), asc::UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE);
        assert_eq!(code(1, 0x08), asc::INVALID_FIELD_IN_PARAMETER_LIST);
        assert_eq!(code(23, 21), asc::INVALID_FIELD_IN_PARAMETER_LIST);
    }

    #[test]
    fn reports_have_their_lengths() {
        let parameters = LIMITS.encode_operating_parameters();
        assert_eq!((parameters.len(), parameters[3], parameters[43]), (46, 42, 2));
        assert_eq!((parameters[9], parameters[11], parameters[15]), (2, 3, 148));
        let page = LIMITS.encode_page();
        assert_eq!(page[..12], [0, 1, 0, 8, 7, 0x83, 1, 0, 0x84, 2, 0, 3]);
        assert_eq!(page.len() % 4, 0);
        assert_eq!(
            encode_status(Progress::Completed, 3, 512)[..],
            [0, 0, 0, 8, 1, 0, 3, 0, 0, 0, 2, 0]
        );
        assert_eq!(encode_status(Progress::Failed, 0, 1 << 33)[7..], [1, 0, 0x80, 0, 0]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Parameters::parse(&bytes, &LIMITS);
        }
    }
}
