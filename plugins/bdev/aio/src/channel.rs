//! One thread's ring for a disk: it turns I/O of the bus into operations on the file, and completes it.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use drivebay_ring::{self as ring, Armed, Completion, Engine, Errno, FileIndex, Full, Ring};
use drivebay_sdk::bdev::IoId;
use drivebay_sdk::prelude::*;

use crate::disk::{FileDisk, Zeroing};

/// The maximum number of I/Os of one channel in flight. The bus keeps further I/O.
const DEPTH: u32 = 256;

/// Refuses a libaio disk if the system has no room for one more channel. Otherwise channels that open later would
/// fail. `[app thread]`
///
/// # Errors
/// `EAGAIN`; the text names the limit.
pub fn check_room(engine: Engine) -> Result<()> {
    match aio_room() {
        Some(room) if engine == Engine::Libaio && is_full(room) => {
            Err(Error::new(libc::EAGAIN, no_room(room)))
        }
        _ => Ok(()),
    }
}

fn is_full((used, max): (u64, u64)) -> bool {
    used + u64::from(DEPTH) > max
}

/// The number of operations that all programs have reserved with libaio, and the limit.
fn aio_room() -> Option<(u64, u64)> {
    let read = |name| {
        let text = std::fs::read_to_string(format!("/proc/sys/fs/{name}")).ok()?;
        text.trim().parse().ok()
    };
    Some((read("aio-nr")?, read("aio-max-nr")?))
}

fn no_room((used, max): (u64, u64)) -> String {
    format!(
        "libaio has no room for {DEPTH} more operations: {used} of fs.aio-max-nr = {max} are taken; \
         raise that limit (sysctl -w fs.aio-max-nr=1048576), or let the host use io_uring"
    )
}

fn no_ring(disk: &FileDisk, error: &io::Error) -> Error {
    let errno = error.raw_os_error().unwrap_or(errno::EIO);
    let why = match (disk.engine(), errno) {
        (Engine::Libaio, libc::EAGAIN) => no_room(aio_room().unwrap_or_default()),
        _ => error.to_string(),
    };
    error!("{}: no ring for this thread: {why}", disk.name());
    Error::new(errno, why)
}

/// Number of I/Os of a burst that one system call submits. The kernel lets the disk begin when the call returns.
const AT_ONCE: usize = 4;

/// One thread's state.
#[derive(Debug)]
pub struct Channel {
    disk: Arc<FileDisk>,
    ring: Ring<BdevIo>,
    file: FileIndex,
    /// Zeroed ranges that still have to be made durable.
    syncing: Vec<IoId>,
    /// Whether a failure was logged. The channel logs only its first failure.
    has_warned: bool,
    /// I/Os pushed since the last flush.
    unflushed: usize,
}

impl Channel {
    /// Opens a ring on the disk's file. `[reactor]`
    ///
    /// # Errors
    /// The kernel's error.
    pub fn open(disk: Arc<FileDisk>) -> Result<Self> {
        let mut ring = Ring::new(disk.engine(), DEPTH).map_err(|error| no_ring(&disk, &error))?;
        let file = ring.attach(Arc::clone(disk.file()))?;
        Ok(Self { disk, ring, file, syncing: Vec::new(), has_warned: false, unflushed: 0 })
    }

    /// Queues an I/O. The kernel gets it with a few others, or at the end of the burst.
    pub fn submit(&mut self, io: BdevIo) {
        let op = io.op();
        if let Some(refusal) = self.refusal(op) {
            return io.complete(refusal);
        }
        match self.on_file(op, io.flags()) {
            Some(op) => self.push(op, io),
            None => io.complete(Status::NOT_SUPPORTED),
        }
    }

    /// Refuses an op past the end of the file, because a write there would lengthen the file. The error tells whether the bdev never had
    /// the block, or the file was made shorter. `None` when the op is within the file.
    fn refusal(&self, op: Op) -> Option<Status> {
        let (Op::Read(range) | Op::Write(range) | Op::Unmap(range) | Op::WriteZeroes(range)) = op
        else {
            return None;
        };
        match range.lba.checked_add(range.nblocks) {
            Some(end) if end <= self.disk.blocks_there() => None,
            Some(end) if end <= self.disk.num_blocks() => Some(Status::IO_ERROR),
            _ => Some(Status::INVALID),
        }
    }

