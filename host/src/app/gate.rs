//! Holds calls back while the host starts and while it stops.

use crate::rpc::{Call, Dispatcher};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A dispatcher in front of another one. It is closed at first. The server's limits of connections
/// and outstanding calls bound the number of calls that it holds.
pub(super) struct Gate {
    behind: Arc<dyn Dispatcher>,
    /// The calls that wait; `None` = the gate is open.
    held: Mutex<Option<Vec<Call>>>,
}

impl Gate {
    pub(super) fn new(behind: Arc<dyn Dispatcher>) -> Self {
        Self { behind, held: Mutex::new(Some(Vec::new())) }
    }

    /// Passes on the waiting calls in their order, and from now on every call.
    pub(super) fn open(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that no call overtakes another.
        held.take().into_iter().flatten().for_each(|call| self.behind.call(call));
    }

    /// From now on calls wait. Their connections close before they are answered.
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
