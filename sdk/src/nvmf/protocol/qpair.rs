//! A qpair: a connection in a poll group.
#![expect(unsafe_code, reason = "the fabric's pointer identifies a connection, ours a qpair")]

use super::fabric::Ops;
use super::group::Group;
use super::request::Request;
use super::{Address, Target};
use crate::entry::{enter, enter_with};
use crate::runtime::group::Weight;
use drivebay_plugin_api::{bay_nvmf_addr, bay_nvmf_req};
use std::cell::{Cell, OnceCell};
use std::ffi::c_void;
use std::fmt;
use std::ptr::NonNull;
use std::rc::Rc;

/// A qpair. It stays on its poll group's thread.
///
/// # Invariants
/// The fabric's pointer is one reference count of the `Rc`, from `group_add` until the release. `conn` is valid as long.
pub struct Qpair<T: Target> {
    number: u64,
    fabric: u64,
    conn: *mut c_void,
    ops: Ops,
    group: Rc<Group<T>>,
    state: OnceCell<T::Qpair>,
    /// Number of requests that are not completed, plus calls of the fabric that are still running.
    outstanding: Cell<u32>,
    is_gone: Cell<bool>,
    is_released: Cell<bool>,
    /// Its part of the group's load; `None` for an admin queue.
    weight: Cell<Option<Weight>>,
}

impl<T: Target> fmt::Debug for Qpair<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Qpair");
        out.field("number", &self.number).field("outstanding", &self.outstanding);
        out.finish_non_exhaustive()
    }
}

impl<T: Target> Qpair<T> {
    /// Adds a connection to the fabric's part of a group.
    ///
    /// # Safety
    /// `share` and `conn` are the fabric's pointers; `conn` was not added to a group before. `[group's thread]`
    pub(super) unsafe fn add(
        group: &Rc<Group<T>>,
        fabric: u64,
        ops: Ops,
        share: *mut c_void,
        conn: *mut c_void,
        weight: Weight,
    ) {
        let qpair = Rc::new(Self {
            number: group.next_number(),
            fabric,
            conn,
            ops,
            group: Rc::clone(group),
            state: OnceCell::new(),
            outstanding: Cell::new(0),
            is_gone: Cell::new(false),
            is_released: Cell::new(false),
            weight: Cell::new(Some(weight)),
        });
        qpair.state.get_or_init(|| T::qpair(group.state()));
        let given = Rc::into_raw(Rc::clone(&qpair));
        // The fabric may lend a request during the call below, so the target must know the qpair before.
        T::joined(&qpair);
        // SAFETY: the caller's promise; `given` is the reference count for the fabric.
        let status = unsafe { (ops.group_add)(share, conn, given.cast_mut().cast()) };
        if status != 0 {
            tracing::warn!("a poll group did not accept a connection: errno {}", -status);
            qpair.is_gone.set(true);
            qpair.is_released.set(true);
            T::released(&qpair);
            // SAFETY: the fabric refused, so it does not use the count.
            drop(unsafe { Rc::from_raw(given) });
        }
    }

    /// The author's state.
    #[inline]
    pub fn state(&self) -> &T::Qpair {
        self.state.get_or_init(|| T::qpair(self.group.state()))
    }

    /// The poll group's state.
    #[inline]
    pub fn group(&self) -> &T::Group {
        self.group.state()
    }

    #[inline]
    pub(super) fn fabric_sends_zeroes(&self) -> bool {
        self.ops.sends_zeroes
    }

    /// The qpair's number in the poll group. It is never used again.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Id of the connection's fabric, as in [`Transport::id`](super::Transport::id).
    pub fn transport_id(&self) -> u64 {
        self.fabric
    }

    /// Whether the connection is closed.
    pub fn is_gone(&self) -> bool {
        self.is_gone.get()
    }

    /// The local address and the peer's address. Both are empty when the connection is closed.
    pub fn addresses(&self) -> (Address, Address) {
        // A text of zero bytes is empty.
        let empty = || bay_nvmf_addr {
            trtype: [0; 32],
            adrfam: [0; 32],
            traddr: [0; 256],
            trsvcid: [0; 32],
        };
        let (mut local, mut peer) = (empty(), empty());
        if !self.is_released.get() {
            // SAFETY: the connection is valid until the release; the results outlive the call.
            unsafe { (self.ops.conn_addr)(self.conn, &raw mut local, &raw mut peer) };
        }
        (Address::from_raw(&local), Address::from_raw(&peer))
    }

