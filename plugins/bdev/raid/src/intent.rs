//! The write-intent record on the app thread: when the array writes it, and how it uses it.
//!
//! A write waits in its lane until the mark of its region is durable on the members. The array clears marks only while all
//! members are current, after a flush. So a member that returns lacks no more than the regions with a mark, and
//! after a crash copies differ in no other region.

use crate::array::{Array, Candidate, State};
use crate::marks::Marks;
use crate::member::Member;
use crate::shared::Shared;
use crate::superblock::{self, Slots};
use crate::{arrays, copy, members};
use drivebay_sdk::App;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::lock::Guard;
use drivebay_sdk::runtime::{OnApp, task};
use drivebay_spec_raid::{
    Away, DATA_OFFSET_MIN, INTENT_LEN, INTENT_OFFSETS, Intent, Layout, MemberState, Regions,
    Superblock, region_shift,
};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of the smallest region.
const REGION_LEN_MIN: u64 = 1 << 20;
/// How often the array clears the marks of regions that no client wrote meanwhile.
const CLEAR_EVERY: Duration = Duration::from_secs(5);

/// What a start knows of an array's past.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Past {
    /// Sequence number of the superblock before the start; `None` for a new array.
    pub(crate) found: Option<u64>,
    /// Whether a row log shows that no write was interrupted, or has completed those that were.
    pub(crate) rows_agree: bool,
    /// The array computes the parity of the blocks from this one on, because nobody has done so.
    pub(crate) unsynced_from: Option<u64>,
}

/// Reads the record of an array that starts from its current members, and writes it again. The members have the new
/// superblock already. Returns the marks for the channels, and the slots of members that fail to write the record. The array
/// starts nevertheless.
pub(crate) async fn start(
    array: &Array,
    members: &Slots,
    layout: &Layout,
    past: Past,
) -> Option<(Marks, Vec<u8>)> {
    let found = past.found;
    let (_, first) = members.first()?;
    if !array.has_superblock || layout.level().may_lose(layout.members()) == 0 {
        return None;
    }
    if !has_room(array, first) {
        warn!(
            "array {}: its data begin below 1 MiB, so it has no room for a write-intent record",
            array.name
        );
        return None;
    }
    let region_shift = region_shift_of(layout, first.data_block_size().into());
    let mut newest: Option<Intent> = None;
    let mut is_unreadable = false;
    for (_, member) in members.iter().filter(|_| found.is_some()) {
        let records = read(member).await;
        is_unreadable |= records.iter().any(|record| record.is_err());
        for record in records.into_iter().flatten().flatten() {
            // The array may have grown since, so that its regions are larger now.
            let Some(record) = record.with_region_shift(region_shift) else { continue };
            if record.array == array.uuid
                && newest.as_ref().is_none_or(|other| other.generation < record.generation)
            {
                newest = Some(record);
            }
        }
    }
    let is_new = newest.is_none();
    let mut intent = newest.unwrap_or(Intent {
        array: array.uuid,
        region_shift,
        generation: 0,
        sequence: 0,
        has_ended_in_order: false,
        was_used_by_another: false,
        away: Vec::new(),
        regions: Regions::default(),
    });
    // Another program has started the array since then and set no marks, or a newer record cannot be read. So nobody knows
    // what absent members lack.
    let is_of_another = found.is_some_and(|found| is_new || found != intent.sequence);
    if is_of_another || is_unreadable {
        intent.away.clear();
    }
    let ended_in_order = intent.has_ended_in_order;
    // After a crash, nobody knows which regions clients wrote since another program used the array. So from now on, the marks are
    // evidence of interrupted writes.
    intent.was_used_by_another &= ended_in_order || past.rows_agree;
    let agree = ended_in_order || past.rows_agree && !intent.was_used_by_another;
    let mut torn = if agree { Regions::default() } else { intent.regions.clone() };
    if is_of_another && has_copies(layout, members) {
        let why = if layout.level().has_log() {
            "its write-intent record is older than its superblock"
        } else {
            "another program has used it and does not record a clean stop"
        };
        info!("array {}: {why}, so all copies will be made equal", array.name);
        let last = layout.num_blocks().saturating_sub(1) >> region_shift;
        (0..=last).for_each(|region| _ = intent.regions.insert(region));
        torn = intent.regions.clone();
        intent.was_used_by_another = past.rows_agree || !layout.level().has_log();
    }
    if let Some(first) = past.unsynced_from {
        let num_blocks = layout.num_blocks();
        let unsynced =
            regions_of(Range::new(first, num_blocks - first.min(num_blocks)), region_shift);
        intent.was_used_by_another = past.rows_agree || torn.is_empty();
        for region in unsynced {
            intent.regions.insert(region);
            torn.insert(region);
        }
    }
    intent.was_used_by_another &= !torn.is_empty();
    let marks = Marks::new(&intent, &torn);
    array.intent.replace(Some(intent));
    // Both places may still have the record of an older array with the same UUID.
    let copies = if is_new { 2 } else { 1 };
    let mut failed = Vec::new();
    for _ in 0..copies {
        failed = update(array, members, |_| {}).await.0;
    }
    Some((marks, failed))
}

