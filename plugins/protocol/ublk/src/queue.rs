//! The queues of one thread: requests of the kernel become I/O of a bdev.

use drivebay_ring::Armed;
use drivebay_ring::ublk::{Descriptor, Device, Kind, Queue, Request};
use drivebay_sdk::bdev::{Channel, Desc, Info, IoFlags, IoResult, Op, Range};
use drivebay_sdk::buf::{self, Buf};
use drivebay_sdk::poller::{Poll, Poller};
use drivebay_sdk::runtime::notify::Notify;
use drivebay_sdk::{Error, KernelBox, Result, errno, tracing};
use std::cell::{Cell, RefCell};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;

/// Longest data of a request, in bytes: a large buffer of the host's pools. Each entry of a queue has such a buffer.
pub const DATA_MAX: u32 = 128 << 10;
/// Length of a sector of the kernel, in bytes.
pub const SECTOR: u32 = 512;
/// Most requests that a queue takes in a round, so that no disk holds the thread.
const BURST: usize = 64;
/// The event "readable" of poll(2).
const POLLIN: u32 = 1;

/// A bdev that a disk serves.
#[derive(Debug)]
pub struct Source {
    /// The open bdev.
    pub desc: Desc,
    /// What it was when it was opened.
    pub info: Info,
}

/// The queues of one thread.
#[derive(Debug, Default)]
pub struct Queues {
    prepared: RefCell<Vec<Prepared>>,
    all: RefCell<Vec<Running>>,
    /// Notified when a queue has ended.
    ended: Rc<Notify>,
}

/// The buffers and the channel of a queue that is not served yet.
#[derive(Debug)]
struct Prepared {
    id: u32,
    index: u16,
    ios: Vec<KernelBox<Io>>,
    flight: Rc<Flight>,
    channel: Channel,
    source: Arc<Source>,
}

/// A queue that is being served.
#[derive(Debug)]
struct Running {
    id: u32,
    served: Rc<Served>,
    _poller: Poller,
}

#[derive(Debug)]
struct Served {
    name: String,
    queue: RefCell<Queue<KernelBox<Io>>>,
    flight: Rc<Flight>,
    channel: Channel,
    source: Arc<Source>,
    has_warned: Cell<bool>,
    ended: Rc<Notify>,
}

/// The I/O of a queue that has ended.
#[derive(Debug, Default)]
#[expect(clippy::vec_box, reason = "the queue takes the boxes back")]
struct Flight(RefCell<Vec<Box<Io>>>);

/// The I/O of a tag, with its buffer.
#[derive(Debug)]
struct Io {
    buf: Buf,
    tag: u16,
    /// Bytes read or written if the I/O succeeds, then the result for the kernel.
    result: i32,
    flight: Rc<Flight>,
}

impl AsMut<Buf> for Io {
    fn as_mut(&mut self) -> &mut Buf {
        &mut self.buf
    }
}

impl Queues {
    /// Allocates the buffers of queue `index` of device `id`, and opens its channel. [`end`](Self::end) frees them.
    ///
    /// # Errors
    /// `ENOMEM` when there is no memory for the buffers, or the error of the bdev's module.
    pub fn prepare(&self, (id, index): (u32, u16), depth: u16, source: &Arc<Source>) -> Result<()> {
        let flight = Rc::<Flight>::default();
        let io = |tag| {
            let buf = buf::alloc_outside_pools(DATA_MAX)?;
            Ok(KernelBox(Box::new(Io { buf, tag, result: 0, flight: Rc::clone(&flight) })))
        };
        let ios = (0..depth).map(io).collect::<Result<Vec<_>>>()?;
        let channel = source.desc.channel()?;
        let source = Arc::clone(source);
        self.prepared.borrow_mut().push(Prepared { id, index, ios, flight, channel, source });
        Ok(())
    }

