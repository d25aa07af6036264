//! How an array goes online: first the superblock, then the write-intent record, then the bus.

use crate::array::{self, Array, Slot, State};
use crate::marks::Marks;
use crate::member::Member;
use crate::profile::Profile;
use crate::redundant::Redundant;
use crate::rows::Rows;
use crate::shared::{Shared, Views};
use crate::striped::Striped;
use crate::superblock::{self, Slots};
use crate::{grow, intent, members, row_log};
use drivebay_sdk::App;
use drivebay_sdk::bdev;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::Value;
use drivebay_spec_raid::{self as spec, Layout, MemberState, Superblock};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A start goes on without a member that has completed no I/O for this time, because other bdevs wait to be examined.
const HANG_LIMIT: Duration = Duration::from_secs(15);
/// Time from a start that failed on its members to the next attempt.
const RETRY_DELAY: Duration = Duration::from_secs(15);

impl Array {
    /// Puts the array on the bus if it waits for no more members. The caller holds `lock`. `[app thread]`
    ///
    /// # Errors
    /// Why the array cannot start. It keeps its state, and a new array removes its superblocks from the members.
    pub(crate) async fn start_if_complete(self: &Rc<Self>, app: &App) -> Result<()> {
        let members = self.members();
        let is_complete = members.len() == self.num_operational();
        if self.state.get() != State::Configuring || !is_complete || self.is_ending.get() {
            return Ok(());
        }
        let Some((_, first)) = members.first() else { return Ok(()) };
        let layout = self.layout(first)?;
        let is_there = |number: u8| members.iter().any(|(slot, _)| *slot == number);
        if !layout.survives(|number| !is_there(number)) {
            let message = format!(
                "array {} cannot run without {} of its members",
                self.name,
                layout.members() as usize - members.len()
            );
            return Err(Error::new(errno::EINVAL, message));
        }
        let start = self.start(app, members.clone(), layout);
        let started = match task::select(start, remove_hung(&members)).await {
            task::Either::Left(started) | task::Either::Right(started) => started,
        };
        if let Err(error) = &started {
            // The members stay and may answer later.
            members.iter().for_each(|(_, member)| member.set_leaving(false));
            if error.errno() == errno::EIO && self.superblock.borrow().is_some() {
                retry_later(app, self);
            }
        }
        started
    }

    /// Starts the array with these members.
    async fn start(
        self: &Rc<Self>,
        app: &App,
        mut members: Slots,
        mut layout: Layout,
    ) -> Result<()> {
        let Some((_, first)) = members.first().cloned() else { return Ok(()) };
        let found = self.superblock.borrow().as_ref().map(|found| found.sequence);
        let mut past =
            intent::Past { found, rows_agree: self.level.has_log(), unsynced_from: None };
        if found.is_none() && self.level.has_log() {
            past.unsynced_from = Some(0);
            for (_, member) in &members {
                row_log::clear(self, member).await?;
            }
        }
        if let Some(mut superblock) = self.superblock_to_start(&first, &layout)? {
            if found.is_some()
                && let Some(larger) = grow::larger(self)?
            {
                info!("array {} grows to {} blocks", self.name, larger.num_blocks());
                past.unsynced_from = self.level.has_log().then(|| layout.num_blocks());
                grow::set_superblock_size(&mut superblock, &larger);
                layout = larger;
            }
            loop {
                superblock = self.write_first(&mut members, &layout, superblock).await?;
                // The log of a new array is empty.
                if found.is_none() {
                    break;
                }
                let Some(replay) = row_log::replay(self, &members, &layout).await else { break };
                past.rows_agree = replay.was_readable;
                if replay.failed.is_empty() {
                    break;
                }
                self.go_without(&mut members, &layout, &mut superblock, &replay.failed)?;
            }
            // If the start fails before this, all members keep their slots and wait for the next attempt.
            let is_there = |number: u8| members.iter().any(|(slot, _)| *slot == number);
            for (number, _) in self.members().iter().filter(|(number, _)| !is_there(*number)) {
                members::empty(self, *number, false);
            }
            self.superblock.replace(Some(superblock));
            grow::set_size(self, &layout);
        }
        let (marks, failed) = intent::start(self, &members, &layout, past).await.unzip();
        let rows = self.log_area(&first).map(|log| {
            let sequence = self.superblock.borrow().as_ref().map_or(0, |known| known.sequence);
            Rows::new(log, sequence)
        });
        if let Err(error) = self.register(app, layout, &members, marks, rows) {
            if found.is_none()
                && let Some(superblock) = self.superblock.take()
            {
                superblock::clear(&members, &superblock).await;
                intent::erase(self).await;
            }
            return Err(error);
        }
        self.state.set(State::Online);
        info!("array {} is online with {} members", self.name, members.len());
        if let (Some(shared), Some(failed)) = (&*self.shared.borrow(), failed) {
            intent::report_failures(shared, &members, &failed);
        }
        intent::look_after(app, self);
        Ok(())
    }

    /// Writes the first superblock of a start to members that can be written. Returns the superblock that they have.
    async fn write_first(
        &self,
        members: &mut Slots,
        layout: &Layout,
        mut superblock: Superblock,
    ) -> Result<Superblock> {
        loop {
            let failed = superblock::write(members, &superblock).await;
            if failed.is_empty() {
                return Ok(superblock);
            }
            let goes_on = self.go_without(members, layout, &mut superblock, &failed);
            if goes_on.is_err() && self.superblock.borrow().is_none() {
                // Creation has failed. Clear the superblocks, so that no bdev stays a member.
                superblock::clear(members, &superblock).await;
            }
            goes_on?;
        }
    }