/// The regions of blocks.
pub(crate) fn regions_of(blocks: Range, region_shift: u8) -> std::ops::RangeInclusive<u64> {
    let last = blocks.lba + blocks.nblocks.saturating_sub(1);
    blocks.lba >> region_shift..=last >> region_shift
}

/// log2 of the blocks of a region of an array.
pub(crate) fn region_shift_of(layout: &Layout, block_size: u64) -> u8 {
    region_shift(layout.num_blocks(), REGION_LEN_MIN / block_size.max(1))
}

/// Whether the present members hold copies of each other. An array with parity has none while a member is missing.
fn has_copies(layout: &Layout, members: &Slots) -> bool {
    let needed = if layout.level().parities() > 0 { usize::from(layout.members()) } else { 2 };
    members.len() >= needed
}

/// Whether the data of all members begin behind the record. A superblock may have wrong numbers.
fn has_room(array: &Array, member: &Member) -> bool {
    let least = DATA_OFFSET_MIN.div_ceil(member.data_block_size().max(1).into());
    let slots = array.slots.borrow();
    // An empty slot may have no offset yet. Its next member gets an offset that is large enough.
    slots.iter().all(|slot| slot.data_offset == 0 || slot.data_offset >= least)
}

/// Changes the record and writes it to these members, if the array has a record. Returns the slots on which the write failed,
/// and the lock of the record.
pub(crate) async fn update(
    array: &Array,
    members: &Slots,
    change: impl FnOnce(&mut Intent),
) -> (Vec<u8>, Guard) {
    let guard = array.intent_lock.lock("write intent").await;
    let record = array.intent.borrow_mut().as_mut().map(|intent| {
        intent.has_ended_in_order = false;
        change(intent);
        intent.generation += 1;
        intent.sequence = array.superblock.borrow().as_ref().map_or(0, |known| known.sequence);
        let [even, odd] = INTENT_OFFSETS;
        let is_even = intent.generation.is_multiple_of(2);
        (intent.to_bytes(), if is_even { [even, odd] } else { [odd, even] })
    });
    let Some((bytes, places)) = record else { return (Vec::new(), guard) };
    let put = async |(slot, member): &(u8, Rc<Member>)| {
        // If the first place has a bad block, write the record to the second place.
        for at in places {
            match superblock::put(member, at, &bytes).await {
                Ok(()) => return None,
                Err(error) => warn!(
                    "the write-intent record cannot be written at byte {at} of bdev {}: {error}",
                    member.name()
                ),
            }
        }
        Some(*slot)
    };
    let failed = task::join_all(members.iter().map(put)).await;
    (failed.into_iter().flatten().collect(), guard)
}

/// The newest record of an array on a member.
pub(crate) async fn newest_on(member: &Member, array: [u8; 16]) -> Option<Intent> {
    let records = read(member).await.into_iter().flatten().flatten();
    let records = records.filter(|record| record.array == array);
    records.max_by_key(|record| record.generation)
}

/// The records on a member; an error for a copy that cannot be read.
async fn read(member: &Member) -> Vec<Result<Option<Intent>>> {
    let mut found = Vec::new();
    for at in INTENT_OFFSETS {
        let block_size = u64::from(member.io.block_size());
        let nblocks = (INTENT_LEN as u64).div_ceil(block_size);
        let bytes = member.read(Range::new(at / block_size, nblocks)).await;
        found.push(bytes.map(|bytes| Intent::parse(&bytes)));
    }
    found
}

