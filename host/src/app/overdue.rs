//! Answers calls that delete or unload something that is still in use.
//!
//! A bdev is gone when its last I/O has completed, and a plugin when it has quiesced. If one of them
//! leaks an I/O, that never happens. After a time limit the caller gets an answer that says what the
//! call waits for. The deletion itself continues.

use crate::rpc::{Call, Dispatcher, Responder};
use drivebay_spec_jsonrpc::RpcError;
use serde::Deserialize;
use std::fmt;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Returns what the call of a method about `name` waits for; `None` when it is only slow. Any
/// thread.
pub(super) type WaitsFor = fn(method: &str, name: &str) -> Option<String>;

/// A dispatcher in front of another one.
pub(super) struct Overdue {
    behind: Arc<dyn Dispatcher>,
    limit: Duration,
    waiting: Mutex<Sender<Waiting>>,
}

type Shared = Mutex<Option<Responder>>;

/// A call that may become overdue.
struct Waiting {
    method: String,
    name: String,
    due: Instant,
    /// Cannot be upgraded any more once the call is answered.
    responder: Weak<Shared>,
}

impl Overdue {
    /// Answers a call after `limit` if `waits_for` then gives a reason.
    pub(super) fn new(behind: Arc<dyn Dispatcher>, limit: Duration, waits_for: WaitsFor) -> Self {
        let (waiting, received) = mpsc::channel();
        let thread = std::thread::Builder::new().name("overdue".into());
        if let Err(error) = thread.spawn(move || watch(&received, waits_for)) {
            tracing::warn!("cannot start the thread that answers overdue calls: {error}");
        }
        Self { behind, limit, waiting: Mutex::new(waiting) }
    }
}

impl Dispatcher for Overdue {
    fn call(&self, mut call: Call) {
        let Some(name) = name_of(&call) else { return self.behind.call(call) };
        let shared = Arc::new(Mutex::new(Some(call.responder)));
        let (method, due) = (call.method.clone(), Instant::now() + self.limit);
        let waiting = Waiting { method, name, due, responder: Arc::downgrade(&shared) };
        call.responder = Responder::new(move |outcome| {
            if let Some(responder) = take(&shared) {
                responder.answer(outcome);
            }
        });
        let sender = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // If the thread could not be created, the call has no time limit.
        let _ = sender.send(waiting);
        drop(sender);
        self.behind.call(call);
    }
}

/// The name of what a call deletes or unloads.
fn name_of(call: &Call) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    let is_meant = call.method.ends_with("_delete") || call.method == "plugin_unload";
    let named = is_meant.then(|| serde_json::from_str::<Named>(call.params_text()).ok())?;
    named.map(|named| named.name)
}

fn take(shared: &Shared) -> Option<Responder> {
    shared.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// All calls have the same limit, so the oldest call is due first.
fn watch(received: &Receiver<Waiting>, waits_for: WaitsFor) {
    while let Ok(Waiting { method, name, due, responder }) = received.recv() {
        if responder.strong_count() > 0 {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let Some(shared) = responder.upgrade() else { continue };
        if let Some(why) = waits_for(&method, &name)
            && let Some(responder) = take(&shared)
        {
            tracing::warn!("{method} {name}: {why}");
            let message = format!("{name}: {why}; the removal continues when that has ended");
            responder.error(RpcError::of_errno(libc::ETIMEDOUT, message));
        }
    }
}

impl fmt::Debug for Overdue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overdue").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::{Outcome, Peer};
    use serde_json::value::to_raw_value;

    /// Keeps every call unanswered.
    struct Keeps(Mutex<Vec<Call>>);

    impl Dispatcher for Keeps {
        fn call(&self, call: Call) {
            self.0.lock().unwrap().push(call);
        }
    }

    fn call(dispatcher: &Overdue, method: &str, name: &str) -> Receiver<Outcome> {
        let (sender, outcomes) = mpsc::channel();
        dispatcher.call(Call {
            method: method.into(),
            params: to_raw_value(&serde_json::json!({"name": name})).ok(),
            peer: Peer::local(),
            responder: Responder::new(move |outcome| sender.send(outcome).unwrap()),
        });
        outcomes
    }

    #[test]
    fn a_deletion_that_waits_for_an_io_is_answered_with_that_and_another_is_left_alone() {
        let keeps = Arc::new(Keeps(Mutex::new(Vec::new())));
        let waits_for: WaitsFor = |_, name| (name == "leaky").then(|| "an I/O is in flight".into());
        let overdue = Overdue::new(Arc::clone(&keeps) as _, Duration::from_millis(1), waits_for);
        let slow = call(&overdue, "bdev_x_delete", "slow");
        let leaky = call(&overdue, "bdev_x_delete", "leaky");
        let error = leaky.recv().unwrap().unwrap_err();
        assert_eq!(error.code, i64::from(-libc::ETIMEDOUT));
        assert!(error.message.contains("leaky: an I/O is in flight"), "{error}");
        // The inner dispatcher answers both calls. The late answer to the overdue call is discarded.
        keeps.0.lock().unwrap().drain(..).for_each(|call| call.responder.ok(&true));
        assert_eq!(slow.recv().unwrap().unwrap().get(), "true");
        assert!(leaky.try_recv().is_err());
    }
}
