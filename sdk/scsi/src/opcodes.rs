//! The commands that units support, as REPORT SUPPORTED OPERATION CODES reports them.

use drivebay_spec_scsi::command::Reporting;
use drivebay_spec_scsi::copy::{in_action, out_action};
use drivebay_spec_scsi::opcode::{self, Supported, action};
use drivebay_spec_scsi::sense::Sense;

const fn one(opcode: u8, usage: &'static [u8]) -> Supported {
    Supported { opcode, action: None, usage }
}

const fn with_action(opcode: u8, action: u16, usage: &'static [u8]) -> Supported {
    Supported { opcode, action: Some(action), usage }
}

/// The device evaluates NACA in every command.
const C: u8 = 0x04;
/// WRPROTECT, DPO, FUA.
const B: u8 = 0xf8;
const F: u8 = 0xff;

/// PERSISTENT RESERVE IN and OUT with one service action each.
macro_rules! reserve {
    (in $action:literal) => {
        with_action(0x5e, $action, &[0x5e, $action, 0, 0, 0, 0, 0, F, F, C])
    };
    (out $action:literal) => {
        with_action(0x5f, $action, &[0x5f, $action, F, 0, 0, F, F, F, F, C])
    };
}

#[rustfmt::skip]
const ALL: &[Supported] = &[
    one(opcode::TEST_UNIT_READY, &[0x00, 0, 0, 0, 0, C]),
    one(opcode::REQUEST_SENSE, &[0x03, 1, 0, 0, F, C]),
    one(opcode::READ_6, &[0x08, 0x1f, F, F, F, C]),
    one(opcode::WRITE_6, &[0x0a, 0x1f, F, F, F, C]),
    one(opcode::INQUIRY, &[0x12, 1, F, F, F, C]),
    one(opcode::MODE_SELECT_6, &[0x15, 0x11, 0, 0, F, C]),
    one(opcode::RESERVE_6, &[0x16, 0, 0, 0, 0, C]),
    one(opcode::RELEASE_6, &[0x17, 0, 0, 0, 0, C]),
    one(opcode::MODE_SENSE_6, &[0x1a, 0x08, F, F, F, C]),
    one(opcode::START_STOP_UNIT, &[0x1b, 1, 0, 0x0f, 0xf7, C]),
    one(opcode::PREVENT_ALLOW_MEDIUM_REMOVAL, &[0x1e, 0, 0, 0, 3, C]),
    one(opcode::READ_CAPACITY_10, &[0x25, 0, F, F, F, F, 0, 0, 1, C]),
    one(opcode::READ_10, &[0x28, B, F, F, F, F, 0, F, F, C]),
    one(opcode::WRITE_10, &[0x2a, B, F, F, F, F, 0, F, F, C]),
    one(opcode::WRITE_AND_VERIFY_10, &[0x2e, 0xf2, F, F, F, F, 0, F, F, C]),
    one(opcode::VERIFY_10, &[0x2f, 0xf6, F, F, F, F, 0, F, F, C]),
    one(opcode::PRE_FETCH_10, &[0x34, 2, F, F, F, F, 0, F, F, C]),
    one(opcode::SYNCHRONIZE_CACHE_10, &[0x35, 2, F, F, F, F, 0, F, F, C]),
    one(opcode::WRITE_SAME_10, &[0x41, 0xf8, F, F, F, F, 0, F, F, C]),
    one(opcode::UNMAP, &[0x42, 1, 0, 0, 0, 0, 0, F, F, C]),
    one(opcode::LOG_SENSE, &[0x4d, 0x01, F, F, 0, F, F, F, F, C]),
    one(opcode::MODE_SELECT_10, &[0x55, 0x11, 0, 0, 0, 0, 0, F, F, C]),
    one(opcode::RESERVE_10, &[0x56, 0, 0, 0, 0, 0, 0, F, F, C]),
    one(opcode::RELEASE_10, &[0x57, 0, 0, 0, 0, 0, 0, F, F, C]),
    one(opcode::MODE_SENSE_10, &[0x5a, 0x18, F, F, 0, 0, 0, F, F, C]),
    reserve!(in 0), reserve!(in 1), reserve!(in 2), reserve!(in 3),
    reserve!(out 0), reserve!(out 1), reserve!(out 2), reserve!(out 3),
    reserve!(out 4), reserve!(out 5), reserve!(out 6), reserve!(out 7),
    with_action(opcode::THIRD_PARTY_COPY_OUT, out_action::EXTENDED_COPY as u16,
        &[0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, C]),
    with_action(opcode::THIRD_PARTY_COPY_IN, in_action::STATUS as u16,
        &[0x84, 0, F, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, C]),
    with_action(opcode::THIRD_PARTY_COPY_IN, in_action::OPERATING_PARAMETERS as u16,
        &[0x84, 3, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, C]),
    one(opcode::READ_16, &[0x88, B, F, F, F, F, F, F, F, F, F, F, F, F, 0, C]),
    one(opcode::COMPARE_AND_WRITE, &[0x89, B, F, F, F, F, F, F, F, F, 0, 0, 0, F, 0, C]),
    one(opcode::WRITE_16, &[0x8a, B, F, F, F, F, F, F, F, F, F, F, F, F, 0, C]),
    one(opcode::WRITE_AND_VERIFY_16, &[0x8e, 0xf2, F, F, F, F, F, F, F, F, F, F, F, F, 0, C]),
    one(opcode::VERIFY_16, &[0x8f, 0xf6, F, F, F, F, F, F, F, F, F, F, F, F, 0, C]),
    one(opcode::PRE_FETCH_16, &[0x90, 2, F, F, F, F, F, F, F, F, F, F, F, F, 0, C]),
    one(opcode::SYNCHRONIZE_CACHE_16, &[0x91, 2, F, F, F, F, F, F, F, F, F, F, F, F, 0, C]),
    one(opcode::WRITE_SAME_16, &[0x93, 0xf9, F, F, F, F, F, F, F, F, F, F, F, F, 0, C]),
    with_action(opcode::SERVICE_ACTION_IN_16, action::READ_CAPACITY_16 as u16,
        &[0x9e, 0x10, F, F, F, F, F, F, F, F, F, F, F, F, 1, C]),
    with_action(opcode::SERVICE_ACTION_IN_16, action::GET_LBA_STATUS as u16,
        &[0x9e, 0x12, F, F, F, F, F, F, F, F, F, F, F, F, 0, C]),
    one(opcode::REPORT_LUNS, &[0xa0, 0, F, 0, 0, 0, F, F, F, F, 0, C]),
    with_action(opcode::MAINTENANCE_IN, action::REPORT_SUPPORTED_OPERATION_CODES as u16,
        &[0xa3, 0x0c, 0x87, F, F, F, F, F, F, F, 0, C]),
    with_action(opcode::MAINTENANCE_IN, action::REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS as u16,
        &[0xa3, 0x0d, 0x80, 0, 0, 0, F, F, F, F, 0, C]),
    one(opcode::READ_12, &[0xa8, B, F, F, F, F, F, F, F, F, 0, C]),
    one(opcode::WRITE_12, &[0xaa, B, F, F, F, F, F, F, F, F, 0, C]),
    one(opcode::WRITE_AND_VERIFY_12, &[0xae, 0xf2, F, F, F, F, F, F, F, F, 0, C]),
    one(opcode::VERIFY_12, &[0xaf, 0xf6, F, F, F, F, F, F, F, F, 0, C]),
];

