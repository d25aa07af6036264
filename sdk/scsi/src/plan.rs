//! Translates a command to work on blocks. SBC-3, section 5.

use crate::PIECE_LEN;
use crate::copy::LIMITS;
use crate::device::{Begun, Offered};
use crate::gate::Pass;
use crate::modes;
use crate::outcome::Outcome;
use crate::space;
use crate::task::{Kind, Work};
use crate::unit::Unit;
use drivebay_sdk::bdev::{IoFlags, Range};
use drivebay_spec_scsi::capacity::{Capacity, Provisioning, encode_lba_status};
use drivebay_spec_scsi::command::{Blocks, Command, WriteSame};
use drivebay_spec_scsi::copy::{in_action, out_action};
use drivebay_spec_scsi::reservation::OUT_LEN_MAX;
use drivebay_spec_scsi::sense::{Key, Sense, asc};
use drivebay_spec_scsi::status::Status;

/// How work passes the unit's gate; `None` for work that writes nothing.
pub(crate) fn pass_of(kind: &Kind) -> Option<Pass> {
    match kind {
        Kind::Write { .. } | Kind::Fill(_) | Kind::Zero | Kind::Unmap(_) | Kind::Copy(_) => {
            Some(Pass::Shared)
        }
        Kind::Swap { .. } => Some(Pass::Alone),
        Kind::Read | Kind::Compare | Kind::Look(_) | Kind::Flush => None,
    }
}

/// Checks a command and plans its work.
pub(crate) fn plan(unit: &mut Unit, command: Command, offered: Offered) -> Result<Begun, Sense> {
    match command {
        Command::TestUnitReady | Command::PreventRemoval => Ok(Begun::Ended(Outcome::good())),
        Command::StartStop { power_condition, load_eject, .. } => {
            // The unit is always ready, so power conditions have no effect.
            match (power_condition, load_eject) {
                (0 | 1 | 2 | 3 | 7 | 0xa | 0xb, false) => Ok(Begun::Ended(Outcome::good())),
                (_, true) => Err(Sense::invalid_cdb(4, Some(1))),
                _ => Err(Sense::invalid_cdb(4, Some(7))),
            }
        }
        Command::ReadCapacity10 => Ok(Begun::data(capacity(unit).encode_10().to_vec(), 8)),
        Command::ReadCapacity16 { allocation } => {
            Ok(Begun::data(capacity(unit).encode().to_vec(), allocation))
        }
        Command::GetLbaStatus { lba, allocation } => lba_status(unit, lba, allocation),
        Command::Read(blocks) => transfer(unit, blocks, Kind::Read, offered.in_len),
        Command::Write(blocks) => {
            check_writable(unit)?;
            transfer(unit, blocks, Kind::Write { verify: false }, offered.out_len)
        }
        Command::WriteAndVerify(blocks) => {
            check_writable(unit)?;
            transfer(unit, blocks, Kind::Write { verify: true }, offered.out_len)
        }
        Command::Verify { blocks, compare, one_block } => {
            verify(unit, command, blocks, compare, one_block, offered)
        }
        Command::PreFetch(blocks) => {
            check_range(unit, &blocks)?;
            Ok(Begun::Ended(Outcome::of(Status::ConditionMet)))
        }
        Command::SynchronizeCache(blocks) => {
            check_range(unit, &blocks)?;
            if !unit.disk.write_cache {
                return Ok(Begun::Ended(Outcome::good()));
            }
            Ok(Begun::Work(work(unit, Kind::Flush, Range::new(0, 1), false), 0))
        }
        Command::WriteSame(same) => write_same(unit, command, same),
        Command::Unmap { anchor, list } => {
            if !unit.disk.can_unmap {
                return Err(Sense::illegal(asc::INVALID_COMMAND_OPERATION_CODE));
            }
            if anchor {
                return Err(Sense::invalid_cdb(1, Some(0)));
            }
            check_writable(unit)?;
            list_of(command, list)
        }
        Command::CompareAndWrite(blocks) => {
            check_protect(&blocks)?;
            if blocks.count > unit.disk.compare_and_write_max().into() {
                return Err(Sense::invalid_cdb(13, None));
            }
            check_range(unit, &blocks)?;
            check_writable(unit)?;
            list_of(command, blocks.count.saturating_mul(2).saturating_mul(unit.disk.block_len))
        }
        Command::LogSense { page, subpage, first, allocation } => {
            space::log_sense(unit, page, subpage, first, allocation)
        }
        Command::ModeSense { .. } => modes::sense(unit, command),
        Command::ModeSelect { page_format, save, list, .. } => {
            if !page_format {
                return Err(Sense::invalid_cdb(1, Some(4)));
            }
            if save {
                return Err(Sense::invalid_cdb(1, Some(0)));
            }
            list_of(command, list)
        }
        Command::ReserveOut { list, .. } => {
            if !(24..=OUT_LEN_MAX).contains(&list) {
                return Err(Sense::illegal(asc::PARAMETER_LIST_LENGTH_ERROR));
            }
            list_of(command, list)
        }
        Command::ExtendedCopy { action: out_action::EXTENDED_COPY, list } => list_of(command, list),
        Command::ReceiveCopyResults {
            action: in_action::OPERATING_PARAMETERS, allocation, ..
        } => Ok(Begun::data(LIMITS.encode_operating_parameters(), allocation)),
        // Unsupported service actions. SPC-4, section 4.2.5.1.
        Command::ExtendedCopy { .. } | Command::ReceiveCopyResults { .. } => {
            Err(Sense::invalid_cdb(1, Some(4)))
        }
        Command::ReportTaskManagement { extended, allocation } => {
            Ok(Begun::data(crate::opcodes::task_management(extended), allocation))
        }
        _ => Err(Sense::illegal(asc::INVALID_COMMAND_OPERATION_CODE)),
    }
}

