//! A block device: its limits, and its requests. virtio 1.3, section 5.2.

use drivebay_sdk::prelude::*;
use drivebay_spec_vhost::blk::{
    Config, HEADER_LEN, Header, Kind, SECTOR, SEGMENT_LEN, Segment, feature,
};
use drivebay_spec_vhost::message::F_PROTOCOL_FEATURES;
use drivebay_spec_vhost::ring;
use drivebay_virtio::driver::{Data, DriverQueue, DriverRequest};

use crate::agreement::{Agreement, DATA_MAX, Wanted, changed};
use crate::connection::Offer;
use crate::disk::Properties;

/// Length of the protocol's sectors, in bytes: [`SECTOR`].
const SECTOR_LEN: u32 = 512;
const _: () = assert!(SECTOR_LEN as u64 == SECTOR);
/// Features that this driver knows.
const KNOWN: u64 = ring::feature::VERSION_1
    | ring::feature::EVENT_IDX
    | ring::feature::RING_PACKED
    | F_PROTOCOL_FEATURES
    | feature::SIZE_MAX
    | feature::SEG_MAX
    | feature::BLK_SIZE
    | feature::TOPOLOGY
    | feature::RO
    | feature::FLUSH
    | feature::MQ
    | feature::DISCARD
    | feature::WRITE_ZEROES;

/// The features and limits that the first session agreed on. Later sessions must support them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) agreement: Agreement,
    block_size: u32,
    phys_block_size: u32,
    /// The maximum number of blocks in one discard; 0 = the device cannot discard.
    discard_max: u32,
    /// The maximum number of blocks in one write zeroes; 0 = the device cannot write zeroes.
    zeroes_max: u32,
}

/// The block size and limits in a configuration space.
struct Limits {
    block_size: u32,
    data_len: u32,
    discard_max: u32,
    zeroes_max: u32,
}

impl Limits {
    fn new(features: u64, config: &Config) -> Result<Self> {
        let has = |bit| features & bit != 0;
        let refused = |why: String| Error::new(errno::EIO, format!("the device says {why}"));
        let block_size = if has(feature::BLK_SIZE) { config.blk_size } else { 512 };
        if !block_size.is_power_of_two() || !(512..=DATA_MAX).contains(&block_size) {
            return Err(refused(format!("that its blocks have {block_size} bytes")));
        }
        // qemu-storage-daemon offers SIZE_MAX with the value 0, which means no limit.
        let has_longest = has(feature::SIZE_MAX) && config.size_max > 0;
        let longest = if has_longest { config.size_max } else { DATA_MAX };
        let data_len = longest.min(DATA_MAX) / block_size * block_size;
        if data_len == 0 {
            return Err(refused(format!(
                "that a buffer has at most {longest} bytes, less than a block"
            )));
        }
        let sectors = block_size / SECTOR_LEN;
        let max = |bit, max: u32| if has(bit) { max / sectors } else { 0 };
        Ok(Self {
            block_size,
            data_len,
            discard_max: max(feature::DISCARD, config.max_discard_sectors),
            zeroes_max: max(feature::WRITE_ZEROES, config.max_write_zeroes_sectors),
        })
    }
}

impl Shape {
    /// Chooses features and limits from an offer.
    ///
    /// # Errors
    /// `EINVAL` when the device has fewer queues, `EIO` when the device cannot be a bdev.
    pub(crate) fn new(offer: &Offer, wanted: Wanted) -> Result<Self> {
        let features = offer.features & KNOWN;
        let config = config_of(offer)?;
        let limits = Limits::new(features, &config)?;
        let of_config = if features & feature::MQ != 0 { config.num_queues } else { 1 };
        let queues = (0, of_config.max(1));
        let agreement = Agreement::new(offer, KNOWN, wanted, queues, limits.data_len)?;
        let exp = config.physical_block_exp.min(16);
        let physical = if features & feature::TOPOLOGY != 0 { limits.block_size << exp } else { 0 };
        Ok(Self {
            agreement,
            block_size: limits.block_size,
            phys_block_size: physical,
            discard_max: limits.discard_max,
            zeroes_max: limits.zeroes_max,
        })
    }

