//! The membership of a redundant array, as its channels see it.
//!
//! The app thread changes it with [`Shared::switch`], which ends when every channel works with the new members and
//! has no I/O left that was begun with the old ones. A channel that is made meanwhile begins with the new ones.

use crate::lane::Lane;
use drivebay_sdk::bdev::Desc;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::{Resident, task};
use drivebay_spec_raid::Layout;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A member as channels need it.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) serial: u64,
    pub(crate) desc: Arc<Desc>,
    /// First block of the array's data.
    pub(crate) offset: u64,
    /// Whether all of its data is current. A member that is being rebuilt is written, and not read.
    pub(crate) is_readable: bool,
}

/// The members by slot.
pub(crate) type Views = Vec<Option<View>>;

/// What the app thread and the channels of an array have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) uuid: [u8; 16],
    pub(crate) layout: Layout,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    views: Views,
    lanes: Vec<Resident<Lane>>,
}

impl Shared {
    pub(crate) fn new(uuid: [u8; 16], layout: Layout, views: Views) -> Self {
        Self { uuid, layout, table: Mutex::new(Table { views, lanes: Vec::new() }) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a channel's state with the members there are now, and tells it of every change from here on.
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

    /// The channel ends. `[reactor]`
    pub(crate) fn leave(&self, lane: &Lane) {
        let is_it = |other: &Resident<Lane>| {
            other.here().is_some_and(|other| std::ptr::eq(&raw const *other, lane))
        };
        self.table().lanes.retain(|other| !is_it(other));
    }

    /// Every channel there is.
    pub(crate) fn lanes(&self) -> Vec<Resident<Lane>> {
        self.table().lanes.clone()
    }

    /// Changes the members; one change at a time. `[app thread]`
    ///
    /// # Errors
    /// Why a channel could not open one of its own to a new member: the change has to be taken back then.
    pub(crate) async fn switch(&self, change: impl FnOnce(&mut Views)) -> Result<()> {
        let (views, mut lanes) = {
            let mut table = self.table();
            change(&mut table.views);
            (table.views.clone(), table.lanes.clone())
        };
        let mut failure = None;
        while !lanes.is_empty() {
            let calls = lanes.iter().map(|lane| {
                let views = views.clone();
                async move { lane.call(async move |lane| lane.adopt(views).await)?.await }
            });
            let ends = task::join_all(calls).await;
            let mut again = Vec::new();
            for (lane, end) in lanes.into_iter().zip(ends) {
                match end {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => failure = Some(error),
                    // Its thread runs too many tasks, or the channel has ended.
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
        failure.map_or(Ok(()), Err)
    }
}
