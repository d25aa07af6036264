//! The description of a new bdev, for the bus.

use super::desc::Info;
use super::op::{Geometry, IoFlags, OpSet};
use super::zone::Zoning;

/// Describes a bdev to the bus. The defaults come from the bdev's constants; `describe` changes them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Registration {
    /// Unique name.
    pub name: String,
    /// Product name, as `bdev_get_bdevs` shows it.
    pub product: String,
    /// Aliases.
    pub aliases: Vec<String>,
    /// Block size and number of blocks.
    pub geometry: Geometry,
    /// UUID. If all bytes are zero, the bus derives one from the name.
    pub uuid: [u8; 16],
    /// Ops that the module accepts.
    pub ops: OpSet,
    /// Must-understand flags that the module accepts.
    pub must_flags: IoFlags,
    /// Whether the device has a volatile write cache, so a flush has an effect.
    pub has_write_cache: bool,
    /// Whether the bdev refuses every op that writes.
    pub is_read_only: bool,
    /// Whether the bdev discards written data, and a read does not change its buffers. A client that passes
    /// read data on must clear the buffers before the read.
    pub keeps_no_data: bool,
    /// Whether blocks that an unmap has deallocated read as zeroes. An unmap may still leave blocks unchanged.
    pub unmapped_reads_zeroes: bool,
    /// Physical block size in bytes; 0 = the block size.
    pub phys_block_size: u32,
    /// Write unit in blocks: the length of a write must be a multiple of it. 0 = 1.
    pub write_unit: u32,
    /// Number of blocks that the device writes completely or not at all; 0 = 1.
    pub atomic_write_unit: u32,
    /// Required alignment of buffers in bytes, a power of two; 0 = 1.
    pub align: u32,
    /// The bus splits I/O at multiples of this many blocks; 0 = never.
    pub optimal_boundary: u32,
    /// Maximum number of elements of a scatter/gather list; 0 = no limit.
    pub max_segments: u32,
    /// Maximum bytes in one element; 0 = no limit.
    pub max_segment_size: u32,
    /// Maximum blocks of one read or write; 0 = no limit.
    pub max_io_blocks: u32,
    /// Maximum blocks of one unmap; 0 = no limit.
    pub max_unmap: u32,
    /// Maximum blocks of one write zeroes; 0 = no limit.
    pub max_write_zeroes: u32,
    /// How the bdev is divided into zones; `None` = it is not zoned.
    pub zoning: Option<Zoning>,
    /// Metadata bytes per block.
    pub md_size: u32,
    /// Whether the metadata follows each block's data.
    pub md_interleave: bool,
    /// T10 DIF type 0 to 3.
    pub dif_type: u8,
    /// Whether the protection information is at the start of the metadata.
    pub dif_is_head: bool,
    /// 0 = 16 bit guard, 1 = 32, 2 = 64.
    pub dif_pi_format: u8,
    /// NUMA node, -1 = any.
    pub numa: i32,
    /// Filters: name of the base bdev.
    pub base: Option<String>,
    /// Filters: how many children of one I/O may be in flight at once.
    pub max_children: u32,
}

impl Registration {
    pub(super) fn new(name: &str, product: &str, geometry: Geometry, ops: OpSet) -> Self {
        Self {
            name: name.to_owned(),
            product: product.to_owned(),
            aliases: Vec::new(),
            geometry,
            uuid: [0; 16],
            ops,
            must_flags: IoFlags::NONE,
            has_write_cache: false,
            is_read_only: false,
            keeps_no_data: false,
            unmapped_reads_zeroes: false,
            phys_block_size: 0,
            write_unit: 0,
            atomic_write_unit: 0,
            align: 0,
            optimal_boundary: 0,
            max_segments: 0,
            max_segment_size: 0,
            max_io_blocks: 0,
            max_unmap: 0,
            max_write_zeroes: 0,
            zoning: None,
            md_size: 0,
            md_interleave: false,
            dif_type: 0,
            dif_is_head: false,
            dif_pi_format: 0,
            numa: -1,
            base: None,
            max_children: 0,
        }
    }

    /// Copies the base's properties, for what a filter does not change.
    pub(super) fn inherit(&mut self, base: &Info) {
        let raw = base.raw();
        self.ops = base.ops();
        self.must_flags = IoFlags::from_bits(raw.must_flags);
        self.has_write_cache = base.has_write_cache();
        self.is_read_only = base.is_read_only();
        self.keeps_no_data = base.keeps_no_data();
        self.unmapped_reads_zeroes = base.unmapped_reads_zeroes();
        self.phys_block_size = raw.phys_block_size;
        self.write_unit = raw.write_unit;
        self.atomic_write_unit = raw.atomic_write_unit;
        self.align = raw.align;
        self.optimal_boundary = raw.optimal_boundary;
        self.zoning = base.zoning();
        self.md_size = raw.md_size;
        self.md_interleave = raw.md_interleave != 0;
        self.dif_type = raw.dif_type;
        self.dif_is_head = raw.dif_is_head != 0;
        self.dif_pi_format = raw.dif_pi_format;
        self.numa = raw.numa;
        self.base = Some(base.name().to_owned());
        self.max_children = 1;
    }
}
