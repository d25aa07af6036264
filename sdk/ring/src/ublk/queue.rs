//! One queue of a device: takes the kernel's requests and ends them.
#![expect(
    unsafe_code,
    reason = "gives the kernel the addresses of buffers, which the queue keeps meanwhile"
)]

use std::io;
use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use io_uring::opcode::UringCmd16;
use io_uring::types::Fd;

use super::DEPTH_MAX;
use super::abi::{COMMIT_AND_FETCH, Descriptor, FETCH, io_command};
use super::control::Device;
use super::descriptors::Descriptors;
use crate::uring::Uring;
use crate::{Armed, Segment};

/// The owner of a buffer that the kernel reads and writes.
///
/// # Safety
///
/// From the call of [`memory`](Self::memory) until the value is dropped, even if it moves or is leaked, the memory must be valid for
/// reads and writes. While a queue has the value, nothing else may use the memory.
pub unsafe trait KernelBuffer: 'static {
    /// The memory.
    fn memory(&mut self) -> Segment;
}

/// A queue. It belongs to the thread of the system on which it was opened, because the kernel takes commands of a queue from one
/// thread only.
#[derive(Debug)]
pub struct Queue<B: KernelBuffer> {
    uring: Uring,
    descriptors: Descriptors,
    device: Arc<Device>,
    index: u16,
    /// The buffer of each tag, while the kernel has the tag.
    at_kernel: Box<[Option<B>]>,
    /// Tags that the kernel has given up: the device goes away.
    num_gone: usize,
    /// Whether the kernel may have commands. Before the first flush it has none, and no buffer either.
    was_flushed: bool,
    _of_its_thread: PhantomData<*const ()>,
}

/// A request, with the buffer of its tag.
#[derive(Debug)]
pub struct Request<B> {
    /// Its tag, for [`Queue::complete`].
    pub tag: u16,
    /// What the kernel wants. The queue has copied it, because the kernel reuses its own copy.
    pub descriptor: Descriptor,
    /// The buffer. It has the data of a write.
    pub buffer: B,
}

impl<B: KernelBuffer> Queue<B> {
    /// Opens queue `index` of a device, with one buffer for each entry.
    ///
    /// # Errors
    /// `EINVAL` for a wrong number of buffers or a buffer that is shorter than the device's longest data, or the kernel's error.
    pub fn open(device: Arc<Device>, index: u16, buffers: Vec<B>) -> io::Result<Self> {
        let depth = device.info().depth;
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        if depth == 0 || depth > DEPTH_MAX || buffers.len() != usize::from(depth) {
            return Err(invalid());
        }
        let descriptors = Descriptors::map(&device, index)?;
        let uring = Uring::new(depth.into())?;
        let at_kernel = (0..depth).map(|_| None).collect();
        let _of_its_thread = PhantomData;
        let mut queue = Self {
            uring,
            descriptors,
            device,
            index,
            at_kernel,
            num_gone: 0,
            was_flushed: false,
            _of_its_thread,
        };
        for (tag, buffer) in (0..depth).zip(buffers) {
            queue.push(tag, FETCH, 0, buffer)?;
        }
        Ok(queue)
    }

    /// The next request, if there is one.
    pub fn next_request(&mut self) -> Option<Request<B>> {
        loop {
            let (token, result) = self.uring.next()?;
            let place = self.at_kernel.get_mut(token as usize);
            let (Some(buffer), Ok(tag)) = (place.and_then(Option::take), u16::try_from(token))
            else {
                continue;
            };
            match self.descriptors.read(tag) {
                Some(descriptor) if result == 0 => {
                    return Some(Request { tag, descriptor, buffer });
                }
                // The device goes away.
                _ => self.num_gone += 1,
            }
        }
    }

    /// Ends a request. `result`: the bytes that were read or written, 0 for other requests, or a negative errno. The kernel learns it at
    /// the next [`flush`](Self::flush).
    ///
    /// # Errors
    /// `EINVAL` for a buffer that is shorter than the device's longest data, `EBUSY` when there is no room. Both are mistakes of the
    /// caller. The tag then stays unanswered.
    pub fn complete(&mut self, tag: u16, result: i32, buffer: B) -> io::Result<()> {
        self.push(tag, COMMIT_AND_FETCH, result, buffer)
    }

    fn push(&mut self, tag: u16, number: u32, result: i32, mut buffer: B) -> io::Result<()> {
        let place = self.at_kernel.get_mut(usize::from(tag)).filter(|place| place.is_none());
        let memory = buffer.memory();
        let is_long_enough = memory.len >= self.device.info().max_io_bytes as usize;
        let Some(place) = place.filter(|_| is_long_enough) else {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        };
        *place = Some(buffer);
        let addr = memory.ptr.expose_provenance() as u64;
        let command = io_command(self.index, tag, result, addr);
        let entry = UringCmd16::new(Fd(self.device.raw()), number).cmd(command).build();
        // SAFETY: the command refers to the buffer, which is at least as long as the kernel's longest data. `at_kernel` keeps it until
        // the event of the command, and `drop` leaks it if that has not come, unless the kernel never got a command.
        unsafe { self.uring.push_entry(entry.user_data(tag.into())) }.map_err(io::Error::from)
    }

    /// Whether the kernel has given up all tags, so that there will be no more requests.
    pub fn has_ended(&self) -> bool {
        self.num_gone == self.at_kernel.len()
    }

    /// Gives the kernel all results since the last call, with one system call, or none if there are none.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn flush(&mut self) -> io::Result<()> {
        self.was_flushed = true;
        self.uring.flush()
    }

    /// Whether the kernel does not know of a result yet.
    pub fn has_unflushed(&mut self) -> bool {
        self.uring.has_unflushed()
    }

    /// The eventfd that becomes readable when a request comes, once the queue is armed.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.uring.events.borrow()
    }

    /// Prepares for sleep on [`event_fd`](Self::event_fd), then checks again for work. Sleep only if the result is `MaySleep`.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub fn arm(&mut self) -> io::Result<Armed> {
        self.flush()?;
        self.uring.arm();
        let is_waiting = self.has_unflushed() || self.uring.has_events();
        Ok(if is_waiting { Armed::WorkWaiting } else { Armed::MaySleep })
    }

    /// Disables the eventfd's signals, for polling.
    pub fn disarm(&mut self) {
        self.uring.disarm();
    }
}

impl<B: KernelBuffer> Drop for Queue<B> {
    fn drop(&mut self) {
        if !self.was_flushed {
            return;
        }
        // The kernel has the tags of these buffers. It gives them up some time after the ring is closed, and nothing reports when. It
        // may write to a buffer until then, so leak them.
        for buffer in mem::take(&mut self.at_kernel).into_iter().flatten() {
            let _leaked = ManuallyDrop::new(buffer);
        }
    }
}
