//! The kernel's structures, as bytes: `linux/ublk_cmd.h` of Linux 6.12.
#![expect(
    clippy::host_endian_bytes,
    reason = "the kernel's interface has the byte order of this machine"
)]

/// Length of a control command, in bytes.
const CONTROL_LEN: u32 = 32;
/// Length of a command of a queue, in bytes.
pub(super) const IO_LEN: usize = 16;
/// Length of the longest payload of a control command, in bytes.
pub(super) const PAYLOAD_LEN: usize = 64;
/// Length of an I/O descriptor, in bytes.
pub(super) const DESCRIPTOR_LEN: usize = 24;
/// Most entries of a queue of the kernel. It gives the offset of the descriptors of each queue.
pub(super) const KERNEL_DEPTH_MAX: usize = 4096;

/// Commands of the control device.
pub(super) mod control {
    use super::{CONTROL_LEN, read, read_write};

    pub(crate) const GET_INFO: u32 = read(0x02, CONTROL_LEN);
    pub(crate) const ADD: u32 = read_write(0x04, CONTROL_LEN);
    pub(crate) const DELETE: u32 = read_write(0x05, CONTROL_LEN);
    pub(crate) const START: u32 = read_write(0x06, CONTROL_LEN);
    pub(crate) const STOP: u32 = read_write(0x07, CONTROL_LEN);
    pub(crate) const SET_PARAMS: u32 = read_write(0x08, CONTROL_LEN);
    pub(crate) const GET_PARAMS: u32 = read(0x09, CONTROL_LEN);
    pub(crate) const START_RECOVERY: u32 = read_write(0x10, CONTROL_LEN);
    pub(crate) const END_RECOVERY: u32 = read_write(0x11, CONTROL_LEN);
    pub(crate) const GET_FEATURES: u32 = read(0x13, CONTROL_LEN);
}

/// Takes the first request of a tag.
pub(super) const FETCH: u32 = read_write(0x20, 16);
/// Ends the request of a tag and takes the next one.
pub(super) const COMMIT_AND_FETCH: u32 = read_write(0x21, 16);

/// `_IOR('u', number, length)` of `asm-generic/ioctl.h`.
const fn read(number: u32, len: u32) -> u32 {
    2 << 30 | len << 16 | 0x75 << 8 | number
}

/// `_IOWR('u', number, length)`.
const fn read_write(number: u32, len: u32) -> u32 {
    1 << 30 | read(number, len)
}

/// Features of the driver, and flags of a device.
pub mod feature {
    /// A device outlives its server.
    pub const USER_RECOVERY: u64 = 1 << 3;
    /// The kernel sends the requests that the dead server had again.
    pub const USER_RECOVERY_REISSUE: u64 = 1 << 4;
    /// Commands are numbered as ioctls are. All commands here are.
    pub const IOCTL_ENCODE: u64 = 1 << 6;
}

/// A device, as the control device describes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Number of queues.
    pub num_queues: u16,
    /// Entries of each queue.
    pub depth: u16,
    /// State, for [`DeviceInfo::state`].
    pub raw_state: u16,
    /// Longest data of a request, in bytes.
    pub max_io_bytes: u32,
    /// Number of the device.
    pub id: u32,
    /// Process that serves the device, or served it last.
    pub pid: i32,
    /// Flags of [`feature`].
    pub flags: u64,
}

/// The state of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It was not started, or was stopped.
    Dead,
    /// A server serves it.
    Live,
    /// Its server is gone. Its requests wait for another server.
    Quiesced,
    /// A state of a later kernel.
    Other(u16),
}

impl DeviceInfo {
    /// The state of the device.
    #[must_use]
    pub fn state(&self) -> State {
        match self.raw_state {
            0 => State::Dead,
            1 => State::Live,
            2 => State::Quiesced,
            other => State::Other(other),
        }
    }

    pub(super) fn to_bytes(self) -> [u8; PAYLOAD_LEN] {
        let mut bytes = [0; PAYLOAD_LEN];
        put(&mut bytes, 0, &self.num_queues.to_ne_bytes());
        put(&mut bytes, 2, &self.depth.to_ne_bytes());
        put(&mut bytes, 4, &self.raw_state.to_ne_bytes());
        put(&mut bytes, 8, &self.max_io_bytes.to_ne_bytes());
        put(&mut bytes, 12, &self.id.to_ne_bytes());
        put(&mut bytes, 16, &self.pid.to_ne_bytes());
        put(&mut bytes, 24, &self.flags.to_ne_bytes());
        bytes
    }

