//! The channels' view of the write-intent record: channels may write to regions that have a durable mark.

use crate::intent;
use crate::shared::Shared;
use drivebay_sdk::App;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::task;
use drivebay_spec_raid::{Intent, REGIONS_MAX, Regions};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The marks of an array. A channel looks at them before each write; only the app thread sets and clears them.
#[derive(Debug)]
pub(crate) struct Marks {
    /// log2 of the blocks of a region.
    pub(crate) region_shift: u8,
    /// Regions whose marks are durable.
    recorded: Box<[AtomicU64]>,
    /// Regions that channels wrote since the last [`take_idle`](Self::take_idle).
    written: Box<[AtomicU64]>,
    wanted: Mutex<Wanted>,
    /// Regions whose copies may differ although no write to these regions is in flight.
    torn: Box<[AtomicU64]>,
    /// How many regions are torn.
    num_torn: AtomicU64,
    /// How often blocks were torn since the array started. It is locked while regions are torn or repaired.
    tears: Mutex<u64>,
    /// Whether regions are torn because another program used the array, or because nobody has computed their parity yet. This is no
    /// evidence of an interrupted write.
    was_used_by_another: AtomicBool,
    /// Whether a write or flush has failed on a member since the last [`take_failure`](Self::take_failure).
    has_failed: AtomicBool,
}

/// Regions whose marks channels wait for.
#[derive(Debug, Default)]
struct Wanted {
    regions: Regions,
    /// Whether a task records them.
    is_running: bool,
}

impl Marks {
    /// The marks of `intent` are durable. The copies of `torn` may differ.
    pub(crate) fn new(intent: &Intent, torn: &Regions) -> Self {
        let region_shift = intent.region_shift;
        // The array may grow, so there is room for all regions of a record: less than 4 KiB for each set.
        let words = usize::try_from(REGIONS_MAX / 64 + 1).unwrap_or(0);
        let zeroes = || (0..words).map(|_| AtomicU64::new(0)).collect();
        let marks = Self {
            region_shift,
            recorded: zeroes(),
            written: zeroes(),
            wanted: Mutex::default(),
            torn: zeroes(),
            num_torn: AtomicU64::new(0),
            tears: Mutex::new(0),
            was_used_by_another: AtomicBool::new(intent.was_used_by_another),
            has_failed: AtomicBool::new(false),
        };
        intent.regions.iter().for_each(|region| marks.set_recorded(region, true));
        torn.iter().for_each(|region| marks.set_region_torn(region));
        marks
    }

    /// Whether copies of any region may differ although no write to it is in flight.
    #[inline]
    pub(crate) fn has_torn(&self) -> bool {
        self.num_torn.load(Ordering::Relaxed) != 0
    }

    /// Whether copies of these blocks may differ. Reads go to the first copy then.
    #[inline]
    pub(crate) fn is_torn(&self, blocks: Range) -> bool {
        self.has_torn() && self.regions(blocks).any(|region| self.is_region_torn(region))
    }

    pub(crate) fn is_region_torn(&self, region: u64) -> bool {
        at(&self.torn, region).is_some_and(|word| word.load(Ordering::Acquire) & bit(region) != 0)
    }

    /// The torn regions, the smallest first.
    pub(crate) fn torn(&self) -> Vec<u64> {
        let mut torn = Vec::new();
        for (number, word) in (0..).zip(&self.torn) {
            let word = word.load(Ordering::Acquire);
            torn.extend((0..64).filter(|bit| word >> bit & 1 != 0).map(|bit| number * 64 + bit));
        }
        torn
    }

    /// Records that copies of these blocks may differ, and that neither I/O nor a repair will make them equal. Their marks stay until they
    /// are equal. `[any thread]`
    pub(crate) fn set_torn(&self, blocks: Range) {
        let mut tears = self.lock_tears();
        *tears += 1;
        self.regions(blocks).for_each(|region| self.set_region_torn(region));
        drop(tears);
        self.note_failure();
    }

