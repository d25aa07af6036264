//! The gate makes COMPARE AND WRITE atomic: it waits until no command writes to the unit, and later write commands wait for it.
//!
//! An admitted task never waits for a task behind it, because it never enters a second time.

use std::collections::VecDeque;

/// The transport's identifier of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskKey(pub u64);

/// How a command passes the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Together with other writers.
    Shared,
    /// Alone.
    Alone,
}

/// A unit's gate for commands that write.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    shared: u32,
    alone: bool,
    waiting: VecDeque<(TaskKey, Pass)>,
}

impl Gate {
    /// Returns whether the task is admitted now. Otherwise it waits for its turn.
    pub(crate) fn enter(&mut self, key: TaskKey, pass: Pass) -> bool {
        if self.waiting.is_empty() && self.admit(pass) {
            return true;
        }
        self.waiting.push_back((key, pass));
        false
    }

    /// Removes a task that the gate had admitted.
    pub(crate) fn leave(&mut self, pass: Pass) {
        match pass {
            Pass::Shared => self.shared = self.shared.saturating_sub(1),
            Pass::Alone => self.alone = false,
        }
    }

    /// Removes a task that waits.
    pub(crate) fn forget(&mut self, key: TaskKey) {
        self.waiting.retain(|(other, _)| *other != key);
    }

    /// Lets the next task in, if its turn has come.
    pub(crate) fn next(&mut self) -> Option<TaskKey> {
        let (key, pass) = *self.waiting.front()?;
        if !self.admit(pass) {
            return None;
        }
        self.waiting.pop_front();
        Some(key)
    }

    fn admit(&mut self, pass: Pass) -> bool {
        let is_free = !self.alone && (pass == Pass::Shared || self.shared == 0);
        match pass {
            _ if !is_free => {}
            Pass::Shared => self.shared += 1,
            Pass::Alone => self.alone = true,
        }
        is_free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_alone_waits_for_writers_and_holds_up_later_ones() {
        let mut gate = Gate::default();
        let [a, b, c, d] = [1, 2, 3, 4].map(TaskKey);
        assert!(gate.enter(a, Pass::Shared));
        assert!(!gate.enter(b, Pass::Alone));
        assert!(!gate.enter(c, Pass::Shared) && !gate.enter(d, Pass::Shared));
        assert_eq!(gate.next(), None);
        gate.leave(Pass::Shared);
        assert_eq!((gate.next(), gate.next()), (Some(b), None));
        gate.leave(Pass::Alone);
        assert_eq!((gate.next(), gate.next(), gate.next()), (Some(c), Some(d), None));
    }

    #[test]
    fn one_that_gives_up_holds_nobody_up() {
        let mut gate = Gate::default();
        let [a, b, c] = [1, 2, 3].map(TaskKey);
        assert!(gate.enter(a, Pass::Shared));
        assert!(!gate.enter(b, Pass::Alone) && !gate.enter(c, Pass::Shared));
        gate.forget(b);
        assert_eq!((gate.next(), gate.next()), (Some(c), None));
    }
}
