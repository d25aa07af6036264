//! The device of a back end: a block device or a SCSI host.

use drivebay_sdk::Result;
use drivebay_spec_vhost::{blk as blk_spec, scsi as scsi_spec};

use crate::agreement::{Agreement, Wanted};
use crate::connection::Offer;
use crate::rpc::Kind;
use crate::{blk, scsi};

/// A device, as the first session agreed on it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Device {
    Blk(blk::Shape),
    Scsi(scsi::Shape),
}

impl Device {
    /// Chooses features and limits from an offer.
    ///
    /// # Errors
    /// `EINVAL` when the device has fewer queues, `EIO` when the plugin cannot use the device.
    pub(crate) fn new(kind: Kind, offer: &Offer, wanted: Wanted) -> Result<Self> {
        Ok(match kind {
            Kind::Blk => Self::Blk(blk::Shape::new(offer, wanted)?),
            Kind::Scsi => Self::Scsi(scsi::Shape::new(offer, wanted)?),
        })
    }

    pub(crate) fn agreement(&self) -> &Agreement {
        match self {
            Self::Blk(shape) => &shape.agreement,
            Self::Scsi(shape) => &shape.agreement,
        }
    }

    /// Checks that a later session can do what was agreed on.
    ///
    /// # Errors
    /// `EIO`; the text says what is missing.
    pub(crate) fn check(&self, offer: &Offer) -> Result<()> {
        match self {
            Self::Blk(shape) => shape.check(offer),
            Self::Scsi(shape) => shape.check(offer),
        }
    }
}

/// Length of the configuration space of a kind of device, in bytes.
pub(crate) fn config_len(kind: Kind) -> usize {
    match kind {
        Kind::Blk => blk_spec::CONFIG_LEN,
        Kind::Scsi => scsi_spec::CONFIG_LEN,
    }
}
