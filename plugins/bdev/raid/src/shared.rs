//! The channels' view of the members of a redundant array.
//!
//! The app thread changes the members with [`Shared::switch`], which returns when every channel uses the new ones. A channel
//! that opens meanwhile starts with the new members. [`Shared::drain`] waits for I/O that began with the old ones.

use crate::lane::Lane;
use crate::marks::Marks;
use crate::repair::Repairs;
use crate::rows::Rows;
use drivebay_sdk::bdev::Desc;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::{Resident, task};
use drivebay_spec_raid::Layout;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The properties of a member that channels need.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) serial: u64,
    pub(crate) desc: Arc<Desc>,
    /// First block of the array's data on the member.
    pub(crate) offset: u64,
    /// Whether all of its data is current. During its rebuild, a member gets writes, but no reads.
    pub(crate) is_readable: bool,
    /// Whether it has a write cache.
    pub(crate) is_cached: bool,
}

/// The members by slot, and the layout of the array's blocks on them.
#[derive(Clone, Debug)]
pub(crate) struct Views {
    pub(crate) layout: Arc<Layout>,
    pub(crate) members: Vec<Option<View>>,
}

impl Views {
    /// Changes to a layout that has every old block in its old place, with a slot for each of its members.
    pub(crate) fn fit(&mut self, layout: &Arc<Layout>) {
        self.layout = Arc::clone(layout);
        self.members.resize(layout.members().into(), None);
    }

    /// Changes the member of a slot.
    pub(crate) fn set(&mut self, slot: u8, view: Option<View>) {
        if let Some(place) = self.members.get_mut(usize::from(slot)) {
            *place = view;
        }
    }
}

/// State that the app thread and the channels of an array share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) uuid: [u8; 16],
    pub(crate) repairs: Repairs,
    /// The write-intent record, if the array has one.
    pub(crate) marks: Option<Marks>,
    /// The row log, if the level has one.
    pub(crate) rows: Option<Rows>,
    /// Whether the array leaves the bus. Then no I/O waits for the record of a failure.
    is_offline: AtomicBool,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    views: Views,
    lanes: Vec<Resident<Lane>>,
}

impl Shared {
    pub(crate) fn new(
        uuid: [u8; 16],
        views: Views,
        marks: Option<Marks>,
        rows: Option<Rows>,
    ) -> Self {
        Self {
            uuid,
            repairs: Repairs::default(),
            marks,
            rows,
            is_offline: AtomicBool::new(false),
            table: Mutex::new(Table { views, lanes: Vec::new() }),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current layout. `[any thread]`
    pub(crate) fn layout(&self) -> Arc<Layout> {
        Arc::clone(&self.table().views.layout)
    }

    /// Makes the state of a new channel from the current members. [`switch`](Self::switch) brings it later changes.
    /// `[reactor]`
    pub(crate) fn enter(
        &self,
        make: impl FnOnce(&Views) -> Result<Resident<Lane>>,
    ) -> Result<Resident<Lane>> {
        let mut table = self.table();
        let lane = make(&table.views)?;
        table.lanes.push(lane.clone());
        Ok(lane)
    }

    /// Removes a channel that closes. `[reactor]`
    pub(crate) fn leave(&self, lane: &Lane) {
        let is_it = |other: &Resident<Lane>| {
            other.here().is_some_and(|other| std::ptr::eq(&raw const *other, lane))
        };
        self.table().lanes.retain(|other| !is_it(other));
    }

    /// All channels that are open.
    pub(crate) fn lanes(&self) -> Vec<Resident<Lane>> {
        self.table().lanes.clone()
    }

    /// Fails the I/O that waits in the channels. From now on, no I/O waits. `[app thread]`
    pub(crate) fn go_offline(&self) {
        self.is_offline.store(true, Ordering::Release);
        for lane in self.lanes() {
            lane.send(|lane: &Rc<Lane>| lane.fail_waiting());
        }
    }

    /// Fails the I/O that waits for the record of a failure, because no task can write the record. `[any thread]`
    pub(crate) fn fail_held(&self) {
        for lane in self.lanes() {
            lane.send(|lane: &Rc<Lane>| lane.fail_held());
        }
    }

    /// Whether whole rows may be computed from their other strips. `[any thread]`
    #[inline]
    pub(crate) fn may_compute(&self, blocks: Range) -> bool {
        self.marks.as_ref().is_none_or(|marks| marks.may_compute(blocks))
    }

    /// Sends the I/O that waits for marks, or fails it if `is_good` is false. `[any thread]`
    pub(crate) fn resume_unrecorded(&self, is_good: bool) {
        for lane in self.lanes() {
            lane.send(move |lane: &Rc<Lane>| lane.resume_unrecorded(is_good));
        }
    }

    /// Whether [`go_offline`](Self::go_offline) was called.
    pub(crate) fn is_offline(&self) -> bool {
        self.is_offline.load(Ordering::Acquire)
    }

    /// Changes the members on all channels. I/O that began with the old ones may go on; [`drain`](Self::drain) waits for
    /// it. The caller makes one change at a time. `[app thread]`
    ///
    /// # Errors
    /// Why a thread cannot open a channel of a new member. The caller must undo the change then.
    pub(crate) async fn switch(&self, change: impl FnOnce(&mut Views)) -> Result<()> {
        let (views, lanes) = {
            let mut table = self.table();
            change(&mut table.views);
            (table.views.clone(), table.lanes.clone())
        };
        let adopt = async move |lane: Rc<Lane>| lane.adopt(&views);
        self.on_each(lanes, adopt).await.into_iter().collect()
    }

    /// Waits for I/O that began before the last change of the members, but at most 5 seconds, because a member may hang.
    /// Returns whether the I/O has ended. `[app thread]`
    pub(crate) async fn drain(&self) -> bool {
        let drain = async |lane: Rc<Lane>| lane.drain().await;
        self.on_each(self.lanes(), drain).await.into_iter().all(|is_quiet| is_quiet)
    }

    /// Runs `call` for each of these channels on its thread. A channel that has closed has no result.
    async fn on_each<R: Send + 'static>(
        &self,
        mut lanes: Vec<Resident<Lane>>,
        call: impl AsyncFn(Rc<Lane>) -> R + Clone + Send + 'static,
    ) -> Vec<R> {
        let mut results = Vec::new();
        while !lanes.is_empty() {
            let calls = lanes.iter().map(|lane| {
                let call = call.clone();
                async move { lane.call(async move |lane| call(lane).await)?.await }
            });
            let ends = task::join_all(calls).await;
            let mut again = Vec::new();
            for (lane, end) in lanes.into_iter().zip(ends) {
                match end {
                    Ok(result) => results.push(result),
                    // The thread runs too many tasks, or the channel has closed.
                    Err(_) => again.push(lane),
                }
            }
            let known = self.lanes();
            again.retain(|lane| known.iter().any(|known| known.is(lane)));
            if !again.is_empty() {
                task::sleep(Duration::from_millis(1)).await;
            }
            lanes = again;
        }
        results
    }
}
