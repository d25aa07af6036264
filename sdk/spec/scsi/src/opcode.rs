//! Operation codes and service actions, and how a unit reports what it supports. SPC-4, section 6.35; SBC-3, section 5.

use crate::bytes::{len16, len32};

macro_rules! codes {
    ($($(#[$meta:meta])* $name:ident = $code:literal;)*) => {
        $($(#[$meta])* #[allow(missing_docs, reason = "the names are the standards'")] pub const $name: u8 = $code;)*
    };
}

codes! {
    TEST_UNIT_READY = 0x00;
    REQUEST_SENSE = 0x03;
    READ_6 = 0x08;
    WRITE_6 = 0x0a;
    INQUIRY = 0x12;
    MODE_SELECT_6 = 0x15;
    RESERVE_6 = 0x16;
    RELEASE_6 = 0x17;
    MODE_SENSE_6 = 0x1a;
    START_STOP_UNIT = 0x1b;
    PREVENT_ALLOW_MEDIUM_REMOVAL = 0x1e;
    READ_CAPACITY_10 = 0x25;
    READ_10 = 0x28;
    WRITE_10 = 0x2a;
    WRITE_AND_VERIFY_10 = 0x2e;
    VERIFY_10 = 0x2f;
    PRE_FETCH_10 = 0x34;
    SYNCHRONIZE_CACHE_10 = 0x35;
    WRITE_SAME_10 = 0x41;
    UNMAP = 0x42;
    LOG_SENSE = 0x4d;
    MODE_SELECT_10 = 0x55;
    RESERVE_10 = 0x56;
    RELEASE_10 = 0x57;
    MODE_SENSE_10 = 0x5a;
    PERSISTENT_RESERVE_IN = 0x5e;
    PERSISTENT_RESERVE_OUT = 0x5f;
    THIRD_PARTY_COPY_OUT = 0x83;
    THIRD_PARTY_COPY_IN = 0x84;
    READ_16 = 0x88;
    COMPARE_AND_WRITE = 0x89;
    WRITE_16 = 0x8a;
    WRITE_AND_VERIFY_16 = 0x8e;
    VERIFY_16 = 0x8f;
    PRE_FETCH_16 = 0x90;
    SYNCHRONIZE_CACHE_16 = 0x91;
    WRITE_SAME_16 = 0x93;
    SERVICE_ACTION_IN_16 = 0x9e;
    REPORT_LUNS = 0xa0;
    MAINTENANCE_IN = 0xa3;
    READ_12 = 0xa8;
    WRITE_12 = 0xaa;
    WRITE_AND_VERIFY_12 = 0xae;
    VERIFY_12 = 0xaf;
}

/// Service actions of [`SERVICE_ACTION_IN_16`] and [`MAINTENANCE_IN`].
#[allow(missing_docs, reason = "the names are the standards'")]
pub mod action {
    pub const READ_CAPACITY_16: u8 = 0x10;
    pub const GET_LBA_STATUS: u8 = 0x12;
    pub const REPORT_TARGET_PORT_GROUPS: u8 = 0x0a;
    pub const REPORT_SUPPORTED_OPERATION_CODES: u8 = 0x0c;
    pub const REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS: u8 = 0x0d;
}

/// A command that a unit supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supported {
    /// The operation code.
    pub opcode: u8,
    /// The service action, if the operation code has several.
    pub action: Option<u16>,
    /// CDB USAGE DATA: the bits of the CDB that the unit evaluates are set. It is as long as the CDB; the first byte is the
    /// operation code.
    pub usage: &'static [u8],
}

/// The length of a CDB with this operation code, in bytes; `None` for CDBs of variable length and vendor-specific ones.
#[must_use]
pub const fn cdb_len(opcode: u8) -> Option<usize> {
    match opcode >> 5 {
        0 => Some(6),
        1 | 2 => Some(10),
        4 => Some(16),
        5 => Some(12),
        _ => None,
    }
}

/// The data of REPORT SUPPORTED OPERATION CODES for all commands. SPC-4, section 6.35.2.
#[must_use]
pub fn encode_all(commands: &[Supported], with_timeouts: bool) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for command in commands {
        let has_action = u8::from(command.action.is_some());
        bytes.extend([command.opcode, 0]);
        bytes.extend(command.action.unwrap_or(0).to_be_bytes());
        bytes.extend([0, has_action | u8::from(with_timeouts) << 1]);
        bytes.extend(len16(command.usage.len()));
        if with_timeouts {
            bytes.extend(NO_TIMEOUTS);
        }
    }
    let len = len32(bytes.len() - 4);
    crate::bytes::put(&mut bytes, 0, &len);
    bytes
}

/// The data of REPORT SUPPORTED OPERATION CODES for one command, supported or not. SPC-4, section 6.35.3.
#[must_use]
pub fn encode_one(command: Option<&Supported>, with_timeouts: bool) -> Vec<u8> {
    let Some(command) = command else { return vec![0, 0x01, 0, 0] };
    let mut bytes = vec![0, 0x03 | u8::from(with_timeouts) << 7];
    bytes.extend(len16(command.usage.len()));
    bytes.extend(command.usage);
    if with_timeouts {
        bytes.extend(NO_TIMEOUTS);
    }
    bytes
}

/// A command timeouts descriptor without a recommendation. SPC-4, section 6.35.4.
const NO_TIMEOUTS: [u8; 12] = [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[cfg(test)]
mod tests {
    use super::*;

    const TUR: Supported =
        Supported { opcode: TEST_UNIT_READY, action: None, usage: &[0, 0, 0, 0, 0, 7] };
    const RC16: Supported = Supported {
        opcode: SERVICE_ACTION_IN_16,
        action: Some(0x10),
        usage: &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 7],
    };

    #[test]
    fn the_list_has_a_length_and_tells_service_actions_apart() {
        let all = encode_all(&[TUR, RC16], false);
        assert_eq!(all[..4], [0, 0, 0, 16]);
        assert_eq!(all[4..12], [0, 0, 0, 0, 0, 0, 0, 6]);
        assert_eq!(all[12..], [0x9e, 0, 0, 0x10, 0, 1, 0, 16]);
        assert_eq!(encode_all(&[TUR], true).len(), 4 + 20);
    }

    #[test]
    fn one_command_shows_which_bits_are_evaluated() {
        assert_eq!(encode_one(Some(&TUR), false), [0, 3, 0, 6, 0, 0, 0, 0, 0, 7]);
        assert_eq!(encode_one(None, false), [0, 1, 0, 0]);
        assert_eq!(encode_one(Some(&TUR), true).len(), 10 + 12);
    }

    #[test]
    fn the_group_of_an_operation_code_gives_the_length() {
        assert_eq!(
            [0x12, 0x28, 0x5e, 0x8a, 0xa0].map(cdb_len).map(Option::unwrap),
            [6, 10, 10, 16, 12]
        );
        assert_eq!([cdb_len(0x7f), cdb_len(0xc0)], [None, None]);
    }
}
