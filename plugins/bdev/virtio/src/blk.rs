//! A block device as a bdev: its features and limits, and its requests. virtio 1.3, section 5.2.

use std::sync::Arc;

use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::NoParams;
use drivebay_sdk::serde_json::{Map, Value, json};
use drivebay_spec_vhost::blk::{
    Config, HEADER_LEN, Header, Kind, SECTOR, SEGMENT_LEN, Segment, feature,
};
use drivebay_spec_vhost::message::F_PROTOCOL_FEATURES;
use drivebay_spec_vhost::ring;
use drivebay_virtio::Features;
use drivebay_virtio::driver::{Ask, Data, DriverQueue, Layout};

use crate::channel::Channel;
use crate::connection::Offer;
use crate::link::Link;

/// Longest data of a request, in bytes.
const DATA_MAX: u32 = 128 << 10;
/// Length of the protocol's sectors, in bytes: [`SECTOR`].
const SECTOR_LEN: u32 = 512;
const _: () = assert!(SECTOR_LEN as u64 == SECTOR);
/// Requests at once in one queue.
const SLOTS_MAX: u16 = 128;
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
    pub(crate) features: u64,
    pub(crate) num_queues: u16,
    pub(crate) layout: Layout,
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
    /// Chooses features and limits from an offer. `wanted_queues`: `None` = `default_queues`, or all queues if there are fewer.
    ///
    /// # Errors
    /// `EINVAL` when the device has fewer queues, `EIO` when the device cannot be a bdev.
    pub(crate) fn new(
        offer: &Offer,
        wanted_queues: Option<u16>,
        default_queues: u16,
        size: u16,
    ) -> Result<Self> {
        let features = offer.features & KNOWN;
        let limits = Limits::new(features, &offer.config)?;
        let of_config = if features & feature::MQ != 0 { offer.config.num_queues } else { 1 };
        let of_back_end = u16::try_from(offer.queues_max).unwrap_or(u16::MAX);
        // A ring's number has 8 bits in some messages.
        let most = of_config.min(of_back_end).clamp(1, 256);
        let num_queues = match wanted_queues {
            Some(wanted) if wanted > most => {
                let allowed = format!("1 to {most}, the queues of the device");
                return Err(Error::invalid("vq_count", wanted, allowed));
            }
            Some(wanted) => wanted,
            None => default_queues.min(most),
        };
        let packed = features & ring::feature::RING_PACKED != 0;
        let layout = Layout { size, slots_max: SLOTS_MAX, data_len: limits.data_len, packed };
        let exp = offer.config.physical_block_exp.min(16);
        let physical = if features & feature::TOPOLOGY != 0 { limits.block_size << exp } else { 0 };
        Ok(Self {
            features,
            num_queues,
            layout,
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
        let refused =
            |why: String| Err(Error::new(errno::EIO, format!("the device has changed: {why}")));
        let missing = self.features & !offer.features;
        if missing != 0 {
            return refused(format!("it lacks features {missing:#x}"));
        }
        if (offer.features ^ self.features) & feature::RO != 0 {
            return refused("it is read-only now".to_owned());
        }
        if u64::from(self.num_queues) > offer.queues_max {
            return refused(format!(
                "it has {} queues, and {} are used",
                offer.queues_max, self.num_queues
            ));
        }
        let now = Limits::new(self.features, &offer.config)?;
        if now.block_size != self.block_size {
            return refused(format!(
                "its blocks have {} bytes, not {}",
                now.block_size, self.block_size
            ));
        }
        let shrinks = now.data_len < self.layout.data_len
            || now.discard_max < self.discard_max
            || now.zeroes_max < self.zeroes_max;
        if shrinks {
            return refused("it takes less in one request".to_owned());
        }
        Ok(())
    }

    /// The size of a disk with this configuration, in blocks.
    pub(crate) fn num_blocks(&self, config: &Config) -> u64 {
        config.capacity / (u64::from(self.block_size) / SECTOR)
    }

    pub(crate) fn ring_features(&self) -> Features {
        Features {
            packed: self.layout.packed,
            event_idx: self.features & ring::feature::EVENT_IDX != 0,
            indirect: false,
        }
    }

    /// The ops of [`Bdev::OPS`] that the device does not support. Without a flush, the bus completes flushes itself.
    fn missing_ops(&self) -> impl Iterator<Item = OpSet> {
        let is_writable = !self.has(feature::RO);
        let all = [
            (is_writable, OpSet::WRITE),
            (self.has(feature::FLUSH), OpSet::FLUSH),
            (is_writable && self.discard_max > 0, OpSet::UNMAP),
            (is_writable && self.zeroes_max > 0, OpSet::WRITE_ZEROES),
        ];
        all.into_iter().filter(|(is_there, _)| !is_there).map(|(_, op)| op)
    }

    fn has(&self, bit: u64) -> bool {
        self.features & bit != 0
    }
}

/// A block device as a bdev.
#[derive(Debug)]
pub struct VirtioBlk {
    name: String,
    path: String,
    geometry: Geometry,
    shape: Shape,
    link: Arc<Link>,
}

impl VirtioBlk {
    pub(crate) fn new(
        name: &str,
        path: &str,
        shape: Shape,
        num_blocks: u64,
        link: Arc<Link>,
    ) -> Result<Self> {
        let geometry = Geometry::new(shape.block_size, num_blocks)?;
        Ok(Self { name: name.to_owned(), path: path.to_owned(), geometry, shape, link })
    }
}

impl Bdev for VirtioBlk {
    type Params = NoParams;
    type Channel = Channel;
    const PRODUCT: &'static str = "VirtioBlk Disk";
    /// `describe` removes the ops that the device does not support.
    const OPS: OpSet =
        OpSet::READ_WRITE.with(OpSet::FLUSH).with(OpSet::UNMAP).with(OpSet::WRITE_ZEROES);

    channel_does_io!(woke);

    fn name(&self) -> &str {
        &self.name
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn describe(&self, registration: &mut Registration) {
        let shape = &self.shape;
        for op in shape.missing_ops() {
            registration.ops = registration.ops.without(op);
        }
        registration.is_read_only = shape.has(feature::RO);
        // A device that does not flush writes through. virtio 1.3, section 5.2.6.2.
        registration.has_write_cache = shape.has(feature::FLUSH);
        registration.phys_block_size = shape.phys_block_size;
        registration.max_io_blocks = shape.layout.data_len / shape.block_size;
        registration.max_unmap = shape.discard_max;
        registration.max_write_zeroes = shape.zeroes_max;
    }

    fn open_channel(&self) -> Result<Channel> {
        let dialect =
            Dialect { block_size: self.shape.block_size, flushes: self.shape.has(feature::FLUSH) };
        Channel::open(dialect, Arc::clone(&self.link))
    }

    fn driver_specific(&self) -> Map<String, Value> {
        let state = format!("{:?}", self.link.phase()).to_lowercase();
        let virtio = json!({
            "vq_count": self.shape.num_queues,
            "vq_size": self.shape.layout.size,
            "packed_ring": self.shape.layout.packed,
            "type": "user",
            "socket": self.path,
            "state": state,
        });
        Map::from_iter([("virtio".to_owned(), virtio)])
    }
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
        queue.submit(&Ask { header: &header, data, answer_len: 1, answer_first: false })
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

    fn offer() -> Offer {
        let config = Config {
            capacity: 2048,
            size_max: 128 << 10,
            seg_max: 126,
            blk_size: 4096,
            num_queues: 4,
            max_discard_sectors: 1 << 20,
            max_write_zeroes_sectors: 1 << 20,
            ..Config::default()
        };
        Offer { features: KNOWN & !feature::RO & !feature::TOPOLOGY, queues_max: 128, config }
    }

    #[test]
    fn queues_are_as_many_as_asked_for_and_never_more_than_the_device_has() {
        let of = |wanted, default| Shape::new(&offer(), wanted, default, 512);
        assert_eq!(of(None, 3).unwrap().num_queues, 3);
        assert_eq!(of(None, 9).unwrap().num_queues, 4);
        assert_eq!(of(Some(2), 9).unwrap().num_queues, 2);
        let error = of(Some(5), 1).unwrap_err();
        assert_eq!(error.errno(), errno::EINVAL);
        assert!(error.message().contains("vq_count"), "{error}");
    }

    #[test]
    fn sizes_are_in_blocks_whatever_the_protocols_sectors_are() {
        let shape = Shape::new(&offer(), None, 1, 512).unwrap();
        assert_eq!((shape.block_size, shape.num_blocks(&offer().config)), (4096, 256));
        assert_eq!((shape.discard_max, shape.zeroes_max), (1 << 17, 1 << 17));
        assert_eq!(shape.layout.data_len, 128 << 10);
        let config = Config { size_max: 0, ..offer().config };
        let shape = Shape::new(&Offer { config, ..offer() }, None, 1, 512).unwrap();
        assert_eq!(shape.layout.data_len, 128 << 10, "0 is no limit");
    }

    #[test]
    fn a_device_without_flush_leaves_flushes_to_the_bus() {
        let shape = Shape::new(&offer(), None, 1, 512).unwrap();
        assert_eq!(shape.missing_ops().count(), 0);
        let features = offer().features & !feature::FLUSH;
        let shape = Shape::new(&Offer { features, ..offer() }, None, 1, 512).unwrap();
        assert_eq!(shape.missing_ops().count(), 1);
        assert!(shape.missing_ops().all(|op| op.contains(OpSet::FLUSH)));
    }

    #[test]
    fn devices_that_cannot_be_a_disk_are_refused() {
        for (blk_size, size_max) in [(0, 4096), (513, 4096), (256 << 10, 1 << 20), (4096, 4095)] {
            let config = Config { blk_size, size_max, ..offer().config };
            let error = Shape::new(&Offer { config, ..offer() }, None, 1, 512).unwrap_err();
            assert_eq!(error.errno(), errno::EIO, "{blk_size} {size_max}");
        }
    }

    #[test]
    fn a_back_end_that_comes_back_must_be_able_to_do_what_was_agreed_on() {
        let shape = Shape::new(&offer(), Some(4), 1, 512).unwrap();
        assert!(shape.check(&offer()).is_ok());
        let grown = Config { capacity: 4096, ..offer().config };
        assert!(shape.check(&Offer { config: grown, ..offer() }).is_ok());
        let without = offer().features & !feature::FLUSH;
        let other_blocks = Config { blk_size: 512, ..offer().config };
        let shorter = Config { size_max: 4096, ..offer().config };
        for worse in [
            Offer { features: without, ..offer() },
            Offer { features: offer().features | feature::RO, ..offer() },
            Offer { queues_max: 3, ..offer() },
            Offer { config: other_blocks, ..offer() },
            Offer { config: shorter, ..offer() },
        ] {
            let error = shape.check(&worse).unwrap_err();
            assert!(error.message().contains("changed"), "{error}");
        }
    }
}
