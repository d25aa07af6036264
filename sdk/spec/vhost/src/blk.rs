//! The virtio block device. virtio 1.3, section 5.2.

use crate::bytes::Reader;

/// Sector size of the protocol, in bytes. It does not depend on the disk's block size.
pub const SECTOR: u64 = 512;
/// Length of a request's header, in bytes.
pub const HEADER_LEN: usize = 16;
/// Length of the serial number that `GET_ID` returns, in bytes.
pub const ID_LEN: usize = 20;
/// Length of one segment of a discard or write zeroes, in bytes.
pub const SEGMENT_LEN: usize = 16;
/// Length of the configuration space up to and including write zeroes, in bytes.
pub const CONFIG_LEN: usize = 60;

/// Feature bits of the device, as masks.
pub mod feature {
    /// `size_max` is valid.
    pub const SIZE_MAX: u64 = 1 << 1;
    /// `seg_max` is valid.
    pub const SEG_MAX: u64 = 1 << 2;
    /// The disk is read-only.
    pub const RO: u64 = 1 << 5;
    /// `blk_size` is valid.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// The driver flushes. Without this feature every write must be durable before it completes.
    pub const FLUSH: u64 = 1 << 9;
    /// The topology is valid.
    pub const TOPOLOGY: u64 = 1 << 10;
    /// The driver may change `writeback`.
    pub const CONFIG_WCE: u64 = 1 << 11;
    /// `num_queues` is valid.
    pub const MQ: u64 = 1 << 12;
    /// Discard.
    pub const DISCARD: u64 = 1 << 13;
    /// Write zeroes.
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// Status of a request: the last byte that the device writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Success.
    Ok = 0,
    /// I/O error.
    IoErr = 1,
    /// The device does not support the request.
    Unsupported = 2,
}

/// Type of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read.
    In,
    /// Write.
    Out,
    /// Make the written data durable.
    Flush,
    /// Return the serial number.
    GetId,
    /// Unmap: the contents of the segments are no longer needed.
    Discard,
    /// Write zeroes: later reads of the segments return zeroes.
    WriteZeroes,
    /// An unsupported type, by its number.
    Other(u32),
}

/// A request's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Type of the request.
    pub kind: Kind,
    /// First sector of a read or write.
    pub sector: u64,
}

impl Header {
    /// Parses a header: type, a reserved word, sector.
    #[must_use]
    pub const fn parse(bytes: [u8; HEADER_LEN]) -> Self {
        let word = u128::from_le_bytes(bytes);
        #[expect(clippy::cast_possible_truncation, reason = "the casts cut out parts of the word")]
        let (kind, sector) = (word as u32, (word >> 64) as u64);
        let kind = match kind {
            0 => Kind::In,
            1 => Kind::Out,
            4 => Kind::Flush,
            8 => Kind::GetId,
            11 => Kind::Discard,
            13 => Kind::WriteZeroes,
            other => Kind::Other(other),
        };
        Self { kind, sector }
    }

    /// The bytes of a header.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let kind: u32 = match self.kind {
            Kind::In => 0,
            Kind::Out => 1,
            Kind::Flush => 4,
            Kind::GetId => 8,
            Kind::Discard => 11,
            Kind::WriteZeroes => 13,
            Kind::Other(other) => other,
        };
        (u128::from(kind) | u128::from(self.sector) << 64).to_le_bytes()
    }
}

/// A range of a discard or write zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First sector.
    pub sector: u64,
    /// Number of sectors.
    pub num_sectors: u32,
    /// Write zeroes: whether the blocks may be deallocated.
    pub may_unmap: bool,
}

impl Segment {
    /// Parses a segment. `None` when it is incomplete or has a flag that is not allowed (`unmap` outside of write zeroes).
    #[must_use]
    pub fn parse(bytes: &[u8], kind: Kind) -> Option<Self> {
        let mut r = Reader(bytes);
        let (sector, num_sectors, flags) = (r.u64()?, r.u32()?, r.u32()?);
        let allowed = u32::from(kind == Kind::WriteZeroes);
        (flags & !allowed == 0).then_some(Self { sector, num_sectors, may_unmap: flags & 1 != 0 })
    }

    /// The bytes of a segment.
    #[must_use]
    pub fn to_bytes(self) -> [u8; SEGMENT_LEN] {
        let second = u64::from(self.num_sectors) | u64::from(self.may_unmap) << 32;
        (u128::from(self.sector) | u128::from(second) << 64).to_le_bytes()
    }
}

/// The configuration space, which describes the disk to the driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Size of the disk, in sectors.
    pub capacity: u64,
    /// Maximum length of a segment of a request, in bytes.
    pub size_max: u32,
    /// Maximum number of segments of a request, without header and status.
    pub seg_max: u32,
    /// Block size of the disk, in bytes.
    pub blk_size: u32,
    /// Number of blocks per physical block, as a power of two.
    pub physical_block_exp: u8,
    /// Minimum I/O size without a performance penalty, in blocks.
    pub min_io_size: u16,
    /// Optimal I/O size, in blocks; 0 = none.
    pub opt_io_size: u32,
    /// 1 = the disk has a write cache.
    pub writeback: u8,
    /// Number of queues.
    pub num_queues: u16,
    /// Maximum number of sectors of one discard segment.
    pub max_discard_sectors: u32,
    /// Maximum number of segments of one discard.
    pub max_discard_seg: u32,
    /// Discards should begin and end at multiples of this many sectors.
    pub discard_sector_alignment: u32,
    /// Maximum number of sectors of one write zeroes segment.
    pub max_write_zeroes_sectors: u32,
    /// Maximum number of segments of one write zeroes.
    pub max_write_zeroes_seg: u32,
    /// 1 = write zeroes may deallocate.
    pub write_zeroes_may_unmap: u8,
}

