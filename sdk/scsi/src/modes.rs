//! Mode parameters of a unit. SPC-4, section 7.5; SBC-3, section 6.5.

use crate::device::Begun;
use crate::unit::Unit;
use drivebay_spec_scsi::command::Command;
use drivebay_spec_scsi::mode::{self, Control, ControlFlags, Threshold, page, subpage};
use drivebay_spec_scsi::sense::{Sense, asc};

/// The parameters that MODE SELECT can change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Modes {
    /// D_SENSE.
    pub(crate) descriptor_sense: bool,
    /// SWP.
    pub(crate) write_protect: bool,
    /// LBPERE: the unit reports that its pool has reached the threshold.
    pub(crate) reports_thresholds: bool,
    pub(crate) threshold: Threshold,
}

impl Modes {
    /// Whether an initiator wants to know when the pool has reached the threshold.
    pub(crate) fn watches_space(&self) -> bool {
        self.reports_thresholds && self.threshold.is_enabled
    }
}

/// A page with its subpage.
type Id = (u8, u8);

const ERROR_RECOVERY: Id = (page::READ_WRITE_ERROR_RECOVERY, subpage::NONE);
const CACHING: Id = (page::CACHING, subpage::NONE);
const CONTROL: Id = (page::CONTROL, subpage::NONE);
const EXCEPTIONS: Id = (page::INFORMATIONAL_EXCEPTIONS, subpage::NONE);
const PROVISIONING: Id = (page::INFORMATIONAL_EXCEPTIONS, subpage::LOGICAL_BLOCK_PROVISIONING);

/// The pages in the order of their codes.
const PAGES: [Id; 5] = [ERROR_RECOVERY, CACHING, CONTROL, EXCEPTIONS, PROVISIONING];

/// The values of a page; `None` if the unit does not have it.
fn page(unit: &Unit, id: Id, control: Control) -> Option<Vec<u8>> {
    let is_mask = control == Control::Changeable;
    let has_pool = unit.provisioning.space.is_some();
    let modes = match control {
        Control::Current => unit.modes,
        Control::Changeable => Modes {
            descriptor_sense: true,
            write_protect: true,
            reports_thresholds: has_pool,
            threshold: Threshold { is_enabled: true, count: u32::MAX },
        },
        Control::Default | Control::Saved => Modes::default(),
    };
    Some(match id {
        ERROR_RECOVERY => mode::error_recovery(modes.reports_thresholds),
        CACHING => mode::caching(unit.disk.write_cache && !is_mask),
        PROVISIONING if has_pool => mode::provisioning(modes.threshold, is_mask),
        CONTROL => mode::control(ControlFlags {
            descriptor_sense: modes.descriptor_sense,
            write_protect: modes.write_protect,
            global_logging: !is_mask,
            unrestricted_reordering: !is_mask,
            task_aborted_status: false,
            busy_timeout: !is_mask,
        }),
        EXCEPTIONS => mode::informational_exceptions(),
        _ => return None,
    })
}

/// MODE SENSE.
pub(crate) fn sense(unit: &Unit, command: Command) -> Result<Begun, Sense> {
    let Command::ModeSense { is_ten, llbaa, dbd, control, page: code, subpage: sub, allocation } =
        command
    else {
        return Err(Sense::illegal(asc::INVALID_COMMAND_OPERATION_CODE));
    };
    if control == Control::Saved {
        return Err(Sense::illegal(asc::SAVING_PARAMETERS_NOT_SUPPORTED));
    }
    if code == page::ALL && !matches!(sub, subpage::NONE | subpage::ALL) {
        return Err(Sense::invalid_cdb(3, None));
    }
    let has_code = |id: &&Id| code == page::ALL || id.0 == code;
    let is_wanted = |id: &&Id| sub == subpage::ALL || id.1 == sub;
    let wanted = PAGES.iter().filter(has_code).filter(is_wanted);
    let pages: Vec<u8> = wanted.filter_map(|id| page(unit, *id, control)).flatten().collect();
    if pages.is_empty() {
        let is_known = PAGES.iter().any(|id| has_code(&id));
        let (byte, bit) = if is_known { (3, None) } else { (2, Some(5)) };
        return Err(Sense::invalid_cdb(byte, bit));
    }
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
        let id = (selected.code(), selected.subpage());
        let at_code = Sense::invalid_parameter(selected.at, Some(5));
        let current = page(unit, id, Control::Current).ok_or(at_code)?;
        let changeable = page(unit, id, Control::Changeable).ok_or(at_code)?;
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
        match id {
            CONTROL => {
                let flags = ControlFlags::parse(selected.page);
                modes.descriptor_sense = flags.descriptor_sense;
                modes.write_protect = flags.write_protect;
            }
            ERROR_RECOVERY => modes.reports_thresholds = mode::reports_thresholds(selected.page),
            PROVISIONING => modes.threshold = Threshold::parse(selected.page),
            _ => {}
        }
    }
    let has_changed = modes != unit.modes;
    unit.modes = modes;
    if has_changed {
        unit.provisioning.rearm();
    }
    Ok(has_changed)
}
