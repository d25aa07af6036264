//! A qpair: a connection that a poll group serves.
#![expect(unsafe_code, reason = "a connection is known by the fabric's pointer, a qpair by ours")]

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
/// The fabric holds one count of the `Rc` as its pointer, from `group_add` until the qpair is released; `conn` is valid as long.
pub struct Qpair<T: Target> {
    number: u64,
    fabric: u64,
    conn: *mut c_void,
    ops: Ops,
    group: Rc<Group<T>>,
    state: OnceCell<T::Qpair>,
    /// Requests that are not completed, and entries of the fabric that go on.
    outstanding: Cell<u32>,
    is_gone: Cell<bool>,
    is_released: Cell<bool>,
    /// Its part of the group's load; none of an admin queue.
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
    /// Gives a connection to the fabric's share of a group.
    ///
    /// # Safety
    /// `share` and `conn` are the fabric's, `conn` not given to a group before. `[group's thread]`
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
        // The fabric may lend a request from inside: the target must know the qpair by then.
        T::joined(&qpair);
        // SAFETY: the caller's promise; `given` is the fabric's count.
        let status = unsafe { (ops.group_add)(share, conn, given.cast_mut().cast()) };
        if status != 0 {
            tracing::warn!("a connection was not taken by its poll group: errno {}", -status);
            qpair.is_gone.set(true);
            qpair.is_released.set(true);
            T::released(&qpair);
            // SAFETY: refused, so the fabric does not keep the count.
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

    /// Its number in the poll group, never used twice.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The fabric it came by, as [`Transport::id`](super::Transport::id).
    pub fn transport_id(&self) -> u64 {
        self.fabric
    }

    /// Whether the connection is gone.
    pub fn is_gone(&self) -> bool {
        self.is_gone.get()
    }

    /// Where the host connected to, and where it is. Empty when the connection is gone.
    pub fn addresses(&self) -> (Address, Address) {
        // Texts of zeroes are empty texts.
        let empty = || bay_nvmf_addr {
            trtype: [0; 32],
            adrfam: [0; 32],
            traddr: [0; 256],
            trsvcid: [0; 32],
        };
        let (mut local, mut peer) = (empty(), empty());
        if !self.is_released.get() {
            // SAFETY: the connection is valid until the release; the results live through the call.
            unsafe { (self.ops.conn_addr)(self.conn, &raw mut local, &raw mut peer) };
        }
        (Address::from_raw(&local), Address::from_raw(&peer))
    }

    /// Tells the fabric that the connection is a queue now; `entries` is its size.
    pub fn connected(&self, qid: u16, entries: u16, has_flow_control: bool) {
        if qid == 0 {
            self.weight.set(None);
        }
        if let (Some(connected), false) = (self.ops.connected, self.is_released.get()) {
            // SAFETY: the connection is valid until the release.
            unsafe { connected(self.conn, qid, entries, has_flow_control.into()) };
        }
    }

    /// Ends the connection once the responses given back are sent; [`Target::disconnected`] follows.
    pub fn close(&self) {
        if !self.is_gone.get() {
            // SAFETY: the connection is valid until the release.
            unsafe { (self.ops.close)(self.conn) };
        }
    }

    /// A request came.
    ///
    /// # Safety
    /// `qpair` is the fabric's count, `request` lent for it. `[group's thread]`
    #[inline]
    pub(super) unsafe fn exec(qpair: *const Self, request: NonNull<bay_nvmf_req>) {
        // SAFETY: alive: the fabric holds a count.
        let this = unsafe { &*qpair };
        // One for the request, one for this entry: the release must wait for both.
        this.outstanding.set(this.outstanding.get() + 2);
        // SAFETY: lent just now, counted just now.
        let request = unsafe { Request::<T>::new(request, qpair) };
        enter_with(request, |request| T::exec(this, request));
        // SAFETY: counted above; `this` is not used any more.
        unsafe { Self::let_go(qpair) };
    }

    /// The connection is gone.
    ///
    /// # Safety
    /// `qpair` is the fabric's count, told gone once. `[group's thread]`
    pub(super) unsafe fn disconnected(qpair: *const Self) {
        // SAFETY: alive: the fabric holds a count.
        let this = unsafe { &*qpair };
        this.outstanding.set(this.outstanding.get() + 1);
        this.is_gone.set(true);
        enter((), || T::disconnected(this));
        // SAFETY: counted above; `this` is not used any more.
        unsafe { Self::let_go(qpair) };
    }

    /// Gives a request back to the fabric.
    ///
    /// # Safety
    /// The request is one of this qpair's, counted, and nobody else's any more.
    #[inline]
    pub(super) unsafe fn completed(qpair: *const Self, request: NonNull<bay_nvmf_req>) {
        // SAFETY: alive: it counts the request.
        let this = unsafe { &*qpair };
        // SAFETY: the fabric's function with its own connection and request.
        unsafe { (this.ops.complete)(this.conn, request.as_ptr()) };
        // SAFETY: the request was counted.
        unsafe { Self::let_go(qpair) };
    }

    /// # Safety
    /// The qpair is alive and counted once for this; the caller does not use it afterwards.
    #[inline]
    unsafe fn let_go(qpair: *const Self) {
        // SAFETY: alive.
        let this = unsafe { &*qpair };
        let left = this.outstanding.get() - 1;
        this.outstanding.set(left);
        if left == 0 && this.is_gone.get() {
            // SAFETY: gone, and nothing is left of it.
            unsafe { Self::release(qpair) };
        }
    }

    #[cold]
    unsafe fn release(qpair: *const Self) {
        // SAFETY: the count that the fabric held is ours now: it lends nothing more.
        let this = unsafe { Rc::from_raw(qpair) };
        if this.is_released.replace(true) {
            // Somebody else's release is under way, and the count is his.
            let _ = Rc::into_raw(this);
            return;
        }
        this.weight.set(None);
        enter((), || T::released(&this));
        // SAFETY: the fabric's function, called once for the connection.
        unsafe { (this.ops.qpair_free)(this.conn) };
        enter((), move || drop(this));
    }
}
