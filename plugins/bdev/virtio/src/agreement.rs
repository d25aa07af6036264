//! What the first session agreed on about features and queues. Later sessions must support it.

use drivebay_sdk::{Error, Result, errno};
use drivebay_spec_vhost::ring;
use drivebay_virtio::Features;
use drivebay_virtio::driver::Layout;

use crate::connection::Offer;

/// Longest data of a request, in bytes.
pub(crate) const DATA_MAX: u32 = 128 << 10;
/// Requests at once in one queue.
pub(crate) const SLOTS_MAX: u16 = 128;
/// Most rings, because a ring's number has 8 bits in some messages.
const RINGS_MAX: u16 = 256;

/// The features and queues of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Agreement {
    pub(crate) features: u64,
    /// Rings before those that channels use: none, or those of a SCSI host.
    pub(crate) num_fixed: u16,
    /// Queues that channels use.
    pub(crate) num_queues: u16,
    pub(crate) layout: Layout,
}

/// What a number of queues depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// What the operator said; `None` = `default`, or all queues if there are fewer.
    pub(crate) count: Option<u16>,
    pub(crate) default: u16,
    /// Entries of each queue.
    pub(crate) size: u16,
}

impl Agreement {
    /// Chooses the number of queues. `of_config`: queues for channels, as the configuration space says.
    ///
    /// # Errors
    /// `EINVAL` when the operator wants more queues than the device has, `EIO` when it has too few for any.
    pub(crate) fn new(
        offer: &Offer,
        known: u64,
        wanted: Wanted,
        (num_fixed, of_config): (u16, u16),
        data_len: u32,
    ) -> Result<Self> {
        let features = offer.features & known;
        let rings = u16::try_from(offer.queues_max).unwrap_or(u16::MAX).min(RINGS_MAX);
        let most = of_config.min(rings.saturating_sub(num_fixed));
        if most == 0 {
            let why = format!("the device has {rings} queues, too few for a disk");
            return Err(Error::new(errno::EIO, why));
        }
        let num_queues = match wanted.count {
            Some(count) if count > most => {
                let allowed = format!("1 to {most}, the queues of the device");
                return Err(Error::invalid("vq_count", count, allowed));
            }
            Some(count) => count,
            None => wanted.default.min(most),
        };
        let packed = features & ring::feature::RING_PACKED != 0;
        let layout = Layout { size: wanted.size, slots_max: SLOTS_MAX, data_len, packed };
        Ok(Self { features, num_fixed, num_queues, layout })
    }

    /// Checks that a later session has these features and queues.
    ///
    /// # Errors
    /// `EIO`; the text says what is missing.
    pub(crate) fn check(&self, offer: &Offer) -> Result<()> {
        let missing = self.features & !offer.features;
        if missing != 0 {
            return Err(changed(&format!("it lacks features {missing:#x}")));
        }
        if u64::from(self.num_rings()) > offer.queues_max {
            let why =
                format!("it has {} queues, and {} are used", offer.queues_max, self.num_rings());
            return Err(changed(&why));
        }
        Ok(())
    }

    /// All rings of a session.
    pub(crate) fn num_rings(&self) -> u16 {
        self.num_fixed + self.num_queues
    }

    pub(crate) fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    pub(crate) fn ring_features(&self) -> Features {
        Features {
            packed: self.layout.packed,
            event_idx: self.has(ring::feature::EVENT_IDX),
            indirect: false,
        }
    }
}

/// The error for a device that cannot do any more what was agreed on.
pub(crate) fn changed(why: &str) -> Error {
    Error::new(errno::EIO, format!("the device has changed: {why}"))
}
