//! Opens, locks and measures the file or block device, and finds out what it supports.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use drivebay_ring::{BackingFile, Engine, FileError, FileLock, lock_file, open_file};
use drivebay_sdk::bdev::check_name;
use drivebay_sdk::prelude::*;
use nix::fcntl::{FallocateFlags, fallocate};
use sha2::{Digest, Sha256};

use crate::channel::check_room;

/// Smallest block size, in bytes.
const BLOCK_SIZE_MIN: u32 = 512;
/// Largest block size, in bytes: the most that one I/O moves.
const BLOCK_SIZE_MAX: u32 = IO_BYTES_MAX;
/// Longest read or write, in bytes. It is less than the kernel moves in one call.
const IO_BYTES_MAX: u32 = 1 << 30;
/// Longest scatter/gather list, `UIO_MAXIOV`.
const SEGMENTS_MAX: u32 = 1024;

/// The parameters of a disk.
#[derive(Debug)]
pub struct Wanted {
    /// Name of the bdev.
    pub name: String,
    /// Path of the file, as given.
    pub filename: String,
    /// Block size in bytes. `None` or 0: that of the file.
    pub block_size: Option<u32>,
    /// Whether the disk is opened only for reading.
    pub is_read_only: bool,
    /// Whether holes may be punched into a regular file.
    pub fallocate: bool,
    /// `None`: derived from the path.
    pub uuid: Option<Uuid>,
    /// How I/O reaches the kernel.
    pub engine: Engine,
}

/// An open and locked file or block device.
#[derive(Debug)]
pub struct FileDisk {
    name: String,
    filename: String,
    file: Arc<BackingFile>,
    geometry: Geometry,
    is_block_size_given: bool,
    /// The capacity that the bus knows. A rescan changes it.
    num_blocks: AtomicU64,
    /// Number of blocks that the file had when it was last measured. It is less than `num_blocks`
    /// after the file was made shorter. No I/O goes further, because a write there would lengthen
    /// the file again.
    blocks_there: AtomicU64,
    fallocate: bool,
    zeroing: Option<Zeroing>,
    uuid: Uuid,
    engine: Engine,
    _lock: FileLock,
}

/// How the plugin makes a range read as zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeroing {
    /// The blocks stay allocated.
    ZeroRange,
    /// For file systems that can only punch holes, such as tmpfs.
    PunchHole,
}

impl FileDisk {
    /// Opens and locks the file.
    ///
    /// # Errors
    /// An error that names what is wrong with the file or a parameter. `EBUSY` if another process
    /// has locked the file, or the kernel has mounted the block device.
    pub fn open(wanted: Wanted) -> Result<Self> {
        let name = check_name(wanted.name)?;
        let given = wanted.block_size.filter(|size| *size != 0);
        check_block_size(given.unwrap_or(BLOCK_SIZE_MIN))?;
        check_room(wanted.engine)?;
        let lock = lock_file(&wanted.filename, wanted.is_read_only).map_err(refused)?;
        let file = open_direct_if_possible(&wanted.filename, wanted.is_read_only, given)?;

        let block_size = given.unwrap_or(file.logical_block_size());
        check_block_size(block_size)?;
        let num_blocks = at_least_one(&file, block_size, measure(&file, block_size)?)?;
        let geometry = Geometry::new(block_size, num_blocks)?;
        let uuid = match wanted.uuid {
            Some(uuid) => uuid,
            None => uuid_of_path(Path::new(&wanted.filename))?,
        };
        let may_zero = (wanted.fallocate || file.is_block_device()) && !wanted.is_read_only;
        let zeroing = if may_zero { zeroing_of(&file) } else { None };
        Ok(Self {
            name,
            filename: wanted.filename,
            file: Arc::new(file),
            geometry,
            is_block_size_given: given.is_some(),
            num_blocks: AtomicU64::new(num_blocks),
            blocks_there: AtomicU64::new(num_blocks),
            fallocate: wanted.fallocate,
            zeroing,
            uuid,
            engine: wanted.engine,
            _lock: lock,
        })
    }

