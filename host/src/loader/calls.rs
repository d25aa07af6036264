//! RPC calls that plugins are answering. The plugin that got a call answers it, exactly once.

use crate::rpc::Responder;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The maximum number of calls in flight for one instance.
const CALLS_PER_OWNER_MAX: usize = 1024;

/// The calls in flight of all plugins. Any thread.
#[derive(Debug, Default)]
pub(super) struct OpenCalls {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    open: HashMap<u64, (u64, Responder)>,
}

impl OpenCalls {
    /// Records a call for `owner` and returns its number. When there are too many calls, it returns
    /// the responder instead.
    pub(super) fn open(&self, owner: u64, responder: Responder) -> Result<u64, Responder> {
        let mut inner = self.lock();
        if inner.open.values().filter(|(of, _)| *of == owner).count() >= CALLS_PER_OWNER_MAX {
            return Err(responder);
        }
        inner.last += 1;
        let number = inner.last;
        inner.open.insert(number, (owner, responder));
        Ok(number)
    }

    /// Removes and returns the responder of a call that `owner` is answering.
    pub(super) fn take(&self, owner: u64, number: u64) -> Option<Responder> {
        let mut inner = self.lock();
        if inner.open.get(&number)?.0 != owner {
            return None;
        }
        inner.open.remove(&number).map(|(_, responder)| responder)
    }

    /// The number of calls that `owner` is answering.
    pub(super) fn count(&self, owner: u64) -> usize {
        self.lock().open.values().filter(|(of, _)| *of == owner).count()
    }

    /// Removes and returns all calls of `owner`. Dropping the responders answers them with an
    /// internal error.
    pub(super) fn take_all(&self, owner: u64) -> Vec<Responder> {
        let mut inner = self.lock();
        let numbers: Vec<u64> =
            inner.open.iter().filter(|(_, (of, _))| *of == owner).map(|(n, _)| *n).collect();
        numbers.iter().filter_map(|n| inner.open.remove(n)).map(|(_, r)| r).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics between two changes of the table.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_taken_once_and_only_by_its_owner() {
        let calls = OpenCalls::default();
        let number = calls.open(1, Responder::new(|_| {})).unwrap();
        assert!(calls.take(2, number).is_none());
        assert_eq!(calls.count(1), 1);
        assert!(calls.take(1, number).is_some());
        assert!(calls.take(1, number).is_none());
    }

    #[test]
    fn an_owner_has_a_limit_and_others_have_theirs() {
        let calls = OpenCalls::default();
        for _ in 0..CALLS_PER_OWNER_MAX {
            calls.open(1, Responder::new(|_| {})).unwrap();
        }
        assert!(calls.open(1, Responder::new(|_| {})).is_err());
        assert!(calls.open(2, Responder::new(|_| {})).is_ok());
        assert_eq!(calls.take_all(1).len(), CALLS_PER_OWNER_MAX);
    }
}
