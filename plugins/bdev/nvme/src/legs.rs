//! The legs of one channel, and which of them takes the next command.

use std::sync::Arc;

use crate::leg::{Key, Leg};
use crate::options::{Policy, Selector};
use crate::path::{Access, Path};
use crate::paths::Spread;
use crate::view::LegView;

/// The legs, in the order of the paths; those that are leaving come last.
pub(crate) struct Legs {
    all: Vec<Leg>,
    spread: Spread,
    /// The leg that takes the next command. `queue_depth` does not use it.
    current: Option<usize>,
    /// How many more commands the current leg takes in its turn.
    turn_left: u32,
}

impl Legs {
    pub(crate) fn new(spread: Spread) -> Self {
        Self { all: Vec::new(), spread, current: None, turn_left: 0 }
    }

    /// The queue for the next command, by its key; `None` when no leg is open. `outstanding`: how many commands a queue has.
    pub(crate) fn pick(&mut self, mut outstanding: impl FnMut(Key) -> usize) -> Option<Key> {
        match (self.spread.policy, self.spread.selector) {
            (Policy::ActivePassive, _) => {}
            (Policy::ActiveActive, Selector::RoundRobin) => {
                if self.turn_left == 0 {
                    self.advance();
                }
                self.turn_left = self.turn_left.saturating_sub(1);
            }
            (Policy::ActiveActive, Selector::QueueDepth) => {
                let best = self.best()?;
                let open = self.all.iter().filter(|leg| leg.is_open() && leg.access == best);
                return open.filter_map(|leg| leg.key).min_by_key(|key| outstanding(*key));
            }
        }
        self.all.get(self.current?)?.key
    }

    /// Chooses the current leg again, after any change of a leg.
    pub(crate) fn choose(&mut self) {
        let best = self.best();
        let is_best = |leg: &Leg| leg.is_open() && Some(leg.access) == best;
        let current = self.current.filter(|index| self.all.get(*index).is_some_and(is_best));
        let stays = self.spread.stays || self.spread.policy == Policy::ActiveActive;
        self.current = match current {
            Some(index) if stays => Some(index),
            _ => self.all.iter().position(is_best),
        };
    }

    /// Gives the next of the best legs its turn.
    fn advance(&mut self) {
        self.turn_left = self.spread.min_io.max(1);
        let best = self.best();
        let count = self.all.len();
        let start = self.current.map_or(0, |index| index + 1);
        let next = (start..start + count).map(|index| index % count.max(1)).find(|index| {
            self.all.get(*index).is_some_and(|leg| leg.is_open() && Some(leg.access) == best)
        });
        self.current = next;
    }

    /// The best access that an open leg has.
    fn best(&self) -> Option<Access> {
        self.all.iter().filter(|leg| leg.is_open()).map(|leg| leg.access).max()
    }

    /// Follows the list of paths. `place`: the place of a leg's path in it.
    pub(crate) fn arrange(&mut self, spread: Spread, place: impl Fn(&Leg) -> Option<usize>) {
        self.spread = spread;
        self.turn_left = 0;
        for leg in &mut self.all {
            leg.is_leaving = place(leg).is_none();
        }
        // Sorting may have moved the current leg.
        let current = self.current.and_then(|index| self.all.get(index)).map(|leg| leg.id);
        self.all.sort_by_key(|leg| place(leg).unwrap_or(usize::MAX));
        self.current = self.all.iter().position(|leg| Some(leg.id) == current);
    }

    pub(crate) fn push(&mut self, leg: Leg) {
        self.all.push(leg);
    }

    /// Takes out the first leg for which `wanted` holds.
    pub(crate) fn take(&mut self, wanted: impl FnMut(&Leg) -> bool) -> Option<Leg> {
        let index = self.all.iter().position(wanted)?;
        self.current = None;
        Some(self.all.remove(index))
    }

    pub(crate) fn by_id(&mut self, id: u64) -> Option<&mut Leg> {
        self.all.iter_mut().find(|leg| leg.id == id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Leg> {
        self.all.iter()
    }

    /// The legs, as others see them.
    pub(crate) fn views(&self) -> impl Iterator<Item = LegView> {
        let best = self.best();
        let is_current = move |index, leg: &Leg| match self.spread.policy {
            Policy::ActivePassive => self.current == Some(index),
            Policy::ActiveActive => leg.is_open() && Some(leg.access) == best,
        };
        self.all.iter().enumerate().map(move |(index, leg)| LegView {
            path: Arc::clone(&leg.path),
            is_current: is_current(index, leg),
            is_connected: leg.key.is_some(),
            is_accessible: leg.access > Access::Inaccessible,
        })
    }

    pub(crate) fn has(&self, path: &Arc<Path>) -> bool {
        self.all.iter().any(|leg| !leg.is_leaving && Arc::ptr_eq(&leg.path, path))
    }
}
