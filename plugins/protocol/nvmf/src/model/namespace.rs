//! A namespace: a bdev with a number and an identity.

use crate::model::MAX_NAMESPACES;
use crate::model::reservation::Reservations;

/// One namespace of a subsystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Number, from 1.
    pub nsid: u32,
    /// Name of the bdev.
    pub bdev_name: String,
    /// UUID: that of the bdev, unless the operator gave one.
    pub uuid: [u8; 16],
    /// NGUID: the UUID, unless the operator gave one.
    pub nguid: [u8; 16],
    /// EUI64; all zero when there is none.
    pub eui64: [u8; 8],
    /// ANA group.
    pub anagrpid: u32,
    /// Size, block size and operations of the bdev.
    pub geometry: Geometry,
    /// File that keeps reservations across a loss of power.
    pub ptpl_file: Option<String>,
    /// Its reservations.
    pub reservations: Reservations,
}

/// The properties of a namespace's bdev that I/O needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size, in blocks.
    pub num_blocks: u64,
    /// Block size in bytes: a power of two, at least 512.
    pub block_size: u32,
    /// Physical block size, in bytes.
    pub phys_block_size: u32,
    /// Optimal I/O boundary, in blocks: an I/O should not cross a multiple of it; 0 means none.
    pub optimal_boundary: u32,
    /// Number of blocks that are written atomically.
    pub atomic_write_unit: u32,
    /// Whether there is a volatile write cache.
    pub has_write_cache: bool,
    /// Whether writes are refused.
    pub is_read_only: bool,
    /// Whether a read leaves the memory for its data unchanged.
    pub keeps_no_data: bool,
    /// Whether deallocated blocks read as zeroes.
    pub deallocated_reads_zeroes: bool,
    /// Optional operations.
    pub ops: Ops,
}

/// Limits of commands that move no data, as Identify reports them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandLimits {
    /// Maximum number of blocks of one range of Dataset Management.
    pub unmap_blocks: u32,
    /// Longest Write Zeroes, in bytes.
    pub zeroes_bytes: u64,
}

/// Optional operations of a bdev. The bdev has them or the bus emulates them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ops {
    /// Flush.
    pub flush: bool,
    /// Unmap.
    pub unmap: bool,
    /// Write zeroes.
    pub write_zeroes: bool,
    /// Compare.
    pub compare: bool,
    /// Writes with force unit access: durable before they complete.
    pub fua: bool,
}

impl Geometry {
    /// Checks that a bdev of this geometry can be a namespace.
    ///
    /// # Errors
    /// A text with the field and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        if !self.block_size.is_power_of_two() || self.block_size < 512 {
            return Err(format!(
                "block size {} of the bdev is not allowed; allowed: a power of two, at least 512",
                self.block_size
            ));
        }
        if self.num_blocks == 0 {
            return Err("the bdev has no blocks".to_owned());
        }
        Ok(())
    }
}

impl Namespace {
    /// Returns the lowest free number, at most `max_namespaces`; 0 means the default limit. `used`: the other numbers, ascending.
    pub fn free_nsid(used: impl IntoIterator<Item = u32>, max_namespaces: u32) -> Option<u32> {
        let max = if max_namespaces == 0 { MAX_NAMESPACES } else { max_namespaces };
        let mut free = 1;
        for nsid in used {
            if nsid > free {
                break;
            }
            free = nsid + 1;
        }
        Some(free).filter(|free| *free <= max)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A namespace of 1024 blocks of 512 bytes that can do everything.
    pub(crate) fn namespace(nsid: u32) -> Namespace {
        Namespace {
            nsid,
            bdev_name: format!("Malloc{nsid}"),
            uuid: [3; 16],
            nguid: [3; 16],
            eui64: [0; 8],
            anagrpid: nsid,
            geometry: geometry(),
            ptpl_file: None,
            reservations: Reservations::default(),
        }
    }

    pub(crate) fn geometry() -> Geometry {
        Geometry {
            num_blocks: 1024,
            block_size: 512,
            phys_block_size: 4096,
            optimal_boundary: 0,
            atomic_write_unit: 1,
            has_write_cache: true,
            is_read_only: false,
            keeps_no_data: false,
            deallocated_reads_zeroes: true,
            ops: Ops { flush: true, unmap: true, write_zeroes: true, compare: true, fua: true },
        }
    }

    #[test]
    fn the_lowest_free_number_is_taken_and_the_limit_kept() {
        assert_eq!(Namespace::free_nsid([], 0), Some(1));
        assert_eq!(Namespace::free_nsid([1, 3], 0), Some(2));
        assert_eq!(Namespace::free_nsid([1, 2], 2), None);
    }

    #[test]
    fn a_block_size_that_is_no_power_of_two_is_refused_with_what_is_allowed() {
        let odd = Geometry { block_size: 520, ..geometry() };
        assert!(odd.check().unwrap_err().contains("a power of two, at least 512"));
        assert!(geometry().check().is_ok());
    }
}
