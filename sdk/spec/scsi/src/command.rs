//! Commands, parsed from CDBs. The parser checks every reserved bit that matters.

use crate::CDB_LEN;
use crate::bytes::{u8_at, u16_at, u32_at, u64_at};
use crate::mode::Control;
use crate::opcode::{self, action};
use crate::reservation::{InAction, OutAction};
use crate::sense::{Sense, asc};

/// The blocks of a command, and its bits for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    /// The first block.
    pub lba: u64,
    /// The number of blocks.
    pub count: u32,
    /// FUA: the data is on the medium before the command ends.
    pub fua: bool,
    /// RDPROTECT, WRPROTECT or VRPROTECT, 3 bits.
    pub protect: u8,
}

/// The bits of WRITE SAME. SBC-3, section 5.43.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteSame {
    /// The blocks; a count of 0 means "to the end".
    pub blocks: Blocks,
    /// UNMAP.
    pub unmap: bool,
    /// ANCHOR.
    pub anchor: bool,
    /// NDOB: no data, the block is zeros.
    pub no_data: bool,
}

/// Which commands REPORT SUPPORTED OPERATION CODES asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reporting {
    /// All.
    All,
    /// One operation code without service actions.
    Opcode(u8),
    /// One operation code with this service action.
    Action(u8, u16),
    /// One operation code, with this service action if it has several.
    Either(u8, u16),
}

/// A command. Allocation and parameter list lengths are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the standards'")]
pub enum Command {
    TestUnitReady,
    RequestSense {
        descriptor: bool,
        allocation: u32,
    },
    Inquiry {
        page: Option<u8>,
        allocation: u32,
    },
    ReportLuns {
        select: u8,
        allocation: u32,
    },
    ReadCapacity10,
    ReadCapacity16 {
        allocation: u32,
    },
    GetLbaStatus {
        lba: u64,
        allocation: u32,
    },
    Read(Blocks),
    Write(Blocks),
    WriteAndVerify(Blocks),
    /// `compare`: compares the blocks with data; otherwise the unit only reads them.
    Verify {
        blocks: Blocks,
        compare: bool,
        one_block: bool,
    },
    PreFetch(Blocks),
    WriteSame(WriteSame),
    Unmap {
        anchor: bool,
        list: u32,
    },
    CompareAndWrite(Blocks),
    SynchronizeCache(Blocks),
    StartStop {
        power_condition: u8,
        load_eject: bool,
        start: bool,
    },
    PreventRemoval,
    LogSense {
        page: u8,
        subpage: u8,
        /// PARAMETER POINTER: the first parameter to report.
        first: u16,
        allocation: u32,
    },
    ModeSense {
        is_ten: bool,
        llbaa: bool,
        dbd: bool,
        control: Control,
        page: u8,
        subpage: u8,
        allocation: u32,
    },
    ModeSelect {
        is_ten: bool,
        page_format: bool,
        save: bool,
        list: u32,
    },
    ReserveIn {
        action: InAction,
        allocation: u32,
    },
    ReserveOut {
        action: OutAction,
        scope: u8,
        kind: u8,
        list: u32,
    },
    Reserve6,
    Release6,
    ReportOpcodes {
        reporting: Reporting,
        timeouts: bool,
        allocation: u32,
    },
    ReportTaskManagement {
        extended: bool,
        allocation: u32,
    },
    ExtendedCopy {
        action: u8,
        list: u32,
    },
    ReceiveCopyResults {
        action: u8,
        list_id: u8,
        allocation: u32,
    },
}

impl Command {
    /// Parses a CDB.
    ///
    /// # Errors
    /// An unknown operation code or service action, or an invalid field.
    pub fn parse(cdb: &[u8; CDB_LEN]) -> Result<Self, Sense> {
        let code = u8_at(cdb, 0);
        let Some(len) = opcode::cdb_len(code) else { return Err(unknown()) };
        let command = match len {
            6 => parse_6(cdb)?,
            10 => parse_10(cdb)?,
            12 => parse_12(cdb)?,
            _ => parse_16(cdb)?,
        };
        // NACA: units never establish an ACA condition. SAM-5, section 5.2.
        let control = len - 1;
        if u8_at(cdb, control) & 0x04 != 0 {
            return Err(Sense::invalid_cdb(u16::try_from(control).unwrap_or(0), Some(2)));
        }
        Ok(command)
    }
}

fn unknown() -> Sense {
    Sense::illegal(asc::INVALID_COMMAND_OPERATION_CODE)
}

/// An unknown service action is an invalid field, not an unknown command. SPC-4, section 4.2.5.1.
fn unknown_action() -> Sense {
    Sense::invalid_cdb(1, Some(4))
}