    fn set_region_torn(&self, region: u64) {
        let Some(word) = at(&self.torn, region) else { return };
        if word.fetch_or(bit(region), Ordering::AcqRel) & bit(region) == 0 {
            self.num_torn.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Notes that all copies of a region are equal, unless blocks were torn since [`tears`](Self::tears) returned `tears`:
    /// they may be blocks of this region that were equal before. `[app thread]`
    pub(crate) fn set_mended(&self, region: u64, tears: u64) {
        let now = self.lock_tears();
        let Some(word) = at(&self.torn, region).filter(|_| *now == tears) else { return };
        if word.fetch_and(!bit(region), Ordering::AcqRel) & bit(region) != 0 {
            self.num_torn.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// How often [`set_torn`](Self::set_torn) was called.
    pub(crate) fn tears(&self) -> u64 {
        *self.lock_tears()
    }

    fn lock_tears(&self) -> MutexGuard<'_, u64> {
        self.tears.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether blocks may be computed from the other strips of their rows. After an interrupted write they may not, because
    /// parity and data do not agree then.
    #[inline]
    pub(crate) fn may_compute(&self, blocks: Range) -> bool {
        !self.is_torn(blocks) || self.was_used_by_another.load(Ordering::Relaxed)
    }

    /// As [`may_compute`](Self::may_compute), for all blocks.
    pub(crate) fn may_compute_all(&self) -> bool {
        !self.has_torn() || self.was_used_by_another.load(Ordering::Relaxed)
    }

    /// Notes that all copies are equal after another program used the array. Returns whether one did. `[app thread]`
    pub(crate) fn end_use_by_another(&self) -> bool {
        self.was_used_by_another.swap(false, Ordering::Relaxed)
    }

    /// Notes that a write or flush failed on a member, so that copies may differ until a lane sends it again. `[reactor]`
    pub(crate) fn note_failure(&self) {
        self.has_failed.store(true, Ordering::Release);
    }

    /// Whether a write or flush has failed on a member since the last call. `[app thread]`
    pub(crate) fn take_failure(&self) -> bool {
        self.has_failed.swap(false, Ordering::AcqRel)
    }

    /// The regions of blocks.
    pub(crate) fn regions(&self, blocks: Range) -> RangeInclusive<u64> {
        intent::regions_of(blocks, self.region_shift)
    }

    /// Notes blocks whose parity nobody has computed. Their marks are durable.
    /// `[app thread]`
    pub(crate) fn set_unsynced(&self, blocks: Range, is_no_evidence: bool) {
        self.was_used_by_another.store(is_no_evidence, Ordering::Relaxed);
        for region in self.regions(blocks) {
            self.set_region_torn(region);
            self.set_recorded(region, true);
        }
    }

    /// Whether a channel may write blocks. Notes that it does. `[reactor]`
    #[inline]
    pub(crate) fn may_write(&self, blocks: Range) -> bool {
        self.regions(blocks).all(|region| {
            let (Some(recorded), Some(written)) =
                (at(&self.recorded, region), at(&self.written, region))
            else {
                return false;
            };
            let bit = bit(region);
            if written.load(Ordering::Relaxed) & bit == 0 {
                written.fetch_or(bit, Ordering::Relaxed);
            }
            recorded.load(Ordering::Acquire) & bit != 0
        })
    }

    pub(crate) fn is_recorded(&self, region: u64) -> bool {
        at(&self.recorded, region)
            .is_some_and(|word| word.load(Ordering::Acquire) & bit(region) != 0)
    }

    /// Sets whether channels may write to a region. `[app thread]`
    pub(crate) fn set_recorded(&self, region: u64, may_write: bool) {
        let Some(word) = at(&self.recorded, region) else { return };
        if may_write {
            word.fetch_or(bit(region), Ordering::Release);
        } else {
            word.fetch_and(!bit(region), Ordering::AcqRel);
        }
    }

    /// The regions with a mark that are not torn and that no channel wrote since the last call. `[app thread]`
    pub(crate) fn take_idle(&self) -> Vec<u64> {
        let mut idle = Vec::new();
        let words = self.recorded.iter().zip(&self.written).zip(&self.torn);
        for (number, ((recorded, written), torn)) in (0..).zip(words) {
            let busy = written.swap(0, Ordering::AcqRel) | torn.load(Ordering::Acquire);
            let rest = recorded.load(Ordering::Acquire) & !busy;
            idle.extend((0..64).filter(|bit| rest >> bit & 1 != 0).map(|bit| number * 64 + bit));
        }
        idle
    }

    /// Whether any region has a mark. `[app thread]`
    pub(crate) fn has_recorded(&self) -> bool {
        self.recorded.iter().any(|word| word.load(Ordering::Acquire) != 0)
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The regions that channels wait for; `None` ends the task.
    pub(crate) fn take_wanted(&self) -> Option<Regions> {
        let mut wanted = self.wanted();
        let regions = std::mem::take(&mut wanted.regions);
        wanted.is_running = !regions.is_empty();
        wanted.is_running.then_some(regions)
    }
}

/// Asks the app thread to record that a channel will write blocks. Returns whether the app thread got the request.
/// `[reactor]`
pub(crate) fn want(shared: &Arc<Shared>, marks: &Marks, blocks: Range) -> bool {
    {
        let mut wanted = marks.wanted();
        for region in marks.regions(blocks).filter(|region| !marks.is_recorded(*region)) {
            wanted.regions.insert(region);
        }
        if std::mem::replace(&mut wanted.is_running, true) {
            return true;
        }
    }
    let recording = Recording { shared: Arc::clone(shared), has_ended: false };
    let record = async move |_: &App| recording.run().await;
    match task::spawn_on_app("raid write intent", record) {
        Ok(task) => {
            task.detach();
            true
        }
        Err(_) => false,
    }
}

/// The task that records marks. If it is dropped before its end, because the app thread runs too many tasks or has
/// ended, the writes that wait for it fail.
struct Recording {
    shared: Arc<Shared>,
    has_ended: bool,
}

impl Recording {
    async fn run(mut self) {
        intent::record_wanted(&self.shared).await;
        self.has_ended = true;
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Some(marks) = self.shared.marks.as_ref().filter(|_| !self.has_ended) {
            *marks.wanted() = Wanted::default();
            self.shared.resume_unrecorded(false);
        }
    }
}

fn at(words: &[AtomicU64], region: u64) -> Option<&AtomicU64> {
    words.get(usize::try_from(region / 64).ok()?)
}

fn bit(region: u64) -> u64 {
    1 << (region % 64)
}
