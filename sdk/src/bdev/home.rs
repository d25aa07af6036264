//! How an I/O finds its channel, whatever the type of the bdev, and how the SDK uses the memory that the bus keeps with each I/O.
#![expect(unsafe_code, reason = "accesses the bus's memory of an I/O")]

use super::io::{BdevIo, IoResult};
use super::module::Bdev;
use crate::host::host;
use drivebay_plugin_api::bay_io;
use std::any::TypeId;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// The first field of every channel of this library.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Home {
    /// Returns a parent to the module when its children have completed. `None`: the parent completes with their result.
    pub(super) join: Option<unsafe fn(NonNull<Home>, BdevIo, IoResult)>,
    /// Size of the author's state with each I/O, in bytes.
    state_len: usize,
}

impl Home {
    pub(super) const fn of<B: Bdev>(join: unsafe fn(NonNull<Self>, BdevIo, IoResult)) -> Self {
        Self { join: if B::JOINS { Some(join) } else { None }, state_len: B::IO_STATE_LEN }
    }
}

/// The bus's handle of a channel, for the channel's module. Valid on the channel's thread, as long as the channel.
#[derive(Clone, Copy, Debug)]
pub struct ChannelHandle {
    handle: u64,
    stays_here: PhantomData<*mut ()>,
}

impl ChannelHandle {
    pub(super) const fn new(handle: u64) -> Self {
        Self { handle, stays_here: PhantomData }
    }

    /// A resource is free again: the bus resubmits the I/Os that completed with [`Status::NO_RESOURCE`].
    /// `[thread of the channel]`
    ///
    /// [`Status::NO_RESOURCE`]: crate::Status::NO_RESOURCE
    pub fn kick(self) {
        let host = host();
        // SAFETY: the host ignores a handle that does not belong to this thread.
        unsafe { (host.bdev.kick)(host.raw, self.handle) };
    }
}

/// The SDK's part of `drv_ctx`; the author's state follows it.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Context {
    /// The channel. `fan_out` sets it.
    home: Option<NonNull<Home>>,
    /// The type of the state; `None` = no state.
    kind: Option<TypeId>,
    /// The number of the child that failed first; `None` = no child failed.
    failed: Option<u8>,
}

/// How many bytes of `drv_ctx` a bdev of type `B` needs.
pub(super) const fn drv_ctx_len<B: Bdev>() -> usize {
    if B::JOINS || B::IO_STATE_LEN > 0 { size_of::<Context>() + B::IO_STATE_LEN } else { 0 }
}

/// The context of an I/O, for a bdev that has requested one.
///
/// # Safety
/// The module owns `io`, and the `drv_ctx_len` of the bdev is not 0.
unsafe fn context(io: NonNull<bay_io>) -> *mut Context {
    // SAFETY: the caller's promise.
    unsafe { (*io.as_ptr()).drv_ctx.cast() }
}

/// Clears the context of an earlier I/O.
///
/// # Safety
/// As [`context`].
#[inline]
pub(super) unsafe fn begin(io: NonNull<bay_io>) {
    // SAFETY: the caller's promise.
    let context = unsafe { context(io) };
    // SAFETY: the bus allocates as much memory as the registration requests, aligned to 64 bytes.
    unsafe { context.write(Context { home: None, kind: None, failed: None }) };
}

/// Records the channel that the I/O returns to.
///
/// # Safety
/// As [`context`], after [`begin`].
pub(super) unsafe fn set_home(io: NonNull<bay_io>, home: NonNull<Home>) {
    // SAFETY: the caller's promise.
    let context = unsafe { context(io) };
    // SAFETY: `begin` has written the context.
    unsafe { (*context).home = Some(home) };
    // SAFETY: as above. Failures of an earlier fan-out do not count.
    unsafe { (*context).failed = None };
}

/// Records which child failed first.
///
/// # Safety
/// As [`context`], after [`begin`].
pub(super) unsafe fn set_failed(io: NonNull<bay_io>, number: u8) {
    // SAFETY: the caller's promise.
    let context = unsafe { context(io) };
    // SAFETY: `begin` has written the context.
    unsafe { (*context).failed = Some(number) };
}

/// Returns the channel that the I/O returns to.
///
/// # Safety
/// As [`set_home`], which must have been called.
pub(super) unsafe fn home_of(io: NonNull<bay_io>) -> Option<NonNull<Home>> {
    // SAFETY: the caller's promise.
    let context = unsafe { context(io) };
    // SAFETY: `begin` has written the context.
    unsafe { (*context).home }
}

impl BdevIo {
    /// Stores `state` with the I/O, in memory of the bus. Replaces an earlier state.
    ///
    /// # Panics
    /// When the bdev's [`IO_STATE_LEN`](Bdev::IO_STATE_LEN) is less than the size of the state.
    pub fn set_state<T: Copy + Send + 'static>(&mut self, state: T) {
        let (place, kind) = self.place_of_state::<T>();
        // SAFETY: the place is inside the memory that the bus keeps for the I/O, and aligned.
        unsafe { place.write(state) };
        // SAFETY: the context is in front of the state.
        unsafe { (*kind).kind = Some(TypeId::of::<T>()) };
    }

    /// Returns the state stored with the I/O, if it has this type.
    ///
    /// # Panics
    /// As [`set_state`](Self::set_state).
    #[must_use]
    pub fn state<T: Copy + Send + 'static>(&self) -> Option<T> {
        let (place, kind) = self.place_of_state::<T>();
        // SAFETY: `begin` has written the context.
        let is_there = unsafe { (*kind).kind } == Some(TypeId::of::<T>());
        // SAFETY: a `T` was written there, and nothing has been written there since.
        is_there.then(|| unsafe { place.read() })
    }

    /// In [`Bdev::joined`], returns the number of the child that failed first
    /// ([`FanOut::send_as`](super::FanOut::send_as)).
    ///
    /// # Panics
    /// When the bdev neither has `joined` nor keeps state.
    #[must_use]
    pub fn first_failed(&self) -> Option<u8> {
        // SAFETY: the channel outlives its I/O.
        let home = unsafe { self.home().as_ref() };
        assert!(
            home.join.is_some() || home.state_len > 0,
            "the bdev has no context: set JOINS or IO_STATE_LEN"
        );
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