    /// The file operation for an op of the bus.
    fn on_file(&self, op: Op, flags: IoFlags) -> Option<ring::Op> {
        let block_size = u64::from(self.disk.block_size());
        // The range is within the file, so nothing overflows.
        let (offset_of, len_of) =
            (|range: Range| range.lba * block_size, |range: Range| range.nblocks * block_size);
        let hole = |range| ring::Op::PunchHole { offset: offset_of(range), len: len_of(range) };
        Some(match op {
            Op::Read(range) => ring::Op::Read { offset: offset_of(range) },
            Op::Write(range) => {
                ring::Op::Write { offset: offset_of(range), durable: flags.contains(IoFlags::FUA) }
            }
            Op::Flush => ring::Op::Fdatasync,
            Op::Unmap(range) => self.disk.zeroing().map(|_| hole(range))?,
            Op::WriteZeroes(range) => match self.disk.zeroing()? {
                Zeroing::ZeroRange => {
                    ring::Op::ZeroRange { offset: offset_of(range), len: len_of(range) }
                }
                Zeroing::PunchHole => hole(range),
            },
            _ => return None,
        })
    }

    fn push(&mut self, op: ring::Op, io: BdevIo) {
        if let Err(Full(io)) = self.ring.push(op, self.file, io) {
            io.complete(Status::NO_RESOURCE);
        }
        self.unflushed += 1;
        if self.unflushed >= AT_ONCE {
            self.flush();
        }
    }

    /// Submits all pushed I/Os in one system call. The caller does this when the burst has ended, or when it is long
    /// enough for the disk to begin.
    pub fn flush(&mut self) {
        self.unflushed = 0;
        let flushed = self.ring.flush();
        self.log_once(flushed);
    }

    /// Completes the I/Os that the kernel has ended. Returns whether there were any.
    pub fn poll(&mut self) -> bool {
        let mut count = 0;
        while count < DEPTH {
            let Some(completion) = self.ring.next_completion() else { break };
            self.complete(completion);
            count += 1;
        }
        if count > 0 {
            self.flush(); // Submits syncs that `complete` pushed, and I/Os that had no room before.
        }
        count > 0
    }

    fn complete(&mut self, Completion { request: io, result }: Completion<BdevIo>) {
        let op = io.op();
        if self.must_sync(op, &io, result) {
            self.syncing.push(io.id());
            return self.push(ring::Op::Fdatasync, io);
        }
        let status = status_of(op, self.disk.block_size(), result);
        if matches!((op, result), (Op::Read(_), Ok(_))) && !status.is_success() {
            // The following I/O uses the new end of the file. That I/O reports the error itself.
            let _ = self.disk.measure();
        }
        if !status.is_success() && !std::mem::replace(&mut self.has_warned, true) {
            let (name, what) = (self.disk.name(), described(op));
            match result {
                Ok(moved) => warn!(
                    "{name}: {what} moved only {moved} bytes, because the file ends there; further failures are not logged"
                ),
                Err(error) => warn!("{name}: {what}: {error}; further failures are not logged"),
            }
        }
        io.complete(status);
    }

    /// Whether the zeroed range must be durable and is not yet, so that a sync must follow. Only a write can be made
    /// durable directly.
    fn must_sync(&mut self, op: Op, io: &BdevIo, result: Result<u32, Errno>) -> bool {
        if !matches!(op, Op::Unmap(_) | Op::WriteZeroes(_)) || !io.flags().contains(IoFlags::FUA) {
            return false;
        }
        match self.syncing.iter().position(|id| *id == io.id()) {
            Some(place) => {
                self.syncing.swap_remove(place);
                false
            }
            None => result.is_ok(),
        }
    }

    /// Arms the eventfd. Returns whether there is work after all.
    pub fn prepare_sleep(&mut self) -> bool {
        match self.ring.arm() {
            Ok(armed) => armed == Armed::WorkWaiting,
            Err(error) => {
                self.log_once(Err(error));
                true
            }
        }
    }

    /// Disarms the eventfd, because the reactor polls again.
    pub fn woke(&mut self) {
        self.ring.disarm();
    }

    /// Becomes readable when an I/O completes.
    pub fn wake_fd(&self) -> RawFd {
        self.ring.event_fd().as_raw_fd()
    }

