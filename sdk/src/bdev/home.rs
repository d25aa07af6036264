//! What an I/O knows of the channel that it was submitted to, whatever kind of bdev that is of, and
//! the memory that the bus keeps beside each I/O of that channel.
#![expect(unsafe_code, reason = "reads and writes the bus's memory of an I/O")]

use super::io::{BdevIo, IoResult};
use super::module::Bdev;
use crate::host::host;
use drivebay_plugin_api::bay_io;
use std::any::TypeId;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// What every channel of this library begins with.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Home {
    /// Gives the module a parent whose children have ended; `None`: it ends as they did.
    pub(super) join: Option<unsafe fn(NonNull<Home>, BdevIo, IoResult)>,
    /// Bytes for the author's state with each I/O.
    state_len: usize,
}

impl Home {
    pub(super) const fn of<B: Bdev>(join: unsafe fn(NonNull<Self>, BdevIo, IoResult)) -> Self {
        Self { join: if B::JOINS { Some(join) } else { None }, state_len: B::IO_STATE_LEN }
    }
}

/// The bus's name of a channel, for its module. Good on the channel's thread, as long as it lives.
#[derive(Clone, Copy, Debug)]
pub struct ChannelHandle {
    handle: u64,
    stays_here: PhantomData<*mut ()>,
}

impl ChannelHandle {
    pub(super) const fn new(handle: u64) -> Self {
        Self { handle, stays_here: PhantomData }
    }

    /// A resource came free: the bus submits again what waits because of [`Status::NO_RESOURCE`].
    /// `[thread of the channel]`
    ///
    /// [`Status::NO_RESOURCE`]: crate::Status::NO_RESOURCE
    pub fn kick(self) {
        let host = host();
        // SAFETY: a handle that is none of this thread's is ignored.
        unsafe { (host.bdev.kick)(host.raw, self.handle) };
    }
}

/// The SDK's part of `drv_ctx`; the author's state lies behind it.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Context {
    /// Set by `fan_out`.
    home: Option<NonNull<Home>>,
    /// The type of the state; `None` = there is none.
    kind: Option<TypeId>,
    /// The number of the child that failed first; `None` = none did.
    failed: Option<u8>,
}

/// Bytes of `drv_ctx` that a kind of bdev needs.
pub(super) const fn drv_ctx_len<B: Bdev>() -> usize {
    if B::JOINS || B::IO_STATE_LEN > 0 { size_of::<Context>() + B::IO_STATE_LEN } else { 0 }
}

/// The context of an I/O of a bdev that asked for one.
///
/// # Safety
/// `io` is a request that the module has, of a bdev whose `drv_ctx_len` is not 0.
unsafe fn context(io: NonNull<bay_io>) -> *mut Context {
    // SAFETY: the caller's promise.
    unsafe { (*io.as_ptr()).drv_ctx.cast() }
}

/// Forgets what an earlier I/O left.
///
/// # Safety
/// As [`context`].
#[inline]
pub(super) unsafe fn begin(io: NonNull<bay_io>) {
    // SAFETY: the caller's promise.
    let context = unsafe { context(io) };
    // SAFETY: the bus gives as much memory as the record asks for, aligned to 64 bytes.
    unsafe { context.write(Context { home: None, kind: None, failed: None }) };
}

/// Notes who is to have the I/O back.
///
/// # Safety
/// As [`context`], after [`begin`].
pub(super) unsafe fn set_home(io: NonNull<bay_io>, home: NonNull<Home>) {
    // SAFETY: the caller's promise.
    let context = unsafe { context(io) };
    // SAFETY: `begin` has written it.
    unsafe { (*context).home = Some(home) };
    // SAFETY: as above. Children of an earlier fan-out do not count.
    unsafe { (*context).failed = None };
}

/// Notes which child failed first.
///
/// # Safety
/// As [`context`], after [`begin`].
pub(super) unsafe fn set_failed(io: NonNull<bay_io>, number: u8) {
    // SAFETY: the caller's promise.
    let context = unsafe { context(io) };
    // SAFETY: `begin` has written it.
    unsafe { (*context).failed = Some(number) };
}

/// Who is to have the I/O back.
///
/// # Safety
/// As [`set_home`], which was called before.
pub(super) unsafe fn home_of(io: NonNull<bay_io>) -> Option<NonNull<Home>> {
    // SAFETY: the caller's promise.
    let context = unsafe { context(io) };
    // SAFETY: `begin` has written it.
    unsafe { (*context).home }
}

impl BdevIo {
    /// Keeps `state` with the I/O, in memory that the bus has for it. Replaces what was there.
    ///
    /// # Panics
    /// When the bdev's [`IO_STATE_LEN`](Bdev::IO_STATE_LEN) is less than the state's size.
    pub fn set_state<T: Copy + Send + 'static>(&mut self, state: T) {
        let (place, kind) = self.place_of_state::<T>();
        // SAFETY: inside the memory that the bus keeps for the I/O, and aligned.
        unsafe { place.write(state) };
        // SAFETY: the context lies in front of it.
        unsafe { (*kind).kind = Some(TypeId::of::<T>()) };
    }

    /// The state that was kept with the I/O, if it is of this type.
    ///
    /// # Panics
    /// As [`set_state`](Self::set_state).
    #[must_use]
    pub fn state<T: Copy + Send + 'static>(&self) -> Option<T> {
        let (place, kind) = self.place_of_state::<T>();
        // SAFETY: `begin` has written the context.
        let is_there = unsafe { (*kind).kind } == Some(TypeId::of::<T>());
        // SAFETY: a `T` was written there, and nothing since.
        is_there.then(|| unsafe { place.read() })
    }

    /// In [`Bdev::joined`], the number of the child that failed first
    /// ([`FanOut::send_as`](super::FanOut::send_as)).
    ///
    /// # Panics
    /// When the bdev neither joins nor keeps state.
    #[must_use]
    pub fn first_failed(&self) -> Option<u8> {
        // SAFETY: the channel outlives its I/O.
        let home = unsafe { self.home().as_ref() };
        assert!(home.join.is_some() || home.state_len > 0, "the bdev has no context");
        let context: *mut Context = self.raw().drv_ctx.cast();
        // SAFETY: `begin` has written the context.
        unsafe { (*context).failed }
    }

    fn place_of_state<T>(&self) -> (*mut T, *mut Context) {
        const {
            assert!(align_of::<T>() <= align_of::<Context>(), "the state's alignment is at most 16")
        };
        // SAFETY: the channel outlives its I/O.
        let len = unsafe { self.home().as_ref() }.state_len;
        assert!(
            len > 0 && size_of::<T>() <= len,
            "the bdev's IO_STATE_LEN is too small for the state"
        );
        let context: *mut Context = self.raw().drv_ctx.cast();
        (context.wrapping_add(1).cast::<c_void>().cast(), context)
    }
}
