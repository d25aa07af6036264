//! One I/O that a module owns.
#![expect(unsafe_code, reason = "owns a request of the host between submit and done")]

use super::home::Home;
use super::op::{IoFlags, IoId, Op};
use crate::error::Status;
use crate::shared_copy;
use drivebay_plugin_api::{self as api, bay_io, bay_iov};
use std::marker::PhantomData;
use std::ptr::NonNull;

/// An I/O that the module owns until it completes it. Dropping it completes it with `EIO`.
///
/// It stays on its thread.
#[derive(Debug)]
#[must_use = "an I/O must be completed"]
pub struct BdevIo {
    io: NonNull<bay_io>,
    /// The I/O's channel, which outlives it.
    home: NonNull<Home>,
}

impl BdevIo {
    /// # Safety
    /// `io` was submitted to the channel of `home` and has no other owner.
    #[inline]
    pub(super) const unsafe fn new(io: NonNull<bay_io>, home: NonNull<Home>) -> Self {
        Self { io, home }
    }

    /// Returns the request without completing it. The caller must complete it.
    #[inline]
    pub(super) fn into_raw(self) -> NonNull<bay_io> {
        std::mem::ManuallyDrop::new(self).io
    }

    /// The I/O's channel.
    #[inline]
    pub(super) fn home(&self) -> NonNull<Home> {
        self.home
    }

    #[inline]
    pub(super) fn raw(&self) -> &bay_io {
        // SAFETY: `self` owns the request, and no one else changes it before `done`.
        unsafe { self.io.as_ref() }
    }

    /// The op and its operands.
    #[inline]
    #[must_use]
    pub fn op(&self) -> Op {
        Op::of(self.raw())
    }

    /// First block, for an op that has blocks.
    #[inline]
    pub(super) fn lba(&self) -> u64 {
        self.raw().lba
    }

    /// Flags of the I/O.
    #[inline]
    #[must_use]
    pub fn flags(&self) -> IoFlags {
        IoFlags::from_bits(self.raw().flags)
    }

    /// The I/O's id, for abort.
    #[inline]
    #[must_use]
    pub fn id(&self) -> IoId {
        IoId(self.raw().id)
    }

    /// The data buffers: the destination of a read, the source of a write.
    #[inline]
    #[must_use]
    pub fn buffers(&self) -> Buffers<'_> {
        Buffers::of(self.raw())
    }

    /// From now on the kernel or a device may touch the buffers until the I/O is completed.
    #[inline]
    pub(crate) fn hold_by_device(&self) {
        let holds = self.raw().holds | api::BAY_HELD_BY_DEVICE;
        // SAFETY: `self` owns the request, and there is no reference to it now.
        unsafe { (*self.io.as_ptr()).holds = holds };
    }

    /// Completes the I/O.
    #[inline]
    pub fn complete(self, status: impl Into<Status>) {
        finish(self.into_raw(), status.into());
    }

    /// Completes the I/O with a status and its detail.
    pub fn complete_with(self, result: IoResult) {
        finish_with(self.into_raw(), result);
    }
}

/// Completes a request that the module owns, with a status and its detail.
pub(super) fn finish_with(io: NonNull<bay_io>, result: IoResult) {
    result.write_detail(io);
    finish(io, result.status);
}

/// Completes a request that the module owns.
#[inline]
pub(super) fn finish(io: NonNull<bay_io>, status: Status) {
    // SAFETY: the module owns the request.
    let done = unsafe { (*io.as_ptr()).done };
    if let Some(done) = done {
        // SAFETY: called once for the submit, on its thread; no code touches the request afterwards.
        unsafe { done(io.as_ptr(), status.raw()) };
    }
}

impl Drop for BdevIo {
    #[cold]
    fn drop(&mut self) {
        finish(self.io, Status::IO_ERROR);
        debug_assert!(std::thread::panicking(), "an I/O was dropped before it was completed");
    }
}

/// The data of an I/O: pieces of memory in order. Another party, such as a guest, may change the memory at any time, so the code copies it
/// and never creates a reference to it.
#[derive(Clone, Copy, Debug)]
pub struct Buffers<'a>(&'a [bay_iov]);

impl<'a> Buffers<'a> {
    /// The buffers of a request that the module owns.
    #[inline]
    pub(super) fn of(io: &'a bay_io) -> Self {
        if io.iov.is_null() {
            return Self(&[]);
        }
        // SAFETY: the list has `iovcnt` elements, and no one changes it before `done`.
        Self(unsafe { std::slice::from_raw_parts(io.iov, io.iovcnt.into()) })
    }