fn bit(cdb: &[u8], byte: usize, bit: u8) -> bool {
    u8_at(cdb, byte) >> bit & 1 != 0
}

fn parse_6(cdb: &[u8; CDB_LEN]) -> Result<Command, Sense> {
    let allocation = u32::from(u8_at(cdb, 4));
    Ok(match u8_at(cdb, 0) {
        opcode::TEST_UNIT_READY => Command::TestUnitReady,
        opcode::REQUEST_SENSE => Command::RequestSense { descriptor: bit(cdb, 1, 0), allocation },
        code @ (opcode::READ_6 | opcode::WRITE_6) => {
            let lba = u64::from(u32_at(cdb, 0) & 0x1f_ffff);
            // A count of 0 means 256, only in 6-byte CDBs.
            let count = if allocation == 0 { 256 } else { allocation };
            let blocks = Blocks { lba, count, fua: false, protect: 0 };
            if code == opcode::READ_6 { Command::Read(blocks) } else { Command::Write(blocks) }
        }
        opcode::INQUIRY => {
            let (has_page, page) = (bit(cdb, 1, 0), u8_at(cdb, 2));
            if bit(cdb, 1, 1) {
                return Err(Sense::invalid_cdb(1, Some(1))); // CMDDT, obsolete
            }
            if !has_page && page != 0 {
                return Err(Sense::invalid_cdb(2, Some(7)));
            }
            let allocation = u16_at(cdb, 3).into();
            Command::Inquiry { page: has_page.then_some(page), allocation }
        }
        opcode::MODE_SELECT_6 => Command::ModeSelect {
            is_ten: false,
            page_format: bit(cdb, 1, 4),
            save: bit(cdb, 1, 0),
            list: allocation,
        },
        opcode::MODE_SENSE_6 => mode_sense(cdb, false, allocation),
        opcode::RESERVE_6 | opcode::RELEASE_6 if u8_at(cdb, 1) & 0x11 != 0 => {
            return Err(Sense::invalid_cdb(1, Some(4))); // third party and extents, obsolete
        }
        opcode::RESERVE_6 => Command::Reserve6,
        opcode::RELEASE_6 => Command::Release6,
        opcode::START_STOP_UNIT => Command::StartStop {
            power_condition: u8_at(cdb, 4) >> 4,
            load_eject: bit(cdb, 4, 1),
            start: bit(cdb, 4, 0),
        },
        opcode::PREVENT_ALLOW_MEDIUM_REMOVAL => Command::PreventRemoval,
        _ => return Err(unknown()),
    })
}

fn mode_sense(cdb: &[u8; CDB_LEN], is_ten: bool, allocation: u32) -> Command {
    Command::ModeSense {
        is_ten,
        llbaa: is_ten && bit(cdb, 1, 4),
        dbd: bit(cdb, 1, 3),
        control: Control::from_bits(u8_at(cdb, 2) >> 6),
        page: u8_at(cdb, 2) & 0x3f,
        subpage: u8_at(cdb, 3),
        allocation,
    }
}

fn verify(cdb: &[u8; CDB_LEN], blocks: Blocks) -> Result<Command, Sense> {
    let (compare, one_block) = match u8_at(cdb, 1) >> 1 & 3 {
        0 => (false, false),
        1 => (true, false),
        3 => (true, true),
        _ => return Err(Sense::invalid_cdb(1, Some(2))), // BYTCHK 10b is reserved
    };
    Ok(Command::Verify { blocks, compare, one_block })
}

fn write_and_verify(cdb: &[u8; CDB_LEN], blocks: Blocks) -> Result<Command, Sense> {
    if u8_at(cdb, 1) >> 1 & 3 > 1 {
        return Err(Sense::invalid_cdb(1, Some(2)));
    }
    Ok(Command::WriteAndVerify(Blocks { fua: true, ..blocks }))
}

fn write_same(cdb: &[u8; CDB_LEN], blocks: Blocks, no_data: bool) -> Command {
    let blocks = Blocks { fua: false, ..blocks };
    Command::WriteSame(WriteSame { blocks, unmap: bit(cdb, 1, 3), anchor: bit(cdb, 1, 4), no_data })
}

