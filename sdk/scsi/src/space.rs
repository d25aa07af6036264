//! The space of the pool behind a thin provisioned unit: the log page that reports it, and the threshold that warns before it is
//! used up. SBC-3, section 4.7.3.

use crate::device::Begun;
use crate::unit::Unit;
use drivebay_sdk::bdev::Space;
use drivebay_spec_scsi::log::{self, Resources, page};
use drivebay_spec_scsi::mode::Threshold;
use drivebay_spec_scsi::sense::{Sense, asc};

/// A threshold set has 2^11 blocks. So 32 bits count a pool of 4 PiB in blocks of 512 bytes.
pub(crate) const THRESHOLD_EXPONENT: u8 = 11;

/// The pool of a unit, and whether the unit has reported its threshold.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Provisioning {
    /// The pool as the transport last reported it; `None` if the unit has none.
    pub(crate) space: Option<Space>,
    /// The threshold has been reported. The unit reports it again only after there was more space than that.
    is_reported: bool,
}

impl Provisioning {
    /// The value of THRESHOLD EXPONENT.
    pub(crate) fn threshold_exponent(&self) -> u8 {
        if self.space.is_some() { THRESHOLD_EXPONENT } else { 0 }
    }

    /// Forgets an earlier report, because an initiator has set the threshold.
    pub(crate) fn rearm(&mut self) {
        self.is_reported = false;
    }

    /// Whether the threshold has been reached and not reported yet. The caller reports it then.
    pub(crate) fn reaches(&mut self, threshold: Threshold) -> bool {
        let Some(space) = self.space else { return false };
        let was_reported = self.is_reported;
        self.is_reported = available(space) <= threshold.count;
        self.is_reported && !was_reported
    }
}

/// Threshold sets that are free, rounded down.
fn available(space: Space) -> u32 {
    u32::try_from(space.free >> THRESHOLD_EXPONENT).unwrap_or(u32::MAX)
}

/// Threshold sets in use, rounded up.
fn used(space: Space) -> u32 {
    let sets = (space.total - space.free.min(space.total)).div_ceil(1 << THRESHOLD_EXPONENT);
    u32::try_from(sets).unwrap_or(u32::MAX)
}

/// The sense data of a unit attention. That of the threshold points to its descriptor. SBC-3, section 4.7.3.7.6.
pub(crate) fn attention(code: u16) -> Sense {
    let sense = Sense::attention(code);
    match code {
        asc::THIN_PROVISIONING_SOFT_THRESHOLD_REACHED => {
            sense.with_information(Threshold::AT.into())
        }
        _ => sense,
    }
}

/// LOG SENSE. SPC-4, section 6.6.
pub(crate) fn log_sense(
    unit: &Unit,
    code: u8,
    subpage: u8,
    first: u16,
    allocation: u32,
) -> Result<Begun, Sense> {
    let space = unit.provisioning.space;
    let body = match (code, subpage) {
        (page::SUPPORTED, 0) => {
            let pages = [Some(page::SUPPORTED), space.map(|_| page::LOGICAL_BLOCK_PROVISIONING)];
            pages.into_iter().flatten().collect()
        }
        (page::SUPPORTED, log::ALL_SUBPAGES) => {
            let mut pages = vec![page::SUPPORTED, 0, page::SUPPORTED, log::ALL_SUBPAGES];
            pages.extend(space.into_iter().flat_map(|_| [page::LOGICAL_BLOCK_PROVISIONING, 0]));
            pages
        }
        (page::LOGICAL_BLOCK_PROVISIONING, 0) => {
            resources(space.ok_or(Sense::invalid_cdb(2, Some(5)))?, first)?
        }
        (page::SUPPORTED | page::LOGICAL_BLOCK_PROVISIONING, _) => {
            return Err(Sense::invalid_cdb(3, None));
        }
        _ => return Err(Sense::invalid_cdb(2, Some(5))),
    };
    Ok(Begun::data(log::encode(code, subpage, &body), allocation))
}

/// The parameters from `first` on.
fn resources(space: Space, first: u16) -> Result<Vec<u8>, Sense> {
    let all = [
        Resources { code: Resources::AVAILABLE, count: available(space) },
        Resources { code: Resources::USED, count: used(space) },
    ];
    let rest = all.into_iter().filter(|one| one.code >= first);
    let body: Vec<u8> = rest.flat_map(Resources::encode).collect();
    if body.is_empty() { Err(Sense::invalid_cdb(5, None)) } else { Ok(body) }
}
