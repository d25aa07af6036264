//! A namespace: a bdev under a number, with its identity.

use crate::model::MAX_NAMESPACES;
use crate::model::reservation::Reservations;

/// One namespace of a subsystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Number, from 1.
    pub nsid: u32,
    /// Name of the bdev.
    pub bdev_name: String,
    /// Identity: the bdev's unless given.
    pub uuid: [u8; 16],
    /// The UUID unless given.
    pub nguid: [u8; 16],
    /// All zero: none.
    pub eui64: [u8; 8],
    /// ANA group.
    pub anagrpid: u32,
    /// What it offers.
    pub geometry: Geometry,
    /// File that keeps reservations through a loss of power.
    pub ptpl_file: Option<String>,
    /// Its reservations.
    pub reservations: Reservations,
}

/// What an I/O needs to know of a namespace's bdev.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size, in blocks.
    pub num_blocks: u64,
    /// Block size in bytes: a power of two, at least 512.
    pub block_size: u32,
    /// Physical block size, in bytes.
    pub phys_block_size: u32,
    /// Blocks that are best not crossed by one I/O; 0 = none.
    pub optimal_boundary: u32,
    /// Blocks written all or not at all.
    pub atomic_write_unit: u32,
    /// There is a volatile write cache.
    pub has_write_cache: bool,
    /// Nothing may be written.
    pub is_read_only: bool,
    /// A read leaves the data as they are.
    pub keeps_no_data: bool,
    /// What may be sent.
    pub ops: Ops,
}

/// Limits of commands that move no data, as Identify reports them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandLimits {
    /// Blocks of one range of Dataset Management.
    pub unmap_blocks: u32,
    /// Length of Write Zeroes, in bytes.
    pub zeroes_bytes: u64,
}

/// Optional operations of a bdev, its own or the bus's.
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
    /// Writes may ask to be durable before they complete.
    pub fua: bool,
}

impl Geometry {
    /// Why a bdev of this geometry cannot be a namespace.
    ///
    /// # Errors
    /// The field and what is allowed.
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
    /// The lowest number that is free beside `used`, which are in order, and at most `max_namespaces`; 0 means the default limit.
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