fn parse_10(cdb: &[u8; CDB_LEN]) -> Result<Command, Sense> {
    let blocks = Blocks {
        lba: u32_at(cdb, 2).into(),
        count: u16_at(cdb, 7).into(),
        fua: bit(cdb, 1, 3),
        protect: u8_at(cdb, 1) >> 5,
    };
    let allocation = u32::from(u16_at(cdb, 7));
    Ok(match u8_at(cdb, 0) {
        opcode::READ_CAPACITY_10 => {
            // PMI, obsolete: without it the address must be 0.
            if !bit(cdb, 8, 0) && blocks.lba != 0 {
                return Err(Sense::invalid_cdb(2, None));
            }
            Command::ReadCapacity10
        }
        opcode::READ_10 => Command::Read(blocks),
        opcode::WRITE_10 => Command::Write(blocks),
        opcode::WRITE_AND_VERIFY_10 => write_and_verify(cdb, blocks)?,
        opcode::VERIFY_10 => verify(cdb, blocks)?,
        opcode::PRE_FETCH_10 => Command::PreFetch(blocks),
        opcode::SYNCHRONIZE_CACHE_10 => Command::SynchronizeCache(blocks),
        opcode::WRITE_SAME_10 => write_same(cdb, blocks, false),
        opcode::UNMAP => Command::Unmap { anchor: bit(cdb, 1, 0), list: allocation },
        opcode::LOG_SENSE => {
            if bit(cdb, 1, 0) {
                return Err(Sense::invalid_cdb(1, Some(0))); // SP: the unit saves no parameters
            }
            let (page, subpage) = (u8_at(cdb, 2) & 0x3f, u8_at(cdb, 3));
            Command::LogSense { page, subpage, first: u16_at(cdb, 5), allocation }
        }
        opcode::MODE_SELECT_10 => Command::ModeSelect {
            is_ten: true,
            page_format: bit(cdb, 1, 4),
            save: bit(cdb, 1, 0),
            list: allocation,
        },
        opcode::MODE_SENSE_10 => mode_sense(cdb, true, allocation),
        opcode::RESERVE_10 | opcode::RELEASE_10 if u8_at(cdb, 1) & 0x11 != 0 => {
            return Err(Sense::invalid_cdb(1, Some(4)));
        }
        opcode::RESERVE_10 => Command::Reserve6,
        opcode::RELEASE_10 => Command::Release6,
        opcode::PERSISTENT_RESERVE_IN => {
            let action = InAction::from_bits(u8_at(cdb, 1) & 0x1f).ok_or_else(unknown_action)?;
            Command::ReserveIn { action, allocation }
        }
        opcode::PERSISTENT_RESERVE_OUT => {
            let action = OutAction::from_bits(u8_at(cdb, 1) & 0x1f).ok_or_else(unknown_action)?;
            let (scope, kind) = (u8_at(cdb, 2) >> 4, u8_at(cdb, 2) & 0xf);
            Command::ReserveOut { action, scope, kind, list: u32_at(cdb, 5) }
        }
        _ => return Err(unknown()),
    })
}

fn parse_12(cdb: &[u8; CDB_LEN]) -> Result<Command, Sense> {
    let allocation = u32_at(cdb, 6);
    let blocks = Blocks {
        lba: u32_at(cdb, 2).into(),
        count: allocation,
        fua: bit(cdb, 1, 3),
        protect: u8_at(cdb, 1) >> 5,
    };
    Ok(match u8_at(cdb, 0) {
        opcode::READ_12 => Command::Read(blocks),
        opcode::WRITE_12 => Command::Write(blocks),
        opcode::WRITE_AND_VERIFY_12 => write_and_verify(cdb, blocks)?,
        opcode::VERIFY_12 => verify(cdb, blocks)?,
        opcode::REPORT_LUNS => Command::ReportLuns { select: u8_at(cdb, 2), allocation },
        opcode::MAINTENANCE_IN => match u8_at(cdb, 1) & 0x1f {
            action::REPORT_SUPPORTED_OPERATION_CODES => {
                let (code, action) = (u8_at(cdb, 3), u16_at(cdb, 4));
                let reporting = match u8_at(cdb, 2) & 7 {
                    0 => Reporting::All,
                    1 => Reporting::Opcode(code),
                    2 => Reporting::Action(code, action),
                    3 => Reporting::Either(code, action),
                    _ => return Err(Sense::invalid_cdb(2, Some(2))),
                };
                Command::ReportOpcodes { reporting, timeouts: bit(cdb, 2, 7), allocation }
            }
            action::REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS => {
                Command::ReportTaskManagement { extended: bit(cdb, 2, 7), allocation }
            }
            _ => return Err(unknown_action()),
        },
        _ => return Err(unknown()),
    })
}