/// Asks for a parameter list. An empty list is not an error and ends the command.
fn list_of(command: Command, len: u32) -> Result<Begun, Sense> {
    match len {
        0 => Ok(Begun::Ended(Outcome::good())),
        1..=PIECE_LEN => Ok(Begun::List(command, len)),
        _ => Err(Sense::illegal(asc::PARAMETER_LIST_LENGTH_ERROR)),
    }
}

pub(crate) fn work(unit: &Unit, kind: Kind, left: Range, fua: bool) -> Work {
    Work {
        unit: unit.number,
        kind,
        block_len: unit.disk.block_len,
        piece_blocks: unit.disk.piece_blocks(),
        left,
        offset: 0,
        // Without a write cache every write is durable.
        flags: if fua && unit.disk.write_cache { IoFlags::FUA } else { IoFlags::NONE },
    }
}

fn check_protect(blocks: &Blocks) -> Result<(), Sense> {
    // The unit has no protection information. SBC-3, section 4.22.
    if blocks.protect != 0 { Err(Sense::invalid_cdb(1, Some(7))) } else { Ok(()) }
}

fn check_writable(unit: &Unit) -> Result<(), Sense> {
    if unit.is_protected() {
        return Err(Sense::new(Key::DataProtect, asc::WRITE_PROTECTED));
    }
    Ok(())
}

fn check_range(unit: &Unit, blocks: &Blocks) -> Result<(), Sense> {
    let end = blocks.lba.checked_add(blocks.count.into());
    // A first block past the end is an error even if the count is 0.
    let is_inside = end.is_some_and(|end| end <= unit.disk.blocks) && blocks.lba < unit.disk.blocks;
    if is_inside { Ok(()) } else { Err(Sense::illegal(asc::LBA_OUT_OF_RANGE)) }
}

