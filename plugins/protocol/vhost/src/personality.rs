//! What a device presents to a VMM: a block device or a SCSI host.

use crate::blk::Disk;
use crate::scsi;

/// The kind of a device.
#[derive(Clone, Debug)]
pub enum Personality {
    /// A block device.
    Blk(Disk),
    /// A SCSI host.
    Scsi,
}

impl Personality {
    /// Features that the device offers.
    #[must_use]
    pub fn features(&self) -> u64 {
        match self {
            Self::Blk(disk) => disk.features(),
            Self::Scsi => scsi::FEATURES,
        }
    }

    /// The configuration space.
    #[must_use]
    pub fn config(&self, num_rings: usize) -> Vec<u8> {
        match self {
            Self::Blk(disk) => {
                disk.config(u16::try_from(num_rings).unwrap_or(u16::MAX)).to_bytes().to_vec()
            }
            Self::Scsi => scsi::config(num_rings),
        }
    }

    /// Whether writes must be durable when they end, with a driver that accepted these features.
    #[must_use]
    pub fn writes_through(&self, features: u64) -> bool {
        match self {
            Self::Blk(disk) => disk.writes_through(features),
            Self::Scsi => false, // the driver finds the cache in a mode page and flushes it
        }
    }
}