fn parse_16(cdb: &[u8; CDB_LEN]) -> Result<Command, Sense> {
    let allocation = u32_at(cdb, 10);
    let blocks = Blocks {
        lba: u64_at(cdb, 2),
        count: allocation,
        fua: bit(cdb, 1, 3),
        protect: u8_at(cdb, 1) >> 5,
    };
    Ok(match u8_at(cdb, 0) {
        opcode::READ_16 => Command::Read(blocks),
        opcode::WRITE_16 => Command::Write(blocks),
        opcode::WRITE_AND_VERIFY_16 => write_and_verify(cdb, blocks)?,
        opcode::VERIFY_16 => verify(cdb, blocks)?,
        opcode::PRE_FETCH_16 => Command::PreFetch(blocks),
        opcode::SYNCHRONIZE_CACHE_16 => Command::SynchronizeCache(blocks),
        opcode::COMPARE_AND_WRITE => {
            Command::CompareAndWrite(Blocks { count: u8_at(cdb, 13).into(), ..blocks })
        }
        opcode::WRITE_SAME_16 => write_same(cdb, blocks, bit(cdb, 1, 0)),
        opcode::SERVICE_ACTION_IN_16 => match u8_at(cdb, 1) & 0x1f {
            action::READ_CAPACITY_16 => {
                if !bit(cdb, 14, 0) && blocks.lba != 0 {
                    return Err(Sense::invalid_cdb(2, None));
                }
                Command::ReadCapacity16 { allocation }
            }
            action::GET_LBA_STATUS => Command::GetLbaStatus { lba: blocks.lba, allocation },
            _ => return Err(unknown_action()),
        },
        opcode::THIRD_PARTY_COPY_OUT => {
            Command::ExtendedCopy { action: u8_at(cdb, 1) & 0x1f, list: allocation }
        }
        opcode::THIRD_PARTY_COPY_IN => Command::ReceiveCopyResults {
            action: u8_at(cdb, 1) & 0x1f,
            list_id: u8_at(cdb, 2),
            allocation,
        },
        _ => return Err(unknown()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(bytes: &[u8]) -> Result<Command, Sense> {
        let mut cdb = [0; CDB_LEN];
        cdb[..bytes.len()].copy_from_slice(bytes);
        Command::parse(&cdb)
    }

    #[test]
    fn reads_of_all_lengths_name_their_blocks() {
        let blocks = |lba, count, fua| Command::Read(Blocks { lba, count, fua, protect: 0 });
        assert_eq!(parse(&[0x08, 0xe1, 2, 3, 0, 0]), Ok(blocks(0x1_0203, 256, false)));
        assert_eq!(parse(&[0x28, 8, 0, 0, 0, 5, 0, 1, 0, 0]), Ok(blocks(5, 256, true)));
        assert_eq!(parse(&[0xa8, 0, 0, 0, 0, 5, 0, 0, 1, 0, 0, 0]), Ok(blocks(5, 256, false)));
        let long = [0x88, 0, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0];
        assert_eq!(parse(&long), Ok(blocks(0x1_0000_0005, 0, false)));
    }

    #[test]
    fn an_unknown_command_and_an_unknown_service_action_are_told_apart() {
        assert_eq!(parse(&[0x01]), Err(Sense::illegal(asc::INVALID_COMMAND_OPERATION_CODE)));
        assert_eq!(parse(&[0x7f]), Err(Sense::illegal(asc::INVALID_COMMAND_OPERATION_CODE)));
        assert_eq!(parse(&[0x5e, 0x1f]), Err(Sense::invalid_cdb(1, Some(4))));
        assert_eq!(parse(&[0xa3, 0x1f]), Err(Sense::invalid_cdb(1, Some(4))));
    }

    #[test]
    fn naca_is_refused_in_the_last_byte_of_each_length() {
        assert_eq!(parse(&[0, 0, 0, 0, 0, 4]), Err(Sense::invalid_cdb(5, Some(2))));
        assert_eq!(parse(&[0x28, 0, 0, 0, 0, 0, 0, 0, 0, 4]), Err(Sense::invalid_cdb(9, Some(2))));
        let mut long = [0; 16];
        (long[0], long[15]) = (0x88, 4);
        assert_eq!(parse(&long), Err(Sense::invalid_cdb(15, Some(2))));
    }

    #[test]
    fn a_page_code_without_the_bit_for_pages_is_refused() {
        assert_eq!(parse(&[0x12, 0, 0x83, 0, 96, 0]), Err(Sense::invalid_cdb(2, Some(7))));
        let page = Command::Inquiry { page: Some(0x83), allocation: 255 };
        assert_eq!(parse(&[0x12, 1, 0x83, 0, 255, 0]), Ok(page));
    }

    proptest! {
        #[test]
        fn any_cdb_is_read_without_a_panic(cdb: [u8; CDB_LEN]) {
            let _ = Command::parse(&cdb);
        }
    }
}