    /// Checks that a later session supports this shape.
    ///
    /// # Errors
    /// `EIO`; the text says what is missing.
    pub(crate) fn check(&self, offer: &Offer) -> Result<()> {
        self.agreement.check(offer)?;
        let features = self.agreement.features;
        if (offer.features ^ features) & feature::RO != 0 {
            return Err(changed("it is read-only now"));
        }
        let now = Limits::new(features, &config_of(offer)?)?;
        if now.block_size != self.block_size {
            let (now, before) = (now.block_size, self.block_size);
            return Err(changed(&format!("its blocks have {now} bytes, not {before}")));
        }
        let shrinks = now.data_len < self.agreement.layout.data_len
            || now.discard_max < self.discard_max
            || now.zeroes_max < self.zeroes_max;
        if shrinks { Err(changed("it takes less in one request")) } else { Ok(()) }
    }

    /// The size of a disk with this configuration space, in blocks.
    ///
    /// # Errors
    /// `EIO` for a configuration space that is cut off.
    pub(crate) fn num_blocks(&self, config: &[u8]) -> Result<u64> {
        Ok(parse(config)?.capacity / (u64::from(self.block_size) / SECTOR))
    }

    /// The disk, with this many blocks.
    ///
    /// # Errors
    /// `EINVAL` for a size that no bdev can have.
    pub(crate) fn properties(&self, num_blocks: u64) -> Result<Properties> {
        let flushes = self.agreement.has(feature::FLUSH);
        Ok(Properties {
            product: "VirtioBlk Disk",
            geometry: Geometry::new(self.block_size, num_blocks)?,
            phys_block_size: self.phys_block_size,
            // A device that does not flush writes through. virtio 1.3, section 5.2.6.2.
            has_write_cache: flushes,
            is_read_only: self.agreement.has(feature::RO),
            ops: self.ops(),
            max_io_blocks: self.agreement.layout.data_len / self.block_size,
            max_unmap: self.discard_max,
            max_write_zeroes: self.zeroes_max,
        })
    }

    /// The ops of the device. Without a flush, the bus completes flushes itself.
    fn ops(&self) -> OpSet {
        let is_writable = !self.agreement.has(feature::RO);
        let all = [
            (is_writable, OpSet::WRITE),
            (self.agreement.has(feature::FLUSH), OpSet::FLUSH),
            (is_writable && self.discard_max > 0, OpSet::UNMAP),
            (is_writable && self.zeroes_max > 0, OpSet::WRITE_ZEROES),
        ];
        let has = all.into_iter().filter(|(is_there, _)| *is_there);
        has.fold(OpSet::READ, |ops, (_, op)| ops.with(op))
    }

    pub(crate) fn dialect(&self) -> Dialect {
        Dialect { block_size: self.block_size, flushes: self.agreement.has(feature::FLUSH) }
    }
}

fn config_of(offer: &Offer) -> Result<Config> {
    let why = "the back end does not report the size of its disk (CONFIG)";
    parse(offer.config.as_deref().ok_or_else(|| Error::new(errno::EIO, why))?)
}

fn parse(config: &[u8]) -> Result<Config> {
    Config::parse(config)
        .ok_or_else(|| Error::new(errno::EIO, "the device's configuration space is cut off"))
}

/// Turns I/O into requests of a block device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dialect {
    block_size: u32,
    flushes: bool,
}

impl Dialect {
    /// Puts an I/O into a queue that has room. Returns its slot, or `None` when the device does not support the op.
    #[inline]
    pub(crate) fn submit(&self, queue: &mut DriverQueue, io: &BdevIo) -> Option<u16> {
        let sectors = u64::from(self.block_size) / SECTOR;
        let segment;
        let (kind, sector, data) = match io.op() {
            Op::Read(range) => {
                let len = range.nblocks.checked_mul(self.block_size.into())?;
                (Kind::In, range.lba * sectors, Data::In(u32::try_from(len).ok()?))
            }
            Op::Write(range) => (Kind::Out, range.lba * sectors, Data::Out(io.buffers())),
            Op::Flush if self.flushes => (Kind::Flush, 0, Data::None),
            Op::Unmap(range) => {
                segment = self.segment(range)?;
                (Kind::Discard, 0, Data::Bytes(&segment))
            }
            Op::WriteZeroes(range) => {
                segment = self.segment(range)?;
                (Kind::WriteZeroes, 0, Data::Bytes(&segment))
            }
            _ => return None,
        };
        let header: [u8; HEADER_LEN] = Header { kind, sector }.to_bytes();
        queue.submit(&DriverRequest { header: &header, data, answer_len: 1, answer_first: false })
    }