/// The block of the array below which a bdev lacks only regions with a mark; 0 if the array must rebuild the whole bdev.
/// `found` is the bdev's own superblock.
pub(crate) fn current_below(
    array: &Array,
    slot: u8,
    candidate: &Candidate,
    found: &Superblock,
) -> u64 {
    let info_uuid = candidate.member.info.uuid();
    let (intent, known) = (array.intent.borrow(), array.superblock.borrow());
    let (Some(intent), Some(known)) = (&*intent, &*known) else { return 0 };
    let (Some(away), Some(own)) = (intent.away(slot), found.member(slot)) else { return 0 };
    let is_listed = known.member(slot).is_some_and(|entry| entry.uuid == info_uuid);
    let is_configured = own.state == MemberState::Configured;
    // The member must have left with this superblock, or during its rebuild. If it has another superblock, another program has used it
    // since.
    let is_as_left = if is_configured {
        found.sequence == away.left_at
    } else {
        (away.left_at + 1..=known.sequence).contains(&found.sequence)
    };
    // Data at another offset does not fit this array.
    let is_same = own.uuid == info_uuid && own.data_offset == candidate.data_offset;
    if is_listed && is_as_left && is_same { away.current_below } else { 0 }
}

/// Notes that members leave. They were current until the superblock with the sequence number `left_at`. The record of a
/// member whose rebuild has not ended stays as it is.
pub(crate) fn note_left(intent: &mut Intent, slots: &[u8], left_at: u64) {
    for slot in slots {
        if intent.away(*slot).is_none() {
            intent.set_away(Away { slot: *slot, left_at, current_below: u64::MAX });
        }
    }
}

/// Sets the marks that channels wait for, until no channel waits.
pub(crate) async fn record_wanted(shared: &Arc<Shared>) {
    let Some(marks) = &shared.marks else { return };
    loop {
        let wanted = marks.take_wanted();
        let is_last = wanted.is_none();
        let is_good = match wanted {
            None => true,
            Some(regions) => record(shared, marks, &regions).await,
        };
        shared.resume_unrecorded(is_good);
        if is_last {
            return;
        }
    }
}

/// Sets marks. Returns whether they are durable. The array removes members that fail to write the record.
async fn record(shared: &Arc<Shared>, marks: &Marks, regions: &Regions) -> bool {
    loop {
        let Some(array) = arrays::of_shared(shared) else { return false };
        let members = array.members();
        let insert =
            |intent: &mut Intent| regions.iter().for_each(|r| _ = intent.regions.insert(r));
        let (failed, guard) = update(&array, &members, insert).await;
        report_failures(shared, &members, &failed);
        if !failed.is_empty() {
            // A member that hangs must leave the lanes before the writes continue.
            drop(guard);
            drop(array.lock.lock("write intent").await);
            // Meanwhile, `clear_idle` may have cleared marks that no channel uses yet.
            let is_on_record = array
                .intent
                .borrow()
                .as_ref()
                .is_some_and(|intent| regions.iter().all(|r| intent.regions.contains(r)));
            if !is_on_record {
                continue;
            }
        }
        let is_current = |slot: u8| {
            array.slots.borrow().get(usize::from(slot)).is_some_and(|slot| !slot.is_target)
        };
        // Members that cannot be written leave the array, so the next start finds this record on those that stay.
        let is_durable =
            members.iter().any(|(slot, _)| !failed.contains(slot) && is_current(*slot));
        if is_durable {
            regions.iter().for_each(|region| marks.set_recorded(region, true));
        }
        return is_durable;
    }
}

/// Removes the members that failed to write the record.
pub(crate) fn report_failures(shared: &Arc<Shared>, members: &Slots, failed: &[u8]) {
    for (_, member) in members.iter().filter(|(slot, _)| failed.contains(slot)) {
        members::report_failure(shared, member.serial, Status::IO_ERROR);
    }
}

/// Whether the task for the marks of all arrays runs.
static IS_LOOKED_AFTER: OnApp<Cell<bool>> = OnApp::new();

/// Begins the upkeep of the marks of an array that has started: makes copies that may differ equal, and clears marks. One task starts
/// this periodically for all arrays. `[app thread]`
pub(crate) fn look_after(app: &App, array: &Rc<Array>) {
    if marks_of(array).is_none() {
        return;
    }
    mend_soon(app, array);
    let Ok(is_running) = IS_LOOKED_AFTER.get_or_init(Cell::default) else { return };
    if is_running.replace(true) {
        return;
    }
    match task::spawn_app(app, "raid write intent", look_after_all) {
        Ok(task) => task.detach(),
        Err(error) => {
            is_running.set(false);
            warn!("no write-intent marks are cleared until another array starts: {error}");
        }
    }
}

