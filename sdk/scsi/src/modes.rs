//! Mode parameters of a unit. SPC-4, section 7.5; SBC-3, section 6.5.

use crate::device::Begun;
use crate::unit::Unit;
use drivebay_spec_scsi::command::Command;
use drivebay_spec_scsi::mode::{self, Control, ControlFlags, page};
use drivebay_spec_scsi::sense::{Sense, asc};

/// The parameters that MODE SELECT can change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Modes {
    /// D_SENSE.
    pub(crate) descriptor_sense: bool,
    /// SWP.
    pub(crate) write_protect: bool,
}

/// The pages in the order of their codes.
const PAGES: [u8; 4] =
    [page::READ_WRITE_ERROR_RECOVERY, page::CACHING, page::CONTROL, page::INFORMATIONAL_EXCEPTIONS];

/// The values of a page.
fn page(unit: &Unit, code: u8, control: Control) -> Option<Vec<u8>> {
    let is_mask = control == Control::Changeable;
    let modes = match control {
        Control::Current => unit.modes,
        Control::Changeable => Modes { descriptor_sense: true, write_protect: true },
        Control::Default | Control::Saved => Modes::default(),
    };
    Some(match code {
        page::READ_WRITE_ERROR_RECOVERY => mode::error_recovery(),
        page::CACHING => mode::caching(unit.disk.write_cache && !is_mask),
        page::CONTROL => mode::control(ControlFlags {
            descriptor_sense: modes.descriptor_sense,
            write_protect: modes.write_protect,
            global_logging: !is_mask,
            unrestricted_reordering: !is_mask,
            task_aborted_status: false,
            busy_timeout: !is_mask,
        }),
        page::INFORMATIONAL_EXCEPTIONS => mode::informational_exceptions(),
        _ => return None,
    })
}

/// MODE SENSE.
pub(crate) fn sense(unit: &Unit, command: Command) -> Result<Begun, Sense> {
    let Command::ModeSense { is_ten, llbaa, dbd, control, page: code, subpage, allocation } =
        command
    else {
        return Err(Sense::illegal(asc::INVALID_COMMAND_OPERATION_CODE));
    };
    if control == Control::Saved {
        return Err(Sense::illegal(asc::SAVING_PARAMETERS_NOT_SUPPORTED));
    }
    let pages = match (code, subpage) {
        (page::ALL, 0 | 0xff) => {
            PAGES.iter().filter_map(|code| page(unit, *code, control)).flatten().collect()
        }
        (code, 0 | 0xff) => page(unit, code, control).ok_or(Sense::invalid_cdb(2, Some(5)))?,
        _ => return Err(Sense::invalid_cdb(3, None)),
    };
    let sensed = mode::Sensed {
        is_ten,
        write_protect: unit.is_protected(),
        dpo_fua: true,
        blocks: (!dbd).then_some((unit.disk.blocks, unit.disk.block_len, llbaa)),
        pages: &pages,
    };
    Ok(Begun::data(sensed.encode(), allocation))
}

/// MODE SELECT. Returns whether a parameter has changed.
pub(crate) fn select(unit: &mut Unit, list: &[u8], is_ten: bool) -> Result<bool, Sense> {
    let mut modes = unit.modes;
    for selected in mode::parse_select(list, is_ten)? {
        let code = selected.code();
        let at_code = Sense::invalid_parameter(selected.at, Some(5));
        let current = page(unit, code, Control::Current).ok_or(at_code)?;
        let changeable = page(unit, code, Control::Changeable).ok_or(at_code)?;
        if selected.page.len() != current.len() {
            return Err(Sense::invalid_parameter(selected.at + 1, None));
        }
        let bytes = selected.page.iter().zip(&current).zip(&changeable).enumerate().skip(2);
        for (at, ((new, old), mask)) in bytes {
            let wrong = (new ^ old) & !mask;
            if wrong != 0 {
                let place = selected.at.saturating_add(u16::try_from(at).unwrap_or(u16::MAX));
                let bit = u8::try_from(wrong.ilog2()).ok();
                return Err(Sense::invalid_parameter(place, bit));
            }
        }
        if code == page::CONTROL {
            let flags = ControlFlags::parse(selected.page);
            modes.descriptor_sense = flags.descriptor_sense;
            modes.write_protect = flags.write_protect;
        }
    }
    let has_changed = modes != unit.modes;
    unit.modes = modes;
    Ok(has_changed)
}
