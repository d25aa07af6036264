//! What had arrived before is heard before something is judged.
//!
//! A poll group looks at all of its sockets in each round of its thread. After a message to it has been answered twice it has had a
//! whole round, and whatever its sockets held at the first message, commands and the ends of connections, has come to the app thread.

use super::App;
use std::collections::BTreeMap;
use std::fmt;

type Then = Box<dyn FnOnce(&App)>;

/// What waits for poll groups.
#[derive(Default)]
pub(super) struct Rounds {
    waiting: BTreeMap<u64, Waiting>,
    last: u64,
}

struct Waiting {
    /// Answers that are still to come.
    left: usize,
    then: Then,
}

impl fmt::Debug for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rounds").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

impl App {
    /// Runs `then` once these poll groups have looked at their sockets; at once when there are none.
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

    /// A group has answered for the first time: its round begins.
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
