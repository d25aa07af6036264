//! Commands with a parameter list, once the list has arrived.

use crate::device::{Begun, Device};
use crate::outcome::Outcome;
use crate::task::{Kind, Swap, Task};
use crate::{data, modes, plan, reserve_out};
use drivebay_sdk::bdev::Range;
use drivebay_spec_scsi::command::Command;
use drivebay_spec_scsi::sense::{Sense, asc};
use drivebay_spec_scsi::unmap;
use std::collections::VecDeque;

/// Maximum number of descriptors of one UNMAP, as the Block Limits page reports it.
pub(crate) const UNMAP_DESCRIPTORS_MAX: u32 = 256;

pub(crate) fn receive(
    device: &mut Device,
    task: &Task,
    command: Command,
    list: &[u8],
) -> Result<Begun, Sense> {
    if let Command::ReserveOut { .. } = command {
        return reserve_out::receive(device, task, command, list);
    }
    let (nexus, unit) = (task.nexus, task.unit);
    let Device { units, nexuses, .. } = device;
    let missing = Sense::illegal(asc::LOGICAL_UNIT_NOT_SUPPORTED);
    let found = units.get_mut(&unit).ok_or(missing)?;
    let short = Sense::illegal(asc::PARAMETER_LIST_LENGTH_ERROR);
    let block_len = usize::try_from(found.disk.block_len).map_err(|_| short)?;
    match command {
        Command::ModeSelect { is_ten, .. } => {
            if modes::select(found, list, is_ten)? {
                for other in nexuses.keys().filter(|other| **other != nexus) {
                    found.attend(*other, asc::MODE_PARAMETERS_CHANGED);
                }
            }
            Ok(Begun::Ended(Outcome::good()))
        }
        Command::Unmap { .. } => {
            let (last, most) = (found.disk.blocks, u64::from(found.disk.cover_max()));
            let mut ranges = VecDeque::new();
            let mut sum = 0;
            for descriptor in unmap::parse(list)? {
                let blocks = u64::from(descriptor.blocks);
                let end = descriptor.lba.checked_add(blocks);
                if end.is_none_or(|end| end > last) {
                    return Err(Sense::illegal(asc::LBA_OUT_OF_RANGE));
                }
                sum += blocks;
                if sum > most || ranges.len() as u64 >= UNMAP_DESCRIPTORS_MAX.into() {
                    return Err(Sense::illegal(asc::INVALID_FIELD_IN_PARAMETER_LIST));
                }
                if blocks > 0 {
                    ranges.push_back(Range::new(descriptor.lba, blocks));
                }
            }
            Ok(Begun::Work(plan::work(found, Kind::Unmap(ranges), Range::new(0, 0), false), 0))
        }
        Command::WriteSame(same) => {
            let block = list.get(..block_len).ok_or(short)?;
            let range = Range::new(same.blocks.lba, same.blocks.count.into());
            let kind = if data::is_zero(block) { Kind::Zero } else { Kind::Fill(block.to_vec()) };
            Ok(Begun::Work(plan::work(found, kind, range, false), 0))
        }
        Command::Verify { blocks, .. } => {
            let block = list.get(..block_len).ok_or(short)?;
            let range = Range::new(blocks.lba, blocks.count.into());
            let kind = Kind::Look(Some(block.to_vec()));
            Ok(Begun::Work(plan::work(found, kind, range, false), 0))
        }
        Command::CompareAndWrite(blocks) => {
            let half = usize::try_from(blocks.count).map_err(|_| short)? * block_len;
            let (expected, new) = list.split_at_checked(half).ok_or(short)?;
            let new = new.get(..half).ok_or(short)?.to_vec();
            let expected = expected.to_vec();
            let kind = Kind::Swap { expected, new, step: Swap::Read };
            let range = Range::new(blocks.lba, blocks.count.into());
            Ok(Begun::Work(plan::work(found, kind, range, blocks.fua), 0))
        }
        _ => Err(Sense::illegal(asc::INVALID_COMMAND_OPERATION_CODE)),
    }
}
