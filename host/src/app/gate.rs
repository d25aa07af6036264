//! Holds calls back while the host starts and when it ends.

use crate::rpc::{Call, Dispatcher};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A dispatcher before another. Closed at first. What it holds is bounded by the server's limits of
/// connections and outstanding calls.
pub(super) struct Gate {
    behind: Arc<dyn Dispatcher>,
    /// `None` = open.
    held: Mutex<Option<Vec<Call>>>,
}

impl Gate {
    pub(super) fn new(behind: Arc<dyn Dispatcher>) -> Self {
        Self { behind, held: Mutex::new(Some(Vec::new())) }
    }

    /// Lets through what waited, in its order, and from now on everything.
    pub(super) fn open(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that nothing overtakes.
        held.take().into_iter().flatten().for_each(|call| self.behind.call(call));
    }

    /// From now on calls wait; their connections close before they are answered.
    pub(super) fn close(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.get_or_insert_default();
    }
}

impl Dispatcher for Gate {
    fn call(&self, call: Call) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match held.as_mut() {
            Some(held) => held.push(call),
            None => {
                drop(held);
                self.behind.call(call);
            }
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::{Peer, Responder};
    use std::sync::mpsc;

    struct Names(Mutex<mpsc::Sender<String>>);

    impl Dispatcher for Names {
        fn call(&self, call: Call) {
            self.0.lock().unwrap().send(call.method).unwrap();
        }
    }

    fn call(method: &str) -> Call {
        let responder = Responder::new(|_| {});
        Call { method: method.into(), params: None, peer: Peer::local(), responder }
    }

    #[test]
    fn calls_wait_until_it_opens_and_pass_in_order() {
        let (sender, names) = mpsc::channel();
        let gate = Gate::new(Arc::new(Names(Mutex::new(sender))));
        gate.call(call("a"));
        gate.call(call("b"));
        assert!(names.try_recv().is_err());
        gate.open();
        gate.call(call("c"));
        assert_eq!(names.try_iter().collect::<Vec<_>>(), ["a", "b", "c"]);
        gate.close();
        gate.call(call("d"));
        assert!(names.try_recv().is_err());
    }
}
