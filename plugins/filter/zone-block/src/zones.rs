//! The state of each zone, which all threads share without a lock.

use drivebay_sdk::bdev::{Range, Zone, ZoneAction, ZoneKind, ZoneState};
use drivebay_sdk::prelude::{Error, Result};
use std::sync::atomic::{AtomicU64, Ordering};

/// Maximum number of zones. Each takes 8 bytes of memory.
const ZONES_MAX: u64 = 1 << 22;

/// The zones of a disk.
#[derive(Debug, Default)]
pub(crate) struct Zones {
    size: u64,
    capacity: u64,
    zones: Vec<Shared>,
}

/// One zone, in one word: the number of its written blocks, and its state in the low 4 bits.
#[derive(Debug)]
struct Shared(AtomicU64);

#[derive(Clone, Copy)]
struct Written {
    blocks: u64,
    state: ZoneState,
}

impl Zones {
    /// Divides `num_blocks` blocks into zones with `capacity` blocks each. All zones are full. Blocks at the end that make no
    /// whole zone are not used.
    ///
    /// # Errors
    /// `EINVAL` when not even one zone fits, or when there would be too many.
    pub(crate) fn new(num_blocks: u64, capacity: u64) -> Result<Self> {
        let size = capacity.checked_next_power_of_two().unwrap_or(u64::MAX);
        let count = num_blocks / size;
        if !(1..=ZONES_MAX).contains(&count) {
            let allowed =
                format!("a size that makes 1 to {ZONES_MAX} zones of {num_blocks} blocks");
            return Err(Error::invalid("zone_capacity", capacity, allowed));
        }
        let full = Written { blocks: capacity, state: ZoneState::Full };
        let zones = (0..count).map(|_| Shared(full.word().into())).collect();
        Ok(Self { size, capacity, zones })
    }

    /// Blocks per zone: a power of two.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Blocks of all zones.
    pub(crate) fn num_blocks(&self) -> u64 {
        self.size * self.zones.len() as u64
    }

    /// The zones from the one that begins at `first` on.
    pub(crate) fn report(&self, first: u64) -> impl Iterator<Item = Zone> {
        let starts = (first..self.num_blocks()).step_by(usize::try_from(self.size).unwrap_or(1));
        starts.filter_map(|lba| {
            let Written { blocks, state } = self.zone(lba)?.written();
            Some(Zone {
                lba,
                capacity: self.capacity,
                write_pointer: lba + blocks,
                state,
                kind: ZoneKind::SequentialWriteRequired,
            })
        })
    }

    /// Whether the blocks can be read: they are in one zone, within its capacity.
    pub(crate) fn can_read(&self, lba: u64, nblocks: u64) -> bool {
        let within = lba % self.size;
        self.zone(lba).is_some() && within + nblocks <= self.capacity
    }

    /// Moves the write pointer for a write of these blocks. Returns false when the zone does not take it.
    pub(crate) fn write(&self, lba: u64, nblocks: u64) -> bool {
        let within = lba % self.size;
        self.zone(lba).and_then(|zone| zone.take(nblocks, self.capacity, Some(within))).is_some()
    }

    /// Moves the write pointer for an append to the zone that begins at `lba`. Returns the first block to write, or `None` when
    /// the zone does not take it.
    pub(crate) fn append(&self, lba: u64, nblocks: u64) -> Option<u64> {
        Some(lba + self.zone(lba)?.take(nblocks, self.capacity, None)?)
    }

    /// The blocks that can be written of the zone that begins at `lba`.
    pub(crate) fn blocks(&self, lba: u64) -> Range {
        Range::new(lba, self.capacity)
    }

    /// Applies an action to the zone that begins at `lba`. Returns whether the zone has another state now, or `None` when its
    /// state does not allow the action.
    pub(crate) fn act(&self, lba: u64, action: ZoneAction) -> Option<bool> {
        self.zone(lba)?.change(action, self.capacity, allows)
    }

