//! Rebuilds: copy the data of the array to a new member, window by window.
//!
//! Clients' writes go to the new member from the start. I/O to a window waits while the window is copied, so no
//! write falls between the read and the write of the copy.

use crate::array::{self, Array};
use crate::{arrays, copy, grow, intent, members};
use drivebay_sdk::App;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::notify::Notify;
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::{Value, json};
use drivebay_spec_raid::{Away, Intent, MemberState, Regions};
use std::cell::Cell;
use std::rc::Rc;

/// A running rebuild.
#[derive(Debug)]
pub(crate) struct Rebuild {
    /// The member that gets the data.
    pub(crate) serial: u64,
    target: String,
    lacks: Lacks,
    /// Blocks that the rebuild has copied.
    copied: Cell<u64>,
    /// The rebuild has done all blocks of the array below this one.
    position: Cell<u64>,
    is_stopping: Cell<bool>,
    has_ended: Cell<bool>,
    changed: Notify,
}

/// What a member lacks: `regions`, and everything from the block `current_below` on.
#[derive(Debug)]
pub(crate) struct Lacks {
    pub(crate) num_blocks: u64,
    pub(crate) current_below: u64,
    pub(crate) regions: Regions,
    pub(crate) region_shift: u8,
}

impl Lacks {
    /// The next blocks that the member lacks, from `lba` on.
    fn next(&self, lba: u64) -> Option<Range> {
        let below = self.current_below.min(self.num_blocks);
        let blocks = |first: u64, end: u64| (first < end).then(|| Range::new(first, end - first));
        let region = self.regions.iter().find(|region| (region + 1) << self.region_shift > lba);
        region
            .and_then(|region| {
                let (first, end) = (region << self.region_shift, (region + 1) << self.region_shift);
                blocks(first.max(lba), end.min(below))
            })
            .or_else(|| blocks(below.max(lba), self.num_blocks))
    }
}

impl Rebuild {
    pub(crate) fn new(serial: u64, target: &str, lacks: Lacks) -> Self {
        Self {
            serial,
            target: target.to_owned(),
            lacks,
            copied: Cell::new(0),
            position: Cell::new(0),
            is_stopping: Cell::new(false),
            has_ended: Cell::new(false),
            changed: Notify::new(),
        }
    }

    pub(crate) fn ask_to_stop(&self) {
        self.is_stopping.set(true);
        self.changed.notify();
    }

    /// Asks the rebuild to stop, and waits until it has stopped.
    pub(crate) async fn stop(&self) {
        self.ask_to_stop();
        self.changed.until(|| self.has_ended.get()).await;
    }

    pub(crate) fn show(&self) -> Value {
        let blocks = self.position.get();
        let percent = blocks.saturating_mul(100) / self.lacks.num_blocks.max(1);
        show(&self.target, blocks, percent)
    }
}

/// The fields that the reference shows for a process.
pub(crate) fn show(target: &str, blocks: u64, percent: u64) -> Value {
    json!({
        "type": "rebuild",
        "target": target,
        "progress": {"blocks": blocks, "percent": percent},
    })
}

/// Copies all data to the member, then lets it serve reads. `[app thread]`
pub(crate) async fn run(app: &App, array: &Rc<Array>, rebuild: &Rc<Rebuild>) {
    let copied = copy_all(app, array, rebuild).await;
    // `Array::take_off` waits for this and holds the lock, for which `finish` waits.
    rebuild.has_ended.set(true);
    rebuild.changed.notify();
    let done = match copied {
        Ok(()) if array.is_ending.get() => Ok(()),
        Ok(()) => finish(array, rebuild).await,
        Err(error) => Err(error),
    };
    // If the array ends, this rebuild has recorded no end, and the next start rebuilds the member.
    let is_ending = array.is_ending.get();
    let is_this = array.rebuild.borrow().as_ref().is_some_and(|other| Rc::ptr_eq(other, rebuild));
    if is_this {
        array.rebuild.replace(None);
    }
    match done {
        _ if is_ending => {}
        Ok(()) => {
            grow::soon(app, array);
            members::take_back_soon(app, array);
        }
        Err(error) => {
            warn!("array {}: bdev {} is not rebuilt: {error}", array.name, rebuild.target);
            if let Err(error) =
                members::retire(app, array, rebuild.serial, MemberState::Failed).await
            {
                error!("array {}: {error}", array.name);
            }
            // The member may have returned already.
            members::take_back_soon(app, array);
        }
    }
}