    /// Fills the registration for the bus.
    pub fn describe(&self, registration: &mut Registration) {
        if !self.is_read_only() {
            registration.ops = registration.ops.with(OpSet::WRITE);
        }
        if self.zeroing.is_some() {
            registration.ops = registration.ops.with(OpSet::UNMAP).with(OpSet::WRITE_ZEROES);
            registration.unmapped_reads_zeroes = true; // an unmap punches a hole
        }
        registration.must_flags = IoFlags::FUA;
        registration.has_write_cache = true;
        registration.is_read_only = self.is_read_only();
        registration.uuid = self.uuid.0;
        registration.phys_block_size = self.file.physical_block_size().max(self.block_size());
        registration.max_segments = SEGMENTS_MAX;
        registration.max_io_blocks = IO_BYTES_MAX / self.block_size();
        registration.align = self.align();
    }

    /// Alignment of the address and the length of each piece of memory, in bytes.
    fn align(&self) -> u32 {
        if !self.file.is_direct() {
            return 1;
        }
        // Direct I/O needs whole blocks of the device in each piece.
        let align = self.file.memory_alignment().max(self.file.logical_block_size());
        align.checked_next_power_of_two().unwrap_or(align)
    }

    /// Measures the file. From now on I/O may use all of the file's whole blocks. Returns their
    /// number. Any thread.
    ///
    /// # Errors
    /// If the file does not report its size, or has less than one block.
    pub fn measure(&self) -> Result<u64> {
        let found = measure(&self.file, self.block_size())?;
        self.blocks_there.store(found, Ordering::Relaxed);
        at_least_one(&self.file, self.block_size(), found)
    }

    /// Number of blocks when the file was last measured.
    pub fn blocks_there(&self) -> u64 {
        self.blocks_there.load(Ordering::Relaxed)
    }

    /// Name of the bdev.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Path of the file, as given.
    pub fn filename(&self) -> &str {
        &self.filename
    }

    /// The open file.
    pub fn file(&self) -> &Arc<BackingFile> {
        &self.file
    }

    /// How I/O reaches the kernel.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// Block size, in bytes.
    pub fn block_size(&self) -> u32 {
        self.geometry.block_size()
    }

    /// Whether the operator gave the block size. Otherwise it is the file's.
    pub fn is_block_size_given(&self) -> bool {
        self.is_block_size_given
    }

    /// Capacity in blocks, as the bus knows it.
    pub fn num_blocks(&self) -> u64 {
        self.num_blocks.load(Ordering::Relaxed)
    }

    /// Sets the capacity that the bus knows.
    pub fn set_num_blocks(&self, num_blocks: u64) {
        self.num_blocks.store(num_blocks, Ordering::Relaxed);
    }

    /// Block size and number of blocks at the time of opening.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Whether the disk is read-only.
    pub fn is_read_only(&self) -> bool {
        self.file.is_read_only()
    }

    /// Whether the operator allowed punching holes.
    pub fn fallocate(&self) -> bool {
        self.fallocate
    }

    /// How ranges are zeroed. `None`: not supported.
    pub fn zeroing(&self) -> Option<Zeroing> {
        self.zeroing
    }

    /// UUID of the bdev.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }
}

/// Refuses a block size that is too small, too large, or not a power of two.
fn check_block_size(block_size: u32) -> Result<()> {
    let range = BLOCK_SIZE_MIN..=BLOCK_SIZE_MAX;
    if block_size.is_power_of_two() && range.contains(&block_size) {
        return Ok(());
    }
    let allowed = format!("a power of two, {BLOCK_SIZE_MIN} to {BLOCK_SIZE_MAX}");
    Err(Error::invalid("block_size", block_size, allowed))
}