    /// Logs the first failure of the queue itself.
    fn log_once(&mut self, result: io::Result<()>) {
        if let Err(error) = result
            && !std::mem::replace(&mut self.has_warned, true)
        {
            error!("{}: the ring fails: {error}", self.disk.name());
        }
    }
}

/// Describes an op for the log.
fn described(op: Op) -> String {
    let of = |what: &str, Range { lba, nblocks }: Range| {
        format!("{what} of {nblocks} blocks at block {lba}")
    };
    match op {
        Op::Read(range) => of("a read", range),
        Op::Write(range) => of("a write", range),
        Op::Unmap(range) => of("an unmap", range),
        Op::WriteZeroes(range) => of("a zeroing", range),
        Op::Flush => "a flush".to_owned(),
        _ => "an I/O".to_owned(),
    }
}

/// The status of an I/O for the bus.
fn status_of(op: Op, block_size: u32, result: Result<u32, Errno>) -> Status {
    match (op, result) {
        (Op::Read(range) | Op::Write(range), Ok(moved_bytes)) => {
            // Fewer bytes were moved only if the file became shorter than the bdev.
            let is_whole = u64::from(moved_bytes) == range.nblocks * u64::from(block_size);
            if is_whole { Status::SUCCESS } else { Status::IO_ERROR }
        }
        (_, Ok(_)) => Status::SUCCESS,
        // Unmap is a hint, so a device that does not support it does no harm.
        (Op::Unmap(_), Err(Errno::NOT_SUPPORTED)) => Status::SUCCESS,
        (_, Err(error)) => status_of_errno(error.number()),
    }
}

/// The statuses of errors that have their own status. All others are an I/O error.
fn status_of_errno(number: i32) -> Status {
    match number {
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG => Status::errno(errno::ENOSPC),
        libc::EOPNOTSUPP => Status::NOT_SUPPORTED,
        libc::ENODATA => Status::MEDIA, // As the block layer says "medium error".
        libc::ENOMEM => Status::NO_RESOURCE,
        libc::ENODEV | libc::ENXIO => Status::errno(errno::ENODEV),
        libc::ECANCELED => Status::ABORTED,
        _ => Status::IO_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure_of(op: Op, number: i32) -> Status {
        status_of(op, 512, Err(Errno::new(number).unwrap()))
    }

    #[test]
    fn a_disk_without_room_in_libaio_names_the_systems_limit() {
        assert!(!is_full((65_536 - u64::from(DEPTH), 65_536)));
        assert!(is_full((65_537 - u64::from(DEPTH), 65_536)));
        assert!(no_room((65_500, 65_536)).contains("65500 of fs.aio-max-nr = 65536 are taken"));
    }

    #[test]
    fn a_full_file_system_reads_as_no_space_and_what_says_nothing_as_an_io_error() {
        let write = Op::Write(Range::new(0, 1));
        for full in [libc::ENOSPC, libc::EDQUOT, libc::EFBIG] {
            assert_eq!(failure_of(write, full).raw(), -28);
        }
        for other in [libc::EIO, libc::EINVAL, libc::EILSEQ, libc::EREMOTEIO] {
            assert_eq!(failure_of(write, other), Status::IO_ERROR);
        }
        assert_eq!(failure_of(write, libc::ENODATA), Status::MEDIA);
        assert_eq!(failure_of(write, libc::ENOMEM), Status::NO_RESOURCE);
    }

    #[test]
    fn an_unmap_that_the_device_does_not_take_is_no_failure_but_a_zeroing_is() {
        let range = Range::new(0, 8);
        assert_eq!(failure_of(Op::Unmap(range), libc::EOPNOTSUPP), Status::SUCCESS);
        assert_eq!(failure_of(Op::WriteZeroes(range), libc::EOPNOTSUPP), Status::NOT_SUPPORTED);
        assert_eq!(failure_of(Op::Unmap(range), libc::EIO), Status::IO_ERROR);
    }

    #[test]
    fn data_that_did_not_move_completely_is_an_io_error() {
        let range = Range::new(0, 2);
        for op in [Op::Read(range), Op::Write(range)] {
            assert_eq!(status_of(op, 512, Ok(1024)), Status::SUCCESS);
            assert_eq!(status_of(op, 512, Ok(512)), Status::IO_ERROR);
        }
        assert_eq!(status_of(Op::Flush, 512, Ok(0)), Status::SUCCESS);
    }
}