async fn copy_all(app: &App, array: &Rc<Array>, rebuild: &Rebuild) -> Result<()> {
    let block_size = array.members().first().map_or(512, |(_, member)| member.info.block_size());
    let window = (u64::from(arrays::options().window_kb) * 1024 / u64::from(block_size)).max(1);
    // Windows are whole rows of a level with parity.
    let row =
        array.shared.borrow().as_ref().map_or(0, |shared| shared.layout().row_blocks()).max(1);
    let window = window.next_multiple_of(row);
    let mut spare = None;
    let mut pace = copy::Pace::new();
    let mut windows = 0_u64;
    while let Some(lacks) = rebuild.lacks.next(rebuild.position.get()) {
        let blocks = Range::new(lacks.lba, window.min(lacks.nblocks));
        let stop = rebuild.changed.until(|| rebuild.is_stopping.get());
        if let task::Either::Left(()) = task::select(stop, pace.wait_for(array, blocks)).await {
            return Err(was_stopped());
        }
        let copied = copy::with_held(app, array, blocks, async || {
            if rebuild.is_stopping.get() {
                return Err(was_stopped());
            }
            copy::to_member(array, rebuild.serial, blocks, &mut spare).await
        });
        copied.await?;
        rebuild.copied.set(rebuild.copied.get() + blocks.nblocks);
        rebuild.position.set(blocks.lba + blocks.nblocks);
        windows += 1;
        if windows.is_multiple_of(WINDOWS_A_RECORD) {
            note_position(array, rebuild).await?;
        }
        task::yield_now().await;
    }
    rebuild.position.set(rebuild.lacks.num_blocks);
    Ok(())
}

fn was_stopped() -> Error {
    Error::new(errno::ECANCELED, "the rebuild was stopped")
}

/// Windows between two records of the position.
const WINDOWS_A_RECORD: u64 = 64;

/// Records how far the member is current, so that the rebuild continues there after a restart.
async fn note_position(array: &Array, rebuild: &Rebuild) -> Result<()> {
    let position = rebuild.position.get();
    if position <= rebuild.lacks.current_below || array.intent.borrow().is_none() {
        return Ok(());
    }
    let members = array.members();
    let target = members.iter().find(|(_, member)| member.serial == rebuild.serial);
    let Some((slot, member)) = target else { return Ok(()) };
    member.flush().await?;
    let note = |intent: &mut Intent| {
        if let Some(away) = intent.away(*slot).copied() {
            intent.set_away(Away { current_below: position, ..away });
        }
    };
    let (failed, _guard) = intent::update(array, &members, note).await;
    if failed.contains(slot) {
        return Err(Error::new(errno::EIO, "the write-intent record cannot be written to it"));
    }
    Ok(())
}

/// Flushes the copied member, records it as configured, then lets it serve reads.
async fn finish(array: &Rc<Array>, rebuild: &Rebuild) -> Result<()> {
    let _guard = array.lock.lock("end of rebuild").await;
    let gone = || Error::new(errno::ENODEV, "the member is gone");
    let number = array.slot_of(rebuild.serial).ok_or_else(gone)?;
    let (_, member) =
        array.members().into_iter().find(|(slot, _)| *slot == number).ok_or_else(gone)?;
    let shared = array.shared.borrow().clone().ok_or_else(gone)?;
    member.flush().await?;
    let update = array.superblock.borrow().as_ref().map(|known| {
        let mut update = array::next(known);
        for entry in update.members.iter_mut().filter(|entry| entry.slot == number) {
            entry.state = MemberState::Configured;
        }
        update
    });
    if let Some(update) = update {
        let note = |intent: &mut Intent| intent.away.retain(|away| away.slot != number);
        members::write_all(array, update, note).await?;
    }
    let read = |views: &mut crate::shared::Views| {
        if let Some(Some(view)) = views.members.get_mut(usize::from(number)) {
            view.is_readable = true;
        }
    };
    shared.switch(read).await?;
    if let Some(slot) = array.slots.borrow_mut().get_mut(usize::from(number)) {
        slot.is_target = false;
    }
    let bytes = rebuild.copied.get() * u64::from(member.info.block_size());
    array.last_rebuild.replace(Some((rebuild.target.clone(), bytes)));
    info!("array {}: bdev {} is rebuilt; copied {bytes} bytes", array.name, rebuild.target);
    Ok(())
}