async fn look_after_all(app: &App) {
    loop {
        task::sleep(CLEAR_EVERY).await;
        let arrays = arrays::in_state(Some(State::Online));
        let marked = arrays.iter().filter_map(|array| Some((array, marks_of(array)?)));
        let marked: Vec<_> = marked.collect();
        if marked.is_empty() {
            break;
        }
        for (array, shared) in marked {
            mend_soon(app, array);
            clear_soon(app, array, shared);
            // Yield between arrays: the tasks of many arrays at once would use up the thread's limit of tasks.
            task::yield_now().await;
        }
    }
    if let Some(is_running) = IS_LOOKED_AFTER.get() {
        is_running.set(false);
    }
}

/// Clears idle marks in a separate task for each array, so that a member that hangs does not delay other arrays.
fn clear_soon(app: &App, array: &Rc<Array>, shared: Arc<Shared>) {
    let has_marks = shared.marks.as_ref().is_some_and(Marks::has_recorded);
    if !has_marks || array.is_clearing.replace(true) {
        return;
    }
    let cleared = Rc::clone(array);
    let run = async move |_: &App| {
        if let Err(error) = clear_idle(&cleared, &shared).await {
            warn!("array {}: its write-intent marks are not cleared: {error}", cleared.name);
        }
        cleared.is_clearing.set(false);
    };
    match task::spawn_app(app, "raid clear marks", run) {
        Ok(task) => task.detach(),
        // The next round tries again.
        Err(_) => array.is_clearing.set(false),
    }
}

/// What the channels of an array share, if it has a record.
fn marks_of(array: &Array) -> Option<Arc<Shared>> {
    array.shared.borrow().clone().filter(|shared| shared.marks.is_some())
}

/// Whether a task makes copies of an array equal, and the state of the array at the last attempt.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mending {
    is_running: bool,
    /// The superblock's sequence number, the number of tears, and whether all members were current then. The superblock calls a rebuilt
    /// member current a moment before the array does.
    tried: Option<(Option<u64>, u64, bool)>,
}

/// Makes the copies of torn regions equal in a task. After a failure, the next attempt comes when the members change or another
/// region is torn.
fn mend_soon(app: &App, array: &Rc<Array>) {
    let Some(shared) = marks_of(array) else { return };
    let Some(marks) = shared.marks.as_ref().filter(|marks| marks.has_torn()) else { return };
    let sequence = array.superblock.borrow().as_ref().map(|known| known.sequence);
    let tried = Some((sequence, marks.tears(), is_whole(array)));
    let before = array.mending.get();
    if before.is_running || before.tried == tried {
        return;
    }
    array.mending.set(Mending { is_running: true, tried });
    let (mended, shared) = (Rc::clone(array), Arc::clone(&shared));
    let run = async move |app: &App| {
        if let Some(marks) = &shared.marks {
            mend(app, &mended, &shared, marks).await;
        }
        mended.mending.set(Mending { is_running: false, tried });
    };
    match task::spawn_app(app, "raid mend", run) {
        Ok(task) => task.detach(),
        // The next round tries again.
        Err(_) => array.mending.set(Mending::default()),
    }
}

/// Makes the copies of torn regions equal. Reads of a region go to the first copy until that is done.
async fn mend(app: &App, array: &Rc<Array>, shared: &Arc<Shared>, marks: &Marks) {
    let torn = marks.torn();
    let has_parity = shared.layout().level().parities() > 0;
    if has_parity && !is_whole(array) {
        // A missing member leaves nothing to compare. Its rebuild computes its blocks.
        if !marks.may_compute_all() {
            warn!(
                "array {}: a crash interrupted writes in {} regions, and a member is missing; its blocks there cannot be read",
                array.name,
                torn.len()
            );
        }
        return;
    }
    info!("array {}: copies in {} regions may differ; making them equal", array.name, torn.len());
    let mut pace = copy::Pace::new();
    for region in torn {
        if has_parity && !is_whole(array) {
            // A member left. The next attempt comes when the members change again.
            return;
        }
        let tears = marks.tears();
        let mended = mend_region(app, array, shared, region << marks.region_shift, &mut pace).await;
        if shared.is_offline() {
            return;
        }
        match mended {
            // If a write fails meanwhile, its region stays torn, and the next round makes the copies equal.
            Ok(()) => marks.set_mended(region, tears),
            Err(error) => {
                warn!("array {}: copies in region {region} may differ: {error}", array.name);
            }
        }
        task::yield_now().await;
    }
    if marks.has_torn() {
        return;
    }
    info!("array {}: all copies are equal again", array.name);
    if marks.end_use_by_another() {
        let members = array.members();
        let note = |intent: &mut Intent| intent.was_used_by_another = false;
        let (failed, _guard) = update(array, &members, note).await;
        report_failures(shared, &members, &failed);
    }
}

