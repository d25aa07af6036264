//! A poll group: one thread's part of the target.
#![expect(unsafe_code, reason = "the fabric identifies a transport's part by its pointer")]

use super::Target;
use super::fabric::{Ops, Ptr};
use super::qpair::Qpair;
use crate::error::{Error, Result, check, errno};
use crate::runtime::Resident;
use crate::runtime::group::Weight;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

/// A poll group and the author's state in it.
pub struct Group<T: Target> {
    state: T::Group,
    shares: RefCell<Vec<Share>>,
    next_number: Cell<u64>,
}

/// A handle to a poll group, for any thread.
pub type GroupRef<T> = Resident<Group<T>>;

/// A transport's part in a group.
#[derive(Clone, Copy)]
struct Share {
    fabric: u64,
    ops: Ops,
    group: Ptr,
}

impl<T: Target> fmt::Debug for Group<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Group");
        out.field("num_shares", &self.shares.borrow().len()).finish_non_exhaustive()
    }
}

impl<T: Target> Group<T> {
    pub(super) fn new(state: T::Group) -> Self {
        Self { state, shares: RefCell::default(), next_number: Cell::new(1) }
    }

    /// The author's state.
    #[inline]
    pub fn state(&self) -> &T::Group {
        &self.state
    }

    pub(super) fn next_number(&self) -> u64 {
        self.next_number.replace(self.next_number.get() + 1)
    }

    /// Creates a transport's part.
    ///
    /// # Safety
    /// `transport` is the fabric's pointer, valid until its parts are destroyed. `[group's thread]`
    pub(super) unsafe fn join(&self, fabric: u64, ops: Ops, transport: Ptr) -> Result<()> {
        let mut group = std::ptr::null_mut();
        // SAFETY: the caller's promise; the result outlives the call.
        let status = unsafe { (ops.group_create)(transport.get(), &raw mut group) };
        check(status, "poll group of the transport")?;
        self.shares.borrow_mut().push(Share { fabric, ops, group: Ptr::new(group) });
        Ok(())
    }

    /// Destroys a transport's part that has no connection left. `[group's thread]`
    pub(super) fn leave(&self, fabric: u64) {
        let mut shares = self.shares.borrow_mut();
        let place = shares.iter().position(|share| share.fabric == fabric);
        let share = place.map(|place| shares.swap_remove(place));
        drop(shares);
        if let Some(share) = share {
            // SAFETY: the fabric's own part; this is its only `group_destroy`.
            unsafe { (share.ops.group_destroy)(share.group.get()) };
        }
    }

    /// Adds a connection.
    ///
    /// # Safety
    /// `conn` is the fabric's pointer and was not added to a group before. `[group's thread]`
    pub(super) unsafe fn add(
        self: &Rc<Self>,
        fabric: u64,
        conn: Ptr,
        weight: Weight,
    ) -> Result<()> {
        let shares = self.shares.borrow();
        let share = shares.iter().find(|share| share.fabric == fabric).copied();
        drop(shares);
        let no_share = || Error::new(errno::ENODEV, "the transport is not part of the poll group");
        let share = share.ok_or_else(no_share)?;
        // SAFETY: the caller's promise.
        unsafe { Qpair::add(self, fabric, share.ops, share.group.get(), conn.get(), weight) };
        Ok(())
    }
}