fn is_offered(command: &Supported, can_unmap: bool, can_reserve: bool) -> bool {
    let needs_unmap = command.opcode == opcode::UNMAP
        || (command.opcode, command.action)
            == (opcode::SERVICE_ACTION_IN_16, Some(action::GET_LBA_STATUS.into()));
    let reserves = matches!(
        command.opcode,
        opcode::RESERVE_6
            | opcode::RELEASE_6
            | opcode::RESERVE_10
            | opcode::RELEASE_10
            | opcode::PERSISTENT_RESERVE_IN
            | opcode::PERSISTENT_RESERVE_OUT
    );
    (can_unmap || !needs_unmap) && (can_reserve || !reserves)
}

/// REPORT SUPPORTED OPERATION CODES.
pub(crate) fn report(
    reporting: Reporting,
    timeouts: bool,
    can_unmap: bool,
    can_reserve: bool,
) -> Result<Vec<u8>, Sense> {
    let offered = || ALL.iter().filter(|command| is_offered(command, can_unmap, can_reserve));
    let of = |code| offered().filter(move |command| command.opcode == code);
    let found = match reporting {
        Reporting::All => {
            let all: Vec<Supported> = offered().copied().collect();
            return Ok(opcode::encode_all(&all, timeouts));
        }
        Reporting::Opcode(code) => {
            if of(code).any(|command| command.action.is_some()) {
                return Err(Sense::invalid_cdb(2, Some(2)));
            }
            of(code).next()
        }
        Reporting::Action(code, wanted) => {
            if of(code).any(|command| command.action.is_none()) {
                return Err(Sense::invalid_cdb(2, Some(2)));
            }
            of(code).find(|command| command.action == Some(wanted))
        }
        Reporting::Either(code, wanted) => {
            of(code).find(|command| command.action.is_none_or(|action| action == wanted))
        }
    };
    Ok(opcode::encode_one(found, timeouts))
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS: abort task, abort task set, clear task set, unit reset, target reset. SPC-4, section 6.37.
pub(crate) fn task_management(extended: bool) -> Vec<u8> {
    let mut data = vec![0xda, 0, 0, 0];
    if extended {
        data = vec![0xda, 0, 0, 12];
        data.extend([0; 12]);
    }
    data
}