    pub(super) fn parse(bytes: &[u8; PAYLOAD_LEN]) -> Self {
        Self {
            num_queues: u16::from_ne_bytes(at(bytes, 0)),
            depth: u16::from_ne_bytes(at(bytes, 2)),
            raw_state: u16::from_ne_bytes(at(bytes, 4)),
            max_io_bytes: u32::from_ne_bytes(at(bytes, 8)),
            id: u32::from_ne_bytes(at(bytes, 12)),
            pid: i32::from_ne_bytes(at(bytes, 16)),
            flags: u64::from_ne_bytes(at(bytes, 24)),
        }
    }
}

/// How a disk behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// It refuses writes.
    pub is_read_only: bool,
    /// It has a volatile write cache, so it takes flushes and durable writes.
    pub has_write_cache: bool,
}

/// The properties of a disk. Units are bytes, unless the name says sectors, which have 512 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params {
    /// How the disk behaves.
    pub attributes: Attributes,
    /// Block size: a power of two.
    pub block_size: u32,
    /// Physical block size: a power of two, at least the block size.
    pub phys_block_size: u32,
    /// Longest data of a request.
    pub max_sectors: u32,
    /// Size of the disk.
    pub num_sectors: u64,
    /// Longest discard; 0 = the disk cannot discard.
    pub max_discard_sectors: u32,
    /// Longest write of zeroes; 0 = the disk has no command for it.
    pub max_zeroes_sectors: u32,
}

impl Params {
    const BASIC: u32 = 1;
    const DISCARD: u32 = 1 << 1;
    const READ_ONLY: u32 = 1;
    const VOLATILE_CACHE: u32 = 1 << 2;
    const FUA: u32 = 1 << 3;

    pub(super) fn to_bytes(self) -> [u8; PAYLOAD_LEN] {
        let mut bytes = [0; PAYLOAD_LEN];
        let discards = self.max_discard_sectors > 0 || self.max_zeroes_sectors > 0;
        let types = Self::BASIC | if discards { Self::DISCARD } else { 0 };
        let mut attributes = if self.attributes.is_read_only { Self::READ_ONLY } else { 0 };
        if self.attributes.has_write_cache {
            attributes |= Self::VOLATILE_CACHE | Self::FUA;
        }
        let shift = |size: u32| u8::try_from(size.checked_ilog2().unwrap_or(0)).unwrap_or(0);
        let block = shift(self.block_size);
        let physical = shift(self.phys_block_size).max(block);
        put(&mut bytes, 0, &64_u32.to_ne_bytes()); // length of these bytes
        put(&mut bytes, 4, &types.to_ne_bytes());
        put(&mut bytes, 8, &attributes.to_ne_bytes());
        // Shifts of the block size, the physical block size, and the best and shortest I/O.
        put(&mut bytes, 12, &[block, physical, physical, block]);
        put(&mut bytes, 16, &self.max_sectors.to_ne_bytes());
        put(&mut bytes, 24, &self.num_sectors.to_ne_bytes());
        if discards {
            put(&mut bytes, 44, &self.block_size.to_ne_bytes()); // granularity
            put(&mut bytes, 48, &self.max_discard_sectors.to_ne_bytes());
            put(&mut bytes, 52, &self.max_zeroes_sectors.to_ne_bytes());
            put(&mut bytes, 56, &1_u16.to_ne_bytes()); // ranges of a discard
        }
        bytes
    }

    /// Block size in bytes and size in sectors of an existing device.
    pub(super) fn parse_size(bytes: &[u8; PAYLOAD_LEN]) -> Option<(u32, u64)> {
        let [shift] = at(bytes, 12);
        Some((1_u32.checked_shl(shift.into())?, u64::from_ne_bytes(at(bytes, 24))))
    }
}

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The kernel reads.
    Read,
    /// The kernel writes.
    Write,
    /// All writes that have ended must become durable.
    Flush,
    /// The kernel no longer needs the data.
    Discard,
    /// The data becomes zeroes.
    WriteZeroes,
    /// A request of a later kernel.
    Other(u8),
}

/// A request of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its kind.
    pub kind: Kind,
    /// Whether a write must be durable when it ends.
    pub is_fua: bool,
    /// First sector, of 512 bytes.
    pub sector: u64,
    /// Number of sectors.
    pub num_sectors: u32,
}