/// Plans a transfer of blocks. If the initiator offers less, the command moves only whole blocks; the rest is the residual.
fn transfer(unit: &Unit, blocks: Blocks, kind: Kind, offered: u32) -> Result<Begun, Sense> {
    check_protect(&blocks)?;
    check_range(unit, &blocks)?;
    if blocks.count > unit.disk.transfer_max() {
        return Err(Sense::invalid_cdb(count_byte(&blocks), None));
    }
    let block_len = unit.disk.block_len;
    let wanted = u64::from(blocks.count) * u64::from(block_len);
    let moved = match kind {
        Kind::Read => blocks.count.min(offered.div_ceil(block_len)),
        _ => blocks.count.min(offered / block_len),
    };
    let range = Range::new(blocks.lba, moved.into());
    Ok(Begun::Work(work(unit, kind, range, blocks.fua), wanted))
}

/// The byte of the CDB with the length, for the field pointer: 10 in a CDB with a 64-bit LBA, else that of a 10-byte CDB.
fn count_byte(blocks: &Blocks) -> u16 {
    if blocks.lba > u64::from(u32::MAX) { 10 } else { 7 }
}

fn verify(
    unit: &Unit,
    command: Command,
    blocks: Blocks,
    compare: bool,
    one_block: bool,
    offered: Offered,
) -> Result<Begun, Sense> {
    if !compare {
        check_protect(&blocks)?;
        check_range(unit, &blocks)?;
        if blocks.count > unit.disk.cover_max() {
            return Err(Sense::invalid_cdb(count_byte(&blocks), None));
        }
        let range = Range::new(blocks.lba, blocks.count.into());
        return Ok(Begun::Work(work(unit, Kind::Look(None), range, false), 0));
    }
    if !one_block {
        return transfer(unit, blocks, Kind::Compare, offered.out_len);
    }
    check_protect(&blocks)?;
    check_range(unit, &blocks)?;
    if blocks.count == 0 {
        return Ok(Begun::Ended(Outcome::good()));
    }
    list_of(command, unit.disk.block_len)
}

fn write_same(unit: &Unit, command: Command, same: WriteSame) -> Result<Begun, Sense> {
    check_protect(&same.blocks)?;
    // WSNZ: a count of 0 would mean "to the end", without a limit. SBC-3, section 6.6.3.
    if same.blocks.count == 0 || same.blocks.count > unit.disk.cover_max() {
        return Err(Sense::invalid_cdb(count_byte(&same.blocks), None));
    }
    if same.anchor || (same.unmap && !unit.disk.can_unmap) {
        return Err(Sense::invalid_cdb(1, Some(if same.anchor { 4 } else { 3 })));
    }
    check_range(unit, &same.blocks)?;
    check_writable(unit)?;
    if same.no_data {
        let range = Range::new(same.blocks.lba, same.blocks.count.into());
        return Ok(Begun::Work(work(unit, Kind::Zero, range, false), 0));
    }
    list_of(command, unit.disk.block_len)
}

fn capacity(unit: &Unit) -> Capacity {
    let block_len = unit.disk.block_len;
    Capacity {
        last_lba: unit.disk.blocks.saturating_sub(1),
        block_len,
        provisioned: unit.disk.can_unmap,
        reads_zeros: unit.disk.can_unmap && unit.disk.reads_zeros,
        ..Capacity::default()
    }
}

fn lba_status(unit: &Unit, lba: u64, allocation: u32) -> Result<Begun, Sense> {
    if lba >= unit.disk.blocks {
        return Err(Sense::illegal(asc::LBA_OUT_OF_RANGE));
    }
    if !unit.disk.can_unmap {
        return Err(Sense::invalid_cdb(1, Some(4)));
    }
    // The bus cannot report which blocks are mapped.
    let left = u32::try_from(unit.disk.blocks - lba).unwrap_or(u32::MAX);
    Ok(Begun::data(encode_lba_status(lba, left, Provisioning::Mapped).to_vec(), allocation))
}
