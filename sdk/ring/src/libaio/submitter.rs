//! The thread that makes a ring's blocking calls, so that the owner of the ring never waits for them.
//! `io_submit` waits while a file system is frozen or a disk accepts no more requests. libaio has no
//! asynchronous `fallocate`.
#![expect(unsafe_code, reason = "passes control blocks and descriptors to system calls")]

use std::io;
use std::mem::zeroed;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use libc::iocb;

use super::context::Context;
use super::{IOCB_CMD_FDSYNC, IOCB_CMD_FSYNC};
use crate::Errno;
use crate::engine::Event;
use crate::event::EventFd;
use crate::op::Op;

/// Maximum number of operations per `io_submit`.
const BATCH_MAX: usize = 64;
/// How long the thread pauses when the kernel has no room for an operation.
const REST: Duration = Duration::from_millis(1);
/// Stack size of the thread, in bytes. The thread only calls the kernel.
const STACK_BYTES: usize = 128 << 10;

/// One operation for the thread.
#[derive(Clone, Copy, Debug)]
pub(super) enum Job {
    /// An operation for `io_submit`. Its token is in the block's `aio_data`.
    Queue(iocb),
    /// A punch-hole or zero-range operation.
    Fallocate { token: u32, fd: RawFd, op: Op },
}

/// The thread of one ring. Dropping it waits until the thread has finished its last call.
#[derive(Debug)]
pub(super) struct Submitter {
    /// `None` only during the drop. Has room for every operation of the ring.
    jobs: Option<SyncSender<Job>>,
    /// Results of operations that did not go through the kernel's queue.
    pub(super) results: Receiver<Event>,
    thread: Option<JoinHandle<()>>,
}

impl Submitter {
    /// Starts the thread. It signals `events` for every result that it produces itself.
    ///
    /// # Errors
    /// When the system cannot create a thread.
    pub(super) fn start(
        context: Arc<Context>,
        events: Arc<EventFd>,
        depth: u32,
    ) -> io::Result<Self> {
        let (jobs, jobs_in) = sync_channel(depth as usize);
        let (results_out, results) = sync_channel(depth as usize);
        let worker = Worker { context, jobs: jobs_in, results: results_out, events };
        let thread = Builder::new()
            .name("aio-submit".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || worker.run())?;
        Ok(Self { jobs: Some(jobs), results, thread: Some(thread) })
    }

    /// Passes an operation to the thread. Never waits.
    ///
    /// # Safety
    ///
    /// The job's memory must stay valid, and its file open, until its event.
    ///
    /// # Errors
    /// When the thread has ended, or the ring has more operations in flight than its depth.
    pub(super) unsafe fn send(&self, job: Job) -> io::Result<()> {
        let jobs = self.jobs.as_ref().ok_or(Errno::BAD_FILE)?;
        jobs.try_send(job).map_err(io::Error::other)
    }
}

impl Drop for Submitter {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // The thread does not panic, so there is no error to report.
            let _ = thread.join();
        }
    }
}

struct Worker {
    context: Arc<Context>,
    jobs: Receiver<Job>,
    results: SyncSender<Event>,
    events: Arc<EventFd>,
}

impl Worker {
    fn run(self) {
        use_other_cores();
        let mut blocks = Vec::with_capacity(BATCH_MAX);
        while let Ok(first) = self.jobs.recv() {
            let mut next = Ok(first);
            let mut fallocate_job = None;
            while let Ok(job) = next {
                match job {
                    Job::Queue(block) => blocks.push(block),
                    Job::Fallocate { token, fd, op } => fallocate_job = Some((token, fd, op)),
                }
                let is_full = fallocate_job.is_some() || blocks.len() == BATCH_MAX;
                next = if is_full { Err(TryRecvError::Empty) } else { self.jobs.try_recv() };
            }
            self.submit(&mut blocks);
            if let Some((token, fd, op)) = fallocate_job {
                self.end(token, fallocate(fd, op));
            }
        }
    }

    /// Submits all of `blocks` to the kernel, and completes those that it refuses.
    fn submit(&self, blocks: &mut Vec<iocb>) {
        let mut addresses: Vec<*mut iocb> = blocks.iter_mut().map(ptr::from_mut).collect();
        let mut rest = addresses.as_mut_slice();
        while let Some(first) = rest.first() {
            // SAFETY: the address is inside `blocks`, which no other code uses meanwhile.
            let block = unsafe { first.read() };
            // SAFETY: the addresses point into `blocks`; by the promise of `send`, the memory and files of the
            // blocks stay valid.
            let taken = match unsafe { self.context.submit(rest) } {
                Ok(taken) => taken,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => 0,
                    Some(libc::EAGAIN) => {
                        std::thread::sleep(REST);
                        0
                    }
                    // The error is about the first block, and the kernel has accepted none.
                    number => {
                        self.refuse(&block, number.unwrap_or(libc::EIO));
                        1
                    }
                },
            };
            rest = rest.get_mut(taken..).unwrap_or_default();
        }
        blocks.clear();
    }

    fn refuse(&self, block: &iocb, number: i32) {
        let is_sync = matches!(block.aio_lio_opcode, IOCB_CMD_FSYNC | IOCB_CMD_FDSYNC);
        // A kernel before 4.18 does not have asynchronous sync.
        let unknown_sync = is_sync && number == libc::EINVAL;
        let number = if unknown_sync { Errno::NOT_SUPPORTED.number() } else { number };
        self.end(u32::try_from(block.aio_data).unwrap_or(u32::MAX), -number);
    }

    fn end(&self, token: u32, result: i32) {
        // There is always room, because at most `depth` operations are in flight.
        let _ = self.results.try_send((token, result));
        self.events.signal();
    }
}

/// Lets the thread run on all cores. It inherits the one core of its reactor, which may be spinning there.
fn use_other_cores() {
    // SAFETY: the struct is a set of bits, for which zero is valid.
    let mut all: libc::cpu_set_t = unsafe { zeroed() };
    for core in 0..usize::try_from(libc::CPU_SETSIZE).unwrap_or(0) {
        // SAFETY: `core` is below the number of bits of the set.
        unsafe { libc::CPU_SET(core, &mut all) };
    }
    // The kernel ignores the cores that this process may not use. If the call fails, the thread stays on its core.
    // SAFETY: the set is valid for the call; 0 is the calling thread.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const all) };
}

/// Executes an operation on a range. Returns the result in the form of the kernel's queue.
fn fallocate(fd: RawFd, op: Op) -> i32 {
    let (offset, len) = op.range();
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
        return -libc::EINVAL;
    };
    // SAFETY: the call takes integers; a bad descriptor only gives an error.
    let result = unsafe { libc::fallocate(fd, op.fallocate_mode(), offset, len) };
    if result == 0 { 0 } else { -Errno::last().number() }
}