    /// Opens a queue that was prepared, and serves it. The kernel gets its commands in the next round.
    ///
    /// # Errors
    /// `EINVAL` when it was not prepared, or the kernel's error.
    pub fn begin(&self, device: &Arc<Device>, index: u16) -> Result<()> {
        let id = device.info().id;
        let mut prepared = self.prepared.borrow_mut();
        let place = prepared.iter().position(|queue| queue.id == id && queue.index == index);
        let place = place.ok_or_else(|| Error::new(errno::EINVAL, "the queue is not prepared"))?;
        let Prepared { ios, flight, channel, source, .. } = prepared.swap_remove(place);
        drop(prepared);
        let queue = Queue::open(Arc::clone(device), index, ios)?;
        let fd = queue.event_fd().as_raw_fd();
        let served = Rc::new(Served {
            name: format!("/dev/ublkb{id} queue {index}"),
            queue: RefCell::new(queue),
            flight,
            channel,
            source,
            has_warned: Cell::new(false),
            ended: Rc::clone(&self.ended),
        });
        let poller = Poller::register("ublk", 0, Round(Rc::clone(&served)))?;
        poller.wake_fd(fd, POLLIN)?;
        self.all.borrow_mut().push(Running { id, served, _poller: poller });
        Ok(())
    }

    /// Waits until the kernel has given up the queues of a device, and closes them. Also frees queues that are only prepared.
    pub async fn end(&self, id: u32) {
        self.prepared.borrow_mut().retain(|queue| queue.id != id);
        let have_ended = || {
            let all = self.all.borrow();
            all.iter().filter(|running| running.id == id).all(|running| running.served.has_ended())
        };
        self.ended.until(have_ended).await;
        self.all.borrow_mut().retain(|running| running.id != id);
    }
}

impl Served {
    fn has_ended(&self) -> bool {
        self.queue.borrow().has_ended()
    }

    /// Takes new requests and submits them. Returns whether there were any.
    fn take(&self) -> bool {
        for count in 0..BURST {
            let taken = self.queue.borrow_mut().next_request();
            let Some(request) = taken else { return count > 0 };
            self.submit(request);
        }
        true
    }

    fn submit(&self, request: Request<KernelBox<Io>>) {
        let Request { tag, descriptor, buffer: KernelBox(mut io) } = request;
        io.tag = tag;
        let plan = Plan::new(descriptor, self.source.info.block_size());
        let Ok(Plan { op, flags, data_len }) = plan else {
            io.result = -errno::EINVAL;
            return self.flight.0.borrow_mut().push(io);
        };
        io.result = i32::try_from(data_len).unwrap_or(i32::MAX);
        if data_len > 0 {
            io.buf.set_len(data_len);
        }
        if matches!(op, Op::Read(_)) && self.source.info.keeps_no_data() {
            io.buf.fill(0); // the kernel must not get the data of an earlier request
        }
        self.channel.submit(op, flags, io, ended);
    }

    /// Gives the kernel the results of the I/O that has ended. Returns whether there were any.
    fn hand_back(&self) -> bool {
        let mut ended = self.flight.0.borrow_mut();
        let count = ended.len();
        for mut io in ended.drain(..) {
            io.buf.set_len(DATA_MAX);
            let completed = self.queue.borrow_mut().complete(io.tag, io.result, KernelBox(io));
            self.note(completed);
        }
        count > 0
    }

    fn flush(&self) {
        self.channel.flush();
        let flushed = self.queue.borrow_mut().flush();
        self.note(flushed);
    }

    /// Logs the first error of the queue.
    fn note(&self, result: std::io::Result<()>) {
        if let Err(error) = result
            && !self.has_warned.replace(true)
        {
            tracing::error!("{}: {error}; further errors are not logged", self.name);
        }
    }
}

/// An I/O has ended. The next round hands it back.
fn ended(mut io: Box<Io>, result: IoResult) {
    if !result.status.is_success() {
        io.result = errno_of(result);
    }
    let flight = Rc::clone(&io.flight);
    flight.0.borrow_mut().push(io);
}

/// The negative errno of a failed I/O. The kernel knows only some; others count as EIO there.
fn errno_of(result: IoResult) -> i32 {
    let errno = -result.status.raw();
    match errno {
        errno::ENOSPC | errno::EOPNOTSUPP | errno::EINVAL | errno::EROFS => -errno,
        _ => -errno::EIO,
    }
}

/// A request as I/O.
#[derive(Debug, PartialEq)]
struct Plan {
    op: Op,
    flags: IoFlags,
    /// Length of the data in the buffer, in bytes.
    data_len: u32,
}

