//! Work that waits until poll groups have checked their sockets. A decision then knows everything that had arrived before.
//!
//! A poll group checks all of its sockets in each round of its thread. A group that has answered two messages in succession has completed
//! a whole round in between. Then the commands and ends of connections that were in its sockets at the first message have come to the app
//! thread.

use super::AppState;
use std::collections::BTreeMap;
use std::fmt;

type Then = Box<dyn FnOnce(&AppState)>;

/// The work that waits for poll groups.
#[derive(Default)]
pub(super) struct Rounds {
    waiting: BTreeMap<u64, Waiting>,
    last: u64,
}

struct Waiting {
    /// Number of missing answers.
    left: usize,
    then: Then,
}

impl fmt::Debug for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rounds").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

impl AppState {
    /// Runs `then` when these poll groups have checked their sockets; immediately when there are none.
    pub(super) fn after_rounds(&self, groups: &[usize], then: impl FnOnce(&Self) + 'static) {
        if groups.is_empty() {
            return then(self);
        }
        let number = {
            let mut rounds = self.rounds.borrow_mut();
            rounds.last += 1;
            let number = rounds.last;
            rounds.waiting.insert(number, Waiting { left: groups.len(), then: Box::new(then) });
            number
        };
        for group in groups.iter().copied() {
            self.in_group(group, move |state| {
                state.tell_app(move |app| app.is_heard(number, group));
            });
        }
    }

    /// A group has given its first answer. From now on it must complete one whole round.
    fn is_heard(&self, number: u64, group: usize) {
        self.in_group(group, move |state| state.tell_app(move |app| app.round_is_over(number)));
    }

    fn round_is_over(&self, number: u64) {
        let waiting = {
            let mut rounds = self.rounds.borrow_mut();
            let Some(waiting) = rounds.waiting.get_mut(&number) else { return };
            waiting.left -= 1;
            if waiting.left > 0 {
                return;
            }
            rounds.waiting.remove(&number)
        };
        if let Some(waiting) = waiting {
            (waiting.then)(self);
        }
    }
}