    /// Tells the fabric that the connection is now a queue with `entries` entries.
    pub fn connected(&self, qid: u16, entries: u16, has_flow_control: bool) {
        if qid == 0 {
            self.weight.set(None);
        }
        if let (Some(connected), false) = (self.ops.connected, self.is_released.get()) {
            // SAFETY: the connection is valid until the release.
            unsafe { connected(self.conn, qid, entries, has_flow_control.into()) };
        }
    }

    /// Closes the connection after the responses of completed requests are sent. [`Target::disconnected`] follows.
    pub fn close(&self) {
        if !self.is_gone.get() {
            // SAFETY: the connection is valid until the release.
            unsafe { (self.ops.close)(self.conn) };
        }
    }

    /// Passes a request to the target.
    ///
    /// # Safety
    /// `qpair` is the fabric's reference count, and the fabric lends `request` for it. `[group's thread]`
    #[inline]
    pub(super) unsafe fn exec(qpair: *const Self, request: NonNull<bay_nvmf_req>) {
        // SAFETY: the qpair is alive, because the fabric owns a count.
        let this = unsafe { &*qpair };
        // One for the request, one for this call: the release must wait for both.
        this.outstanding.set(this.outstanding.get() + 2);
        // SAFETY: the fabric has just lent the request, and it was just counted.
        let request = unsafe { Request::<T>::new(request, qpair) };
        enter_with(request, |request| T::exec(this, request));
        // SAFETY: this call was counted above; `this` is not used again.
        unsafe { Self::count_down(qpair) };
    }

    /// Handles the end of the connection.
    ///
    /// # Safety
    /// `qpair` is the fabric's reference count; this is the only such call for it. `[group's thread]`
    pub(super) unsafe fn disconnected(qpair: *const Self) {
        // SAFETY: the qpair is alive, because the fabric owns a count.
        let this = unsafe { &*qpair };
        this.outstanding.set(this.outstanding.get() + 1);
        this.is_gone.set(true);
        enter((), || T::disconnected(this));
        // SAFETY: this call was counted above; `this` is not used again.
        unsafe { Self::count_down(qpair) };
    }

    /// Returns a request to the fabric.
    ///
    /// # Safety
    /// The request belongs to this qpair and is counted, and no one else uses it any more.
    #[inline]
    pub(super) unsafe fn completed(qpair: *const Self, request: NonNull<bay_nvmf_req>) {
        // SAFETY: the qpair is alive, because it counts the request.
        let this = unsafe { &*qpair };
        // SAFETY: the fabric's function with its own connection and request.
        unsafe { (this.ops.complete)(this.conn, request.as_ptr()) };
        // SAFETY: the request was counted.
        unsafe { Self::count_down(qpair) };
    }

    /// # Safety
    /// The qpair is alive and has one count for this call; the caller does not use the qpair afterwards.
    #[inline]
    unsafe fn count_down(qpair: *const Self) {
        // SAFETY: the qpair is alive.
        let this = unsafe { &*qpair };
        let left = this.outstanding.get() - 1;
        this.outstanding.set(left);
        if left == 0 && this.is_gone.get() {
            // SAFETY: the connection is closed, and no request or call is left.
            unsafe { Self::release(qpair) };
        }
    }

    #[cold]
    unsafe fn release(qpair: *const Self) {
        // SAFETY: this function now owns the fabric's count, because the fabric makes no more calls for the qpair.
        let this = unsafe { Rc::from_raw(qpair) };
        if this.is_released.replace(true) {
            // An earlier call of this function has begun the release and owns the count.
            let _ = Rc::into_raw(this);
            return;
        }
        this.weight.set(None);
        enter((), || T::released(&this));
        // SAFETY: the fabric's function; this is its only call for the connection.
        unsafe { (this.ops.qpair_free)(this.conn) };
        enter((), move || drop(this));
    }
}