    /// Removes members from a start, and changes the superblock: they failed. They keep their slots until the array has a superblock
    /// that all others have.
    ///
    /// # Errors
    /// `EIO` for a new array, and when the array needs a member.
    fn go_without(
        &self,
        members: &mut Slots,
        layout: &Layout,
        superblock: &mut Superblock,
        failed: &[u8],
    ) -> Result<()> {
        let is_there = |number: u8| {
            members.iter().any(|(slot, _)| *slot == number) && !failed.contains(&number)
        };
        let mut known = self.superblock.borrow_mut();
        if known.is_none() || !layout.survives(|number| !is_there(number)) {
            if let Some(known) = &mut *known {
                // Some members may have this superblock. The next attempt writes a newer one.
                known.sequence = superblock.sequence;
            }
            let message = format!("array {}: slots {failed:?} cannot be written", self.name);
            return Err(Error::new(errno::EIO, message));
        }
        warn!("array {} starts without the members of slots {failed:?}", self.name);
        *superblock = array::next(superblock);
        for entry in superblock.members.iter_mut().filter(|entry| failed.contains(&entry.slot)) {
            entry.state = MemberState::Failed;
        }
        members.retain(|(slot, _)| !failed.contains(slot));
        Ok(())
    }

    /// The superblock to write before the array starts. `None` for an array without superblocks.
    fn superblock_to_start(&self, member: &Member, layout: &Layout) -> Result<Option<Superblock>> {
        if !self.has_superblock {
            return Ok(None);
        }
        if let Some(superblock) = &*self.superblock.borrow() {
            if superblock.num_blocks != layout.num_blocks() {
                let message = format!(
                    "array {}: the superblock says {} blocks, but the members have room for {}",
                    self.name,
                    superblock.num_blocks,
                    layout.num_blocks()
                );
                return Err(Error::new(errno::EINVAL, message));
            }
            return Ok(Some(array::next(superblock)));
        }
        let slots = self.slots.borrow();
        let entry = |(slot, number): (&Slot, u8)| spec::Member {
            uuid: slot.uuid,
            data_offset: slot.data_offset,
            data_size: slot.data_size,
            state: MemberState::Configured,
            flags: 0,
            slot: number,
        };
        Ok(Some(Superblock {
            flags: 0,
            uuid: self.uuid,
            name: self.name.clone(),
            num_blocks: layout.num_blocks(),
            block_size: member.data_block_size(),
            level: self.level,
            strip_blocks: u32::try_from(layout.strip_blocks())
                .ok()
                .filter(|_| self.level.has_strips())
                .unwrap_or(0),
            state: 0,
            sequence: 1,
            num_members: layout.members(),
            members: slots.iter().zip(0..).map(entry).collect(),
        }))
    }

    fn register(
        &self,
        app: &App,
        layout: Layout,
        members: &Slots,
        marks: Option<Marks>,
        rows: Option<Rows>,
    ) -> Result<()> {
        let opened: Vec<Rc<Member>> = members.iter().map(|(_, member)| Rc::clone(member)).collect();
        let profile = Profile::new(&self.name, self.uuid, &layout, &opened)?;
        let slots = self.slots.borrow();
        let offset = |slot: u8| slots.get(usize::from(slot)).map_or(0, |slot| slot.data_offset);
        // `save` and the superblocks create the array again, so the bus saves no method.
        if self.level.may_lose(layout.members()) == 0 {
            let members =
                members.iter().map(|(slot, member)| (Arc::clone(&member.desc), offset(*slot)));
            let bdev = Striped { profile: profile.clone(), layout, members: members.collect() };
            bdev::register(app, bdev, "", Value::Null)?;
        } else {
            let mut views = vec![None; slots.len()];
            for (slot, member) in members {
                if let Some(view) = views.get_mut(usize::from(*slot)) {
                    *view = Some(array::view_of(member, offset(*slot), true));
                }
            }
            let views = Views { layout: Arc::new(layout), members: views };
            let shared = Arc::new(Shared::new(self.uuid, views, marks, rows));
            let bdev = Redundant { profile: profile.clone(), shared: Arc::clone(&shared) };
            bdev::register(app, bdev, "", Value::Null)?;
            self.shared.replace(Some(shared));
        }
        self.profile.replace(Some(profile));
        Ok(())
    }
}

/// Tries again, in a task, to start an array that needs a member that could not be written.
fn retry_later(app: &App, array: &Rc<Array>) {
    if array.is_retrying.replace(true) {
        return;
    }
    let retried = Rc::clone(array);
    let retry = async move |app: &App| {
        task::sleep(RETRY_DELAY).await;
        retried.is_retrying.set(false);
        let guard = retried.lock.lock("start again").await;
        if let Err(error) = retried.start_if_complete(app).await {
            warn!("array {} does not start: {error}", retried.name);
        }
        drop(guard);
        members::take_back(app, &retried).await;
    };
    match task::spawn_app(app, "raid start", retry) {
        Ok(task) => task.detach(),
        Err(error) => {
            array.is_retrying.set(false);
            warn!("array {} starts only when a member returns: {error}", array.name);
        }
    }
}

/// Fails the I/O of members that hang, so that the start goes on without them. Never returns.
async fn remove_hung(members: &Slots) -> Result<()> {
    let mut seen = vec![None; members.len()];
    loop {
        task::sleep(HANG_LIMIT).await;
        for ((_, member), seen) in members.iter().zip(&mut seen) {
            let now = member.waits_since();
            if now.is_some() && now == *seen {
                warn!("bdev {} hangs, so its array starts without it if it can", member.name());
                member.set_leaving(true);
            }
            *seen = now;
        }
    }
}