impl Config {
    /// Offset of `writeback`, the only byte that a driver may write.
    pub const WRITEBACK: usize = 32;

    /// Encodes the space. It leaves out the geometry, which only very old drivers use.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; CONFIG_LEN] {
        let mut bytes = [0; CONFIG_LEN];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            if let Some(place) = bytes.get_mut(at..at + field.len()) {
                place.copy_from_slice(field);
            }
            at += field.len();
        };
        put(&self.capacity.to_le_bytes());
        put(&self.size_max.to_le_bytes());
        put(&self.seg_max.to_le_bytes());
        put(&[0; 4]);
        put(&self.blk_size.to_le_bytes());
        put(&[self.physical_block_exp, 0]);
        put(&self.min_io_size.to_le_bytes());
        put(&self.opt_io_size.to_le_bytes());
        put(&[self.writeback, 0]);
        put(&self.num_queues.to_le_bytes());
        put(&self.max_discard_sectors.to_le_bytes());
        put(&self.max_discard_seg.to_le_bytes());
        put(&self.discard_sector_alignment.to_le_bytes());
        put(&self.max_write_zeroes_sectors.to_le_bytes());
        put(&self.max_write_zeroes_seg.to_le_bytes());
        put(&[self.write_zeroes_may_unmap, 0, 0, 0]);
        bytes
    }

    /// Parses the space. `None` when it is incomplete.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader(bytes);
        let capacity = r.u64()?;
        let (size_max, seg_max) = (r.u32()?, r.u32()?);
        let _geometry = r.u32()?;
        let blk_size = r.u32()?;
        let [physical_block_exp, _alignment_offset] = r.array()?;
        let (min_io_size, opt_io_size) = (r.u16()?, r.u32()?);
        let [writeback, _unused] = r.array()?;
        let num_queues = r.u16()?;
        let (max_discard_sectors, max_discard_seg) = (r.u32()?, r.u32()?);
        let discard_sector_alignment = r.u32()?;
        let (max_write_zeroes_sectors, max_write_zeroes_seg) = (r.u32()?, r.u32()?);
        let [write_zeroes_may_unmap] = r.array()?;
        Some(Self {
            capacity,
            size_max,
            seg_max,
            blk_size,
            physical_block_exp,
            min_io_size,
            opt_io_size,
            writeback,
            num_queues,
            max_discard_sectors,
            max_discard_seg,
            discard_sector_alignment,
            max_write_zeroes_sectors,
            max_write_zeroes_seg,
            write_zeroes_may_unmap,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_space_has_its_fields_where_the_standard_says() {
        let config = Config {
            capacity: 0x0102_0304_0506_0708,
            seg_max: 126,
            blk_size: 4096,
            writeback: 1,
            num_queues: 4,
            max_discard_sectors: 9,
            max_write_zeroes_seg: 5,
            write_zeroes_may_unmap: 1,
            ..Config::default()
        };
        let bytes = config.to_bytes();
        assert_eq!(bytes[..8], 0x0102_0304_0506_0708_u64.to_le_bytes());
        assert_eq!(bytes[12..16], 126_u32.to_le_bytes());
        assert_eq!(bytes[20..24], 4096_u32.to_le_bytes());
        assert_eq!(bytes[Config::WRITEBACK], 1);
        assert_eq!(bytes[34..36], 4_u16.to_le_bytes());
        assert_eq!(bytes[36..40], 9_u32.to_le_bytes());
        assert_eq!(bytes[52..56], 5_u32.to_le_bytes());
        assert_eq!(bytes[56], 1);
        assert_eq!(Config::parse(&bytes), Some(config));
    }

    #[test]
    fn a_header_tells_what_is_asked_and_where() {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = 1;
        bytes[8] = 9;
        assert_eq!(Header::parse(bytes), Header { kind: Kind::Out, sector: 9 });
        assert_eq!(Header { kind: Kind::Out, sector: 9 }.to_bytes(), bytes);
        bytes[0] = 14;
        assert_eq!(Header::parse(bytes).kind, Kind::Other(14));
    }

    #[test]
    fn unmap_is_a_flag_of_write_zeroes_alone() {
        let mut bytes = [0; SEGMENT_LEN];
        bytes[0] = 8;
        bytes[8] = 16;
        bytes[12] = 1;
        let segment = Segment { sector: 8, num_sectors: 16, may_unmap: true };
        assert_eq!(Segment::parse(&bytes, Kind::WriteZeroes), Some(segment));
        assert_eq!(segment.to_bytes(), bytes);
        assert_eq!(Segment::parse(&bytes, Kind::Discard), None);
        bytes[12] = 2;
        assert_eq!(Segment::parse(&bytes, Kind::WriteZeroes), None);
        assert_eq!(Segment::parse(&bytes[..15], Kind::WriteZeroes), None);
    }
}
