//! A block device: its features and configuration, and the meaning of its requests.

mod service;

pub use service::Service;

use drivebay_sdk::bdev::{Info, Op, OpSet, Range};
use drivebay_spec_vhost::blk::{
    Config, HEADER_LEN, Header, ID_LEN, Kind, SECTOR, SEGMENT_LEN, Segment, Status, feature,
};
use drivebay_spec_vhost::message::F_PROTOCOL_FEATURES;
use drivebay_spec_vhost::ring;
use drivebay_virtio::Chain;

/// Maximum number of segments of a request, without header and status.
const SEGMENTS_MAX: u32 = 126;
/// Longest data of one request, in bytes. The driver computes it from `size_max` and `seg_max`.
const DATA_MAX: u64 = SEGMENTS_MAX as u64 * SEGMENT_LEN_MAX as u64;
/// Longest segment, in bytes.
const SEGMENT_LEN_MAX: u32 = 128 << 10;
/// Maximum number of sectors of one discard or write zeroes.
const ZEROES_MAX: u32 = 1 << 22;
/// Length of the status, which follows the data that the device writes, in bytes.
pub const STATUS_LEN: u64 = 1;

/// A bdev as a block device.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Name of the bdev, which is also the serial number.
    pub name: String,
    /// Block size, in bytes.
    pub block_size: u32,
    /// Size, in blocks.
    pub num_blocks: u64,
    ops: OpSet,
    has_write_cache: bool,
    is_read_only: bool,
    packed: bool,
}

/// What to do for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Read into the buffers that the device writes.
    Read(Range),
    /// Write from the buffers that the device reads.
    Write(Range),
    /// An op without data.
    Other(Op),
    /// Return the serial number.
    Id,
    /// Do no I/O, and only answer.
    Done(Status),
}

impl Disk {
    /// Creates a disk from an open bdev.
    #[must_use]
    pub fn new(info: &Info, readonly: bool, packed: bool) -> Self {
        Self {
            name: info.name().to_owned(),
            block_size: info.block_size(),
            num_blocks: info.num_blocks(),
            ops: info.ops(),
            has_write_cache: info.has_write_cache(),
            is_read_only: readonly || info.is_read_only(),
            packed,
        }
    }

    /// Features that the device offers.
    #[must_use]
    pub fn features(&self) -> u64 {
        let mut features = ring::feature::VERSION_1
            | ring::feature::INDIRECT_DESC
            | ring::feature::EVENT_IDX
            | F_PROTOCOL_FEATURES
            | feature::SIZE_MAX
            | feature::SEG_MAX
            | feature::BLK_SIZE
            | feature::FLUSH
            | feature::MQ;
        for (holds, bit) in [
            (self.packed, ring::feature::RING_PACKED),
            (self.is_read_only, feature::RO),
            (!self.is_read_only && self.ops.contains(OpSet::UNMAP), feature::DISCARD),
            (!self.is_read_only && self.ops.contains(OpSet::WRITE_ZEROES), feature::WRITE_ZEROES),
        ] {
            if holds {
                features |= bit;
            }
        }
        features
    }

    /// Whether writes must be durable when they end, because the bdev has a cache and the driver does not flush.
    #[must_use]
    pub fn writes_through(&self, features: u64) -> bool {
        self.has_write_cache && features & feature::FLUSH == 0
    }

    /// The configuration space.
    #[must_use]
    pub fn config(&self, num_queues: u16) -> Config {
        let block_sectors = self.block_size / 512;
        Config {
            capacity: self.num_blocks.saturating_mul(block_sectors.into()),
            size_max: SEGMENT_LEN_MAX,
            seg_max: SEGMENTS_MAX,
            blk_size: self.block_size,
            min_io_size: 1,
            writeback: self.has_write_cache.into(),
            num_queues,
            max_discard_sectors: ZEROES_MAX,
            max_discard_seg: 1,
            discard_sector_alignment: block_sectors,
            max_write_zeroes_sectors: ZEROES_MAX,
            max_write_zeroes_seg: 1,
            write_zeroes_may_unmap: 1,
            ..Config::default()
        }
    }

    /// Returns what a chain asks for. `None` when it has no room for a status, so that the device cannot answer.
    #[must_use]
    pub fn plan(&self, chain: &Chain) -> Option<Plan> {
        let data_in = chain.writable_len().checked_sub(STATUS_LEN)?;
        let mut header = [0; HEADER_LEN];
        if !chain.read(0, &mut header) {
            return Some(Plan::Done(Status::IoErr));
        }
        let data_out = chain.readable_len() - HEADER_LEN as u64;
        let Header { kind, sector } = Header::parse(header);
        Some(match kind {
            Kind::In => self.range(sector, data_in).map_or(Plan::Done(Status::IoErr), Plan::Read),
            Kind::Out if self.is_read_only => Plan::Done(Status::IoErr),
            Kind::Out => {
                self.range(sector, data_out).map_or(Plan::Done(Status::IoErr), Plan::Write)
            }
            Kind::Flush => Plan::Other(Op::Flush),
            Kind::GetId => Plan::Id,
            Kind::Discard if self.features() & feature::DISCARD != 0 => self
                .segment(chain, kind, data_out)
                .map_or(Plan::Done(Status::IoErr), |range| Plan::Other(Op::Unmap(range))),
            Kind::WriteZeroes if self.features() & feature::WRITE_ZEROES != 0 => self
                .segment(chain, kind, data_out)
                .map_or(Plan::Done(Status::IoErr), |range| Plan::Other(Op::WriteZeroes(range))),
            Kind::Discard | Kind::WriteZeroes | Kind::Other(_) => Plan::Done(Status::Unsupported),
        })
    }

    /// The serial number: the name, cut or padded with zeroes.
    #[must_use]
    pub fn id(&self) -> [u8; ID_LEN] {
        let mut id = [0; ID_LEN];
        for (place, byte) in id.iter_mut().zip(self.name.bytes()) {
            *place = byte;
        }
        id
    }

    /// The blocks of `len` bytes from a sector on.
    fn range(&self, sector: u64, len: u64) -> Option<Range> {
        let block = u64::from(self.block_size);
        let start = sector.checked_mul(SECTOR)?;
        let is_whole = start.is_multiple_of(block) && len.is_multiple_of(block);
        let fits = len > 0
            && len <= DATA_MAX
            && start.checked_add(len)? <= self.num_blocks.checked_mul(block)?;
        (is_whole && fits).then(|| Range::new(start / block, len / block))
    }

    /// The blocks of the one segment of a discard or write zeroes.
    fn segment(&self, chain: &Chain, kind: Kind, data_len: u64) -> Option<Range> {
        let mut bytes = [0; SEGMENT_LEN];
        if data_len != SEGMENT_LEN as u64 || !chain.read(HEADER_LEN as u64, &mut bytes) {
            return None;
        }
        let segment = Segment::parse(&bytes, kind)?;
        if segment.num_sectors > ZEROES_MAX {
            return None;
        }
        let (block, len) = (u64::from(self.block_size), u64::from(segment.num_sectors) * SECTOR);
        let start = segment.sector.checked_mul(SECTOR)?;
        let fits = len > 0 && start.checked_add(len)? <= self.num_blocks.checked_mul(block)?;
        let is_whole = start.is_multiple_of(block) && len.is_multiple_of(block);
        (is_whole && fits).then(|| Range::new(start / block, len / block))
    }
}