/// Makes the copies of a region equal. The region begins at block `first`.
///
/// # Errors
/// The reason why the copies may still differ.
async fn mend_region(
    app: &App,
    array: &Array,
    shared: &Shared,
    first: u64,
    pace: &mut copy::Pace,
) -> Result<()> {
    let region_shift = shared.marks.as_ref().map_or(0, |marks| marks.region_shift);
    let end = shared.layout().num_blocks().min(first + (1 << region_shift));
    let window = 1_u64 << region_shift.min(11);
    let mut lba = first;
    while lba < end && !shared.is_offline() {
        let blocks = Range::new(lba, window.min(end - lba));
        pace.wait_for(array, blocks).await;
        copy::with_held(app, array, blocks, async || copy::make_equal(array, blocks).await).await?;
        lba += blocks.nblocks;
    }
    Ok(())
}

/// Clears the marks of regions that no client wrote since the last call, if all members are current.
///
/// # Errors
/// The reason why the marks stay.
pub(crate) async fn clear_idle(array: &Array, shared: &Arc<Shared>) -> Result<()> {
    let changes_wait = array.lock.lock("clear write intent").await;
    let Some(marks) = &shared.marks else { return Ok(()) };
    // Copies may differ where a write failed and a lane has not sent it again yet, or where a repair has not ended.
    if marks.take_failure() || shared.repairs.is_busy() {
        return Ok(());
    }
    let idle = marks.take_idle();
    if idle.is_empty() || !is_whole(array) || shared.is_offline() {
        return Ok(());
    }
    // From here on, a write to these regions waits for a new mark.
    idle.iter().for_each(|region| marks.set_recorded(*region, false));
    let quiet = async {
        shared.switch(|_| {}).await?;
        drop(changes_wait);
        if !shared.drain().await {
            // A member hangs, or hung before its removal.
            return Err(Error::new(errno::EBUSY, "I/O that began earlier has not ended"));
        }
        let changes_wait = array.lock.lock("clear write intent").await;
        flush(&array.members()).await?;
        Ok(changes_wait)
    };
    let flushed = quiet.await;
    // If a write failed or a member left meanwhile, the marks stay.
    if flushed.is_err() || marks.take_failure() || !is_whole(array) {
        idle.iter().for_each(|region| marks.set_recorded(*region, true));
        return flushed.map(drop);
    }
    let members = array.members();
    let clear = |intent: &mut Intent| {
        let unused = idle.iter().filter(|region| !marks.is_recorded(**region));
        unused.for_each(|region| intent.regions.remove(*region));
    };
    let (failed, _guard) = update(array, &members, clear).await;
    report_failures(shared, &members, &failed);
    Ok(())
}

/// Records that an array has stopped cleanly. If all members are current, clears all marks except those of torn regions.
pub(crate) async fn close(array: &Array, shared: &Shared) {
    let Some(marks) = &shared.marks else { return };
    let members = array.members();
    let is_whole = is_whole(array);
    // No lane sent a write again that failed at the end, or its repair did not run. Without one of its members, an array
    // with parity has nothing to make equal, and the client knows that the write failed.
    let has_copies = is_whole || shared.layout().level().parities() == 0;
    let may_differ = has_copies && (marks.take_failure() || shared.repairs.is_busy());
    if may_differ || flush(&members).await.is_err() {
        return;
    }
    let end = |intent: &mut Intent| {
        if is_whole {
            intent.regions = Regions::default();
            marks.torn().into_iter().for_each(|region| _ = intent.regions.insert(region));
        }
        intent.has_ended_in_order = !marks.has_torn();
    };
    let _ = update(array, &members, end).await;
}

/// Overwrites the record of an array whose superblocks were cleared, so that no later array with the same UUID uses it.
pub(crate) async fn erase(array: &Array) {
    if array.intent.take().is_none() {
        return;
    }
    for (_, member) in array.members() {
        for at in INTENT_OFFSETS {
            if let Err(error) = superblock::put(&member, at, &[0; INTENT_LEN]).await {
                warn!("the write-intent record on bdev {} stays: {error}", member.name());
            }
        }
    }
}

/// Whether all members are present and current.
fn is_whole(array: &Array) -> bool {
    array.slots.borrow().iter().all(|slot| slot.member.is_some() && !slot.is_target)
}

async fn flush(members: &Slots) -> Result<()> {
    let flushes = task::join_all(members.iter().map(async |(_, member)| member.flush().await));
    flushes.await.into_iter().collect()
}