impl Descriptor {
    const FUA: u32 = 1 << 13;

    pub(super) fn parse(bytes: &[u8; DESCRIPTOR_LEN]) -> Self {
        let op = u32::from_ne_bytes(at(bytes, 0));
        let kind = match op & 0xff {
            0 => Kind::Read,
            1 => Kind::Write,
            2 => Kind::Flush,
            3 => Kind::Discard,
            5 => Kind::WriteZeroes,
            other => Kind::Other(u8::try_from(other).unwrap_or(u8::MAX)),
        };
        Self {
            kind,
            is_fua: op & Self::FUA != 0,
            sector: u64::from_ne_bytes(at(bytes, 8)),
            num_sectors: u32::from_ne_bytes(at(bytes, 4)),
        }
    }
}

/// The features in the payload of `GET_FEATURES`.
pub(super) fn parse_features(bytes: &[u8; PAYLOAD_LEN]) -> u64 {
    u64::from_ne_bytes(at(bytes, 0))
}

/// The bytes of a control command.
pub(super) fn control_command(id: u32, payload: u64, payload_len: u16, data: u64) -> [u8; 80] {
    let mut bytes = [0; 80];
    put(&mut bytes, 0, &id.to_ne_bytes());
    put(&mut bytes, 4, &u16::MAX.to_ne_bytes()); // of no queue
    put(&mut bytes, 6, &payload_len.to_ne_bytes());
    put(&mut bytes, 8, &payload.to_ne_bytes());
    put(&mut bytes, 16, &data.to_ne_bytes());
    bytes
}

/// The bytes of a command of a queue.
pub(super) fn io_command(queue: u16, tag: u16, result: i32, buffer: u64) -> [u8; IO_LEN] {
    let mut bytes = [0; IO_LEN];
    put(&mut bytes, 0, &queue.to_ne_bytes());
    put(&mut bytes, 2, &tag.to_ne_bytes());
    put(&mut bytes, 4, &result.to_ne_bytes());
    put(&mut bytes, 8, &buffer.to_ne_bytes());
    bytes
}

fn put<const N: usize>(bytes: &mut [u8; N], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

fn at<const N: usize, const LEN: usize>(bytes: &[u8; LEN], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_the_kernels_numbers() {
        assert_eq!(control::GET_FEATURES, 0x8020_7513);
        assert_eq!(control::ADD, 0xc020_7504);
        assert_eq!((FETCH, COMMIT_AND_FETCH), (0xc010_7520, 0xc010_7521));
    }

    #[test]
    fn a_device_is_read_as_it_was_written() {
        let info = DeviceInfo {
            num_queues: 2,
            depth: 128,
            raw_state: 2,
            max_io_bytes: 128 << 10,
            id: 7,
            pid: 1234,
            flags: feature::USER_RECOVERY | feature::IOCTL_ENCODE,
        };
        assert_eq!(DeviceInfo::parse(&info.to_bytes()), info);
        assert_eq!(info.state(), State::Quiesced);
    }

    #[test]
    fn a_disk_without_discard_has_no_discard_parameters() {
        let params = Params {
            block_size: 4096,
            phys_block_size: 512,
            num_sectors: 1 << 20,
            max_sectors: 256,
            ..Params::default()
        };
        let bytes = params.to_bytes();
        assert_eq!(bytes[4], 1, "basic parameters only");
        assert_eq!(bytes[12..16], [12, 12, 12, 12], "a physical block is not smaller than a block");
        assert_eq!(Params::parse_size(&bytes), Some((4096, 1 << 20)));
        let discards = Params { max_discard_sectors: 8, ..params }.to_bytes();
        assert_eq!((discards[4], discards[56]), (3, 1));
    }

    #[test]
    fn a_descriptor_is_read_field_by_field() {
        let mut bytes = [0; DESCRIPTOR_LEN];
        put(&mut bytes, 0, &(1_u32 | 1 << 13 | 1 << 9).to_ne_bytes());
        put(&mut bytes, 4, &8_u32.to_ne_bytes());
        put(&mut bytes, 8, &(1_u64 << 40).to_ne_bytes());
        let write = Descriptor { kind: Kind::Write, is_fua: true, sector: 1 << 40, num_sectors: 8 };
        assert_eq!(Descriptor::parse(&bytes), write);
        put(&mut bytes, 0, &4_u32.to_ne_bytes());
        assert_eq!(Descriptor::parse(&bytes).kind, Kind::Other(4));
    }
}