    /// The pieces as the bus has them.
    #[inline]
    pub(crate) fn iovs(self) -> &'a [bay_iov] {
        self.0
    }

    /// Length of all pieces, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|piece| piece.len as usize).sum()
    }

    /// Whether the I/O has no data.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of pieces.
    #[must_use]
    pub fn num_pieces(&self) -> usize {
        self.0.len()
    }

    /// Address and length in bytes of each piece. Valid until the I/O completes.
    #[inline]
    pub fn pieces(self) -> impl Iterator<Item = (*mut u8, usize)> {
        self.0.iter().map(|piece| (piece.addr.cast(), piece.len as usize))
    }

    /// Copies `data` into the buffers, up to the shorter length. Returns the number of bytes.
    pub fn fill_from(&self, data: &[u8]) -> usize {
        let mut rest = data;
        for (addr, len) in self.pieces() {
            let (now, later) = rest.split_at(len.min(rest.len()));
            // SAFETY: the piece is valid for `len` bytes, and `data` does not overlap it.
            unsafe { shared_copy::copy(now.as_ptr(), addr, now.len()) };
            rest = later;
        }
        data.len() - rest.len()
    }

    /// Copies the buffers into `data`, up to the shorter length. Returns the number of bytes.
    pub fn copy_to(&self, data: &mut [u8]) -> usize {
        let len_all = data.len();
        let mut rest = data;
        for (addr, len) in self.pieces() {
            let (now, later) = rest.split_at_mut(len.min(rest.len()));
            // SAFETY: as in `fill_from`.
            unsafe { shared_copy::copy(addr, now.as_mut_ptr(), now.len()) };
            rest = later;
        }
        len_all - rest.len()
    }

    /// Copies `data` into the buffers from byte `offset` on, up to the shorter length.
    pub fn fill_at(&self, offset: usize, data: &[u8]) {
        let (mut skip, mut rest) = (offset, data);
        for (addr, len) in self.pieces() {
            let from = skip.min(len);
            skip -= from;
            let (now, later) = rest.split_at((len - from).min(rest.len()));
            // SAFETY: the piece is valid for `len` bytes, and `data` does not overlap it.
            unsafe { shared_copy::copy(now.as_ptr(), addr.wrapping_add(from), now.len()) };
            rest = later;
        }
    }

    /// Calls `see` with copies of the bytes from `offset` on, at most `len` bytes, in order.
    pub fn look_at(&self, offset: usize, len: usize, see: &mut dyn FnMut(&[u8])) {
        let mut copy = [0; 4096];
        let (mut skip, mut left) = (offset, len);
        for (addr, piece_len) in self.pieces() {
            let mut from = skip.min(piece_len);
            skip -= from;
            while from < piece_len && left > 0 {
                let now = (piece_len - from).min(left).min(copy.len());
                let (place, _) = copy.split_at_mut(now);
                // SAFETY: the piece is valid for `piece_len` bytes, and `copy` does not overlap it.
                unsafe { shared_copy::copy(addr.wrapping_add(from), place.as_mut_ptr(), now) };
                see(place);
                from += now;
                left -= now;
            }
        }
    }

    /// Zeroes the buffers.
    pub fn zero(&self) {
        for (addr, len) in self.pieces() {
            // SAFETY: the piece is valid for `len` bytes.
            unsafe { shared_copy::zero(addr, len) };
        }
    }
}

/// The status of a completed I/O and its detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoResult {
    /// The status.
    pub status: Status,
    /// `BAY_DETAIL_*`.
    detail_kind: u8,
    detail: u64,
}

impl IoResult {
    /// A status without detail.
    #[must_use]
    pub const fn new(status: Status) -> Self {
        Self { status, detail_kind: api::BAY_DETAIL_NONE, detail: 0 }
    }

    /// A status with an NVMe status as detail: bits 0-31 cdw0, 32-34 sct, 40-47 sc, 48 dnr, 49 more, 50-51 crd.
    #[must_use]
    pub const fn with_nvme(status: Status, detail: u64) -> Self {
        Self { status, detail_kind: api::BAY_DETAIL_NVME, detail }
    }

    /// A status with a SCSI status as detail: byte 0 status, 1 sense key, 2 asc, 3 ascq.
    #[must_use]
    pub const fn with_scsi(status: Status, detail: u64) -> Self {
        Self { status, detail_kind: api::BAY_DETAIL_SCSI, detail }
    }

    /// A miscompare with the offset of the first difference, in bytes.
    #[must_use]
    pub const fn miscompare_at(offset: u64) -> Self {
        Self { status: Status::MISCOMPARE, detail_kind: api::BAY_DETAIL_OFFSET, detail: offset }
    }