/// Opens the file past the page cache. If that is not possible, the log says why.
fn open_direct_if_possible(
    filename: &str,
    is_read_only: bool,
    block_size: Option<u32>,
) -> Result<BackingFile> {
    let why = match open_file(filename, is_read_only, true) {
        Ok(file) => {
            let needed = file.logical_block_size();
            match block_size {
                Some(given) if given < needed && file.is_block_device() => {
                    let allowed = format!("a power of two, at least the device's {needed}");
                    return Err(Error::invalid("block_size", given, allowed));
                }
                Some(given) if given < needed => {
                    format!("its file system does direct I/O in blocks of {needed}, not of {given}")
                }
                _ => return Ok(file),
            }
        }
        Err(error) if error.errno().number() == errno::EINVAL => "no direct I/O".to_owned(),
        Err(error) => return Err(refused(error)),
    };
    let file = open_file(filename, is_read_only, false).map_err(refused)?;
    warn!("{filename}: I/O goes through the page cache: {why}");
    Ok(file)
}

fn refused(error: FileError) -> Error {
    Error::new(error.errno().number(), format!("filename {error}"))
}

/// The number of whole blocks of a file.
fn measure(file: &BackingFile, block_size: u32) -> Result<u64> {
    let size_bytes = file.size_bytes().map_err(|error| {
        let (path, errno) = (file.path().display(), error.raw_os_error().unwrap_or(errno::EIO));
        Error::new(errno, format!("filename {path}: its size cannot be read: {error}"))
    })?;
    let rest = size_bytes % u64::from(block_size);
    if rest != 0 {
        let path = file.path().display();
        warn!("{path}: the last {rest} bytes are less than a block of {block_size} and not used");
    }
    Ok(size_bytes / u64::from(block_size))
}

fn at_least_one(file: &BackingFile, block_size: u32, num_blocks: u64) -> Result<u64> {
    if num_blocks > 0 {
        return Ok(num_blocks);
    }
    let path = file.path().display();
    let message = format!("filename {path}: it is shorter than one block of {block_size} bytes");
    Err(Error::new(errno::EINVAL, message))
}

/// How the file zeroes ranges, if it can.
fn zeroing_of(file: &BackingFile) -> Option<Zeroing> {
    if file.is_block_device() {
        return Some(Zeroing::ZeroRange); // The kernel writes zeroes if the device has no command.
    }
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE;
    // The test runs past the end of the file, where there is no data. The punch frees the blocks
    // that the other call may have allocated.
    let can_zero = can_fallocate(file, FallocateFlags::FALLOC_FL_ZERO_RANGE);
    match (can_fallocate(file, punch), can_zero) {
        (true, true) => Some(Zeroing::ZeroRange),
        (true, false) => Some(Zeroing::PunchHole),
        (false, _) => {
            warn!("{}: fallocate: its file system cannot punch holes", file.path().display());
            None
        }
    }
}

fn can_fallocate(file: &BackingFile, mode: FallocateFlags) -> bool {
    let mode = mode | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let end = file.size_bytes().ok().and_then(|size| i64::try_from(size).ok()).unwrap_or(0);
    let result = fallocate(file, mode, end, i64::from(BLOCK_SIZE_MIN));
    !matches!(result, Err(nix::Error::EOPNOTSUPP | nix::Error::ENOSYS))
}

/// A UUID that depends on the canonical path only: version 8 of RFC 9562, from a SHA-256.
fn uuid_of_path(path: &Path) -> Result<Uuid> {
    let canonical = fs::canonicalize(path)?;
    let digest = Sha256::new()
        .chain_update(b"drivebay-aio:")
        .chain_update(canonical.as_os_str().as_encoded_bytes())
        .finalize();
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(digest).for_each(|(byte, of_digest)| *byte = of_digest);
    let mut wide = u128::from_be_bytes(bytes);
    wide = wide & !(0xf << 76) | 0x8 << 76; // version
    wide = wide & !(0b11 << 62) | 0b10 << 62; // variant
    Ok(Uuid(wide.to_be_bytes()))
}