    /// Applies an action to all zones whose state allows it (Zoned Namespace Command Set 1.1, section 3.4.3, Select All).
    /// Returns false for an action that zones never take.
    pub(crate) fn act_on_all(&self, action: ZoneAction) -> bool {
        for zone in &self.zones {
            // A zone whose state does not allow the action stays as it is.
            let _ = zone.change(action, self.capacity, allows_for_all);
        }
        action != ZoneAction::Offline
    }

    fn zone(&self, lba: u64) -> Option<&Shared> {
        self.zones.get(usize::try_from(lba / self.size).ok()?)
    }
}

/// Whether one zone in that state takes the action.
fn allows(action: ZoneAction, state: ZoneState) -> bool {
    use ZoneState::{Closed, ExplicitlyOpen, Full, ImplicitlyOpen};
    match action {
        ZoneAction::Reset | ZoneAction::Finish => true,
        ZoneAction::Open => state != Full,
        ZoneAction::Close => matches!(state, ImplicitlyOpen | ExplicitlyOpen | Closed),
        ZoneAction::Offline => false,
    }
}

/// As `allows`, for a zone that is not named.
fn allows_for_all(action: ZoneAction, state: ZoneState) -> bool {
    use ZoneState::{Closed, Empty, ExplicitlyOpen, ImplicitlyOpen};
    match action {
        ZoneAction::Reset => state != Empty,
        ZoneAction::Finish => matches!(state, ImplicitlyOpen | ExplicitlyOpen | Closed),
        ZoneAction::Open => state == Closed,
        ZoneAction::Close => matches!(state, ImplicitlyOpen | ExplicitlyOpen),
        ZoneAction::Offline => false,
    }
}

impl Shared {
    fn written(&self) -> Written {
        Written::of(self.0.load(Ordering::Acquire))
    }

    /// Moves the write pointer by `nblocks`, if it is at `expected`. Returns where it was.
    fn take(&self, nblocks: u64, capacity: u64, expected: Option<u64>) -> Option<u64> {
        let taken = self.update(|Written { blocks, state }| {
            let is_there = expected.is_none_or(|expected| expected == blocks);
            if !is_there || state == ZoneState::Full || nblocks > capacity - blocks {
                return None;
            }
            let state = match state {
                _ if blocks + nblocks == capacity => ZoneState::Full,
                ZoneState::ExplicitlyOpen => state,
                _ => ZoneState::ImplicitlyOpen,
            };
            Some(Written { blocks: blocks + nblocks, state })
        });
        taken.map(|before| before.blocks)
    }

    /// Applies an action. Returns whether the zone has changed, or `None` when its state does not allow the action.
    fn change(
        &self,
        action: ZoneAction,
        capacity: u64,
        allows: fn(ZoneAction, ZoneState) -> bool,
    ) -> Option<bool> {
        let after = |Written { blocks, state }| {
            let (blocks, state) = match action {
                _ if !allows(action, state) => return None,
                ZoneAction::Reset => (0, ZoneState::Empty),
                ZoneAction::Finish => (capacity, ZoneState::Full),
                ZoneAction::Open => (blocks, ZoneState::ExplicitlyOpen),
                ZoneAction::Close => (blocks, ZoneState::Closed),
                ZoneAction::Offline => return None,
            };
            Some(Written { blocks, state })
        };
        let before = self.update(after)?;
        Some(after(before).is_some_and(|after| after.state != before.state))
    }

    /// Replaces the zone by what `next` makes of it. Returns what it was, or `None` when `next` refuses.
    fn update(&self, next: impl Fn(Written) -> Option<Written>) -> Option<Written> {
        let word = |word| next(Written::of(word)).map(Written::word);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, word).ok().map(Written::of)
    }
}

impl Written {
    fn of(word: u64) -> Self {
        let [low, ..] = word.to_le_bytes();
        let state = ZoneState::from_number(low & 0xf).unwrap_or(ZoneState::Full);
        Self { blocks: word >> 4, state }
    }

