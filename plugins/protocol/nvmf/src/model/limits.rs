//! The limits of a transport.

use serde::Deserialize;

/// The options of a transport that the target itself enforces.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TransportLimits {
    /// Maximum number of entries of an I/O queue.
    pub max_queue_depth: u16,
    /// Maximum number of I/Os queues of a controller.
    pub max_io_qpairs_per_ctrlr: u16,
    /// Maximum number of bytes of data in a command capsule.
    pub in_capsule_data_size: u32,
    /// Maximum number of bytes of data of one command.
    pub max_io_size: u32,
    /// Maximum number of entries of an admin queue.
    pub max_aq_depth: u32,
    /// Granularity of the keep alive timeout, in 100 ms.
    pub kas: u16,
    /// Shortest keep alive timeout, in milliseconds.
    pub min_kato: u32,
    /// Maximum number of queues of one host, by its name.
    pub max_connections_per_host: u32,
}

impl Default for TransportLimits {
    fn default() -> Self {
        Self {
            max_queue_depth: 128,
            max_io_qpairs_per_ctrlr: 127,
            in_capsule_data_size: 4096,
            max_io_size: 131_072,
            max_aq_depth: 128,
            kas: 100,
            min_kato: 10_000,
            max_connections_per_host: 65_536,
        }
    }
}

impl TransportLimits {
    /// MDTS: the longest transfer, as a power of two of 4 KiB pages.
    pub fn mdts(&self) -> u8 {
        u8::try_from((self.max_io_size / 4096).max(1).ilog2()).unwrap_or(0)
    }

    /// Rounds a keep alive timeout up to a multiple of the granularity, at least the minimum. 0, no timeout, stays 0.
    pub fn keep_alive_ms(&self, wanted_ms: u32) -> u32 {
        if wanted_ms == 0 {
            return 0;
        }
        let granularity_ms = u32::from(self.kas.max(1)) * 100;
        let wanted_ms = wanted_ms.max(self.min_kato);
        wanted_ms.div_ceil(granularity_ms).saturating_mul(granularity_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_transfer_is_reported_in_pages() {
        assert_eq!(TransportLimits::default().mdts(), 5);
        let small = TransportLimits { max_io_size: 4096, ..TransportLimits::default() };
        assert_eq!(small.mdts(), 0);
    }

    #[test]
    fn a_keep_alive_timeout_is_rounded_up() {
        let limits = TransportLimits::default();
        for (wanted, given) in [(0, 0), (1, 10_000), (10_000, 10_000), (15_000, 20_000)] {
            assert_eq!(limits.keep_alive_ms(wanted), given);
        }
        assert_eq!(limits.keep_alive_ms(u32::MAX), u32::MAX);
    }
}