    /// A success with the block that the op returns (seek, zone append).
    #[must_use]
    pub const fn with_block(block: u64) -> Self {
        Self { status: Status::SUCCESS, detail_kind: api::BAY_DETAIL_BLOCK, detail: block }
    }

    pub(crate) fn read(status: i32, io: &bay_io) -> Self {
        let status = Status::from_raw(status);
        Self { status, detail_kind: io.detail_kind, detail: io.detail }
    }

    pub(super) fn has_detail(self) -> bool {
        self.detail_kind != api::BAY_DETAIL_NONE
    }

    /// Stores the detail in a request that the module owns.
    pub(super) fn write_detail(self, io: NonNull<bay_io>) {
        // SAFETY: the module owns the request until `done`.
        unsafe { (*io.as_ptr()).detail = self.detail };
        // SAFETY: as above.
        unsafe { (*io.as_ptr()).detail_kind = self.detail_kind };
    }

    /// The NVMe status, as in [`with_nvme`](Self::with_nvme), if the device returned one.
    #[must_use]
    pub fn nvme(self) -> Option<u64> {
        (self.detail_kind == api::BAY_DETAIL_NVME).then_some(self.detail)
    }

    /// The SCSI status, if the device returned one: byte 0 status, 1 sense key, 2 asc, 3 ascq.
    #[must_use]
    pub fn scsi(self) -> Option<u64> {
        (self.detail_kind == api::BAY_DETAIL_SCSI).then_some(self.detail)
    }

    /// The block that a seek or a zone append returned.
    #[must_use]
    pub fn block(self) -> Option<u64> {
        (self.detail_kind == api::BAY_DETAIL_BLOCK).then_some(self.detail)
    }

    /// Byte offset of the first difference, if a compare returned it.
    #[must_use]
    pub fn offset(self) -> Option<u64> {
        (self.detail_kind == api::BAY_DETAIL_OFFSET).then_some(self.detail)
    }
}

/// An ordered queue of I/Os of one channel, which wait or are in flight. It allocates no memory.
///
/// Dropping it completes its I/Os with [`Status::ABORTED`].
#[derive(Debug, Default)]
pub struct IoQueue {
    head: Option<NonNull<bay_io>>,
    tail: Option<NonNull<bay_io>>,
    /// The channel of all I/Os in the queue.
    home: Option<NonNull<Home>>,
    owns: PhantomData<BdevIo>,
}

impl IoQueue {
    /// An empty queue.
    #[must_use]
    pub const fn new() -> Self {
        Self { head: None, tail: None, home: None, owns: PhantomData }
    }

    /// Whether the queue is empty.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// Appends an I/O.
    ///
    /// # Panics
    /// When the queue contains an I/O of another channel.
    pub fn push(&mut self, io: BdevIo) {
        let home = io.home();
        let others = self.home.replace(home).filter(|_| self.head.is_some());
        assert!(others.is_none_or(|other| other == home), "a queue is for I/O of one channel");
        let io = io.into_raw();
        // SAFETY: the queue owns the request, and its link is for the module's use while in flight.
        unsafe { (*io.as_ptr()).link = std::ptr::null_mut() };
        match self.tail.replace(io) {
            // SAFETY: as above, for the last request of the queue.
            Some(tail) => unsafe { (*tail.as_ptr()).link = io.as_ptr().cast() },
            None => self.head = Some(io),
        }
    }

    /// Removes and returns the first I/O.
    pub fn pop(&mut self) -> Option<BdevIo> {
        let io = self.head?;
        // SAFETY: the queue owns its requests.
        self.head = NonNull::new(unsafe { (*io.as_ptr()).link }.cast());
        if self.head.is_none() {
            self.tail = None;
        }
        let home = self.home?;
        // SAFETY: the request was just removed from the queue that owned it; all its requests are of that channel.
        Some(unsafe { BdevIo::new(io, home) })
    }

    /// Removes and returns the I/O with this id, for abort. Searches the whole queue.
    pub fn remove(&mut self, id: IoId) -> Option<BdevIo> {
        let mut found = None;
        let mut rest = Self::new();
        while let Some(io) = self.pop() {
            if io.id() == id && found.is_none() {
                found = Some(io);
            } else {
                rest.push(io);
            }
        }
        *self = rest;
        found
    }
}

impl Drop for IoQueue {
    fn drop(&mut self) {
        while let Some(io) = self.pop() {
            io.complete(Status::ABORTED);
        }
    }
}