    fn word(self) -> u64 {
        self.blocks << 4 | self.state as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ZoneAction::{Close, Finish, Open, Reset};
    use ZoneState::{Closed, Empty, ExplicitlyOpen, Full, ImplicitlyOpen};

    /// Three zones of 8 blocks with room for 6, and 7 blocks that make no zone.
    fn zones() -> Zones {
        Zones::new(31, 6).unwrap()
    }

    fn state(zones: &Zones, lba: u64) -> (u64, ZoneState) {
        let zone = zones.report(lba).next().unwrap();
        (zone.write_pointer, zone.state)
    }

    #[test]
    fn zones_are_whole_powers_of_two_and_full_at_first() {
        let zones = zones();
        assert_eq!((zones.size(), zones.num_blocks()), (8, 24));
        let starts: Vec<_> = zones.report(8).map(|zone| (zone.lba, zone.capacity)).collect();
        assert_eq!(starts, [(8, 6), (16, 6)]);
        assert_eq!(state(&zones, 8), (14, Full));
        assert!(!zones.write(8, 1));
        for (num_blocks, capacity) in [(7, 8), (u64::MAX, 1), (8, 1 << 63), (8, u64::MAX)] {
            assert!(Zones::new(num_blocks, capacity).is_err());
        }
    }

    #[test]
    fn a_zone_takes_writes_at_its_write_pointer_up_to_its_capacity() {
        let zones = zones();
        assert_eq!((zones.act(8, Reset), zones.blocks(8)), (Some(true), Range::new(8, 6)));
        assert_eq!(state(&zones, 8), (8, Empty));
        assert!(!zones.write(9, 1), "not at the write pointer");
        assert!(zones.write(8, 2));
        assert_eq!(state(&zones, 8), (10, ImplicitlyOpen));
        assert_eq!(zones.append(8, 3), Some(10));
        assert_eq!(zones.append(8, 2), None, "one block is left");
        assert!(zones.write(13, 1));
        assert_eq!(state(&zones, 8), (14, Full));
        assert_eq!(zones.append(8, 1), None);
        assert_eq!(zones.append(24, 1), None, "no such zone");
    }

    #[test]
    fn reads_stay_within_the_capacity_of_one_zone() {
        let zones = zones();
        assert!(zones.can_read(8, 6) && zones.can_read(13, 1));
        assert!(!zones.can_read(13, 2) && !zones.can_read(6, 4) && !zones.can_read(24, 1));
    }

    #[test]
    fn actions_lead_from_state_to_state() {
        let zones = zones();
        assert_eq!(zones.act(0, Open), None, "a full zone does not open");
        assert_eq!(zones.act(0, Close), None);
        assert_eq!(zones.act(0, Reset), Some(true));
        assert_eq!(zones.act(0, Reset), Some(false), "it was empty already");
        assert_eq!(zones.act(0, Close), None, "an empty zone does not close");
        assert_eq!(zones.act(0, Open), Some(true));
        assert!(zones.write(0, 1));
        assert_eq!(state(&zones, 0), (1, ExplicitlyOpen));
        assert_eq!(zones.act(0, Close), Some(true));
        assert_eq!(state(&zones, 0), (1, Closed));
        assert!(zones.write(1, 1));
        assert_eq!(state(&zones, 0), (2, ImplicitlyOpen));
        assert_eq!(zones.act(0, Finish), Some(true));
        assert_eq!(state(&zones, 0), (6, Full));
        assert_eq!(zones.act(0, ZoneAction::Offline), None);
    }

    #[test]
    fn an_action_on_all_zones_skips_those_in_other_states() {
        let zones = zones();
        assert_eq!(state(&zones, 0).1, Full);
        for _ in 0..2 {
            assert!(zones.act_on_all(Reset));
            assert_eq!(state(&zones, 0), (0, Empty));
        }
        assert!(zones.write(8, 1));
        for (action, expected) in [(Close, Closed), (Open, ExplicitlyOpen), (Finish, Full)] {
            assert!(zones.act_on_all(action));
            assert_eq!(state(&zones, 8).1, expected);
            assert_eq!(state(&zones, 0), (0, Empty));
        }
        assert!(!zones.act_on_all(ZoneAction::Offline));
    }
}