impl Plan {
    /// # Errors
    /// `EINVAL` for a request that is not whole blocks, has too much data, or has an unknown kind.
    fn new(descriptor: Descriptor, block_size: u32) -> Result<Self> {
        let refused = || Error::new(errno::EINVAL, format!("{descriptor:?}"));
        let per_block = u64::from(block_size / SECTOR).max(1);
        let (first, count) = (descriptor.sector, u64::from(descriptor.num_sectors));
        let flags = if descriptor.is_fua { IoFlags::FUA } else { IoFlags::NONE };
        if descriptor.kind == Kind::Flush {
            return Ok(Self { op: Op::Flush, flags: IoFlags::NONE, data_len: 0 });
        }
        if count == 0 || !first.is_multiple_of(per_block) || !count.is_multiple_of(per_block) {
            return Err(refused());
        }
        let range = Range::new(first / per_block, count / per_block);
        let data = |op| {
            let len = descriptor.num_sectors.checked_mul(SECTOR).filter(|&len| len <= DATA_MAX);
            Ok(Self { op, flags, data_len: len.ok_or_else(refused)? })
        };
        match descriptor.kind {
            Kind::Read => data(Op::Read(range)),
            Kind::Write => data(Op::Write(range)),
            Kind::Discard => Ok(Self { op: Op::Unmap(range), flags: IoFlags::NONE, data_len: 0 }),
            Kind::WriteZeroes => Ok(Self { op: Op::WriteZeroes(range), flags, data_len: 0 }),
            Kind::Flush | Kind::Other(_) => Err(refused()),
        }
    }
}

struct Round(Rc<Served>);

impl Poll for Round {
    const SLEEPS: bool = true;

    fn poll(&mut self) -> bool {
        let served = &self.0;
        if served.has_ended() {
            return false;
        }
        let mut did = served.hand_back();
        did |= served.take();
        did |= served.hand_back();
        if did || served.queue.borrow_mut().has_unflushed() {
            served.flush();
        }
        if served.has_ended() {
            served.ended.notify();
        }
        did
    }

    fn prepare_sleep(&mut self) -> bool {
        let armed = self.0.queue.borrow_mut().arm();
        let has_work = !self.0.flight.0.borrow().is_empty();
        match armed {
            Ok(armed) => has_work || armed == Armed::WorkWaiting,
            Err(error) => {
                self.0.note(Err(error));
                has_work
            }
        }
    }

    fn woke(&mut self) {
        self.0.queue.borrow_mut().disarm();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(kind: Kind, sector: u64, num_sectors: u32, block_size: u32) -> Option<Plan> {
        let descriptor = Descriptor { kind, is_fua: false, sector, num_sectors };
        Plan::new(descriptor, block_size).ok()
    }

    #[test]
    fn sectors_of_the_kernel_become_blocks_of_the_bdev() {
        let read = Plan { op: Op::Read(Range::new(2, 1)), flags: IoFlags::NONE, data_len: 4096 };
        assert_eq!(plan(Kind::Read, 16, 8, 4096), Some(read));
        let discard =
            Plan { op: Op::Unmap(Range::new(0, 1 << 31)), flags: IoFlags::NONE, data_len: 0 };
        assert_eq!(plan(Kind::Discard, 0, 1 << 31, 512), Some(discard));
        let fua = Descriptor { kind: Kind::Write, is_fua: true, sector: 1, num_sectors: 1 };
        assert_eq!(Plan::new(fua, 512).unwrap().flags, IoFlags::FUA);
    }

    #[test]
    fn requests_that_do_not_fit_the_bdev_or_the_buffer_are_refused() {
        assert_eq!(plan(Kind::Read, 1, 8, 4096), None, "not at a block");
        assert_eq!(plan(Kind::Write, 8, 4, 4096), None, "not whole blocks");
        assert_eq!(plan(Kind::Write, 0, DATA_MAX / SECTOR + 1, 512), None, "too long");
        assert_eq!(plan(Kind::Read, 0, u32::MAX, 512), None, "too long for 32 bits");
        assert_eq!(plan(Kind::Write, 0, 0, 512), None, "empty");
        assert_eq!(plan(Kind::Other(9), 0, 8, 512), None, "unknown");
    }
}