    fn segment(&self, range: Range) -> Option<[u8; SEGMENT_LEN]> {
        let sectors = u64::from(self.block_size) / SECTOR;
        let num_sectors = u32::try_from(range.nblocks.checked_mul(sectors)?).ok()?;
        Some(Segment { sector: range.lba * sectors, num_sectors, may_unmap: false }.to_bytes())
    }

    /// Returns the status of a request that the device returned. Copies its data into the I/O.
    #[inline]
    pub(crate) fn finish(&self, queue: &DriverQueue, slot: u16, io: &BdevIo) -> Status {
        let mut status = [0xff];
        queue.answer(slot, &mut status);
        match status {
            [0] => {
                if matches!(io.op(), Op::Read(_)) {
                    queue.fill(slot, io.buffers());
                }
                Status::SUCCESS
            }
            [2] => Status::NOT_SUPPORTED,
            _ => Status::IO_ERROR,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            capacity: 2048,
            size_max: 128 << 10,
            seg_max: 126,
            blk_size: 4096,
            num_queues: 4,
            max_discard_sectors: 1 << 20,
            max_write_zeroes_sectors: 1 << 20,
            ..Config::default()
        }
    }

    fn of_config(config: Config) -> Offer {
        let features = KNOWN & !feature::RO & !feature::TOPOLOGY;
        Offer { features, queues_max: 128, config: Some(config.to_bytes().to_vec()) }
    }

    fn offer() -> Offer {
        of_config(config())
    }

    fn shape(offer: &Offer, count: Option<u16>, default: u16) -> Result<Shape> {
        Shape::new(offer, Wanted { count, default, size: 512 })
    }

    #[test]
    fn queues_are_as_many_as_asked_for_and_never_more_than_the_device_has() {
        let of = |count, default| shape(&offer(), count, default);
        let count = |count, default| of(count, default).unwrap().agreement.num_queues;
        assert_eq!((count(None, 3), count(None, 9), count(Some(2), 9)), (3, 4, 2));
        let error = of(Some(5), 1).unwrap_err();
        assert_eq!(error.errno(), errno::EINVAL);
        assert!(error.message().contains("vq_count"), "{error}");
    }

    #[test]
    fn sizes_are_in_blocks_whatever_the_protocols_sectors_are() {
        let of = shape(&offer(), None, 1).unwrap();
        assert_eq!((of.block_size, of.num_blocks(&config().to_bytes())), (4096, Ok(256)));
        assert_eq!((of.discard_max, of.zeroes_max), (1 << 17, 1 << 17));
        assert_eq!(of.agreement.layout.data_len, 128 << 10);
        let of = shape(&of_config(Config { size_max: 0, ..config() }), None, 1).unwrap();
        assert_eq!(of.agreement.layout.data_len, 128 << 10, "0 is no limit");
    }

    #[test]
    fn a_device_without_flush_leaves_flushes_to_the_bus() {
        let all = shape(&offer(), None, 1).unwrap().ops();
        assert!(all.contains(OpSet::FLUSH.with(OpSet::UNMAP).with(OpSet::WRITE_ZEROES)));
        let features = offer().features & !feature::FLUSH;
        let of = shape(&Offer { features, ..offer() }, None, 1).unwrap();
        assert_eq!(of.ops(), all.without(OpSet::FLUSH));
    }

    #[test]
    fn devices_that_cannot_be_a_disk_are_refused() {
        for (blk_size, size_max) in [(0, 4096), (513, 4096), (256 << 10, 1 << 20), (4096, 4095)] {
            let config = Config { blk_size, size_max, ..config() };
            let error = shape(&of_config(config), None, 1).unwrap_err();
            assert_eq!(error.errno(), errno::EIO, "{blk_size} {size_max}");
        }
    }

    #[test]
    fn a_back_end_that_comes_back_must_be_able_to_do_what_was_agreed_on() {
        let shape = shape(&offer(), Some(4), 1).unwrap();
        assert!(shape.check(&offer()).is_ok());
        let grown = Config { capacity: 4096, ..config() };
        assert!(shape.check(&of_config(grown)).is_ok());
        let without = offer().features & !feature::FLUSH;
        let other_blocks = Config { blk_size: 512, ..config() };
        let shorter = Config { size_max: 4096, ..config() };
        for worse in [
            Offer { features: without, ..offer() },
            Offer { features: offer().features | feature::RO, ..offer() },
            Offer { queues_max: 3, ..offer() },
            of_config(other_blocks),
            of_config(shorter),
        ] {
            let error = shape.check(&worse).unwrap_err();
            assert!(error.message().contains("changed"), "{error}");
        }
    }
}
